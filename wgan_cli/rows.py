"""Sets of samples that need not fit into memory: rows that are read or made a slice at a time."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data.cache import cache_folder

IN_MEMORY = 16 << 20  # bytes of a set that are not put into a file


class Rows(Protocol):
    """A tensor [N, ...], or anything else that has a length and gives a tensor [n, ...] for a slice."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class Lazy:
    """Rows of which `make(start, stop)` gives those that are asked for."""

    count: int
    make: Callable[[int, int], Tensor]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice, /) -> Tensor:
        start, stop, _ = part.indices(self.count)
        return self.make(start, max(start, stop))


def chunks(rows: Rows, size: int) -> Iterator[Tensor]:
    """The rows in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def mapped(rows: Rows, function: Callable[[Tensor], Tensor]) -> Lazy:
    """Rows [N, ...] that `function` makes of slices of others."""
    return Lazy(len(rows), lambda start, stop: function(rows[start:stop]))


def kept(parts: Iterable[NDArray[Any]]) -> Lazy:
    """The rows of all parts [n, ...] in turn, which are gone through once, as they come.

    What is more than some megabytes lies in a file without a name in the cache folder, or where other temporary files
    lie if there is no such folder; the file goes when the rows do. OSError where the disk is full.
    """
    folder = str(cache_folder())
    file = SpooledTemporaryFile(max_size=IN_MEMORY, dir=folder if os.path.isdir(folder) else None)
    count = 0
    try:
        for part in parts:
            file.write(np.ascontiguousarray(part).tobytes())
            count += len(part)
        file.seek(0)
    except OSError as error:
        file.close()
        raise OSError(error.errno, f"{error.strerror}; it keeps samples there while it runs", folder) from None
    shape, dtype, row = part.shape[1:], part.dtype, part[0].nbytes

    def read(start: int, stop: int) -> Tensor:
        file.seek(start * row)
        return torch.from_numpy(np.frombuffer(bytearray(file.read((stop - start) * row)), dtype).reshape(-1, *shape))

    rows = Lazy(count, read)
    weakref.finalize(rows, file.close)
    return rows
