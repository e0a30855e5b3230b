"""The saturating loss on 8 Gaussians with and without instance noise that falls to zero over the run.

python noise.py OUT reads the runs OUT/noise-0 and OUT/noise-0.5 with their numbered checkpoints. Arjovsky and Bottou
2017, section 3, and Sønderby et al. 2017, section 3: noise on real and fake makes their supports overlap, so that the
discriminator cannot be sure of itself and the generator has a gradient.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
from claims import finish, modes_covered, samples
from matplotlib.figure import Figure

from wgan_cli.data.toys import toy_points
from wgan_cli.metrics import sliced_wasserstein

COUNT = 2000
LIMIT = 2  # the distance to the data without noise over that with it, medians of the run: at least halved is a rescue


def main(out: Path) -> None:
    real = torch.from_numpy(toy_points("8gaussians")[:COUNT])
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    distance_axes, modes_axes = figure.subplots(1, 2)
    median, most = [], []
    for run, label in (("noise-0", "without noise"), ("noise-0.5", "noise of σ 0.5, falling to 0 at the end")):
        steps, distances, covered = [], [], []
        for checkpoint in sorted((out / run).glob("ckpt-*.pt")):
            points = samples(checkpoint, COUNT)
            steps.append(int(checkpoint.stem[5:]))
            distances.append(sliced_wasserstein(points, real))
            covered.append(modes_covered(points.numpy(), "8gaussians")[0])
        distance_axes.semilogy(steps, distances, ".-", label=label)
        modes_axes.plot(steps, covered, ".-", label=label)
        median.append(statistics.median(distances))
        most.append(max(covered))
    distance_axes.set(xlabel="generator steps", ylabel="sliced Wasserstein distance\nof samples to data")
    modes_axes.set(xlabel="generator steps", ylabel="modes covered", ylim=(-0.3, 8.3))
    distance_axes.legend(fontsize="small")
    finish(
        out,
        figure,
        "noise",
        median[0] >= LIMIT * median[1],
        f"noise brings the median distance to the data from {median[0]:.3g} to {median[1]:.3g}, "
        f"{median[0] / median[1]:.2g}x less (limit {LIMIT}x), and the most modes covered from {most[0]} to "
        f"{most[1]} of 8",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
