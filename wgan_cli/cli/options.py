"""Options that several commands share, the settings of a run as options, and how a command shows and reads them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from .. import UsageError
from ..config import RANGES, Range, TrainConfig, flag
from ..console import Console, plain
from ..files import newest_checkpoint
from ..networks import ARCHITECTURES
from ..variants import VARIANTS

F = TypeVar("F", bound=Callable[..., Any])

debugging = False


class Option(click.Option):
    """An option that stands under a heading of its command's help."""

    def __init__(self, *words: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*words, **attributes)
        self.section = section

    def get_help_extra(self, ctx: click.Context) -> Any:
        """No ranges, as most have no end and the others' are told where they are missed."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra


class Command(click.Command):
    """A command whose options stand under headings and come from the environment too: --lr of train, WGAN_TRAIN_LR.

    What it says goes to its `ctx.obj`, a Console; the options for that come last, under the last heading.
    """

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        talk = partial(Option, is_flag=True, section=getattr(self.params[-1], "section", "Options"))
        debug: dict[str, Any] = {"is_eager": True, "expose_value": False, "callback": set_debugging}
        self.params += [
            talk(["-q", "--quiet"], help="Say nothing but errors."),
            talk(["-v", "--verbose"], help="Say more on stderr."),
            talk(["--debug"], help="Show the traceback of an error.", **debug),
        ]
        self.options = [parameter for parameter in self.params if isinstance(parameter, click.Option)]
        self.prefix = f"WGAN_{name}_".upper().replace("-", "_")
        for option in self.options:
            option.envvar = self.prefix + long_name(option)[2:].upper().replace("-", "_")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (row := parameter.get_help_record(ctx)):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(row)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            os.getcwd()
        except OSError:  # the libraries under torch end the process with a riddle
            raise UsageError("the current folder is gone; change into another one") from None
        ctx.obj = Console(quiet=ctx.params.pop("quiet"), verbose=ctx.params.pop("verbose"))
        self._name_strangers(ctx.obj)
        try:
            return super().invoke(ctx)
        except UsageError as error:
            for option in self.options:
                for word in option.opts:
                    if str(error).startswith((f"{word} ", f"{word}:")):
                        raise UsageError(word + variable(option, ctx) + str(error)[len(word) :]) from None
            raise

    def _name_strangers(self, console: Console) -> None:
        """A notice for each variable that would be an option of this command, if it had one of that name."""
        known = [str(option.envvar).removeprefix(self.prefix) for option in self.options]
        for name in sorted(os.environ):
            if name.startswith(self.prefix) and (rest := name.removeprefix(self.prefix)) not in known:
                meant = get_close_matches(rest, known, 1)
                console.notice(
                    f"{name}: no such option" + (f"; did you mean {self.prefix}{meant[0]}?" if meant else "")
                )


def long_name(option: click.Parameter) -> str:
    return next((word for word in option.opts if word.startswith("--")), option.opts[0])


def variable(option: click.Parameter, ctx: click.Context) -> str:
    """What to add to the name of an option whose value was not typed: ` (from WGAN_TRAIN_LR)`."""
    from_environment = ctx.get_parameter_source(option.name or "") == ParameterSource.ENVIRONMENT
    return f" (from {option.envvar})" if from_environment else ""


option = partial(click.option, cls=Option)
command = partial(click.command, cls=Command)


def set_debugging(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    global debugging
    debugging = value


def device_option(section: str = "Options") -> Callable[[F], F]:
    kinds = click.Choice(["auto", "cpu", "cuda"])
    return option("--device", type=kinds, default="auto", show_default=True, help="Where to compute.", section=section)


def null_option(section: str = "Options") -> Callable[[F], F]:
    return option(
        "-0", "--null", is_flag=True, help="Paths on stdin end with NUL, as of find -print0.", section=section
    )


any_path = click.Path(readable=False)  # any text, which the shell completes as a path


def checkpoint_argument() -> Callable[[F], F]:
    """CKPT: a checkpoint, or a run folder, which stands for its newest checkpoint."""
    return click.argument(
        "checkpoint",
        type=click.Path(exists=True, path_type=Path),
        metavar="CKPT",
        callback=lambda ctx, param, path: newest_checkpoint(path),
    )


def seed_option(help: str) -> Callable[[F], F]:
    return option("--seed", type=within(RANGES["seed"]), metavar="N", default=0, show_default=True, help=help)


def setting(name: str, section: str = "Options", **attributes: Any) -> Callable[[F], F]:
    """An option for a field of TrainConfig. The default stays there or in the variants; the help shows it."""
    if "[default" not in attributes["help"]:
        attributes["help"] += f"  [default: {default_of(name)}]"
    if name in RANGES and "type" not in attributes:
        attributes = {"metavar": "N" if RANGES[name].whole else "X", "type": within(RANGES[name]), **attributes}
    return option(flag(name), name, default=None, section=section, **attributes)


def within(numbers: Range) -> click.IntRange | click.FloatRange:
    """For Click to check. Its own name for the type is `integer range`."""
    kind: Any = click.IntRange if numbers.whole else click.FloatRange
    checked = kind(numbers.low, numbers.high, min_open=numbers.low_open, max_open=numbers.high_open)
    checked.name = "whole number" if numbers.whole else "number"
    return checked


def default_of(name: str) -> str:
    """`64`, or where it depends on the variant or the architecture `gan ns 128, clip gp 64`."""
    general = next(f.default for f in fields(TrainConfig) if f.name == name)
    for records in ({v: r.defaults for v, r in VARIANTS.items()}, {a: m.DEFAULTS for a, m in ARCHITECTURES.items()}):
        owners: dict[str, list[str]] = {}
        for owner, defaults in records.items():
            if name in defaults:
                owners.setdefault(plain(defaults[name]), []).append(owner)
        if owners:
            told = [f"{' '.join(names)} {value}" for value, names in owners.items()]
            some = general is not None and sum(map(len, owners.values())) < len(records)
            return ", ".join([*told, f"else {plain(general)}"] if some else told)
    return plain(general)


def betas(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not two numbers such as 0.5,0.9.") from None


def size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | tuple[int, int] | None:
    if value is None:
        return None
    if not (match := re.fullmatch(r"(-?\d{1,9})(?:[xX](\d{1,9}))?", value)):
        raise click.BadParameter(f"{value!r} is not a size such as 64 or 96x64.")
    across, down = int(match[1]), int(match[2] or match[1])
    if not (RANGES["size"].holds(across) and RANGES["size"].holds(down)):
        raise click.BadParameter(f"{value} must be {RANGES['size']}, or two with an x between.")
    return across if across == down else (across, down)


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value)
    if not value or not match:
        raise click.BadParameter(f"{value!r} is not a time such as 90s, 30m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def shard_option(help: str) -> Callable[[F], F]:
    return option("--shard", metavar="I/N", callback=_shard, help=help)


def _shard(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int]:
    if value is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not a part such as 1/8, the first of 8, or 8/8, the last.")
    return int(match[1]), int(match[2])


def check_stdout() -> None:
    if getattr(sys.stdout, "name", "") == os.devnull:  # as `main` has it; with > /dev/null it is <stdout>
        raise UsageError("standard output is closed, and this goes there")
