"""The noise of the gradient of -log D(G(z)), against normal and Cauchy distributions, by a quantile plot.

Arjovsky and Bottou 2017, theorem 2.6: near a perfect discriminator, D = D* - ε with ε and its gradient independent
centred Gaussian processes, each coordinate of E -∇ log D(G(z)) is a centred Cauchy variable, of infinite expectation
and variance: a Gaussian over a Gaussian, -∇D / D. The theorem is about discriminators whose error crosses 0; D as the
sigmoid of f, which networks have, makes -∇ log D = -(1 - D) ∇f, which is bounded where ∇f is. So what real
discriminators show is an open question, and the experiment asks it.

Cauchy variables stay Cauchy in the mean of a batch. So the gradient is taken for many batches of latents, at a frozen
generator and a trained discriminator; each coordinate is centred by its median and scaled to the quartiles of a Cauchy
variable. Tails are measured by Hill's estimate of the index α, P(|x| > t) ~ t^-α, from the largest TAIL of the values:
1 for Cauchy; a finite variance needs more than 2. Limit: below 2, set before the first run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from claims import CPU, Check, Plan, digits_config, every_digit, finish, measured, plan
from matplotlib.figure import Figure
from numpy.typing import NDArray
from vanishing import SIZES, trained_generator

from wgan_cli.state import new_state
from wgan_cli.step import critic_step
from wgan_cli.variants import VARIANTS

LIMIT = 2.0  # of Hill's α for the discriminator's gradient, at most: no variance
TAIL = 0.01  # of all values
COORDINATES = 200  # parameters of the generator
LEVELS = np.concatenate([np.geomspace(1e-4, 0.5, 40), 1 - np.geomspace(1e-4, 0.5, 40)[-2::-1]])  # of the quantiles


def gradients(loss: str, seed: int, epochs: int, epoch: int, steps: int, batches: int) -> NDArray[np.float64]:
    """[batches, COORDINATES] of the generator's loss: ns, of a discriminator, or gp, of a Wasserstein critic."""
    data = every_digit()
    generator = trained_generator(seed, epochs * epoch, data)
    variant = "gan" if loss == "ns" else loss
    state = new_state(digits_config(variant=variant, seed=seed + 10_000, **SIZES), CPU)
    state.generator, config = generator, state.config
    for step in range(steps):
        critic_step(state, data.batch(step, config.batch, seed, CPU))
    params, rng = list(generator.parameters()), torch.Generator().manual_seed(seed)
    chosen = np.random.default_rng(seed).choice(sum(p.numel() for p in params), COORDINATES, replace=False)
    rows = []
    for _ in range(batches):
        on_fake = state.critic(generator(torch.randn(config.batch, config.latent, generator=rng)))
        parts = torch.autograd.grad(VARIANTS[loss].generator_loss(on_fake, None), params)
        rows.append(torch.cat([part.flatten() for part in parts])[chosen].double().numpy())
    return np.array(rows)


def scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns with the median 0 and the quartiles -1 and 1, as a Cauchy variable's; those always 0 are left out."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    kept = high > low
    return (2 * (values - middle)[:, kept] / (high - low)[kept]).ravel()


def hill(values: NDArray[np.float64]) -> float:
    """Hill's estimate of α from the largest TAIL of |values|."""
    ordered = np.sort(np.abs(values))[::-1]
    count = max(2, round(TAIL * len(ordered)))
    return float(1 / np.log(ordered[: count - 1] / ordered[count - 1]).mean())


def run(loss: str, seed: int, *arguments: Any) -> dict[str, Any]:
    values = scaled(gradients(loss, seed, *arguments))
    return {"alpha": hill(values), "quantiles": np.quantile(values, LEVELS).tolist()}


def main(plan: Plan) -> None:
    sizes = plan.short((1, 1, 2, 8), (10, 125, 1000, 500))
    jobs = {f"{loss}-{seed}": (loss, seed, *sizes) for loss in ("gp", "ns") for seed in plan.seeds}
    runs = measured(plan, run, jobs)
    rng = np.random.default_rng(0)
    drawn = scaled(rng.standard_normal((sizes[-1], COORDINATES)))
    cauchy = np.tan(np.pi * (LEVELS - 0.5))
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(cauchy, cauchy, "k-", linewidth=0.8, label="Cauchy")
    axes.plot(cauchy, np.quantile(drawn, LEVELS), "k:", linewidth=0.8, label="normal")
    for loss, colour, label in (("ns", "C3", "−log D"), ("gp", "C0", "Wasserstein critic")):
        for seed in plan.seeds:
            name = label if seed == plan.seeds[0] else None
            axes.plot(cauchy, runs[f"{loss}-{seed}"]["quantiles"], f"{colour}.-", alpha=0.6, markersize=3, label=name)
    axes.set(xscale="symlog", yscale="symlog", xlabel="quantiles of a Cauchy variable")
    axes.set(ylabel="quantiles of the gradient's coordinates")
    axes.legend(fontsize="small")
    alpha = {loss: [runs[f"{loss}-{seed}"]["alpha"] for seed in plan.seeds] for loss in ("ns", "gp")}
    notes = f"a Wasserstein critic's gradient has {np.median(alpha['gp']):.2f}, normal numbers {hill(drawn):.2f}"
    finish(plan, figure, [Check("Hill's α of −log D", alpha["ns"], most=LIMIT, form=".2f")], notes)


if __name__ == "__main__":
    main(plan("tails", seeds=3))
