"""Batches on their way to a GPU: gathered and copied while it computes, or drawn from rows that lie in its memory.

Every way gives the batches of `Dataset.batch`, bit for bit, whatever number is asked for: where a run stands in the
data is the number of its next batch, and nothing here is of the run.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .dataset import Batch, Dataset, unit

CHUNK = 64 << 20  # bytes of rows that go to the device at once


class Feed:
    """The batches of a part, taken in turn by number. On a CPU each is made when it is taken."""

    def __init__(self, part: Dataset, size: int, seed: int, device: torch.device, share: slice = slice(None)) -> None:
        self.part, self.size, self.seed, self.device, self.share = part, size, seed, device, share

    def take(self, number: int) -> Batch:
        return self.part.batch(number, self.size, self.seed, self.device, self.share)

    def ahead(self, number: int) -> None:
        """Make ready what the batch of that number needs; the place for it is after the step before is launched."""


class Ahead(Feed):
    """One batch ahead, through pinned memory, on a stream of its own. Neither this process nor the device waits.

    The pinned memory and that on the device are torch's to give away again, once the copy and the step that used them
    are done on the device: torch notes the copy itself, and `record_stream` tells the step.
    """

    def __init__(self, part: Dataset, size: int, seed: int, device: torch.device, share: slice = slice(None)) -> None:
        super().__init__(part, size, seed, device, share)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._sent: tuple[int, list[Tensor], torch.cuda.Event | None] = (-1, [], None)

    def take(self, number: int) -> Batch:
        if self._sent[0] != number:
            self.ahead(number)
        _, parts, copied = self._sent
        self._sent = (-1, [], None)
        if copied is not None:
            step = torch.cuda.current_stream(self.device)
            step.wait_event(copied)
            for part in parts:
                part.record_stream(step)
        return Batch(unit(parts[0]), *parts[1:])

    def ahead(self, number: int) -> None:
        rows, labels = self.part.stored(number, self.size, self.seed, self.share, pinned=self.stream is not None)
        parts = [rows] if labels is None else [rows, labels]
        with torch.cuda.stream(self.stream):  # of None, none
            sent = [part.to(self.device, non_blocking=True) for part in parts]
        self._sent = number, sent, self.stream.record_event() if self.stream else None


class Resident(Feed):
    """All rows of the part lie on the device as they are stored; of an epoch, its order goes there."""

    def __init__(self, part: Dataset, size: int, seed: int, device: torch.device, share: slice = slice(None)) -> None:
        super().__init__(part, size, seed, device, share)
        rows = torch.from_numpy(part.at(part.order(seed, 0)[:1]))
        self.rows = torch.empty(len(part), *rows.shape[1:], dtype=rows.dtype, device=device)
        each = max(1, CHUNK // rows.nbytes)
        for first in range(0, len(part), each):
            last = min(first + each, len(part))
            self.rows[first:last] = torch.from_numpy(part.at(np.arange(first, last)))
        labels = part.labels if part.labels is None or part.chosen is None else part.labels[part.chosen]
        self.labels = None if labels is None else torch.from_numpy(labels).to(device)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def take(self, number: int) -> Batch:
        self.ahead(number)
        first = number % (len(self.part) // self.size) * self.size
        index = self._order[1][first : first + self.size][self.share]
        labels = None if self.labels is None else self.labels.index_select(0, index)
        return Batch(unit(self.rows.index_select(0, index)), labels)

    def ahead(self, number: int) -> None:
        epoch = number // (len(self.part) // self.size)
        if self._order[0] != epoch:
            order = torch.from_numpy(self.part.order(self.seed, epoch))
            if self.device.type == "cuda":
                order = order.pin_memory()
            self._order = epoch, order.to(self.device, non_blocking=True)


def feed(
    part: Dataset, size: int, seed: int, device: torch.device, share: slice = slice(None), memory: float = 0.0
) -> Feed:
    """The way for this device: `memory` is the share of its free memory that rows may lie in."""
    if device.type != "cuda":
        return Feed(part, size, seed, device, share)
    free, _ = torch.cuda.mem_get_info(device)
    return (Resident if needed(part) <= memory * free else Ahead)(part, size, seed, device, share)


def needed(part: Dataset) -> int:
    """Bytes that all rows of the part take on a device, with an order of them and their classes."""
    return len(part) * (part.rows[:1].nbytes + 8 * (1 if part.labels is None else 2))
