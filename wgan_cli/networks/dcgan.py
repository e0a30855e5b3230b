"""DCGAN (Radford et al. 2016): strided convolutions and their transposes, up to 256 pixels."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ..config import TrainConfig
    from .network import Critic, Network

DEFAULTS = {"width": 64}
LATENT_GRID = 4  # side in pixels of the generator's first and the critic's last feature map
MAX_FACTOR = 8  # feature maps are doubled with each halving of the side, up to this factor of the width


def padded_size(size: int) -> int | None:
    """The power of two from 16 to 256 that a DCGAN of `size` works at inside, None if there is none.

    A size that is no power of two is padded by at most an eighth (28 to 32), so that little work is wasted.
    """
    for power in (16, 32, 64, 128, 256):
        if power * 7 // 8 <= size <= power:
            return power
    return None


def refusal(size: int) -> str | None:
    if not size:
        return "a toy set holds points, not images: use --arch mlp"
    if padded_size(size):
        return None
    below = max((s for s in range(size) if padded_size(s)), default=None)
    above = next(s for s in range(size, 257) if padded_size(s))
    near = f"{below} or {above}" if below else f"{above}"
    return (
        f"--size {size}: --arch dcgan takes powers of two from 16 to 256 and sizes up to an eighth "
        f"under one, such as 28; use {near}, or --arch mlp"
    )


def generator(config: TrainConfig) -> Network:
    """[B, L] -> [B, C, size, size] in [-1, 1]: linear to a 4x4 grid, then doublings by transposed convolution."""
    from torch import nn

    from .halving import Doubling
    from .network import Network

    maps = _feature_maps(config.width, config.size)[::-1]
    project = nn.Linear(config.latent, maps[0] * LATENT_GRID**2, bias=False)
    layers: list[nn.Module] = [nn.BatchNorm2d(maps[0]), nn.ReLU(inplace=True)]
    for maps_in, maps_out in pairwise(maps):
        layers += [Doubling(maps_in, maps_out, bias=False), nn.BatchNorm2d(maps_out), nn.ReLU(inplace=True)]
    layers += [Doubling(maps[-1], config.channels), nn.Tanh()]
    grid = nn.Unflatten(1, (maps[0], LATENT_GRID, LATENT_GRID))
    network = Network(project=project, grid=grid, net=nn.Sequential(*layers), crop=_margin(config.size, -1))
    return network.apply(_initialise)


def critic(config: TrainConfig) -> Critic:
    """[B, C, size, size] -> [B]: halvings by strided convolution to a 4x4 grid, then linear."""
    from torch import nn

    from .halving import Halving
    from .network import Critic, PiecewiseLinear

    maps, norm = _feature_maps(config.width, config.size), config.critic_norm
    layers: list[nn.Module] = [] if padded_size(config.size) == config.size else [_margin(config.size, 1)]
    layers += [Halving(config.channels, maps[0]), nn.LeakyReLU(0.2, inplace=True)]
    for maps_in, maps_out in pairwise(maps):
        layers += [Halving(maps_in, maps_out, bias=norm == "none")]
        if norm != "none":  # layer norm over all of a sample's features, scaled by feature map
            layers += [nn.BatchNorm2d(maps_out) if norm == "batch" else nn.GroupNorm(1, maps_out)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    layers += [nn.Flatten(), nn.Linear(maps[-1] * LATENT_GRID**2, 1)]
    network = (PiecewiseLinear if norm == "none" else Critic)(nn.Sequential(*layers))
    return network.apply(_initialise)


def _feature_maps(width: int, size: int) -> list[int]:
    """Feature maps at each side from half the padded size down to 4, for a critic; 64: w, 2w, 4w, 8w."""
    padded = padded_size(size)
    assert padded is not None  # checked in TrainConfig
    return [width * min(2**k, MAX_FACTOR) for k in range(int(math.log2(padded // LATENT_GRID)))]


def _margin(size: int, sign: int) -> nn.ZeroPad2d:
    """A margin of mid-grey up to the padded size, 2 pixels on each side for 28, or (sign -1) its removal."""
    from torch import nn

    extra = (padded_size(size) or size) - size
    before, after = sign * (extra // 2), sign * (extra - extra // 2)
    return nn.ZeroPad2d((before, after, before, after))


def _initialise(module: nn.Module) -> None:
    """Weights from N(0, 0.02), scales from N(1, 0.02), biases 0 (Radford et al. 2016, section 4, and their code)."""
    from torch import nn

    if any(weight.is_meta for weight in module.parameters(recurse=False)):
        return  # to be loaded; a normal distribution on no memory would make torch import its compiler, a second's work
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
