"""Time to quality: how soon each setting reaches a sliced Wasserstein distance to held-out images.

    python tests/bench/recipe.py [--data examples/digits.zip] [--seconds 120] [--seeds 3] [--goal 15] [--json]

Each run is `wgan train` for so many seconds in a process of its own; then `wgan evaluate` compares samples of each of
its checkpoints with the images that it held out. The distance is the mean of the levels of the pyramid. `floor` is that
of other held-out images. With --features, as of `wgan evaluate`, it gives the Fréchet distance as well. Nothing else
may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from bisect import bisect_left
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
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--goal", type=float, default=15.0)
    parser.add_argument("--only", default=".*", help="settings that this regular expression matches")
    parser.add_argument("--features", type=Path)
    parser.add_argument("-n", "--count", type=int, default=400, help="samples; twice as many are held out")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if not asked.json:
        print(
            "setting                          seed   steps   s to goal   distance at the end (floor)   Fréchet (floor)"
        )
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
    out = place / "run"
    data = ("--data", asked.data, "--holdout", 0.2)
    every = 20 if "paper" in words else 200  # steps, some seconds of either
    limit = ("--steps", 10**6, "--time-limit", f"{asked.seconds}s", "--keep", 10**6, "--log-every", every)
    told = ("--save-every", every, "--seed", seed, "--force", "-q", "-o", out, *words)
    wgan("train", *data, *limit, *told, code=75)
    seconds = {record["step"]: record["seconds"] for record in read(out / "metrics.jsonl")}
    checkpoints = sorted(out.glob("ckpt-*.pt"))
    first = bisect_left(checkpoints, True, key=lambda c: distances(c, asked)["distance"] <= asked.goal)  # if they fall
    reached = seconds.get(step(checkpoints[first]), asked.seconds) if first < len(checkpoints) else None
    end = checkpoints[-1]
    return {"seconds_to_goal": reached, "steps": step(end), **distances(end, asked, asked.features)}


def step(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("ckpt-"))


def distances(checkpoint: Path, asked: argparse.Namespace, features: Path | None = None) -> dict[str, float]:
    words = ("--features", features) if features else ()
    lines = wgan("evaluate", checkpoint, "--data", asked.data, *words, "-n", asked.count, "--json", "-q").splitlines()
    figures = [json.loads(line) for line in lines]
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
    frechet = f"{result['frechet']:.1f} ({result['frechet_floor']:.1f})" if "frechet" in result else ""
    print(
        f"{result['setting']:32} {result['seed']:4} {result['steps']:7} {f'{reached:.0f}' if reached else 'not':>11} "
        f"{result['distance']:20.1f} ({result['floor']:.1f}) {frechet:>17}",
        flush=True,
    )


if __name__ == "__main__":
    main()
