"""What a run's records say of it: one word, the reason for a person, and the figures behind it.

Batches are noisy, so every figure is a median, or a share of batches. "Now" is the last quarter of the steps so far,
"before" the quarter before it, "most" is three quarters. The rules are asked in this order, and a missing figure meets
none:

diverged         a figure or weight was not finite
too-early        fewer than ten logged batches in now and before together
diverged         the critic is out of bounds: estimate under its floor, or gradient norms over 2 and a penalty above it
too-early        fewer than three comparisons in now and before together: under some 1,250 updates of the critic
too-early        the critic is too weak, as the next rule has it, and still learns: the share of such batches fell by a
                 tenth, or the estimate is above most batches of before
critic-too-weak  in a third of the batches, in now and before, the critic scored samples no lower than data. Neither
                 this rule nor the one before is asked of a critic that comes to rest there once samples are like data
                 (`Estimate.rests_at_zero`): the reason then says so
collapsed        samples lie less than half as far apart as data do, and still would after as many steps again
critic-overfits  held-out data lose over a fifth of the estimate on training data, and over twice the standard error of
                 that difference
diverged         the estimate had come down to half, and is above nine tenths of the batches of before, and over four
                 times what it was in a middle quarter or above where it had come from; unless samples have come nearer
                 by a tenth of their distance: then the critic has learnt more
improving        the estimate has risen by a twentieth in each of the last two quarters, is above most batches of
                 before, and has risen by half as much again as any fall since the first quarter: the critic still
                 learns
improving        the estimate is lower than before by a twentieth, lower than most batches of before, and has fallen by
                 half as much again as any rise since the critic first learnt: what wanders does not improve
worsening        the distance of samples from data is higher than before by more than its error, higher than most
                 comparisons of before, and has risen by half as much again as any fall in the last half of the steps
improving        the distance is lower than before by more than its error, lower than most comparisons of before, and
                 has fallen by half as much again as any rise since the first quarter
too-early        the distance is lower than before, and than in the quarter before that by more than the error of this
                 difference and half as much again as any rise since: what is too slow for two quarters shows in three
too-early        the error of two quarters is over a twentieth of the distance, or not known, with fewer than twenty
                 comparisons
converged        none of these

"Any rise" and "any fall" are from the median of one eighth of the steps to that of any later one.

The distance's error is that of a difference of two medians, about doubled: 19 in 20 would lie within it. It follows
from the scatter of one comparison to the next (von Neumann 1941), which a trend hardly adds to.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .losses import ESTIMATES, WASSERSTEIN

ADVICE = {
    "improving": "go on, with a larger --steps or the same --time-limit again; start anew where these are refused",
    "worsening": "take an earlier checkpoint, as --keep leaves them; where it stays so, start anew with a lower --lr",
    "converged": "sample; more steps change little",
    "too-early": "go on",
    "critic-overfits": "go on with more (--new-data), start anew with --augment, or take an earlier checkpoint",
    "critic-too-weak": "start anew with a larger --n-critic or --width-critic",
    "collapsed": "start anew with another --seed, --lr or --variant",
    "diverged": "start anew with a lower --lr",
}
FIGURES = {
    "estimate": "how far samples are from data, by this run's critic; once it has learnt, lower is better",
    "estimate_before": "the same in the quarter of the steps before the last",
    "estimate_training": "the same on training data, in the comparisons of the last quarter",
    "estimate_heldout": "the same on data kept from training; where far lower, the critic knows its images by heart",
    "training_error": "standard error of estimate_training",
    "heldout_error": "standard error of estimate_heldout",
    "share_not_above_zero": "of batches, in which the critic scored samples no lower than data; too weak from 1/3 on",
    "penalty": "on the critic's gradient, as it stands in the loss",
    "grad_norm": "norm of the critic's gradient; 1 is what gp aims at",
    "diversity": "how far samples lie apart, over how far data do; near 1 is right, near 0 they are all alike",
    "diversity_before": "the same in the quarter of the steps before the last",
    "distance": "how far samples are from data by figures of `wgan evaluate`, on fewer images; lower is better",
    "distance_before": "the same in the quarter of the steps before the last",
}


@dataclass(frozen=True)
class Verdict:
    word: str  # of ADVICE
    reason: str
    estimate: str  # the column judged by, a key of ESTIMATES
    figures: Mapping[str, float]  # of FIGURES, those that the run has

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}; {ADVICE[self.word]}"


def judge(records: Sequence[Mapping[str, Any]]) -> Verdict:
    """The verdict on a run, from the records of its metrics.jsonl in order."""
    end = records[-1]["step"] if records else 0
    name = next((name for name in ESTIMATES if any(name in r for r in records)), WASSERSTEIN.name)

    def parts(count: int) -> list[list[Mapping[str, Any]]]:
        return [[r for r in records if i * end < count * r["step"] <= (i + 1) * end] for i in range(count)]

    def median(part: Iterable[Mapping[str, Any]], column: str) -> float:
        return statistics.median([r[column] for r in part if column in r] or [math.nan])

    def medians(some: Iterable[Sequence[Mapping[str, Any]]], column: str) -> list[float]:
        return [value for part in some if (value := median(part, column)) == value]

    def twentieths(part: Iterable[Mapping[str, Any]], column: str) -> list[float]:
        values = [r[column] for r in part if column in r]
        return statistics.quantiles(values, n=20) if len(values) > 1 else [math.nan] * 19

    def not_above_zero(part: Iterable[Mapping[str, Any]]) -> float:
        return statistics.fmean([r[name] <= 0 for r in part if name in r] or [math.nan])

    quarters = parts(4)
    before, now = quarters[2:]
    both = before + now
    batches, comparisons = (sum(column in r for r in both) for column in (name, f"{name}_training"))
    course = [median(quarter, name) for quarter in quarters]
    earlier, estimate = course[2:]
    of_before = twentieths(before, name)
    low, high, top = of_before[4], of_before[14], of_before[17]  # a quarter of the batches, most, nine tenths
    eight = parts(8)
    eighths = medians(eight, name)
    lowest = min(course[1:3])  # in the first quarter the critic may not know much yet
    early = [r[name] for r in quarters[0] + quarters[1] if name in r]
    highest = max((statistics.median(early[i : i + 5]) for i in range(len(early) - 4)), default=math.nan)
    not_above, not_above_earlier, not_above_now = map(not_above_zero, (both, before, now))
    at_zero, rests = not_above >= 1 / 3, ESTIMATES[name].rests_at_zero
    still_learns = not_above_earlier - not_above_now >= 0.1 or estimate > high
    training, heldout = median(now, f"{name}_training"), median(now, f"{name}_heldout")
    training_error, heldout_error = median(now, "training_error"), median(now, "heldout_error")
    # Records from before there was a training_error: about as large, since as many samples are compared.
    error = math.hypot(heldout_error, training_error if training_error == training_error else heldout_error)
    diversity, diversity_earlier = median(now, "diversity"), median(before, "diversity")
    penalty, norm = median(now, "penalty"), median(now, "grad_norm")
    second, distance_earlier, distance = (median(quarter, "distance") for quarter in quarters[1:])
    of_distances = twentieths(before, "distance")  # not numbers if there are less than two: no rule by these holds
    distances = [[r["distance"] for r in part if "distance" in r] for part in quarters]
    distance_error, error_since_second = _error(*distances[2:]), _error(distances[1], distances[3])
    much_nearer = distance < 0.9 * distance_earlier
    chance = "too few comparisons tell what could be chance"
    if distance_error > 0:
        chance = f"{distance_error / distance_earlier:.0%} could be chance"
    farther = _largest_rise(medians(eight[2:], "distance"))
    nearer = _largest_rise([-value for value in medians(eight[4:], "distance")])

    rise, fall = _largest_rise(_known(eighths)), _largest_rise([-value for value in eighths[2:]])
    trend = f"the estimate is {estimate:.3g}, after {earlier:.3g} in the quarter before"
    kept = f"{heldout:.3g} on held-out data, {training:.3g} on training data"
    moved = f"samples are {distance:.3g} from data, after {distance_earlier:.3g} in the quarter before"
    trends = f"{trend}; {moved}" if distance == distance else trend
    spread = f"samples lie {diversity:.0%} as far apart as data"
    state = f"{kept}; {spread}" if heldout == heldout else spread
    if at_zero and rests:
        state += (
            f"; in {not_above:.0%} of the batches the critic told samples from data no better than chance. It comes to "
            "rest there once samples are like data, so whether it is too weak is not judged: look at the samples"
        )
    rules = (
        ("diverged", bool(records) and name not in records[-1], f"no longer finite at step {end}"),
        ("too-early", batches < 10, f"{batches} batches logged in the last half of the steps do not tell"),
        (
            "diverged",
            estimate < ESTIMATES[name].floor,
            f"the estimate is {estimate:.3g}: the critic is far more often wrong than right",
        ),
        (
            "diverged",
            norm > 2 and penalty > estimate,
            f"gradient norms are {norm:.3g}, not near 1, and the penalty of {penalty:.3g} outweighs the estimate of "
            f"{estimate:.3g}",
        ),
        ("too-early", comparisons < 3, f"{trend}; too few comparisons with images in that time to tell more"),
        (
            "too-early",
            at_zero and not rests and still_learns,
            f"the critic still learns: it scored samples no lower than data in {not_above_now:.0%} of the batches, "
            f"after {not_above_earlier:.0%} in the quarter before; {trend}",
        ),
        (
            "critic-too-weak",
            at_zero and not rests,
            f"in {not_above:.0%} of the batches the critic scored samples no lower than data: it has nothing to teach",
        ),
        ("collapsed", diversity + 4 * (diversity - diversity_earlier) < 0.5 > diversity, spread),
        (
            "critic-overfits",
            heldout < 0.8 * training and training - heldout > 2 * error,
            f"the estimate is {kept}, which the critic has learnt by heart",
        ),
        (
            "diverged",
            0 < 2 * lowest < highest and estimate > max(top, min(4 * lowest, highest)) and not much_nearer,
            f"the estimate had come down to {lowest:.3g} and is up at {estimate:.3g} again; {state}",
        ),
        (
            "improving",
            earlier > 1.05 * course[1] and estimate > max(1.05 * earlier, high, earlier + 1.5 * fall),
            f"{trend}: the critic still learns; {state}",
        ),
        ("improving", estimate < min(0.95 * earlier, low, earlier - 1.5 * rise), f"{trends}; {state}"),
        (
            "worsening",
            distance > max(of_distances[14], distance_earlier + max(distance_error, 1.5 * nearer)),
            f"{moved}; {trend}; {state}",
        ),
        (
            "improving",
            distance < min(of_distances[4], distance_earlier - max(distance_error, 1.5 * farther)),
            f"{moved}; {trend}; {state}",
        ),
        (
            "too-early",
            distance < min(second - max(error_since_second, 1.5 * farther), distance_earlier),
            f"{moved} and {second:.3g} in the one before that; {trend}; {state}",
        ),
        (
            "too-early",
            distance == distance and not distance_error <= distance_earlier / 20 and comparisons < 20,
            f"{moved}, and {chance}; {trend}; {state}",
        ),
        ("converged", True, f"{trends}; {state}"),
    )
    word, reason = next((word, reason) for word, holds, reason in rules if holds)
    figures = {
        **dict(estimate=estimate, estimate_before=earlier, estimate_training=training, estimate_heldout=heldout),
        **dict(training_error=training_error, heldout_error=heldout_error, share_not_above_zero=not_above),
        **dict(penalty=penalty, grad_norm=norm, diversity=diversity, diversity_before=diversity_earlier),
        **dict(distance=distance, distance_before=distance_earlier),
    }
    return Verdict(word, reason, name, {key: value for key, value in figures.items() if value == value})


def _error(before: Sequence[float], now: Sequence[float]) -> float:
    """By which the medians of two parts of a series may differ by chance, in 19 of 20 cases. NaN where it is not known.

    A median's deviation is 1.25 times that of a mean, and Student's t for m steps of the series about 2 + 3 / m.
    """
    if len(before) < 2 or len(now) < 2:
        return math.nan
    steps = [later - earlier for earlier, later in pairwise([*before, *now])]
    deviation = math.sqrt(statistics.fmean(step**2 for step in steps) / 2)
    return (2 + 3 / len(steps)) * 1.25 * deviation * math.sqrt(1 / len(before) + 1 / len(now))


def _known(medians: Sequence[float]) -> Sequence[float]:
    """Without those while the critic learns: before they are above 0, and in their first climb."""
    start = max((i + 1 for i, value in enumerate(medians) if value <= 0), default=0)
    while start + 1 < len(medians) and medians[start] <= medians[start + 1]:
        start += 1
    return medians[start:]


def _largest_rise(medians: Sequence[float]) -> float:
    """From any to a later one."""
    return max((later - value for i, value in enumerate(medians) for later in medians[i:]), default=0.0)
