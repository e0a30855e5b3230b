"""Histograms of the critic's weights after training on the Swiss roll, clipped and penalised.

python weights.py OUT SET reads the runs OUT/SET-clip and OUT/SET-gp. Gulrajani et al. 2017, section 3.1 and figure 1b
right: clipping pushes the weights towards the two ends of what it allows.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims import finish
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from wgan_cli import load
from wgan_cli.state import new_state

EDGE = 0.9  # the outermost tenth on either side, which would hold 10 % of weights spread evenly
LIMIT_CLIP = 0.5  # most weights are there, and most of those that began elsewhere: two values, not a spread
LIMIT_GP = 0.1  # fewer than if spread evenly
WITHIN = 0.995  # of gp's weights, which have no bounds, what lies in their range: the few beyond would stretch it


def matrices(critic: nn.Module) -> NDArray[Any]:
    return np.concatenate([p.detach().flatten().numpy() for p in critic.parameters() if p.dim() > 1])


def main(out: Path, name: str) -> None:
    shares, moved = {}, 0.0
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    for axes, variant in zip(figure.subplots(1, 2), ("clip", "gp"), strict=True):
        _, critic, config = load(out / f"{name}-{variant}")
        new = matrices(new_state(config, torch.device("cpu")).critic)
        weights = {"before training": new, "after training": matrices(critic)}
        limit = config.clip or np.quantile(np.abs(weights["after training"]), WITHIN)
        if config.clip:  # torch begins with larger weights, which the first clamp cuts
            weights["before training"] = new.clip(-limit, limit)
            began_inside = np.abs(new) < EDGE * limit
            moved = float((np.abs(weights["after training"][began_inside]) >= EDGE * limit).mean())
        for (label, values), style in zip(weights.items(), ({"color": "0.6"}, {"color": "C0"}), strict=True):
            shares[variant, label] = float((np.abs(values) >= EDGE * limit).mean())
            axes.hist(values, bins=np.linspace(-limit, limit, 61) * 1.001, label=label, histtype="step", **style)
        title = f"clipped at ±{config.clip}" if config.clip else "gradient penalty"
        axes.set(title=title, xlabel="weight of the critic", ylabel="weights", yscale="log")
    axes.legend(fontsize="small")
    clip, gp = shares["clip", "after training"], shares["gp", "after training"]
    finish(
        out,
        figure,
        "weights",
        min(clip, moved) >= LIMIT_CLIP and gp <= LIMIT_GP,
        f"in the outermost tenth of their range: {clip:.1%} of clip's weights ({shares['clip', 'before training']:.0%} "
        f"after the first clamp) and {moved:.1%} of those that began elsewhere (limit {LIMIT_CLIP:.0%} or more), "
        f"{gp:.2%} of gp's (limit {LIMIT_GP:.0%} or less)",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
