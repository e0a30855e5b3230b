"""What asks a run to end, or to save: signals and the time limit. They are heeded between steps and between images."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

from . import TIME_LIMIT


def known(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


STOP = known("SIGHUP", "SIGINT", "SIGTERM")  # save and end, with exit code 128 + the signal's number
SAVE = known("SIGUSR1")  # save and go on


def told(code: int) -> tuple[str, int] | None:
    """What has asked for an exit code, and the code; None of 0."""
    return (signal.Signals(code - 128).name if code > 128 else "the time limit", code) if code else None


class Stop:
    """As a context, takes over the signals. The first one that ends is kept, a second one ends the process at once."""

    def __init__(self, time_limit: float | None = None) -> None:
        self.deadline = None if time_limit is None else time.monotonic() + time_limit
        self.save_asked = False  # by SIGUSR1
        self.ended_by: int | None = None  # a signal
        self._before: dict[int, Any] = {}

    def reason(self) -> tuple[str, int] | None:
        """What has asked to end, and the exit code for it; None to go on."""
        return told(self.code())

    def code(self) -> int:
        """The exit code that has been asked for, 0 to go on."""
        if self.ended_by is not None:
            return 128 + self.ended_by
        return TIME_LIMIT if self.deadline is not None and time.monotonic() >= self.deadline else 0

    def take_save(self) -> bool:
        """Whether a save was asked for since the last call."""
        asked, self.save_asked = self.save_asked, False
        return asked

    def __enter__(self) -> Stop:
        for number in (*STOP, *SAVE):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has SIGHUP
                self._before[number] = signal.signal(number, self._end if number in STOP else self._save)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.ended_by is not None:
            os._exit(128 + number)
        self.ended_by = number

    def _save(self, number: int, frame: FrameType | None) -> None:
        self.save_asked = True
