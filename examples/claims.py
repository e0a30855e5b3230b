"""What the experiments share: runs over seeds that are kept, figures of all runs with a limit, a verdict, a picture.

Each experiment is a script that is called as

    python NAME.py OUT [--seeds N] [--seed-base N] [--processes N] [--quick]

It leaves OUT/NAME/RUN.json of each run, which is not done again, and OUT/NAME.png, .txt and .json.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from wgan_cli.config import TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.data.cache import prepare
from wgan_cli.data.dataset import Dataset, unit
from wgan_cli.data.source import open_source
from wgan_cli.files import replacing
from wgan_cli.metrics import pyramid_distances
from wgan_cli.sample import generate, latents
from wgan_cli.state import State, new_state
from wgan_cli.step import critic_step, generator_step

CPU = torch.device("cpu")
MOST = 0.8  # a claim shows if it does in so many of the runs, each by itself: 4 of 5, or all of 3
CHANCE = 0.05  # how likely a count of runs may be by chance alone
SIGMAS = 3  # a sample within three deviations of a mode is one of that mode
COVERED = 0.2  # a mode is covered by a fifth of its fair share of the samples
COMPARED = 400  # samples, and as many held-out digits
DISTANCE = "sliced Wasserstein distance\nto held-out digits (×1000)"
DIGITS = Path(__file__).with_name("digits.zip")


# ---- Runs


class Plan(NamedTuple):
    """How an experiment is done."""

    name: str
    out: Path
    seeds: list[int]
    processes: int
    quick: bool

    def short(self, quick: Any, full: Any) -> Any:
        return quick if self.quick else full


def plan(name: str, seeds: int) -> Plan:
    """As the command line has it; `seeds`: how many, unless it says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for runs, pictures and verdicts")
    parser.add_argument("--seeds", type=int, help=f"how many [default: {seeds}]")
    parser.add_argument("--seed-base", type=int, default=0, help="the first seed [default: 0]")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side [default: 2]")
    parser.add_argument("--quick", action="store_true", help="the shortest form: that it works, not what it shows")
    words = parser.parse_args()
    count = words.seeds or (1 if words.quick else seeds)
    return Plan(name, words.out, [words.seed_base + i for i in range(count)], words.processes, words.quick)


def measured(plan: Plan, work: Callable[..., Any], jobs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What `work(*arguments)`, a function of the script, gives for each job; runs done before are read.

    Each run has one thread, so that last bits do not depend on how many there are side by side.
    """
    folder = plan.out / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {name: json.loads(json.dumps(arguments)) for name, arguments in jobs.items()}
    found: dict[str, Any] = {}
    for name, arguments in wanted.items():
        file = folder / f"{name}.json"
        if file.exists() and (kept := json.loads(file.read_text()))["arguments"] == arguments:
            found[name] = kept["found"]
    left = {name: arguments for name, arguments in wanted.items() if name not in found}
    if plan.processes == 1:
        for name, arguments in left.items():
            found[name] = _run(work, arguments, folder / f"{name}.json")
    elif left:
        with ProcessPoolExecutor(plan.processes, mp_context=get_context("spawn")) as pool:
            waits = {pool.submit(_run, work, arguments, folder / f"{n}.json"): n for n, arguments in left.items()}
            for done in as_completed(waits):
                found[waits[done]] = done.result()
                print(f"{plan.name}: {len(found)} of {len(jobs)} runs", file=sys.stderr)
    return {name: found[name] for name in jobs}


def _run(work: Callable[..., Any], arguments: Sequence[Any], file: Path) -> Any:
    torch.set_num_threads(1)
    began = time.process_time()
    found = json.loads(json.dumps(work(*arguments)))
    with replacing(file) as opened:
        content = {"arguments": arguments, "cpu_seconds": time.process_time() - began, "found": found}
        opened.write(json.dumps(content).encode())
    return found


def points_state(**given: Any) -> State:
    """A run of points in the plane at step 0; `given` as the flags of `wgan train`."""
    return new_state(resolve(given, {"size": 0, "channels": 2})[0], CPU)


def digits_config(**given: Any) -> TrainConfig:
    return resolve(given, {"size": 28, "channels": 1})[0]


def advance(state: State, data: Dataset) -> dict[str, float]:
    """A generator's step and the critic's before it, as in `wgan train`; figures of the last batch."""
    config = state.config
    for _ in range(config.critic_steps(state.step)):
        batch = data.batch(state.batches, config.batch, config.seed, state.device)
        state.batches += 1
        figures = critic_step(state, batch)
    figures |= generator_step(state, batch)
    return {name: value.item() for name, value in figures.items()}


def every_digit() -> Dataset:
    return prepare(open_source(str(DIGITS), sys.stdin.buffer), digits_config(), False, Console())


def digits() -> tuple[Dataset, Dataset]:
    """Those to train on, and a fifth that is held out, at random. By their names, which are numbers in MNIST, is not at
    random: there odd ones are brighter than even ones."""
    training, heldout = every_digit().split(0.2, 32, 0)
    assert heldout is not None
    return training, heldout


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Batch norm by its running statistics, as samples are drawn."""
    network.eval()
    yield
    network.train()


def draw(state: State, count: int) -> Tensor:
    """[count, *shape], the same as of `wgan sample -n count`."""
    with evaluating(state.generator):
        return torch.cat(list(generate(state.generator, latents(0, range(count), state.config.latent))))


def digits_distance(samples: Tensor, heldout: Dataset) -> float:
    """From as many held-out digits: what `wgan evaluate` calls swd, the mean over the levels of the pyramid."""
    if not samples.isfinite().all():
        return math.inf
    return mean(pyramid_distances(samples, heldout_digits(heldout, range(len(samples)))).values())


def heldout_digits(heldout: Dataset, places: range) -> Tensor:
    """In an order that mixes the classes, one after the other in the file."""
    return unit(torch.from_numpy(heldout.at(heldout.order(0, 0)[np.array(places)])))


def floor(heldout: Dataset, count: int) -> float:
    """The distance that other held-out digits have, and perfect samples would."""
    return digits_distance(heldout_digits(heldout, range(count, 2 * count)), heldout)


# ---- Figures


def modes(name: str) -> tuple[NDArray[np.float64], float]:
    """The centres [K, 2] and the deviation of toy:8gaussians or toy:25gaussians."""
    if name == "8gaussians":
        angles = np.arange(8) * np.pi / 4
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.sqrt(2), 0.02 / np.sqrt(2)
    steps = np.arange(-2, 3) / np.sqrt(2)
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2), 0.05 / np.sqrt(8)


def modes_covered(points: NDArray[Any], name: str) -> tuple[int, float]:
    """The number of modes covered, and the share of the samples [N, 2] within 3 deviations of a mode."""
    centres, deviation = modes(name)
    within = np.linalg.norm(points[:, None] - centres, axis=2) <= SIGMAS * deviation
    return int((within.mean(axis=0) >= COVERED / len(centres)).sum()), float(within.any(axis=1).mean())


def sign_test(wins: int, losses: int) -> float:
    """How likely so many wins or more are if either is as likely as the other: the one-sided exact test of signs."""
    count = wins + losses
    return sum(math.comb(count, k) for k in range(wins, count + 1)) / 2**count


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, of values that differ."""
    ranks_a, ranks_b = (np.argsort(np.argsort(values)) for values in (a, b))
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


# ---- Verdicts


@dataclass(frozen=True)
class Check:
    """A figure of every run, and the least that it may be, or the most."""

    what: str
    values: Sequence[float] | NDArray[np.float64]
    least: float = -math.inf
    most: float = math.inf
    form: str = ".3g"

    @property
    def met(self) -> int:
        return sum(bool(self.least <= value <= self.most) for value in self.values)  # NaN is not

    @property
    def shown(self) -> bool:
        return self.met >= MOST * len(self.values)

    def __str__(self) -> str:
        limits = [
            word.format(format(limit, self.form))
            for word, limit in (("{} or more", self.least), ("{} or less", self.most))
            if math.isfinite(limit)
        ]
        form, count = self.form, len(self.values)
        told = f"{self.what}: {np.median(self.values):{form}}"
        if count > 1:
            told += f" ({np.min(self.values):{form}} to {np.max(self.values):{form}})"
        return f"{told}, limit {' and '.join(limits)}" + (f": {self.met} of {count} runs" if count > 1 else "")


def processor() -> str:
    try:
        return re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def finish(plan: Plan, figure: Figure, checks: Sequence[Check], notes: str = "", colours: int = 64) -> None:
    """Write the picture, of few colours to be small, and the verdict with the figures that it was judged by."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    picture = Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    picture.save(plan.out / f"{plan.name}.png", optimize=True)
    runs = [json.loads(file.read_text()) for file in (plan.out / plan.name).glob("*.json")]
    verdict = "PASS" if all(check.shown for check in checks) else "FAIL"
    told = "; ".join([*map(str, checks), *([notes] if notes else [])])
    content = {
        "verdict": verdict,
        "checks": [[str(check), check.shown] for check in checks],
        "notes": notes,
        "seeds": plan.seeds,
        "runs": len(runs),
        "cpu_minutes": round(sum(run["cpu_seconds"] for run in runs) / 60, 1),
        "arithmetic": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "processor": processor(),
    }
    (plan.out / f"{plan.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (plan.out / f"{plan.name}.txt").write_text(f"{verdict} {plan.name}: {told}\n")
