"""Time to quality: how far samples of each setting are from held-out images after given times.

    python tests/bench/recipe.py [--data examples/digits.zip] [--at 60,120] [--seeds 3] [-o recipe] [--json]

First each setting is timed: `wgan train` for --pace seconds, with all cores, imports included and images read before;
nothing else may run meanwhile. Then a run is made for each time of --at, of as many steps as that time takes at that
pace; where nothing depends on a run's length, the one before goes on. --processes runs go at once with a thread each,
which takes less time than one after the other and gives the same samples but for last bits. `wgan evaluate` compares
samples with the images that were held out. The distance is the mean of the levels of the pyramid, and for each
--features, as of `wgan evaluate`, there are the Fréchet distance, the kernel distance, which has no bias of few images,
and the coverage too. `floor` is that of other held-out images. With --goal, the seconds to that distance (with
--features: the first one's) are told of each seed, between the times of --at by a straight line on log axes.
OUT/SETTING-SEED-SECONDS.png and .pt have samples and the checkpoint, OUT/results.jsonl what was found; what is in there
is not done again. An OUT is for one --data, --features and --count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from wgan_cli.curve import read

SETTINGS = (
    "--preset fast",
    "--preset paper",
    "--preset fast --width 24 --width-critic 24 --generator-norm batch --batch 32 --gp-weight 10 --lr-decay none "
    "--upsample transposed --palette 0",  # as grey
    # one setting of `fast` changed at a time
    *(f"--preset fast {change}" for change in (
        "--precision fp32", "--latent 128", "--n-critic 2", "--lr 7e-4", "--lr 3e-3", "--width 16", "--width 24",
        "--width 24 --width-critic 24", "--width 32", "--width 56", "--width-critic 40", "--batch 64", "--ema 0",
        "--gp-weight 0.3", "--gp-weight 10", "--lr-decay none", "--upsample nearest", "--upsample transposed",
        "--palette 0", "--palette 4", "--palette 16",
        "--palette 0 --upsample nearest", "--palette 8 --upsample blurred",  # as photographs, as drawings
    )),
)  # fmt: skip
FIGURES = ("frechet_distance", "kernel_distance", "coverage")  # in the features of each network


class Pace(NamedTuple):
    """How many steps are done after so many seconds, from the start of the process on."""

    first: float  # seconds before the first step
    rate: float  # steps a second

    def steps(self, seconds: float) -> int:
        return int((seconds - self.first) * self.rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(Path(__file__).parents[2] / "examples/digits.zip"))
    parser.add_argument("--at", default="60,120", help="seconds")
    parser.add_argument("--pace", type=int, default=60, help="seconds that the pace is taken over")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=".*", help="settings that this regular expression matches")
    parser.add_argument("--features", type=Path, action="append", default=[])
    parser.add_argument("--goal", type=float, help="a distance, to tell the seconds to")
    parser.add_argument("-n", "--count", type=int, default=400, help="samples; twice as many are held out")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("recipe"))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    log = asked.out / "results.jsonl"
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    paces = {entry["setting"]: Pace(*entry["pace"]) for entry in known if "pace" in entry}
    results = [entry for entry in known if "swd" in entry]
    of = [Path(asked.data).name, asked.count, [path.name for path in asked.features]]
    for result in results:
        if result.get("of") != of:
            raise SystemExit(f"{log} has results of {result.get('of')}, not of {of}: take another -o")
    settings = [setting for setting in SETTINGS if re.fullmatch(asked.only, setting)]
    if not asked.json:
        columns = ("setting", "after", "seed", "steps", "swd (floor)", *(f"{name} (floor)" for name in FIGURES))
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for result in results:
            report(result)
    with tempfile.TemporaryDirectory() as place, log.open("a") as file, ThreadPoolExecutor(asked.processes) as pool:

        def keep(entry: dict[str, Any]) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()

        for setting in settings:
            if setting not in paces:
                paces[setting] = pace(Path(place), setting.split(), asked)
                keep({"setting": setting, "pace": paces[setting]})
        done = {(result["setting"], result["seed"], result["after"]) for result in results}
        marks = sorted(int(mark) for mark in asked.at.split(","))

        def runs(setting: str, seed: int) -> bool:
            """Whether all of them ended well."""
            for after in marks:
                if (setting, seed, after) not in done:
                    try:
                        result = {"of": of} | run(Path(place), asked, paces[setting], setting, seed, after)
                    except SystemExit as error:  # the others go on
                        print(error, file=sys.stderr, flush=True)
                        return False
                    keep(result)
                    results.append(result)
                    if not asked.json:
                        report(result)
            return True

        well = all([*pool.map(lambda job: runs(*job), product(settings, range(asked.seeds)))])
    if asked.json:
        print(json.dumps(results, indent=2))
    elif asked.goal:
        for setting in settings:
            told = [seconds_to(asked.goal, results, setting, seed) for seed in range(asked.seeds)]
            print(f"`{setting}`: {', '.join(told)} s to {asked.goal:g}")
    if not well:
        raise SystemExit(1)


def seconds_to(goal: float, results: Sequence[Mapping[str, Any]], setting: str, seed: int) -> str:
    runs = sorted((r for r in results if (r["setting"], r["seed"]) == (setting, seed)), key=lambda run: run["after"])
    distances = [(run["features"][0]["frechet_distance"] if run["features"] else run["swd"])[0] for run in runs]
    points = [(math.log(run["after"]), math.log(of)) for run, of in zip(runs, distances, strict=True)]
    level = math.log(goal)
    if points and points[0][1] <= level:
        return f"under {runs[0]['after']}"
    for (early, far), (late, near) in pairwise(points):
        if near <= level:
            return f"{math.exp(early + (late - early) * (far - level) / (far - near)):.0f}"
    return f"over {runs[-1]['after']}" if runs else "no"


def pace(place: Path, words: list[str], asked: argparse.Namespace) -> Pace:
    """Of the second half of the time, in which nothing is new any more."""
    out = place / "pace"
    wgan("train", *of_data(asked), "--steps", 1, "--force", "-q", "-o", out, *words)  # reads the images
    limit = ("--steps", 10**6, "--time-limit", f"{asked.pace}s", "--log-every", 1)
    began = time.monotonic()
    wgan("train", *of_data(asked), *limit, "--force", "-q", "-o", out, *words, code=75)
    *_, last = records = read(out / "metrics.jsonl")
    around = time.monotonic() - began - last["seconds"]  # imports, mostly
    middle = next(record for record in records if record["seconds"] >= last["seconds"] / 2)
    rate = (last["step"] - middle["step"]) / (last["seconds"] - middle["seconds"])
    return Pace(around + last["seconds"] - last["step"] / rate, rate)


def run(place: Path, asked: argparse.Namespace, pace: Pace, setting: str, seed: int, after: int) -> dict[str, Any]:
    words, steps = setting.split(), max(1, pace.steps(after))
    name = "-".join([*(word.strip("-") for word in words), str(seed)])
    out = place / name
    anew = () if goes_on(out) else ("--force",)
    wgan("train", *of_data(asked), "--steps", steps, "--seed", seed, "-q", "-o", out, *words, *anew, threads=1)
    shutil.copy(out / "ckpt.pt", asked.out / f"{name}-{after}.pt")
    wgan("sample", out, "-n", 32, "--nrow", 16, "-o", asked.out / f"{name}-{after}.png", threads=1)
    last = read(out / "metrics.jsonl")[-1]
    told = {"setting": setting, "seed": seed, "after": after, "steps": steps, "verdict": last["verdict"]}
    told["trained"] = last["seconds"]  # with one thread, beside what else ran
    return told | distances(out, asked)


def goes_on(out: Path) -> bool:
    """Whether more steps of the run make what as many steps at once would."""
    config = json.loads((out / "config.json").read_text()) if out.exists() else {}
    return config.get("lr_decay") == "none" and config["upsample"] != "blurred"


def of_data(asked: argparse.Namespace) -> tuple[object, ...]:
    return ("--data", asked.data, "--holdout", 0.2)


def distances(out: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The mean of the levels of the pyramid, and FIGURES by each network: [of samples, of other held-out images]."""
    compare = ("evaluate", out, "--data", asked.data, "-n", asked.count, "--json", "-q")

    def figures(*words: object) -> dict[str, list[float]]:
        told = [json.loads(line) for line in wgan(*compare, *words, threads=1).splitlines()]
        return {figure["figure"]: [figure["samples"], figure["data"]] for figure in told}

    levels = [pair for name, pair in figures("--figures", "swd").items() if name.startswith("swd_")]
    wanted = ("--figures", ",".join(FIGURES), "--features")
    return {"swd": [*map(mean, zip(*levels, strict=True))], "features": [figures(*wanted, f) for f in asked.features]}


def wgan(*words: object, code: int = 0, threads: int | None = None) -> str:
    installed = str(Path(sys.executable).with_name("wgan"))
    own = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    done = subprocess.run([installed, *map(str, words)], capture_output=True, text=True, env=os.environ | own)
    if done.returncode != code:
        raise SystemExit(f"wgan {' '.join(map(str, words))}: {done.stderr}")
    return done.stdout


def report(found: dict[str, Any]) -> None:
    told = [f"{found['swd'][0]:.1f} ({found['swd'][1]:.1f})"]
    for name in FIGURES:
        pairs = [of[name] for of in found["features"]]
        told.append(", ".join(f"{samples:.3g} ({data:.3g})" for samples, data in pairs))
    words = (f"`{found['setting']}`", f"{found['after']} s", found["seed"], found["steps"], *told)
    print(f"| {' | '.join(map(str, words))} |", flush=True)


if __name__ == "__main__":
    main()
