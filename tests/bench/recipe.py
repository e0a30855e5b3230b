"""Time to quality: how soon each setting comes within a distance of held-out images, and how far it is at given times.

    python tests/bench/recipe.py [--data examples/digits.zip] [--at 60,120] [--seeds 3] [--goal 15] [-o recipe] [--json]

Each run is `wgan train` for so many seconds in a process of its own, imports included; then `wgan evaluate` compares
samples of its checkpoints with the images that it held out. The distance is the mean of the levels of the pyramid, and
with --features, as of `wgan evaluate`, the Fréchet distance too, by which the goal is then meant. `floor` is that of
other held-out images. OUT/SETTING-SEED-SECONDS.png has samples. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

from wgan_cli.curve import read

SETTINGS = (
    "--preset fast",
    "--preset paper",
    # one setting of `fast` changed at a time
    *(f"--preset fast {change}" for change in (
        "--precision fp32", "--latent 128", "--n-critic 2", "--lr 7e-4", "--lr 3e-3", "--width 16", "--width 40",
        "--batch 64", "--ema 0",
    )),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(Path(__file__).parents[2] / "examples/digits.zip"))
    parser.add_argument("--at", default="60,120", help="seconds; the last ends a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--goal", type=float, default=15.0)
    parser.add_argument("--only", default=".*", help="settings that this regular expression matches")
    parser.add_argument("--features", type=Path)
    parser.add_argument("-n", "--count", type=int, default=400, help="samples; twice as many are held out")
    parser.add_argument("-o", "--out", type=Path, default=Path("recipe"), help="folder for pictures")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if not asked.json:
        columns = ("setting", "seed", "s to goal", "after", "steps", "distance (floor)", "Fréchet (floor)")
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    results = []
    with tempfile.TemporaryDirectory() as place:
        for setting in SETTINGS:
            for seed in range(asked.seeds) if re.fullmatch(asked.only, setting) else ():
                results.append({"setting": setting, "seed": seed} | run(Path(place), setting.split(), seed, asked))
                if not asked.json:
                    report(results[-1])
    if asked.json:
        print(json.dumps(results, indent=2))


def run(place: Path, words: list[str], seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    out, marks = place / "run", [int(mark) for mark in asked.at.split(",")]
    every = 20 if "paper" in words else 200  # steps, some seconds of either
    data = ("--data", asked.data, "--holdout", 0.2)
    limit = ("--steps", 10**6, "--time-limit", f"{marks[-1]}s", "--keep", 10**6, "--log-every", every)
    told = ("--save-every", every, "--seed", seed, "--force", "-q", "-o", out, *words)
    began = time.monotonic()
    wgan("train", *data, *limit, *told, code=75)
    records = read(out / "metrics.jsonl")
    around = time.monotonic() - began - records[-1]["seconds"]  # imports, mostly
    seconds = {record["step"]: around + record["seconds"] for record in records}
    checkpoints = [c for c in sorted(out.glob("ckpt-*.pt")) if step(c) in seconds]
    found_of = cache(partial(distances, asked=asked))
    first = bisect_left(checkpoints, True, key=lambda c: goal(found_of(c)) <= asked.goal)  # if they fall
    found: dict[str, Any] = {}
    for mark in marks:
        checkpoint = [c for c in checkpoints if seconds[step(c)] <= mark][-1]
        picture = "-".join([*(word.strip("-") for word in words), str(seed), f"{mark}.png"])
        wgan("sample", checkpoint, "-n", 32, "--nrow", 16, "-o", asked.out / picture)
        found[str(mark)] = {"steps": step(checkpoint), **found_of(checkpoint)}
    reached = seconds[step(checkpoints[first])] if first < len(checkpoints) else None
    return {"seconds_to_goal": reached, "after": found}


def goal(found: dict[str, float]) -> float:
    return found.get("frechet", found["distance"])


def step(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("ckpt-"))


def distances(checkpoint: Path, asked: argparse.Namespace) -> dict[str, float]:
    words = ("--features", asked.features, "--figures", "swd,fid") if asked.features else ("--figures", "swd")
    told = ("-n", asked.count, "--json", "-q")
    figures = [
        json.loads(line) for line in wgan("evaluate", checkpoint, "--data", asked.data, *words, *told).splitlines()
    ]
    levels = [figure for figure in figures if figure["figure"].startswith("swd_")]
    found = {"distance": mean(f["samples"] for f in levels), "floor": mean(f["data"] for f in levels)}
    for figure in figures:
        if figure["figure"] == "frechet_distance":
            found |= {"frechet": figure["samples"], "frechet_floor": figure["data"]}
    return found


def wgan(*words: object, code: int = 0) -> str:
    installed = str(Path(sys.executable).with_name("wgan"))
    done = subprocess.run([installed, *map(str, words)], capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(f"wgan {' '.join(map(str, words))}: {done.stderr}")
    return done.stdout


def report(result: dict[str, Any]) -> None:
    reached = result["seconds_to_goal"]
    for mark, found in result["after"].items():
        frechet = f"{found['frechet']:.2f} ({found['frechet_floor']:.2f})" if "frechet" in found else ""
        print(
            f"| `{result['setting']}` | {result['seed']} | {f'{reached:.0f}' if reached else 'not'} | {mark} s "
            f"| {found['steps']} | {found['distance']:.1f} ({found['floor']:.1f}) | {frechet} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
