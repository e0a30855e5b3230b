"""Batch norm over the whole batch where several processes have a share of it each.

torch's SyncBatchNorm is for GPUs alone. In a process by itself these are torch's own layers, to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .. import distributed


class _Joint(nn.modules.batchnorm._BatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and distributed.in_all()):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        assert self.num_batches_tracked is not None
        out, mean, variance, count = _Normalised.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return out


class BatchNorm1d(_Joint, nn.BatchNorm1d):
    pass


class BatchNorm2d(_Joint, nn.BatchNorm2d):
    pass


class ModulatedBatchNorm2d(nn.Module):
    """(x [B, C, H, W], latent [B, L]) -> normalised x, times 1 + a, plus b: a and b [B, C] linear in the latent."""

    def __init__(self, maps: int, latent: int) -> None:
        super().__init__()
        self.norm = BatchNorm2d(maps)
        self.modulation = nn.Linear(latent, 2 * maps)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        a, b = self.modulation(latent)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(b, self.norm(x), 1 + a)


class _Normalised(torch.autograd.Function):
    """(x [b, C, ...], weight, bias, eps) -> (normalised x, mean, variance, count): statistics [C] of all processes' x.

    The gradients with respect to weight and bias are this process's own part, as every other parameter's are.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, int]:
        axes = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1] // len(x) * distributed.whole(len(x))
        values = x.float()
        variances, means = torch.var_mean(values, axes, correction=0)
        parts, weights = distributed.gathered(torch.stack([means, variances])), distributed.weights()
        mean = sum(w * part[0] for w, part in zip(weights, parts, strict=True))
        # Of the parts' variances and of their means (Chan et al. 1979), without a difference of squares.
        variance = sum(w * (part[1] + (part[0] - mean).square()) for w, part in zip(weights, parts, strict=True))
        centred = values - _by_channel(mean, x)
        scale = (variance + eps).rsqrt()
        normal = centred * _by_channel(scale, x)
        ctx.save_for_backward(normal, scale, weight)
        ctx.count = count
        ctx.mark_non_differentiable(mean, variance)
        return (normal * _by_channel(weight, x) + _by_channel(bias, x)).to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        normal, scale, weight = ctx.saved_tensors
        gradient, kind, axes = gradient.float(), gradient.dtype, [0, *range(2, gradient.dim())]
        of_bias, of_weight = gradient.sum(axes), (gradient * normal).sum(axes)
        sums = [of_bias / ctx.count, of_weight / ctx.count]
        distributed.add_up(sums)
        rest = gradient - _by_channel(sums[0], normal) - normal * _by_channel(sums[1], normal)
        return (rest * _by_channel(scale * weight, normal)).to(kind), of_weight, of_bias, None


def _by_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (like.dim() - 2))
