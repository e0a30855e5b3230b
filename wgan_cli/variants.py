"""The systems, one record each: losses, penalty, constraint and the paper's settings.

Losses take logits of shape [B] or [B, 1] and return a scalar that is minimised. D(x) = sigmoid(logit), and
log D = -softplus(-logit), log(1 - D) = -softplus(logit): never the log of a sigmoid, which underflows.
To add a variant, add a record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Penalty:
    """weight · mean((‖∇f(x̂)‖ - target)²) at points x̂ between real and fake samples."""

    target: float = 1.0
    one_sided: bool = False  # True: only norms above the target cost


@dataclass(frozen=True)
class Variant:
    summary: str
    paper: str
    critic_loss: Callable[[Tensor, Tensor], Tensor]  # (on real, on fake) -> scalar
    generator_loss: Callable[[Tensor], Tensor]  # (on fake) -> scalar
    estimate: str  # name of the logged distance
    distance: Callable[[Tensor, Tensor], Tensor]  # (on real, on fake) -> that distance, positive
    penalty: Penalty | None = None
    clips: bool = False  # every parameter of the critic in [-clip, clip] after each of its steps
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _softplus(x: Tensor) -> Tensor:
    from torch.nn.functional import softplus  # here, so that listing the variants does not import torch

    return softplus(x)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))), Goodfellow et al. 2014, eq. 1."""
    return _softplus(-real).mean() + _softplus(fake).mean()


def saturating_loss(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z))), Goodfellow et al. 2014, eq. 1: vanishing gradient where D is sure of itself."""
    return -_softplus(fake).mean()


def non_saturating_loss(fake: Tensor) -> Tensor:
    """-E log D(G(z)), Goodfellow et al. 2014, section 3: the "-log D trick"."""
    return _softplus(-fake).mean()


def js_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """Lower bound on the Jensen-Shannon divergence in nats, at most log 2 (Arjovsky et al. 2017, figure 4)."""
    return math.log(2) - 0.5 * discriminator_loss(real, fake)


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E f(G(z)) - E f(x), Arjovsky et al. 2017, eq. 2 negated."""
    return fake.mean() - real.mean()


def critic_generator_loss(fake: Tensor) -> Tensor:
    """-E f(G(z)), Arjovsky et al. 2017, eq. 4."""
    return -fake.mean()


def wasserstein_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """E f(x) - E f(G(z)): the Wasserstein-1 distance up to the critic's Lipschitz constant."""
    return real.mean() - fake.mean()


_DCGAN: dict[str, Any] = {  # Radford et al. 2016, section 4
    "optimizer": "adam",
    "lr": 2e-4,
    "betas": (0.5, 0.999),
    "n_critic": 1,
    "batch": 128,
    "latent": 100,
    "critic_norm": "batch",
}

VARIANTS: Mapping[str, Variant] = {
    "gan": Variant(
        paper="Goodfellow et al. 2014, arXiv 1406.2661",
        summary="minimax loss, saturating; optimizer as DCGAN",
        critic_loss=discriminator_loss,
        generator_loss=saturating_loss,
        estimate="js",
        distance=js_estimate,
        defaults=_DCGAN,
    ),
    "ns": Variant(
        paper="Radford et al. 2016, arXiv 1511.06434",
        summary="-log D loss, as in DCGAN",
        critic_loss=discriminator_loss,
        generator_loss=non_saturating_loss,
        estimate="js",
        distance=js_estimate,
        defaults=_DCGAN,
    ),
    "clip": Variant(
        paper="Arjovsky et al. 2017, arXiv 1701.07875",
        summary="Wasserstein loss, critic weights clipped",
        critic_loss=critic_loss,
        generator_loss=critic_generator_loss,
        estimate="wasserstein",
        distance=wasserstein_estimate,
        clips=True,
        defaults={  # algorithm 1
            "optimizer": "rmsprop",
            "lr": 5e-5,
            "clip": 0.01,
            "n_critic": 5,
            "batch": 64,
            "latent": 100,
            "critic_norm": "batch",
        },
    ),
    "gp": Variant(
        paper="Gulrajani et al. 2017, arXiv 1704.00028",
        summary="Wasserstein loss, gradient penalty",
        critic_loss=critic_loss,
        generator_loss=critic_generator_loss,
        estimate="wasserstein",
        distance=wasserstein_estimate,
        penalty=Penalty(),
        defaults={  # algorithm 1; the latent's size is that of the authors' code
            "optimizer": "adam",
            "lr": 1e-4,
            "betas": (0.0, 0.9),
            "gp_weight": 10.0,
            "n_critic": 5,
            "batch": 64,
            "latent": 128,
            "critic_norm": "none",
        },
    ),
}
