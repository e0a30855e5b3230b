"""Several processes: how far their weights part from those of one, how fast they are, and what a network would allow.

    python tests/bench/scale.py equality | speed | table   [--data examples/digits.zip]

equality: the largest difference of a weight after 1, 10 and 100 steps, over the largest weight, of 2 and 4 processes
against one; beside it one process with two threads against one. speed: images a second of 1, 2 and 4 processes that
share all cores, and that have a core each as far as there are; each three times in turn, the median. Nothing else may
run. table: the formula of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from wgan_cli import checkpoint
from wgan_cli.config import resolve
from wgan_cli.networks import build_critic, build_generator, parameter_count

ARCH = ("--variant", "gp", "--arch", "dcgan", "--width", "24", "--batch", "64", "--size", "28", "--n-critic", "1")
NUMBERS = (1, 2, 4)


def train(data: str, out: Path, processes: int, threads: int, *words: object, cores: set[int] | None = None) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    given = ["-m", "wgan_cli", "train", "--data", data, *ARCH, *map(str, words), "-q", "-o", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    limit = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    subprocess.run([*command, *given], env=environment, stdout=subprocess.PIPE, check=True, preexec_fn=limit)


def equality(data: str, home: Path) -> None:
    steps = (1, 10, 100)
    for optimizer, rate in (("sgd", 1e-3), ("adam", 1e-4)):
        words = ("--optimizer", optimizer, "--lr", rate)
        for processes, threads in ((1, 1), (1, 2), (2, 1), (4, 1)):
            for step in steps:
                train(data, home / f"{processes} {threads} {step}", processes, threads, "--steps", step, *words)
        for name in ("1 2", "2 1", "4 1"):
            apart = [largest(home / f"1 1 {step}", home / f"{name} {step}") for step in steps]
            told = " ".join(f"{value:.1e}" for value in apart)
            print(f"{optimizer}, processes and threads {name}: {told} after {steps} steps", flush=True)
        for folder in home.iterdir():
            subprocess.run(["rm", "-r", folder], check=True)


def largest(one: Path, other: Path) -> float:
    """Without the last bias of the critic: of a Wasserstein loss its gradient is 0, and what it gets is rounding."""
    contents: list[dict[str, Any]] = [checkpoint.load(folder / "ckpt.pt")[0] for folder in (one, other)]
    found = 0.0
    for network in ("generator", "critic"):
        weights = [content[network] for content in contents]
        names = [name for name in weights[0] if weights[0][name].is_floating_point()]
        names = names[:-1] if network == "critic" else names
        top = max(float(weights[0][name].abs().max()) for name in names)
        found = max([found, *(float((weights[0][name] - weights[1][name]).abs().max()) / top for name in names)])
    return found


def speed(data: str, home: Path, steps: int = 90) -> None:
    every = sorted(os.sched_getaffinity(0))
    cases = {f"{n} on {len(every)} cores": (n, set(every)) for n in NUMBERS} | {
        f"{n} on 1 core": (n, {every[0]}) for n in NUMBERS
    }
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(3):
        for name, (processes, cores) in cases.items():
            out = home / f"{name} {turn}"
            threads = max(1, len(cores) // processes)
            train(data, out, processes, threads, "--steps", steps, "--log-every", steps // 3, cores=cores)
            records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            images, seconds = (records[1][key] - records[0][key] for key in ("images", "seconds"))
            rates[name].append(images / seconds)
    for name, found in rates.items():
        print(f"{name}: {median(found):.0f} images/s, {min(found):.0f} to {max(found):.0f}", flush=True)


def bytes_a_step(parameters: int) -> int:
    """That are added up over the processes: float32 gradients, and a few figures."""
    return 4 * (parameters + 5)


def table() -> None:
    config = resolve({"size": 64, "channels": 3}, {"size": 64, "channels": 3})[0]
    parameters = parameter_count(build_critic(config))
    size = bytes_a_step(parameters)
    print(f"critic of dcgan at 64 px: {parameters} parameters, {size / 1e6:.1f} MB; generator ", end="")
    print(f"{parameter_count(build_generator(config))}; compute 20 ms a step on each GPU, its batch as large on each")
    links = {
        "1 Gbit/s": (0.125e9, 50e-6),
        "10 Gbit/s": (1.25e9, 30e-6),
        "100 Gbit/s": (12.5e9, 10e-6),
        "NVLink 300 GB/s": (300e9, 5e-6),
    }
    numbers = (1, 2, 4, 8, 16, 32, 64)
    print("| link | " + " | ".join(map(str, numbers)) + " |\n|---" * 1 + "|---" * len(numbers) + "|")
    for link, (rate, latency) in links.items():
        shares = [0.020 / (0.020 + 2 * (n - 1) / n * size / rate + 2 * (n - 1) * latency) for n in numbers]
        print(f"| {link} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["equality", "speed", "table"])
    parser.add_argument("--data", default=str(Path(__file__).parents[2] / "examples/digits.zip"))
    asked = parser.parse_args()
    if asked.what == "table":
        return table()
    with tempfile.TemporaryDirectory(prefix="wgan-scale-") as home:
        {"equality": equality, "speed": speed}[asked.what](str(Path(asked.data).resolve()), Path(home))


if __name__ == "__main__":
    main()
