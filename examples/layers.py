"""The gradient of the critic's loss at each layer of a deep critic, under weight clipping and under the penalty.

Gulrajani et al. 2017, section 3.2 and figure 1b left: Swiss roll, generator and
critic of 12 layers with ReLU and no batch norm. Clipping makes the gradient grow or shrink by a factor with each layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from claims import Check, Plan, advance, finish, measured, plan, points_state
from matplotlib.figure import Figure
from torch import nn

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.toys import toy_points
from wgan_cli.networks import mlp

LR = 5e-4  # times 300 critic steps is more than the largest clip, so that weights can reach it
LIMIT_PENALTY = 10  # the largest norm of a layer over the smallest, at most, under each seed
LIMIT_CLIPPING = 100  # the same, at least, for each clip: a factor of 1.6 a layer
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"clipping, c = {c}": {"variant": "clip", "clip": c} for c in (0.1, 0.01, 0.001)},
    "gradient penalty": {"variant": "gp"},
}


def run(seed: int, setting: str, width: int, steps: int, rate: float) -> list[float]:
    """Norm of the gradient with respect to each hidden layer's output, after `steps` generator steps."""
    mlp.HIDDEN_LAYERS = 11  # and the linear one at the end
    state = points_state(width=width, latent=2, lr=rate, seed=seed, **SETTINGS[setting])
    data = Dataset(toy_points("swissroll"), "")
    torch.manual_seed(seed)
    for network in (state.generator, state.critic):
        for layer in network.modules():
            if isinstance(layer, nn.Linear):  # as the authors' code begins; torch's own is too small for 12 layers
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
    for _ in range(steps):
        advance(state, data)
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


def main(plan: Plan) -> None:
    width, steps = plan.short((16, 2), (512, 60))
    jobs = {
        f"{number}-{seed}": (seed, setting, width, steps, LR)
        for seed in plan.seeds
        for number, setting in enumerate(SETTINGS)
    }
    norms = measured(plan, run, jobs)
    spans: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for (_, setting, *_), row in zip(jobs.values(), norms.values(), strict=True):
        label = None if spans[setting] else setting
        spans[setting].append(np.max(row) / np.maximum(np.min(row), 1e-45))
        axes.semilogy(np.arange(len(row)) + 1, row, f"C{list(SETTINGS).index(setting)}.-", alpha=0.6, label=label)
    axes.set(xlabel="hidden layer of the critic (gradients pass from right to left)", xticks=range(1, 12))
    axes.set_ylabel("gradient norm of the critic's loss")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    limits = [{"most": LIMIT_PENALTY} if "penalty" in setting else {"least": LIMIT_CLIPPING} for setting in SETTINGS]
    checks = [
        Check(f"largest norm over the smallest, {setting}", spans[setting], **limit, form=".2g")
        for setting, limit in zip(SETTINGS, limits, strict=True)
    ]
    finish(plan, figure, checks)


if __name__ == "__main__":
    main(plan("layers", seeds=5))
