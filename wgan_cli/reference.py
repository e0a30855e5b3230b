"""What `evaluate` compares with: of the data that are named, the rows that no run was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from . import UsageError
from .console import Console
from .data.arrays import image_shape, open_array
from .data.dataset import Dataset
from .data.decode import native_channels, open_file, open_image
from .data.seen import Seen
from .data.source import Source

Mask = NDArray[np.bool_]  # [N], of the rows of data


def parts(
    data: Dataset, train: Dataset | None, known: Sequence[tuple[str, Seen]], console: Console
) -> tuple[Dataset, Dataset | None]:
    """What to compare with, and what was trained on.

    known: of each checkpoint its name, and what it tells of the data of its run. No sample that one of them was trained
    on is compared with, unless there is no other. Every case is told. UsageError where `train` would have to be one
    part of itself for one checkpoint and another for the next.
    """
    found = [_untrained(data, seen) for _, seen in known]
    _tell([text for text, _ in found], known, console)
    masks = [mask for _, mask in found if mask is not None]
    if masks:
        data = data.part(reduce(np.logical_and, masks))
    if train is None:
        return data, None
    sides = [_trained(train, seen) for _, seen in known]
    mask = sides[0][1]
    for (name, _), (_, other) in zip(known, sides, strict=True):
        if not np.array_equal(mask, other):
            raise UsageError(
                f"--train: {known[0][0]} and {name} were trained on different parts of it; evaluate each by itself"
            )
    _tell([text for text, _ in sides], known, console)
    return data, train.part(mask) if mask.any() and not mask.all() else train


def _tell(texts: Sequence[str], known: Sequence[tuple[str, Seen]], console: Console) -> None:
    """Once what holds of all checkpoints, else each with its name."""
    if len(set(texts)) == 1:
        known, texts = [("", known[0][1])], texts[:1]
    for (name, _), text in zip(known, texts, strict=True):
        if text:
            console.notice(f"{name}: {text}" if name else text)


def _untrained(data: Dataset, seen: Seen) -> tuple[str, Mask | None]:
    """What there is to say, and the rows to compare with, None for all."""
    trained, held = seen.sides(data)
    whole = seen.is_of(data)
    if whole and not held.any():
        return "--data is what it was trained on: copies of it would pass for perfect; hold images out", None
    if trained.all():
        return "all of --data was trained on: copies of it would pass for perfect; take other images", None
    if whole:
        return f"--data is what it was trained on: compared with the {held.sum()} of it that were held out", held
    if trained.any() or held.any():
        return (
            f"compared with {(~trained).sum()} of the {len(data)} in --data: {held.sum()} were held out of the run, "
            f"{trained.sum()} were trained on and are left out"
        ), ~trained if trained.any() else None
    if seen.contents is None:
        return ("--data is not what it was trained on, or not as a whole: this checkpoint does not tell images"), None
    return f"compared with the {len(data)} in --data, of which the run knows none", None


def _trained(train: Dataset, seen: Seen) -> tuple[str, Mask]:
    trained, _ = seen.sides(train)
    if not trained.any():
        return "--train is not what this checkpoint was trained on", trained
    return "" if trained.all() else f"of --train the {trained.sum()} that it was trained on", trained


def native_shape(source: Source) -> tuple[int, ...]:
    """(C, H, W) of the first image that can be read, as it is stored; () of none."""
    if source.array:
        with open_array(source.array) as (_, _, shape):
            height, width, channels = image_shape(shape)
            return channels, height, width
    for item in source.items:
        # Decoders raise nearly everything on broken input.
        with suppress(Exception), open_file(item) as file, open_image(file) as image:
            return native_channels(image), image.height, image.width
    return ()
