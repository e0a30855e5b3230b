"""Losses against the papers' formulas, written with D = sigmoid(logit)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from wgan_cli import losses
from wgan_cli.config import TrainConfig
from wgan_cli.networks import build_critic
from wgan_cli.networks.network import PiecewiseLinear
from wgan_cli.penalty import critic_penalty, draw_points
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
    size = min(size, 1e18) if record.estimate.name == "le_cam" else size  # which is squared
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


def test_pairs_are_told_apart_by_differences_alone() -> None:
    """log 2 at equal scores; -log σ of each difference, and the same from both sides' scores moved."""
    real, fake = LOGITS
    expected = -torch.log(torch.sigmoid(real - fake)).mean()
    torch.testing.assert_close(losses.pairing_loss(real, fake), expected)
    torch.testing.assert_close(losses.pairing_generator_loss(fake, real), -torch.log(torch.sigmoid(fake - real)).mean())
    assert losses.pairing_loss(real, real).item() == pytest.approx(math.log(2))
    assert losses.pairing_estimate(real, real).item() == pytest.approx(0, abs=1e-12)
    moved = losses.pairing_estimate(real + 100, fake + 100)
    torch.testing.assert_close(moved, losses.pairing_estimate(real, fake))


def test_a_pairing_gradient_is_half_of_each_sample_at_equal_scores() -> None:
    """d softplus(-(r - f)) / dr = -σ(f - r) = -½, over the batch."""
    real, fake = (torch.full((4,), 3.0, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for loss, signs in ((losses.pairing_loss, (-1, 1)), (losses.pairing_generator_loss, (1, -1))):
        value = loss(real, fake) if loss is losses.pairing_loss else loss(fake, real)
        for gradient, sign in zip(torch.autograd.grad(value, (real, fake)), signs, strict=True):
            torch.testing.assert_close(gradient, torch.full((4,), sign * 0.5 / 4, dtype=torch.float64))


def test_wasserstein_estimate_is_the_critic_loss_negated_and_positive() -> None:
    real, fake = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 2.0])
    assert losses.wasserstein_estimate(real, fake).item() == 2.5
    assert losses.critic_loss(real, fake).item() == -2.5


@pytest.mark.parametrize("name", VARIANTS)
def test_a_critic_gains_by_higher_scores_of_real_and_a_generator_by_higher_ones_of_its_own(name: str) -> None:
    record = VARIANTS[name]
    real, fake = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    on_real, on_fake = torch.autograd.grad(record.critic_loss(real, fake), (real, fake))
    assert (on_real < 0).all() and (on_fake >= 0).all()
    assert (on_fake > 0).all() or record.estimate.name == "le_cam"  # whose target for samples is 0
    (gain,) = torch.autograd.grad(record.generator_loss(fake, real), fake)
    assert (gain < 0).all()


def quantiles(mean: float, count: int = 200_001) -> torch.Tensor:
    """Of N(mean, 1), in the middle of equal shares."""
    return mean + torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_the_estimates_at_the_best_critic_of_two_gaussians(shift: float) -> None:
    """N(shift, 1) real against N(0, 1): total variation is erf(shift / 2√2); the others by integration on a grid."""
    real, fake = quantiles(shift), quantiles(0.0)

    def ratio(x: torch.Tensor) -> torch.Tensor:
        return shift * x - shift**2 / 2  # log p/q

    hinge = losses.variation_estimate(ratio(real).sign(), ratio(fake).sign()).item()
    assert hinge == pytest.approx(math.erf(shift / math.sqrt(8)), abs=1e-4)
    x = torch.linspace(-12, 12 + shift, 400_001, dtype=torch.float64)
    p, q = (torch.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (shift, 0.0))
    le_cam = 0.5 * torch.trapezoid((p - q) ** 2 / (p + q), x).item()
    squares = losses.le_cam_estimate(torch.sigmoid(ratio(real)), torch.sigmoid(ratio(fake))).item()
    assert squares == pytest.approx(le_cam, abs=1e-4)
    middle = (p + q) / 2
    divergence = 0.5 * sum(torch.trapezoid(a * (a / middle).log(), x).item() for a in (p, q))
    assert losses.js_estimate(ratio(real), ratio(fake)).item() == pytest.approx(divergence, abs=1e-4)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_the_estimate_of_pairs_is_their_divergence_at_the_best_critic(shift: float) -> None:
    """JS(p x q, q x p) of p = N(shift, 1) and q = N(0, 1), on a grid of the plane; and less at any other critic."""
    x = torch.linspace(-9, 9 + shift, 1501, dtype=torch.float64)
    p, q = (torch.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (shift, 0.0))
    one, other = p[:, None] * q, q[:, None] * p
    middle = (one + other) / 2
    logs = (torch.where(a > 0, a * (a / middle).log(), 0.0) for a in (one, other))
    divergence = 0.5 * sum(torch.trapezoid(torch.trapezoid(term, x), x).item() for term in logs)
    real, fake = quantiles(shift, 2001)[:, None], quantiles(0.0, 2001)  # all pairs of them
    best = losses.pairing_estimate(shift * real + 5, shift * fake + 5).item()
    assert best == pytest.approx(divergence, abs=1e-3)
    for slope in (0.5 * shift, 1.5 * shift, -shift):
        assert losses.pairing_estimate(slope * real, slope * fake).item() < best - 1e-3


def test_the_penalties_of_r3_are_the_sum_of_two_means() -> None:
    """γ/2 (E ‖∇f(x)‖² + E ‖∇f(G(z))‖²) of f(x) = |x|² / 2, whose gradient is x."""

    class Half(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
            return x.flatten(1).square().sum(1) / 2

    real, fake = torch.full((4, 2), 3.0), torch.full((4, 2), 1.0)
    costs = []
    for penalty in VARIANTS["r3"].penalties:
        points = draw_points(penalty.place, real, fake, torch.Generator())
        costs.append(critic_penalty(Half(), points, penalty, 10.0)[0].item())
    assert costs == pytest.approx([10 / 2 * 18, 10 / 2 * 2])


@pytest.mark.parametrize(
    ("name", "norm", "expected"),
    [("gp", 5.0, 3 * 16), ("gp", 0.5, 3 * 0.25), ("lp", 5.0, 3 * 16), ("lp", 0.5, 0.0), ("div", 5.0, 3 * 5.0**6),
     ("dragan", 5.0, 3 * 16), ("r1", 5.0, 3 * 25 / 2)],
)  # fmt: skip
def test_what_each_penalty_costs_a_critic_of_known_slope(name: str, norm: float, expected: float) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 1))
    net[0].weight.data = norm * torch.tensor([[0.6, -0.8]])
    (penalty,) = VARIANTS[name].penalties
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 8, 2, generator=rng)
    cost, norms = critic_penalty(PiecewiseLinear(net), draw_points(penalty.place, real, fake, rng), penalty, 3.0)
    assert cost.item() == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert norms.tolist() == pytest.approx([norm] * 8, rel=1e-5)


@pytest.mark.parametrize("arch", ["dcgan", "mlp"])
def test_spectral_norm_brings_each_layer_to_1_by_one_step_of_the_power_method_a_pass(arch: str) -> None:
    torch.manual_seed(0)
    critic = build_critic(TrainConfig(variant="hinge", arch=arch, size=16, channels=1, width=4)).double()
    layers = [layer for layer in critic.modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    assert len(layers) == (4 if arch == "mlp" else 3)
    image = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    norm: Any = layers[0].parametrizations.weight[0]  # type: ignore[union-attr,index]
    matrix = layers[0].parametrizations.weight.original.flatten(1)  # type: ignore[union-attr,operator]
    before = norm._v.clone()
    critic(image)
    u = torch.nn.functional.normalize(matrix @ before, dim=0)
    torch.testing.assert_close(norm._v, torch.nn.functional.normalize(matrix.T @ u, dim=0))
    for _ in range(300):
        critic(image)
    critic.eval()
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, rel=1e-3)
    weights = [layer.weight.clone() for layer in layers]
    critic(image)
    assert all(layer.weight.equal(weight) for layer, weight in zip(layers, weights, strict=True))


def test_spectral_norms_are_found_outside_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it would take them in 16 bits."""
    seen = []
    real = torch.nn.utils.parametrizations._SpectralNorm.forward

    def forward(self: Any, weight: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return real(self, weight)

    critic = build_critic(TrainConfig(variant="hinge", size=16, channels=1, width=4))
    monkeypatch.setattr(torch.nn.utils.parametrizations._SpectralNorm, "forward", forward)
    with torch.autocast("cpu", torch.bfloat16):
        critic(torch.zeros(2, 1, 16, 16))
    assert seen and not any(seen)
