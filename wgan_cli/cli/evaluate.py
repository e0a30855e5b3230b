"""wgan evaluate."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .. import UsageError
from ..config import Range, TrainConfig
from ..console import Console, printable
from ..files import check_writable, newest_checkpoint
from .options import any_path, check_stdout, command, device_option, null_option, option, seed_option, within


@command(short_help="Distances between samples and held-out data.")
@click.argument("checkpoints", type=click.Path(exists=True), metavar="CKPT...", nargs=-1, required=True)
@option("--data", required=True, type=any_path, help="Held-out images, in any form that train takes; or toy:NAME.")
@option("--train", "trained", type=any_path, help="What it was trained on: are samples copies of it?")
@option(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A TorchScript or torch.export model to compare in the features of. It is a program: load none that you "
    "do not trust.",
)
@option(
    "--figures",
    metavar="NAMES",
    help="Only these, with commas: figures, or swd, wasserstein, fid, kid, train.  [default: all]",
)
@option("-n", "--count", type=within(Range(1)), metavar="N", help="Samples.  [default: 1000, or half of the data]")
@option(
    "--repeats",
    type=within(Range(1)),
    metavar="R",
    default=1,
    show_default=True,
    help="Compare R times, by R seeds: mean ± standard deviation.",
)
@seed_option("Of samples, choice and directions.")
@null_option()
@option("--skip-bad", is_flag=True, help="Leave unreadable files out instead of stopping.")
@option("--json", "as_json", is_flag=True, help="One JSON object a figure and checkpoint, a line each.")
@option("--plot", type=any_path, metavar="FILE.png", help="Draw the figures over the checkpoints too.")
@device_option()
@click.pass_obj
def evaluate(
    console: Console,
    /,
    checkpoints: tuple[str, ...],
    data: str,
    trained: str | None,
    features: Path | None,
    figures: str | None,
    count: int | None,
    repeats: int,
    seed: int,
    null: bool,
    skip_bad: bool,
    as_json: bool,
    plot: str | None,
    device: str,
) -> None:
    """\b
    wgan evaluate run/ --data heldout/
    wgan evaluate run/ --data heldout.zip --train imgs/ --json
    wgan evaluate a/ b/ c/ --data heldout/ --repeats 5
    wgan evaluate run/ckpt-*.pt --data heldout/ --figures swd,coverage --plot steps.png
    wgan evaluate run/ --data heldout/ --features inception.pt --figures fid -n 5000

    Compare N samples with N held-out images, and beside that N other held-out images with the same ones: the
    column `data` is what a perfect generator would reach. Figures of another N or other data are not comparable.
    Where --data is what it was trained on, only what --holdout kept from training is taken of it.

    Of several checkpoints * marks the best, and ** if it is better than the next beyond noise: by more than twice
    the root of the sum of both squared deviations, with --repeats 3 or more.

    Images are prepared as in training. The model in --features gets float32 [64, C, H, W] in [-1, 1], grey
    repeated to 3 channels, and returns one tensor [64, ...]; with Inception frechet_distance is FID and
    kernel_distance KID.
    """
    from ..checkpoint import network
    from ..curve import INSTALL
    from ..data.cache import prepare
    from ..data.seen import Seen
    from ..data.source import open_source
    from ..device import keep_freed_memory
    from ..evaluate import Run, chosen, evaluate, marks
    from ..features import load_features
    from ..plot import draw
    from ..reference import native_shape, parts

    check_stdout()
    keep_freed_memory()
    if data == trained == "-":
        raise UsageError("--data -, --train -: standard input is one list; give the other by its name")
    if plot is not None:
        if not plot.lower().endswith(".png"):
            raise UsageError(f"--plot {plot}: a picture; name it with .png at its end")
        check_writable(Path(plot), "--plot")
        if not importlib.util.find_spec("matplotlib"):
            raise UsageError(f"--plot {plot}: {INSTALL}")
    loaded = [network(newest_checkpoint(Path(name)), "generator", device) for name in checkpoints]
    config = loaded[0][1]
    for name, (_, other, _) in zip(checkpoints, loaded, strict=True):
        kinds = [_kind(each, bool(trained)) for each in (config, other)]
        if kinds[0] != kinds[1]:
            raise UsageError(
                f"{checkpoints[0]} was trained on {kinds[0]}, {name} on {kinds[1]}; evaluate each by itself"
            )
    if features and not config.size:
        raise UsageError("--features is for images, and this checkpoint draws points")
    names = [] if figures is None else [name.strip() for name in figures.split(",")]
    given = {"--features": features, "--train": trained, "scipy": importlib.util.find_spec("scipy")}
    plan = chosen(config, names, [name for name, value in given.items() if value])
    model = None
    if features and any(comparison.space in ("features", "either") for comparison in plan):
        model = load_features(features, next(loaded[0][0].parameters()).device)
    named = {"--data": data, "--train": trained}
    sources = [open_source(name, sys.stdin.buffer, null, flag) for flag, name in named.items() if name]
    if any(bool(source.toy) == bool(config.size) for source in sources):
        raise UsageError(f"this checkpoint draws {'images' if config.size else 'points'}; compare like with like")
    if not given["scipy"] and not names:
        console.notice("no wasserstein_1: it needs scipy, as in pip install 'wgan[evaluate]'")
    held, *others = (prepare(source, replace(config, batch=1), skip_bad, console) for source in sources)
    for source in sources:
        if config.size and (stored := native_shape(source)) != config.shape:
            console.notice(f"{source.told}: {_shape(stored)} made {_shape(config.shape)}, as training made its images")
    known = [Seen.of(data_of_run, own) for _, own, data_of_run in loaded]
    held, seen = parts(held, next(iter(others), None), list(zip(checkpoints, known, strict=True)), console)
    runs = [
        Run(name, generator, own, run.class_counts)
        for name, (generator, own, _), run in zip(checkpoints, loaded, known, strict=True)
    ]
    asked: dict[str, Any] = {"count": count, "seed": seed, "repeats": repeats, "features": model, "train": seen}
    space, drawn = "pixels" if config.size else "points", []
    for number, records in enumerate(evaluate(runs, held, console, plan, **asked, by_name=bool(names))):
        drawn.append(records)
        console.erase()
        if as_json:
            for record in records:
                click.echo(json.dumps(record))
            continue
        first, heads = records[0], ["samples"] if len(runs) == 1 else [printable(name) for name in checkpoints]
        widths = [max(10 if repeats == 1 else 18, len(head)) for head in (*heads, "data")]
        if number == 0:
            seeds = f"seed {seed}" if repeats == 1 else f"seeds {seed} to {seed + repeats - 1}"
            where = f"{space} {_shape(config.shape)}, data {len(held)} in {held.fingerprint}"
            click.echo(f"N {first['n']}, {seeds}, {where}")
            click.echo(f"{'figure':20} {_cells((*heads, 'data'), widths)}  {'better':9} method")
        values = [
            _value(record["samples"], record["samples_std"]) + (f"{mark:2}" if len(runs) > 1 else "")
            for record, mark in zip(records, marks(records), strict=True)
        ]
        within = f", in features {first['features_fingerprint']}" if first["space"] != space else ""
        click.echo(
            f"{first['figure']:20} {_cells((*values, _value(first['data'], first['data_std'])), widths)}  "
            f"{first['better']:9} {first['method']}{within}"
        )
    if plot is not None:
        draw(Path(plot), drawn)
        console.notice(f"{plot} shows it")


def _cells(texts: Sequence[str], widths: Sequence[int]) -> str:
    return " ".join(f"{text:>{width}}" for text, width in zip(texts, widths, strict=True))


def _value(mean: float, deviation: float | None) -> str:
    """`7.1981` alone, `7.20 ± 0.31` with a deviation, of which two digits are told."""
    if deviation is None:
        return f"{mean:.5g}"
    places = max(0, 1 - math.floor(math.log10(deviation))) if deviation > 0 else 7
    if places > 6:
        return f"{mean:.5g} ± {deviation:.2g}"
    return f"{mean:.{places}f} ± {deviation:.{places}f}"


def _kind(config: TrainConfig, trained: bool) -> str:
    """What checkpoints have to agree in so that one reference serves them."""
    if not config.size:
        return "points"
    mirrored = ", mirrored too" if trained and config.flip else ""
    return f"{_shape(config.shape)} images (--fit {config.fit}{mirrored})"


def _shape(shape: tuple[int, ...]) -> str:
    """Grey 28x28, colour 32x32; 5x16x16 of other channels."""
    name = {1: "grey", 3: "colour", 4: "transparent"}.get(shape[0]) if len(shape) == 3 else None
    return f"{name} {shape[2]}x{shape[1]}" if name else "x".join(map(str, shape))
