"""Histograms of the critic's weights after training on the Swiss roll, clipped and penalised.

python weights.py OUT SET reads the runs OUT/SET-clip and OUT/SET-gp. Gulrajani et al. 2017, section 3.1 and figure 1b
right: clipping pushes the weights towards the two ends of what it allows.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from claims import finish
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from wgan_cli.checkpoint import load_critic
from wgan_cli.train import new_state

EDGE = 0.9  # the outermost tenth on either side, which would hold 10 % of weights spread evenly
LIMIT_CLIP = 0.5  # most weights are there: two values, not a spread
LIMIT_GP = 0.1  # fewer than if spread evenly


def matrices(critic: nn.Module) -> NDArray:
    return np.concatenate([p.detach().flatten().numpy() for p in critic.parameters() if p.dim() > 1])


def main(out: Path, name: str) -> None:
    shares = {}
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    for axes, variant in zip(figure.subplots(1, 2), ("clip", "gp"), strict=True):
        critic, config = load_critic(out / f"{name}-{variant}" / "ckpt.pt", torch.device("cpu"))
        new = matrices(new_state(config, torch.device("cpu")).critic)
        weights = {"before training": new, "after training": matrices(critic)}
        if config.clip:  # torch begins with weights up to 1 / sqrt(64), which the first clamp cuts
            weights["before training"] = new.clip(-config.clip, config.clip)
        limit = config.clip or np.abs(weights["after training"]).max()
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
        clip >= LIMIT_CLIP and gp <= LIMIT_GP,
        f"in the outermost tenth of their range: {clip:.1%} of clip's weights (limit {LIMIT_CLIP:.0%} or more; "
        f"{shares['clip', 'before training']:.0%} after the first clamp), {gp:.2%} of gp's (limit {LIMIT_GP:.0%} or "
        "less)",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
