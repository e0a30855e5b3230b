"""One image file, brought to the pixels that are trained on.

This runs in processes of its own, which are not to wait for torch, nor for numpy where no image needs it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, TypeAlias

from PIL import ExifTags, Image, ImageChops, ImageOps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # no other decoder is reached, whatever a file claims to be
DIGEST_BYTES = 8  # by which the content of two files is told apart
READ_AT_ONCE = 4 << 20  # bytes of a file
GRID_MARK = "wgan grid"  # as the software that wrote a PNG; a single sample has no such mark
MOST_BYTES = 256 << 20  # of one image file in a zip

Pixels: TypeAlias = "NDArray[np.uint8]"  # [H, W, C]
Sides: TypeAlias = tuple[int, int]  # (height, width)


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


class Read(NamedTuple):
    """An image as one process hands it to another."""

    content: bytes  # `content_digest` of its file
    pixels: bytes  # [*size, channels]


class Look(NamedTuple):
    """What an image is, before it is brought to a size."""

    side: int  # the shorter one, in pixels
    channels: int  # that its pixels need, but for colour: grey in three channels counts as 3
    stored: int  # channels in the file


def look(item: Item) -> Look:
    """Without decoding the pixels, unless there is an alpha channel: one that is opaque throughout is not needed."""
    with open_file(item) as file, open_image(file) as image:
        _check_no_grid(image)
        stored = native_channels(image)
        if stored < 4 or image.convert("RGBA").getchannel("A").point(lambda a: a < 255).getbbox():
            return Look(min(image.size), stored, stored)
        return Look(min(image.size), 1 if image.mode in ("LA", "La") else 3, stored)


def is_grey(item: Item) -> bool:
    """Whether every pixel is grey, whatever the file's mode: shown on white where it is transparent."""
    with open_file(item) as file, open_image(file) as image:
        red, green, blue = _to_mode(image, "RGB").split()
        return all(ImageChops.difference(red, other).getbbox() is None for other in (green, blue))


GRID = "a grid of samples that wgan drew"


def _check_no_grid(image: Image.Image) -> None:
    if image.info.get("Software") == GRID_MARK:
        raise ValueError(GRID)


def read_file(item: Item, size: Sides, channels: int, fit: str, grids: bool = True) -> Read:
    """Decode one image and bring it to [*size, channels]. Raises whatever its decoder does.

    grids: whether a grid of samples passes for an image.
    """
    with open_file(item) as file:
        size_of_file = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size_of_file <= READ_AT_ONCE:
            file = BytesIO(file.read())
        with open_image(file) as image:
            if not grids:
                _check_no_grid(image)
            pixels = _fitted(image, size, channels, fit).tobytes()
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(READ_AT_ONCE):
            digest.update(block)
    return Read(digest.digest()[:DIGEST_BYTES], pixels)


@contextmanager
def open_file(item: Item) -> Iterator[BinaryIO]:
    """The bytes of an image file, or of a zip's entry."""
    if not item.path.lower().endswith(".zip"):
        if not stat.S_ISREG(mode := os.stat(item.path).st_mode) and not stat.S_ISDIR(mode):
            raise ValueError("a pipe or a device, not a file")  # may wait for a writer, or have no end
        with open(item.path, "rb") as file:
            yield file
        return
    archive = open_zip(item.path)
    if (size := archive.getinfo(item.member).file_size) > MOST_BYTES:  # a few kilobytes may say so, and mean it
        raise ValueError(f"{size} bytes when unpacked, more than the {MOST_BYTES} that are taken")
    yield BytesIO(archive.read(item.member))


@contextmanager
def open_image(file: BinaryIO) -> Iterator[Image.Image]:
    """The image, not yet decoded. A decompression bomb is an error from Pillow's first limit on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of oddities beside the pixels, such as a broken EXIF
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=FORMATS) as image:
            yield image


@lru_cache(maxsize=8)
def open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def fit_image(image: Image.Image, size: Sides, channels: int, fit: str) -> Pixels:
    """`_fitted` as an array."""
    import numpy as np

    return np.frombuffer(_fitted(image, size, channels, fit).tobytes(), np.uint8).reshape(*size, channels)


def _fitted(image: Image.Image, size: Sides, channels: int, fit: str) -> Image.Image:
    """Bring an image to [*size, channels] as in training.

    Turned as its EXIF says. Transparency is kept with 4 channels, else shown on white. Grey of 16 bits is scaled
    to 8, floats are taken from 0 to 1. fit: `crop` the middle of that shape, `pad` with black (transparent with
    4 channels), or `stretch`; resampled with Lanczos.
    """
    high, wide = size
    # A JPEG is decoded at 1/2, 1/4 or 1/8 scale where that leaves twice the size; others take no draft.
    on_its_side = high != wide and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    twice = (2 * high, 2 * wide) if on_its_side else (2 * wide, 2 * high)
    image.draft("L" if channels == 1 and image.mode == "RGB" else "", twice)
    ImageOps.exif_transpose(image, in_place=True)
    image = _to_mode(image, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    width, height = image.size
    target, box = (wide, high), (0.0, 0.0, float(width), float(height))
    if fit == "crop":  # whole pixels: half a pixel's shift would blur
        across, down = min(width, round(height * wide / high)), min(height, round(width * high / wide))
        left, top = (width - across) // 2, (height - down) // 2
        box = (left, top, left + max(1, across), top + max(1, down))
    elif fit == "pad":
        scale = min(wide / width, high / height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target != image.size:
        image = image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if target != (wide, high):
        canvas = Image.new(image.mode, (wide, high))
        canvas.paste(image, ((wide - target[0]) // 2, (high - target[1]) // 2))
        image = canvas
    return image


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        import numpy as np

        values = np.asarray(image)
        top = 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"values from {values.min():g} to {values.max():g}, expected 0 to {top:g}")
        scaled = np.empty(values.shape, np.uint8)
        for rows in _bands(image):
            scaled[rows] = np.round(values[rows].astype(np.float64) * (255 / top))
        image = Image.fromarray(scaled)
    if has_alpha(image):
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        return image if mode == "RGBA" else _on_white(image, mode)
    if image.mode == "LAB":  # which Pillow converts to RGB alone
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    """An RGBA image in `mode`, shown on white."""
    shown = Image.new(mode, image.size)
    for rows in _bands(image):
        band = image.crop((0, rows.start, image.width, rows.stop))
        shown.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert(mode), (0, rows.start))
    return shown


def _bands(image: Image.Image) -> Iterator[slice]:
    """Its rows, some million pixels at a time: no copy of a whole image is needed in a wider type."""
    at_once = max(1, (1 << 20) // image.width)
    for top in range(0, image.height, at_once):
        yield slice(top, min(top + at_once, image.height))


def has_alpha(image: Image.Image) -> bool:
    wide = image.mode[0] in "IF"  # whose transparent value, if any, Pillow cannot apply
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or ("transparency" in image.info and not wide)


def native_channels(image: Image.Image) -> int:
    if has_alpha(image):
        return 4
    return 1 if image.mode[0] in "1LIF" and image.mode != "LAB" else 3
