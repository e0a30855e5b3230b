"""What `--data` names: listed, without reading a pixel."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from .. import DataError, UsageError
from .arrays import is_array
from .decode import Item, open_zip
from .toys import TOYS

LABELS_FILE = "dataset.json"  # of classes, in the root of a folder or zip
RUN_FILES = {"config.json", "metrics.jsonl"}  # by which a run's folder is known
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Source:
    """What `--data` or another flag names. `key` changes when a file's name, size or time does."""

    name: str
    items: Sequence[Item] = ()  # images, unless it is an array or a toy set
    array: Path | None = None
    key: str = ""
    flag: str = "--data"
    others: Mapping[str, int] = field(default_factory=dict)  # files of other kinds beside the images, by their suffix

    @property
    def told(self) -> str:
        """What errors begin with."""
        return f"{self.flag} {self.name}"

    @property
    def toy(self) -> str | None:
        return self.name.removeprefix("toy:") if self.name.startswith("toy:") else None


def open_source(
    data: str, listed: BinaryIO, null: bool = False, flag: str = "--data", out: Path | None = None
) -> Source:
    """List what `data` names, without reading a pixel; `listed` is where `-` reads its paths from.

    out: a run's folder, whose own pictures a list names when the run goes on; they are left out.
    Raises UsageError if there is no such thing, DataError if there is no image in it.
    """
    if data.startswith("toy:"):
        if data.removeprefix("toy:") not in TOYS:
            raise UsageError(f"{flag} {data}: choose one of {', '.join('toy:' + name for name in TOYS)}")
        return Source(data, flag=flag)
    path = Path(data)
    if data != "-" and not path.exists():
        raise UsageError(f"{flag} {data}: no such file or folder")
    is_file = data != "-" and path.is_file()  # a file may well be called `-`
    if is_file and is_array(path):
        return Source(data, array=path, key=digest([_stamp(path)]), flag=flag)
    if is_file and path.suffix.lower() not in (".zip", *IMAGE_SUFFIXES):
        hint = f"; a list of paths goes in as {flag} - < {data}" if path.suffix.lower() in (".txt", ".lst", "") else ""
        raise DataError(f"{flag} {data}: not a folder, a .zip, an .npy or .npz array, an idx file or an image{hint}")
    others: Counter[str] = Counter()
    paths = read_paths(listed, null) if data == "-" else [data]
    if data == "-" and out and all((out / name).exists() for name in RUN_FILES):
        below = os.path.join(os.path.abspath(out), "")
        paths = [path for path in paths if not os.path.abspath(path).startswith(below)]
    items = find_images(paths, others)
    if not items:
        where = "standard input" if data == "-" else data
        raise DataError(f"{flag} {where}: no images there; looked for {' '.join(IMAGE_SUFFIXES)}")
    stamps = lru_cache(maxsize=1)(_stamp)  # a zip's entries stand together
    return Source(
        data, items=items, key=digest([stamps(item.path), item.member] for item in items), flag=flag, others=others
    )


def read_paths(listed: BinaryIO, null: bool) -> list[str]:
    """Paths from a list that ends each with a newline, or with NUL."""
    if listed.isatty():
        raise UsageError("- reads a list of paths from standard input, which is a terminal; pipe `find` into it")
    content = listed.read()
    if not null and b"\0" in content:
        raise UsageError("the list of paths on standard input is separated by NUL; add -0")
    return [os.fsdecode(entry) for entry in content.split(b"\0" if null else b"\n") if entry]


def find_images(paths: Iterable[str], others: Counter[str] | None = None) -> list[Item]:
    """The images that `paths` name: files as they are, folders (any depth) and zips opened up, in order of name.

    others: counts the files of other kinds in folders.
    """
    others = Counter() if others is None else others
    items: list[Item] = []
    for path in paths:
        if os.path.isdir(path):
            items += [Item(found) for found in _walk(path, others)]
        elif path.lower().endswith(".zip"):
            items += _zip_items(path)
        else:
            items.append(Item(path))
    return items


def _walk(top: str, others: Counter[str]) -> Iterator[str]:
    """The images below a folder, depth first, and the folders that cannot be read; links are followed, once."""
    waiting, seen = [(top, True)], set()
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
            continue
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link back to a folder above
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield path  # one bad file among the others: reading it will fail in the same way
            continue
        if path != top and RUN_FILES <= {entry.name for entry in entries}:
            continue  # the folder of a run begun among the images: its sample grids are none of them
        for entry in entries:
            # entry.is_dir() raises for a link to itself, and asks the system nothing for all that is no link.
            folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if entry.name.startswith("."):
                continue
            if folder or entry.name.lower().endswith(IMAGE_SUFFIXES):
                waiting.append((entry.path, folder))
            elif entry.name != LABELS_FILE:
                others[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1


def check_apart(source: Source, out: Path) -> None:
    """UsageError if the run folder `out` is a folder of the images or holds one: what a run draws would be data."""
    if source.toy or source.array:
        return
    run = os.path.realpath(out)
    folders = {source.name} if os.path.isdir(source.name) else set()
    if source.name == "-":
        folders = {os.path.dirname(item.path) or "." for item in source.items if not item.member}
    for folder in sorted(folders):
        if os.path.commonpath([run, os.path.realpath(folder)]) == run:
            what = "is" if os.path.realpath(folder) == run else "holds"
            raise UsageError(
                f"-o {out} {what} the folder of the images, {folder}: choose another -o, such as {out}/run"
            )


def _zip_items(path: str) -> list[Item]:
    """In the order in which `_walk` would find them, so that a folder and its zip are the same data."""

    try:
        entries = open_zip(path).namelist()
    except Exception:  # zipfile raises nearly everything on a broken one
        return [Item(path)]  # one bad file among the others: reading it will fail in the same way
    there = set(entries)
    folders = {entry.rpartition("/")[0] for entry in entries} - {""}
    runs = tuple(f"{folder}/" for folder in folders if all(f"{folder}/{name}" in there for name in RUN_FILES))

    def wanted(entry: str) -> bool:
        hidden = any(part.startswith((".", "__MACOSX")) for part in entry.split("/"))
        return entry.lower().endswith(IMAGE_SUFFIXES) and not hidden and not entry.startswith(runs)

    return [Item(path, entry) for entry in sorted(entries, key=lambda entry: entry.split("/")) if wanted(entry)]


def _stamp(path: str | Path) -> list[Any]:
    try:
        status = os.stat(path)
    except OSError:
        return [os.path.abspath(path)]
    # The time of the last change of content or of permissions: one that could not be read may now be readable.
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()[:32]
