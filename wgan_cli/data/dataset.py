"""Batches: rows that lie decoded on the disk or in memory, drawn in an order that the seed gives."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .source import digest
from .split import Contents, held_out, permutation, split_digest

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
    fingerprint: str  # of the files' contents in their order: the same wherever they lie and whatever decodes them
    mapped: mmap.mmap | None = None
    chosen: NDArray[np.int64] | None = None  # the rows that belong to this part of a split, all if None
    pixels: str = ""  # fingerprint of the rows, which another version of a decoder changes
    contents: Contents | None = None  # [N], of each row's file; points have none
    labels: NDArray[np.int64] | None = None  # [N], the number of each row's class
    names: Callable[[], Sequence[str]] = list  # of each row
    held: NDArray[np.bool_] | None = None  # [N], the rows that are held out, once that is decided
    gone: Contents = field(default_factory=lambda: np.zeros(0, np.uint64))  # trained on before, in the data no more
    changes: list[dict[str, Any]] = field(default_factory=list)  # {step, fingerprint, count}: these data from there on
    _orders: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict, init=False)
    _resident: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.rows if self.chosen is None else self.chosen)

    def split(self, fraction: float, batch: int, seed: int) -> tuple[Dataset, Dataset | None]:
        """(rows to train on, rows held out), decided here unless a checkpoint has: see `held_out`.

        None in place of less than a batch of rows held out.
        """
        if self.held is None:
            self.held = held_out(len(self), fraction, batch, seed, self.contents, labels=self.labels)
        if not self.held.any():
            return self, None
        return self.part(~self.held), self.part(self.held) if self.held.sum() >= batch else None

    def part(self, wanted: NDArray[np.bool_]) -> Dataset:
        """The rows [N] that are wanted."""
        name = digest([self.fingerprint, split_digest(wanted)])[:16]
        return replace(self, chosen=np.flatnonzero(wanted), fingerprint=name)

    def batch(self, number: int, size: int, seed: int, device: torch.device, share: slice = slice(None)) -> Batch:
        """Batch `number` since the start of training, float32; of its rows the `share`.

        An epoch is a new permutation of the rows; its last, incomplete batch is left out. It follows from (seed,
        number) alone, so the position in the data is one number.
        """
        rows, labels = self.stored(number, size, seed, share)
        return Batch(unit(rows.to(device)), None if labels is None else labels.to(device))

    def stored(
        self, number: int, size: int, seed: int, share: slice = slice(None), pinned: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The rows of that batch as they are stored, and their classes; in memory that a GPU reads, where `pinned`."""
        index = self._index(number, size, seed)[share]
        if pinned:
            kind = torch.uint8 if self.rows.dtype == np.uint8 else torch.float32
            rows = torch.empty(len(index), *self.rows.shape[1:], dtype=kind, pin_memory=True)
            np.take(self.rows, index, axis=0, out=rows.numpy(), mode="clip")  # the default mode copies once more
        else:
            rows = torch.from_numpy(np.take(self.rows, index, axis=0))
        self._give_back(len(index) * max(FAULT_BYTES, rows[0].nbytes))
        if self.mapped and len(self.mapped) > RESIDENT_BYTES:
            self._announce(self._index(number + 1, size, seed)[share], rows[0].nbytes)
        labels = None if self.labels is None else torch.from_numpy(self.labels[index])
        return rows, labels.pin_memory() if pinned and labels is not None else labels

    def at(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of these rows of this part, as they are stored."""
        rows = np.take(self.rows, places if self.chosen is None else self.chosen[places], axis=0)
        self._give_back(len(rows) * max(FAULT_BYTES, rows[:1].nbytes))
        return rows

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The rows of this part, by their places in it, as an epoch takes them."""
        if (seed, epoch) not in self._orders:
            for old in list(self._orders)[:-1]:  # this epoch and the next are asked for in turn
                del self._orders[old]
            self._orders[seed, epoch] = permutation(len(self), seed, epoch)
        return self._orders[seed, epoch]

    def _index(self, number: int, size: int, seed: int) -> NDArray[np.int64]:
        epoch, place = divmod(number, len(self) // size)
        index = self.order(seed, epoch)[place * size : (place + 1) * size]
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


def unit(rows: Tensor) -> Tensor:
    """Rows as a generator makes them: images [B, C, H, W] in [-1, 1], or points."""
    return to_unit(rows) if rows.dtype == torch.uint8 else rows


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, C] → float32 [B, C, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(samples: Tensor) -> Tensor:
    """float [B, C, H, W] in [-1, 1] → uint8 [B, H, W, C], the inverse of `to_unit`."""
    return samples.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
