"""R3GAN's networks (Huang et al. 2024, section 4, and the authors' code), narrow enough for a CPU.

A stage a side, from 4x4 up: two residual blocks of 1x1, grouped 3x3 and 1x1 convolutions, and no norm. Sides are
doubled and halved by bilinear resampling. The generator begins with a learned 4x4 basis and ends without tanh: its
samples may leave [-1, 1], and what writes pixels clamps them. The critic is the generator's mirror.

The 3x3 convolutions are grouped, as the paper found best for the same number of weights. A whole one between half as
many maps takes 0.7 to 0.8 of the time in float32 and 0.85 to 0.95 in bfloat16 (a critic step of gp, 32 and 64 pixels,
one core), but 1.45 times the weights, which matters where images are few.

Of --width w, a stage has w maps at the full side, twice as many at each halving, and 4w at most; the authors go up to
768 maps. The critic is piecewise linear, and a penalty takes one backward pass.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from . import padding
from .padding import grid, halvings, margin, margins

if TYPE_CHECKING:
    from torch import nn

    from ..config import TrainConfig
    from .network import Critic, Network

DEFAULTS = {"width": 24, "latent": 64, "critic_norm": "none"}
MAX_FACTOR = 4  # of the width
BLOCKS = 2  # in a stage
EXPANSION = 2  # of the maps, within a block
GROUP = 16  # maps in a group of the 3x3 convolution, fewer where that does not divide their number


def refusal(height: int, width: int) -> str | None:
    return padding.refusal((height, width), "r3")


def generator(config: TrainConfig) -> Network:
    """[B, L] -> [B, C, H, W]."""
    from torch import nn

    from .network import GenerativeBasis, Network
    from .resampling import Grow

    maps = _maps(config)[::-1]
    layers = _blocks(maps[0])
    for before, after in pairwise(maps):
        layers += [*_widths(before, after), Grow(), *_blocks(after)]
    network = Network(
        project=nn.Linear(config.latent, maps[0], bias=False),
        basis=GenerativeBasis(maps[0], grid(config.sides)),
        net=nn.Sequential(*layers, nn.Conv2d(maps[-1], config.channels, 1, bias=False)),
        crop=margin(config.sides, -1),
    )
    _initialise(network)
    return network


def critic(config: TrainConfig) -> Critic:
    """[B, C, H, W] -> [B]."""
    from torch import nn

    from .network import DiscriminativeBasis, PiecewiseLinear
    from .resampling import Shrink

    maps = _maps(config)
    layers = [*margins(config.sides), nn.Conv2d(config.channels, maps[0], 1, bias=False), *_blocks(maps[0])]
    for before, after in pairwise(maps):
        layers += [Shrink(), *_widths(before, after), *_blocks(after)]
    layers += [DiscriminativeBasis(maps[-1], grid(config.sides)), nn.Linear(maps[-1], 1, bias=False)]
    network = PiecewiseLinear(nn.Sequential(*layers))
    _initialise(network, last=1.0 if config.record.constraint == "spectral" else 0.0)
    return network


def _maps(config: TrainConfig) -> list[int]:
    """Of each stage, from the padded size down to 4x4; 32: w, 2w, 4w, 4w."""
    return [config.width * min(2**k, MAX_FACTOR) for k in range(halvings(config.sides) + 1)]


def _widths(maps_in: int, maps_out: int) -> list[nn.Module]:
    from torch import nn

    return [] if maps_in == maps_out else [nn.Conv2d(maps_in, maps_out, 1, bias=False)]


def _blocks(maps: int) -> list[nn.Module]:
    """A stage's. `maps` to EXPANSION times as many, and back."""
    from torch import nn

    from .network import Residual

    inner = EXPANSION * maps
    return [
        Residual(
            nn.Sequential(
                *(nn.Conv2d(maps, inner, 1), nn.LeakyReLU(0.2, inplace=True)),
                nn.Conv2d(inner, inner, 3, padding=1, groups=inner // math.gcd(inner, GROUP)),
                *(nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(inner, maps, 1, bias=False)),
            )
        )
        for _ in range(BLOCKS)
    ]


def _initialise(network: nn.Module, last: float = 0.0) -> None:
    """Normal, of variance gain² / fan in (He et al. 2015), biases 0; the gain is 1 outside of blocks.

    Within blocks, as there is no norm (Zhang et al. 2019, fixup): √(2 / (1 + 0.2²)) / ⁴√L with L blocks in the network,
    and `last` in the last convolution, so that each block begins as the identity. A spectral norm divides weights by
    their size, which must not be 0 then.
    """
    from torch import nn

    from .network import GenerativeBasis, Residual

    blocks = [block.branch for block in network.modules() if isinstance(block, Residual)]
    gain = (2 / (1 + 0.2**2)) ** 0.5 * len(blocks) ** -0.25
    gains: dict[nn.Module, float] = {}
    for branch in blocks:
        first, second, third = (layer for layer in branch.modules() if isinstance(layer, nn.Conv2d))
        gains |= {first: gain, second: gain, third: last}
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and not layer.weight.is_meta:
            nn.init.normal_(layer.weight, 0.0, gains.get(layer, 1.0) * layer.weight[0].numel() ** -0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, GenerativeBasis) and not layer.weight.is_meta:
            nn.init.normal_(layer.weight)
