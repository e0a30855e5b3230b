"""What a run's records say of it: one word, the reason for a person, and the figures behind it.

Batches are noisy, so every figure is a median, or a share of batches. "Now" is the last quarter of the steps so far,
"before" the quarter before it, "most" is three quarters. In the order in which they are asked, the rules are these; a
missing figure meets none:

diverged         a figure or weight was not finite
too-early        fewer than ten logged batches in now and before together
diverged         the critic is out of bounds: estimate under its floor, or gradient norms over 2 and a penalty above it
critic-too-weak  in a third of the batches, in now and before, the critic scored samples no lower than data
too-early        fewer than three comparisons in now and before together
collapsed        samples lie less than half as far apart as data do, and still would after as many steps again
critic-overfits  held-out data lose over a fifth of the estimate on training data, and over twice its standard error
improving        it has risen in every quarter, by a twentieth and above most batches of before in the last: the critic
                 still learns
diverged         it had come down, is over twice what it was in a middle quarter, and above most batches of before
improving        it is lower than before by a twentieth, and than most batches of before
converged        none of these
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .losses import ESTIMATES, WASSERSTEIN


@dataclass(frozen=True)
class Verdict:
    word: str
    reason: str
    estimate: str  # the column judged by, a key of ESTIMATES
    figures: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"


def judge(records: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict on a run, from the records of its metrics.jsonl in order."""
    end = records[-1]["step"] if records else 0
    quarters = [[r for r in records if i * end < 4 * r["step"] <= (i + 1) * end] for i in range(4)]
    before, now = quarters[2:]
    both = before + now
    name = next((name for name in ESTIMATES if any(name in r for r in records)), WASSERSTEIN.name)

    def median(part: Iterable[Mapping[str, Any]], column: str) -> float:
        return statistics.median([r[column] for r in part if column in r] or [math.nan])

    course = [median(quarter, name) for quarter in quarters]
    earlier, estimate = course[2:]
    lowest = min(course[1:3])  # in the first quarter the critic may not know much yet
    values = [r[name] for r in before if name in r]
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else [math.nan] * 3
    not_above = statistics.fmean([r[name] <= 0 for r in both if name in r] or [math.nan])
    training, heldout, error = (median(now, c) for c in (f"{name}_training", f"{name}_heldout", "heldout_error"))
    diversity, diversity_earlier = median(now, "diversity"), median(before, "diversity")
    penalty, norm = median(now, "penalty"), median(now, "grad_norm")
    batches, comparisons = (sum(column in r for r in both) for column in (name, f"{name}_training"))

    trend = f"the estimate is {estimate:.3g}, after {earlier:.3g} in the quarter before"
    kept = f"{heldout:.3g} on held-out data, {training:.3g} on training data"
    spread = f"samples lie {diversity:.0%} as far apart as data"
    state = f"{kept}; {spread}" if heldout == heldout else spread
    rules = (
        ("diverged", bool(records) and name not in records[-1], f"no longer finite at step {end}; take a lower --lr"),
        ("too-early", batches < 10, f"{batches} batches logged in the last half of the steps do not tell"),
        (
            "diverged",
            estimate < ESTIMATES[name].floor,
            f"the estimate is {estimate:.3g}: the critic does worse than by saying the same of all; take a lower --lr",
        ),
        (
            "diverged",
            norm > 2 and penalty > estimate,
            f"gradient norms are {norm:.3g}, not near 1, and the penalty of {penalty:.3g} outweighs the estimate of "
            f"{estimate:.3g}; take a lower --lr",
        ),
        (
            "critic-too-weak",
            not_above >= 1 / 3,
            f"in {not_above:.0%} of the batches the critic scored samples no lower than data, so that it has nothing "
            "to teach; take more --n-critic or a larger --width",
        ),
        ("too-early", comparisons < 3, f"{trend}; too few comparisons with images in that time to tell more"),
        (
            "collapsed",
            diversity + 4 * (diversity - diversity_earlier) < 0.5 > diversity,
            f"{spread}; start anew with another --seed, --lr or --variant",
        ),
        (
            "critic-overfits",
            heldout < 0.8 * training and training - heldout > 2 * error,
            f"the estimate is {kept}, which the critic has learnt by heart; use more data or stop here",
        ),
        (
            "improving",
            course == sorted(course) and estimate > max(1.05 * earlier, high),
            f"{trend}: the critic still learns; {state}",
        ),
        (
            "diverged",
            estimate > max(2 * lowest, high),
            f"the estimate had come down to {lowest:.3g} and is up at {estimate:.3g} again; {state}; take a lower --lr",
        ),
        ("improving", estimate < min(0.95 * earlier, low), f"{trend}; {state}"),
        ("converged", True, f"{trend}; {state}"),
    )
    word, reason = next((word, reason) for word, holds, reason in rules if holds)
    figures = {
        **dict(estimate=estimate, estimate_before=earlier, estimate_training=training, estimate_heldout=heldout),
        **dict(heldout_error=error, share_not_above_zero=not_above, penalty=penalty, grad_norm=norm),
        **dict(diversity=diversity, diversity_before=diversity_earlier),
    }
    return Verdict(word, reason, name, {key: value for key, value in figures.items() if value == value})
