"""Sides that convolutions halve down to 4 pixels: powers of two, and smaller images padded up to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

GRID = 4  # side in pixels of the generator's first and the critic's last feature map
SIDES = (16, 32, 64, 128, 256)


def padded_size(size: int, sides: tuple[int, ...] = SIDES) -> int | None:
    """The side that networks for images of `size` work at inside, None if there is none.

    A size that is no power of two is padded by at most an eighth (28 to 32), so that little work is wasted.
    """
    return next((side for side in sides if side * 7 // 8 <= size <= side), None)


def refusal(size: int, arch: str, sides: tuple[int, ...] = SIDES) -> str | None:
    """Why `arch`, which works at `sides` inside, cannot make images of this size; None if it can."""
    if not size:
        return "a toy set holds points, not images: use --arch mlp"
    if padded_size(size, sides):
        return None
    below = max((s for s in range(size) if padded_size(s, sides)), default=None)
    above = next((s for s in range(size, 257) if padded_size(s, sides)), None)
    near = " or ".join(str(s) for s in (below, above) if s)
    taken = "powers of two from 16 to 256" if sides == SIDES else " and ".join(map(str, sides))
    return (
        f"--size {size}: --arch {arch} takes {taken} and sizes up to an eighth "
        f"under one, such as 28; use {near}, or --arch mlp"
    )


def margin(size: int, sign: int) -> nn.ZeroPad2d:
    """A margin of mid-grey up to the padded size, 2 pixels on each side for 28, or (sign -1) its removal."""
    from torch import nn

    extra = (padded_size(size) or size) - size
    before, after = sign * (extra // 2), sign * (extra - extra // 2)
    return nn.ZeroPad2d((before, after, before, after))


def margins(size: int) -> list[nn.Module]:
    """What a critic begins with: the margin, where there is one."""
    return [] if padded_size(size) == size else [margin(size, 1)]
