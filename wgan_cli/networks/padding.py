"""Sides that convolutions halve down to a few pixels: powers of two, multiples of 16, and others padded up to a power
of two. Sizes are (height, width)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

GRID = 4  # pixels at least of the shorter side of the generator's first and the critic's last feature map
SIDES = (16, 32, 64, 128, 256)
STEP = 16

Sides = tuple[int, int]


def padded_size(side: int, sides: tuple[int, ...] = SIDES) -> int | None:
    """The side that networks for images of `side` work at inside, None if there is none.

    Up to an eighth under a power of two is padded (28 to 32, 112 to 128), so that little work is wasted; where `sides`
    are all powers, any other multiple of 16 stays as it is.
    """
    near = next((power for power in sides if power * 7 // 8 <= side <= power), None)
    whole = sides == SIDES and 0 < side <= SIDES[-1] and side % STEP == 0
    return near or (side if whole else None)


def refusal(size: Sides, arch: str, sides: tuple[int, ...] = SIDES) -> str | None:
    """Why `arch`, which works at `sides` inside, cannot make images of this size; None if it can."""
    if not all(size):
        return "a toy set holds points, not images: use --arch mlp"
    wrong = next((side for side in size if not padded_size(side, sides)), None)
    if wrong is None:
        return None
    below = max((s for s in range(wrong) if padded_size(s, sides)), default=None)
    above = next((s for s in range(wrong, 257) if padded_size(s, sides)), None)
    near = " or ".join(str(s) for s in (below, above) if s)
    taken = f"multiples of {STEP} up to {SIDES[-1]}" if sides == SIDES else " and ".join(map(str, sides))
    given = f"{wrong}" if size[0] == size[1] else f"{size[1]}x{size[0]}"
    return (
        f"--size {given}: --arch {arch} takes {taken}, and sides up to an eighth under a power of two of these, as 28 "
        f"is under 32; use {near}{'' if size[0] == size[1] else f' for {wrong}'}, or --arch mlp"
    )


def inside(size: Sides) -> Sides:
    """What networks for images of this size work at."""
    height, width = (padded_size(side) for side in size)
    assert height and width  # checked in TrainConfig
    return height, width


def halvings(size: Sides) -> int:
    """How often both sides inside can be halved until the shorter one is a few pixels."""
    height, width = inside(size)
    count = 0
    while height >> count >= 2 * GRID and width >> count >= 2 * GRID and not (height | width) >> count & 1:
        count += 1
    return count


def grid(size: Sides) -> Sides:
    """Of the smallest feature map: 4x4 for squares of a power of two."""
    height, width = inside(size)
    return height >> halvings(size), width >> halvings(size)


def margin(size: Sides, sign: int) -> nn.ZeroPad2d:
    """A margin of mid-grey up to the padded size, 2 pixels on each side for 28, or (sign -1) its removal."""
    from torch import nn

    top, left = ((whole - side) // 2 for whole, side in zip(inside(size), size, strict=True))
    bottom, right = ((whole - side + 1) // 2 for whole, side in zip(inside(size), size, strict=True))
    return nn.ZeroPad2d((sign * left, sign * right, sign * top, sign * bottom))


def margins(size: Sides) -> list[nn.Module]:
    """What a critic begins with: the margin, where there is one."""
    return [] if inside(size) == size else [margin(size, 1)]
