"""curve.png: a run's figures over its steps beside its newest samples, drawn by matplotlib (the extra `plot`)."""

from __future__ import annotations

import json
import logging
import math
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from itertools import filterfalse
from pathlib import Path
from textwrap import fill
from typing import Any

from .files import replacing
from .losses import ESTIMATES
from .verdict import judge

INSTALL = "needs matplotlib, as in pip install 'wgan[plot]'"
# The small panels are the first four of these that a run has.
TITLES = {
    "penalty": "gradient penalty",
    "clip_fraction": "weights at the clip",
    "grad_norm": "gradient norm",
    "distance": "distance of samples from data",
    "diversity": "diversity of samples",
    "images_per_second": "images per second",
    "generator_loss": "generator loss",
    "critic_loss": "critic loss",
}
FEW = 40  # values
TRAINING, HELDOUT = "#1f5fa8", "#d9660f"


def read(log: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; half a line at its end, which is just being written, is left out."""
    lines = log.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def column(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """(steps, values) of the records that have this figure."""
    having = [r for r in records if name in r]
    return [r["step"] for r in having], [r[name] for r in having]


def running_median(values: Sequence[float]) -> list[float]:
    """The median around each value, over a twentieth of them all and at least five; fewer at the ends.

    Of few values the last stands for itself, as the first does: with those before, a rise would end level.
    """
    count, reach = len(values), max(2, len(values) // 40)
    window: list[float] = []  # in order, without NaN, which has no place in it
    begin, end, medians = 0, 0, []
    for i in range(count):
        back = reach if count >= FEW else min(reach, count - 1 - i)
        first, last = max(0, i - back), min(count, i + min(back, i) + 1)
        for value in filterfalse(math.isnan, values[end:last]):
            insort(window, value)
        for value in filterfalse(math.isnan, values[begin:first]):
            del window[bisect_left(window, value)]
        begin, end = first, last
        medians.append((window[(len(window) - 1) // 2] + window[len(window) // 2]) / 2 if window else math.nan)
    return medians


def write(run: Path) -> None:
    """Draw curve.png from what the folder of a run holds. ImportError where matplotlib is missing."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of caches and fonts that it makes
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    records = read(run / "metrics.jsonl")
    verdict = judge(records)
    panels = [name for name in TITLES if any(name in r for r in records)][:4]
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    figure.suptitle(fill(str(verdict), 120), fontsize=10, ha="left", x=0.01)
    grid = figure.add_gridspec(3, 2, height_ratios=[2, 1, 1], width_ratios=[1, 1.05])
    small = grid[1:, 0].subgridspec(2, 2)
    main = figure.add_subplot(grid[0, 0])
    draw_estimate(main, records, verdict.estimate)
    main.legend(frameon=False, fontsize=8)
    _style(main, ESTIMATES[verdict.estimate].title)
    for place, name in enumerate(panels):
        axes = figure.add_subplot(small[place // 2, place % 2])
        steps, values = column(records, name)
        axes.plot(steps, values, color=TRAINING, alpha=0.3, linewidth=0.7)
        _draw_medians(axes, steps, values, TRAINING)
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlim(main.get_xlim())
        if axes.get_ylim()[0] > 0:
            axes.set_ylim(bottom=0)
        _style(axes, TITLES[name])
    if (newest := run / "samples" / "newest.png").exists():
        axes = figure.add_subplot(grid[:, 1])
        axes.imshow(imread(newest), cmap="gray", interpolation="nearest")
        axes.set_title("newest samples", fontsize=9, loc="left")
        axes.set_axis_off()
    with replacing(run / "curve.png") as file:
        figure.savefig(file, format="png", dpi=100, metadata={"Software": None})


def draw_estimate(axes: Any, records: Sequence[Mapping[str, Any]], estimate: str) -> None:
    """The estimate of each batch faintly, and the running medians of the comparisons on training and held-out data."""
    axes.plot(*column(records, estimate), color=TRAINING, alpha=0.3, linewidth=0.7, label="training data, batches")
    for part, color, label in (("training", TRAINING, "training data"), ("heldout", HELDOUT, "held-out data")):
        steps, values = column(records, f"{estimate}_{part}")
        if steps:
            _draw_medians(axes, steps, values, color, label)
    zoom(axes)


def _draw_medians(axes: Any, steps: list[int], values: list[float], color: str, label: str | None = None) -> None:
    """As a line, and of few values as dots too: one alone makes no line."""
    dots = {"marker": "o", "markersize": 3} if len(values) < FEW else {}
    axes.plot(steps, running_median(values), color=color, linewidth=1.6, label=label, **dots)


def zoom(axes: Any) -> None:
    """A logarithmic scale where medians are above 0 and span over a factor of five, so that the end can be seen too."""
    medians = [value for line in axes.lines if line.get_alpha() is None for value in line.get_ydata()]
    if medians and 0 < 5 * min(medians) < max(medians):
        axes.set_yscale("log")
        axes.set_ylim(0.7 * min(medians), 1.1 * max(max(line.get_ydata()) for line in axes.lines))
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")


def _style(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
