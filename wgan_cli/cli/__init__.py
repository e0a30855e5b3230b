"""The command line: the only package that knows Click. Each command parses, makes one call and prints.

torch takes over a second to import, so the modules that need it are imported inside the commands.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import warnings
from io import TextIOWrapper
from types import FrameType
from typing import NoReturn

import click

from .. import EXIT_CODES, PIPE_CLOSED, StoppedError, WganError, __version__, signals
from ..console import Console
from . import evaluate, export, info, options, sample, score, train


def main() -> NoReturn:
    """Run the command line, and end with the documented exit code whatever happens."""
    for number in signals.STOP:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    for number in signals.SAVE:
        signal.signal(number, lambda number, frame: None)  # nothing to save yet
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller, as in >&-
            setattr(sys, name, open(os.devnull, mode))
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":  # of 8 bits, as > FILE is on Windows
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *where: f"{message}\n"  # a notice to the user, who has no line to mend
    stdout = sys.stdout
    try:
        code = cli.main(prog_name="wgan", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        code = PIPE_CLOSED
    except SystemExit as end:  # a signal's, completion's, or Click's for a closed pipe: it wraps stdout and exits 1
        code = end.code if sys.stdout is stdout else PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        Console().row("Interrupted")
        code = 128 + signal.SIGINT
    except Exception as error:
        if options.debugging:
            raise
        code = _show(error)
    try:
        sys.stdout.flush()
    except OSError:  # told already, or a closed pipe; Python would complain once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code or 0)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """The first signal to stop unwinds what is going on, the second ends the process at once."""
    for each in signals.STOP:
        signal.signal(each, lambda number, frame: os._exit(128 + number))
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _show(error: Exception) -> int:
    """Say what went wrong in a line or two; the exit code for it."""
    console = Console()
    if type(error).__name__ == "NoArgsIsHelpError" and isinstance(error, click.UsageError):  # new in Click 8.2
        error.show()
    elif isinstance(error, click.UsageError):
        console.error(_told(error))
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


def _told(error: click.UsageError) -> str:
    """Click's words, which know only of flags that were typed."""
    if isinstance(error, click.BadParameter) and error.ctx and isinstance(error.param, click.Option):
        if variable := options.variable(error.param, error.ctx):
            return f"{options.long_name(error.param)}{variable}: {error.message}"
    return error.format_message()


def _show_version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version  # which imports half of `email`

        try:
            torch = version("torch")
        except PackageNotFoundError:
            torch = "missing"
        click.echo(f"wgan {__version__}, torch {torch}, Python {platform.python_version()}")
        ctx.exit()


def _exit_codes() -> str:
    """As they stand at the end of the help."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code:3}  {meaning}" for code, meaning in EXIT_CODES.items())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_exit_codes())
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
    wgan train --data ./imgs -o run/                  train; prints run/ckpt.pt when done
    wgan sample run/ckpt.pt -n 64 -o grid.png         draw samples
    wgan critic-score run/ckpt.pt imgs/ | sort -g     rank images by the critic
    wgan evaluate run/ --data heldout/                distances between samples and data
    wgan export run/ -o generator.onnx                a file for other programs
    wgan info run/                                    what a checkpoint holds

    Train a Wasserstein GAN on images, sample from it, rank images by its critic.

    Results go to stdout, talk to stderr. Every option can come from the environment: WGAN_TRAIN_LR is
    --lr of train.
    """


for _command in (train.train, sample.sample, score.critic_score, evaluate.evaluate, export.export, info.info):
    cli.add_command(_command)
