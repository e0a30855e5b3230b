"""Losses and estimates: pure functions of scores [B] or [B, 1], to a scalar.

The scores are logits for the systems with a discriminator: D(x) = sigmoid(logit), log D = -softplus(-logit) and
log(1 - D) = -softplus(logit); never the log of a sigmoid, which underflows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def _softplus(x: Tensor) -> Tensor:
    from torch.nn.functional import softplus  # here, so that listing the variants does not import torch

    return softplus(x)


# ---- Of the critic: (on real, on fake) -> scalar


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))), Goodfellow et al. 2014, eq. 1."""
    return _softplus(-real).mean() + _softplus(fake).mean()


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E f(G(z)) - E f(x), Arjovsky et al. 2017, eq. 2 negated."""
    return fake.mean() - real.mean()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - f(x)) + E max(0, 1 + f(G(z))), Miyato et al. 2018, eq. 16; authors' code."""
    return (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()


def least_squares_loss(real: Tensor, fake: Tensor) -> Tensor:
    """½ E (f(x) - 1)² + ½ E f(G(z))², Mao et al. 2017, with targets 1 for real and 0 for fake."""
    return 0.5 * ((real - 1).square().mean() + fake.square().mean())


def pairing_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-(f(x) - f(G(z)))), the i-th with the i-th: Huang et al. 2024 (Jolicoeur-Martineau 2019)."""
    return _softplus(fake - real).mean()


# ---- Of the generator: (on fake, on real) -> scalar; `real` is None unless the variant's `pairs` asks for it


def saturating_loss(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """E log(1 - D(G(z))), Goodfellow et al. 2014, eq. 1: vanishing gradient where D is sure of itself."""
    return -_softplus(fake).mean()


def non_saturating_loss(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-E log D(G(z)), Goodfellow et al. 2014, section 3: the "-log D trick"."""
    return _softplus(-fake).mean()


def critic_generator_loss(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """-E f(G(z)), Arjovsky et al. 2017, eq. 4."""
    return -fake.mean()


def least_squares_generator_loss(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """½ E (f(G(z)) - 1)², Mao et al. 2017."""
    return 0.5 * (fake - 1).square().mean()


def pairing_generator_loss(fake: Tensor, real: Tensor | None = None) -> Tensor:
    """E softplus(-(f(G(z)) - f(x))), the critic's loss with the two exchanged."""
    assert real is not None
    return pairing_loss(fake, real)


# ---- Estimates of a distance


def js_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """Lower bound on the Jensen-Shannon divergence in nats, at most log 2 (Arjovsky et al. 2017, figure 4)."""
    return math.log(2) - 0.5 * discriminator_loss(real, fake)


def variation_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """1 - half the hinge loss: a lower bound on the total variation, in [0, 1] for the best critic.

    The hinge loss is least at f = sign(p - q), where it is 2 ∫ min(p, q) = 2 - 2 TV.
    """
    return 1 - 0.5 * hinge_loss(real, fake)


def le_cam_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """1 - 4 times the least-squares loss: a lower bound on ½ ∫ (p - q)² / (p + q), in [0, 1] for the best critic.

    The loss is least at f = p / (p + q), where it is ½ ∫ p q / (p + q).
    """
    return 1 - 4 * least_squares_loss(real, fake)


def pairing_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """log 2 - the pairing loss: a lower bound on JS(p x q, q x p) in nats, at most log 2. Only differences of f count.

    The loss is that of telling a pair (image, sample) from (sample, image), as likely as each other, by the logit
    f(first) - f(second). It is least at f = log p/q, up to any constant. JS(p x q, q x p) is at least JS(p, q).
    """
    return math.log(2) - pairing_loss(real, fake)


def wasserstein_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """E f(x) - E f(G(z)): the Wasserstein-1 distance up to the critic's Lipschitz constant."""
    return real.mean() - fake.mean()


@dataclass(frozen=True)
class Estimate:
    """What the critic tells of the distance between samples and data: a column of the records."""

    name: str  # of the column
    label: str  # on the progress line
    title: str  # of the picture
    distance: Callable[[Tensor, Tensor], Tensor]  # (on real, on fake) -> scalar
    floor: float = -math.inf  # under it, the critic is far more often wrong than right
    rests_at_zero: bool = False  # once samples are like data, which is then not to be told from a critic too weak


WASSERSTEIN = Estimate("wasserstein", "W", "Wasserstein estimate over steps", wasserstein_estimate)
JENSEN_SHANNON = Estimate("js", "JS", "Jensen-Shannon estimate (nats) over steps", js_estimate, floor=-math.log(2))
TOTAL_VARIATION = Estimate("tv", "TV", "total variation estimate over steps", variation_estimate, floor=-1.0)
LE_CAM = Estimate("le_cam", "LC", "Le Cam distance estimate over steps", le_cam_estimate, floor=-3.0)
PAIRED_JENSEN_SHANNON = Estimate(
    "paired_js",
    "PJS",
    "Jensen-Shannon estimate of pairs (nats) over steps",
    pairing_estimate,
    floor=-math.log(2),
    rests_at_zero=True,
)
ESTIMATES = {e.name: e for e in (WASSERSTEIN, JENSEN_SHANNON, TOTAL_VARIATION, LE_CAM, PAIRED_JENSEN_SHANNON)}
