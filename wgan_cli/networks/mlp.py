"""Fully connected networks, as in the WGAN authors' code: three hidden layers of ReLU units."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from ..config import TrainConfig
    from .network import Critic, Network

# WGAN's 512 units; no batch norm in a fully connected critic.
DEFAULTS = {"width": 512, "critic_norm": "none"}
HIDDEN_LAYERS = 3


def refusal(height: int, width: int) -> None:
    """Takes images of any size, and points."""


def generator(config: TrainConfig) -> Network:
    """[B, L] -> [B, *shape]: tanh for images, linear for points."""
    from torch import nn

    from .network import Network

    layers = _layers(config.latent, config.width, math.prod(config.shape), "none")
    return Network(net=layers, sample=nn.Unflatten(1, config.shape), **({"range": nn.Tanh()} if config.size else {}))


def critic(config: TrainConfig) -> Critic:
    """[B, *shape] -> [B]."""
    from torch import nn

    from .network import Critic, PiecewiseLinear

    layers = _layers(math.prod(config.shape), config.width, 1, config.critic_norm)
    return (PiecewiseLinear if config.critic_norm == "none" else Critic)(nn.Sequential(nn.Flatten(), *layers))


def _layers(inputs: int, width: int, outputs: int, norm: str) -> nn.Sequential:
    """Torch's default initialisation, as the authors' code."""
    from torch import nn

    from .batch_norm import BatchNorm1d

    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([inputs] + [width] * HIDDEN_LAYERS):
        layers += [nn.Linear(fan_in, fan_out)]
        if norm != "none":
            layers += [BatchNorm1d(fan_out) if norm == "batch" else nn.LayerNorm(fan_out)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))
