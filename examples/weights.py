"""The weights of critics that are trained to their best against a fixed generator, clipped and penalised.

Gulrajani et al. 2017, section 3.1 and figure 1b right: clipping pushes weights towards two values, the ends of what it
allows. Their critics were not in a game: those of figure 1 are trained to optimality against a
generator that is fixed at real data plus unit Gaussian noise, on the Swiss roll, with c = 0.01.

Here the weights begin within half of what the clip allows, by scaling torch's own: none is at the ends to begin with,
and what is there at the end was pushed there. Limits are those of the first form of this experiment, which asked the
same of critics at the end of a game: most weights of clip at the ends, and fewer of gp than if spread evenly.
"""

from __future__ import annotations

import numpy as np
import torch
from claims import CPU, Check, Plan, finish, measured, plan, points_state
from matplotlib.figure import Figure
from torch import Tensor, nn

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.toys import toy_points
from wgan_cli.step import critic_step

EDGE = 0.9  # the outermost tenth on either side, which would hold 10 % of weights spread evenly
LIMIT_CLIP = 0.5  # of clip's weights are there, at least: two values, not a spread
LIMIT_GP = 0.1  # of gp's, at most
WITHIN = 0.995  # of gp's weights, which have no bounds, what lies in their range: the few beyond would stretch it
BINS = 60
SETTINGS = {  # the paper's λ, else the authors' code for the toy sets with half the units
    "clip": {"variant": "clip", "clip": 0.01, "lr": 5e-5},
    "gp": {"variant": "gp", "gp_weight": 10.0, "lr": 1e-4, "betas": (0.5, 0.9)},
}


class Noisy(nn.Module):
    """In place of a generator: points of the data plus unit Gaussian noise, whatever the latents."""

    def __init__(self, points: Tensor, seed: int) -> None:
        super().__init__()
        self.points, self.random = points, torch.Generator().manual_seed(seed)

    def forward(self, latent: Tensor, y: Tensor | None = None) -> Tensor:
        chosen = torch.randint(len(self.points), (len(latent),), generator=self.random)
        return self.points[chosen] + torch.randn(len(latent), 2, generator=self.random)


def matrices(critic: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in critic.parameters() if p.dim() > 1])


def run(seed: int, variant: str, width: int, steps: int) -> dict[str, list[float]]:
    state = points_state(**SETTINGS[variant], width=width, batch=256, seed=seed)
    points = toy_points("swissroll")
    state.generator, data = Noisy(torch.from_numpy(points), seed), Dataset(points, "")
    if clip := state.config.clip:
        with torch.no_grad():
            for p in state.critic.parameters():
                p.mul_(0.5 * clip / p.abs().max())
    before = matrices(state.critic)
    estimates = []
    for step in range(steps):
        figures = critic_step(state, data.batch(step, 256, seed, CPU))
        estimates.append(figures["wasserstein"].item())
    after = matrices(state.critic)
    limit = clip or float(np.quantile(after.abs().numpy(), WITHIN))
    edges = np.linspace(-limit, limit, BINS + 1) * 1.001
    at_ends = after.abs() >= EDGE * limit
    share, of_moved = at_ends.float().mean().item(), at_ends[after != before].float().mean().item()
    histograms = {
        name: np.histogram(w.numpy(), edges)[0].tolist() for name, w in (("before", before), ("after", after))
    }
    return {"share": [share], "of_moved": [of_moved], "limit": [limit], "estimates": estimates, **histograms}


def main(plan: Plan) -> None:
    width, steps = plan.short((8, {"clip": 3, "gp": 3}), (256, {"clip": 5000, "gp": 2000}))
    jobs = {f"{variant}-{seed}": (seed, variant, width, steps[variant]) for seed in plan.seeds for variant in SETTINGS}
    runs = measured(plan, run, jobs)
    figure = Figure(figsize=(9.5, 2.9), layout="constrained")
    *histograms, curves = figure.subplots(1, 3)
    for number, (axes, variant) in enumerate(zip(histograms, SETTINGS, strict=True)):
        for seed in plan.seeds:
            found, first = runs[f"{variant}-{seed}"], seed == plan.seeds[0]
            edges = np.linspace(-1, 1, BINS + 1) * found["limit"][0]
            for name, colour in (("before", "0.6"), ("after", f"C{number}")):
                label = f"{name} training" if first else None
                axes.stairs(found[name], edges, color=colour, alpha=0.7, label=label)
            estimates = np.array(found["estimates"])
            smooth = [np.median(estimates[max(0, i - 99) : i + 1]) for i in range(0, len(estimates), 10)]
            curves.plot(
                range(0, len(estimates), 10),
                smooth / estimates[-100:].mean(),
                f"C{number}",
                alpha=0.6,
                label=variant if first else None,
            )
        title = "clipped at ±0.01" if variant == "clip" else f"gradient penalty, {WITHIN:.1%} of the weights"
        axes.set(title=title, xlabel="weight of the critic", ylabel="weights", yscale="log")
        axes.legend(fontsize="small")
    curves.set(title="trained to its best?", xlabel="critic steps", ylabel="estimate over its last", ylim=(-0.1, 1.3))
    curves.legend(fontsize="small")
    share = {variant: [runs[f"{variant}-{seed}"]["share"][0] for seed in plan.seeds] for variant in SETTINGS}
    checks = [
        Check("clip's weights in the outermost tenth", share["clip"], least=LIMIT_CLIP, form=".1%"),
        Check("gp's, of the range of 99.5% of them", share["gp"], most=LIMIT_GP, form=".2%"),
    ]
    of_moved = [runs[f"clip-{seed}"]["of_moved"][0] for seed in plan.seeds]
    told = f"{np.median(of_moved):.1%} ({min(of_moved):.1%} to {max(of_moved):.1%})"
    finish(plan, figure, checks, f"of clip's weights that training moved at all {told} are there")


if __name__ == "__main__":
    main(plan("weights", seeds=5))
