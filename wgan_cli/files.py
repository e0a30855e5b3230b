"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from . import UsageError
from .console import printable


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends without an error.

    It is written beside its target, flushed to disk and renamed, so that whoever reads `path` sees the old
    content or the new one, even after a kill or a power cut. After an error in the block, `path` is as it was.
    """
    target = Path(os.path.realpath(path))  # a link goes on to point at it
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    _sync_folder(target.parent)


def link(source: Path, path: Path) -> None:
    """Make `path` a second name of `source`'s content, atomically; a copy where there are no hard links."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        temporary.unlink()
    try:
        os.link(source, temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        with replacing(path) as file:
            file.write(source.read_bytes())


def names_folder(out: str) -> bool:
    """Whether `-o out` asks for a folder: by a slash at its end, or because it is one."""
    return out.endswith("/") or (out != "" and Path(out).is_dir())


def check_writable(path: Path, flag: str) -> None:
    """UsageError if the file `path` cannot be written, as far as can be told without writing."""
    place = path.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if path.is_dir() or not place.is_dir():
        wrong = f"{path} is a folder" if path.is_dir() else f"{place} is not a folder"
        raise UsageError(f"{flag}: cannot write {printable(str(path))}: {printable(wrong)}; choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{flag}: no permission to write in {printable(str(place))}; choose another place")


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last (a no-op where folders cannot be opened)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
