"""The curves of a report, as page.js draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..curve import TITLES, column, running_median
from ..losses import ESTIMATES
from .pictures import evenly

COMPARED = ("distance", "diversity")  # are of no single batch
POINTS = 400  # of a line of a curve; of more, an even choice is drawn
NOTES = {  # on the curves
    "estimate": "How far samples are from images, as the critic sees them: it rises while the critic learns, and falls "
    "while samples get better. Held-out images are kept from training. Where their line leaves that of the training "
    "images, the critic knows its images by heart.",
    "penalty": "What the critic's loss adds for a gradient out of bounds.",
    "clip_fraction": "Share of the critic's weights that are at their limit.",
    "grad_norm": "How steep the critic is. The penalty holds it near 1.",
    "distance": "How far samples are from held-out images, by wgan evaluate's figures on fewer. Lower is better.",
    "diversity": "How far samples lie apart, over how far images do. Near 1 is right. Near 0, all samples are alike.",
    "images_per_second": "Speed of the training.",
    "generator_loss": "What the generator lowers. The critic moves too, so this tells little of the samples.",
    "critic_loss": "What the critic lowers.",
}


def panels(runs: Sequence[tuple[str, list[dict[str, Any]]]], things: str = "images") -> list[dict[str, Any]]:
    """What page.js draws of runs, each (name, records): the estimates, then the figures of curve.png."""
    drawn, alone = [], len(runs) == 1
    for estimate in ESTIMATES.values():
        lines = []
        for number, (run, records) in enumerate(runs):
            batches = column(records, estimate.name)
            lines += _line("each batch", 0, "faint", batches) if alone else []
            for name, kind, label in (("training", "line", "training"), ("heldout", "dash", "held-out")):
                steps, values = column(records, f"{estimate.name}_{name}")
                if name == "training" and not steps:
                    steps, values = batches
                place = number if not alone else int(kind == "dash")
                label = f"{label} {things}" if alone else f"{run}, {label} {things}"
                lines += _line(label, place, kind, (steps, running_median(values)))
        drawn.append((estimate.name, estimate.title.removesuffix(" over steps"), "estimate", lines))
    for name, title in TITLES.items():
        lines = []
        for number, (run, records) in enumerate(runs):
            steps, values = column(records, name)
            lines += _line("each batch", 0, "faint", (steps, values)) if alone and name not in COMPARED else []
            lines += _line("median" if alone else run, number, "line", (steps, running_median(values)))
        drawn.append((name, title, name, lines))
    return [
        _panel(name, title, NOTES[note].replace("images", things), lines) for name, title, note, lines in drawn if lines
    ]


def _panel(name: str, title: str, note: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    medians = [value for line in lines if line["kind"] != "faint" for value in line["values"]]
    logarithmic = name in ESTIMATES and 0 < 5 * min(medians) < max(medians)  # as `curve.zoom` has it
    return {"name": name, "title": title[0].upper() + title[1:], "note": note, "log": logarithmic, "lines": lines}


def _line(label: str, color: int, kind: str, points: tuple[list[int], list[float]]) -> list[dict[str, Any]]:
    steps, values = points
    chosen = evenly(len(steps), POINTS)
    line = {"label": label, "color": color, "kind": kind, "steps": [steps[i] for i in chosen]}
    return [{**line, "values": [float(f"{values[i]:.5g}") for i in chosen]}] if steps else []
