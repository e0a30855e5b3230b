"""wgan info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..console import printable, sparkline
from ..files import newest_checkpoint
from .options import checkpoint_argument, command, option, plain

COMPARING = """
Each run's estimate is of its own critic. To compare runs, compare their samples with the same images:
wgan evaluate RUN --data IMAGES"""


@command(short_help="The environment, and what a checkpoint holds.")
@checkpoint_argument(required=False)
@option("--json", "as_json", is_flag=True, help="As JSON.")
def info(checkpoint: Path | None, as_json: bool) -> None:
    """\b
    wgan info
    wgan info run/
    wgan info run/ckpt.pt --json

    Show the environment, and what a checkpoint or a run folder holds: settings, the verdict on the run, the figures
    behind the verdict. To compare two runs, `wgan evaluate` each on the same images.
    """
    from .. import checkpoint as checkpoints
    from .. import ops
    from ..curve import column, read
    from ..data.cache import cache_folder
    from ..device import pick_device
    from ..verdict import ADVICE, FIGURES, judge

    facts: dict[str, Any] = {
        **checkpoints.versions(),
        "device": str(pick_device("auto")),
        "kernels": ops.kernels_state(),
        "cache": str(cache_folder()),
    }
    if checkpoint:
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        if (log := folder / "metrics.jsonl").exists():
            records = read(log)
            verdict = judge(records)
            _, values = column(records, verdict.estimate)
            facts["run"] = {
                "verdict": verdict.word,
                "reason": verdict.reason,
                "advice": ADVICE[verdict.word],
                "estimate_so_far": sparkline(values, 32),
                **verdict.figures,
            }
        if folder != checkpoint or (folder / "ckpt.pt").exists() or not log.exists():  # it may have saved nothing yet
            facts["checkpoint"] = checkpoints.describe(newest_checkpoint(checkpoint))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for group in (facts, facts.pop("checkpoint", {}), facts.pop("run", {})):
        for name, value in group.items():
            text = printable(plain(value))
            click.echo(f"{name:22} {text:10} {FIGURES[name]}" if name in FIGURES else f"{name:22} {text}")
        if "verdict" in group:
            click.echo(COMPARING)
