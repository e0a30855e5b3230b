"""The gradient that a frozen generator gets while a new discriminator, or a new critic, is trained against it.

python vanishing.py OUT STEPS DIGITS CKPT...  Arjovsky and Bottou 2017, figures 2 and 3. With an ever better
discriminator the gradient of the saturating loss E log(1 - D(G(z))) vanishes (theorem 2.4), that of -E log D(G(z)) does
not, but becomes noisier (theorem 2.6). That of a Wasserstein critic stays.
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

from wgan_cli.checkpoint import load, restore
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.data.cache import prepare
from wgan_cli.data.dataset import Dataset
from wgan_cli.data.source import open_source
from wgan_cli.networks import build_generator
from wgan_cli.state import new_state
from wgan_cli.step import critic_step
from wgan_cli.variants import VARIANTS

BATCHES = 8  # of latents, at each measurement
LIMIT_FALL = 1e3  # of the saturating loss, from its largest norm to its last, for each generator
LIMIT_STAYS = 10  # the same of the critic, at most
LIMIT_GROWS = 1  # of -log D: norm and variance at the end, over those where the saturating norm was largest, at least


def measure(config: TrainConfig, checkpoint: Path, data: Dataset, steps: int, losses: tuple[str, ...]) -> NDArray[Any]:
    """[losses, 2, times]: mean norm of the generator's gradient, and its variance E‖g - E g‖², by critic steps."""
    state = new_state(config, torch.device("cpu"))
    state.generator = restore(build_generator, config, load(checkpoint)[0]["generator"], checkpoint).train()
    params, found = list(state.generator.parameters()), []
    rng, moments = torch.Generator(), times(steps)
    for step in range(steps + 1):
        if step in moments:
            gradients: dict[str, list[torch.Tensor]] = {loss: [] for loss in losses}
            rng.manual_seed(0)
            for _ in range(BATCHES):
                on_fake = state.critic(state.generator(torch.randn(config.batch, config.latent, generator=rng)))
                for loss in losses:
                    parts = torch.autograd.grad(VARIANTS[loss].generator_loss(on_fake, None), params, retain_graph=True)
                    gradients[loss].append(torch.cat([part.flatten() for part in parts]))
            stacks = [torch.stack(rows).double() for rows in gradients.values()]
            found.append([[g.norm(dim=1).mean().item(), g.var(dim=0).sum().item()] for g in stacks])
        critic_step(state, data.batch(step, config.batch, 1, state.device))
    return np.array(found).transpose(1, 2, 0)


def times(steps: int) -> list[int]:
    return sorted({int(t) for t in np.geomspace(1, steps, 25)})


def main(out: Path, steps: int, digits: str, checkpoints: list[Path]) -> None:
    trained = load(checkpoints[0])[1]
    shape = {"size": trained.size, "channels": trained.channels}
    sizes = {"width": trained.width, "batch": trained.batch, "latent": trained.latent}
    data = prepare(open_source(digits, sys.stdin.buffer), trained, False, Console())
    figure = Figure(figsize=(9, 3), layout="constrained")
    titles = ("saturating: log(1 − D)", "−log D", "Wasserstein critic (gp)")
    panels = figure.subplots(1, 3, sharey=True)
    falls, grows, stays = [], [], []
    for colour, checkpoint in enumerate(checkpoints):
        epochs = load(checkpoint)[0]["step"] * trained.batch / len(data)
        label = f"{epochs:.0f} epoch{'s' if epochs > 1 else ''}"
        rows = [*measure(resolve({"variant": "gan", **sizes}, shape)[0], checkpoint, data, steps, ("gan", "ns"))]
        rows += [*measure(resolve({"variant": "gp", **sizes}, shape)[0], checkpoint, data, steps, ("gp",))]
        for axes, title, (norm, variance) in zip(panels, titles, rows, strict=True):
            axes.loglog(times(steps), norm, f"C{colour}", label=label)
            spread = np.sqrt(variance)
            axes.loglog(times(steps), spread, f"C{colour}:", linewidth=1)
            axes.set(title=title, xlabel="discriminator or critic steps")
            axes.grid(alpha=0.3)
        (saturating, _), (log_d, variance), (critic, _) = rows
        largest = saturating.argmax()
        falls.append(saturating.max() / saturating[-1])
        grows.append(min(log_d[-1] / log_d[largest], variance[-1] / variance[largest]))
        stays.append(critic.max() / critic[-1])
    panels[0].set_ylabel("gradient norm of the generator\n(dotted: deviation over batches)")
    panels[0].legend(title="generator after", fontsize="small")
    passed = min(falls) >= LIMIT_FALL and min(grows) >= LIMIT_GROWS and max(stays) <= LIMIT_STAYS
    finish(
        out,
        figure,
        "vanishing",
        passed,
        f"saturating norm falls {', '.join(f'{fall:.1e}' for fall in falls)}-fold (limit {LIMIT_FALL:.0e} each), norm "
        f"and variance of -log D grow {min(grows):.2g}-fold or more (limit {LIMIT_GROWS}), critic's falls "
        f"{max(stays):.2g}-fold or less (limit {LIMIT_STAYS})",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], [Path(name) for name in sys.argv[4:]])
