"""WGAN-GP's residual networks for 32 and for 64 pixels (Gulrajani et al. 2017, appendix, and the authors' code).

Of --width w, both networks for 32 pixels have 2w maps everywhere; those for 64 have 8w at 4x4 down to w at 64x64. With
w = 64 these are the paper's. The paper's critic for 64 has layer norm (--critic-norm layer), that for 32 none. Without
norm the critic is piecewise linear, and a penalty takes one backward pass.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from . import padding
from .padding import GRID, inside, margin, margins

if TYPE_CHECKING:
    from torch import nn

    from ..config import TrainConfig
    from .network import Critic, Network, Residual

DEFAULTS = {"width": 64}
SIDES = (32, 64)


def refusal(height: int, width: int) -> str | None:
    if height != width:
        return f"--size {width}x{height}: --arch resnet makes squares; use --arch dcgan or r3"
    return padding.refusal((height, width), "resnet", SIDES)


def generator(config: TrainConfig) -> Network:
    """[B, L] -> [B, C, H, W] in [-1, 1]: linear to a 4x4 grid, then a residual block for each doubling."""
    from torch import nn

    from .batch_norm import BatchNorm2d
    from .network import Network

    w = config.width
    maps = [2 * w] * 4 if inside(config.sides) == (32, 32) else [8 * w, 8 * w, 4 * w, 2 * w, w]
    layers: list[nn.Module] = [_up(*pair) for pair in pairwise(maps)]
    layers += [BatchNorm2d(maps[-1]), nn.ReLU(inplace=True), nn.Conv2d(maps[-1], config.channels, 3, padding=1)]
    network = Network(
        project=nn.Linear(config.latent, maps[0] * GRID**2),
        grid=nn.Unflatten(1, (maps[0], GRID, GRID)),
        net=nn.Sequential(*layers, nn.Tanh()),
        crop=margin(config.sides, -1),
    )
    _initialise(network)
    return network


def critic(config: TrainConfig) -> Critic:
    """[B, C, H, W] -> [B]: residual blocks, then linear on the mean over 8x8 pixels (32) or on 4x4 (64)."""
    from torch import nn

    from .network import Critic, PiecewiseLinear, Residual
    from .resampling import ConvMeanPool

    w, norm = config.width, config.critic_norm
    layers = margins(config.sides)
    if inside(config.sides) == (32, 32):
        w = 2 * w
        branch = [nn.Conv2d(config.channels, w, 3, padding=1), nn.ReLU(inplace=True), ConvMeanPool(w, w)]
        skip = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(config.channels, w, 1))
        layers += [Residual(nn.Sequential(*branch), skip), _down(w, w, norm), _flat(w, norm), _flat(w, norm)]
        layers += [nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(w, 1)]
    else:
        layers += [nn.Conv2d(config.channels, w, 3, padding=1)]
        layers += [_down(*pair, norm) for pair in pairwise([w, 2 * w, 4 * w, 8 * w, 8 * w])]
        layers += [nn.Flatten(), nn.Linear(8 * w * GRID**2, 1)]
    network = (PiecewiseLinear if norm == "none" else Critic)(nn.Sequential(*layers))
    _initialise(network)
    return network


def _up(maps_in: int, maps_out: int) -> Residual:
    """The 1x1 convolution comes before the doubling: the result is the same, for a quarter of the work."""
    from torch import nn

    from .batch_norm import BatchNorm2d
    from .network import Residual
    from .resampling import UpsampleConv

    branch = [
        *(BatchNorm2d(maps_in), nn.ReLU(inplace=True), UpsampleConv(maps_in, maps_out, bias=False)),
        *(BatchNorm2d(maps_out), nn.ReLU(inplace=True), nn.Conv2d(maps_out, maps_out, 3, padding=1)),
    ]
    skip = [nn.Conv2d(maps_in, maps_out, 1), nn.Upsample(scale_factor=2)]
    return Residual(nn.Sequential(*branch), nn.Sequential(*skip))


def _down(maps_in: int, maps_out: int, norm: str) -> Residual:
    from torch import nn

    from .network import Residual
    from .resampling import ConvMeanPool

    branch = [*_activated(maps_in, norm), ConvMeanPool(maps_in, maps_out)]
    return Residual(nn.Sequential(*branch), nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(maps_in, maps_out, 1)))


def _flat(maps: int, norm: str) -> Residual:
    from torch import nn

    from .network import Residual

    return Residual(nn.Sequential(*_activated(maps, norm), nn.Conv2d(maps, maps, 3, padding=1)))


def _activated(maps: int, norm: str) -> list[nn.Module]:
    """A branch of the critic up to its last convolution: pre-activation, each ReLU after its norm if there is one."""
    from torch import nn

    from .batch_norm import BatchNorm2d

    def normed() -> list[nn.Module]:  # layer norm over all of a sample's features, scaled by feature map
        return [] if norm == "none" else [BatchNorm2d(maps) if norm == "batch" else nn.GroupNorm(1, maps)]

    first = nn.Conv2d(maps, maps, 3, padding=1, bias=norm == "none")
    return [*normed(), nn.ReLU(), first, *normed(), nn.ReLU(inplace=True)]


def _initialise(network: nn.Module) -> None:
    """Uniform, of variance 2 / (fan in + fan out), twice that (He et al. 2015) in the branches; biases 0."""
    from torch import nn

    from .network import Residual

    blocks = [block for block in network.modules() if isinstance(block, Residual)]
    in_branches = {layer for block in blocks for layer in block.branch.modules()}
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and not layer.weight.is_meta:
            nn.init.xavier_uniform_(layer.weight, 2**0.5 if layer in in_branches else 1.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
