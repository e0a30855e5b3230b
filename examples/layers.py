"""The gradient of the critic's loss at each layer of a deep critic, under weight clipping and under the penalty.

python layers.py OUT WIDTH STEPS SEEDS. Gulrajani et al. 2017, section 3.2 and figure 1b left: Swiss roll, generator and
critic of 12 layers with ReLU and no batch norm. Clipping makes the gradient grow or shrink by a factor with each layer.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from claims import finish, points_state
from matplotlib.figure import Figure
from torch import nn

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.toys import toy_points
from wgan_cli.networks import mlp
from wgan_cli.step import critic_step, generator_step

LR = 5e-4  # times 300 critic steps is more than the largest clip, so that weights can reach it
LIMIT_PENALTY = 10  # the largest norm of a layer over the smallest, at most, under each seed
LIMIT_CLIPPING = 100  # the same, at least, for each clip and seed: a factor of 1.6 a layer


def layer_norms(seed: int, width: int, steps: int, **given: object) -> list[float]:
    """Norm of the gradient with respect to each hidden layer's output, after `steps` generator steps."""
    state = points_state(width=width, latent=2, lr=LR, seed=seed, **given)
    data = Dataset(toy_points("swissroll"), "")
    torch.manual_seed(seed)
    for network in (state.generator, state.critic):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):  # as the authors' code begins; torch's own is too small for 12 layers
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
    for step in range(steps):
        for turn in range(state.config.n_critic):
            batch = data.batch(step * state.config.n_critic + turn, state.config.batch, seed, state.device)
            critic_step(state, batch)
        generator_step(state, batch)
    real = data.batch(0, 512, 1, state.device).samples
    with torch.no_grad():
        fake = state.generator(torch.randn(512, 2))
    value, hidden = torch.cat([real, fake]), []
    for layer in state.critic.get_submodule("net").children():
        value = layer(value)
        if isinstance(layer, nn.ReLU):
            hidden.append(value)
    loss = state.config.record.critic_loss(*value.squeeze(1).chunk(2))
    return [gradient.double().norm().item() for gradient in torch.autograd.grad(loss, hidden)]


def main(out: Path, width: int, steps: int, seeds: int) -> None:
    mlp.HIDDEN_LAYERS = 11  # and the linear one at the end
    runs: dict[str, dict[str, object]] = {
        **{f"clipping, c = {c}": {"variant": "clip", "clip": c} for c in (0.1, 0.01, 0.001)},
        "gradient penalty": {"variant": "gp"},
    }
    norms = {
        label: [layer_norms(seed, width, steps, **given) for seed in range(seeds)] for label, given in runs.items()
    }
    spans = {label: [max(row) / max(min(row), 1e-45) for row in rows] for label, rows in norms.items()}
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for colour, (label, rows) in enumerate(norms.items()):
        for seed, row in enumerate(rows):
            look = {"color": f"C{colour}", "alpha": 1 if seed == 0 else 0.4, "label": label if seed == 0 else None}
            axes.semilogy(np.arange(len(row)) + 1, row, ".-", **look)
    axes.set(xlabel="hidden layer of the critic", ylabel="gradient norm of the critic's loss", xticks=range(1, 12))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    clipping = [min(of_seeds) for of_seeds in spans.values()][:3]
    penalty = max(spans["gradient penalty"])
    finish(
        out,
        figure,
        "layers",
        penalty <= LIMIT_PENALTY and min(clipping) >= LIMIT_CLIPPING,
        f"worst of {seeds} seeds: norms span {penalty:.2g}x under the penalty (limit {LIMIT_PENALTY}), "
        f"{', '.join(f'{span:.1e}x' for span in clipping)} under clipping at 0.1, 0.01, 0.001 (limit {LIMIT_CLIPPING})",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
