"""Images in an array: .npy, .npz, and MNIST's idx files."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import DataError, WganError
from .decode import DIGEST_BYTES, MOST_BYTES, Pixels, Read, Sides, fit_image


def is_array(path: Path) -> bool:
    """Whether a file is one of these forms, by its suffix or its first bytes."""
    return path.suffix.lower() in (".npy", ".npz") or (os.path.isfile(path) and is_idx(path))


def is_idx(path: Path) -> bool:
    """MNIST's format, gzipped or not: two zero bytes, a type, the number of dimensions."""
    try:
        with _maybe_gzip(path) as file:
            magic = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in b"\x08\x09\x0b\x0c\x0d\x0e" and 1 <= magic[3] <= 4


def _maybe_gzip(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if gzipped else open(path, "rb")  # type: ignore[return-value]


@contextmanager
def open_array(path: Path) -> Iterator[tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]]:
    """A stream that stands at an array's first value, the values' type, and the array's shape [N, ...]."""
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive, archive.open(_array_member(archive)) as stream:
                yield stream, *_npy_header(stream)
        elif path.suffix.lower() == ".npy":
            with open(path, "rb") as stream:
                yield stream, *_npy_header(stream)
        else:
            with _maybe_gzip(path) as stream:
                magic = stream.read(4)
                if magic[2] != 8:
                    raise ValueError("an idx file of other values than unsigned bytes")
                shape = tuple(int.from_bytes(stream.read(4), "big") for _ in range(magic[3]))
                yield stream, np.dtype(np.uint8), _checked_shape(shape)
    except WganError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # readers of archives raise nearly everything on broken input
        raise DataError(f"{path}: {str(error) or type(error).__name__}") from None


def _npy_header(stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    shape, fortran, dtype = npy_facts(stream)
    if dtype.kind not in "bf" and dtype != np.uint8:
        raise ValueError(f"an array of {dtype}; takes uint8, or floats in [0, 1] or [-1, 1]")
    if fortran:
        raise ValueError("an array in Fortran order; save np.ascontiguousarray(array)")
    return dtype, _checked_shape(shape)


def npy_facts(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, in Fortran order, type) of the array that a stream is about to give."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    return (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(stream)


def _array_member(archive: zipfile.ZipFile) -> str:
    """The array of images in an .npz: the one of 3 or 4 dimensions, `images` or `x_train` where there are several."""
    found = []
    entries = [entry for entry in archive.namelist() if entry.endswith(".npy")]
    for entry in entries:
        with archive.open(entry) as stream:
            if len(npy_facts(stream)[0]) in (3, 4):
                found.append(entry)
    preferred = [entry for entry in found if entry in ("images.npy", "x_train.npy")]
    if len(found) != 1 and len(preferred) != 1:
        names = ", ".join(entry.removesuffix(".npy") for entry in entries)
        raise ValueError(f"cannot tell which array holds the images (there are: {names}); name it `images`")
    return (preferred or found)[0]


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"an array of shape {list(shape)}; takes [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if len(shape) == 4 and shape[1] == shape[3]:
        raise ValueError(f"an array of shape {list(shape)}: cannot tell channels from pixels; save it as [N, H, W, C]")
    return shape


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of an array's images; of its second and last dimension, the smaller one is C."""
    if len(shape) == 3:
        return shape[1], shape[2], 1
    return (shape[2], shape[3], shape[1]) if shape[1] < shape[3] else (shape[1], shape[2], shape[3])


def _array_records(path: Path, first: int = 0) -> Iterator[NDArray[Any]]:
    """An array's images as stored, from the first that is wanted, some megabytes at a time: [n, ...]."""
    with open_array(path) as (stream, dtype, shape):
        record = math.prod(shape[1:]) * dtype.itemsize
        if record > MOST_BYTES:
            raise ValueError(f"images of {record} bytes each, more than the {MOST_BYTES} that are taken")
        at_once = max(1, (4 << 20) // record)
        left = first * record
        while left and (skipped := len(stream.read(min(left, 4 << 20)))):  # one that is packed cannot seek
            left -= skipped
        for start in range(first, shape[0], at_once):
            count = min(at_once, shape[0] - start)
            content = stream.read(count * record)
            if len(content) < count * record:
                raise ValueError(f"cut short: holds {start + len(content) // record} of {shape[0]} images")
            yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


def read_array(path: Path, size: Sides, channels: int, fit: str, first: int = 0) -> tuple[int, Iterator[Read]]:
    """The number of an array's images, and each of them, from `first` on, at [*size, channels]."""
    with open_array(path) as (_, dtype, shape):
        pass
    height, width, own = image_shape(shape)
    if own != channels and not {own, channels} <= {1, 3, 4}:
        raise DataError(f"{path}: its images have {own} channels, which cannot be made {channels}")
    scale, offset = _float_scale(path) if dtype.kind == "f" else (255 if dtype.kind == "b" else 1, 0)

    def images() -> Iterator[Read]:
        for records in _array_records(path, first):
            digests = [hashlib.sha256(record.data).digest()[:DIGEST_BYTES] for record in records]
            if dtype.kind == "f":
                records = np.round(records.astype(np.float64) * scale + offset)
            pixels = records.astype(np.uint8) * np.uint8(scale if dtype.kind == "b" else 1)
            pixels = pixels.reshape(-1, height, width, 1) if len(shape) == 3 else pixels
            channels_last = pixels.transpose(0, 2, 3, 1) if len(shape) == 4 and shape[1] == own else pixels
            for digest, image in zip(digests, channels_last, strict=True):
                yield Read(digest, _fit_array(image, size, channels, fit).tobytes())

    return shape[0], images()


def _float_scale(path: Path) -> tuple[float, float]:
    """(scale, offset) that bring an array of floats from [0, 1], or else from [-1, 1], to [0, 255]."""
    lowest, highest = math.inf, -math.inf
    for records in _array_records(path):
        lowest, highest = np.minimum(lowest, records.min()), np.maximum(highest, records.max())  # keeps NaN
    if not (lowest >= -1 and highest <= 1):
        raise DataError(f"{path}: floats from {lowest:g} to {highest:g}; takes [0, 1] or [-1, 1]")
    return (255.0, 0.0) if lowest >= 0 else (127.5, 127.5)


def _fit_array(image: Pixels, size: Sides, channels: int, fit: str) -> Pixels:
    own = image.shape[2]
    if image.shape == (*size, channels):
        return image
    if {own, channels} <= {1, 3, 4}:
        return fit_image(Image.fromarray(image[:, :, 0] if own == 1 else image), size, channels, fit)
    layers = [fit_image(Image.fromarray(image[:, :, c]), size, 1, fit) for c in range(own)]
    return np.concatenate(layers, axis=2)
