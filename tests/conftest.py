"""For every test a cache of its own and one thread, so that tests neither meet nor slow each other; shared fixtures."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from tiny import new_run, save, write_images

from wgan_cli import curve
from wgan_cli.data import pool


def pytest_configure() -> None:
    """Undo what a shell does to what it puts into the background: SIGINT ignored (by nohup SIGHUP), here and in the
    commands under test.

    OMP_NUM_THREADS asks for more threads than one. Commands in processes of their own read it as well: the order in
    which torch adds follows the number of threads, so a test that compares two processes needs the same number in both.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["WGAN_TRAIN_PRESET"] = "paper"  # on every machine; `fast` goes by what the machine has
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that the processes of `make test` end together."""
    longest = "distributed verdict safety train export cli examples emulator".split()
    rank = {f"test_{name}.py": number for number, name in enumerate(longest)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are read in the process of the test, which may count or change how."""
    monkeypatch.setattr(pool, "_in_order", lambda attempt, items, count: map(attempt, items))


@pytest.fixture
def drawn() -> None:
    """Runs in the process of the test draw their curve.png."""


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others do not: it takes longer than all else that a small run does."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(curve, "write", lambda run: None)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "imgs")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a convolutional generator and critic of 16x16."""
    return save(new_run(), tmp_path_factory.mktemp("run") / "ckpt.pt")
