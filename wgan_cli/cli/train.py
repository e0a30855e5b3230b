"""wgan train."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import StoppedError, UsageError
from ..config import ARCHS, CRITIC_NORMS, FITS, OPTIMIZERS, PRECISIONS, PRESETS, TrainConfig, resolve
from ..console import Console
from ..files import check_writable, lock
from ..variants import VARIANTS
from .options import any_path, betas, device_option, null_option, plain, seconds, setting, talk_options


def _variants_text() -> str:
    rows = [f"{name:5} {record.summary:45} {record.paper}" for name, record in VARIANTS.items()]
    return "\b\nVariants:\n" + "\n".join(f"  {row}" for row in rows)


@click.command(short_help="Train on a folder of images; prints the checkpoint's path.", epilog=_variants_text())
@click.option(
    "--data", required=True, type=any_path, help="Folder, .zip, .npy, .npz, idx file, `-`: paths on stdin, toy:NAME."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Run folder.  [default: wgan-VARIANT]")
@null_option
@setting("variant", type=click.Choice(list(VARIANTS)), help="The system to train.")
@setting("arch", type=click.Choice(ARCHS), help="Generator and critic.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="paper",
    show_default=True,
    help="Defaults of the variant's paper, or those that reach good samples soonest on a CPU (gp dcgan).",
)
@setting("steps", type=int, help="Generator updates.")
@setting("batch", type=int, help="Images in a batch.")
@setting("size", type=int, help="Side in pixels.  [default: from the images, at most 64]")
@setting("channels", type=click.Choice(["1", "3", "4"]), help="Channels.  [default: as most images have them]")
@setting("fit", type=click.Choice(FITS), help="How an image becomes square.")
@setting("flip", is_flag=True, help="Mirror half of the images.  [default: no]")
@setting("holdout", type=float, metavar="FRACTION", help="Share of the images to keep from training and judge by.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable files out instead of stopping.")
@setting("latent", type=int, help="Dimensions of the latent.")
@setting("width", type=int, help="Feature maps or hidden units.")
@setting("n_critic", type=int, help="Critic steps before each generator step.")
@setting(
    "critic_norm", type=click.Choice(CRITIC_NORMS), help="Normalisation in the critic (by default none in an mlp)."
)
@setting("optimizer", type=click.Choice(OPTIMIZERS), help="Of both networks.")
@setting("lr", type=float, help="Learning rate.")
@setting("betas", metavar="B1,B2", callback=betas, help="Of adam.")
@setting("clip", type=float, help="Critic weights stay in [-CLIP, CLIP].")
@setting("gp_weight", type=float, help="Weight of the gradient penalty.")
@setting("instance_noise", type=float, metavar="SIGMA", help="Noise on the critic's input, falling to 0.")
@setting("ema", type=float, help="Decay of the generator's averaged weights; 0 keeps none.")
@setting("precision", type=click.Choice(PRECISIONS), help="Arithmetic of the networks.")
@device_option
@setting("seed", type=int, help="Of all random numbers.")
@setting("log_every", type=int, metavar="STEPS", help="Between lines of metrics.jsonl.")
@setting("save_every", type=int, metavar="STEPS", help="Between checkpoints.")
@setting("keep", type=int, metavar="N", help="Numbered checkpoints to keep beside the newest.")
@setting("sample_every", type=int, metavar="STEPS", help="Between sample grids.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's files too.")
@click.option("--time-limit", metavar="TIME", callback=seconds, help="Save and exit 75 after this time, as in 30m.")
@click.option("--force", is_flag=True, help="Start anew in a folder that holds another run.")
@click.option("--new-data", is_flag=True, help="Go on with a run though --data has changed.")
@click.option("--dry-run", is_flag=True, help="Show each setting and where it comes from, and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: as JSON.")
@talk_options
@click.pass_context
def train(
    ctx: click.Context,
    /,
    data: str,
    out: Path | None,
    null: bool,
    preset: str,
    skip_bad: bool,
    device: str,
    tensorboard: bool,
    time_limit: float | None,
    force: bool,
    new_data: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """\b
    wgan train --data ./imgs
    wgan train --data digits.zip --variant clip --steps 5000 -o run/
    find . -name '*.jpg' | wgan train --data - --size 128 --fit pad
    wgan train --data toy:25gaussians --variant ns --steps 20000

    Train a generator and a critic; prints the path of the checkpoint.

    The same command again goes on where it stopped, or does nothing when all steps are done. The run
    folder gets ckpt.pt, config.json, metrics.jsonl, samples/ and, with matplotlib, curve.png.
    """
    began = time.monotonic()
    console = Console(quiet=quiet, verbose=verbose)
    chosen = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    given = {name: value for name, value in settings.items() if ctx.get_parameter_source(name) in chosen}
    if "channels" in given:
        given["channels"] = int(given["channels"])
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run", ctx)
    if data.startswith("toy:") and (of_images := given.keys() & {"size", "channels", "fit", "flip"}):
        raise click.UsageError(f"--{min(of_images)} is for images; {data} is a set of points", ctx)
    if tensorboard and find_spec("tensorboard") is None:
        raise UsageError("--tensorboard: needs tensorboard, as in pip install 'wgan[tensorboard]'; or leave it out")
    # A wrong setting is found here, before torch is imported and the data looked at.
    points = {"size": 0, "channels": 2} if data.startswith("toy:") else {}
    config, _ = resolve(given, points, preset)
    out = out or Path(f"wgan-{config.variant}")
    check_writable(out / "ckpt.pt", "-o")

    from ..data.cache import prepare, probe
    from ..data.source import open_source
    from ..device import keep_freed_memory, native_precision, pick_device

    keep_freed_memory()
    where = pick_device(device)
    source = open_source(data, sys.stdin.buffer, null)
    facts = {} if source.items and {"size", "channels"} <= given.keys() else probe(source, console)
    config, origins = resolve(given, facts, preset, native_precision(where))

    from ..run import check_folder
    from ..train import TIME_LIMIT_CODE, _signal_reason, _stop_signals, train

    if not force:
        check_folder(out, config)  # before the images are read, which may take long
    if dry_run:
        _print_settings(ctx, config, origins, as_json)
        return
    try:
        with lock(out):
            with _stop_signals() as (stopped, asked):

                def should_stop() -> tuple[str, int] | None:
                    if stopped:
                        return _signal_reason(stopped[0])
                    late = time_limit is not None and time.monotonic() - began >= time_limit
                    return ("the time limit", TIME_LIMIT_CODE) if late else None

                dataset = prepare(source, config, skip_bad, console, should_stop, lambda: bool(asked and [asked.pop()]))
            for number in stopped:  # too late for that
                signal.raise_signal(number)
            left = None if time_limit is None else time_limit - (time.monotonic() - began)
            click.echo(os.fsencode(train(config, dataset, out, where, console, left, force, tensorboard, new_data)))
    except OSError as error:
        error.filename = error.filename or str(out)
        raise
    except StoppedError as stop:
        again = shlex.join(["wgan", *(word for word in sys.argv[1:] if word != "--force")])
        raise StoppedError(f"{stop}\nTo go on: {again}", stop.exit_code) from None
    console.notice(f"Next: wgan sample {shlex.quote(str(out / 'ckpt.pt'))} -n 64 -o grid.png")


def _print_settings(ctx: click.Context, config: TrainConfig, origins: dict[str, str], as_json: bool) -> None:
    for name in origins:
        if origins[name] == "given":
            source = ctx.get_parameter_source(name)
            origins[name] = "environment" if source == ParameterSource.ENVIRONMENT else "flag"
    values = config.as_dict()
    if as_json:
        click.echo(json.dumps({name: {"value": values[name], "from": origins[name]} for name in values}, indent=2))
        return
    for name, value in values.items():
        click.echo(f"{name:15} {plain(value):12} {origins[name]}")
