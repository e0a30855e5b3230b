"""The systems, one record each: losses, penalties, constraint and the paper's settings. To add one, add a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .losses import (
    JENSEN_SHANNON,
    LE_CAM,
    PAIRED_JENSEN_SHANNON,
    TOTAL_VARIATION,
    WASSERSTEIN,
    Estimate,
    critic_generator_loss,
    critic_loss,
    discriminator_loss,
    hinge_loss,
    least_squares_generator_loss,
    least_squares_loss,
    non_saturating_loss,
    pairing_generator_loss,
    pairing_loss,
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
class Schedule:
    """What changes over the first `burn_in` of the steps, along half a cosine, and stays from there on.

    The settings are what a run begins with, save --ema, whose half-life rises from 0. Here: the end over the beginning.
    """

    burn_in: float
    lr: float  # of --lr and --lr-critic
    gp_weight: float
    beta2: float  # of 1 - β2


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
    schedule: Schedule | None = None
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

_WGAN_GP: dict[str, Any] = {  # Gulrajani et al. 2017, algorithm 1; the latent's size is that of the authors' code
    "optimizer": "adam",
    "lr": 1e-4,
    "betas": (0.0, 0.9),
    "gp_weight": 10.0,
    "n_critic": 5,
    "batch": 64,
    "latent": 128,
    "critic_norm": "none",
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
        defaults=_WGAN_GP,
    ),
    "lp": Variant(
        paper="Petzka et al. 2018, arXiv 1709.08894",
        summary="Wasserstein loss, one-sided gradient penalty",
        critic_loss=critic_loss,
        generator_loss=critic_generator_loss,
        estimate=WASSERSTEIN,
        penalties=(Penalty(cost=Cost(one_sided=True)),),
        defaults=_WGAN_GP,  # settings for images were not found in its code: those of `gp`
    ),
    "div": Variant(
        paper="Wu et al. 2018, arXiv 1712.01026",
        summary="Wasserstein divergence, 6th power of the norm",
        critic_loss=critic_loss,
        generator_loss=critic_generator_loss,
        estimate=WASSERSTEIN,
        penalties=(Penalty(cost=Cost(target=0.0, power=6)),),
        defaults={**_WGAN_GP, "lr": 2e-4, "n_critic": 4, "gp_weight": 10.0},  # authors' code; the paper's k is 2
    ),
    "dragan": Variant(
        paper="Kodali et al. 2017, arXiv 1705.07215",
        summary="-log D loss, gradient penalty around data",
        critic_loss=discriminator_loss,
        generator_loss=non_saturating_loss,
        estimate=JENSEN_SHANNON,
        penalties=(Penalty(place="around"),),
        defaults={**_WGAN_GP, "betas": (0.5, 0.9), "n_critic": 1, "batch": 128, "latent": 100},  # authors' code
    ),
    "r1": Variant(
        paper="Mescheder et al. 2018, arXiv 1801.04406",
        summary="-log D loss, gradient penalty on data",
        critic_loss=discriminator_loss,
        generator_loss=non_saturating_loss,
        estimate=JENSEN_SHANNON,
        penalties=(Penalty(place="real", cost=Cost(target=0.0), weight=0.5),),  # --gp-weight is the paper's γ
        defaults={  # authors' code, whose 10 without the ½ is a γ of 20
            "optimizer": "rmsprop",
            "lr": 1e-4,
            "gp_weight": 20.0,
            "n_critic": 1,
            "batch": 64,
            "latent": 256,
            "ema": 0.999,
            "critic_norm": "none",
        },
    ),
    "r3": Variant(
        paper="Huang et al. 2024, arXiv 2501.05441",
        summary="relativistic pairs, gradient penalties",
        critic_loss=pairing_loss,
        generator_loss=pairing_generator_loss,
        estimate=PAIRED_JENSEN_SHANNON,
        pairs=True,
        penalties=(  # --gp-weight is the paper's γ
            Penalty(place="real", cost=Cost(target=0.0), weight=0.5),
            Penalty(place="fake", cost=Cost(target=0.0), weight=0.5),
        ),
        schedule=Schedule(burn_in=0.2, lr=0.25, gp_weight=0.1, beta2=0.1),  # table 9; a fifth, as for FFHQ-64
        defaults={  # table 9: what all columns share, and γ of Stacked MNIST and ImageNet-64; batch and EMA of FFHQ-64
            "optimizer": "adam",
            "lr": 2e-4,
            "betas": (0.0, 0.9),
            "gp_weight": 1.0,  # 0.05 for CIFAR-10, 0.5 for ImageNet-32, 2 for FFHQ-64, 150 for FFHQ-256
            "n_critic": 1,
            "batch": 256,
            "latent": 64,
            "ema": 0.9996,  # a half-life of 0.45 million images at this batch; the paper has 0.5
            "critic_norm": "none",
        },
    ),
    "hinge": Variant(
        paper="Miyato et al. 2018, arXiv 1802.05957",
        summary="hinge loss, spectral norm",
        critic_loss=hinge_loss,
        generator_loss=critic_generator_loss,
        estimate=TOTAL_VARIATION,
        constraint="spectral",
        defaults={  # authors' code for CIFAR-10
            **{k: v for k, v in _WGAN_GP.items() if k != "gp_weight"},
            "lr": 2e-4,
            "lr_decay": "linear",
        },
    ),
    "lsgan": Variant(
        paper="Mao et al. 2017, arXiv 1611.04076",
        summary="least squares",
        critic_loss=least_squares_loss,
        generator_loss=least_squares_generator_loss,
        estimate=LE_CAM,
        defaults={
            "optimizer": "rmsprop",
            "lr": 1e-4,
            "n_critic": 1,
            "batch": 64,
            "latent": 100,
            "critic_norm": "batch",
        },  # as Gulrajani et al. ran it
    ),
}
