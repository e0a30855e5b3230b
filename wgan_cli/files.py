"""Files that are there whole or not at all, and folders that one process at a time works in."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from . import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends without an error.

    It is written beside its target, flushed to disk and renamed, so that whoever reads `path` sees the old
    content or the new one, even after a kill or a power cut. After an error in the block, `path` is as it was.
    """
    target = Path(os.path.realpath(path))  # a link goes on to point at it
    temporary = beside(target)
    try:
        with open(temporary, "xb") as file:
            try_lock(file.fileno())  # tells `sweep` that somebody is at it, on whatever machine
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # Windows renames no open file; elsewhere the lock lasts until the file has its name
                file.close()
            os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    _sync_folder(target.parent)


def copy(source: Path, path: Path) -> None:
    """Make `path` a copy of `source`; not a second name of its content, through which a later `cp` would write."""
    with open(source, "rb") as content, replacing(path) as file:
        shutil.copyfileobj(content, file)


def beside(path: Path) -> Path:
    """A new name for what is to become `path`. Process ids repeat: each container counts from 1."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")


def sweep(folder: Path) -> None:
    """Remove the temporary files of `replacing` whose process was killed, and none that is being written."""
    for entry in os.scandir(folder):
        if re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", entry.name) and entry.is_file(follow_symlinks=False):
            with suppress(OSError), open(entry.path, "r+b") as file:  # NFS asks for it
                if try_lock(file.fileno()):
                    os.unlink(entry.path)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make `folder` and keep other processes from working in it, those of other machines too where it is shared.

    Raises UsageError, with the process id, if one does. The lock is the system's and ends with the process, however
    that ends; where the file system knows no locks there is none. A folder that stays empty is removed again.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _filelock(folder) if fcntl is None else _record_lock(folder):
            yield
    finally:
        for place in made:
            with suppress(OSError):
                place.rmdir()


@contextmanager
def _record_lock(folder: Path) -> Iterator[None]:
    """By fcntl. filelock has flock, which forked children go on to hold, and whose file may never be removed."""
    path = folder / ".lock"
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b", buffering=0) as file:
        if try_lock(file.fileno()) is False or not is_still(file, path):  # else just removed by its owner
            raise _taken(folder, f"process {file.read(100).decode(errors='replace')}")
        try:
            file.truncate()
            file.write(f"{os.getpid()} on {platform.node()}".encode())
            yield
        finally:
            if is_still(file, path):
                path.unlink()


@contextmanager
def _filelock(folder: Path) -> Iterator[None]:
    """Where there is no fcntl, as on Windows. The owner is not named: the file that is locked cannot be read."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise _taken(folder, "another process") from None
    with suppress(OSError):
        (folder / ".lock").unlink()


def _taken(folder: Path, holder: str) -> UsageError:
    return UsageError(f"{folder}: {holder} is training there; wait for it or stop it, or choose another -o")


def is_still(file: FileIO, path: Path) -> bool:
    """Whether `path` is the name of this open file, not of one that has been put there since, or gone."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def try_lock(descriptor: int) -> bool | None:
    """Whether this process could lock an open file, until it closes it or ends; None where there are no locks.

    With fcntl's locks, which work over NFS and which forked children, who may live on for a while, do not share.
    """
    if fcntl is None:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def newest_of(out: Path) -> Path | None:
    """The checkpoint that a run in `out` goes on from: ckpt.pt, or where a kill or a user has left none the last of the
    numbered ones; None where there is no run."""
    newest, found = out / "ckpt.pt", numbered_of(out)
    return newest if newest.exists() else found[max(found)] if found else None


def numbered_of(out: Path) -> dict[int, Path]:
    """The checkpoints of --keep, by their steps."""
    return {int(m[1]): file for file in out.glob("ckpt-*.pt") if (m := re.fullmatch(r"ckpt-(\d{6,})\.pt", file.name))}


def newest_checkpoint(path: Path) -> Path:
    """A run folder stands for its newest checkpoint. UsageError if there is none."""
    found = newest_of(path) if path.is_dir() else path
    if found is None:
        raise UsageError(f"{path}: a folder without a ckpt.pt; name a checkpoint or a run folder")
    return found


def names_folder(out: str) -> bool:
    """Whether `-o out` asks for a folder: by a slash at its end, or because it is one."""
    return out.endswith(("/", os.sep)) or (out != "" and Path(out).is_dir())


def check_writable(path: Path, flag: str) -> None:
    """UsageError if the file `path` cannot be written, as far as can be told without writing."""
    place = path.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if path.is_dir() or not place.is_dir():
        wrong = f"{path} is a folder" if path.is_dir() else f"{place} is not a folder"
        raise UsageError(f"{flag}: cannot write {path}: {wrong}; choose another place")
    if os.path.exists(path) and not os.path.isfile(path):  # a device or a pipe, which a file would take the place of
        raise UsageError(f"{flag}: cannot write {path}: no regular file; choose another place")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{flag}: no permission to write in {place}; choose another place")


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last (a no-op where folders cannot be opened)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
