"""Which class each image is of: by its folder, by dataset.json, or by an array beside the images."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import DataError, UsageError, reason
from .arrays import npy_facts, open_array
from .decode import MOST_BYTES, Item, open_file
from .source import LABELS_FILE, Source

ARRAYS = ("labels.npy", "y_train.npy")  # of an .npz
TAKES = "takes whole numbers or names"


def read_labels(source: Source, how: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The names of the classes, and for each image of the source the number of its class among them [N].

    how: `folders`, or `file`, which is dataset.json in the root of a folder or zip, or `labels` in an .npz. Names are
    in order of their numbers where all are numbers. Raises UsageError where there is no such thing, DataError for
    labels that leave an image without a class.
    """
    if how == "file" and source.array:
        names = _of_array(source.array, source.told)
    elif how == "file":
        names = _of_json(source)
    elif source.items:
        names = _of_folders([os.path.dirname(item.name).replace(os.sep, "/") for item in source.items], source)
    else:
        raise UsageError(f"--labels folders: {source.name} has no folders; an .npz may hold `labels`, by --labels file")
    classes = sorted(set(names), key=lambda name: (0, int(name), name) if _is_number(name) else (1, 0, name))
    if len(classes) < 2:
        raise DataError(f"{source.told}: one class only, {classes[0]}; leave --labels out")
    numbers = {name: number for number, name in enumerate(classes)}
    return tuple(classes), np.array([numbers[name] for name in names], np.int64)


def _is_number(name: str) -> bool:
    return name.isdecimal() and len(name) < 20  # Python refuses to read thousands of digits


def _of_folders(folders: Sequence[str], source: Source) -> list[str]:
    """Names of the folders that hold the images, without what all of them begin with."""
    parts = {folder: folder.split("/") for folder in set(folders)}
    shallow, deep = min(parts.values(), key=len), max(parts.values(), key=len)
    if len(shallow) != len(deep):
        first, second = (source.items[folders.index("/".join(p))].name for p in (shallow, deep))
        raise DataError(
            f"{source.told}: --labels folders takes images at one depth, each in the folder of its class; "
            f"{first} and {second} are at two"
        )
    common = len(os.path.commonprefix(list(parts.values())))
    if common == len(deep):
        raise DataError(f"{source.told}: --labels folders: all images are in one folder; a class is a folder")
    return ["/".join(parts[folder][common:]) for folder in folders]


def _of_json(source: Source) -> list[str]:
    """As StyleGAN's tools write it: {"labels": [["dir/a.png", 3], ...]}, paths from the root, with forward slashes."""
    zipped = source.name.lower().endswith(".zip")
    place = f"{source.name}/{LABELS_FILE}"
    if source.name == "-" or not (zipped or os.path.isdir(source.name)):
        raise UsageError(f"--labels file: {source.name} holds no labels; a folder, a .zip or an .npz may")
    try:
        with open_file(Item(source.name, LABELS_FILE) if zipped else Item(place)) as file:
            content = file.read()
    except (OSError, KeyError):
        raise UsageError(f"--labels file: there is no {place}; --labels folders takes the folders' names") from None
    except Exception as error:  # readers of archives raise nearly everything on broken input
        raise DataError(f"{place}: cannot be read ({reason(error)})") from None
    try:
        found = {name: _name(label) for name, label in json.loads(content)["labels"]}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f'{place}: not {{"labels": [["dir/a.png", 3], ...]}} ({reason(error)})') from None
    names = [
        found.get(item.member or os.path.relpath(item.path, source.name).replace(os.sep, "/")) for item in source.items
    ]
    if missing := [item.name for item, name in zip(source.items, names, strict=True) if name is None]:
        raise DataError(f"{place}: no class for {len(missing)} of {len(names)} images, such as {missing[0]}")
    return [name for name in names if name is not None]


def _name(label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, (int, str)):
        raise ValueError(f"a class of {json.dumps(label)[:40]}; {TAKES}")
    return str(label)


def _of_array(path: Path, told: str) -> list[str]:
    """The array `labels` of an .npz, or `y_train`: [N] or [N, 1] whole numbers or strings."""
    with open_array(path) as (_, _, (count, *_)):
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in ARRAYS if name in archive.namelist())
            with archive.open(entry) as stream:
                shape, _, dtype = npy_facts(stream)
            if dtype.kind not in "iuU" or math.prod(shape) != (shape or (0,))[0]:
                raise DataError(f"{told}: labels of {dtype} {list(shape)}; {TAKES}, one an image")
            if shape[0] != count:
                raise DataError(f"{told}: {shape[0]} labels for {count} images")
            if (size := count * dtype.itemsize) > MOST_BYTES:
                raise ValueError(f"{size} bytes, more than the {MOST_BYTES} that are taken")
            with archive.open(entry) as stream:
                values = np.lib.format.read_array(stream, allow_pickle=False)
    except DataError:
        raise
    except (StopIteration, zipfile.BadZipFile):
        raise UsageError(f"--labels file: {path} holds no array `labels`; an .npz may") from None
    except Exception as error:  # readers of archives raise nearly everything on broken input
        raise DataError(f"{told}: its labels cannot be read ({reason(error)})") from None
    return [str(value) for value in values.ravel().tolist()]
