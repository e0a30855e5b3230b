"""wgan train."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import StoppedError, UsageError
from ..config import (
    ARCHS,
    CRITIC_NORMS,
    DECAYS,
    FITS,
    GENERATOR_NORMS,
    LABELS,
    OPTIMIZERS,
    PRECISIONS,
    PRESETS,
    UPSAMPLES,
    Range,
    TrainConfig,
    differences,
    resolve,
)
from ..console import Console, duration, in_short, in_words
from ..distributed import first_on_machine, joined, place
from ..files import check_writable, lock
from ..signals import Stop
from ..variants import VARIANTS
from .options import any_path, betas, command, device_option, null_option, option, seconds, setting, size, within
from .said import chosen, drawn_as, fast_command, preset_for, print_settings, to_go_on

DATA, NETWORKS, LOSS, OPTIMIZER, RUN, OUTPUT = "Data", "Networks", "Loss", "Optimizer", "Run", "Output"  # headings


def _variants_text() -> str:
    rows = [f"{name:6} {record.summary:45} {record.paper}" for name, record in VARIANTS.items()]
    return "\b\nVariants:\n" + "\n".join(f"  {row}" for row in rows)


@command(short_help="Train on a folder of images; prints the checkpoint's path.", epilog=_variants_text())
@option(
    "--data", required=True, type=any_path, help="Folder, .zip, .npy, .npz, idx file, `-`: paths on stdin, toy:NAME."
)
@option("-o", "--out", type=click.Path(path_type=Path), help="Run folder.  [default: wgan-VARIANT]")
@option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Good samples soonest, or the settings of the variant's paper.  [default: fast on a CPU where neither "
    "--variant nor --arch is given, else paper, whose defaults are below]",
)
@setting("variant", type=click.Choice(list(VARIANTS)), help="The system to train.")
@setting("arch", type=click.Choice(ARCHS), help="Generator and critic.")
@setting(
    "size",
    type=click.STRING,
    callback=size,
    metavar="N",
    help="Side in pixels, or as 96x64.  [default: from the images, at most 64]",
)
@setting("steps", help="Generator updates.")
@option(
    "--time-limit",
    metavar="TIME",
    callback=seconds,
    help="Save and exit 75 after this time, as in 30m (without a unit: seconds), or fit the steps of --preset fast "
    "to it.",
)
@option("--dry-run", is_flag=True, help="Show each setting and where it comes from, and exit.")
@option("--force", is_flag=True, help="Start anew in a folder that holds another run.")
@setting(
    "channels",
    DATA,
    type=click.Choice(["1", "3", "4"]),
    help="Channels.  [default: what the pixels of most images need]",
)
@setting("fit", DATA, type=click.Choice(FITS), help="How an image gets the shape of --size.")
@setting("flip", DATA, is_flag=True, help="Mirror half of the images.  [default: no]")
@setting(
    "labels",
    DATA,
    type=click.Choice(LABELS),
    help="Classes: the images' folders, or dataset.json or an .npz's `labels`.",
)
@setting("holdout", DATA, metavar="FRACTION", help="Share of the images to keep from training and judge by.")
@option("--skip-bad", is_flag=True, help="Leave unreadable files out instead of stopping.", section=DATA)
@null_option(DATA)
@option("--new-data", is_flag=True, help="Go on with a run though --data has changed.", section=DATA)
@setting("width", NETWORKS, help="Feature maps or hidden units.")
@setting("width_critic", NETWORKS, help="Those of the critic.  [default: --width]")
@setting("latent", NETWORKS, help="Dimensions of the latent (by default 64 in an r3).")
@setting(
    "critic_norm",
    NETWORKS,
    type=click.Choice(CRITIC_NORMS),
    help="Normalisation in the critic (by default none in an mlp and an r3).",
)
@setting(
    "generator_norm",
    NETWORKS,
    type=click.Choice(GENERATOR_NORMS),
    help="Of a dcgan; self: the latent scales and shifts each feature map.",
)
@setting(
    "upsample",
    NETWORKS,
    type=click.Choice(UPSAMPLES),
    help="How the generator of a dcgan doubles a side; blurred: transposed, smoothed late.",
)
@setting(
    "palette",
    NETWORKS,
    metavar="N",
    help="Colours of an image that a dcgan mixes with each pixel's own.",
)
@setting("ema", NETWORKS, help="Decay of the generator's averaged weights; 0 keeps none.")
@setting("clip", LOSS, help="Critic weights stay in [-CLIP, CLIP].")
@setting("gp_weight", LOSS, help="Weight of the gradient penalty.")
@setting(
    "augment",
    LOSS,
    metavar="OPS",
    callback=lambda ctx, param, value: value and tuple(value.split(",")),
    help="What is done to all that the critic sees, of color,translation,cutout.  [default: none]",
)
@setting("instance_noise", LOSS, metavar="SIGMA", help="Noise on the critic's input, falling to 0.")
@setting("optimizer", OPTIMIZER, type=click.Choice(OPTIMIZERS), help="Of both networks.")
@setting("lr", OPTIMIZER, help="Learning rate.")
@setting("lr_critic", OPTIMIZER, help="That of the critic.  [default: --lr]")
@setting(
    "lr_decay",
    OPTIMIZER,
    type=click.Choice(DECAYS),
    help="How the rates fall to 0 over --steps; cooldown: in the last 40 %.",
)
@setting("betas", OPTIMIZER, metavar="B1,B2", callback=betas, help="Of adam.")
@setting("batch", OPTIMIZER, help="Images in a batch.")
@setting("micro_batch", OPTIMIZER, help="Images that gradients are added up over at a time.  [default: --batch]")
@setting("n_critic", OPTIMIZER, help="Critic steps before each generator step.")
@setting(
    "critic_warmup", OPTIMIZER, help="Critic steps before each of the first 25 and every 500th (clip's authors: 100)."
)
@setting("seed", RUN, help="Of all random numbers.")
@device_option(RUN)
@setting("precision", RUN, type=click.Choice(PRECISIONS), help="Arithmetic of the networks.")
@option(
    "--data-memory",
    metavar="SHARE",
    type=within(Range(0.0, 1.0)),
    default=0.25,
    show_default=True,
    help="Of a GPU's free memory, that the images may lie in; 0: none do.",
    section=RUN,
)
@option("--no-graph", is_flag=True, help="On a GPU: launch each kernel of a step by itself.", section=RUN)
@setting("log_every", OUTPUT, metavar="STEPS", help="Between lines of metrics.jsonl.")
@setting("save_every", OUTPUT, metavar="STEPS", help="Between checkpoints.")
@setting("sample_every", OUTPUT, metavar="STEPS", help="Between sample grids.")
@setting("keep", OUTPUT, help="Numbered checkpoints to keep beside the newest.")
@option(
    "--hang-limit",
    metavar="TIME",
    callback=seconds,
    default="10m",
    show_default=True,
    help="Of several processes: end where one gets no further in this time.",
    section=RUN,
)
@option("--tensorboard", is_flag=True, help="Write TensorBoard's files too.", section=OUTPUT)
@option("--html", is_flag=True, help="Keep a page of the run fresh, report.html.", section=OUTPUT)
@option("--json", "as_json", is_flag=True, help="With --dry-run: as JSON.", section=OUTPUT)
@click.pass_context
def train(
    ctx: click.Context,
    /,
    data: str,
    out: Path | None,
    null: bool,
    preset: str | None,
    skip_bad: bool,
    device: str,
    data_memory: float,
    tensorboard: bool,
    html: bool,
    time_limit: float | None,
    force: bool,
    new_data: bool,
    no_graph: bool,
    dry_run: bool,
    hang_limit: float,
    as_json: bool,
    **settings: Any,
) -> None:
    """\b
    wgan train --data ./imgs --time-limit 10m                    samples in ten minutes, on a CPU too
    wgan train --data ./imgs --preset paper                      as in the paper: days on a CPU
    wgan train --data digits.zip --variant clip --steps 5000 -o run/
    find . -name '*.jpg' | wgan train --data - --size 128 --fit pad
    wgan train --data toy:25gaussians --variant ns --steps 20000

    Train a generator and a critic; prints the path of the checkpoint.

    The same command again goes on where it stopped, or does nothing when all steps are done; where
    --time-limit sets the steps, it goes on for as long again. The run folder gets ckpt.pt, config.json,
    metrics.jsonl, samples/ and, with matplotlib, curve.png.
    """
    stop, here = Stop(time_limit), place()
    console: Console = ctx.obj if here.leads else Console(open(os.devnull, "w"))  # one process talks
    if dry_run and not here.leads:
        return
    sources = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    given = {name: value for name, value in settings.items() if ctx.get_parameter_source(name) in sources}
    # Where torchrun has started the processes again, what is there is this command's own.
    force = force and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if "channels" in given:
        given["channels"] = int(given["channels"])
    if as_json and not dry_run:
        raise click.UsageError("--json goes with --dry-run", ctx)
    if data.startswith("toy:") and (of_images := given.keys() & {"size", "channels", "fit", "flip", "labels"}):
        raise click.UsageError(f"--{min(of_images)} is for images; {data} is a set of points", ctx)
    if tensorboard and find_spec("tensorboard") is None:
        raise UsageError("--tensorboard: needs tensorboard, as in pip install 'wgan[tensorboard]'; or leave it out")
    # A wrong setting is found here, before torch is imported and the data looked at.
    points = {"size": 0, "channels": 2} if data.startswith("toy:") else {}
    config = _checked(given, points, preset)
    out = out or Path(f"wgan-{config.variant}")
    if here.leads:
        check_writable(out / "ckpt.pt", "-o")
    if here.size > 1 and data == "-":
        raise UsageError(
            f"--data -: standard input is one list, and {here.size} processes would read it; name a folder"
        )

    from ..data.cache import prepare, probe
    from ..data.labels import read_labels
    from ..data.source import check_apart, open_source
    from ..device import keep_freed_memory, native_precision, pick_device

    keep_freed_memory()
    where = pick_device(device, here.local_rank if here.size > 1 else None)
    source, labels = open_source(data, sys.stdin.buffer, null, out=out), None
    check_apart(source, out)
    begun, next_line = False, f"Next: wgan sample {shlex.quote(str(out / 'ckpt.pt'))} -n 64 --seed 1 -o grid.png"
    try:
        with nullcontext() if dry_run else stop, nullcontext() if dry_run else joined(where, hang_limit):
            facts = dict[str, Any]()
            with first_on_machine("looking", ctx.obj.notice):
                if config.labels != "none":
                    facts["classes"], labels = read_labels(source, config.labels)
                fast = (preset or preset_for(given, facts, where.type)) == "fast"  # which goes by what colours show
                if (fast and given.get("channels") != 1) or not (source.items and {"size", "channels"} <= given.keys()):
                    facts |= probe(source, console, *(() if dry_run else (stop.reason,)))

            from ..memory import enough
            from ..run import check_folder, config_of
            from ..train import expected_seconds, step_memory, train

            # A run goes on as it began, on a machine of another kind too; several processes are of one kind.
            known = None if force or here.size > 1 else config_of(out)
            native, timed = known.precision if known else native_precision(where), time_limit is not None
            preset = preset or preset_for(given, facts, where.type, known, timed)
            if known and (begun_drawn := drawn_as(known, given, facts, preset, timed)) is not None:
                facts["drawn"] = begun_drawn
            config, origins = resolve(given, facts, preset, native, timed)
            said = chosen(preset, config, origins, facts.get("drawn") if config.channels > 1 else None)

            if dry_run:  # writes nothing, so what stands in its way comes last
                print_settings(ctx, config, origins, as_json)
                console.notice(said)
                with enough(config, where):
                    expected = expected_seconds(config, where)
                told = f"{config.steps} steps take {in_words(expected)}"
                if time_limit is not None and config.by_time:
                    count = float(f"{config.steps * time_limit / expected:.2g}")
                    told = f"{duration(time_limit)} gives about {count:.0f} steps"
                console.notice(f"{told} on this machine, as timed with made-up images")
                console.notice(f"{step_memory(config)} of memory")
            if here.leads:
                try:
                    check_folder(out, config, force)  # before the images are read, which may take long
                except UsageError:
                    if known and {name for name, *_ in differences(known, config)} - given.keys() and not dry_run:
                        console.notice(said)  # the preset is what differs
                    raise
            if dry_run:
                return
            of_data: dict[str, Any] = {
                name: given[name] for name in ("size", "channels", "fit", "flip", "labels", "holdout") if name in given
            }
            of_data |= {"skip-bad": skip_bad, "null": null}
            if labels is not None:
                counted = [f"{name} ({(labels == number).sum()})" for number, name in enumerate(config.classes)]
                console.notice(f"{len(counted)} classes: {in_short(counted)}")
            with lock(out) if here.leads else nullcontext():
                dataset = prepare(
                    source, config, skip_bad, console, stop.reason, stop.take_save, labels, ctx.obj.notice
                )
                slow = preset == "paper" and config.size
                faster = fast_command(data, of_data, facts, len(dataset)) if slow else ""
                begun = True
                with enough(config, where):
                    done = train(
                        *(config, dataset, out, where, console, stop, force, tensorboard, faster, new_data, html),
                        data_memory=data_memory,
                        chosen=said,
                        graphs=not no_graph,
                    )
                if here.leads:
                    click.echo(os.fsencode(done))
    except OSError as error:
        error.filename = error.filename or str(out)
        raise
    except StoppedError as ended:
        after = f"\n{next_line}" if (begun or not force) and (out / "ckpt.pt").exists() else ""
        raise StoppedError(f"{ended}\n{to_go_on(data, here, begun)}{after}", ended.exit_code) from None
    console.notice(next_line)


def _checked(given: dict[str, Any], points: dict[str, Any], preset: str | None) -> TrainConfig:
    """The settings so far. UsageError where no preset that the run may come to have takes what is given."""
    try:
        return resolve(given, points, preset or "paper")[0]
    except UsageError:
        if preset or preset_for(given, points, "cpu") == "paper":
            raise
        return resolve(given, points, "fast")[0]
