"""The saturating loss on 8 Gaussians with and without instance noise that falls to zero over the run.

Arjovsky and Bottou 2017, section 3, and Sønderby et al. 2017, section 3: noise on real and fake makes their supports
overlap, so that the discriminator cannot be sure of itself and the generator has a gradient.
"""

from __future__ import annotations

import statistics

import torch
from claims import Check, Plan, advance, draw, finish, measured, modes_covered, plan, points_state
from matplotlib.figure import Figure

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.toys import toy_points
from wgan_cli.metrics import sliced_wasserstein

COUNT = 2000
LIMIT = 2  # the distance to the data without noise over that with it, medians of the run: at least halved is a rescue
NOISES = {0.0: "without noise", 0.5: "noise of σ 0.5, falling to 0 at the end"}


def run(seed: int, noise: float, steps: int, every: int) -> dict[str, list[float]]:
    given = {"width": 128, "batch": 128, "lr": 5e-4, "n_critic": 5, "steps": steps}
    state = points_state(variant="gan", instance_noise=noise, seed=seed, **given)
    points = toy_points("8gaussians")
    data, found = Dataset(points, ""), {"distance": list[float](), "covered": list[float]()}
    for step in range(1, steps + 1):
        advance(state, data)
        if step % every == 0:
            samples = draw(state, COUNT)
            found["distance"].append(sliced_wasserstein(samples, torch.from_numpy(points[:COUNT])))
            found["covered"].append(modes_covered(samples.numpy(), "8gaussians")[0])
    return found


def main(plan: Plan) -> None:
    steps, every = plan.short((2, 1), (2000, 100))
    runs = measured(
        plan, run, {f"{noise}-{seed}": (seed, noise, steps, every) for seed in plan.seeds for noise in NOISES}
    )
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    distance_axes, modes_axes = figure.subplots(1, 2)
    at = range(every, steps + 1, every)
    medians: dict[float, list[float]] = {}
    most: dict[float, list[float]] = {}
    for number, (noise, label) in enumerate(NOISES.items()):
        of = [runs[f"{noise}-{seed}"] for seed in plan.seeds]
        medians[noise] = [statistics.median(found["distance"]) for found in of]
        most[noise] = [max(found["covered"]) for found in of]
        for found in of:
            look = {"color": f"C{number}", "alpha": 0.6, "linewidth": 1, "markersize": 3}
            distance_axes.semilogy(at, found["distance"], ".-", label=label if found is of[0] else None, **look)
            modes_axes.plot(at, found["covered"], ".-", **look)
    distance_axes.set(xlabel="generator steps", ylabel="sliced Wasserstein distance\nof samples to data")
    modes_axes.set(xlabel="generator steps", ylabel="modes covered", ylim=(-0.3, 8.3))
    figure.legend(*distance_axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize="small")
    ratios = [without / with_it for without, with_it in zip(medians[0.0], medians[0.5], strict=True)]
    told = [f"{statistics.median(most[noise]):g}" for noise in NOISES]
    finish(
        plan,
        figure,
        [Check("median distance to the data without noise over that with it", ratios, least=LIMIT, form=".2g")],
        f"the most modes covered: {told[0]} without, {told[1]} with it",
    )


if __name__ == "__main__":
    main(plan("noise", seeds=5))
