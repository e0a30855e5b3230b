"""Images painted in a few colours each."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Palette(nn.Module):
    """(masks [B, N, H, W], latent [B, L]) -> images [B, C, H, W] in [-1, 1]: each pixel is a mean of N colours of its
    image, tanh of a linear layer of the latent, weighed by the softmax of its masks.

    Where one mask is well above the others, an area has one colour all over, however uneven the features under it are.
    In float32 at least: half a grey level of rounding is seen on such an area.
    """

    def __init__(self, latent: int, colours: int, channels: int) -> None:
        super().__init__()
        self.colours = nn.Linear(latent, colours * channels)
        self.channels = channels

    def forward(self, masks: Tensor, latent: Tensor) -> Tensor:
        with torch.autocast("cpu" if masks.is_meta else masks.device.type, enabled=False):
            exact = torch.promote_types(masks.dtype, torch.float32)
            colours = torch.tanh(self.colours(latent.to(exact))).unflatten(1, (-1, self.channels))
            shares = masks.to(exact).flatten(2).softmax(1)
            return (colours.transpose(1, 2) @ shares).unflatten(2, masks.shape[2:])
