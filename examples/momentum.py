"""How often training with a clipped critic is unstable under an optimizer with momentum, and one without.

Arjovsky et al. 2017, end of section 4.2: "WGAN training becomes unstable at times when one uses a momentum based
optimizer such as Adam (with β1 > 0) on the critic, or when one uses high learning rates ... as the loss blew up and
samples got worse, the cosine between the Adam step and the gradient usually turned negative. The only places where
this cosine was negative was in these situations of instability."

At times: so a sweep of rates and seeds under each of OPTIMIZERS of the critic, the generator's being RMSProp at
one rate. A run is unstable if "samples got worse": at some checkpoint their distance to held-out digits is more than
WORSE times the least reached before, or a figure is not finite. That is the limit for a stable run of the first
form of this experiment, which compared one run of each optimizer.

Limit: of the pairs of runs of one rate and seed in which one is unstable and the other not, those in which it is Adam's
with β1 = 0.9 outnumber the others, against RMSProp and against Adam with β1 = 0, by more than chance would in one of
twenty times (one-sided test of signs). Set before the first run.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import torch
from claims import (
    CHANCE,
    CPU,
    Check,
    Plan,
    digits,
    digits_config,
    digits_distance,
    draw,
    finish,
    measured,
    plan,
    sign_test,
)
from matplotlib.figure import Figure

from wgan_cli.state import new_state
from wgan_cli.step import critic_step, generator_step

OPTIMIZERS = {"RMSProp": None, "Adam, β1 = 0": 0.0, "Adam, β1 = 0.9": 0.9}
RATES = (2e-4, 1e-3, 5e-3, 2e-2)  # of the critic
WORSE = 1.5
LATEST = 40  # critic steps, over which a cosine is a median


def run(seed: int, rate: float, beta1: float | None, steps: int, every: int, count: int) -> dict[str, Any]:
    """Distances, and cosines of the critic's step and the gradient, over generator steps."""
    training, heldout = digits()
    state = new_state(digits_config(variant="clip", width=16, batch=32, lr=2e-4, lr_critic=rate, seed=seed), CPU)
    config, params = state.config, list(state.critic.parameters())
    if beta1 is not None:
        state.optimizer_critic = torch.optim.Adam(params, rate, (beta1, 0.999))
    found: dict[str, Any] = {"distance": [], "cosine": [], "unstable": 0}
    latest: list[float] = []
    for step in range(1, steps + 1):
        for _ in range(config.critic_steps(state.step)):
            batch = training.batch(state.batches, config.batch, seed, CPU)
            state.batches += 1
            estimate = critic_step(state, batch)["wasserstein"].item()
            latest.append(cosine(state.optimizer_critic))
        generator_step(state, batch)
        if not math.isfinite(estimate):
            return found | {"unstable": 1}
        if step % every == 0:
            distance = digits_distance(draw(state, count), heldout)
            worse = distance > WORSE * min(found["distance"], default=math.inf)
            found["unstable"] |= int(worse or not math.isfinite(distance))
            found["distance"].append(distance)
            found["cosine"].append(float(np.median(latest[-LATEST:])))
    return found


def cosine(optimizer: torch.optim.Optimizer) -> float:
    """Of the optimizer's last step, which clipping may cut afterwards, and the last gradient."""
    steps, gradients = [], []
    for p, state in optimizer.state.items():
        assert p.grad is not None
        mean, square = state.get("exp_avg", p.grad), state.get("exp_avg_sq", state.get("square_avg"))
        steps.append((mean / (square.sqrt() + 1e-8)).flatten())
        gradients.append(p.grad.flatten())
    return torch.cosine_similarity(torch.cat(steps), torch.cat(gradients), dim=0).item()


def main(plan: Plan) -> None:
    steps, every, count = plan.short((2, 1, 8), (240, 40, 150))
    rates = plan.short(RATES[:1], RATES)
    cells = list(product(OPTIMIZERS, rates, plan.seeds))
    jobs = {
        f"{list(OPTIMIZERS).index(name)}-{rate:g}-{seed}": (seed, rate, OPTIMIZERS[name], steps, every, count)
        for name, rate, seed in cells
    }
    runs = dict(zip(cells, measured(plan, run, jobs).values(), strict=True))
    figure = Figure(figsize=(10, 5), layout="constrained")
    grid = figure.subplots(2, len(OPTIMIZERS), sharey="row", sharex=True)
    for column, name in zip(grid.T, OPTIMIZERS, strict=True):
        for (of, rate, seed), found in runs.items():
            if of == name:
                at = every * (1 + np.arange(len(found["distance"])))
                look: dict[str, Any] = {
                    "color": f"C{rates.index(rate)}",
                    "linestyle": "--" if found["unstable"] else "-",
                }
                label = f"{rate:g}" if seed == plan.seeds[0] else None
                column[0].plot(at, found["distance"], ".", alpha=0.7, label=label, markersize=3, linewidth=1, **look)
                column[1].plot(at, found["cosine"], alpha=0.7, linewidth=1, **look)
        column[0].set(title=name)
        column[1].set(xlabel="generator steps")
        column[1].axhline(0, color="k", linewidth=0.6)
    grid[0, 0].set(ylabel="distance (×1000)")
    grid[1, 0].set(ylabel="cosine")
    grid[0, 0].legend(title="critic's rate (dashed: unstable)", fontsize="x-small", title_fontsize="x-small")

    unstable = {key: bool(found["unstable"]) for key, found in runs.items()}
    *rivals, adam = OPTIMIZERS
    checks = []
    for rival in rivals:
        pairs = [(unstable[adam, rate, seed], unstable[rival, rate, seed]) for rate, seed in product(rates, plan.seeds)]
        ours, theirs = (pairs.count(pair) for pair in ((True, False), (False, True)))
        what = f"unstable only under {adam} {ours}, only under {rival} {theirs}, by chance with probability"
        checks.append(Check(what, [sign_test(ours, theirs)], most=CHANCE, form=".2g"))
    told = [f"{sum(u for k, u in unstable.items() if k[0] == name)} under {name}" for name in OPTIMIZERS]
    below = {
        when: [
            min(found["cosine"], default=1.0) < 0
            for key, found in runs.items()
            if key[0] == adam and unstable[key] == when
        ]
        for when in (True, False)
    }
    finish(
        plan,
        figure,
        checks,
        f"unstable of {len(rates) * len(plan.seeds)} runs: {', '.join(told)}; under {adam} the cosine was negative at "
        f"some checkpoint in {sum(below[True])} of {len(below[True])} unstable runs and {sum(below[False])} of "
        f"{len(below[False])} others",
    )


if __name__ == "__main__":
    main(plan("momentum", seeds=3))
