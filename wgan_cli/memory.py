"""How much memory a step takes: counted on a CPU with a few samples, from which it follows for any batch."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import WganError, distributed
from .config import TrainConfig
from .data.dataset import Batch
from .state import new_state
from .step import critic_step, generator_step

FEW, SOME = 2, 4  # samples, the fewest that batch norm takes and twice as many
SPARE = 0.9  # of what is free: the rest is for what only a device knows, as the scratch memory of its convolutions


class Held(TorchDispatchMode):
    """Bytes of all tensors that are alive, after each operation under it; those from before do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.course = 0, list[int]()
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._count(tensor.untyped_storage())
        self.course.append(self.now)
        return out

    def _count(self, memory: torch.UntypedStorage) -> None:
        mark, size = id(memory), memory.nbytes()
        if mark in self._alive:
            return

        def freed(_: Any) -> None:
            self.now -= size
            del self._alive[mark]

        self._alive[mark] = weakref.ref(memory, freed)
        self.now += size


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, (tuple, list)) else []


def of_step(config: TrainConfig) -> Callable[..., int]:
    """(batch, --micro-batch: that of config) -> bytes at the fullest moment of a step: weights, gradients, moments,
    averages and what lies between.

    The same operations follow each other whatever the batch is, and what is held after each of them grows evenly with
    it. With --micro-batch an upper bound: the critic's step of a part; what the generator's holds of the other samples,
    since both steps make samples of the whole batch; and gradients of its slices, each as large as the batch. Left out:
    what the libraries under torch take for themselves.
    """
    courses: list[list[list[int]]] = []  # of each size, of each step
    given, config = config.micro_batch, replace(config, micro_batch=None)
    with distributed.alone(), Held() as held:
        state = new_state(config, torch.device("cpu"))
        for size in (FEW, FEW, SOME):  # the first makes the moments
            samples = torch.zeros(size, *config.shape)
            if config.size:
                samples = samples.contiguous(memory_format=torch.channels_last)  # as `unit` makes them
            batch = Batch(samples, torch.zeros(size, dtype=torch.int64) if config.classes else None)
            courses.append([])
            for step in (critic_step, generator_step):
                held.course.clear()
                step(state, batch)
                courses[-1].append([*held.course])

    def most(size: int, few: list[int], some: list[int]) -> int:
        return max(a + (b - a) * (size - FEW) // (SOME - FEW) for a, b in zip(few, some, strict=True))

    critic, generator = zip(*courses[1:], strict=True)

    def held_at_most(size: int, part: int | None = given) -> int:
        if part is None or part >= size:
            return max(most(size, *critic), most(size, *generator))
        others = most(size, *generator) - most(part, *generator)
        return max(most(part, *critic), most(part, *generator)) + others + 2 * 4 * size * math.prod(config.shape)

    return held_at_most


def in_bytes(count: float) -> str:
    """`1234567890` → `1.2 GB`, `12345678` → `12 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f} {unit}"
    return f"{max(1, round(count / 1000))} kB"


@contextmanager
def enough(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """WganError with a batch that would fit, where the block runs out of the device's memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise WganError(_too_little(config, device, room(device), distributed.place().size)) from error


def room(device: torch.device) -> int:
    """Bytes of a GPU that are free or this process's already."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


def _too_little(config: TrainConfig, device: torch.device, there: int, processes: int) -> str:
    bytes_of = of_step(config)

    def needed(batch: int) -> int:
        return bytes_of(-(-batch // processes))

    fitting = config.batch // 2  # the whole of it did not fit, whatever the count says
    while fitting and needed(fitting) > SPARE * there:
        fitting //= 2
    told = (
        f"out of memory on {device}: a step of --batch {config.batch} takes about {in_bytes(needed(config.batch))}, "
        f"and {in_bytes(there)} are there"
    )
    if fitting < processes:
        return f"{told}; no --batch fits, so take a lower --width or --size"
    share = -(-config.batch // processes)  # of a process, which takes its parts of that
    part = 0 if config.critic_norm == "batch" else min(share, config.micro_batch or share) // 2
    while part and bytes_of(share, part) > SPARE * there:
        part //= 2
    parts = f", or --micro-batch {part} for the same steps in parts" if part else ""
    return f"{told}; try --batch {fitting}{parts}"
