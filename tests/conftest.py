"""For every test: a cache of its own, and one thread, so that tests neither meet nor slow each other."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.set_num_threads(1)
