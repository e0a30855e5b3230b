"""The critic's estimate against the quality of samples over a run, for clip and gp, and the JS estimate of ns.

Arjovsky et al. 2017, section 4.2, figures 3 and 4; Gulrajani et al. 2017, figure 5a. clip has its paper's 5 critic
steps, and 100 before each of the first 25 generator steps and every 500th, as in the authors' code; `clip, no warm-up`
is the same without, which shows what these change and is not judged.
"""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import Any

import numpy as np
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
    floor,
    measured,
    plan,
    rank_correlation,
)
from matplotlib.figure import Figure

from wgan_cli.state import new_state

LIMIT = 0.8  # Spearman's rank correlation of estimate and distance, at least for clip and gp, and less for ns
SETTINGS: dict[str, dict[str, Any]] = {
    "clip": {"variant": "clip", "lr": 2e-4, "critic_warmup": 100},
    "clip, no warm-up": {"variant": "clip", "lr": 2e-4},
    "gp": {"variant": "gp", "lr": 1e-3},
    "ns": {"variant": "ns"},
}


def run(seed: int, setting: str, steps: int, every: int, count: int, warm: bool) -> dict[str, list[float]]:
    training, heldout = digits()
    given = SETTINGS[setting] | ({} if warm else {"critic_warmup": 0})
    state = new_state(digits_config(width=16, batch=32, seed=seed, **given), CPU)
    column = state.config.record.estimate.name
    found: dict[str, list[float]] = {"estimate": [], "distance": [], "floor": [floor(heldout, count)]}
    for step in range(1, steps + 1):
        found["estimate"].append(advance(state, training)[column])
        if step % every == 0:
            found["distance"].append(digits_distance(draw(state, count), heldout))
    return found


def main(plan: Plan) -> None:
    steps, every, count = plan.short((4, 1, 8), (600, 60, COMPARED))
    jobs = {
        f"{number}-{seed}": (seed, setting, steps, every, count, not plan.quick)
        for number, setting in enumerate(SETTINGS)
        for seed in plan.seeds
    }
    runs = measured(plan, run, jobs)
    figure = Figure(figsize=(12, 2.9), layout="constrained")
    correlations: dict[str, list[float]] = {}
    for number, (axes, setting) in enumerate(zip(figure.subplots(1, len(SETTINGS)), SETTINGS, strict=True)):
        other, correlations[setting] = axes.twinx(), []
        for seed in plan.seeds:
            found = runs[f"{number}-{seed}"]
            checkpoints = range(0, steps + 1, every)
            # As the paper smooths its curves: the median since the checkpoint before.
            estimates = [statistics.median(found["estimate"][a:b]) for a, b in pairwise(checkpoints)]
            correlations[setting].append(rank_correlation(estimates, found["distance"]))
            axes.plot(checkpoints[1:], estimates, "C0.-", alpha=0.7, linewidth=1, markersize=3)
            other.plot(checkpoints[1:], found["distance"], "C3.--", alpha=0.7, linewidth=1, markersize=3)
        other.axhline(found["floor"][0], color="C3", linestyle=":", linewidth=0.8)
        if setting == "ns":
            axes.axhline(math.log(2), color="C0", linestyle=":", linewidth=0.8)
        column = "JS estimate (nats)" if setting == "ns" else "Wasserstein estimate"
        axes.set(xlabel="generator steps", title=f"{setting}: {np.median(correlations[setting]):.2f}")
        axes.tick_params(axis="y", colors="C0")
        other.tick_params(axis="y", colors="C3")
        axes.set_ylabel(column, color="C0")
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        other.set_ylim(bottom=0)
    other.set_ylabel(DISTANCE, color="C3")
    checks = [
        Check("rank correlation of estimate and distance, clip", correlations["clip"], least=LIMIT, form=".2f"),
        Check("the same, gp", correlations["gp"], least=LIMIT, form=".2f"),
        Check("the same, ns", correlations["ns"], most=np.nextafter(LIMIT, 0), form=".2f"),
    ]
    without = correlations["clip, no warm-up"]
    told = f"{np.median(without):.2f} ({min(without):.2f} to {max(without):.2f})"
    finish(plan, figure, checks, f"clip without the warm-up {told}")


if __name__ == "__main__":
    main(plan("progress", seeds=3))
