"""Reading a folder of images against torchvision's ImageFolder and a DataLoader with 2 workers.

    python tests/bench/load.py --torchvision PYTHON [--rounds 5] [--json]

Both sides give batches of 64 as float32 in [-1, 1]: 10,000 PNGs of 28 by 28 as they are, 1,000 JPEGs of 1024 by 1024 at
64 by 64. `first` begins with listing the folder and ends with the last batch of an epoch, and for this tool holds the
decoding of every file into its cache; `later` is the next epoch. Each side runs in a process of its own, in turn, its
files read once before so that they are in memory. Imports are timed apart. Ratios of medians count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

Epoch = Callable[[], Iterator[Any]]

BATCH = 64
CASES = {"png": (10_000, 28, 28), "jpeg": (1_000, 1024, 64)}  # count, side, and side as it is trained on
NO_TORCHVISION = (
    "needs torchvision, in an environment of its own: python3 -m venv .venv-torchvision && "
    ".venv-torchvision/bin/pip install torchvision, then WGAN_TORCHVISION=.venv-torchvision/bin/python"
)


def write_images(folder: Path, form: str, count: int, side: int) -> None:
    """Soft patches of colour with some grain, the same at every call, saved by Pillow as it does by default."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "class").mkdir(parents=True)  # ImageFolder wants one
    for index in range(count):
        patches = rng.integers(0, 256, (max(7, side // 32), max(7, side // 32), 3), np.uint8)
        coarse = Image.fromarray(patches)
        soft = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = rng.integers(-12, 13, (side, side, 1), np.int16)
        Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(folder / "class" / f"{index:05}.{form}")


def ours(folder: str, size: int) -> Callable[[], Epoch]:
    import torch

    from wgan_cli.config import resolve
    from wgan_cli.console import Console
    from wgan_cli.data.cache import prepare, probe
    from wgan_cli.data.source import open_source

    def start() -> Epoch:
        console = Console(quiet=True)
        source = open_source(folder, BytesIO())
        config, _ = resolve({"size": size, "batch": BATCH}, probe(source, console))
        dataset = prepare(source, config, False, console)
        numbers = iter(range(1 << 30))
        device = torch.device("cpu")

        def epoch() -> Iterator[Any]:
            return (dataset.batch(next(numbers), BATCH, 0, device) for _ in range(len(dataset) // BATCH))

        return epoch

    return start


def torchvision(folder: str, size: int) -> Callable[[], Epoch]:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms  # type: ignore[import-not-found]

    def start() -> Epoch:
        steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
        steps.append(transforms.Normalize([0.5] * 3, [0.5] * 3))
        dataset = datasets.ImageFolder(folder, transforms.Compose(steps))
        loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True)
        return lambda: (batch for batch, _ in loader)

    return start


def one_side(side: str, folder: str, size: int, check: bool) -> dict[str, Any]:
    marks = [time.perf_counter()]
    start = {"ours": ours, "torchvision": torchvision}[side](folder, size)
    marks.append(time.perf_counter())
    for path in Path(folder).rglob("*.*"):
        path.read_bytes()
    marks.append(time.perf_counter())
    epoch = start()
    batches = sum(1 for _ in epoch())
    marks.append(time.perf_counter())
    sum(1 for _ in epoch())
    marks.append(time.perf_counter())
    # Apart, since arithmetic in two threads would hold up the loader's workers.
    mean = sum(float(batch.mean()) for batch in epoch()) / batches if check else None
    imports, _, first, later = (b - a for a, b in zip(marks[:-1], marks[1:], strict=True))
    return {"import": imports, "first": first, "later": later, "batches": batches, "mean": mean}


def measure(form: str, torchvision_python: str, rounds: int) -> dict[str, Any]:
    count, side, size = CASES[form]
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "torchvision": []}
    with tempfile.TemporaryDirectory() as place:
        images = Path(place, "images")
        write_images(images, form, count, side)
        for number in range(rounds):
            for name, python in (("ours", sys.executable), ("torchvision", torchvision_python)):
                done = subprocess.run(
                    [python, __file__, "--side", name, str(images), str(size), str(number or "check")],
                    env={**os.environ, "WGAN_CACHE": str(Path(place, f"cache{number}"))},
                    stdout=subprocess.PIPE,
                    check=True,
                )
                runs[name].append(json.loads(done.stdout))
        kilobytes = sum(path.stat().st_size for path in images.rglob("*.*")) / count / 1000
    mine, theirs = (runs[name][0] for name in runs)
    if mine["batches"] != theirs["batches"] or abs(mine["mean"] - theirs["mean"]) > 0.01:
        raise SystemExit(f"{form}: not the same images: {mine}, {theirs}")
    medians = {
        name: {part: statistics.median(run[part] for run in of_side) for part in ("import", "first", "later")}
        for name, of_side in runs.items()
    }
    ratios = {part: medians["torchvision"][part] / medians["ours"][part] for part in ("first", "later")}
    with_import = [medians[name]["import"] + medians[name]["first"] for name in ("torchvision", "ours")]
    ratios["first_with_import"] = with_import[0] / with_import[1]
    return {"case": form, "count": count, "kilobytes": kilobytes, "ratios": ratios, "seconds": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchvision", default=os.environ.get("WGAN_TORCHVISION"), metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--side", nargs=4, metavar=("SIDE", "FOLDER", "SIZE", "ROUND"), help="what each process is called with"
    )
    asked = parser.parse_args()
    if asked.side:
        side, folder, size, number = asked.side
        print(json.dumps(one_side(side, folder, int(size), number == "check")))
        return
    if not asked.torchvision:
        print(f"load.py {NO_TORCHVISION}", file=sys.stderr)
        return
    results = []
    if not asked.json:
        print("images              first pass  with imports  later pass  seconds: ours (later), torchvision (later)")
    for form in CASES:
        result = measure(form, asked.torchvision, asked.rounds)
        results.append(result)
        ratios, mine, theirs = result["ratios"], result["seconds"]["ours"], result["seconds"]["torchvision"]
        if not asked.json:
            print(
                f"{result['count']:6} {form:4} {result['kilobytes']:4.0f} kB {ratios['first']:9.2f}x"
                f" {ratios['first_with_import']:12.2f}x {ratios['later']:10.0f}x {mine['first']:12.2f}"
                f" ({mine['later']:.3f}), {theirs['first']:.2f} ({theirs['later']:.2f})",
                flush=True,
            )
    if asked.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
