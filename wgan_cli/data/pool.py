"""Many images at once: a process for each core."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn, TypeVar

from PIL import Image, UnidentifiedImageError

from .. import WganError
from .decode import FORMATS, BadFile, Item, open_zip

T = TypeVar("T")
R = TypeVar("R")


def read_images(items: Sequence[Item], read: Callable[[Item], R]) -> Iterator[tuple[Item, R | BadFile]]:
    """`read` of each item, in order, in a process for each core; what a decoder raises becomes a BadFile.

    Each process is ahead by some dozens of results and what a pipe holds, however many items there are.
    """

    def attempt(item: Item) -> R | BadFile:
        try:
            return read(item)
        except FileNotFoundError:
            return BadFile(item.name, "no such file")
        except UnidentifiedImageError:  # its own text has an address in memory for a zip's entry
            return BadFile(item.name, f"not an image in any of the formats {', '.join(FORMATS)}")
        except Exception as error:  # decoders raise nearly everything on broken input
            lasts = not isinstance(error, MemoryError) and getattr(error, "errno", None) in (None, errno.EACCES)
            said = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            return BadFile(item.name, said or type(error).__name__, lasts)

    yield from zip(items, _in_order(attempt, items), strict=True)


def _in_order(function: Callable[[T], R], items: Sequence[T], chunk: int = 32) -> Iterator[R]:
    """Processes, since threads that decode small images pass the interpreter's lock to and fro and are slower than one.

    Each is a fork, takes its turn at the chunks and waits while its pipe is full. It never touches torch.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    cores = min(cores, len(chunks))
    if cores < 2 or not hasattr(os, "fork"):
        yield from map(function, items)
        return
    Image.preinit()  # the decoders' modules, before every process imports them
    pipes: list[Connection] = []
    children = []
    try:
        for number in range(cores):
            receiver, sender = Pipe(duplex=False)
            pipes.append(receiver)
            child = os.fork()
            if not child:
                _send(function, chunks[number::cores], sender, pipes)
            children.append(child)
            sender.close()
        for number in range(len(chunks)):
            yield from pipes[number % cores].recv()
    except (EOFError, OSError):
        raise WganError("a process that read images was killed, perhaps for want of memory") from None
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _send(
    function: Callable[[T], R], chunks: Sequence[Sequence[T]], sender: Connection, others: list[Connection]
) -> NoReturn:
    """What a forked process does till its end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which the parent has as well
        for pipe in others:
            pipe.close()  # so that a parent's death breaks every pipe
        open_zip.cache_clear()  # the parent's have one file position between all of them
        for chunk in chunks:
            sender.send([function(item) for item in chunk])
    finally:
        os._exit(0)
