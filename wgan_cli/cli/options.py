"""Options that several commands share, and the settings of a run as options."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import click

from .. import UsageError
from ..config import TrainConfig
from ..networks import ARCHITECTURES
from ..variants import VARIANTS

Command = TypeVar("Command", bound=Callable[..., Any])


debugging = False


def set_debugging(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    global debugging
    debugging = value


def talk_options(command: Command) -> Command:
    for option in (
        click.option(
            "--debug",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=set_debugging,
            help="Show the traceback of an error.",
        ),
        click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
        click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
    ):
        command = option(command)
    return command


device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help="Where to compute."
)
any_path = click.Path(readable=False)  # any text, which the shell completes as a path
null_option = click.option("-0", "--null", is_flag=True, help="Paths on stdin end with NUL, as of find -print0.")


def checkpoint_argument(required: bool = True) -> Callable[[Command], Command]:
    """CKPT: a checkpoint, or a run folder, which stands for its newest checkpoint."""
    return click.argument(
        "checkpoint",
        type=click.Path(exists=True, path_type=Path),
        metavar="CKPT" if required else "[CKPT]",
        required=required,
        callback=lambda ctx, param, path: in_run(path) if required else path,
    )


def in_run(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / "ckpt.pt").exists():
        raise UsageError(f"{path}: a folder without a ckpt.pt; name a checkpoint or a run folder")
    return path / "ckpt.pt"


def setting(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """An option for a field of TrainConfig. The default stays there or in the variants; the help shows it."""
    if "[default" not in attributes["help"]:
        attributes["help"] += f"  [default: {default_of(name)}]"
    return click.option("--" + name.replace("_", "-"), name, default=None, **attributes)


def default_of(name: str) -> str:
    """`64`, or where it depends on the variant or the architecture `gan ns 128, clip gp 64`."""
    for records in ({v: r.defaults for v, r in VARIANTS.items()}, {a: m.DEFAULTS for a, m in ARCHITECTURES.items()}):
        owners: dict[str, list[str]] = {}
        for owner, defaults in records.items():
            if name in defaults:
                owners.setdefault(plain(defaults[name]), []).append(owner)
        if owners:
            return ", ".join(f"{' '.join(names)} {value}" for value, names in owners.items())
    return plain(next(f.default for f in fields(TrainConfig) if f.name == name))


def plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(plain(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def betas(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not two numbers such as 0.5,0.9.") from None


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", value)
    if not value or not match:
        raise click.BadParameter(f"{value!r} is not a time such as 90s, 30m or 1h30m.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def check_stdout() -> None:
    if getattr(sys.stdout, "name", "") == os.devnull:  # as `main` has it; with > /dev/null it is <stdout>
        raise UsageError("standard output is closed, and this goes there")
