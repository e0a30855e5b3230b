"""Many images at once: a process for each core that may be used."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from .. import WganError
from .decode import FORMATS, BadFile, Item

R = TypeVar("R")

CHUNK = 32  # images that a process reads before it hands them over
METHOD = "forkserver" if sys.platform == "linux" else "spawn"  # no fork of a process that has torch and its threads
# Errors that a file gives until it changes. That of a permission is not: another user may have it.
_LASTING = (None, errno.ELOOP, errno.EISDIR)
# What a terminal or a scheduler sends to all processes of a job at once, and the command alone answers.
_NOT_THEIRS = {getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGUSR1") if hasattr(signal, name)}


def read_images(
    items: Sequence[Item], read: Callable[[Item], R], cores: int | None = None
) -> Iterator[tuple[Item, R | BadFile]]:
    """`read` of each item, in order, in so many processes, or one for each core; what a decoder raises becomes a
    BadFile.

    `read` is a function of a module, or a `partial` of one, and that module does not import torch. A file on which a
    process crashes is a BadFile too, so even a single one is not read in this process. Some dozens of results for each
    process are ahead, however many items there are.
    """
    count = min(cores or workers(), math.ceil(len(items) / CHUNK))
    yield from zip(items, _in_order(partial(_attempt, read), items, count), strict=True)


def _attempt(read: Callable[[Item], R], item: Item) -> R | BadFile:
    try:
        return read(item)
    except FileNotFoundError:
        return BadFile(item.name, "no such file")
    except UnidentifiedImageError:  # its own text has an address in memory for a zip's entry
        return BadFile(item.name, f"not an image in any of the formats {', '.join(FORMATS)}")
    except Exception as error:  # decoders raise nearly everything on broken input
        lasts = not isinstance(error, MemoryError) and getattr(error, "errno", None) in _LASTING
        said = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        return BadFile(item.name, said or type(error).__name__, lasts)


def _in_order(attempt: Callable[[Item], R | BadFile], items: Sequence[Item], count: int) -> Iterator[R | BadFile]:
    """Processes, since threads that decode small images pass the interpreter's lock to and fro and are slower than one.

    A crash ends all processes at once and does not say where it was: of the chunk that is due, each file is then read
    in a process of its own, and the rest by new processes.
    """
    chunks = deque(range(0, len(items), CHUNK))
    while chunks:
        with _processes(count) as submit:
            waiting: deque[Future[list[R | BadFile]]] = deque()
            try:
                while chunks:
                    for start in islice(chunks, len(waiting), 2 * count):
                        waiting.append(submit(_each, attempt, items[start : start + CHUNK]))
                    results = waiting.popleft().result()
                    chunks.popleft()
                    yield from results
            except BrokenProcessPool:
                pass
        if chunks:
            start = chunks.popleft()
            yield from (_alone(attempt, item) for item in items[start : start + CHUNK])


def _each(attempt: Callable[[Item], R], items: Sequence[Item]) -> list[R]:
    _elsewhere.release()
    try:
        return [attempt(item) for item in items]
    finally:
        _elsewhere.acquire()


@contextmanager
def _processes(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """What hands a call to one of `count` processes, which end with the block."""
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload([__name__, "PIL.PngImagePlugin", "PIL.JpegImagePlugin"])
    theirs, ours = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(count, context, _begin, (theirs,))

    def submit(function: Callable[..., R], *arguments: object) -> Future[R]:
        with _starting():
            return executor.submit(function, *arguments)

    try:
        yield submit
    finally:
        ours.close()
        executor.shutdown(cancel_futures=True)
        theirs.close()


_elsewhere = threading.Lock()  # held by a process while it is not reading images


def _begin(block: Connection) -> None:
    """A process begins. It is to end with its parent, and when the parent leaves the block, whatever it reads then.

    It must not end amid handing results over, for which its parent would wait for ever.
    """

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent
        parent.join()
        os._exit(0)

    def end_with_block() -> None:
        block.poll(None)
        _elsewhere.acquire()
        os._exit(0)

    _elsewhere.acquire()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for end in (end_with_parent, end_with_block):
        threading.Thread(target=end, daemon=True).start()
    Image.preinit()


@contextmanager
def _starting() -> Iterator[None]:
    """A process that is started in this block meets no signal that is not its own, and nothing of the caller's program.

    Python would have it run the caller's script again, with all that this imports.
    """
    main = sys.modules["__main__"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_THEIRS) if hasattr(signal, "pthread_sigmask") else None
    try:
        sys.modules["__main__"] = ModuleType("__main__")
        yield
    except OSError as error:
        said = error.strerror or error
        advice = "; name a folder of a shorter path in TMPDIR" if "AF_UNIX" in str(error) else ""
        raise WganError(f"no process to read images in can be started ({said}){advice}") from None
    finally:
        sys.modules["__main__"] = main
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _alone(attempt: Callable[[Item], R | BadFile], item: Item) -> R | BadFile:
    """The item read in a process of its own, which may crash on it."""
    context: Any = multiprocessing.get_context(METHOD)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(attempt, item, sender), daemon=True)
    with _starting():
        process.start()
    sender.close()
    with receiver:
        try:
            return receiver.recv()
        except EOFError:
            process.join()
    if process.exitcode == -getattr(signal, "SIGKILL", 9):
        return BadFile(item.name, "the process that read it was killed, perhaps for want of memory", lasts=False)
    return BadFile(item.name, "the decoder crashed on it")


def _send(attempt: Callable[[Item], R], item: Item, sender: Connection) -> None:
    sender.send(attempt(item))


def workers() -> int:
    """The processes that can run at the same time: the cores that this process may use, and those its cgroup allows."""
    if hasattr(os, "process_cpu_count"):
        cores = os.process_cpu_count() or 1
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(_quota())))


def _quota(top: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that the cgroup of this process and those above it grant, of version 2 or 1; 64 where nothing says."""
    cores = 64.0
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return cores
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = top / "cpu" if controllers else top
        folder = root / path.lstrip("/")  # in a container perhaps the host's name for what is the root here
        for place in (folder, *folder.parents):
            if not place.is_relative_to(root):
                break
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
            try:
                quota, period = " ".join((place / name).read_text() for name in names).split()
                if quota not in ("max", "-1"):
                    cores = min(cores, int(quota) / int(period))
            except (OSError, ValueError, ZeroDivisionError):
                continue
    return cores
