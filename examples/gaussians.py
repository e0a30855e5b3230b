"""Samples and the critic's contours of each variant on each toy set; modes covered, and samples near the data.

python gaussians.py OUT SET... reads the runs OUT/SET-VARIANT. Sets of Gulrajani et al. 2017, section 3.1 and
figure 1a, whose critics are trained against a fixed generator, where these are at the end of their game; dropped modes:
Goodfellow 2016, section 5.1.1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims import SIGMAS, finish, modes, modes_covered, samples
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wgan_cli import load
from wgan_cli.data.toys import toy_points

COUNT = 2500
VARIANTS = ("gan", "ns", "clip", "gp")
# gp covers every mode of both sets of Gaussians, and gan does not; what covers a mode is in claims.py


def near_roll(points: NDArray[Any]) -> float:
    """The share of points within 3 deviations of the Swiss roll's middle line."""
    t = np.linspace(1.5 * np.pi, 4.5 * np.pi, 2000)
    line = np.stack([t * np.cos(t), t * np.sin(t)], axis=1) / 7.5
    distance = np.linalg.norm(points[:, None] - line, axis=2).min(axis=1)
    return float((distance <= SIGMAS * 0.25 / 7.5).mean())


def main(out: Path, sets: list[str]) -> None:
    figure = Figure(figsize=(2 * len(VARIANTS), 2.1 * len(sets)), layout="constrained")
    grid = figure.subplots(len(sets), len(VARIANTS), squeeze=False)
    line = torch.linspace(-2.2, 2.2, 96)
    plane = torch.cartesian_prod(line, line)
    covered: dict[str, dict[str, int]] = {v: {} for v in VARIANTS}
    texts = []
    for row, name in zip(grid, sets, strict=True):
        real = toy_points(name)[:400]
        for axes, variant in zip(row, VARIANTS, strict=True):
            checkpoint = out / f"{name}-{variant}" / "ckpt.pt"
            points = samples(checkpoint, COUNT).numpy()
            levels = load(checkpoint).critic(plane).view(96, 96).T
            axes.contour(line, line, levels, 8, colors="C0", linewidths=0.5, linestyles="solid")
            axes.plot(*real.T, ".", color="0.6", markersize=1.2)
            axes.plot(*points[:600].T, ".", color="C3", markersize=1)
            axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=(), yticks=(), aspect="equal")
            if name == "swissroll":
                share = near_roll(points)
                axes.set_title(f"{variant}: {share:.0%} within 3σ", fontsize=7.5)
                texts.append(f"{variant} {name} ({share:.0%})")
                continue
            covered[variant][name], share = modes_covered(points, name)
            of = len(modes(name)[0])
            axes.set_title(f"{variant}: {covered[variant][name]}/{of}, {share:.0%} within 3σ", fontsize=7.5)
            texts.append(f"{variant} {covered[variant][name]}/{of} ({share:.0%})")
    gaussians = [name for name in sets if name != "swissroll"]
    everywhere = {v: all(covered[v][name] == len(modes(name)[0]) for name in gaussians) for v in VARIANTS}
    figure.suptitle("samples (red), data (grey), level lines of the critic", fontsize=10)
    finish(
        out,
        figure,
        "gaussians",
        everywhere["gp"] and not everywhere["gan"],
        f"modes covered (samples within 3σ): {', '.join(texts)}; limit: all by gp, not all by gan",
        colours=20,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
