"""Generators and critics. An architecture is a module here, of these names:

DEFAULTS             settings that differ from the variant's paper
refusal(h, w)        why it cannot make samples of this size (0, 0: points), None if it can
generator(config)    latents [B, L] -> samples [B, *shape], images in [-1, 1] (r3: about)
critic(config)       samples -> scores [B], read as logits by the systems with a discriminator; its last layer is linear

None of them knows of classes: these are added to both networks here.

Nothing here imports torch before a network is built, so that the command line can list and check settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import dcgan, mlp, r3, resnet

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from ..config import TrainConfig
    from .network import Critic, Network

ARCHITECTURES: dict[str, Any] = {"dcgan": dcgan, "mlp": mlp, "resnet": resnet, "r3": r3}


def build_generator(config: TrainConfig) -> nn.Module:
    """Called `net(z, y)`, y [B] the numbers of classes, or None where there are none."""
    generator: Callable[[TrainConfig], Network] = ARCHITECTURES[config.arch].generator
    if not config.classes:
        return generator(config)
    from .network import Conditional

    return Conditional(generator(replace(config, latent=2 * config.latent)), len(config.classes), config.latent)


def build_critic(config: TrainConfig) -> Critic:
    """Called `net(x, y)`, as the generator."""
    critic: Critic = ARCHITECTURES[config.arch].critic(replace(config, width=config.width_critic or config.width))
    if config.classes:
        critic.project(len(config.classes))
    if config.record.constraint == "spectral":
        _normalise_spectrally(critic)
    return critic


def _normalise_spectrally(critic: Critic) -> None:
    """Each layer's weights divided by their largest singular value (Miyato et al. 2018), followed by one step of the
    power method each time that they are used in training."""
    from torch import nn
    from torch.nn.utils.parametrizations import spectral_norm

    for layer in [layer for layer in critic.modules() if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding))]:
        spectral_norm(layer)


def has_batch_norm(module: nn.Module) -> bool:
    from torch import nn

    return any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in module.modules())


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
