"""One image file, brought to the pixels that are trained on. Never imports torch: this runs in processes of its own."""

from __future__ import annotations

import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # no other decoder is reached, whatever a file claims to be
MOST_BYTES = 256 << 20  # of one image file in a zip

Pixels = NDArray[np.uint8]  # [H, W, C]


class Item(NamedTuple):
    """One image file, or one entry of a zip."""

    path: str
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path


class BadFile(NamedTuple):
    name: str
    reason: str
    lasts: bool = True  # not for what the system could not do this time, as on a disk or network that fails


def read_image(item: Item, size: int, channels: int, fit: str) -> Pixels:
    """Decode one image and bring it to [size, size, channels]. Raises whatever its decoder does."""
    with open_image(item) as image:
        return fit_image(image, size, channels, fit)


@contextmanager
def open_image(item: Item) -> Iterator[Image.Image]:
    """The image, not yet decoded. A decompression bomb is an error from Pillow's first limit on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oddities beside the pixels, such as a broken EXIF
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if not item.path.lower().endswith(".zip"):
            if stat.S_ISFIFO(os.stat(item.path).st_mode):  # would wait for a writer
                raise ValueError("a pipe, not a file")
            file: str | BytesIO = item.path
        else:
            archive = open_zip(item.path)
            if (size := archive.getinfo(item.member).file_size) > MOST_BYTES:  # a few kilobytes may say so, and mean it
                raise ValueError(f"{size} bytes when unpacked, more than the {MOST_BYTES} that are taken")
            file = BytesIO(archive.read(item.member))
        with Image.open(file, formats=FORMATS) as image:
            yield image


@lru_cache(maxsize=8)
def open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def fit_image(image: Image.Image, size: int, channels: int, fit: str) -> Pixels:
    """Bring an image to [size, size, channels] as in training.

    Turned as its EXIF says. Transparency is kept with 4 channels, else shown on white. Grey of 16 bits is scaled
    to 8, floats are taken from 0 to 1. fit: `crop` the middle square, `pad` with black (transparent with
    4 channels), or `stretch`; resampled with Lanczos.
    """
    # A JPEG is decoded at 1/2, 1/4 or 1/8 scale where that leaves twice the size; others take no draft.
    image.draft("L" if channels == 1 and image.mode == "RGB" else "", (2 * size, 2 * size))
    ImageOps.exif_transpose(image, in_place=True)
    image = _to_mode(image, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    width, height = image.size
    target, box = (size, size), (0.0, 0.0, float(width), float(height))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2  # whole pixels: half a pixel's shift would blur
        box = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target != image.size:
        image = image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if target != (size, size):
        canvas = Image.new(image.mode, (size, size))
        canvas.paste(image, ((size - target[0]) // 2, (size - target[1]) // 2))
        image = canvas
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, channels)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        top = 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"values from {values.min():g} to {values.max():g}, expected 0 to {top:g}")
        image = Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))
    if has_alpha(image):
        image = image.convert("RGBA")
        if mode != "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def has_alpha(image: Image.Image) -> bool:
    wide = image.mode[0] in "IF"  # whose transparent value, if any, Pillow cannot apply
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or ("transparency" in image.info and not wide)


def native_channels(image: Image.Image) -> int:
    if has_alpha(image):
        return 4
    return 1 if image.mode[0] in "1LIF" and image.mode != "LAB" else 3
