"""Batches: rows that lie decoded on the disk or in memory, drawn in an order that the seed gives."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .source import digest

RESIDENT_BYTES = 256 << 20  # of the cache file's pages, before they are handed back to the system
FAULT_BYTES = 64 << 10  # that Linux maps around the one byte that was asked for


class Batch(NamedTuple):
    """Samples [B, *shape], images in [-1, 1], and their classes [B], or None where there are none."""

    samples: Tensor
    labels: Tensor | None = None


@dataclass
class Dataset:
    """Rows to train on: uint8 images [N, H, W, C] mapped from the cache, or float32 points [N, D]."""

    rows: NDArray[Any]
    fingerprint: str  # of the content: the same wherever the files lie
    mapped: mmap.mmap | None = None
    chosen: NDArray[np.int64] | None = None  # the rows that belong to this part of a split, all if None
    _resident: int = 0

    def __len__(self) -> int:
        return len(self.rows if self.chosen is None else self.chosen)

    def split(self, fraction: float, batch: int, seed: int) -> tuple[Dataset, Dataset | None]:
        """(rows to train on, rows held out), of which the seed says which, and fraction and batch how many.

        At least a batch is held out; nothing where there are less than five batches in all.
        """
        if not fraction or len(self) < 5 * batch:
            return self, None
        held = max(batch, round(fraction * len(self)))
        order = np.random.default_rng([seed, 0, 1]).permutation(len(self))  # unlike that of any epoch
        kept, heldout = (
            replace(self, chosen=part, fingerprint=digest([self.fingerprint, seed, held, name])[:16])
            for name, part in (("kept", order[held:]), ("held out", order[:held]))
        )
        return kept, heldout

    def batch(self, number: int, size: int, seed: int, device: torch.device) -> Batch:
        """Batch `number` since the start of training, float32.

        An epoch is a new permutation of the rows; its last, incomplete batch is left out. It follows from (seed,
        number) alone, so the position in the data is one number.
        """
        rows = torch.from_numpy(np.take(self.rows, self._index(number, size, seed), axis=0)).to(device)
        self._give_back(size * max(FAULT_BYTES, rows[0].nbytes))
        if self.mapped and len(self.mapped) > RESIDENT_BYTES:
            self._announce(self._index(number + 1, size, seed), rows[0].nbytes)
        return Batch(unit(rows))

    def at(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of these rows of this part, as they are stored."""
        return np.take(self.rows, places if self.chosen is None else self.chosen[places], axis=0)

    def _index(self, number: int, size: int, seed: int) -> NDArray[np.int64]:
        epoch, place = divmod(number, len(self) // size)
        index = _permutation(seed, epoch, len(self))[place * size : (place + 1) * size]
        return index if self.chosen is None else self.chosen[index]

    def _announce(self, index: NDArray[np.int64], row: int) -> None:
        """Have the system read these rows from the disk while the batch before them is computed on."""
        assert self.mapped
        for first in (index * row).tolist() if hasattr(mmap, "MADV_WILLNEED") else ():
            start = first - first % mmap.PAGESIZE
            self.mapped.madvise(mmap.MADV_WILLNEED, start, first + row - start)

    def _give_back(self, read: int) -> None:
        """Let the system take pages of the map back, so that the process does not grow to the size of the data."""
        self._resident += read
        if self.mapped and self._resident > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)
            self._resident = 0


@lru_cache(maxsize=3)  # of the part that is trained on, for this epoch and the next, and of the held-out one
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def unit(rows: Tensor) -> Tensor:
    """Rows as a generator makes them: images [B, C, H, W] in [-1, 1], or points."""
    return to_unit(rows) if rows.dtype == torch.uint8 else rows


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, C] → float32 [B, C, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(samples: Tensor) -> Tensor:
    """float [B, C, H, W] in [-1, 1] → uint8 [B, H, W, C], the inverse of `to_unit`."""
    return samples.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
