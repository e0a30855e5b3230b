"""Layers that halve or double the side of an image, and weigh all pixels alike: no checkerboard of their own. That is
so of `BlurredDoubling` where it is blurred in full.

Mean pooling after a 3x3 convolution, and nearest-neighbour doubling before one, are written as what they equal: DCGAN's
convolution, 4x4 with stride 2, and its transpose, of a kernel that sums the 3x3 one over 2x2 places. That takes 16
products where the two layers take 36.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .halving import Doubling, halved, transposed


class ConvMeanPool(nn.Conv2d):
    """[B, C, 2h, 2w] -> [B, O, h, w]: 3x3 convolution, then the mean of each 2x2 pixels; weight [O, C, 3, 3]."""

    def __init__(self, maps_in: int, maps_out: int, bias: bool = True) -> None:
        super().__init__(maps_in, maps_out, 3, padding=1, bias=bias)

    @property
    def kernel(self) -> Tensor:
        return _widened(self.weight, 1 / 4)

    def forward(self, image: Tensor) -> Tensor:
        return halved(image, self.kernel, self.bias)


class UpsampleConv(nn.Conv2d):
    """[B, C, h, w] -> [B, O, 2h, 2w]: nearest-neighbour doubling, then 3x3 convolution; weight [O, C, 3, 3]."""

    def __init__(self, maps_in: int, maps_out: int, bias: bool = True) -> None:
        super().__init__(maps_in, maps_out, 3, padding=1, bias=bias)

    @property
    def kernel(self) -> Tensor:
        return _widened(self.weight.transpose(0, 1), flipped=True)

    def forward(self, image: Tensor) -> Tensor:
        doubled = transposed(image, self.kernel)
        return doubled if self.bias is None else doubled + self.bias.view(-1, 1, 1).to(doubled.dtype)


class BlurredDoubling(Doubling):
    """[B, O, h, w] -> [B, C, 2h, 2w]: `Doubling`, then [1, 2, 1] / 4 along each axis, which StyleGAN has after its
    upsampling (Karras et al. 2019), as far as `share` says: 0 not at all, 1 in full; weight [O, C, 4, 4].

    Both are one transposed convolution, of the kernel that is the weight convolved with the filter; at an edge the
    filter sees the pixel that the doubling would make beyond it. It is computed as a 3x3 convolution to the four pixels
    of each place: oneDNN's transposed one, of such a kernel to few maps, takes 1.2 to 2.1 times as long with both
    backward passes, and 1.3 to 3 times without (one core of an AMD EPYC, in bfloat16, AVX-512 and AVX2).
    """

    def __init__(self, maps_in: int, maps_out: int, bias: bool = True) -> None:
        super().__init__(maps_in, maps_out, bias)
        self.register_buffer("share", torch.zeros(()))
        self.share: Tensor

    @property
    def kernel(self) -> Tensor:
        """[O, C, 6, 6]."""
        row = torch.ones(3, dtype=self.weight.dtype, device=self.weight.device)
        row[1] = 2
        blur = row[:, None] * row / 16
        nothing = torch.zeros_like(blur)
        nothing[1, 1] = 1
        filters = nothing.lerp(blur, self.share)[None, None]
        maps_in, maps_out = self.weight.shape[:2]
        return F.conv2d(self.weight.reshape(-1, 1, 4, 4), filters, padding=2).view(maps_in, maps_out, 6, 6)

    def forward(self, image: Tensor, output_size: list[int] | None = None) -> Tensor:
        return F.pixel_shuffle(self.unshuffled(image), 2)

    def unshuffled(self, image: Tensor) -> Tensor:
        """[B, O, h, w] -> [B, 4 C, h, w]: of each map, the pixels of each place in turn."""
        kernel, bias = self.kernel, None if self.bias is None else self.bias.repeat_interleave(4)
        maps_in, maps_out = kernel.shape[:2]
        places = kernel.view(maps_in, maps_out, 3, 2, 3, 2).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
        return F.conv2d(image, places.reshape(4 * maps_out, maps_in, 3, 3), bias, padding=1)


def _widened(weight: Tensor, factor: float = 1.0, flipped: bool = False) -> Tensor:
    """[O, C, 3, 3] -> [O, C, 4, 4]: convolved with 2x2 ones, times a factor; flipped along both sides if asked.

    As one product, which goes over the weight once: memory is what it takes.
    """
    maps_out, maps_in = weight.shape[:2]
    one = torch.eye(3, dtype=weight.dtype, device=weight.device)
    row = F.pad(one, (0, 0, 0, 1)) + F.pad(one, (0, 0, 1, 0))
    sums = factor * torch.kron(row, row)  # [16, 9]
    places = weight.permute(0, 2, 3, 1).reshape(maps_out, 9, maps_in)
    return ((sums.flip(0) if flipped else sums) @ places).view(maps_out, 4, 4, maps_in).permute(0, 3, 1, 2)


class Shrink(nn.Module):
    """[B, C, 2h, 2w] -> [B, C, h, w]: bilinear, that is [1, 3, 3, 1] / 8 along each axis, at every second pixel."""

    def forward(self, image: Tensor) -> Tensor:
        return _bilinear(F.conv2d, image)

    def transposed(self, image: Tensor) -> Tensor:
        return _bilinear(F.conv_transpose2d, image)


class Grow(nn.Module):
    """[B, C, h, w] -> [B, C, 2h, 2w]: bilinear, the pixels at the edges repeated."""

    def forward(self, image: Tensor) -> Tensor:
        return self.convolved(image) if image.is_cuda else F.interpolate(image, scale_factor=2, mode="bilinear")

    @staticmethod
    def convolved(image: Tensor) -> Tensor:
        """The same by slices and a convolution. On a GPU, torch's own adds gradients up in no fixed order."""
        wide = torch.cat([image[:, :, :1], image, image[:, :, -1:]], 2)
        wide = torch.cat([wide[..., :1], wide, wide[..., -1:]], 3)
        return 4 * _bilinear(F.conv_transpose2d, wide)[:, :, 2:-2, 2:-2]


def _bilinear(convolution: Callable[..., Tensor], image: Tensor) -> Tensor:
    """In float32 at least: in bfloat16, oneDNN's depthwise convolution takes 6 to 18 times as long."""
    maps, device = image.shape[1], "cpu" if image.is_meta else image.device.type
    with torch.autocast(device, enabled=False):
        wide = image.to(torch.promote_types(image.dtype, torch.float32))
        row = torch.full((4,), 3 / 8, dtype=wide.dtype, device=wide.device)
        row[::3] = 1 / 8
        kernel = (row[:, None] * row).repeat(maps, 1, 1, 1)
        return convolution(wide, kernel, stride=2, padding=1, groups=maps).to(image.dtype)
