"""Every image of a source written to the cache, once. What is decoded stays, however the process ends."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .. import StoppedError, WganError
from ..config import TrainConfig
from ..console import Console
from ..files import is_still, replacing, try_lock
from .arrays import read_array
from .decode import DIGEST_BYTES, BadFile, Read, read_file
from .pool import read_images
from .source import Source

FLUSH_SECONDS = 5.0  # of decoding that a power cut may cost
FORGOTTEN = 7 * 24 * 3600  # seconds after which what was begun is not gone on with any more

Reason = tuple[str, int]  # what asks to stop, and the exit code for it


class LeftOut(NamedTuple):
    """A file of a source that is not among the rows."""

    place: int  # among the source's items: their names are others from another working folder
    reason: str
    lasts: bool  # see `BadFile`


def decode(
    source: Source,
    config: TrainConfig,
    rows: Path,
    console: Console,
    should_stop: Callable[[], Reason | None],
    should_save: Callable[[], bool],
) -> dict[str, Any]:
    """Write `rows`, one image after the other, and beside them the digests of their files; what there is to know.

    Images come from the last flush on that another process, however it ended, has left in `rows`.part. Raises
    StoppedError where `should_stop` says so, which is asked after each image.
    """
    size, channels, fit = config.sides, config.channels, config.fit
    row = math.prod(size) * channels
    with _open_part(rows) as (file, journal):
        work = _take_up(file, journal, row)
        results: Iterator[Read | BadFile]
        try:
            if source.array:
                total, results = read_array(source.array, size, channels, fit, work.done)
            else:
                total = len(source.items)
                read = partial(read_file, size=size, channels=channels, fit=fit, grids=False)
                results = (result for _, result in read_images(source.items[work.done :], read))
            if work.done:
                console.notice(f"going on at image {work.done} of {total}, as far as they are decoded")
            for result in results:
                work.add(result)
                if work.done < total and (reason := should_stop()):  # one image on at least, as a run does a step
                    raise StoppedError(
                        f"Stopped by {reason[0]} at image {work.done} of {total}; what is decoded stays", reason[1]
                    )
                if should_save():
                    work.flush()
                    console.notice(f"saved at image {work.done} of {total}, as SIGUSR1 asks")
                console.progress("reading images", work.done, total)
        except BaseException:
            with suppress(OSError):  # a full disk
                work.flush()
            raise
        work.flush()
        with replacing(rows.with_suffix(".contents")) as contents:
            contents.write(work.contents)
    return {
        "count": len(work.contents) // DIGEST_BYTES,
        "fingerprint": hashlib.sha256(work.contents).hexdigest()[:16],
        "pixels": work.pixels.hexdigest()[:16],
        "left_out": work.left_out,
    }


class _Work:
    """What is decoded: rows in one file, and in a journal beside it how many they are and what belongs to them."""

    def __init__(self, file: BinaryIO, journal: Path | None) -> None:
        self.file, self.journal = file, journal
        self.done = 0  # images read, bad ones included
        self.contents = bytearray()  # digests of the files, one after the other
        self.left_out: list[LeftOut] = []
        self.pixels = hashlib.sha256()
        self._flushed = (0, 0, time.monotonic())  # digests' bytes, files left out, when

    def add(self, result: Read | BadFile) -> None:
        if isinstance(result, BadFile):
            self.left_out.append(LeftOut(self.done, result.reason, result.lasts))
        else:
            self.contents += result.content
            self.pixels.update(result.pixels)
            self.file.write(result.pixels)
        self.done += 1
        if time.monotonic() - self._flushed[2] > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Rows first: the journal speaks of none that are not on the disk."""
        if self.journal is None:  # nobody goes on with the file
            return
        self.file.flush()
        os.fsync(self.file.fileno())
        digests, left_out, _ = self._flushed
        entry = {
            "done": self.done,
            "contents": self.contents[digests:].hex(),
            "left_out": self.left_out[left_out:],
        }
        with open(self.journal, "ab") as journal:
            journal.write(json.dumps(entry).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        self._flushed = (len(self.contents), len(self.left_out), time.monotonic())


def _take_up(file: BinaryIO, journal: Path | None, row: int) -> _Work:
    """The work that the journal of `file` speaks of, `row` bytes an image; a fresh one where they do not agree."""
    work = _Work(file, journal)
    if journal is None:
        return work
    with suppress(OSError, ValueError, TypeError, KeyError):
        for line in journal.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # cut short by a power cut
            entry = json.loads(line)
            work.contents += bytes.fromhex(entry["contents"])
            work.left_out += [LeftOut(*each) for each in entry["left_out"]]
            work.done = entry["done"]
    whole = len(work.contents) // DIGEST_BYTES * row
    left = whole
    while left and (block := file.read(min(left, 1 << 20))):
        work.pixels.update(block)
        left -= len(block)
    agrees = work.done == len(work.contents) // DIGEST_BYTES + len(work.left_out)
    if left or not agrees or not all(entry.lasts for entry in work.left_out):
        work, whole = _Work(file, journal), 0
    file.truncate(whole)
    file.seek(whole)
    journal.unlink(missing_ok=True)
    if work.done:
        work.flush()  # into one line
    return work


@contextmanager
def _open_part(rows: Path) -> Iterator[tuple[BinaryIO, Path | None]]:
    """A file that becomes `rows` when the block ends well, and its journal.

    That is `rows`.part, which the next process goes on with, or while another process is at work on that, a file
    without a journal, which goes with the block.
    """
    part = rows.with_suffix(".part")
    journal = _journal(part)
    with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        if try_lock(file.fileno()) and is_still(file.raw, part):  # type: ignore[arg-type]
            try:
                yield file, journal
            except WganError as error:
                if not isinstance(error, StoppedError):
                    _remove(part)
                raise
            os.replace(part, rows)
            journal.unlink(missing_ok=True)
            return
    with replacing(rows) as file:
        yield file, None


def _journal(part: Path) -> Path:
    return part.with_name(part.name + ".journal")


def _remove(part: Path) -> None:
    part.unlink(missing_ok=True)
    _journal(part).unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Remove what was begun to be decoded, a week ago or earlier, and not gone on with."""
    for path in folder.glob("*.part"):
        with suppress(OSError), open(path, "r+b") as file:
            if time.time() - path.stat().st_mtime > FORGOTTEN and try_lock(file.fileno()) is not False:
                _remove(path)
