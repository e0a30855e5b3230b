"""Batches on their way to a GPU, with a CPU in its place: on every way they are those of `Dataset.batch`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wgan_cli.data.dataset import Dataset
from wgan_cli.data.feed import Ahead, Feed, Resident, feed, needed

CPU = torch.device("cpu")
SIZE, SEED = 4, 3
WAYS = [Feed, Ahead, Resident]


def part(kind: str) -> Dataset:
    """23 rows, of which 19 are to train on: five whole epochs of 4 batches, of 3 rows left over each."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(23, 2)).astype(np.float32)
    labels = None
    if kind != "points":
        rows = rng.integers(0, 256, (23, 5, 3, 3), dtype=np.uint8)  # type: ignore[assignment]
        labels = rng.integers(0, 3, 23) if kind == "classes" else None
    rows.flags.writeable = False  # as the cache is mapped
    data = Dataset(rows, "0" * 16, labels=labels)
    wanted = np.ones(23, np.bool_)
    wanted[[2, 3, 11, 22]] = False
    return data.part(wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["images", "classes", "points"])
@pytest.mark.parametrize("share", [slice(None), slice(0, 1), slice(1, 4)])
def test_every_way_gives_the_same_batches_bit_for_bit(way: type[Feed], kind: str, share: slice) -> None:
    data, fed = part(kind), way(part(kind), SIZE, SEED, CPU, share)
    for number in range(20):  # five epochs
        expected, found = data.batch(number, SIZE, SEED, CPU, share), fed.take(number)
        fed.ahead(number + 1)
        assert found.samples.dtype == torch.float32
        assert torch.equal(found.samples, expected.samples)
        assert found.samples.stride() == expected.samples.stride()  # the order of sums hangs on the layout
        assert (found.labels is None) == (expected.labels is None)
        assert found.labels is None or (expected.labels is not None and torch.equal(found.labels, expected.labels))


@pytest.mark.parametrize("way", WAYS)
def test_a_run_goes_on_with_any_batch(way: type[Feed]) -> None:
    data, fed = part("classes"), way(part("classes"), SIZE, SEED, CPU)
    for number in (17, 3, 4, 4, 0, 19):  # what was made ready is not what is asked for next
        assert torch.equal(fed.take(number).samples, data.batch(number, SIZE, SEED, CPU).samples)
        fed.ahead(number + 1)


def test_one_batch_is_gathered_once_and_before_it_is_taken() -> None:
    data = part("images")
    asked: list[int] = []
    stored = data.stored

    def counted(number: int, *rest: object, **options: object) -> object:
        asked.append(number)
        return stored(number, *rest, **options)  # type: ignore[arg-type]

    data.stored = counted  # type: ignore[assignment, method-assign]
    fed = Ahead(data, SIZE, SEED, CPU)
    for number in (5, 6, 7):
        fed.take(number)
        assert asked[-1] == number
        fed.ahead(number + 1)
        assert asked[-1] == number + 1
    assert asked == [5, 6, 7, 8]


def test_rows_that_lie_on_the_device_are_read_once_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    data = part("images")
    monkeypatch.setattr("wgan_cli.data.feed.CHUNK", 5 * 45)  # bytes: five rows
    pieces: list[list[int]] = []
    at = data.at

    def read(places: NDArray[np.int64]) -> NDArray[Any]:
        pieces.append(places.tolist())
        return at(places)

    monkeypatch.setattr(data, "at", read)
    fed = Resident(data, SIZE, SEED, CPU)
    assert [len(piece) for piece in pieces[1:]] == [5, 5, 5, 4] and sum(pieces[1:], []) == [*range(19)]
    monkeypatch.setattr(data, "rows", None)
    fed.take(7)


def test_where_the_rows_lie_follows_from_the_device_and_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    images, classes = part("images"), part("classes")
    assert needed(images) == 19 * (45 + 8) and needed(classes) == 19 * (45 + 16)
    assert type(feed(images, SIZE, SEED, CPU, memory=1.0)) is Feed
    gpu, made = torch.device("cuda"), list[str]()
    for way in (Ahead, Resident):
        monkeypatch.setattr(way, "__init__", lambda self, *rest: made.append(type(self).__name__))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * needed(images), 10**12))
    for data, memory in ((images, 0.0), (images, 0.24), (images, 0.25), (classes, 0.25)):
        feed(data, SIZE, SEED, gpu, memory=memory)
    assert made == ["Ahead", "Ahead", "Resident", "Ahead"]
