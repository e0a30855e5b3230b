"""The gradient that a frozen generator gets while a new discriminator, or a new critic, is trained against it.

Arjovsky and Bottou 2017, figures 2 and 3. With an ever better discriminator the gradient of the saturating loss
E log(1 - D(G(z))) vanishes (theorem 2.4), that of -E log D(G(z)) does not, but becomes noisier (theorem 2.6). That of a
Wasserstein critic stays.

What theorem 2.4 says is a bound: if ‖D - D*‖ < ε and E ‖J G(z)‖² ≤ M², then ‖∇ E log(1 - D(G(z)))‖ < M ε / (1 - ε).
How many steps it takes until ε is small it does not say. The claim is judged by that: as D comes near to D*, which is 1
on data and 0 on samples, the norm falls in proportion to ε / (1 - ε), for each generator by about the same M. ε is
measured as the mean of |D - D*| over both sets, where the theorem has the largest value and the gradient's with it.

With D the sigmoid of f the gradient is -E D(G(z)) ∇f(G(z)): a mean of D on samples, weighted by ∇f. So the slope on
logarithmic axes is 1 if ∇f stays as large as it is, and M is its mean. Limits: see below; set before the first run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from claims import CPU, Check, Plan, advance, digits_config, every_digit, finish, measured, plan
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from wgan_cli.data.dataset import Dataset
from wgan_cli.state import new_state
from wgan_cli.step import critic_step
from wgan_cli.variants import VARIANTS

BATCHES = 8  # of latents and of digits, at each measurement
NEAR = 0.1  # of ε: D is nearly perfect from here on, which the theorem is about
SLOPE = (0.8, 1.2)  # over three decades a slope off by 0.2 is a factor of 4 in what should be the constant M
LIMIT_DECADES = 3  # of ε / (1 - ε), which the points that are near must span
LIMIT_M = 10  # the largest M of the three generators over the least: one line, with LIMIT_STAYS for "the same"
LIMIT_STAYS = 10  # the critic's largest norm over its last, at most
LIMIT_GROWS = 1  # of -log D: norm and variance at the end, over those where the saturating norm was largest, at least
SIZES: dict[str, Any] = {"width": 16, "batch": 32, "latent": 100}


def times(steps: int) -> list[int]:
    return sorted({int(t) for t in np.geomspace(1, steps, 25)})


def trained_generator(seed: int, steps: int, data: Dataset) -> nn.Module:
    """A DCGAN's, by -log D."""
    state = new_state(digits_config(variant="ns", seed=seed, **SIZES), CPU)
    for _ in range(steps):
        advance(state, data)
    return state.generator


def measure(
    variant: str, seed: int, generator: nn.Module, data: Dataset, steps: int, losses: tuple[str, ...]
) -> dict[str, list[float]]:
    """By critic steps: ε, and of each loss the mean norm of the generator's gradient and its variance E‖g - E g‖²."""
    state = new_state(digits_config(variant=variant, seed=seed + 10_000, **SIZES), CPU)  # nothing of the generator's
    state.generator = generator
    config, params, rng, moments = state.config, list(generator.parameters()), torch.Generator(), times(steps)
    names = ["epsilon", *(f"{loss} {figure}" for loss in losses for figure in ("norm", "var"))]
    found: dict[str, list[float]] = {name: [] for name in names}
    for step in range(steps + 1):
        if step in moments:
            gradients: dict[str, list[torch.Tensor]] = {loss: [] for loss in losses}
            off = []
            rng.manual_seed(seed)
            for number in range(BATCHES):
                on_fake = state.critic(generator(torch.randn(config.batch, config.latent, generator=rng)))
                with torch.no_grad():
                    on_real = state.critic(data.batch(steps + number, config.batch, seed, CPU).samples)
                off.append(torch.sigmoid(torch.cat([-on_real, on_fake.detach()]).double()).mean().item())
                for loss in losses:
                    parts = torch.autograd.grad(VARIANTS[loss].generator_loss(on_fake, None), params, retain_graph=True)
                    gradients[loss].append(torch.cat([part.flatten() for part in parts]))
            found["epsilon"].append(float(np.mean(off)))
            for loss, rows in gradients.items():
                g = torch.stack(rows).double()
                found[f"{loss} norm"].append(g.norm(dim=1).mean().item())
                found[f"{loss} var"].append(g.var(dim=0).sum().item())
        critic_step(state, data.batch(step, config.batch, seed, CPU))
    return found


def run(seed: int, epochs: int, epoch: int, steps: int, critic_steps: int) -> dict[str, list[float]]:
    data = every_digit()
    generator = trained_generator(seed, epochs * epoch, data)
    found = measure("gan", seed, generator, data, steps, ("gan", "ns"))
    return found | measure("gp", seed, generator, data, critic_steps, ("gp",)) | {"epsilon": found["epsilon"]}


def odds(epsilon: NDArray[np.float64]) -> NDArray[np.float64]:
    return epsilon / (1 - epsilon)


def main(plan: Plan) -> None:
    epoch, epochs = plan.short((1, [1]), (125, [1, 10, 25]))  # batches of 32 of the 4,000 digits
    steps, critic_steps = plan.short((3, 3), (4000, 500))
    jobs = {f"{seed}-{e}": (seed, e, epoch, steps, critic_steps) for seed in plan.seeds for e in reversed(epochs)}
    runs = {k: {n: np.array(v) for n, v in found.items()} for k, found in measured(plan, run, jobs).items()}

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    line, *panels = figure.subplots(1, 4)
    slopes, constants, decades, grows, stays, falls = [], [], [], [], [], []
    for seed in plan.seeds:
        points, medians = [], []
        for colour, e in enumerate(epochs):
            found = runs[f"{seed}-{e}"]
            near = found["epsilon"] < NEAR
            x, y = odds(found["epsilon"][near]), found["gan norm"][near]
            points.append((x, y))
            medians.append(np.median(y / x) if near.any() else np.nan)
            name = f"{e} epoch{'s' if e > 1 else ''}" if seed == plan.seeds[0] else None
            line.loglog(odds(found["epsilon"]), found["gan norm"], ".", color="0.8", markersize=3)
            line.loglog(x, y, f"C{colour}.", markersize=3, alpha=0.6, label=name)
            for axes, loss in zip(panels, ("gan", "ns", "gp"), strict=True):
                at = times(critic_steps if loss == "gp" else steps)
                axes.loglog(at, found[f"{loss} norm"], f"C{colour}", alpha=0.7, linewidth=1)
                axes.loglog(at, np.sqrt(found[f"{loss} var"]), f"C{colour}:", alpha=0.7, linewidth=0.8)
            largest = found["gan norm"].argmax()
            falls.append(found["gan norm"].max() / found["gan norm"][-1])
            log_d, variance = found["ns norm"], found["ns var"]
            grows.append(min(log_d[-1] / log_d[largest], variance[-1] / variance[largest]))
            stays.append(found["gp norm"].max() / found["gp norm"][-1])
        x, y = (np.log10(np.concatenate(parts)) for parts in zip(*points, strict=True))
        slopes.append(np.polyfit(x, y, 1)[0] if len(x) > 2 else np.nan)
        decades.append(np.ptp(x) if len(x) else 0.0)
        constants.append(np.max(medians) / np.min(medians))
    ends = np.array([odds(np.array([r["epsilon"].min() for r in runs.values()])).min(), 1])
    line.loglog(ends, ends * np.nanmedian([r["gan norm"][-1] / odds(r["epsilon"][-1]) for r in runs.values()]), "k:")
    line.annotate("dotted: slope 1", (0.96, 0.05), xycoords="axes fraction", ha="right", fontsize="small")
    line.set(title="saturating, by ε", xlabel="ε / (1 − ε)", ylabel="gradient norm of the generator")
    line.legend(title="generator after", fontsize="small", title_fontsize="small")
    panels[0].set_ylabel("norm (dotted: deviation)")
    titles = ("saturating (their figure 2)", "−log D (their figure 3)", "Wasserstein critic (gp)")
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=title, xlabel="discriminator or critic steps")
        axes.sharey(panels[0])
        axes.grid(alpha=0.3)
    least, most = SLOPE
    checks = [
        Check("slope of the norm over ε / (1 - ε)", slopes, least=least, most=most, form=".2f"),
        Check("decades that the points span", decades, least=LIMIT_DECADES, form=".1f"),
        Check("largest M over the least", constants, most=LIMIT_M, form=".2g"),
        Check("-log D: growth of norm and variance", grows, least=LIMIT_GROWS, form=".2g"),
        Check("critic: fall of the norm", stays, most=LIMIT_STAYS, form=".2g"),
    ]
    shown = [f"{np.median(falls[i :: len(epochs)]):.1e}" for i in range(len(epochs))]
    finish(plan, figure, checks, f"the saturating norm falls {', '.join(shown)}-fold, by the generators' epochs")


if __name__ == "__main__":
    main(plan("vanishing", seeds=3))
