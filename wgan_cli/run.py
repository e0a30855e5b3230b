"""The run folder and its only owner: settings, records, checkpoints, pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from . import DivergedError, UsageError, WganError, checkpoint, curve, report, sample
from .config import TrainConfig
from .console import Console
from .data.dataset import Dataset
from .files import copy, newest_of, numbered_of, replacing, sweep
from .state import State, check_same, save_state

# What a run writes into its folder beside config.json, which vouches for it.
_WRITTEN = re.compile(
    r"ckpt(-\d{6,})?\.pt|metrics\.jsonl|curve\.png|report\.html|samples/(\d{6,}|newest)\.png|tensorboard/events\.out\..+"
)


def check_folder(out: Path, config: TrainConfig, force: bool = False) -> None:
    """UsageError if `out` holds what is not of a run of wgan, with its names, or a run that cannot go on under these
    settings, with each difference."""
    written = _written(out)
    foreign = sorted(name for name in (*written, "config.json") if name != "ckpt.pt" and os.path.lexists(out / name))
    if foreign and not _config(out):
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise UsageError(
            f"{out}: holds {', '.join(foreign[:5])}{more}, and no config.json of a run of wgan; choose another -o"
        )
    newest = newest_of(out)
    if newest and not force:
        check_same(out, checkpoint.load(newest)[1], config)


def config_of(out: Path) -> TrainConfig | None:
    """The settings of the run in `out`, None where there is none to go on with."""
    newest = newest_of(out)
    return (_config(out) or checkpoint.load(newest)[1]) if newest else None


def _written(out: Path) -> list[str]:
    """The files of `out` that have names which a run gives."""
    found = [*out.glob("*"), *out.glob("samples/*"), *out.glob("tensorboard/*")]
    return [name for file in found if _WRITTEN.fullmatch(name := file.relative_to(out).as_posix())]


def _config(out: Path) -> TrainConfig | None:
    """The config.json of `out`, where it is one that this tool wrote: all of its settings, and such as make a run."""
    try:
        values = json.loads((out / "config.json").read_bytes())
        config = TrainConfig.from_dict(values)
        return config if values.keys() >= {"variant", "arch", "latent", "n_critic", "sample_every"} else None
    except (OSError, ValueError, TypeError, AttributeError, UsageError):
        return None


class Follower:
    """The run of a process that another one writes for: it has no folder."""

    saved: int | None = None  # step of the newest checkpoint

    @property
    def kept(self) -> str:
        """What is left of the run where it diverges."""
        return ""

    def prepare(self, config: TrainConfig, fresh: bool) -> None:
        pass

    def keep_records(self, step: int) -> float:
        return 0.0

    def recording(self, state: State, tensorboard: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def write(self, record: dict[str, Any]) -> None:
        pass

    def save(self, state: State, dataset: Dataset, numbered: bool) -> None:
        pass

    def write_grid(self, state: State, numbered: bool) -> None:
        pass

    def check_there(self, step: int) -> None:
        pass

    def draw(self) -> None:
        pass

    def draw_missing(self) -> None:
        pass


class Run(Follower):
    """A run folder, begun or gone on with. What is written goes through here, and so does the way out."""

    def __init__(self, out: Path, console: Console, html: bool = False) -> None:
        self.out, self.console = out, console
        self.newest, self.log = out / "ckpt.pt", out / "metrics.jsonl"
        # What is drawn, and how; what fails is drawn no more.
        self.drawn: dict[Path, Callable[[Path], None]] = {out / "curve.png": curve.write}
        self.drawn |= {out / "report.html": report.write} if html else {}
        self._records: BinaryIO
        self._board: Any = None
        for folder in filter(Path.is_dir, (out, out / "samples")):
            sweep(folder)  # what a killed run was about to write

    @property
    def kept(self) -> str:
        """What is left of the run where it diverges."""
        return (
            "nothing had been saved yet" if self.saved is None else f"{self.newest} of step {self.saved} is untouched"
        )

    def prepare(self, config: TrainConfig, fresh: bool) -> None:
        """Make the folder. A fresh run removes what one that was begun there before has written, and nothing else."""
        check_folder(self.out, config, force=True)
        (self.out / "samples").mkdir(parents=True, exist_ok=True)
        for name in _written(self.out) if fresh else ():
            (self.out / name).unlink()
        with replacing(self.out / "config.json") as content:
            content.write(json.dumps(config.as_dict(), indent=2).encode() + b"\n")

    def keep_records(self, step: int) -> float:
        """Drop the records and the grids after `step`, which will be made again, and a half line; the seconds trained
        so far."""
        kept, seconds = [], 0.0
        for line in self.log.read_bytes().split(b"\n") if self.log.exists() else []:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["step"] <= step:
                kept.append(line + b"\n")
                seconds = record.get("seconds", seconds)
        with replacing(self.log) as file:
            file.writelines(kept)
        for grid in self.out.glob("samples/*.png"):
            if re.fullmatch(r"\d{6,}", grid.stem) and int(grid.stem) > step:
                grid.unlink()
        return float(seconds)

    @contextmanager
    def recording(self, state: State, tensorboard: bool) -> Iterator[None]:
        """Records may be written. Divergence is the last one's verdict."""
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            # What was written after this step, and will be again, is hidden.
            self._board = SummaryWriter(str(self.out / "tensorboard"), purge_step=state.step + 1)
        with open(self.log, "ab") as self._records, closing(self._board) if self._board else nullcontext():
            try:
                yield
            except DivergedError as error:
                self.write({"step": error.step, "verdict": "diverged"})
                self.draw()
                raise

    def write(self, record: dict[str, Any]) -> None:
        """Append a record to metrics.jsonl, and where wanted to TensorBoard's files."""
        self._records.write(json.dumps(record).encode() + b"\n")
        self._records.flush()
        if self._board:
            for name, value in record.items():
                if name not in ("step", "verdict"):
                    self._board.add_scalar(name, value, record["step"])

    def save(self, state: State, dataset: Dataset, numbered: bool) -> None:
        """Write ckpt.pt, after the records up to it, and with --keep a numbered copy; the oldest beyond N go.

        Later ones stay, of a run that someone took back. ckpt.pt comes last: a run killed amid this does it again.
        """
        os.fsync(self._records.fileno())
        keep = state.config.keep if numbered else 0
        path = self.out / f"ckpt-{state.step:06}.pt" if keep else self.newest
        save_state(path, state, dataset)
        if keep:
            found = numbered_of(self.out)
            for step in sorted(step for step in found if step <= state.step)[:-keep]:
                found[step].unlink()
            copy(path, self.newest)
        self.saved = state.step

    def write_grid(self, state: State, numbered: bool) -> None:
        """64 samples of the same latents each time, those of `wgan sample --seed` with the run's seed, as
        samples/newest.png, and with the step as a name where they are to stay; one class after the other."""
        network = state.ema or state.generator
        network.eval()
        rows, classes = sample.latents(state.config.seed, range(64), state.config.latent), state.config.classes
        newest = self.out / "samples" / "newest.png"
        path = newest.with_name(f"{state.step:06}.png") if numbered else newest
        sample.write_samples(network, rows, str(path), y=sample.spread(64, [1] * len(classes)))
        if numbered:
            copy(path, newest)
        if network is state.generator:
            network.train()

    def check_there(self, step: int) -> None:
        """WganError where the folder was moved or removed, which a grid would make anew."""
        if not (self.out / "config.json").exists():
            raise WganError(f"{self.out} is gone: it was moved or removed during training; step {step} is not saved")

    def draw(self) -> None:
        """Draw curve.png, and report.html where wanted. Whatever fails in that costs a notice, never a run."""
        for file, write in [*self.drawn.items()]:
            try:
                write(self.out)
            except Exception as error:
                del self.drawn[file]
                lacks = isinstance(error, ImportError)
                why = f"drawing it {curve.INSTALL}" if lacks else f"{type(error).__name__}: {error}"
                self.console.notice(f"no {file}: {why}")

    def draw_missing(self) -> None:
        """Draw what a kill has kept from being drawn after the last record."""
        logged = self.log.stat().st_mtime if self.log.exists() else -1.0
        if logged >= 0 and any(not file.exists() or file.stat().st_mtime < logged for file in self.drawn):
            self.draw()


def record(state: State, figures: dict[str, Tensor], rate: float, seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl. rate: batches a second."""
    config = state.config
    record: dict[str, Any] = {"step": state.step, "images": state.batches * config.batch}
    record |= {name: value.item() for name, value in figures.items()}
    if config.clip is not None:
        weights = [p.detach() for p in state.critic.parameters()]
        at_limit = sum((w.abs() >= config.clip).sum() for w in weights)
        record["clip_fraction"] = float(at_limit) / sum(w.numel() for w in weights)
    return record | {"images_per_second": round(rate * config.batch, 2), "seconds": round(seconds, 3)}
