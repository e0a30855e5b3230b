"""The critic's estimate on training and on held-out digits, with 1,000 digits to train on and with three times as many.

Gulrajani et al. 2017, end of section 5 and figure 5b: with 1,000 digits the critic overfits, and its loss on held-out
digits parts from that on training digits; the estimate on training digits alone hides this.

Both estimates are of the same critic against the same samples, at 60 moments. The gap is what the estimate loses on
held-out digits, as a share of that on training digits; medians over the first and over the last quarter of the run.
Limits, set before the first run: curves that part have a gap that grows, to a tenth of the estimate at least, which is
what `lines` allows an estimate to be off; and with three times the digits the gap at the end is smaller.
"""

from __future__ import annotations

import numpy as np
from claims import CPU, Check, Plan, advance, digits, digits_config, finish, measured, plan
from matplotlib.figure import Figure

from wgan_cli.state import new_state
from wgan_cli.watch import compare

LIMIT_GROWTH = 0.0  # of the gap from the first quarter to the last, at least
LIMIT_GAP = 0.1  # at the end, at least
LIMIT_MORE = 1.0  # the gap at the end under more digits over that under 1,000, at most
COUNTS = (1000, 3000)
LABELS = ("wasserstein_training", "wasserstein_heldout")


def run(seed: int, count: int, steps: int, every: int) -> list[list[float]]:
    """[moments, 2]: the estimates on digits trained on and held out."""
    training, heldout = digits()
    few = np.zeros(len(training.rows), bool)
    assert training.chosen is not None
    few[np.random.default_rng(seed).choice(training.chosen, count, replace=False)] = True
    data = training.part(few)
    state = new_state(digits_config(variant="gp", width=16, batch=32, lr=1e-3, seed=seed), CPU)
    found = []
    for step in range(1, steps + 1):
        advance(state, data)
        if step % every == 0:
            figures = compare(state, data, heldout)
            found.append([figures[label].item() for label in LABELS])
    return found


def main(plan: Plan) -> None:
    steps, every = plan.short((4, 1), (1200, 20))
    jobs = {f"{count}-{seed}": (seed, count, steps, every) for seed in plan.seeds for count in COUNTS}
    runs = {name: np.array(found) for name, found in measured(plan, run, jobs).items()}
    figure = Figure(figsize=(9, 3), layout="constrained")
    at, quarter = np.arange(every, steps + 1, every), steps // every // 4
    first: dict[int, list[float]] = {count: [] for count in COUNTS}
    last: dict[int, list[float]] = {count: [] for count in COUNTS}
    for axes, count in zip(figure.subplots(1, 2, sharey=True), COUNTS, strict=True):
        for seed in plan.seeds:
            found = runs[f"{count}-{seed}"]
            gap = 1 - found[:, 1] / found[:, 0]
            first[count].append(float(np.median(gap[:quarter])))
            last[count].append(float(np.median(gap[-quarter:])))
            for values, colour, name in zip(found.T, ("C0", "C1"), ("training", "held out"), strict=True):
                axes.plot(at, values, colour, alpha=0.6, linewidth=1, label=name if seed == plan.seeds[0] else None)
        axes.set(title=f"{count:,} digits: gap {np.median(last[count]):.0%}", xlabel="generator steps", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", title="estimate on digits")
        axes.set_ylabel("Wasserstein estimate" if count == COUNTS[0] else "")
    few, more = COUNTS
    checks = [
        Check("gap at the end", last[few], least=LIMIT_GAP, form=".1%"),
        Check(
            "its growth from the first quarter on, in points",
            np.subtract(last[few], first[few]),
            least=LIMIT_GROWTH,
            form=".1%",
        ),
        Check(
            f"gap with {more:,} digits over that with {few:,}",
            np.divide(last[more], last[few]),
            most=LIMIT_MORE,
            form=".2f",
        ),
    ]
    finish(plan, figure, checks)


if __name__ == "__main__":
    main(plan("overfit", seeds=3))
