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


# ---- Estimates of a distance


def js_estimate(real: Tensor, fake: Tensor) -> Tensor:
    """Lower bound on the Jensen-Shannon divergence in nats, at most log 2 (Arjovsky et al. 2017, figure 4)."""
    return math.log(2) - 0.5 * discriminator_loss(real, fake)


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
    floor: float = -math.inf  # under it, the critic does worse than one that gives every sample the same score


WASSERSTEIN = Estimate("wasserstein", "W", "Wasserstein estimate over steps", wasserstein_estimate)
JENSEN_SHANNON = Estimate("js", "JS", "Jensen-Shannon estimate (nats) over steps", js_estimate, floor=-math.log(2))
ESTIMATES = {estimate.name: estimate for estimate in (WASSERSTEIN, JENSEN_SHANNON)}
