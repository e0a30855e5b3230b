"""The run folder: settings, records, checkpoints, pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from . import DivergedError, UsageError, checkpoint, curve, sample
from .config import TrainConfig
from .data.dataset import Dataset
from .files import link, replacing
from .state import State, check_same, save_state

# What a run writes into its folder, its settings apart.
_WRITTEN = re.compile(r"ckpt(-\d+)?\.pt|metrics\.jsonl|curve\.png|samples/\d+\.png|tensorboard/events\.out\..+")


def check_folder(out: Path, config: TrainConfig) -> None:
    """UsageError, naming each difference, if `out` holds a run that cannot go on under these settings."""
    path = out / "ckpt.pt"
    if path.exists():
        check_same(out, checkpoint.load(path)[1], config)


@contextmanager
def records(
    log: Path, state: State, tensorboard: bool
) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[], None]]]:
    """What takes a record, for metrics.jsonl and where wanted TensorBoard, and what brings the former to the disk.

    Divergence is the last record's verdict.
    """
    board = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        # What was written after this step, and will be again, is hidden.
        board = SummaryWriter(str(log.parent / "tensorboard"), purge_step=state.step + 1)
    with open(log, "ab") as file, closing(board) if board else nullcontext():

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            if board:
                for name, value in record.items():
                    if name not in ("step", "verdict"):
                        board.add_scalar(name, value, record["step"])

        try:
            yield write, lambda: os.fsync(file.fileno())
        except DivergedError:
            write({"step": state.step, "verdict": "diverged"})
            curve.write(log.parent)
            raise


def record(state: State, figures: dict[str, Tensor], seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    config = state.config
    images = state.batches * config.batch
    record: dict[str, Any] = {"step": state.step, "images": images}
    record |= {name: value.item() for name, value in figures.items()}
    if config.clip is not None:
        weights = [p.detach() for p in state.critic.parameters()]
        at_limit = sum((w.abs() >= config.clip).sum() for w in weights)
        record["clip_fraction"] = float(at_limit) / sum(w.numel() for w in weights)
    return record | {"images_per_second": round(images / seconds, 2), "seconds": round(seconds, 3)}


def make_folder(out: Path, config: TrainConfig, fresh: bool) -> None:
    """Make the run folder; of a run that was begun there before, remove what it wrote, and nothing else."""
    if fresh and (out / "metrics.jsonl").exists() and not (out / "config.json").exists():
        raise UsageError(f"{out}: holds a metrics.jsonl that is not of a run of wgan; choose another -o")
    (out / "samples").mkdir(parents=True, exist_ok=True)
    for file in [*out.iterdir(), *out.glob("samples/*"), *out.glob("tensorboard/*")]:
        name = file.relative_to(out).as_posix()
        if fresh and (out / "config.json").exists() and _WRITTEN.fullmatch(name):
            file.unlink()
    with replacing(out / "config.json") as content:
        content.write(json.dumps(config.as_dict(), indent=2).encode() + b"\n")


def keep_records(log: Path, step: int) -> float:
    """Drop the records after `step`, which will be made again, and a half line; the seconds trained so far."""
    kept, seconds = [], 0.0
    for line in log.read_bytes().split(b"\n") if log.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= step:
            kept.append(line + b"\n")
            seconds = record.get("seconds", seconds)
    with replacing(log) as file:
        file.writelines(kept)
    return float(seconds)


def save(out: Path, state: State, dataset: Dataset) -> None:
    """Write ckpt.pt, and with --keep a numbered copy, of which the oldest beyond that number go.

    ckpt.pt comes last: a run that is killed amid this does it again.
    """
    newest, keep = out / "ckpt.pt", state.config.keep
    path = out / f"ckpt-{state.step:06}.pt" if keep else newest
    save_state(path, state, dataset)
    if keep:
        numbered = {int(m[1]): file for file in out.iterdir() if (m := re.fullmatch(r"ckpt-(\d+)\.pt", file.name))}
        for step in sorted(numbered)[:-keep]:
            numbered[step].unlink()
        link(path, newest)


def write_grid(state: State, path: Path) -> None:
    """64 samples of the same latents each time, those of `wgan sample --seed` with the run's seed."""
    network = state.ema or state.generator
    network.eval()
    rows = sample.latents(state.config.seed, range(64), state.config.latent)
    sample.write_samples(network, rows, str(path))
    if network is state.generator:
        network.train()
