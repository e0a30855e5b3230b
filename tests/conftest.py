"""For every test: a cache of its own, and one thread, so that tests neither meet nor slow each other."""

from __future__ import annotations

import signal

import pytest
import torch


def pytest_configure() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, and so would be the commands under test."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.set_num_threads(1)
