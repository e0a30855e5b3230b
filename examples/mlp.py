"""Fully connected generator and critic without batch norm on the digits: distance to held-out digits over the run.

Arjovsky et al. 2017, section 4.3 and figure 7: with the simplest generator the standard GAN collapses, WGAN does not.
There the critic is that of DCGAN; here it is fully connected as well, which the paper does not claim to train: its run
of two such networks, the lower half of figure 3, failed under large rates.
"""

from __future__ import annotations

from typing import Any

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
    floor,
    heldout_digits,
    measured,
    plan,
)
from matplotlib.figure import Figure

from wgan_cli.sample import grid, to_output
from wgan_cli.state import new_state

LIMIT = 0.5  # clip and gp still train: of the distance at the first checkpoint, half or less is left at the last
# and ns ends at a larger distance than either: it collapsed, or it is worse
SETTINGS: dict[str, dict[str, Any]] = {
    "ns": {},
    "clip": {"lr": 2e-4},
    "gp": {"lr": 1e-3},
}


def run(seed: int, variant: str, steps: int, first: int, every: int, count: int) -> dict[str, Any]:
    """Distances at `first` and each `every` steps; how far samples lie apart, of how far digits do; 16 samples."""
    training, heldout = digits()
    state = new_state(digits_config(variant=variant, arch="mlp", batch=32, seed=seed, **SETTINGS[variant]), CPU)
    found: dict[str, Any] = {"steps": [], "distance": [], "floor": floor(heldout, count)}
    for step in range(1, steps + 1):
        advance(state, training)
        if step == first or step % every == 0 or step == steps:
            samples = draw(state, count)
            found["steps"].append(step)
            found["distance"].append(digits_distance(samples, heldout))
    real = heldout_digits(heldout, range(count))
    apart = torch.pdist(samples.flatten(1)).mean() / torch.pdist(real.flatten(1)).mean()
    return found | {"apart": apart.item(), "picture": np.asarray(grid(to_output(samples[:16]))).tolist()}


def main(plan: Plan) -> None:
    steps, first, every, count = plan.short((2, 1, 2, 16), (1980, 60, 480, COMPARED))
    jobs = {f"{v}-{seed}": (seed, v, steps, first, every, count) for v in reversed(SETTINGS) for seed in plan.seeds}
    runs = measured(plan, run, jobs)
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    curves, *pictures = figure.subplots(1, 4, width_ratios=[1.4, 1, 1, 1])
    of = {variant: [runs[f"{variant}-{seed}"] for seed in plan.seeds] for variant in SETTINGS}
    for number, (axes, variant) in enumerate(zip(pictures, SETTINGS, strict=True)):
        for found in of[variant]:
            label = variant if found is of[variant][0] else None
            curves.plot(found["steps"], found["distance"], f"C{number}.-", alpha=0.7, label=label)
        shown = [np.pad(np.array(found["picture"]), ((0, 0), (0, 8)), constant_values=255) for found in of[variant][:2]]
        axes.imshow(np.hstack(shown)[:, :-8], cmap="gray")
        ends = ", ".join(format(found["distance"][-1], ".0f") for found in of[variant])
        axes.set(title=f"{variant}, in the end {ends}", xticks=(), yticks=())
        axes.title.set_fontsize("medium")
    curves.axhline(found["floor"], color="0.6", linestyle=":", label="data")
    curves.set(xlabel="generator steps", ylabel=DISTANCE, ylim=(0, None))
    figure.legend(*curves.get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize="small")
    last = {variant: np.array([found["distance"][-1] for found in rows]) for variant, rows in of.items()}
    left = {variant: last[variant] / [found["distance"][0] for found in rows] for variant, rows in of.items()}
    checks = [
        Check(
            "at the end, ns over the larger of clip and gp", last["ns"] / np.maximum(last["clip"], last["gp"]), least=1
        ),
        Check("distance at the end over that at step 60, clip", left["clip"], most=LIMIT, form=".0%"),
        Check("the same, gp", left["gp"], most=LIMIT, form=".0%"),
    ]
    told = [f"{np.median([found['apart'] for found in rows]):.0%} ({variant})" for variant, rows in of.items()]
    finish(plan, figure, checks, f"samples lie {', '.join(told)} as far apart as digits", 96)


if __name__ == "__main__":
    main(plan("mlp", seeds=3))
