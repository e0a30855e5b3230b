"""Sets that are read a slice at a time: the same figures as of whole tensors, and never more at once than is said."""

from __future__ import annotations

import errno
import gc
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
import pytest
import torch
from tiny import call
from torch import Tensor

from wgan_cli import evaluate, metrics, rows
from wgan_cli.data.dataset import Dataset

needs_scipy = pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="no scipy: pip install scipy")


class Watched:
    """A set that knows the most values that were asked for at once."""

    def __init__(self, whole: Tensor) -> None:
        self.whole, self.most = whole, 0

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, part: slice, /) -> Tensor:
        found = self.whole[part].clone()
        self.most = max(self.most, found.numel())
        return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


VECTORS: list[Callable[..., Any]] = [
    metrics.sliced_wasserstein,
    pytest.param(metrics.exact_wasserstein, marks=needs_scipy),  # type: ignore[list-item]
    metrics.coverage_density,
    metrics.precision_recall,
    metrics.nearest,
    metrics.frechet,
    metrics.kernel_distance,
]


@pytest.mark.parametrize("function", VECTORS)
@pytest.mark.parametrize("block", [97, 250])
def test_slices_give_what_whole_sets_give(
    function: Callable[..., Any], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that end at odd places: 97 values are 13 rows, and 401 is a prime."""
    a, b = normal(401, 7), 1.2 * normal(401, 7, seed=1) + 0.1
    whole = function(a, b)
    monkeypatch.setattr(metrics, "BLOCK", block)
    sets = Watched(a), Watched(b)
    np.testing.assert_allclose(function(*sets), whole, rtol=1e-6)
    if function is not metrics.frechet:  # which takes 1024 rows or twice the dimensions at least
        assert 7 <= max(s.most for s in sets) <= 8 * block


def test_frechet_in_slices_is_that_of_whole_sets() -> None:
    a, b = Watched(normal(2500, 3)), Watched(2 * normal(3100, 3, seed=1) + 1)
    roots = [torch.linalg.qr(x.whole.double() - x.whole.double().mean(dim=0), mode="r").R for x in (a, b)]
    roots = [root / (len(x) - 1) ** 0.5 for root, x in zip(roots, (a, b), strict=True)]
    gap = (a.whole.double().mean(dim=0) - b.whole.double().mean(dim=0)).square().sum()
    traces = sum(root.square().sum() for root in roots)
    expected = gap + traces - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    assert metrics.frechet(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert max(a.most, b.most) == 1024 * 3


@pytest.mark.parametrize("count", [63, 64, 131])
def test_patches_in_slices_are_those_of_whole_sets(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through files too: as they were when all of a set was cut and normalised at once."""
    images = Watched(3 * normal(count, 2, 16, 16) + 1)
    cut = torch.cat(list(metrics._cut(images, 0, 5)))
    assert images.most == min(count, 64) * 2 * 16 * 16
    deviation, mean = torch.std_mean(cut.double(), dim=(0, 2, 3), correction=0, keepdim=True)
    monkeypatch.setattr(rows, "IN_MEMORY", 1000)
    patches = metrics._patches(images, 0, 5)
    torch.testing.assert_close(patches[: len(patches)], ((cut - mean) / deviation).float().flatten(1))
    whole = metrics.pyramid_distances(images.whole, images.whole**3, 5)
    monkeypatch.setattr(metrics, "BLOCK", 4001)
    assert metrics.pyramid_distances(images, Watched(images.whole**3), 5) == pytest.approx(whole, rel=1e-6)


def test_tables_of_distances_and_lines_stay_within_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 512)
    a, b = normal(60, 3), normal(2000, 3, seed=1)
    assert max(part.numel() for part in metrics._distances(a, b[:200])) <= 2 * 512
    seen: list[int] = []
    lines = metrics._lines

    def watched(points: rows.Rows, directions: Tensor) -> Any:
        found = lines(points, directions)
        seen.append(found.size)
        return found

    monkeypatch.setattr(metrics, "_lines", watched)
    metrics.sliced_wasserstein(b, b)
    assert 0 < max(seen) <= 32 * 512


@pytest.mark.parametrize("size", [2, 3000])  # in memory, and in a file
def test_rows_are_kept(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "IN_MEMORY", 100)
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path))
    opened: list[Any] = []

    def watched(**given: Any) -> Any:
        assert given["dir"] == str(tmp_path)
        opened.append(SpooledTemporaryFile(**given))
        return opened[-1]

    monkeypatch.setattr(rows, "SpooledTemporaryFile", watched)
    parts = [np.arange(n * size, dtype=np.uint8).reshape(n, size) for n in (3, 1, 4)]
    found = rows.kept(part[:, ::-1] for part in parts)
    whole = torch.from_numpy(np.concatenate([part[:, ::-1] for part in parts]).copy())
    assert len(found) == 8 and torch.equal(found[2:7], whole[2:7]) and torch.equal(found[6:99], whole[6:])
    assert torch.equal(torch.cat(list(rows.chunks(rows.mapped(found, torch.neg), 3))), -whole)
    assert list(tmp_path.iterdir()) == []  # the file has no name
    del found
    gc.collect()
    assert opened[0].closed


def test_a_full_disk_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rows, "SpooledTemporaryFile", Full)
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="No space left on device; it keeps samples there while it runs") as raised:
        rows.kept([np.zeros(3)])
    assert raised.value.filename == str(tmp_path)


@pytest.mark.parametrize("more", [(), ("--figures", "swd,coverage,train")])
def test_evaluate_asks_for_few_images_at_a_time(
    more: tuple[str, ...], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), np.uint8)
    np.save(tmp_path / "data.npy", pixels)
    monkeypatch.setattr(metrics, "BLOCK", 64 * 768)
    monkeypatch.setattr(evaluate, "MATCHED", 0)
    words: tuple[str | Path, ...] = (
        "evaluate",
        checkpoint,
        "--data",
        tmp_path / "data.npy",
        "--train",
        tmp_path / "data.npy",
        *more,
    )
    whole, asked, at = call(*words, "-n", "150"), set[int](), Dataset.at

    def watched(data: Dataset, places: Any) -> Any:
        asked.add(len(places))
        return at(data, places)

    monkeypatch.setattr(Dataset, "at", watched)
    monkeypatch.setattr(metrics, "BLOCK", 8 * 768)
    done = call(*words, "-n", "150")
    assert done.code == 0 and done.out == whole.out
    assert 8 <= max(asked) <= 64


def test_what_the_disk_has_no_room_for_is_an_error_at_once(
    checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "TOLD", 1)
    done = call("evaluate", checkpoint, "--data", images, "--figures", "swd")
    takes = (16 * 768 + 4 * 16 * 128 * 49 * 3 * 4) / 1e9
    assert done.code == 0 and f"holds up to {takes:.1f} GB while it runs" in done.err
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 4e6}))
    done = call("evaluate", checkpoint, "--data", images, "--figures", "swd")
    assert (done.code, done.out) == (1, b"")
    assert "0.0 GB are free, and -n 16 takes 0.0 GB while it runs; take a smaller N" in done.err
