"""wgan info."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .. import UsageError
from ..console import Console, plain, printable, sparkline
from ..files import check_writable, newest_checkpoint
from .options import any_path, check_stdout, command, null_option, option

COMPARING = """
Each run's estimate is of its own critic. To compare runs, compare their samples with the same images:
wgan evaluate RUN --data IMAGES"""


@command(short_help="The environment, and what a checkpoint holds.")
@click.argument("runs", type=click.Path(exists=True, path_type=Path), nargs=-1, metavar="[CKPT]...")
@option("--json", "as_json", is_flag=True, help="As JSON.")
@option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a page to look at: verdict, curves, samples, settings.",
)
@option("--data", type=any_path, help="With --html: images of the run, for the critic to rank.")
@null_option()
@option("--skip-bad", is_flag=True, help="Leave unreadable files of --data out instead of stopping.")
@click.pass_obj
def info(
    console: Console,
    /,
    runs: tuple[Path, ...],
    as_json: bool,
    html: Path | None,
    data: str | None,
    null: bool,
    skip_bad: bool,
) -> None:
    """\b
    wgan info
    wgan info run/
    wgan info run/ckpt.pt --json
    wgan info run/ --html report.html --data imgs/
    wgan info a/ b/ c/ --html compared.html

    Show the environment, and what checkpoints or run folders hold: settings, the verdict on the run, the figures
    behind the verdict. To compare two runs, `wgan evaluate` each on the same images.

    --html writes one page that opens in a browser without a network, and prints its path; of several runs, a page
    that compares them.
    """
    check_stdout()
    if html:
        _write_page(runs, html, data, null, skip_bad, as_json, console)
        return
    if data or null or skip_bad:
        raise UsageError("--data, -0 and --skip-bad go with --html")

    import torch

    from .. import checkpoint as checkpoints
    from .. import ops
    from ..data.cache import cache_folder
    from ..device import pick_device

    facts: dict[str, Any] = {
        **checkpoints.versions(),
        "device": str(pick_device("auto")),
        "kernels": ops.kernels_state() + ("" if torch.cuda.is_available() else "; without a GPU none is needed"),
        "cache": str(cache_folder()),
    }
    found = [_facts(path) for path in runs]
    if as_json:
        told = {**facts, **found[0]} if len(found) == 1 else {**facts, "runs": found} if found else facts
        click.echo(json.dumps(told, indent=2))
        return
    _print(facts)
    for path, groups in zip(runs, found, strict=True):
        if len(runs) > 1:
            click.echo(f"\n{printable(str(path))}")
        _print(groups.get("checkpoint", {}))
        _print(groups.get("run", {}))
    if any("run" in groups for groups in found):
        click.echo(COMPARING)


def _facts(path: Path) -> dict[str, Any]:
    """`run`, of its records, and `checkpoint`, as far as there are such."""
    from ..checkpoint import describe, load
    from ..curve import column
    from ..report import find
    from ..verdict import ADVICE, judge

    facts: dict[str, Any] = {}
    found = find(path)
    folder, records = found.folder, found.records
    if (log := folder / "metrics.jsonl").exists():
        verdict = judge(records)
        facts["run"] = {
            "verdict": verdict.word,
            "reason": verdict.reason,
            "advice": ADVICE[verdict.word],
            "estimate_so_far": sparkline(column(records, verdict.estimate)[1], 32),
            **verdict.figures,
        }
        if not records and log.stat().st_size:
            facts["run"] = {"verdict": "unknown", "reason": f"{log.name} is not as train writes it"}
    if folder != path or (folder / "ckpt.pt").exists() or not log.exists():  # it may have saved nothing yet
        newest, content, config = newest_checkpoint(path), found.content, found.config
        if content is None or config is None:
            content, config = load(newest)  # which says what is wrong with it
        facts["checkpoint"] = describe(newest, content, config)
    return facts


def _print(group: dict[str, Any]) -> None:
    from ..verdict import FIGURES

    for name, value in group.items():
        told = f"{value:<10.4g} {FIGURES[name]}" if name in FIGURES else printable(plain(value))
        click.echo(f"{name:22} {told}")


def _write_page(
    runs: tuple[Path, ...],
    out: Path,
    data: str | None,
    null: bool,
    skip_bad: bool,
    as_json: bool,
    console: Console,
) -> None:
    if as_json:
        raise UsageError("--json: goes without --html")
    if out.suffix.lower() not in (".html", ".htm"):  # or a checkpoint that is named after --html would be lost
        raise UsageError(f"--html {out}: a page; name it with .html at its end")
    if not runs:
        raise UsageError(f"--html {out}: name a run, as in wgan info run/ --html report.html")
    if data and len(runs) > 1:
        raise UsageError(f"--data {data}: is of one run, and {len(runs)} are named; leave it out or name one")
    if (null or skip_bad) and not data:
        raise UsageError("-0 and --skip-bad go with --data")
    check_writable(out, "--html")

    from .. import report

    images = _images(runs[0], data, null, skip_bad, console) if data else None
    out.parent.mkdir(parents=True, exist_ok=True)
    if len(runs) > 1:
        report.write_several(runs, out)
    else:
        report.write(runs[0], out, images)
    click.echo(os.fsencode(out))


def _images(run: Path, data: str, null: bool, skip_bad: bool, console: Console) -> Any:
    """The Dataset that `data` names, prepared as in training; with its classes, where the run has such."""
    from .. import checkpoint
    from ..data.cache import prepare
    from ..data.labels import read_labels
    from ..data.source import open_source

    _, config = checkpoint.load(newest_checkpoint(run))
    source, labels = open_source(data, sys.stdin.buffer, null), None
    if bool(source.toy) == bool(config.size):
        raise UsageError(f"--data {data}: this run draws {'images' if config.size else 'points'}; name such")
    if config.classes:
        classes, labels = read_labels(source, config.labels)
        if classes != config.classes:
            raise UsageError(f"--data {data}: has other classes than this run; name the images of the run")
    return prepare(source, replace(config, batch=1), skip_bad, console, labels=labels)
