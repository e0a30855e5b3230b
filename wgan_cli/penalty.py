"""The gradient penalty of a critic between real and fake samples (Gulrajani et al. 2017, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import ops
from .variants import Penalty


def critic_penalty(
    critic: nn.Module,
    real: Tensor,  # [B, ...]
    fake: Tensor,  # [B, ...], without gradient
    mix: Tensor,  # [B] in [0, 1): the share of `real` in each point
    penalty: Penalty,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """The penalty (scalar, differentiable in the critic's parameters) and the gradient norms [B] at x̂.

    x̂ = mix · real + (1 - mix) · fake, one point a pair of samples (algorithm 1, line 6).
    """
    points = torch.lerp(fake, real, mix.view(-1, *[1] * (real.dim() - 1))).requires_grad_()
    output = critic(points)
    # The sum's gradient holds each sample's own gradient in its row, as no sample's output depends on another's input.
    (grads,) = torch.autograd.grad(output.sum(), points, create_graph=True)
    return ops.gradient_penalty(grads, weight, penalty.target, penalty.one_sided)
