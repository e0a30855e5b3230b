"""curve.png: a run's figures over its steps, drawn by matplotlib where it is installed (the extra `plot`)."""

from __future__ import annotations

import json
from pathlib import Path

from .console import Console
from .files import replacing

PANELS = (("wasserstein", "js"), ("critic_loss", "generator_loss"), ("penalty", "grad_norm", "clip_fraction"))


def write(log: Path, path: Path, console: Console) -> None:
    """Draw every column of a metrics.jsonl that is in PANELS against the step."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        console.detail(f"no {path.name}: it needs matplotlib, as in pip install 'wgan[plot]'")
        return
    records = [json.loads(line) for line in log.read_bytes().splitlines()]
    panels = [[name for name in names if name in records[-1]] for names in PANELS]
    panels = [names for names in panels if names]
    figure = Figure(figsize=(7, 2.4 * len(panels)), layout="constrained")
    for axes, names in zip(figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels, strict=True):
        for name in names:
            axes.plot([r["step"] for r in records], [r[name] for r in records], label=name, linewidth=0.9)
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    axes.set_xlabel("step (generator updates)")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)
