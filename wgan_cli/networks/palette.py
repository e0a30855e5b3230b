"""Colours that the pixels of an image share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resampling import BlurredDoubling


class Palette(nn.Module):
    """(features, latent [B, L]) -> images [B, C, H, W] in [-1, 1]: each pixel is a mean of N colours of its image and
    of one of its own.

    The image's colours are tanh of a linear layer of the latent. `layer` makes maps [B, C + 1 + N, H, W] of the
    features: the pixel's own colour before tanh, and masks, whose softmax are the shares of that and of the others.
    Where the mask of one of the image's colours is well above the rest, an area has this colour all over, however
    uneven the features under it are. In float32 at least: half a grey level of rounding is seen on such an area.
    """

    def __init__(self, layer: nn.Module, latent: int, colours: int, channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.colours = nn.Linear(latent, colours * channels)
        self.channels = channels

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, BlurredDoubling):  # its pixels in the order in which they come: less is moved once mixed
            maps = layer.unshuffled(features).unflatten(1, (-1, 4))
        else:
            maps = layer(features)
        with torch.autocast("cpu" if maps.is_meta else maps.device.type, enabled=False):
            exact = torch.promote_types(maps.dtype, torch.float32)
            parts = maps.flatten(2).split([self.channels, maps.shape[1] - self.channels], 1)
            own, masks = (part.to(exact) for part in parts)
            colours = torch.tanh(self.colours(latent.to(exact))).unflatten(1, (-1, self.channels))
            of_own, shares = masks.softmax(1).split([1, masks.shape[1] - 1], 1)
            mixed = torch.addcmul(colours.transpose(1, 2) @ shares, torch.tanh(own), of_own)
            image = mixed.unflatten(2, maps.shape[2:])
            return F.pixel_shuffle(image.flatten(1, 2), 2) if maps.dim() == 5 else image

    @torch.no_grad()
    def initialise(self) -> None:
        """Colours that differ, and 88 % of each pixel its own: of shared colours alone, shapes are learnt later."""
        bias, of_maps = self.colours.bias, self.layer.bias
        assert isinstance(of_maps, Tensor)
        nn.init.normal_(bias, 0.0, 0.5)
        of_maps[self.channels] = 2 + math.log(len(bias) // self.channels)
