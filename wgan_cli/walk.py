"""Walks that move: animated WebP, GIF and PNG of what the generator draws on the way from latent to latent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from . import UsageError
from .files import replacing
from .sample import GAP, enlarged, generate, grid, layout, to_image, to_output

# How Pillow writes each form: without loss, but for a GIF's 256 colours a frame; and the longest side it holds.
FORMS: dict[str, dict[str, Any]] = {
    ".webp": {"format": "WEBP", "lossless": True},
    ".gif": {"format": "GIF"},
    ".apng": {"format": "PNG"},
}
LONGEST = {".webp": 16_383, ".gif": 65_535}
FRAME = 50  # milliseconds


def once(rows: NDArray[np.float32], steps: int, loop: bool) -> NDArray[np.float32]:
    """[n · steps, L] latents of `sample.interpolate` → each once: where a pair ends, the next one begins.

    loop: the last pair ends where the first one begins, so its end is left out too.
    """
    begun = rows.reshape(-1, steps, rows.shape[1])[:, :-1].reshape(-1, rows.shape[1])
    return begun if loop else np.concatenate([begun, rows[-1:]])


def write_walk(
    generator: nn.Module,
    rows: NDArray[np.float32],
    out: str,
    *,
    y: NDArray[np.int64] | None = None,  # [N] numbers of classes, or [K, N]: a montage of the K in each frame
    columns: int | None = None,  # of a montage
    scale: int = 1,
) -> None:
    """Generate a frame for each latent and write them as `out`, whose ending is the form; it repeats without end.

    Raises UsageError for points, and for frames larger than the form has.
    """
    each_class = y if y is not None and y.ndim == 2 else [y]
    images = np.stack(
        [np.concatenate([to_output(chunk) for chunk in generate(generator, rows, 0, part)]) for part in each_class]
    )
    if images.ndim == 3:
        raise UsageError(f"-o {out}: a toy set's samples are points, which do not move; write them to one .png")
    path = Path(out)
    form = path.suffix.lower()
    wide, high = _sides(images.shape, columns, scale)
    if max(wide, high) > (most := LONGEST.get(form, 2**31 - 1)):
        raise UsageError(f"-o {out}: a frame of {wide}x{high}; {form} has sides of {most} at most")
    moments = [enlarged(images[:, moment], scale) for moment in range(len(rows))]
    first, *rest = [to_image(each[0]) if len(each) == 1 else grid(each, columns) for each in moments]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        # Where a frame is transparent, a GIF's frame before would show through.
        options = FORMS[form] | ({"disposal": 2} if form == ".gif" and first.mode == "RGBA" else {})
        first.save(file, save_all=True, append_images=rest, duration=FRAME, loop=0, **options)


def _sides(shape: tuple[int, ...], columns: int | None, scale: int) -> tuple[int, int]:
    """(width, height) of a frame of images [K, N, H, W, C]: of one image, or `grid` of K."""
    count, _, high, wide = shape[:4]
    if count == 1:
        return wide * scale, high * scale
    across, down = layout(count, columns)
    return across * (wide * scale + GAP) + GAP, down * (high * scale + GAP) + GAP
