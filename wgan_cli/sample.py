"""Samples from a generator. Image i follows from (weights, seed, i) alone, to the last bit."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from io import BytesIO
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from . import UsageError
from .console import in_short
from .data.dataset import to_pixels
from .data.decode import GRID_MARK
from .files import names_folder, replacing

CHUNK = 64  # images generated at a time, always: a matrix product's last bits depend on its shape
GAP = 2  # pixels between the images of a grid


def latents(seed: int, indices: Sequence[int], size: int, truncation: float | None = None) -> NDArray[np.float32]:
    """[n, size] standard normal latents, one row an index, each from a generator of its own.

    truncation: values beyond ±truncation are drawn again (Brock et al. 2019, section 3.1).
    """
    rows = np.empty((len(indices), size), np.float32)
    bits = np.random.Philox(key=[seed, 0])
    rng, fresh = np.random.Generator(bits), bits.state
    for row, index in zip(rows, indices, strict=True):
        fresh["state"]["key"][1] = index
        bits.state = fresh  # as a new Philox(key=[seed, index]), in a third of the time
        row[:] = rng.standard_normal(size)
        while truncation is not None and (beyond := np.abs(row) > truncation).any():
            row[beyond] = rng.standard_normal(int(beyond.sum()))
    return rows


def interpolate(ends: NDArray[np.float32], steps: int, loop: bool = False) -> NDArray[np.float32]:
    """[n + 1, L] latents → [n · steps, L]: from each to the next in `steps` points along the great circle.

    loop: [n, L] → [n · steps, L], as there is a pair more, from the last latent to the first.

    Spherical, as the norms of normal latents concentrate (White 2016, arXiv 1609.04468). Both ends are included.
    """
    rows, stations = [], ends.astype(np.float64)
    for a, b in pairwise([*stations, stations[0]] if loop else stations):
        cosine = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        angle = math.acos(float(np.clip(cosine, -1, 1)))
        for t in np.linspace(0, 1, steps):
            if math.sin(angle) < 1e-6:
                rows.append((1 - t) * a + t * b)
            else:
                rows.append((math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle))
    return np.asarray(rows, np.float32)


def spread(count: int, weights: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64] | None:
    """[count] numbers of classes in order, of each as many as its weight asks for; None without classes."""
    if not len(weights):
        return None
    shares = np.cumsum(weights)
    return np.searchsorted(shares, (np.arange(count) + 0.5) * (shares[-1] / count), side="right")


def part(count: int, shard: tuple[int, int]) -> range:
    """The places of the i-th of n parts of 0 … count - 1, shard (i, n): as equal as can be, one after the other."""
    number, parts = shard
    return range(count * (number - 1) // parts, count * number // parts)


def class_number(classes: Sequence[str], name: str) -> int:
    """UsageError for a name that is none of the classes."""
    if not classes:
        raise UsageError(f"--class {name}: this checkpoint was trained without --labels, so it knows no classes")
    if name not in classes:
        raise UsageError(f"--class {name}: choose one of {in_short(classes)}")
    return classes.index(name)


def classes_of(classes: Sequence[str], name: str | None, indices: Sequence[int]) -> NDArray[np.int64] | None:
    """The number of the class of each image [n]: of the class that is named, or in turn; for `all` [classes, n], each
    class for all images. None where there are no classes."""
    if name is None:
        return np.array([index % len(classes) for index in indices]) if classes else None
    if name == "all" and classes and name not in classes:
        return np.repeat(np.arange(len(classes)), len(indices)).reshape(len(classes), -1)
    return np.full(len(indices), class_number(classes, name))


@torch.inference_mode()
def generate(
    generator: nn.Module, rows: NDArray[np.float32], first: int = 0, y: NDArray[np.int64] | None = None
) -> Iterator[Tensor]:
    """Samples [n ≤ CHUNK, *shape] of the latents `rows`, which have the indices first, first + 1, …; y: their classes.

    Sample i is always computed at place i mod CHUNK of a batch of CHUNK.
    """
    device = next(generator.parameters()).device
    done = 0
    while done < len(rows):
        place = (first + done) % CHUNK
        count = min(CHUNK - place, len(rows) - done)
        batch = torch.zeros(CHUNK, rows.shape[1])
        batch[place : place + count] = torch.from_numpy(rows[done : done + count])
        labels = None
        if y is not None:
            labels = torch.zeros(CHUNK, dtype=torch.int64)
            labels[place : place + count] = torch.from_numpy(y[done : done + count])
            labels = labels.to(device)
        yield generator(batch.to(device), labels)[place : place + count]
        done += count


def write_samples(
    generator: nn.Module,
    rows: NDArray[np.float32],
    out: str,
    *,
    y: NDArray[np.int64] | None = None,  # [N] numbers of classes, or [K, N]: the latents again for each row
    first: int = 0,  # index of the first latent
    stem: str = "",  # of the names in a folder
    columns: int | None = None,  # of a grid
    scale: int = 1,  # a grid's pixels are squares of this side
    stdout: BinaryIO | None = None,  # what `-` means
) -> None:
    """Generate a sample for each latent and write them as `out` asks.

    A folder gets one PNG an image, STEM-INDEX.png, of several rows STEM-classK-INDEX.png; .npz and .npy get uint8 [N,
    H, W, C] (float32 [N, D] for points), written as it is generated, an .npz `labels` too; anything else is one PNG
    grid.
    """
    each = y if y is not None and y.ndim == 2 else [y]
    chunks = (to_output(chunk) for part in each for chunk in generate(generator, rows, first, part))
    path = Path(out)
    if stdout is None and names_folder(out):
        names = [stem if part is None or part is y else f"{stem}-class{part[0]}" for part in each]
        for number, image in enumerate(chain.from_iterable(chunks)):
            if image.ndim == 1:
                raise UsageError(f"-o {out}: a toy set's samples are points; write them to one .png, .npz or .npy")
            row, place = divmod(number, len(rows))
            path.mkdir(parents=True, exist_ok=True)
            with replacing(path / f"{names[row]}-{first + place:06}.png") as file:
                to_image(image).save(file, "PNG")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".npz", ".npy"):
        _write_array(path, chunks, len(each) * len(rows), y)
        return
    mark, picture = PngInfo(), BytesIO()  # a pipe cannot seek
    mark.add_text("Software", GRID_MARK)  # so that it is never taken for an image to train on
    grid(enlarged(np.concatenate(list(chunks)), scale), columns).save(picture, "PNG", pnginfo=mark)
    with nullcontext(stdout) if stdout else replacing(path) as file:
        file.write(picture.getbuffer())


def to_output(samples: Tensor) -> NDArray[Any]:
    """Images as uint8 [B, H, W, C], points as float32 [B, D]."""
    return (to_pixels(samples) if samples.dim() == 4 else samples.float()).cpu().numpy()


def _write_array(path: Path, chunks: Iterator[NDArray[Any]], count: int, y: NDArray[np.int64] | None) -> None:
    with ExitStack() as opened:
        stream: Any = opened.enter_context(replacing(path))
        if path.suffix.lower() == ".npz":
            archive = opened.enter_context(zipfile.ZipFile(stream, "w"))
            if y is not None:
                with archive.open("labels.npy", "w") as labels:
                    np.lib.format.write_array(labels, y.ravel())
            stream = opened.enter_context(archive.open("images.npy", "w", force_zip64=True))
        for number, chunk in enumerate(map(np.ascontiguousarray, chunks)):
            if number == 0:
                header = np.lib.format.header_data_from_array_1_0(chunk)
                np.lib.format.write_array_header_1_0(stream, {**header, "shape": (count, *chunk.shape[1:])})
            stream.write(chunk.data)


def grid(samples: NDArray[Any], columns: int | None = None) -> Image.Image:
    """One picture of images [N, H, W, C] in rows, as square as can be unless `columns` says, or of points [N, 2]."""
    if samples.ndim == 2:
        return scatter(samples)
    count, height, width, channels = samples.shape
    columns, rows = layout(count, columns)
    cells = np.pad(samples, ((0, rows * columns - count), (GAP, 0), (GAP, 0), (0, 0)))
    lines = cells.reshape(rows, columns, height + GAP, width + GAP, channels).swapaxes(1, 2)
    canvas = lines.reshape(rows * (height + GAP), columns * (width + GAP), channels)
    return to_image(np.pad(canvas, ((0, GAP), (0, GAP), (0, 0))))


def layout(count: int, columns: int | None) -> tuple[int, int]:
    """(columns, rows) of a grid of so many images: as square as can be unless `columns` says."""
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    return columns, math.ceil(count / columns)


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """[H, W, C] as a picture: grey, RGB or RGBA; of other channel counts the first one or three."""
    channels = pixels.shape[2]
    if channels not in (1, 3, 4):
        pixels = pixels[:, :, : 1 if channels == 2 else 3]
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def enlarged(images: NDArray[Any], scale: int) -> NDArray[Any]:
    """[N, H, W, C] → [N, scale · H, scale · W, C], each pixel a square; points [N, D] stay as they are."""
    return images.repeat(scale, axis=1).repeat(scale, axis=2) if images.ndim == 4 else images


def scatter(points: NDArray[np.float32], side: int = 512, extent: float = 2.5) -> Image.Image:
    """Points of the plane as dots on white, [-extent, extent] in both directions, y upwards."""
    canvas = np.full((side, side), 255, np.uint8)
    inside = points[np.abs(points).max(axis=1) < extent]
    columns, rows = ((inside * (1, -1) + extent) * (side / (2 * extent))).astype(int).T
    canvas[rows, columns] = 0
    return Image.fromarray(canvas).filter(ImageFilter.MinFilter(3))  # which makes the dots 3 x 3
