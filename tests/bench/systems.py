"""Every variant with every architecture that takes it, each for the same time: what trains, and what does not.

    python tests/bench/systems.py --data examples/digits.zip [--seconds 60] [--seeds 3] [--only 'gp .*'] [-o systems]

First each pair's steps are timed, as `wgan train --dry-run` does, so that --seconds becomes a number of steps: nothing
else may run at first, and what runs later does not matter. Rates are ten times those of each variant's paper, since a
minute is far from the paper's length; width 24 (512 units of the mlp), batch 32, latent 16, one critic step, EMA 0.99.
Each run is a process, and what is done is in OUT/results.jsonl: the same command goes on. The distance is the mean of
the levels of `wgan evaluate`'s pyramid, `floor` that of other held-out images. Ends with a table, and OUT/samples.png:
a row a variant, a column an architecture, eight samples of the first seed each; empty where the run diverged.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from PIL import Image, ImageDraw

from wgan_cli import UsageError
from wgan_cli.config import ARCHS, TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.curve import read
from wgan_cli.data.cache import probe
from wgan_cli.data.source import open_source
from wgan_cli.device import keep_freed_memory
from wgan_cli.train import expected_seconds
from wgan_cli.variants import VARIANTS

SHOWN = 8  # samples of a pair in the picture
MARGIN, HEAD, GAP = 44, 16, 6  # of the picture, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=str(Path(__file__).parents[2] / "examples/digits.zip"))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=".*", help="pairs, as `gp dcgan`, that this regular expression matches")
    parser.add_argument("-n", "--count", type=int, default=400, help="samples; twice as many are held out")
    parser.add_argument("-o", "--out", type=Path, default=Path("systems"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    facts = probe(open_source(asked.data, BytesIO()), Console(quiet=True))
    pairs = {name: config for name, config in configs(facts) if re.fullmatch(asked.only, name)}
    cost = known(asked.out / "seconds.jsonl")
    keep_freed_memory()
    for name, config in pairs.items():
        if name not in cost:
            cost[name] = median(expected_seconds(config, torch.device("cpu")) for _ in range(5)) / config.steps
            tell(asked.out / "seconds.jsonl", name, cost[name])
    results = known(asked.out / "results.jsonl")
    for seed in range(asked.seeds):
        for name, config in pairs.items():
            if (key := f"{name} {seed}") not in results:
                results[key] = run(name, config, max(1, round(asked.seconds / cost[name])), seed, asked)
                tell(asked.out / "results.jsonl", key, results[key])
    report(pairs, results, asked)


def configs(facts: dict[str, int]) -> Iterator[tuple[str, TrainConfig]]:
    """Those that make a run."""
    for variant, record in VARIANTS.items():
        for arch in ARCHS:
            given = {"variant": variant, "arch": arch, "lr": 10 * record.defaults["lr"], "batch": 32, "latent": 16}
            given |= {"n_critic": 1, "ema": 0.99, "holdout": 0.2, "width": 512 if arch == "mlp" else 24}
            try:
                yield f"{variant} {arch}", resolve(given, facts)[0]
            except UsageError as error:
                print(f"{variant} {arch}: {error}", file=sys.stderr)


def run(name: str, config: TrainConfig, steps: int, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    out = asked.out / name.replace(" ", "-") / str(seed)
    words = [part for key in ("variant", "arch", "lr", "batch", "latent", "n_critic", "ema", "holdout", "width")
             for part in (f"--{key.replace('_', '-')}", getattr(config, key))]  # fmt: skip
    ended = wgan("train", "--data", asked.data, *words, "--steps", steps, "--seed", seed, "--force", "-q", "-o", out)
    found: dict[str, Any] = {"steps": steps, "verdict": read(out / "metrics.jsonl")[-1]["verdict"]}
    if ended:  # 4: it diverged
        return found
    lines = wgan_says("evaluate", out, "--data", asked.data, "-n", asked.count, "--json", "-q").splitlines()
    figures = {figure["figure"]: figure for figure in map(json.loads, lines)}
    levels = [figure for name, figure in figures.items() if name.startswith("swd_")]
    found |= {"distance": mean(f["samples"] for f in levels), "floor": mean(f["data"] for f in levels)}
    wgan_says("sample", out, "-n", SHOWN, "--nrow", SHOWN, "-o", out / "row.png")
    return found | {"coverage": figures["coverage"]["samples"]}


def wgan(*words: object) -> int:
    done = subprocess.run([Path(sys.executable).with_name("wgan"), *map(str, words)], capture_output=True, text=True)
    if done.returncode not in (0, 4):
        raise SystemExit(f"wgan {' '.join(map(str, words))}: {done.stderr}")
    return done.returncode


def wgan_says(*words: object) -> str:
    return subprocess.run(
        [Path(sys.executable).with_name("wgan"), *map(str, words)], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def known(path: Path) -> dict[str, Any]:
    return dict(map(json.loads, path.read_text().splitlines())) if path.exists() else {}


def tell(path: Path, key: str, value: Any) -> None:
    with path.open("a") as file:
        print(json.dumps([key, value]), file=file)
    print(key, value, file=sys.stderr, flush=True)


def report(pairs: dict[str, TrainConfig], results: dict[str, Any], asked: argparse.Namespace) -> None:
    """A markdown table on stdout, and the picture."""
    print(
        "| variant | arch | steps | distance, each seed | floor | coverage | verdict |\n|---|---|---|---|---|---|---|"
    )
    for name in pairs:
        found = [results[f"{name} {seed}"] for seed in range(asked.seeds)]
        variant, arch = name.split()
        ended = [f for f in found if "distance" in f]
        distances = ", ".join(f"{f['distance']:.0f}" if "distance" in f else "-" for f in found)
        floor = f"{mean(f['floor'] for f in ended):.0f}" if ended else "-"
        coverage = f"{median(f['coverage'] for f in ended):.2f}" if ended else "-"
        words = ", ".join(dict.fromkeys(f["verdict"] for f in found))
        print(f"| `{variant}` | `{arch}` | {found[0]['steps']} | {distances} | {floor} | {coverage} | {words} |")
    draw(pairs, asked.out).save(asked.out / "samples.png")


def draw(pairs: Iterable[str], out: Path) -> Image.Image:
    rows, columns = (list(dict.fromkeys(name.split()[part] for name in pairs)) for part in (0, 1))
    drawn = {name: row for name in pairs if (row := out / name.replace(" ", "-") / "0" / "row.png").exists()}
    wide, high = map(max, zip(*(Image.open(row).size for row in drawn.values()), strict=True))
    picture = Image.new("RGB", (MARGIN + len(columns) * (wide + GAP), HEAD + len(rows) * (high + GAP)), "white")
    pen = ImageDraw.Draw(picture)
    for number, arch in enumerate(columns):
        pen.text((MARGIN + number * (wide + GAP), 2), arch, "black")
    for number, variant in enumerate(rows):
        pen.text((2, HEAD + number * (high + GAP) + high // 2 - 6), variant, "black")
    for name, row in drawn.items():
        variant, arch = name.split()
        with Image.open(row) as samples:
            at = (MARGIN + columns.index(arch) * (wide + GAP), HEAD + rows.index(variant) * (high + GAP))
            picture.paste(samples.convert("RGB"), at)
    return picture


if __name__ == "__main__":
    main()
