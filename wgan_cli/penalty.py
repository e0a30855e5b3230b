"""Penalties on the gradient of the critic's scores: where it is taken, and what its norm costs."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from . import ops
from .distributed import deviation, drawn
from .networks.network import PiecewiseLinear
from .variants import Penalty


def critic_penalty(
    critic: nn.Module, points: Tensor, penalty: Penalty, weight: float | Tensor, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The penalty (scalar, differentiable in the critic's parameters) and the gradient norms [B] at points [B, ...].

    weight: --gp-weight, or a tensor []. y: [B] classes of the points, or None.
    """
    gradient, cost = input_gradient(critic, points, y), penalty.cost
    if cost.power == 2:
        if not isinstance(weight, Tensor):
            return ops.gradient_penalty(gradient, weight * penalty.weight, cost.target, cost.one_sided)
        mean, norms = ops.gradient_penalty(gradient, penalty.weight, cost.target, cost.one_sided)
        return weight * mean, norms
    assert cost.target == 0
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    squares = wide.square().flatten(1).sum(1)  # their root has no slope at 0
    return weight * penalty.weight * squares.pow(cost.power / 2).mean(), squares.detach().sqrt()


def input_gradient(critic: nn.Module, points: Tensor, y: Tensor | None = None) -> Tensor:
    """The gradient [B, ...] of the critic's scores with respect to its input, differentiable in the parameters."""
    if isinstance(critic, PiecewiseLinear):
        return critic.input_gradient(points, y)
    points = points.detach().requires_grad_()
    # Each row of the sum's gradient is its sample's own, as no sample's score depends on another sample.
    (gradient,) = torch.autograd.grad(critic(points, y).sum(), points, create_graph=True)
    return gradient


def draw_points(place: str, real: Tensor, fake: Tensor, rng: torch.Generator) -> Tensor:
    """The points [B, ...] of a penalty at `place`, of real and fake samples [B, ...]."""
    if place == "real":
        return real
    if place == "fake":
        return fake
    uniform = partial(torch.rand, generator=rng, device=real.device)
    if place == "around":
        noise = drawn(uniform, *real.shape)
        return around(real, noise, drawn(uniform, len(real)))
    return between(real, fake, drawn(uniform, len(real)))


def between(real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """mix · real + (1 - mix) · fake, a share of [0, 1) a sample (Gulrajani et al. 2017, algorithm 1, line 6)."""
    return torch.lerp(fake, real, _by_sample(mix, real))


def around(real: Tensor, noise: Tensor, mix: Tensor) -> Tensor:
    """real + mix · ½ · deviation · noise (Kodali et al. 2017, authors' code): noise in [0, 1) of the samples' shape,
    deviation of the whole batch."""
    return real + _by_sample(mix, real) * (0.5 * deviation(real)) * noise


def _by_sample(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
