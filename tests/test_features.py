"""Features of data are computed once, and a damaged file of them is made anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluate import write_model
from tiny import call
from torch import Tensor, nn

from wgan_cli import features
from wgan_cli.console import Console
from wgan_cli.data.cache import cache_folder
from wgan_cli.data.dataset import Dataset

CPU = torch.device("cpu")


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that the model is given."""
    seen: list[int] = []
    load = features.load_features

    def watched(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], str]:
        embed, digest = load(path, device)

        def count(images: Tensor) -> Tensor:
            seen.append(len(images))
            return embed(images)

        return count, digest

    monkeypatch.setattr(features, "load_features", watched)
    return seen


def kept() -> list[Path]:
    return sorted(cache_folder().glob("*.features"))


def test_features_of_data_are_computed_once(
    checkpoint: Path, images: Path, tmp_path: Path, embedded: list[int]
) -> None:
    model = write_model(tmp_path / "model.pt")
    words = ("evaluate", checkpoint, "--data", images, "--features", model, "--train", images, "-n", "16")
    cold = call(*words)
    assert cold.code == 0 and sum(embedded) == 16 + 32 and len(kept()) == 1  # of --train they are the same
    embedded.clear()
    assert call(*words).out == cold.out and sum(embedded) == 16  # the samples
    embedded.clear()
    assert call(*words, "--seed", "1", "--repeats", "2").code == 0 and sum(embedded) == 32  # other halves of all rows
    assert call(*words[:-1], "15").code == 0 and len(kept()) == 2  # a choice of rows


def test_features_follow_from_model_rows_and_mirroring(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    class Other(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))

    models = [write_model(tmp_path / "a.pt"), write_model(tmp_path / "b.pt", model=Other())]
    for model in models:
        assert call("evaluate", checkpoint, "--data", images, "--features", model, "--figures", "fid").code == 0
    assert len(kept()) == 2
    (images_file,) = cache_folder().glob("*.rows")
    pixels = np.fromfile(images_file, np.uint8).reshape(-1, 16, 16, 3)
    data = Dataset(pixels, "f" * 16, pixels="p" * 16)
    embed, digest = features.load_features(models[1], CPU)
    for mirrored in (False, True):
        found = features.features_of(
            data, np.array([3, 1]), lambda x: x[:, :, :, 0].flatten(1), digest, CPU, Console(), mirrored
        )
        column = pixels[[3, 1]][:, :, -1 if mirrored else 0].transpose(0, 2, 1).reshape(2, -1)
        np.testing.assert_allclose(found, column / 127.5 - 1, atol=1e-6)
    part = data.part(np.arange(len(pixels)) % 2 == 1)  # its rows 1 and 0 are 3 and 1
    before = kept()
    found = features.features_of(part, np.array([1, 0]), embed, digest, CPU, Console())
    assert found.shape == (2, 48) and kept() == before  # read from the file, not made by the model


@pytest.mark.parametrize("damage", ["byte", "short", "long", "empty", "head", "head alone"])
def test_damaged_features_are_made_anew(
    damage: str, checkpoint: Path, images: Path, tmp_path: Path, embedded: list[int]
) -> None:
    model = write_model(tmp_path / "model.pt")
    words = ("evaluate", checkpoint, "--data", images, "--features", model)
    cold = call(*words)
    (path,) = kept()
    whole = path.read_bytes()
    assert len(whole) == 32 + 32 * 6 * 4
    harmed: dict[str, bytes] = {
        "byte": whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:],
        "short": whole[:-1],
        "long": whole + bytes(32 * 4),
        "empty": b"",
        "head": bytes(32) + whole[32:],
        "head alone": whole[:32],
    }
    path.write_bytes(harmed[damage])
    embedded.clear()
    done = call(*words)
    assert done.out == cold.out and sum(embedded) == 16 + 32 and path.read_bytes() == whole


def test_a_model_that_fails_leaves_nothing(checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> Any:
        def embed(images: Tensor) -> Tensor:
            raise KeyboardInterrupt

        return embed, "0" * 16

    monkeypatch.setattr(features, "load_features", load)
    assert call("evaluate", checkpoint, "--data", images, "--features", images / "00.png").code == 130
    assert kept() == [] and list(cache_folder().glob(".*.tmp")) == []
