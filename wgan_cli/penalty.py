"""The gradient penalty of a critic between real and fake samples (Gulrajani et al. 2017, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import ops
from .convolution import Halving, transposed
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
    points = torch.lerp(fake, real, mix.view(-1, *[1] * (real.dim() - 1)))
    return ops.gradient_penalty(input_gradient(critic, points), weight, penalty.target, penalty.one_sided)


def input_gradient(critic: nn.Module, points: Tensor) -> Tensor:
    """The gradient [B, ...] of the critic's scores with respect to its input, differentiable in the parameters."""
    layers = getattr(critic, "net", None)
    if isinstance(layers, nn.Sequential) and all(isinstance(layer, _PIECEWISE_LINEAR) for layer in layers):
        return _piecewise_linear_gradient(list(layers), points)
    points = points.detach().requires_grad_()
    # Each row of the sum's gradient is its sample's own, as no sample's score depends on another sample.
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return gradient


_PIECEWISE_LINEAR = (nn.Linear, Halving, nn.Flatten, nn.ZeroPad2d, nn.ReLU, nn.LeakyReLU)


def _piecewise_linear_gradient(layers: Sequence[nn.Module], points: Tensor) -> Tensor:
    """The same where all layers are linear or (leaky) ReLU: the transposed layers in reverse order.

    The slopes found on the way up are constants, so that a penalty takes one ordinary backward pass: 4 passes of the
    critic in all. Differentiating autograd's gradient takes 6, two of them to push the slopes' derivative, 0, down
    through every layer.
    """
    values = [points]
    with torch.no_grad():
        for layer in layers:
            values.append(layer(values[-1]))
    torch.clear_autocast_cache()  # of weights cast without gradients, which some torch would take again below
    gradient = torch.ones_like(values[-1])
    for layer, before, after in zip(reversed(layers), values[-2::-1], values[:0:-1], strict=True):
        if isinstance(layer, nn.Linear):
            gradient = gradient @ layer.weight
        elif isinstance(layer, Halving):
            gradient = transposed(gradient, layer.weight)
        elif isinstance(layer, nn.Flatten):
            gradient = gradient.view(before.shape)
        elif isinstance(layer, nn.ZeroPad2d):
            left, right, top, bottom = layer.padding
            gradient = gradient[:, :, top : gradient.shape[2] - bottom, left : gradient.shape[3] - right]
        else:
            slope = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0
            gradient = torch.ops.aten.leaky_relu_backward(gradient, after, slope, True)  # times 1 or slope, by sign
    return gradient
