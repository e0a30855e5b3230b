"""DCGAN's convolution, 4x4 with stride 2 and padding 1, and its transpose (Radford et al. 2016, section 3).

On a CPU a layer of many maps between 8x8 and 4x4 is one matrix product of all patches: oneDNN brings the weights of
such a layer into another order at every call, and that takes longer than the little the product does with them.
Measured on two cores with AMX, 256 to 512 maps, batch 64: 1.3 to 1.6 times as fast in float32; in bfloat16 1.4
(forward), 3 (transposed) and 6 times (gradient of the weights). At 16x16, and under 128 maps, oneDNN is as fast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 4  # of the smaller image, where the product is taken
MAPS = 128  # of the larger image, from which on it pays


class Halving(nn.Conv2d):
    """[B, C, 2h, 2w] -> [B, O, h, w]; weight [O, C, 4, 4]."""

    def __init__(self, maps_in: int, maps_out: int, bias: bool = True) -> None:
        super().__init__(maps_in, maps_out, 4, stride=2, padding=1, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        return halved(image, self.weight, self.bias)


class Doubling(nn.ConvTranspose2d):
    """[B, O, h, w] -> [B, C, 2h, 2w]; weight [O, C, 4, 4]."""

    def __init__(self, maps_in: int, maps_out: int, bias: bool = True) -> None:
        super().__init__(maps_in, maps_out, 4, stride=2, padding=1, bias=bias)

    def forward(self, image: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _by_product(image, self.weight, SIDE):
            return super().forward(image, output_size)
        doubled = _Doubled.apply(*_cast(image, self.weight))
        return doubled if self.bias is None else doubled + self.bias.view(-1, 1, 1).to(doubled.dtype)


def halved(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[B, C, 2h, 2w] -> [B, O, h, w]: `Halving` with that weight [O, C, 4, 4] and bias [O]."""
    if not _by_product(image, weight, 2 * SIDE):
        return F.conv2d(image, weight, bias, stride=2, padding=1)
    result: Tensor = _Halved.apply(*_cast(image, weight))
    return result if bias is None else result + bias.view(-1, 1, 1).to(result.dtype)


def transposed(image: Tensor, weight: Tensor) -> Tensor:
    """[B, O, h, w] -> [B, C, 2h, 2w]: the transpose of `Halving` with that weight, without bias."""
    if not _by_product(image, weight, SIDE):
        return F.conv_transpose2d(image, weight, stride=2, padding=1)
    return _Doubled.apply(*_cast(image, weight))


def _by_product(image: Tensor, weight: Tensor, side: int) -> bool:
    return image.device.type == "cpu" and image.shape[2:] == (side, side) and weight.shape[1] >= MAPS


def _cast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What autocast does before a convolution of torch's own."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    return tuple(tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors)


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return _image(_patches(image) @ _matrix(weight).T, SIDE)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        return (
            _Doubled.apply(gradient, weight) if ctx.needs_input_grad[0] else None,
            _weight(_rows(gradient).T @ _patches(image)) if ctx.needs_input_grad[1] else None,
        )


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return _summed(_rows(image) @ _matrix(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        return (
            _Halved.apply(gradient, weight) if ctx.needs_input_grad[0] else None,
            _weight(_rows(image).T @ _patches(gradient)) if ctx.needs_input_grad[1] else None,
        )


# ---- Images [B, C, H, W] and weights, all channels last, as matrices of a pixel or a patch a row: views, where none
# of the values moves, but for the two that copy a patch's pixels out of an image and add them up in one.


def _rows(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _image(rows: Tensor, side: int) -> Tensor:
    return rows.view(-1, side, side, rows.shape[1]).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """[O, C, 4, 4] -> [O, 16 C]."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _weight(matrix: Tensor) -> Tensor:
    return matrix.view(len(matrix), 4, 4, -1).permute(0, 3, 1, 2)


def _patches(image: Tensor) -> Tensor:
    """[B, C, 8, 8] -> [B · 4 · 4, 16 C]: the 4x4 pixels under each of the kernel's places."""
    padded = F.pad(image.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    batch, side, _, maps = padded.shape
    line = side * maps
    windows = padded.as_strided((batch, SIDE, SIDE, 4, 4 * maps), (side * line, 2 * line, 2 * maps, line, 1))
    return windows.reshape(-1, 16 * maps)


def _summed(patches: Tensor) -> Tensor:
    """The transpose of `_patches`. A kernel's place covers two by two blocks of two by two pixels."""
    maps = patches.shape[1] // 16
    blocks = patches.view(-1, SIDE, SIDE, 2, 2, 2, 2 * maps)  # [B, place, place, block, row, block, column · map]
    image = patches.new_zeros(len(blocks), SIDE + 1, 2, SIDE + 1, 2 * maps)
    for down in (0, 1):
        for right in (0, 1):
            part = blocks[:, :, :, down, :, right].transpose(2, 3)
            image[:, down : down + SIDE, :, right : right + SIDE] += part
    side = 2 * SIDE + 2
    return image.view(-1, side, side, maps)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)
