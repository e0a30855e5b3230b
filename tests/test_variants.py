"""Losses against the papers' formulas, written with D = sigmoid(logit)."""

from __future__ import annotations

import math

import pytest
import torch

from wgan_cli import losses
from wgan_cli.variants import VARIANTS

LOGITS = torch.tensor([-2.0, -0.5, 0.0, 1.5], dtype=torch.float64), torch.tensor([1.0, -3.0, 0.25, 0.0]).double()


def test_discriminator_loss_is_goodfellows_eq_1() -> None:
    real, fake = LOGITS
    expected = -(torch.log(torch.sigmoid(real)).mean() + torch.log(1 - torch.sigmoid(fake)).mean())
    torch.testing.assert_close(losses.discriminator_loss(real, fake), expected)


def test_generator_losses_in_probabilities() -> None:
    _, fake = LOGITS
    torch.testing.assert_close(losses.saturating_loss(fake), torch.log(1 - torch.sigmoid(fake)).mean())
    torch.testing.assert_close(losses.non_saturating_loss(fake), -torch.log(torch.sigmoid(fake)).mean())
    torch.testing.assert_close(losses.critic_generator_loss(fake), -fake.mean())


def test_saturating_gradient_vanishes_where_the_other_does_not() -> None:
    """d/dx log(1 - σ(x)) = -σ(x) and d/dx -log σ(x) = σ(x) - 1, at a logit of -30."""
    for loss, expected in ((losses.saturating_loss, -1 / (1 + math.exp(30))), (losses.non_saturating_loss, -1.0)):
        logit = torch.tensor([-30.0], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(logit), logit)
        assert gradient.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_losses_stay_finite_at_extreme_logits(name: str, size: float) -> None:
    record = VARIANTS[name]
    for sign in (1, -1):
        real = torch.tensor([sign * size], requires_grad=True)
        fake = torch.tensor([-sign * size], requires_grad=True)
        loss = record.critic_loss(real, fake) + record.generator_loss(fake, real)
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [real, fake]))


def test_js_estimate_is_0_for_an_undecided_and_log_2_for_a_perfect_discriminator() -> None:
    undecided, sure = torch.zeros(4), torch.full((4,), 100.0)
    assert losses.js_estimate(undecided, undecided).item() == pytest.approx(0, abs=1e-7)
    assert losses.js_estimate(sure, -sure).item() == pytest.approx(math.log(2))


def test_js_estimate_of_known_densities() -> None:
    """Two fair coins of 3/4 and 1/4 heads under the optimal discriminator p / (p + q)."""
    logit = math.log(3.0)
    real, fake = torch.tensor([logit] * 3 + [-logit]), torch.tensor([-logit] * 3 + [logit])
    p, m = (0.75, 0.25), (0.5, 0.5)
    divergence = sum(a * math.log(a / b) for a, b in zip(p, m, strict=True))  # the same for q, by symmetry
    assert losses.js_estimate(real, fake).item() == pytest.approx(divergence, rel=1e-6)


def test_wasserstein_estimate_is_the_critic_loss_negated_and_positive() -> None:
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    assert losses.wasserstein_estimate(real, fake).item() == 2.5
    assert losses.critic_loss(real, fake).item() == -2.5
