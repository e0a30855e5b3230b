"""Whether the other processes of a run are there, and go on; and what is said of it, once.

Each process tells all others every second that it lives, through the store that torchrun keeps. Who is killed is found
by its connection, who is stopped or cut off by its silence, who hangs by its own watchdog.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from . import WganError

BEAT = 1.0  # seconds between two signs of life
SILENT = 15.0  # seconds without one, after which a process is taken for lost
FINDING = 5.0  # the same, when a connection to some process is lost
MESSAGE_AFTER = 2.0  # seconds of waiting that are worth a message


def meet(store: Any, rank: int, size: int, seconds: float) -> str:
    """A name that is common to the processes of this attempt, and was none before: torchrun's store goes on to hold
    what those of earlier attempts have put there, and counts attempts by machine. LostError where not all come."""
    own, until = os.urandom(8).hex(), time.monotonic() + seconds
    store.set(f"here {rank}", own)
    while time.monotonic() < until:
        if rank == 0 and store.check([f"here {each}" for each in range(size)]):
            store.set("meeting", " ".join(store.get(f"here {each}").decode() for each in range(size)))
        if store.check(["meeting"]) and own in (tokens := store.get("meeting").decode()).split():
            name = hashlib.sha256(tokens.encode()).hexdigest()[:16]
            store.set(f"{name} {rank}", "")
            if store.check([f"{name} {each}" for each in range(size)]):
                return name
        time.sleep(0.05)
    raise LostError(f"waited {seconds:.0f} s for the others of {size} processes")


class LostError(WganError):
    """Another process of the run is not there any more."""


class Watchdog:
    """Of process `rank` of `size`. A thread gives signs of life and looks for those of others."""

    def __init__(self, store: Any, rank: int, size: int, hang_limit: float) -> None:
        self.rank, self.size, self.hang_limit = rank, size, hang_limit
        self._store, self._own = store, store.clone()  # one for each thread
        self._since: float | None = None  # when the work began that is to end within the limit
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        store.set(f"who {rank}", f"process {rank} of {size} ({platform.node()}, pid {os.getpid()})")
        store.set(f"beat {rank}", "0")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(2 * BEAT)

    def name(self, rank: int) -> str:
        return str(self._store.get(f"who {rank}").decode())

    # ---- Of this process

    @contextmanager
    def working(self) -> Iterator[None]:
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Others are waited for. An error of the connection becomes one that names who is lost."""
        since, self._since = self._since, None
        try:
            yield
        except RuntimeError as error:
            raise self._lost(error) from None
        finally:
            self._since = None if since is None else time.monotonic()

    def wait_for(self, store: Any, key: str, say: Callable[[], None] | None) -> None:
        """Until another process has set the key."""
        began = time.monotonic()
        with self.telling():
            while not store.check([key]):
                self._follow_others()
                if say and time.monotonic() - began > MESSAGE_AFTER:
                    say()
                    say = None
                time.sleep(0.1)

    def ends(self, code: int, told: bool) -> bool:
        """Tell the others that this process ends; whether it is the one to say why.

        The first process says it, another one only what the first has not met with.
        """
        try:
            first_has = self.rank and self._said(0, 3.0 if told else 0.0)
            says = told and not first_has
            self._store.set(f"end {self.rank}", f"{code} {'itself' if says or not self.rank else 'with others'}")
            return bool(says)
        except RuntimeError:  # the store is gone too
            return told

    # ---- Of the others

    def _said(self, rank: int, seconds: float) -> bool:
        """Whether that process has ended, or does so within some seconds, for a reason of its own."""
        until = time.monotonic() + seconds
        while not self._store.check([f"end {rank}"]):
            if time.monotonic() >= until:
                return False
            time.sleep(0.05)
        return bool(self._store.get(f"end {rank}").endswith(b"itself"))

    def _follow_others(self) -> None:
        """SystemExit, with the code of another process that has ended and has said why."""
        for rank in range(self.size):
            if rank != self.rank and self._store.check([f"end {rank}"]):
                code, _, _ = self._store.get(f"end {rank}").decode().partition(" ")
                self._store.set(f"end {self.rank}", f"{code} with others")
                raise SystemExit(int(code))

    def _lost(self, error: RuntimeError) -> WganError:
        """Who it is that a connection was lost to: the process that gives no sign of life any more."""
        try:
            first, began = self._beats(), time.monotonic()
            while time.monotonic() - began < FINDING:
                self._follow_others()
                time.sleep(0.1)
            last = self._beats()
            gone = [rank for rank in range(self.size) if rank != self.rank and first[rank] == last[rank]]
            if self._store.add("lost", 1) > 1:  # another process says it
                raise SystemExit(1)
            names = ", ".join(map(self.name, gone)) or f"no process ({str(error).splitlines()[0][:200]})"
            return LostError(f"{names} was lost: killed, or cut off; the last checkpoint is whole")
        except RuntimeError:
            return LostError("the processes lost each other, and torchrun with them; the last checkpoint is whole")

    def _beats(self) -> list[bytes]:
        return [self._store.get(f"beat {rank}") for rank in range(self.size)]

    def _watch(self) -> None:
        count, changed = 0, dict.fromkeys(range(self.size), (b"", time.monotonic()))
        # The first looks for all, and all look for the first.
        watched = [rank for rank in (range(self.size) if self.rank == 0 else [0]) if rank != self.rank]
        try:
            while not self._ended.wait(BEAT):
                count += 1
                self._own.set(f"beat {self.rank}", str(count))
                now = time.monotonic()
                if (since := self._since) is not None and now - since > self.hang_limit:
                    self._end(f"{self._named(self.rank)} has made no progress for {self.hang_limit:.0f} s")
                for rank in watched:
                    beat = self._own.get(f"beat {rank}")
                    if beat != changed[rank][0]:
                        changed[rank] = beat, now
                    elif now - changed[rank][1] > SILENT:
                        if self._own.check([f"end {rank}"]):  # and the main thread has not met with that
                            os._exit(int(self._own.get(f"end {rank}").split()[0]))
                        self._end(f"{self._named(rank)} has given no sign of life for {SILENT:.0f} s")
        except RuntimeError:
            if not self._ended.is_set():
                self._end("torchrun, which started this, is gone")

    def _named(self, rank: int) -> str:
        return str(self._own.get(f"who {rank}").decode())

    def _end(self, why: str) -> NoReturn:
        """The main thread waits for others, or hangs, and cannot end the process."""
        said = False
        try:
            self._own.set(f"end {self.rank}", "1 itself")
            said = self._own.add("lost", 1) > 1
        except RuntimeError:
            pass
        if not said:
            sys.stderr.write(f"Error: {why}; the last checkpoint is whole\n")
            sys.stderr.flush()
        os._exit(1)
