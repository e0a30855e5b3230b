"""Runs of `wgan train` killed at random moments: nothing is lost, and they end as one that was never killed.

    python tests/stress.py [--kills 50] [--seed 0] [--processes 2]

A moment is one while a process starts and reads its images, one of training, or one while a checkpoint or a grid is
being written, which is seen by its temporary file. After each kill the newest checkpoint loads, and metrics.jsonl has
every step in whole lines; a run that goes on to the end has the same files, byte for byte but for what is measured: two
columns, and the speed in the picture. With --processes, one of so many that torchrun has started is killed, and
torchrun goes on by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tiny import COMMAND, write_images

from wgan_cli import checkpoint

STEPS = 40
TRAIN = f"train --data imgs --size 16 --width 24 --batch 8 --n-critic 2 --ema 0.9 --flip --steps {STEPS} --log-every 1"
TRAIN += " --save-every 3 --keep 2 --sample-every 4 -q -o"
MOMENTS = ("checkpoint", "training", "checkpoint", "grid", "training", "start")  # in turn
TEMPORARY = {"checkpoint": ".ckpt*.tmp", "grid": "samples/.*.tmp"}


def start(out: Path, processes: int = 1) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WGAN_CACHE": str(out.parent / "cache")}
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts", "9"]
    command = [*several, "--nproc-per-node", str(processes), "-m", "wgan_cli"] if processes > 1 else COMMAND
    return subprocess.Popen(
        [*command, *TRAIN.split(), out],
        cwd=out.parent.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if processes > 1 else None,  # torchrun says much of each kill
    )


def kill(out: Path, moment: str, rng: random.Random, seconds: float) -> str:
    """The moment at which a SIGKILL met a run: as asked for if the temporary file that tells so is left."""
    process = start(out)
    wait_for(process, out, moment, rng, seconds)
    alive = process.poll() is None
    process.kill()
    process.wait()
    met = moment not in TEMPORARY or any(out.glob(TEMPORARY[moment]))
    return "none: it had ended" if not alive else moment if met else "training"


def wait_for(process: subprocess.Popen[bytes], out: Path, moment: str, rng: random.Random, seconds: float) -> None:
    if moment == "start":
        time.sleep(rng.uniform(0, seconds))
    elif moment == "training":
        log = out / "metrics.jsonl"
        first = log.stat().st_size if log.exists() else 0
        while process.poll() is None and not (log.exists() and log.stat().st_size > first):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, seconds))
    else:
        for _ in range(rng.randint(1, 3)):  # the first, second or third that is written
            while process.poll() is None and any(out.glob(TEMPORARY[moment])):
                time.sleep(0.0002)
            while process.poll() is None and not any(out.glob(TEMPORARY[moment])):
                time.sleep(0.0002)
        time.sleep(rng.choice([0, 0, 0.003]))


def kill_one(process: subprocess.Popen[bytes], out: Path, moment: str, rng: random.Random, seconds: float) -> str:
    """The moment at which a SIGKILL met one of the processes that torchrun has started; by then it has others."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not children.read_text():
        time.sleep(0.01)
    wait_for(process, out, moment, rng, seconds)
    if process.poll() is not None or not (workers := children.read_text().split()):
        return "none: it had ended"
    os.kill(int(rng.choice(workers)), signal.SIGKILL)
    while process.poll() is None and set(workers) & set(children.read_text().split()):
        time.sleep(0.05)
    return moment


def check_killed(out: Path) -> None:
    """What is there after a kill is whole."""
    if (log := out / "metrics.jsonl").exists():
        whole = log.read_bytes().split(b"\n")[:-1]  # a kill can end a line at the end of a page; what goes on drops it
        steps = [json.loads(line)["step"] for line in whole]
        assert steps == list(range(1, len(steps) + 1))
    for path in out.glob("ckpt*.pt"):
        assert checkpoint.load(path)[0]["step"] <= len(steps)


def product(out: Path) -> dict[str, object]:
    """All files of a run, the measured columns apart, and the picture, which has one of them."""
    found: dict[str, object] = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.*")}
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_bytes().splitlines()]
    measured = ("seconds", "images_per_second")
    found["metrics.jsonl"] = [{k: v for k, v in record.items() if k not in measured} for record in records]
    if "curve.png" in found:
        found["curve.png"] = "drawn"
    return found


def trial(
    home: Path, number: int, seed: int, seconds: float, reference: dict[str, object], processes: int
) -> Counter[str]:
    """One run that is killed up to three times and then ends; how often at which moment."""
    rng, out = random.Random(f"{seed} {number}"), home / str(number) / "run"
    out.parent.mkdir()
    kills: Counter[str] = Counter()
    moment = MOMENTS[number % len(MOMENTS)]
    together = start(out, processes) if processes > 1 else None
    for _ in range(rng.randint(1, 3)):
        met = kill_one(together, out, moment, rng, seconds) if together else kill(out, moment, rng, seconds)
        kills[met] += 1
        if not together:
            check_killed(out)
    process = together or start(out)
    assert process.wait() == 0
    found = product(out)
    differing = {name for name in found.keys() | reference.keys() if found.get(name) != reference.get(name)}
    assert not differing, f"{out}: other than in a run never killed: {sorted(differing)}"
    return kills


def stress(home: Path, kills: int, seed: int, processes: int = 1, workers: int = 1) -> Iterator[Counter[str]]:
    """Trials, `workers` at a time, till there were so many kills; the counts after each."""
    write_images(home / "imgs")
    whole = home / "whole" / "run"
    whole.parent.mkdir()
    began = time.monotonic()
    assert start(whole, processes).wait() == 0
    seconds = (time.monotonic() - began) / 2  # half of it goes into imports
    reference = product(whole)
    assert len(reference["metrics.jsonl"]) == STEPS  # type: ignore[arg-type]
    total: Counter[str] = Counter()
    with ThreadPoolExecutor(workers) as pool:
        number = 0
        while count(total) < kills:
            numbers = range(number, number + workers)
            for found in pool.map(lambda n: trial(home, n, seed, seconds, reference, processes), numbers):
                total += found
            number += workers
            yield total


def count(total: Counter[str]) -> int:
    return sum(total[moment] for moment in set(MOMENTS))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    workers = 1 if given.processes > 1 else len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="wgan-stress-") as home:
        for total in stress(Path(home), given.kills, given.seed, given.processes, workers):
            print(dict(total), file=sys.stderr)
    print(f"{count(total)} kills, by moment {dict(total)}; every run ended as one never killed")


if __name__ == "__main__":
    main()
