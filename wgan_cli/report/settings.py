"""Where the settings of a run come from, as far as their values tell, and the command that gives them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from ..config import FAST_FOR, NO_FLAG, PRESETS, TrainConfig, flag, resolve
from ..console import in_short, plain

ORIGINS = {
    "default": "default of wgan",
    "variant": "from the variant",
    "arch": "from the architecture",
    "preset": "from the preset",
    "optimizer": "from the optimizer",
    "data": "from the data, or given",
}
_FROM_DATA = ("size", "channels", "classes")


def origins(config: TrainConfig) -> tuple[str, dict[str, tuple[str, Any]]]:
    """The preset under which the fewest settings are given, and of each setting its origin, as `resolve` has it, and
    its default there.

    A value that equals the default may have been given all the same. What follows from the data counts as theirs.
    """
    of_data = {name: getattr(config, name) for name in _FROM_DATA}
    found = []
    found_for = {"variant": config.variant, "arch": config.arch}
    for preset, drawn in product(PRESETS if found_for == FAST_FOR else ("paper",), (True, False)):
        facts = {**of_data, "drawn": drawn}
        any_size = {**facts, "size": config.size and 64}  # one that no architecture refuses
        given: dict[str, Any] = {}
        for name in ("variant", "arch", "optimizer"):  # on which other defaults depend
            if getattr(resolve(given, any_size, preset)[0], name) != getattr(config, name):
                given[name] = getattr(config, name)
        # What is given decides the defaults of others, and is not one itself.
        base, known = resolve(given, facts, preset, config.precision, config.by_time)
        but_optimizer = {name: value for name, value in given.items() if name != "optimizer"}
        general = resolve(but_optimizer, facts, preset, timed=config.by_time)[0]
        table = {}
        for name in (f.name for f in fields(TrainConfig) if f.name != "begun"):
            value, default = getattr(config, name), getattr(general if name in given else base, name)
            if name in ("variant", "arch") and name in given:
                default = getattr(resolve({}, any_size)[0], name)
            origin = "given" if value != default else known[name]
            table[name] = (origin, default)
        found.append((sum(origin == "given" for origin, _ in table.values()), preset, table))
    _, preset, table = min(found, key=lambda entry: entry[0])
    return preset, table


def command(config: TrainConfig) -> list[str]:
    """`wgan train` with the flags that give these settings, whatever the data and the machine suggest: in parts, each
    a flag with its value, quoted for a shell."""
    preset, table = origins(config)
    parts = [["wgan", "train"], ["--data", "DATA"], ["--preset", preset]]
    # With the data, or with the machine.
    varying = ["precision"] if preset == "fast" else []
    varying += ["upsample", "palette"] if preset == "fast" and config.channels > 1 else []
    varying += ["size"] if config.size else []
    varying += ["channels"] if config.size and config.channels in (1, 3, 4) else []
    for name, (origin, _) in table.items():
        if name in NO_FLAG or (name == "steps" and config.by_time) or not (origin == "given" or name in varying):
            continue
        value = getattr(config, name)
        parts.append([flag(name)] if value is True else [flag(name), plain(value)])
    parts += [["--time-limit", "TIME"]] if config.by_time else []
    return [shlex.join(words) for words in (*parts, ["-o", "run"])]


def shown(value: Any) -> str:
    """A setting's value for a reader."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return in_short(value) if isinstance(value, tuple) and isinstance(value[0], str) else plain(value)


def setting_rows(config: TrainConfig) -> tuple[list[tuple[str, str, str, str]], list[bool]]:
    """(setting, value, default, origin) of each, those that are given first, and which these are."""
    _, table = origins(config)
    order = sorted(table, key=lambda name: table[name][0] != "given")
    rows = []
    for name in order:
        kind, _, which = table[name][0].partition(" ")
        origin = f"{ORIGINS.get(kind, kind)} {which}".strip()
        by_time = name == "steps" and config.by_time
        default = "" if kind == "data" or by_time else shown(table[name][1])
        value = "by time" if by_time else shown(getattr(config, name))
        rows.append((name, value, default, table[name][0] if kind == "not" else origin))
    return rows, [table[name][0] == "given" for name in order]


def differing_rows(configs: Sequence[TrainConfig]) -> list[tuple[str, ...]]:
    """(setting, value in each) of the settings in which runs differ."""
    rows = [(f.name, *(shown(getattr(config, f.name)) for config in configs)) for f in fields(TrainConfig)]
    return [row for row in rows if len(set(row[1:])) > 1]
