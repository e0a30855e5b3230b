"""The signals that a command heeds, as far as the system knows them: Windows has SIGINT and SIGTERM alone."""

from __future__ import annotations

import signal


def known(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


STOP = known("SIGHUP", "SIGINT", "SIGTERM")  # save and end, with exit code 128 + the signal's number
SAVE = known("SIGUSR1")  # save and go on
