"""DCGAN (Radford et al. 2016): strided convolutions and their transposes, up to 256 pixels."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from . import padding
from .padding import grid, halvings, margin, margins

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ..config import TrainConfig
    from .network import Critic, Network

DEFAULTS = {"width": 64}
MAX_FACTOR = 8  # feature maps are doubled with each halving of the side, up to this factor of the width


def refusal(height: int, width: int) -> str | None:
    return padding.refusal((height, width), "dcgan")


def generator(config: TrainConfig) -> Network:
    """[B, L] -> [B, C, H, W] in [-1, 1]: linear to the grid (`padding.grid`; 4x4 of 64), then doublings, by transposed
    convolution or (--upsample nearest) by nearest-neighbour upsampling and a 3x3 convolution, which weigh all pixels
    alike.

    With --upsample blurred the last transposed convolution is blurred as the run ends (`schedule`): noise of single
    pixels goes.

    With --generator-norm self the latent scales and shifts each feature map after its batch norm (Chen et al. 2019,
    arXiv 1810.01365, equations 1 and 2, on top of the norm's own scale and shift, and with one linear layer where the
    paper has two): colour, which is one thing all over an image, needs no way through the convolutions.

    With --palette the last layer also says where in the image each of some colours of its own is (`Palette`).
    """
    from torch import nn

    from .batch_norm import BatchNorm2d, ModulatedBatchNorm2d
    from .halving import Doubling
    from .network import Network, OfLatent
    from .palette import Palette
    from .resampling import BlurredDoubling, UpsampleConv

    double: type[nn.Module] = UpsampleConv if config.upsample == "nearest" else Doubling
    last = BlurredDoubling if config.upsample == "blurred" else double
    modulates = config.generator_norm == "self"
    norm: Callable[[int], nn.Module] = partial(ModulatedBatchNorm2d, latent=config.latent) if modulates else BatchNorm2d
    maps, (height, width) = _feature_maps(config)[::-1], grid(config.sides)
    project = nn.Linear(config.latent, maps[0] * height * width, bias=False)
    layers: list[nn.Module] = [norm(maps[0]), nn.ReLU(inplace=True)]
    for maps_in, maps_out in pairwise(maps):
        layers += [double(maps_in, maps_out, bias=False), norm(maps_out), nn.ReLU(inplace=True)]
    if config.palette:
        painted = last(maps[-1], config.channels + 1 + config.palette)
        layers += [Palette(painted, config.latent, config.palette, config.channels)]
    else:
        layers += [last(maps[-1], config.channels), nn.Tanh()]
    first = nn.Unflatten(1, (maps[0], height, width))
    kind = OfLatent if modulates or config.palette else Network
    network = kind(project=project, grid=first, net=nn.Sequential(*layers), crop=margin(config.sides, -1))
    return network.apply(_initialise)


def critic(config: TrainConfig) -> Critic:
    """[B, C, H, W] -> [B]: halvings by strided convolution to the grid (`padding.grid`; 4x4 of 64), then linear."""
    from torch import nn

    from .batch_norm import BatchNorm2d
    from .halving import Halving
    from .network import Critic, PiecewiseLinear

    maps, norm = _feature_maps(config), config.critic_norm
    layers = [*margins(config.sides), Halving(config.channels, maps[0]), nn.LeakyReLU(0.2, inplace=True)]
    for maps_in, maps_out in pairwise(maps):
        layers += [Halving(maps_in, maps_out, bias=norm == "none")]
        if norm != "none":  # layer norm over all of a sample's features, scaled by feature map
            layers += [BatchNorm2d(maps_out) if norm == "batch" else nn.GroupNorm(1, maps_out)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    layers += [nn.Flatten(), nn.Linear(maps[-1] * math.prod(grid(config.sides)), 1)]
    network = (PiecewiseLinear if norm == "none" else Critic)(nn.Sequential(*layers))
    return network.apply(_initialise)


def _feature_maps(config: TrainConfig) -> list[int]:
    """Feature maps at each side from half the padded size down to the grid, for a critic; 64: w, 2w, 4w, 8w."""
    return [config.width * min(2**k, MAX_FACTOR) for k in range(halvings(config.sides))]


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02), scales from N(1, 0.02), biases 0 (Radford et al. 2016, section 4, and their code)."""
    from torch import nn

    from .palette import Palette

    if any(weight.is_meta for weight in module.parameters()):
        return  # to be loaded; a normal distribution on no memory would make torch import its compiler, a second's work
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, Palette):
        module.initialise()  # after its layers
