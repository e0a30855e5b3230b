"""The arithmetic that the project exists for: weight clipping and the gradient penalty."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def clamp_(params: Sequence[Tensor], c: float) -> None:
    """Clamp every tensor into [-c, c] in place; NaN stays NaN. Arjovsky et al. 2017, algorithm 1, line 7."""
    if params:
        torch._foreach_clamp_min_(list(params), -c)
        torch._foreach_clamp_max_(list(params), c)


def gradient_penalty(
    grads: Tensor,  # [B, ...] gradient of the critic's output with respect to its input
    weight: float,
    target: float = 1.0,
    one_sided: bool = False,
) -> tuple[Tensor, Tensor]:
    """weight · mean((‖g‖ - target)²), and the norms [B]. Gulrajani et al. 2017, eq. 3.

    The norm is each sample's own, in float32 (float64 for float64). one_sided counts only norms above the target
    (Petzka et al. 2018, eq. 8). A zero row has norm 0 and gradient 0, not NaN.
    """
    precision = torch.float64 if grads.dtype == torch.float64 else torch.float32
    norms = torch.linalg.vector_norm(grads.flatten(1), dim=1, dtype=precision)
    excess = norms - target
    if one_sided:
        excess = excess.clamp(min=0)
    return weight * excess.square().mean(), norms
