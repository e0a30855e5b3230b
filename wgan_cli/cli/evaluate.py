"""wgan evaluate."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from .. import UsageError
from ..config import Range
from ..console import Console
from .options import any_path, checkpoint_argument, command, device_option, null_option, option, seed_option, within


@command(short_help="Distances between samples and held-out data.")
@checkpoint_argument()
@option("--data", required=True, type=any_path, help="Held-out images, in any form that train takes; or toy:NAME.")
@option("--train", "trained", type=any_path, help="What it was trained on: are samples copies of it?")
@option(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A TorchScript or torch.export model to compare in the features of. It is a program: load none that you "
    "do not trust.",
)
@option("-n", "--count", type=within(Range(1)), metavar="N", help="Samples.  [default: 1000, or half of the data]")
@seed_option("Of samples, choice and directions.")
@null_option()
@option("--skip-bad", is_flag=True, help="Leave unreadable files out instead of stopping.")
@option("--json", "as_json", is_flag=True, help="One JSON object a figure, a line each.")
@device_option()
@click.pass_obj
def evaluate(
    console: Console,
    /,
    checkpoint: Path,
    data: str,
    trained: str | None,
    features: Path | None,
    count: int | None,
    seed: int,
    null: bool,
    skip_bad: bool,
    as_json: bool,
    device: str,
) -> None:
    """\b
    wgan evaluate run/ --data heldout/
    wgan evaluate run/ --data heldout.zip --train imgs/ --json
    wgan evaluate run/ --data heldout/ --features inception.pt -n 5000

    Compare N samples with N held-out images, and beside that N other held-out images with the same ones: the
    column `data` is what a perfect generator would reach. Figures of another N or other data are not comparable.
    Where --data is what it was trained on, only what --holdout kept from training is taken of it.

    Images are prepared as in training. The model in --features gets float32 [64, C, H, W] in [-1, 1], grey
    repeated to 3 channels, and returns one tensor [64, ...]; with Inception frechet_distance is FID and
    kernel_distance KID.
    """
    from ..checkpoint import network
    from ..data.cache import prepare
    from ..data.seen import Seen
    from ..data.source import open_source
    from ..evaluate import evaluate, native_shape, parts

    generator, config, data_of_run = network(checkpoint, "generator", device)
    if features and not config.size:
        raise UsageError("--features is for images, and this checkpoint draws points")
    if data == trained == "-":
        raise UsageError("--data -, --train -: standard input is one list; give the other by its name")
    named = {"--data": data, "--train": trained}
    sources = [open_source(name, sys.stdin.buffer, null, flag) for flag, name in named.items() if name]
    if any(bool(source.toy) == bool(config.size) for source in sources):
        raise UsageError(f"this checkpoint draws {'images' if config.size else 'points'}; compare like with like")
    held, *others = (prepare(source, replace(config, batch=1), skip_bad, console) for source in sources)
    for source in sources:
        if config.size and (stored := native_shape(source)) != config.shape:
            console.notice(f"{source.told}: {_shape(stored)} made {_shape(config.shape)}, as training made its images")
    known = Seen.of(data_of_run, config)
    held, seen = parts(held, next(iter(others), None), known, console)
    space = "pixels" if config.size else "points"
    records = evaluate(
        *(generator, config, held, console),
        count=count,
        seed=seed,
        features=features,
        train=seen,
        class_counts=known.class_counts,
    )
    for number, record in enumerate(records):
        if as_json:
            click.echo(json.dumps(record))
            continue
        if number == 0:
            where = f"{space} {_shape(config.shape)}, data {len(held)} in {held.fingerprint}"
            click.echo(f"N {record['n']}, seed {seed}, {where}")
            click.echo(f"{'figure':20} {'samples':>10} {'data':>10}  {'better':9} method")
        within = f", in features {record['features_fingerprint']}" if record["space"] != space else ""
        click.echo(
            f"{record['figure']:20} {record['samples']:10.5g} {record['data']:10.5g}  {record['better']:9} "
            f"{record['method']}{within}"
        )


def _shape(shape: tuple[int, ...]) -> str:
    """Grey 28x28, colour 32x32; 5x16x16 of other channels."""
    name = {1: "grey", 3: "colour", 4: "transparent"}.get(shape[0]) if len(shape) == 3 else None
    return f"{name} {shape[2]}x{shape[1]}" if name else "x".join(map(str, shape))
