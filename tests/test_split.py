"""Which samples are held out, and in which order the rest come."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wgan_cli.data import split
from wgan_cli.data.split import held_out, permutation

MASK = 2**64 - 1


def philox(seed: int, epoch: int, purpose: int, count: int) -> list[int]:
    """Philox 4x64-10, from Salmon et al. 2011, section 3.3 and the constants of Random123."""
    numbers: list[int] = []
    block = 0
    while len(numbers) < count:
        block += 1  # numpy counts up before the first block
        counter, key = [block, 0, 0, purpose], [seed, epoch]
        for _ in range(10):
            one, two = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [
                (two >> 64) ^ counter[1] ^ key[0],
                two & MASK,
                (one >> 64) ^ counter[3] ^ key[1],
                one & MASK,
            ]
            key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
        numbers += counter
    return numbers[:count]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (7, 123456), (2**63 - 1, 0)])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_permutation_is_the_order_of_philox(seed: int, epoch: int, count: int) -> None:
    for purpose in (split.EPOCH, split.SPLIT):
        numbers = philox(seed, epoch, purpose, count)
        expected = sorted(range(count), key=numbers.__getitem__)
        assert permutation(count, seed, epoch, purpose).tolist() == expected


def test_the_order_of_data_is_what_it_was_at_its_first_release() -> None:
    assert permutation(10, 0, 0).tolist() == [8, 7, 4, 2, 6, 5, 9, 0, 1, 3]
    assert np.flatnonzero(held_out(100, 0.05, 4, 0)).tolist() == [18, 25, 56, 67, 75]


def rows(held: NDArray[np.bool_]) -> list[int]:
    return np.flatnonzero(held).tolist()


@pytest.mark.parametrize(
    ("count", "fraction", "batch", "held"),
    [(100, 0.05, 4, 5), (100, 0.05, 8, 8), (39, 0.05, 8, 0), (40, 0.05, 8, 8), (100, 0.0, 4, 0), (100, 0.5, 4, 50)],
)
def test_a_fraction_or_a_batch_is_held_out_of_five_batches(count: int, fraction: float, batch: int, held: int) -> None:
    found = held_out(count, fraction, batch, 3)
    assert len(found) == count and found.sum() == held
    assert not held or rows(found) != rows(held_out(count, fraction, batch, 4))


def test_copies_are_on_one_side() -> None:
    contents = np.random.default_rng(0).integers(0, 60, 100).astype(np.uint64)
    held = held_out(100, 0.2, 4, 0, contents)
    assert held.sum() >= 20
    assert not set(contents[held].tolist()) & set(contents[~held].tolist())
    assert not held_out(100, 0.2, 4, 0, np.zeros(100, np.uint64)).any()  # there is but one image


def test_what_was_trained_on_or_held_out_before_stays_so() -> None:
    before = np.arange(100, dtype=np.uint64)
    first = held_out(100, 0.1, 4, 0, before)
    now = np.concatenate([np.arange(1000, 1200, dtype=np.uint64), before[50:], before[:20]])  # new, and 30 are gone
    held = held_out(len(now), 0.1, 4, 0, now, before[~first], before[first])
    assert set(now[200:][held[200:]].tolist()) == set(before[first].tolist()) - set(range(20, 50))
    assert held[:200].sum() == 20
    few = held_out(len(now), 0.1, 40, 0, now, before[~first], before[first])  # a batch is more than a tenth
    assert few.sum() == 40
