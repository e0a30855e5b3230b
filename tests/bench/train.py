"""Whole training runs: the share of their time that the steps take, and their peak memory.

    python tests/bench/train.py [--only gp-dcgan-64] [--json]

Each run is `wgan train` in a process of its own, on random images. Time counts from the process's start, with imports
and the reading of the images, and from the first step on. Resident memory is the peak after a tenth of the steps and
after all of them. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {28: 1, 32: 3, 64: 3, 128: 3}  # side: channels
# The benchmark of one step in whole, with each paper's settings, for a few steps; then runs that are long.
RUNS: dict[str, tuple[int, int, str]] = {
    f"{variant}-{arch}-{size}-{precision}": (size, 10, f"--variant {variant} --arch {arch} --precision {precision}")
    for variant in ("clip", "gp")
    for arch, size in (("mlp", 28), ("dcgan", 32), ("dcgan", 64), ("dcgan", 128))
    for precision in ("fp32", "bf16")
} | {
    "long-gp-dcgan-28": (28, 2000, "--width 24 --batch 32 --n-critic 1 --save-every 250 --sample-every 250"),
    "long-gp-mlp-28": (28, 6000, "--arch mlp --n-critic 1"),
    "long-gp-dcgan-64": (64, 2000, "--width 16 --batch 32 --n-critic 1 --precision bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="runs whose name begins so, as gp-dcgan-64")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results = []
    if not asked.json:
        print("run                      steps  minutes  in steps: all  from the first    MB after a tenth, all")
    with tempfile.TemporaryDirectory() as place:
        for name, (size, steps, options) in RUNS.items():
            if name.startswith(asked.only):
                result: dict[str, Any] = {"run": name, "steps": steps} | run(Path(place), size, steps, options.split())
                results.append(result)
                if not asked.json:
                    print(
                        f"{name:24} {steps:5} {result['seconds'] / 60:8.1f} {result['share']:13.1%}"
                        f" {result['share_from_first']:15.1%} {result['mb_early']:20.0f} {result['mb']:6.0f}",
                        flush=True,
                    )
    if asked.json:
        print(json.dumps(results, indent=2))


def run(place: Path, size: int, steps: int, options: list[str]) -> dict[str, float]:
    data, out = place / f"{size}.npy", place / "run"
    if not data.exists():
        np.save(data, np.random.default_rng(0).integers(0, 256, (4000, size, size, SIZES[size]), np.uint8))
    command = ["train", "--preset", "paper", "--data", data, "--steps", steps, "--force", "-q", "-o", out, *options]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--inside", *map(str, command)],
        env={**os.environ, "WGAN_CACHE": str(place / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"wgan {' '.join(map(str, command))}: {done.stderr}")
    inside = json.loads(done.stderr.splitlines()[-1])
    return {
        "seconds": seconds,
        "share": inside["in_steps"] / seconds,
        "share_from_first": inside["in_steps"] / inside["training"],
        "mb_early": inside["mb_early"],
        "mb": inside["mb"],
    }


def inside(command: list[str]) -> None:
    """`wgan` with a clock around its steps; the last line on stderr is what the clock says."""
    from wgan_cli import cli, train

    found = {"in_steps": 0.0, "steps": 0.0}
    steps = int(command[command.index("--steps") + 1])

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **named)
            found[name] = found.get(name, 0.0) + time.perf_counter() - began
            return result

        return call

    def generator_step(*args: Any) -> Any:
        figures = update(*args)
        found["steps"] += 1
        if found["steps"] == max(1, steps // 10):
            found["mb_early"] = peak()
        found["mb"] = peak()  # of training, without the drawing of the last curve
        return figures

    loop: Any = train
    update = loop.generator_step
    loop.critic_step = timed(loop.critic_step, "in_steps")
    loop.generator_step = timed(generator_step, "in_steps")
    train.train = timed(train.train, "training")
    sys.argv = ["wgan", *command]
    try:
        cli.main()
    finally:
        print(json.dumps(found), file=sys.stderr)


def peak() -> float:
    """The most memory that was resident, in MB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
    else:
        main()
