"""What processes of the pool run in tests. Like all that they run, it does not import torch."""

from __future__ import annotations

import os
import signal
import sys

from wgan_cli.data.decode import Item


def number(item: Item, barrier: str = "") -> str:
    """The item's name, an error for each seventh. Number 0 waits until number 40 is read, by another process."""
    value = int(item.path)
    if barrier and value in (0, 40):
        open(barrier, "r" if value == 0 else "w").close()  # a FIFO: each waits for the other
    if value % 7 == 3:
        raise ValueError(f"no {value}")
    return item.path


def crash(item: Item, on: dict[str, int]) -> str:
    """A signal kills the process at the items that `on` names."""
    if item.path in on:
        signal.signal(on[item.path], signal.SIG_DFL) if on[item.path] != signal.SIGKILL else None
        os.kill(os.getpid(), on[item.path])
    return item.path


def stuck(item: Item, fifo: str) -> None:
    """Each waits for the FIFO's writer to end."""
    open(fifo).read()


def imported(item: Item) -> list[str]:
    return sorted({"torch", "numpy", "click", "pytest"} & sys.modules.keys())
