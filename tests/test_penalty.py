"""The gradient penalty where its value and its gradient are known."""

from __future__ import annotations

import pytest
import torch
from bench.step import Operations
from torch import Tensor, nn

from wgan_cli import ops
from wgan_cli.config import TrainConfig
from wgan_cli.networks import build_critic, build_generator
from wgan_cli.networks.network import Critic, DiscriminativeBasis, PiecewiseLinear, Residual
from wgan_cli.networks.resampling import ConvMeanPool, Shrink
from wgan_cli.penalty import between, critic_penalty, draw_points, input_gradient
from wgan_cli.variants import Cost, Penalty


def fill(critic: nn.Module) -> None:
    """Numbers in place of what begins as 0: biases, and the last convolution of each block of r3."""
    for parameter in critic.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, 0.0, 0.2)


class Linear(nn.Module):
    """f(x) = w · x: the gradient is w at every point."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x.flatten(1) @ self.weight


def test_a_linear_critic_has_its_weights_norm_everywhere() -> None:
    """weight · (|w| - 1)², and its gradient 2 · weight · (|w| - 1) · w / |w|; here |w| = 5."""
    w = torch.zeros(12, dtype=torch.float64)
    w[0], w[7] = 3, 4
    critic = Linear(w)
    real, fake = torch.randn(6, 3, 2, 2, dtype=torch.float64), torch.randn(6, 3, 2, 2, dtype=torch.float64)
    penalty, norms = critic_penalty(critic, between(real, fake, torch.rand(6, dtype=torch.float64)), Penalty(), 10.0)
    torch.testing.assert_close(norms, torch.full((6,), 5.0, dtype=torch.float64))
    assert penalty.item() == pytest.approx(10 * 16)
    penalty.backward()
    torch.testing.assert_close(critic.weight.grad, 2 * 10 * 4 * w / 5)


def test_the_points_lie_between_real_and_fake_at_each_samples_own_place() -> None:
    """f(x) = |x|² / 2 has gradient x, so the norms are those of the points."""

    class Half(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return x.flatten(1).square().sum(1) / 2

    real, fake = torch.full((3, 1), 8.0), torch.full((3, 1), 2.0)
    _, norms = critic_penalty(Half(), between(real, fake, torch.tensor([0.0, 0.5, 1.0])), Penalty(), 1.0)
    torch.testing.assert_close(norms.detach(), torch.tensor([2.0, 5.0, 8.0]))


def test_the_norm_is_each_samples_own() -> None:
    grads = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[0.0, 1.0]]])
    penalty, norms = ops.gradient_penalty(grads, 6.0)
    torch.testing.assert_close(norms, torch.tensor([5.0, 0.0, 1.0]))
    assert penalty.item() == pytest.approx(6 * (16 + 1 + 0) / 3)


def test_one_sided_counts_only_norms_above_the_target() -> None:
    grads = torch.tensor([[3.0, 4.0], [0.1, 0.0]])
    assert ops.gradient_penalty(grads, 1.0, 2.0, one_sided=True)[0].item() == pytest.approx((5 - 2) ** 2 / 2)


def test_a_zero_row_has_gradient_zero() -> None:
    grads = torch.zeros(2, 3, requires_grad=True)
    penalty, _ = ops.gradient_penalty(grads, 10.0)
    assert penalty.item() == pytest.approx(10.0)
    penalty.backward()
    assert grads.grad is not None and not grads.grad.any()


@pytest.mark.parametrize(("arch", "size"), [("mlp", 20), ("dcgan", 32), ("resnet", 32), ("r3", 32)])
def test_under_autocast_the_penalty_reaches_every_weight(arch: str, size: int) -> None:
    """As in float32 but for rounding, though the slopes were found without gradients just before."""
    torch.manual_seed(0)
    critic = build_critic(TrainConfig(arch=arch, size=size, channels=1, width=8))
    fill(critic)
    points = torch.randn(16, 1, size, size)
    gradients = []
    for enabled in (True, False):
        critic.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled):
            critic(points)
            gradient = input_gradient(critic, points).float()
        ops.gradient_penalty(gradient, 10.0)[0].backward()
        weights = {name: p.grad for name, p in critic.named_parameters() if p.dim() > 1}
        gradients.append(weights)
    for name, exact in gradients[1].items():
        found = gradients[0][name]
        assert found is not None and exact is not None
        assert (found - exact).norm() < 0.05 * exact.norm(), name


@pytest.mark.parametrize(
    ("arch", "size"),
    [("mlp", 20), ("dcgan", 16), ("dcgan", 28), ("dcgan", 64), ("resnet", 28), ("resnet", 64), ("r3", 28), ("r3", 64)],
)
def test_the_written_out_gradient_is_autograds(arch: str, size: int) -> None:
    """Of a critic without norm, and so is its own gradient in every weight."""
    torch.manual_seed(0)
    critic = build_critic(TrainConfig(arch=arch, size=size, channels=2, width=3)).double()
    fill(critic)
    points = torch.randn(5, 2, size, size, dtype=torch.float64)
    gradients = []
    layers = critic.net
    assert isinstance(layers, nn.Sequential)
    for subject in (critic, Critic(layers)):  # the second does not say that it is piecewise linear
        gradient = input_gradient(subject, points)
        weights = [p for p in critic.parameters() if p.dim() > 1]
        gradients.append([gradient, *torch.autograd.grad(gradient.square().sum(), weights)])
    for written, autograds in zip(*gradients, strict=True):
        assert written.abs().max() > 0
        torch.testing.assert_close(written, autograds, rtol=1e-10, atol=1e-14)


def test_every_layer_with_a_transpose_gives_autograds_gradient() -> None:
    """Of residual sums, pooling, strided and grouped convolutions; and so is its own gradient in the weights."""
    torch.manual_seed(0)
    branch = nn.Sequential(nn.Conv2d(4, 8, 1), nn.LeakyReLU(0.2), nn.Conv2d(8, 4, 3, padding=1, groups=2))
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),  # 11x11 -> 6x6: of the odd side, the last pixel has to come back
        nn.LeakyReLU(0.2),
        Residual(branch),
        nn.AvgPool2d(2),
        nn.ReLU(),
        Residual(nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 1, bias=False)),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, 1),
    )
    shrinking = nn.Sequential(Shrink(), ConvMeanPool(2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 3 * 3, 1))
    folding = nn.Sequential(nn.Conv2d(2, 3, 3), nn.LeakyReLU(0.2), DiscriminativeBasis(3, (8, 8)), nn.Linear(3, 1))
    for layers, side in ((net, 11), (net, 12), (shrinking, 12), (folding, 10)):
        points = torch.randn(3, 2, side, side, dtype=torch.float64)
        gradients = []
        for subject in (PiecewiseLinear(layers).double(), Critic(layers).double()):
            gradient = input_gradient(subject, points)
            weights = [p for p in subject.parameters() if p.dim() > 1]
            gradients.append([gradient, *torch.autograd.grad(gradient.pow(3).sum(), weights)])
        for written, autograds in zip(*gradients, strict=True):
            assert written.abs().max() > 0
            torch.testing.assert_close(written, autograds, rtol=1e-10, atol=1e-12)


def test_bilinear_shrinking_is_torchs() -> None:
    image = torch.randn(2, 3, 8, 8)
    theirs = nn.functional.interpolate(image, (4, 4), mode="bilinear", antialias=True, align_corners=False)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))  # torch weighs what lies at the border anew
    torch.testing.assert_close(Shrink()(image)[inner], theirs[inner])


def test_a_critic_with_more_than_its_layers_is_differentiated_as_it_is() -> None:
    """Nobody guesses from its parts what a critic does with them."""

    class Scaled(Critic):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return 3 * super().forward(x, y)

    net = nn.Sequential(nn.Linear(2, 1))
    points = torch.zeros(1, 2)
    torch.testing.assert_close(input_gradient(Scaled(net), points), 3 * input_gradient(PiecewiseLinear(net), points))


def test_a_layer_without_a_transpose_is_refused() -> None:
    with pytest.raises(TypeError, match="Sigmoid has no transpose"):
        PiecewiseLinear(nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()))


@pytest.mark.parametrize(
    ("cost", "expected"),
    [(Cost(), 16.0), (Cost(2.0, one_sided=True), 9.0), (Cost(0.0), 25.0), (Cost(0.0, power=6), 5.0**6)],
)
def test_each_cost_of_a_gradient_of_norm_5(cost: Cost, expected: float) -> None:
    """Its value, and its derivative along the weight, by finite differences."""
    weight = torch.tensor([3.0, 4.0], dtype=torch.float64)

    def value(scale: float) -> tuple[float, float]:
        critic = Linear(scale * weight)
        penalty, norms = critic_penalty(critic, torch.zeros(4, 2).double(), Penalty(cost=cost, weight=0.5), 3.0)
        penalty.backward()
        assert critic.weight.grad is not None
        assert norms.tolist() == pytest.approx([5 * scale] * 4)
        assert penalty.dtype == norms.dtype == torch.float64
        return penalty.item(), float(critic.weight.grad @ weight)

    here, slope = value(1.0)
    assert here == pytest.approx(1.5 * expected)
    assert slope == pytest.approx((value(1 + 1e-6)[0] - value(1 - 1e-6)[0]) / 2e-6, rel=1e-4)


def test_where_each_penalty_is_taken() -> None:
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(500, 3, generator=rng), torch.randn(500, 3, generator=rng) + 9
    assert draw_points("real", real, fake, rng) is real and draw_points("fake", real, fake, rng) is fake
    share = ((draw_points("between", real, fake, rng) - fake) / (real - fake)).T
    torch.testing.assert_close(share[0], share[1], rtol=1e-3, atol=1e-4)  # one a sample
    assert share.min() > -1e-4 and share.max() < 1 + 1e-4 and abs(share.mean() - 0.5) < 0.05
    moved = (draw_points("around", real, fake, rng) - real) / (0.5 * real.std(correction=0))
    assert moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
    assert abs(moved.mean() - 0.25) < 0.03  # of two independent numbers, uniform in [0, 1)


@pytest.mark.parametrize(("arch", "size"), [("mlp", 28), ("dcgan", 32), ("dcgan", 64), ("dcgan", 128), ("resnet", 64)])
def test_a_critic_step_takes_no_more_than_ten_passes_and_one_of_the_generator(arch: str, size: int) -> None:
    """Real and fake: 2 up, 2 for the activations' and 2 for the weights' gradients. Penalty: 2 up and down, 2 back.

    Not of r3: what counts takes the gradients of a grouped convolution for those of a whole one.
    """
    meta = torch.device("meta")
    config = TrainConfig(arch=arch, size=size, channels=3, gp_weight=10.0, betas=(0.0, 0.9))
    generator, critic = build_generator(config).to(meta), build_critic(config).to(meta)
    real, latent, mix = (torch.empty(64, *shape, device=meta) for shape in (config.shape, (config.latent,), ()))
    with Operations() as up, torch.no_grad():
        critic(real)
    with Operations() as step:
        with torch.no_grad():
            fake = generator(latent)
        scores = critic(torch.cat([real, fake]))
        penalty, _ = critic_penalty(critic, between(real, fake, mix), Penalty(), 10.0)
        (scores.mean() + penalty).backward()
    with Operations() as sample, torch.no_grad():
        generator(latent)
    assert 0 < step.count - sample.count <= 10 * up.count


@pytest.mark.parametrize(
    ("arch", "norm", "size"),
    [
        *(("mlp", "none", 16), ("mlp", "layer", 16), ("dcgan", "none", 16), ("dcgan", "layer", 16)),
        *(("resnet", "none", 32), ("resnet", "layer", 32), ("r3", "none", 16)),
    ],
)
def test_its_gradient_in_the_weights_agrees_with_finite_differences(arch: str, norm: str, size: int) -> None:
    torch.manual_seed(0)
    config = TrainConfig(arch=arch, size=size, channels=1, width=2, critic_norm=norm)
    critic = build_critic(config).double()
    fill(critic)
    for parameter in critic.parameters() if arch in ("mlp", "dcgan") else ():
        parameter.data *= 5  # large enough that the norms are not all near 0
    real, fake = torch.randn(2, 3, 1, size, size, dtype=torch.float64)
    mix = torch.rand(3, dtype=torch.float64)

    def value() -> Tensor:
        return critic_penalty(critic, between(real, fake, mix), Penalty(), 10.0)[0]

    value().backward()
    step = 1e-6
    for parameter in critic.parameters():
        flat, place = parameter.data.view(-1), parameter.numel() // 2
        here = flat[place].item()
        values = []
        for moved in (here + step, here - step):
            flat[place] = moved
            values.append(value().item())
        flat[place] = here
        measured = (values[0] - values[1]) / (2 * step)
        gradient = 0.0 if parameter.grad is None else parameter.grad.view(-1)[place].item()
        assert gradient == pytest.approx(measured, rel=1e-4, abs=1e-6)
