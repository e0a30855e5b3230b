"""The stages of tests/gpu.py that compute. Each tells its rows as it has them, and ends before `until`, a Unix time.

On a CPU (`--rehearse`) networks and images are small: what is found there says only that the stage works.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.step import Plain
from wgan_cli import WganError, curve, graph
from wgan_cli import train as training
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.data.dataset import Batch, Dataset
from wgan_cli.data.feed import Ahead, Feed, Resident
from wgan_cli.device import arithmetic
from wgan_cli.memory import of_step
from wgan_cli.state import State, new_state
from wgan_cli.step import critic_step, generator_step
from wgan_cli.variants import VARIANTS

Row = Callable[..., None]
ROOT = Path(__file__).resolve().parents[2]


def _config(device: str, size: int = 64, **given: Any) -> TrainConfig:
    small = {"width": 4, "batch": 4} if device == "cpu" else {}
    return resolve({**small, **given}, {"size": min(size, 32) if device == "cpu" else size, "channels": 3})[0]


def _images(config: TrainConfig, count: int) -> Dataset:
    rows = np.random.default_rng(0).integers(0, 256, (count, *config.sides, config.channels), dtype=np.uint8)
    return Dataset(rows, "0" * 16)


def _batch(config: TrainConfig, device: str) -> Batch:
    return _images(config, config.batch).batch(0, config.batch, 0, torch.device(device))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# ---- Does a run that goes on end as one that never stopped, and is the same run the same?


def resume(row: Row, out: Path, device: str, until: float, **_: Any) -> None:
    steps, wrong = (4 if device == "cpu" else 40), 0
    curve.write, training.step_memory = lambda run: None, lambda config: ""  # the time goes to the steps
    for given in (
        {"variant": "gp"},
        {"variant": "gp", "precision": "bf16"},
        {"variant": "clip"},
        {"variant": "gp", "precision": "tf32"},
        {"variant": "r3", "arch": "r3", "batch": 64},
        {"variant": "hinge", "arch": "resnet"},
        {"variant": "dragan", "augment": ("color", "translation", "cutout")},
    ):
        if time.time() > until - 5:
            raise SystemExit("no time for the rest")
        pace = {"n_critic": 2, "save_every": 10**6, "sample_every": 10**6, "ema": 0.9}
        config = _config(device, 32, steps=steps, **pace, **given)
        halfway = _config(device, 32, steps=steps // 2, **pace, **given)
        images, whole = _images(config, 10 * config.batch), out / "runs"
        once = _trained(config, images, whole / "once", device, 0.0)
        again = _apart(once, _trained(config, images, whole / "again", device, 0.0))
        resident = _apart(once, _trained(config, images, whole / "resident", device, 1.0))
        figures: dict[str, Any] = {"run again": again, "images on the device": resident}
        if not (config.record.schedule or config.lr_decay != "none"):  # whose steps may not change
            _trained(halfway, images, whole / "halves", device, 0.0)
            figures["gone on"] = _apart(once, _trained(config, images, whole / "halves", device, 0.0, fresh=False))
        wrong += any(apart for apart in figures.values())
        row(case=" ".join(map(str, given.values())), **{name: apart or "same bits" for name, apart in figures.items()})
    if wrong:
        raise SystemExit(f"{wrong} cases are not the same to the bit")


def _trained(config: TrainConfig, images: Dataset, out: Path, device: str, memory: float, fresh: bool = True) -> Any:
    images.held = None
    quiet = Console(io.StringIO(), quiet=True)
    path = training.train(config, images, out, torch.device(device), quiet, force=fresh, data_memory=memory)
    return torch.load(path, map_location="cpu", weights_only=True)


def _apart(one: Any, other: Any) -> str:
    """The weights that differ, and by how much at most."""
    far = {
        f"{network}.{name}": (weight.double() - other[network][name].double()).abs().max().item()
        for network in ("generator", "critic", "ema")
        for name, weight in one[network].items()
        if not torch.equal(weight, other[network][name])
    }
    return f"{len(far)} weights, up to {max(far.values()):.1e}" if far else ""


# ---- What waits?


def waits(row: Row, device: str, until: float, **_: Any) -> None:
    from torch.profiler import ProfilerActivity, profile

    waited, steps = 0, 10 if device == "cuda" else 2
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    ways: list[type[Feed]] = [Ahead, Resident]
    for variant, way in [(variant, way) for variant in ("gp", "clip", "r3") for way in ways]:
        if time.time() > until - 3:
            raise SystemExit("no time for the rest")
        config = _config(device, variant=variant, batch=64 if device == "cuda" else 4)
        state, batches = _fed(config, device, way)
        with arithmetic(torch.device(device), config.precision):
            _steps(state, batches, 3)
            _wait(device)
            with profile(activities=activities) as found:
                _steps(state, batches, steps)
                _wait(device)
        names = Counter[str]()
        for event in found.key_averages():
            names[event.key] += event.count
        figures: dict[str, float] = {
            "stream waits": names["cudaStreamSynchronize"],
            "event waits": names["cudaEventSynchronize"],
            "pageable copies": sum(n for name, n in names.items() if "Memcpy" in name and "Pageable" in name),
            "copies": sum(n for name, n in names.items() if name.startswith("Memcpy")),
            "launches a step": sum(n for name, n in names.items() if "LaunchKernel" in name) / steps,
        }
        waited += figures["stream waits"] + figures["pageable copies"] > 0
        row(variant=variant, feed=way.__name__, steps=steps, **figures)
    if waited:
        raise SystemExit(f"{waited} of the cases wait for the device amid steps")


def _fed(config: TrainConfig, device: str, way: type[Feed]) -> tuple[State, Feed]:
    where = torch.device(device)
    return new_state(config, where), way(_images(config, 20 * config.batch), config.batch, 0, where)


def _steps(state: State, batches: Feed, count: int) -> None:
    for _ in range(count):
        batch = batches.take(state.batches)
        state.batches += 1
        critic_step(state, batch)
        batches.ahead(state.batches)
        generator_step(state, batch)


# ---- How fast is a critic step?


def steps(row: Row, device: str, until: float, **_: Any) -> None:
    """First what is held against the plain step, then every variant; each eager and, where it can be, as a graph."""
    plain = ("gp", "clip")
    compared = [(v, s, p) for s in (64, 128) for p in ("fp32", "tf32", "bf16") for v in plain]
    others = [(v, s, p) for s in (64, 128) for p in ("bf16", "tf32", "fp32") for v in VARIANTS if v not in plain]
    for variant, size, precision in [*compared, *others][: 3 if device == "cpu" else None]:
        if time.time() > until - 4:
            raise SystemExit("no time for the rest")
        config = _config(device, size, variant=variant, precision=precision)
        figures: dict[str, Any] = {}
        try:
            _speeds(figures, config, device, variant in plain)
        except (RuntimeError, WganError) as error:
            figures["failed"] = str(error).split("\n")[0][:120]
        row(variant=variant, size=size, precision=precision, batch=config.batch, **figures)


def _speeds(figures: dict[str, Any], config: TrainConfig, device: str, with_plain: bool) -> None:
    """Critic steps a second of one case, into `figures` as they are known."""
    batch, where, state = _batch(config, device), torch.device(device), new_state(config, torch.device(device))
    with arithmetic(where, config.precision):
        figures["eager"] = _rate(lambda: critic_step(state, batch), device)
        play = captured(state, batch)
        figures["as a graph"] = play if isinstance(play, str) else _rate(play, device)
    if not with_plain:
        return
    with arithmetic(where, config.precision, exact=False):
        figures["eager, timed algorithms"] = _rate(lambda: critic_step(state, batch), device)
    real = batch.samples.contiguous()
    for name, plain in (("plain, attached", Plain(state, False)), ("plain, detached", Plain(state, True))):
        with arithmetic(where, config.precision):
            figures[name] = _rate(partial(plain.step, real), device)


def captured(state: State, batch: Batch) -> Callable[[], Any] | str:
    """The critic's step recorded as a CUDA graph, as a call; or why there is none."""
    if state.device.type != "cuda":
        return "no GPU"
    said = io.StringIO()
    (play,) = graph.steps(state, Console(said), True, critic_step)
    for _ in range(graph.WARM_UP + 2):  # then it records, and plays
        play(state, batch)
    return said.getvalue().strip() or (lambda: play(state, batch))


def _rate(step: Callable[[], Any], device: str) -> float:
    """Steps a second: the median of three times, each of a tenth of a second."""
    for _ in range(3):
        step()
    _wait(device)
    began = time.perf_counter()
    step()
    _wait(device)
    count = max(2, min(200, int((0.1 if device == "cuda" else 0.02) / (time.perf_counter() - began))))
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(count):
            step()
        _wait(device)
        rates.append(count / (time.perf_counter() - began))
    return statistics.median(rates)


# ---- A minute of training


def train(row: Row, out: Path, device: str, **_: Any) -> None:
    run, data = out / "run", ROOT / "examples/digits.zip"
    small = ["--width", "4", "--batch", "4", "--log-every", "1"] if device == "cpu" else ["--log-every", "50"]
    words = ["--data", data, "--preset", "fast", "--steps", 10**6, "--holdout", 0.2, "--force"]
    limit = ["--time-limit", "60s" if device == "cuda" else "20s", "--device", device, "-o", run]
    done = _wgan("train", *words, *limit, *small)
    print(done.stderr)
    if done.returncode != 75:
        raise SystemExit(f"train ended with {done.returncode}: {done.stderr[-300:]}")
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    row(**{name: record[name] for name in ("step", "seconds", "images_per_second")})
    done = _wgan("evaluate", run / "ckpt.pt", "--data", data, "-n", 400 if device == "cuda" else 50, "--json", "-q")
    for line in done.stdout.splitlines():
        row(**json.loads(line))
    if done.returncode:
        raise SystemExit(f"evaluate ended with {done.returncode}: {done.stderr[-300:]}")


def _wgan(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "wgan_cli", *map(str, words)], capture_output=True, text=True)


# ---- The most memory of a step


def memory(row: Row, device: str, until: float, **_: Any) -> None:
    for variant, size, precision in (("gp", 64, "fp32"), ("gp", 64, "bf16"), ("clip", 64, "fp32"), ("gp", 128, "fp32")):
        if time.time() > until - 3:
            raise SystemExit("no time for the rest")
        config = _config(device, size, variant=variant, precision=precision)
        figures: dict[str, float] = {"told_MB": of_step(config)(config.batch) / 1e6}
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            free = torch.cuda.mem_get_info()[0]
        batch, state = _batch(config, device), new_state(config, torch.device(device))
        with arithmetic(torch.device(device), precision):
            for _number in range(3):
                critic_step(state, batch)
                generator_step(state, batch)
        if device == "cuda":
            figures["held_MB"] = torch.cuda.max_memory_allocated() / 1e6
            figures["reserved_MB"] = torch.cuda.max_memory_reserved() / 1e6
            figures["gone_from_free_MB"] = (free - torch.cuda.mem_get_info()[0]) / 1e6
        row(variant=variant, size=size, precision=precision, batch=config.batch, **figures)
        del batch, state
