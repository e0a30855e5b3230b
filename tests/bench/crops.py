"""Crops of photographs, 64x64, for measurements in colour: there are few free photographs, but each has many places.

    python tests/bench/crops.py -o crops -n 6000 [--seed 0] PHOTO...

Each photograph is scaled to a shorter side of 512 pixels; of it come squares of 128 to 512 pixels, of each photograph
as many, scaled down to 64. So parts of one photograph are among the images that are held out and among the others.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from PIL import Image

SHORTER, LEAST, SIDE = 512, 128, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", metavar="PHOTO")
    parser.add_argument("-n", "--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    photos = [scaled(path) for path in sorted(asked.photos)]
    draw = random.Random(asked.seed)
    for number in range(asked.count):
        photo = photos[number % len(photos)]
        side = draw.randint(LEAST, SHORTER)
        x, y = draw.randint(0, photo.width - side), draw.randint(0, photo.height - side)
        crop = photo.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        crop.save(asked.out / f"{number:05d}.png")


def scaled(path: str) -> Image.Image:
    photo = Image.open(path).convert("RGB")
    ratio = SHORTER / min(photo.size)
    return photo.resize((round(photo.width * ratio), round(photo.height * ratio)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
