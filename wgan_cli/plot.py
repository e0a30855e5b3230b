"""Figures of `evaluate` over checkpoints, drawn by matplotlib (the extra `plot`)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .curve import HELDOUT, TRAINING
from .files import replacing

COLUMNS = 3  # of panels
LONGEST = 24  # characters of a checkpoint's name under its point


def steps(names: Sequence[str]) -> list[int] | None:
    """The steps of numbered checkpoints of one run, such as run/ckpt-000500.pt; None if these are others."""
    found = [re.fullmatch(r"(.*?)ckpt-(\d+)\.pt", name) for name in names]
    whole = [match for match in found if match]
    if len(whole) < len(names) or len({match[1] for match in whole}) > 1:
        return None
    return [int(match[2]) for match in whole]


def labels(names: Sequence[str]) -> list[str]:
    """The names without the folder that all are in, and of long ones the end: there is no room for more."""
    names = [name.rstrip("/") or name for name in names]
    folder = names[0][: names[0].rfind("/") + 1]
    while folder and not all(name.startswith(folder) for name in names):
        folder = folder[: folder.rfind("/", 0, -1) + 1]
    short = [name[len(folder) :] for name in names]
    return [name if len(name) <= LONGEST else "…" + name[1 - LONGEST :] for name in short]


def draw(path: Path, figures: Sequence[Sequence[dict[str, Any]]]) -> None:
    """A panel a figure: a point for each record, with its deviation, and a line where data are.

    figures: for each the records of all checkpoints.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # of caches and fonts that it makes
    from matplotlib.figure import Figure

    names = [record["checkpoint"] for record in figures[0]]
    places = steps(names)
    columns = min(COLUMNS, len(figures))
    rows = -(-len(figures) // columns)
    picture = Figure(figsize=(3.6 * columns, 2.6 * rows), layout="constrained")
    for number, records in enumerate(figures):
        axes = picture.add_subplot(rows, columns, number + 1)
        _panel(axes, records, list(range(len(names))) if places is None else places)
        axes.set_title(f"{records[0]['figure']} ({records[0]['better']})", fontsize=9, loc="left")
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if places is None:
            axes.set_xticks(range(len(names)), labels(names), rotation=30, ha="right", parse_math=False)
            axes.set_xlim(-0.5, len(names) - 0.5)
        else:
            axes.set_xlabel("step", fontsize=8)
        if number == 0:
            axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        picture.savefig(file, format="png", dpi=100, metadata={"Software": None})


def _panel(axes: Any, records: Sequence[dict[str, Any]], places: Sequence[int]) -> None:
    order = sorted(range(len(places)), key=places.__getitem__)
    across, values = [places[i] for i in order], [records[i]["samples"] for i in order]
    spread = [records[i]["samples_std"] or 0.0 for i in order]
    line = "-" if steps([record["checkpoint"] for record in records]) else ""
    axes.errorbar(across, values, spread, color=TRAINING, marker="o", markersize=4, linestyle=line, label="samples")
    data, deviation = records[0]["data"], records[0]["data_std"]
    axes.axhline(data, color=HELDOUT, linewidth=1.4, label="data")
    if deviation is not None:
        axes.axhspan(data - deviation, data + deviation, color=HELDOUT, alpha=0.15, linewidth=0)
