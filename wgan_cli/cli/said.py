"""The preset that `wgan train` takes, what it says of its settings, and the commands that it names."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click
from click.core import ParameterSource

from .. import UsageError
from ..config import FAST_FOR, TrainConfig, differences, flag, resolve
from ..console import in_short, plain, printable
from ..distributed import Place


def preset_for(
    given: Mapping[str, Any],
    facts: Mapping[str, Any],
    device: str,
    known: TrainConfig | None = None,
    timed: bool = False,
) -> str:
    """The preset of a run that names none. Who names a variant or an architecture means its paper. A run that goes on,
    which was begun as `known`, has the one that it was begun with, on a machine of another kind too."""
    fast = device == "cpu" and facts.get("size") != 0 and not given.keys() & FAST_FOR.keys()
    presets = ("fast", "paper") if fast else ("paper", "fast")
    begun = (name for name in presets if known and drawn_as(known, given, facts, name, timed) is not None)
    return next(begun, presets[0])


def drawn_as(
    known: TrainConfig, given: Mapping[str, Any], facts: Mapping[str, Any], preset: str, timed: bool
) -> bool | None:
    """Whether a run was begun as `known` with the preset's settings for images that are drawn; None: with neither's."""
    drawn = facts.get("drawn", True)
    for kind in (drawn, not drawn):
        with suppress(UsageError):
            if not differences(known, resolve(given, {**facts, "drawn": kind}, preset, known.precision, timed)[0]):
                return kind
    return None


def chosen(preset: str, config: TrainConfig, origins: dict[str, str], drawn: bool | None = None) -> str:
    """What the preset has set, as flags. drawn: the images, where it went by that."""
    if preset == "paper":
        return f"preset paper: the settings of {config.record.paper}"
    names = [name for name in origins if origins[name] == f"preset {preset}"]
    by_time = "steps" in names and config.by_time
    flags = [f"{flag(name)} {plain(getattr(config, name))}" for name in names if not (by_time and name == "steps")]
    kind = "" if drawn is None else f" for {'drawings' if drawn else 'photographs'}"
    return f"preset {preset}{kind}: {' '.join(flags)}{', and as many steps as the time gives' if by_time else ''}"


def fast_command(data: str, settings: Mapping[str, Any], facts: Mapping[str, Any], count: int) -> str:
    """The command that trains on the same `count` images under --preset fast; "" where it would be refused.

    settings: those of the data that were given, which it has too. facts: those that follow from the data.
    """
    given = {name: value for name, value in settings.items() if name not in ("skip-bad", "null")}
    try:
        if data == "-" or count < resolve(given, facts, "fast")[0].batch:
            return ""
    except UsageError:
        return ""
    words = ["wgan", "train", "--data", data]
    for name, value in settings.items():
        if value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", plain(value)]
    return shlex.join([*words, "--preset", "fast", "-o", "wgan-fast"])


def to_go_on(data: str, here: Place, begun: bool) -> str:
    """The line of a stop that says how the run is gone on with.

    begun: whether this command's own run has begun; --force, which deletes the one before, is then left out, and taken
    out of the environment.
    """
    words = [word for word in sys.argv[1:] if word != "--force" or not begun]
    if here.size > here.local_size:
        return f"To go on: the same torchrun on each machine, with -m wgan_cli {shlex.join(words)}"
    several = ["torchrun", "--nproc-per-node", str(here.local_size), "-m", "wgan_cli"]
    unforced = ["env", "-u", "WGAN_TRAIN_FORCE"] if begun and "WGAN_TRAIN_FORCE" in os.environ else []
    again = shlex.join([*unforced, *(several if here.size > 1 else ["wgan"]), *words])
    return f"To go on: {'the same list into ' if data == '-' else ''}{again}"


def print_settings(ctx: click.Context, config: TrainConfig, origins: dict[str, str], as_json: bool) -> None:
    for name in origins:
        if origins[name] == "given":
            source = ctx.get_parameter_source(name)
            origins[name] = "environment" if source == ParameterSource.ENVIRONMENT else "flag"
    values = {name: value for name, value in config.as_dict().items() if name != "begun"}
    if as_json:
        click.echo(json.dumps({name: {"value": values[name], "from": origins[name]} for name in values}, indent=2))
        return
    for name, value in values.items():
        shown = printable(in_short(value)) if name == "classes" else plain(value)
        shown = "by time" if name == "steps" and config.by_time else shown
        click.echo(f"{name:15} {shown or '-':12} {origins[name]}")
