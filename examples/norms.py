"""A penalised critic without a norm, with layer norm and with batch norm.

Gulrajani et al. 2017, section 4: batch norm makes each score a function of the whole batch, and a penalty on "the norm
of the critic's gradient with respect to each input independently, and not the entire batch" then no longer holds the
critic to slope 1; without a norm, and with layer norm, it does. `wgan train` therefore refuses --critic-norm batch with
a penalty. Here such a critic is built by hand.

A critic that works tells the Wasserstein distance. That of two parallel segments at a gap θ is |θ| (`lines`), so the
claim is judged there, by the limit of `lines`, set before its first run: within a tenth of |θ| at every gap without a
norm and with layer norm, and at none with batch norm. Both segments are scored as one batch: apart, batch norm takes
the mean of each away and with it the gap, whatever the penalty, which was so in earlier results. The digits show what
comes of it in a game, which the paper does not put a figure to, and are not judged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from claims import (
    COMPARED,
    CPU,
    DISTANCE,
    Check,
    Plan,
    advance,
    digits,
    digits_config,
    digits_distance,
    draw,
    finish,
    measured,
    plan,
    points_state,
)
from lines import LIMIT_W, Segment
from matplotlib.figure import Figure

from wgan_cli.config import TrainConfig
from wgan_cli.data.dataset import Batch
from wgan_cli.networks import build_critic
from wgan_cli.state import State, new_state
from wgan_cli.step import critic_step

NORMS = ("none", "layer", "batch")
GAPS = (0.125, 0.25, 0.5, 0.75, 1.0)


def give_norm(state: State, norm: str) -> None:
    """A new critic with this norm, and its optimizer, which the settings of gp do not allow for batch norm."""
    config: TrainConfig = state.config
    allowed = replace(config, variant="clip", clip=0.01, gp_weight=None, critic_norm=norm)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        state.critic = build_critic(allowed).train()
    assert config.betas
    state.optimizer_critic = torch.optim.Adam(state.critic.parameters(), config.lr, config.betas)


def off(seed: int, norm: str, gap: float, steps: int) -> float:
    """How far the estimate is off the gap, of the gap."""
    state = points_state(variant="gp", width=64, batch=256, latent=1, lr=1e-3, seed=seed)
    give_norm(state, norm)
    state.generator, real = Segment(gap), Segment(0)
    random = torch.Generator().manual_seed(seed + 1)
    with patch("wgan_cli.step.has_batch_norm", return_value=False):  # which scores both as one batch
        for step in range(steps):
            state.optimizer_critic.defaults["lr"] = 1e-3 * (1 - step / steps)
            critic_step(state, Batch(real(torch.randn(256, 1, generator=random))))
    x, y = real(torch.randn(10_000, 1, generator=random)), state.generator(torch.randn(10_000, 1, generator=random))
    with torch.no_grad():
        on_x, on_y = state.critic(torch.cat([x, y])).chunk(2)
    estimate = (on_x.mean() - on_y.mean()).item()
    assert state.config.gp_weight
    return abs(estimate / (1 + gap / (2 * state.config.gp_weight)) / gap - 1)  # as in lines.py


def game(seed: int, norm: str, steps: int, every: int, count: int) -> list[float]:
    """Distances of samples to held-out digits."""
    training, heldout = digits()
    state = new_state(digits_config(variant="gp", width=16, batch=32, lr=1e-3, seed=seed), CPU)
    give_norm(state, norm)
    found = []
    for step in range(1, steps + 1):
        advance(state, training)
        if step % every == 0:
            found.append(digits_distance(draw(state, count), heldout))
    return found


def run(part: str, seed: int, norm: str, *arguments: Any) -> list[float]:
    if part == "digits":
        return game(seed, norm, *arguments)
    return [off(seed, norm, gap, *arguments) for gap in GAPS]


def main(plan: Plan) -> None:
    steps, (played, every, count) = plan.short((2, (2, 1, 8)), (600, (300, 60, COMPARED)))
    jobs: dict[str, tuple[Any, ...]] = {
        f"digits-{norm}-{seed}": ("digits", seed, norm, played, every, count)
        for norm in reversed(NORMS)
        for seed in plan.seeds[:3]
    }
    jobs |= {f"lines-{norm}-{seed}": ("lines", seed, norm, steps) for norm in NORMS for seed in plan.seeds}
    runs = measured(plan, run, jobs)
    figure = Figure(figsize=(9, 3), layout="constrained")
    lines_axes, digits_axes = figure.subplots(1, 2)
    for number, norm in enumerate(NORMS):
        for seed in plan.seeds:
            look: dict[str, Any] = {
                "color": f"C{number}",
                "alpha": 0.6,
                "label": norm if seed == plan.seeds[0] else None,
            }
            lines_axes.semilogy(GAPS, runs[f"lines-{norm}-{seed}"], ".-", **look)
            if seed in plan.seeds[:3]:
                digits_axes.plot(range(every, played + 1, every), runs[f"digits-{norm}-{seed}"], ".-", **look)
    lines_axes.axhline(LIMIT_W, color="k", linestyle=":", linewidth=0.8)
    lines_axes.set(xlabel="gap θ between the segments", ylabel="estimate off |θ|, of |θ|")
    lines_axes.legend(title="norm in the critic", fontsize="small")
    digits_axes.set(xlabel="generator steps", ylabel=DISTANCE)
    found = {norm: np.array([runs[f"lines-{norm}-{seed}"] for seed in plan.seeds]) for norm in NORMS}  # [seeds, gaps]
    checks = [
        Check("W off |θ|, at the worst gap, without a norm", found["none"].max(1), most=LIMIT_W, form=".1%"),
        Check("layer norm", found["layer"].max(1), most=LIMIT_W, form=".1%"),
        Check("at the best gap, batch norm", found["batch"].min(1), least=LIMIT_W, form=".1%"),
    ]
    last = {norm: np.median([runs[f"digits-{norm}-{seed}"][-1] for seed in plan.seeds[:3]]) for norm in NORMS}
    told = ", ".join(f"{distance:.0f} ({norm})" for norm, distance in last.items())
    finish(plan, figure, checks, f"samples end {told} from held-out digits")


if __name__ == "__main__":
    main(plan("norms", seeds=5))
