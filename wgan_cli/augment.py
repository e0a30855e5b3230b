"""Differentiable augmentation (Zhao et al. 2020): changes of images that a critic sees real and made ones under alike.

Images [B, C, H, W] in [-1, 1]. Every operation draws anew for each image, from `rng`, and lets the gradient through to
the images. What is moved in from outside, and what is cut out, is 0: the middle grey. Nothing is clamped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .distributed import drawn

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def augmented(images: Tensor, operations: Sequence[str], rng: torch.Generator) -> Tensor:
    """The images after these of OPERATIONS, in this order."""
    for name in operations:
        images = OPERATIONS[name](images, rng)
    return images


def color(images: Tensor, rng: torch.Generator) -> Tensor:
    """Brightness x + b, b in ±½; saturation c + s (x - c), c the mean of a pixel's channels, s in 0 to 2; contrast
    m + k (x - m), m the mean of an image, k in ½ to 1½. Each is drawn uniformly."""
    brightness, saturation, contrast = (_uniform(images, rng) for _ in range(3))
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + 2 * saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (images - mean)


def translation(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shifted along both axes, each by a whole number of pixels, drawn uniformly from 0 to ± an eighth of that side."""
    import torch

    sides = images.shape[2:]
    down, right = (_rounded(side / 8) for side in sides)
    padded = torch.nn.functional.pad(images, (right, right, down, down))
    padded = padded.permute(0, 2, 3, 1)  # a pixel's channels lie together
    rows, columns = (
        _starts(images, 2 * margin + 1, rng) + _places(images, side)
        for side, margin in zip(sides, (down, right), strict=True)
    )
    index = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(images: Tensor, rng: torch.Generator) -> Tensor:
    """A part of half each side is 0, its centre drawn uniformly from all of the image, beyond which it is cut off."""
    inside = []
    for side in images.shape[2:]:
        size, place = _rounded(side / 2), _places(images, side)
        start = _starts(images, side + 1 - size % 2, rng) - size // 2
        inside.append((start <= place) & (place < start + size))
    rows, columns = inside
    return images * ~(rows[:, None, :, None] & columns[:, None, None, :])


OPERATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "color": color,
    "translation": translation,
    "cutout": cutout,
}


def _uniform(images: Tensor, rng: torch.Generator) -> Tensor:
    """[B, 1, 1, 1], in [0, 1)."""
    import torch

    return drawn(partial(torch.rand, generator=rng, device=images.device), len(images), 1, 1, 1)


def _starts(images: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """[B, 1], whole, from 0 to count - 1."""
    import torch

    return drawn(partial(torch.randint, count, generator=rng, device=images.device), len(images), 1)


def _places(images: Tensor, side: int) -> Tensor:
    """[side], 0 to side - 1."""
    import torch

    return torch.arange(side, device=images.device)


def _rounded(value: float) -> int:
    return int(value + 0.5)  # halves up
