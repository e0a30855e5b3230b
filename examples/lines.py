"""Distances of two parallel segments against the gap between them: closed forms, and what trained networks estimate.

Arjovsky et al. 2017, example 1 and figure 1: P0 is uniform on {0} x [0, 1], Pθ on
{θ} x [0, 1]; KL is infinite and JS log 2 wherever θ is not 0, while W is |θ|.

A critic under the penalty has not slope 1 but, at its best, s = 1 + |θ| / 2λ, which maximises s|θ| - λ(s - 1)². It is a
function of slope 1 times s, so that its estimate over s is one of W.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from claims import Check, Plan, finish, measured, plan, points_state
from matplotlib.figure import Figure
from torch import Tensor, nn

from wgan_cli.data.dataset import Batch
from wgan_cli.step import critic_step

GAPS = np.linspace(-1, 1, 17)
LIMIT_JS = 0.05  # of log 2, at the worst gap but 0: the estimate jumps, however small the gap
LIMIT_W = 0.1  # of |θ|, at the worst gap but 0
LIMIT_ZERO = 0.05  # of either estimate at gap 0


class Segment(nn.Module):
    """In place of a generator: latents [B, 1] to points [B, 2] on {gap} x [0, 1]."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.gap = gap

    def forward(self, latent: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([torch.full_like(latent, self.gap), torch.special.ndtr(latent)], dim=1)


def estimate(variant: str, gap: float, seed: int, steps: int) -> float:
    """Of the distance between the segments, by a network trained from scratch, on 10,000 points of each."""
    state = points_state(variant=variant, width=64, batch=256, latent=1, lr=1e-3, seed=seed)
    state.generator, real = Segment(gap), Segment(0)
    random = torch.Generator().manual_seed(seed + 1)
    for _ in range(steps):
        critic_step(state, Batch(real(torch.randn(256, 1, generator=random))))
    x, y = real(torch.randn(10_000, 1, generator=random)), state.generator(torch.randn(10_000, 1, generator=random))
    with torch.no_grad():
        distance = state.config.record.estimate.distance(state.critic(x), state.critic(y)).item()
    weight = state.config.gp_weight
    return distance / (1 + abs(gap) / (2 * weight)) if weight else distance


def run(seed: int, gaps: list[float], steps: int) -> dict[str, list[float]]:
    return {variant: [estimate(variant, gap, seed, steps) for gap in gaps] for variant in ("gan", "gp")}


def main(plan: Plan) -> None:
    runs = measured(plan, run, {f"{seed}": (seed, [*GAPS], plan.short(2, 600)) for seed in plan.seeds}).values()
    js, w = (np.array([found[variant] for found in runs]) for variant in ("gan", "gp"))  # [seeds, gaps]
    apart = GAPS != 0

    figure = Figure(figsize=(9, 3), layout="constrained")
    kl_axes, js_axes, w_axes = figure.subplots(1, 3)
    panels: tuple[tuple[Any, ...], ...] = (
        (kl_axes, "KL (nats): ∞ except at 0", None, np.where(apart, 1.0, 0.0)),
        (js_axes, "Jensen-Shannon (nats)", js, np.where(apart, math.log(2), 0.0)),
        (w_axes, "Wasserstein-1", w, np.abs(GAPS)),
    )
    for axes, title, estimated, exact in panels:
        if axes is w_axes:
            axes.plot(GAPS, exact, "k-", label="closed form")
        else:
            axes.hlines(exact[0], -1, 1, "k", label="closed form")
            axes.plot(0, 0, "ko")
            axes.plot(0, exact[0], "o", markerfacecolor="w", color="k")
        if estimated is not None:
            name = "trained " + ("critics (gp)" if axes is w_axes else "discriminators")
            axes.plot(GAPS, estimated.T, "C3x", alpha=0.6, label=[name, *[None] * (len(estimated) - 1)])
        axes.set(title=title, xlabel="gap θ between the segments", ylim=(-0.08, 1.08))
        axes.legend(fontsize="small", loc="center left" if axes is not w_axes else "upper center")
    kl_axes.set_yticks([0, 1], ["0", "∞"])
    checks = [
        Check(
            "W off |θ|, at the worst gap",
            np.abs(w[:, apart] / np.abs(GAPS[apart]) - 1).max(1),
            most=LIMIT_W,
            form=".1%",
        ),
        Check(
            "JS off log 2, at the worst gap", np.abs(js[:, apart] / math.log(2) - 1).max(1), most=LIMIT_JS, form=".1%"
        ),
        Check("estimates at θ = 0", np.maximum(abs(w[:, ~apart]), abs(js[:, ~apart]))[:, 0], most=LIMIT_ZERO),
    ]
    finish(plan, figure, checks)


if __name__ == "__main__":
    main(plan("lines", seeds=5))
