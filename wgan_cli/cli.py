"""The command line: each command parses, builds what it needs, makes one call and prints.

torch takes over a second to import, so the modules that need it are imported inside the commands.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn, TypeVar

import click
from click.core import ParameterSource

from . import DataError, StoppedError, UsageError, WganError, __version__
from .config import ARCH_DEFAULTS, ARCHS, CRITIC_NORMS, FITS, OPTIMIZERS, PRECISIONS, PRESETS, TrainConfig, resolve
from .console import Console, printable, sparkline
from .files import check_writable, lock, names_folder
from .variants import VARIANTS

Command = TypeVar("Command", bound=Callable[..., Any])


def main() -> NoReturn:
    """Run the command line, and end with the documented exit code whatever happens."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)  # save and go on: nothing to save yet
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller, as in >&-
            setattr(sys, name, open(os.devnull, mode))
    warnings.formatwarning = lambda message, *where: f"{message}\n"  # a notice to the user, who has no line to mend
    stdout = sys.stdout
    try:
        code = cli.main(prog_name="wgan", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except SystemExit as end:  # a signal's, completion's, or Click's for a closed pipe: it wraps stdout and exits 1
        code = end.code if sys.stdout is stdout else 128 + signal.SIGPIPE
    except (KeyboardInterrupt, click.Abort):
        Console().row("Interrupted")
        code = 128 + signal.SIGINT
    except Exception as error:
        if _debugging:
            raise
        code = _show(error)
    try:
        sys.stdout.flush()
    except OSError:  # told already, or a closed pipe; Python would complain once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code or 0)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """The first SIGINT or SIGTERM unwinds what is going on, the second ends the process at once."""
    for either in (signal.SIGINT, signal.SIGTERM):
        signal.signal(either, lambda number, frame: os._exit(128 + number))
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _show(error: Exception) -> int:
    """Say what went wrong in a line or two; the exit code for it."""
    console = Console()
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):  # new in Click 8.2
        error.show()
    elif isinstance(error, click.UsageError):
        console.error(error.format_message())
        console.row(f"Try `{error.ctx.command_path if error.ctx else 'wgan'} -h`.")
    elif isinstance(error, click.ClickException):
        console.error(error.format_message())
    elif isinstance(error, StoppedError):
        for line in str(error).split("\n"):
            console.row(line)
    elif isinstance(error, WganError):
        console.error(str(error))
    elif isinstance(error, OSError) and error.strerror:
        console.error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    elif isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # as torch has it
        console.error(f"not enough memory: {str(error)[:200]}; ask for less at a time")
    else:
        console.error(f"{type(error).__name__}: {error} (--debug shows where)")
    return getattr(error, "exit_code", 1)


# ---- Options that several commands share


_debugging = False


def _set_debugging(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    global _debugging
    _debugging = value


def _talk_options(command: Command) -> Command:
    for option in (
        click.option(
            "--debug",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_set_debugging,
            help="Show the traceback of an error.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    ):
        command = option(command)
    return command


_device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
_path = click.Path(readable=False)  # any text, which the shell completes as a path
_null_option = click.option("-0", "--null", is_flag=True, help="Paths on stdin end with NUL, as of find -print0.")


def _checkpoint_argument(required: bool = True) -> Callable[[Command], Command]:
    """CKPT: a checkpoint, or a run folder, which stands for its newest checkpoint."""
    return click.argument(
        "checkpoint",
        type=click.Path(exists=True, path_type=Path),
        metavar="CKPT" if required else "[CKPT]",
        required=required,
        callback=lambda ctx, param, path: _in_run(path) if required else path,
    )


def _in_run(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "ckpt.pt").exists():
        raise UsageError(f"{path}: a folder without a ckpt.pt; name a checkpoint or a run folder")
    return path / "ckpt.pt"


def _setting(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option for a field of TrainConfig. The default stays there or in the variants; the help shows it."""
    if "[default" not in attributes["help"]:
        attributes["help"] += f"  [default: {_default_of(name)}]"
    return click.option("--" + name.replace("_", "-"), name, default=None, **attributes)


def _default_of(name: str) -> str:
    """`64`, or where it depends on the variant or the architecture `gan ns 128, clip gp 64`."""
    for records in ({v: record.defaults for v, record in VARIANTS.items()}, ARCH_DEFAULTS):
        owners: dict[str, list[str]] = {}
        for owner, defaults in records.items():
            if name in defaults:
                owners.setdefault(_plain(defaults[name]), []).append(owner)
        if owners:
            return ", ".join(f"{' '.join(names)} {value}" for value, names in owners.items())
    return _plain(next(f.default for f in fields(TrainConfig) if f.name == name))


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(_plain(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def _betas(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not two numbers such as 0.5,0.9.") from None


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value)
    if not value or not match:
        raise click.BadParameter(f"{value!r} is not a time such as 90s, 30m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


# ---- Commands


def _show_version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        try:
            torch = version("torch")
        except PackageNotFoundError:
            torch = "missing"
        click.echo(f"wgan {__version__}, torch {torch}, Python {platform.python_version()}")
        ctx.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "WGAN", "max_content_width": 110}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """\b
    wgan train --data ./imgs --variant gp -o run/     train; prints run/ckpt.pt when done
    wgan sample run/ckpt.pt -n 64 -o grid.png         draw samples
    wgan critic-score run/ckpt.pt imgs/ | sort -g     rank images by the critic
    wgan evaluate run/ --data heldout/                distances between samples and data
    wgan info run/                                    what a checkpoint holds

    Train a Wasserstein GAN on images, sample from it, rank images by its critic.

    Results go to stdout, talk to stderr. Every option can come from the environment: WGAN_TRAIN_LR is
    --lr of train.

    \b
    Exit codes: 0 done · 1 other error · 2 usage · 3 bad data or checkpoint · 4 training diverged
                75 stopped by --time-limit · 130, 143 stopped by SIGINT, SIGTERM · 141 pipe closed
    """


def _variants_text() -> str:
    rows = [f"{name:5} {record.summary:45} {record.paper}" for name, record in VARIANTS.items()]
    return "\b\nVariants:\n" + "\n".join(f"  {row}" for row in rows)


@cli.command(short_help="Train on a folder of images; prints the checkpoint's path.", epilog=_variants_text())
@click.option(
    "--data", required=True, type=_path, help="Folder, .zip, .npy, .npz, idx file, `-`: paths on stdin, toy:NAME."
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Run folder.  [default: wgan-VARIANT]")
@_null_option
@_setting("variant", type=click.Choice(list(VARIANTS)), help="The system to train.")
@_setting("arch", type=click.Choice(ARCHS), help="Generator and critic.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    default="paper",
    show_default=True,
    help="Defaults of the variant's paper, or those that reach good samples soonest on a CPU (gp dcgan).",
)
@_setting("steps", type=int, help="Generator updates.")
@_setting("batch", type=int, help="Images in a batch.")
@_setting("size", type=int, help="Side in pixels.  [default: from the images, at most 64]")
@_setting("channels", type=click.Choice(["1", "3", "4"]), help="Channels.  [default: as most images have them]")
@_setting("fit", type=click.Choice(FITS), help="How an image becomes square.")
@_setting("flip", is_flag=True, help="Mirror half of the images.  [default: no]")
@_setting("holdout", type=float, metavar="FRACTION", help="Share of the images to keep from training and judge by.")
@click.option("--skip-bad", is_flag=True, help="Leave unreadable files out instead of stopping.")
@_setting("latent", type=int, help="Dimensions of the latent.")
@_setting("width", type=int, help="Feature maps or hidden units.")
@_setting("n_critic", type=int, help="Critic steps before each generator step.")
@_setting(
    "critic_norm", type=click.Choice(CRITIC_NORMS), help="Normalisation in the critic (by default none in an mlp)."
)
@_setting("optimizer", type=click.Choice(OPTIMIZERS), help="Of both networks.")
@_setting("lr", type=float, help="Learning rate.")
@_setting("betas", metavar="B1,B2", callback=_betas, help="Of adam.")
@_setting("clip", type=float, help="Critic weights stay in [-CLIP, CLIP].")
@_setting("gp_weight", type=float, help="Weight of the gradient penalty.")
@_setting("instance_noise", type=float, metavar="SIGMA", help="Noise on the critic's input, falling to 0.")
@_setting("ema", type=float, help="Decay of the generator's averaged weights; 0 keeps none.")
@_setting("precision", type=click.Choice(PRECISIONS), help="Arithmetic of the networks.")
@_device_option
@_setting("seed", type=int, help="Of all random numbers.")
@_setting("log_every", type=int, metavar="STEPS", help="Between lines of metrics.jsonl.")
@_setting("save_every", type=int, metavar="STEPS", help="Between checkpoints.")
@_setting("keep", type=int, metavar="N", help="Numbered checkpoints to keep beside the newest.")
@_setting("sample_every", type=int, metavar="STEPS", help="Between sample grids.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's files too.")
@click.option("--time-limit", metavar="TIME", callback=_seconds, help="Save and exit 75 after this time, as in 30m.")
@click.option("--force", is_flag=True, help="Start anew in a folder that holds another run.")
@click.option("--dry-run", is_flag=True, help="Show each setting and where it comes from, and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: as JSON.")
@_talk_options
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

    from .data import open_source, prepare, probe
    from .models import native_precision, pick_device

    where = pick_device(device)
    source = open_source(data, sys.stdin.buffer, null)
    facts = {} if source.items and {"size", "channels"} <= given.keys() else probe(source, console)
    config, origins = resolve(given, facts, preset, native_precision(where))

    from .train import check_folder, train

    if not force:
        check_folder(out, config)  # before the images are read, which may take long
    if dry_run:
        _print_settings(ctx, config, origins, as_json)
        return
    try:
        with lock(out):
            dataset = prepare(source, config, skip_bad, console)
            left = None if time_limit is None else time_limit - (time.monotonic() - began)
            click.echo(os.fsencode(train(config, dataset, out, where, console, left, force, tensorboard)))
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
        click.echo(f"{name:15} {_plain(value):12} {origins[name]}")


@cli.command(short_help="Draw samples from a checkpoint.")
@_checkpoint_argument()
@click.option("-n", "--count", type=click.IntRange(1), help="Number of samples.  [default: 64]")
@click.option(
    "-o",
    "--out",
    type=_path,
    default="samples.png",
    show_default=True,
    help="FILE.png (a grid), DIR/ (a file each), FILE.npz, FILE.npy or `-`.",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the latents.")
@click.option(
    "--index", type=click.IntRange(0, 2**63 - 1), help="Begin with this image of the seed; alone, draw only it."
)
@click.option(
    "--interpolate",
    type=click.IntRange(2),
    metavar="STEPS",
    help="Walk from each of the N latents to the next, a row a pair.  [N: 9]",
)
@click.option("--truncation", type=float, help="Draw latents again beyond this many deviations.")
@click.option("--raw", is_flag=True, help="Weights of the last step, not their average.")
@click.option("--nrow", type=click.IntRange(1), help="Images in a row of the grid.")
@_device_option
@_talk_options
def sample(
    checkpoint: Path,
    count: int | None,
    out: str,
    seed: int,
    index: int | None,
    interpolate: int | None,
    truncation: float | None,
    raw: bool,
    nrow: int | None,
    device: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """\b
    wgan sample run/ckpt.pt                                    64 images in samples.png
    wgan sample run/ckpt.pt -n 1000 --seed 7 -o faces/         a PNG each
    wgan sample run/ckpt.pt -n 50000 -o samples.npz            an array [N, H, W, C]
    wgan sample run/ckpt.pt -n 16 -o - | display

    Draw samples from a checkpoint; prints the path written.

    Image i of a seed is the same whatever the number of images or the form they are written in.
    """
    if out == "-":
        _check_stdout()
    if out == "-" and sys.stdout.isatty():
        raise UsageError("-o - writes a PNG to standard output, which is a terminal; name a file or pipe it on")
    if out != "-":
        folder = names_folder(out)
        if not folder and not out.lower().endswith((".png", ".npz", ".npy")):
            raise UsageError(f"-o {out}: must end in .png, .npz, .npy or, for a folder, in /")
        check_writable(Path(out, "*.png") if folder else Path(out), "-o")
    if truncation is not None and not truncation >= 0.01:
        raise UsageError(f"--truncation {truncation:g}: must be a number from 0.01; latents are drawn till all fit")
    first = index or 0
    count = count or (1 if index is not None else 9 if interpolate else 64)
    if first + count > 2**63:
        raise UsageError(f"--index {first} with -n {count}: the last index must be below 2^63")
    if interpolate and count < 2:
        raise UsageError(f"--interpolate {interpolate}: needs -n 2 or more latents to walk between, not {count}")

    from . import sample as sampling
    from .checkpoint import load_generator
    from .models import pick_device

    generator, config = load_generator(checkpoint, pick_device(device), raw)
    rows = sampling.latents(seed, range(first, first + count), config.latent, truncation)
    stem = f"seed{seed}"
    if interpolate:
        stem += f"-from{first}-step{interpolate}"  # other pictures than those of the seed itself
        rows, first, nrow = sampling.interpolate(rows, interpolate), 0, nrow or interpolate
    stdout = sys.stdout.buffer if out == "-" else None
    sampling.write_samples(generator, rows, out, first=first, stem=stem, columns=nrow, stdout=stdout)
    if out != "-":
        click.echo(os.fsencode(out))


@cli.command("critic-score", short_help="Rank images by a checkpoint's critic.")
@_checkpoint_argument()
@click.argument("paths", nargs=-1, type=_path, metavar="PATHS...")
@_null_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option(
    "--summary", is_flag=True, help="Add the means on these images and on as many samples, and their difference."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the summary's samples."
)
@_device_option
@_talk_options
def critic_score(
    checkpoint: Path,
    paths: tuple[str, ...],
    null: bool,
    as_json: bool,
    summary: bool,
    seed: int,
    device: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """\b
    wgan critic-score run/ckpt.pt imgs/ | sort -g | head       the least real
    find . -name '*.png' -print0 | wgan critic-score -0 run/ckpt.pt - | sort -gz
    wgan critic-score run/ckpt.pt a.png b.zip --json --summary

    Score images by the critic, the higher the more real: a line `SCORE<TAB>PATH` each, in order.

    PATHS are images, folders, zips, or `-` for a list on stdin; with -0 paths end with NUL, read and
    written. Without it, control characters in a path are escaped. A file that cannot be read is named on
    stderr, the rest is scored, and the exit code is 3.
    """
    console = Console(quiet=quiet, verbose=verbose)
    if not paths:
        raise click.UsageError("name images, folders or zips, or `-` for a list on standard input")
    _check_stdout()

    from .checkpoint import load_critic, load_generator
    from .data import BadFile, find_images, read_paths
    from .models import pick_device
    from .score import mean_on_samples, score_images

    where = pick_device(device)
    critic, config = load_critic(checkpoint, where)
    listed = [path for name in paths for path in (read_paths(sys.stdin.buffer, null) if name == "-" else [name])]
    items = find_images(listed)
    stdout, scores, bad = sys.stdout.buffer, [], 0
    for name, result in score_images(critic, config, items):
        if isinstance(result, BadFile):
            bad += 1
            console.error(f"{name}: {result.reason}")
            continue
        scores.append(float(result))
        stdout.write(_score_record(name, str(result), null, as_json))
        if not stdout.isatty():  # where a bar would run into the records
            console.progress("scoring", len(scores) + bad, len(items))
    if summary and scores:
        generator, _ = load_generator(checkpoint, where)
        _print_summary(scores, mean_on_samples(critic, generator, config, len(scores), seed), as_json, console, stdout)
    stdout.flush()
    if not items:
        raise DataError("no images to score; looked for image files, folders and zips")
    if bad:
        raise DataError(f"{bad} of {len(items)} files could not be read; the other {len(scores)} are scored")


def _check_stdout() -> None:
    if getattr(sys.stdout, "name", "") == os.devnull:  # as `main` has it; with > /dev/null it is <stdout>
        raise UsageError("standard output is closed, and this goes there")


def _score_record(name: str, score: str, null: bool, as_json: bool) -> bytes:
    if as_json:
        return json.dumps({"score": float(score), "path": name}).encode() + b"\n"
    if null:
        return score.encode() + b"\t" + os.fsencode(name) + b"\0"
    safe = re.sub(r"[\x00-\x1f\x7f]", lambda match: printable(match[0]), name)
    return score.encode() + b"\t" + os.fsencode(safe) + b"\n"


def _print_summary(scores: list[float], on_samples: float, as_json: bool, console: Console, stdout: BinaryIO) -> None:
    mean = sum(scores) / len(scores)
    figures = {"images": len(scores), "mean_real": mean, "mean_samples": on_samples, "difference": mean - on_samples}
    if as_json:
        stdout.write(json.dumps({"summary": figures}).encode() + b"\n")
    else:
        console.row(" · ".join(f"{name} {value:.6g}" for name, value in figures.items()))


@cli.command(short_help="Distances between samples and held-out data.")
@_checkpoint_argument()
@click.option("--data", required=True, type=_path, help="Held-out images, in any form that train takes; or toy:NAME.")
@click.option("--train", "trained", type=_path, help="What it was trained on: are samples copies of it?")
@click.option(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A TorchScript or torch.export model to compare in the features of. It is a program: load none that you "
    "do not trust.",
)
@click.option("-n", "--count", type=click.IntRange(1), help="N.  [default: 1000, or half of the data]")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of samples, choice and directions."
)
@_null_option
@click.option("--skip-bad", is_flag=True, help="Leave unreadable files out instead of stopping.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a figure, a line each.")
@_device_option
@_talk_options
def evaluate(
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
    quiet: bool,
    verbose: bool,
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
    from .checkpoint import load, load_generator
    from .data import open_source, prepare
    from .evaluate import evaluate, parts
    from .models import pick_device

    generator, config = load_generator(checkpoint, pick_device(device))
    console = Console(quiet=quiet, verbose=verbose)
    if features and not config.size:
        raise UsageError("--features is for images, and this checkpoint draws points")
    if data == trained == "-":
        raise UsageError("--data -, --train -: standard input is one list; give the other by its name")
    named = {"--data": data, "--train": trained}
    sources = [open_source(name, sys.stdin.buffer, null, flag) for flag, name in named.items() if name]
    if any(bool(source.toy) == bool(config.size) for source in sources):
        raise UsageError(f"this checkpoint draws {'images' if config.size else 'points'}; compare like with like")
    held, *others = (prepare(source, replace(config, batch=1), skip_bad, console) for source in sources)
    fingerprint = load(checkpoint)[0]["data"]["fingerprint"]
    held, seen = parts(held, next(iter(others), None), config, fingerprint, console)
    records = evaluate(generator, config, held, console, count=count, seed=seed, features=features, train=seen)
    for number, record in enumerate(records):
        if as_json:
            click.echo(json.dumps(record))
            continue
        if number == 0:
            click.echo(f"{'figure':20} {'samples':>10} {'data':>10}  protocol")
        where = f"{record['space']} {record.get('features_fingerprint', '')}".strip()
        click.echo(
            f"{record['figure']:20} {record['samples']:10.5g} {record['data']:10.5g}  N {record['n']}, seed {seed}, "
            f"{where}, {'x'.join(map(str, config.shape))}, {len(held)} in {held.fingerprint}; {record['method']}"
        )


@cli.command(short_help="The environment, and what a checkpoint holds.")
@_checkpoint_argument(required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_talk_options
def info(checkpoint: Path | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """\b
    wgan info
    wgan info run/
    wgan info run/ckpt.pt --json

    Show the environment, and what a checkpoint or a run folder holds.
    """
    from . import checkpoint as checkpoints
    from . import ops
    from .data import cache_folder
    from .models import pick_device

    facts: dict[str, Any] = {
        **checkpoints.versions(),
        "device": str(pick_device("auto")),
        "kernels": ops.kernels_state(),
        "cache": str(cache_folder()),
    }
    if checkpoint:
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        if (log := folder / "metrics.jsonl").exists():
            facts["run"] = _run_facts(log)
        if folder != checkpoint or (folder / "ckpt.pt").exists() or not log.exists():  # it may have saved nothing yet
            facts["checkpoint"] = checkpoints.describe(_in_run(checkpoint))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for group in (facts, facts.pop("checkpoint", {}), facts.pop("run", {})):
        for name, value in group.items():
            click.echo(f"{name:22} {printable(_plain(value))}")


def _run_facts(log: Path) -> dict[str, Any]:
    """What the records of a run say of it."""
    from .curve import column, read
    from .verdict import judge

    records = read(log)
    verdict = judge(records)
    _, values = column(records, verdict.estimate)
    return {
        "verdict": verdict.word,
        "reason": verdict.reason,
        "estimate_so_far": sparkline(values, 32),
        **verdict.figures,
    }
