"""The systems, one record each: losses, penalties, constraint and the paper's settings. To add one, add a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .losses import (
    JENSEN_SHANNON,
    WASSERSTEIN,
    Estimate,
    critic_generator_loss,
    critic_loss,
    discriminator_loss,
    non_saturating_loss,
    saturating_loss,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Cost:
    """What a gradient's norm n costs: |n - target|^power, and one-sided nothing under the target."""

    target: float = 1.0
    one_sided: bool = False
    power: float = 2.0


@dataclass(frozen=True)
class Penalty:
    """weight · --gp-weight · the mean cost of ‖∇f(x)‖ over points x: on the lines between real and fake samples, on
    either, or around real ones."""

    place: Literal["between", "real", "fake", "around"] = "between"
    cost: Cost = Cost()
    weight: float = 1.0


@dataclass(frozen=True)
class Variant:
    summary: str
    paper: str
    critic_loss: Callable[[Tensor, Tensor], Tensor]  # (on real, on fake) -> scalar
    generator_loss: Callable[[Tensor, Tensor | None], Tensor]  # (on fake, on real where it pairs) -> scalar
    estimate: Estimate
    pairs: bool = False  # the generator's loss sees real scores too
    penalties: tuple[Penalty, ...] = ()
    constraint: Literal["none", "clip", "spectral"] = "none"  # of the critic: all weights in ±--clip; W/σ(W) a layer
    defaults: Mapping[str, Any] = field(default_factory=dict)


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
        estimate=JENSEN_SHANNON,
        defaults=_DCGAN,
    ),
    "ns": Variant(
        paper="Radford et al. 2016, arXiv 1511.06434",
        summary="-log D loss, as in DCGAN",
        critic_loss=discriminator_loss,
        generator_loss=non_saturating_loss,
        estimate=JENSEN_SHANNON,
        defaults=_DCGAN,
    ),
    "clip": Variant(
        paper="Arjovsky et al. 2017, arXiv 1701.07875",
        summary="Wasserstein loss, critic weights clipped",
        critic_loss=critic_loss,
        generator_loss=critic_generator_loss,
        estimate=WASSERSTEIN,
        constraint="clip",
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
        estimate=WASSERSTEIN,
        penalties=(Penalty(),),
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
