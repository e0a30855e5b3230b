"""A tiny run and its images, and `wgan` as a process and as a call, for the tests of the commands."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from wgan_cli import signals
from wgan_cli.cli import main
from wgan_cli.config import resolve
from wgan_cli.data.dataset import Dataset
from wgan_cli.state import State, new_state, save_state

SETTINGS = ("--width", "4", "--batch", "8", "--steps", "4", "--ema", "0.9", "--log-every", "1")
COMMAND = [str(Path(sys.executable).with_name("wgan"))]  # the installed one


class Ended(NamedTuple):
    code: int
    out: bytes
    err: str


class _Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def wgan(*words: str | Path, **options: Any) -> Ended:
    """A process, ended."""
    done = subprocess.run([*COMMAND, *words], capture_output=True, stdin=subprocess.DEVNULL, **options)
    return Ended(done.returncode, done.stdout, done.stderr.decode())


def call(*words: str | Path, stdin: bytes = b"", terminal: bool = False) -> Ended:
    """The same without a process, and so without the second that torch takes to import."""
    kind = _Terminal if terminal else io.BytesIO
    out, err = kind(), kind()
    # As strict as under a UTF-8 locale: a name that is no UTF-8 has to be written as bytes.
    streams = {
        "stdin": io.TextIOWrapper(kind(stdin)),
        "stdout": io.TextIOWrapper(out, "utf-8", "strict", write_through=True),
        "stderr": io.TextIOWrapper(err, "utf-8", "backslashreplace", write_through=True),
    }
    handlers = {n: signal.getsignal(n) for n in (*signals.STOP, *signals.SAVE)}
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
            for name, stream in streams.items():
                patch.setattr(sys, name, stream)
            patch.setattr(sys, "argv", ["wgan", *map(str, words)])
            main()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(end.value.code, int)
    return Ended(end.value.code, out.getvalue(), err.getvalue().decode())


def write_images(folder: Path, count: int = 32) -> Path:
    """PNGs of 16 by 16 pixels: noise, each of another brightness."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 8 * index + 8, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return folder


def new_run(size: int = 16, channels: int = 3, **given: Any) -> State:
    """A run before its first step; size 0: of points."""
    config, _ = resolve({"width": 4, "batch": 8, **given}, {"size": size, "channels": channels})
    return new_state(config, torch.device("cpu"))


def save(state: State, path: Path) -> Path:
    classes = len(state.config.classes)
    labels = np.arange(8) % classes if classes else None
    save_state(path, state, Dataset(np.zeros((8, *state.config.shape), np.uint8), "0" * 16, labels=labels))
    return path


def memory_now() -> int:
    """Bytes resident; the peak, memory("VmHWM"), is one from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) << 10
