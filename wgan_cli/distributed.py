"""Training as one of several processes that torchrun has started: each takes its share of every batch.

What is here does nothing, and costs nothing, in a process by itself. DistributedDataParallel is not used: its own
documentation rules out torch.autograd.grad, which a gradient penalty takes.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import DivergedError, StoppedError, UsageError, WganError, reason
from .watchdog import LostError, Watchdog, meet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MEETING = 300.0  # seconds in which the processes have to find each other


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is, by what torchrun has put into the environment."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on its machine
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and talks."""
        return self.rank == 0

    @property
    def first(self) -> int:
        """The rank of the first process of its machine."""
        return self.rank - self.local_rank


def place() -> Place:
    """A process by itself where nothing says otherwise. WganError for what makes no sense."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    said = [os.environ.get(name) for name in names]
    if None in said:
        return Place()
    try:
        here = Place(*(int(word or "") for word in said))
    except ValueError:
        here = Place(-1)
    if not 0 <= here.local_rank <= here.rank < here.size or here.local_rank >= here.local_size:
        told = " ".join(f"{name}={word}" for name, word in zip(names, said, strict=True))
        raise WganError(f"{told}: these make no process of several; start them by torchrun, or unset them")
    return here


@dataclass
class _Group:
    place: Place
    store: Any
    watchdog: Watchdog
    batch: int = 0  # samples, of which each process takes its share


_group: _Group | None = None  # that this process is in, as torch.distributed has one


@contextmanager
def joined(device: torch.device, hang_limit: float) -> Iterator[None]:
    """In this block the processes that torchrun has started work as one; alone, it is as any other block.

    However one of them ends, all end, with the same exit code, and the reason is told once. WganError where they do
    not find each other, or where one is lost.
    """
    here = place()
    if here.size == 1:
        yield
        return
    import torch.distributed as dist

    # Optimizers import this. If a group is there by then, functions in it keep it as a default argument: it outlives
    # its end, and gloo's threads the interpreter, which then aborts now and then.
    import torch.distributed.fsdp  # noqa: F401
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    global _group
    try:
        shared, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=MEETING)))
        store = PrefixStore(meet(shared, here.rank, here.size, MEETING), shared)
        watchdog = Watchdog(PrefixStore("watch", store), here.rank, here.size, hang_limit)
        watchdog.start()
        # No time limit on what is waited for: one process may write to a slow disk, and the watchdog finds what hangs.
        with watchdog.working(), _talk_on_stderr():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore("group", store),
                rank=here.rank,
                world_size=here.size,
                timeout=timedelta(days=100),
                device_id=device if device.type == "cuda" else None,
            )
    except RuntimeError as error:
        raise WganError(f"the {here.size} processes did not find each other: {reason(error)}") from None
    _group = _Group(here, PrefixStore("said", store), watchdog)
    together = False
    try:
        agree(0)
        yield
        together = True
    except WganError as error:
        # What ends the steps comes to all processes at the same one; while images are read, each stops by itself.
        together = isinstance(error, (StoppedError, DivergedError)) and _group.batch > 0
        if watchdog.ends(error.exit_code, told=here.leads or not together):
            if not here.leads and not isinstance(error, LostError):
                error.args = (f"{watchdog.name(here.rank)}: {error}", *error.args[1:])
            raise
        raise SystemExit(error.exit_code) from None
    except SystemExit as end:
        watchdog.ends(end.code if isinstance(end.code, int) else 1, told=False)
        raise
    except BaseException:
        watchdog.ends(1, told=True)
        raise
    finally:
        _group = None
        watchdog.stop()
        if together:  # else it would wait for those that are lost
            dist.destroy_process_group()


@contextmanager
def _talk_on_stderr() -> Iterator[None]:
    """Some versions of gloo print to standard output whom they are connected to."""
    sys.stdout.flush()
    product = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(product, 1)
        os.close(product)


@contextmanager
def alone() -> Iterator[None]:
    """In this block the process is by itself: it has whole batches, and nobody waits for it but at the block's end."""
    global _group
    kept, _group = _group, None
    try:
        yield
    finally:
        _group = kept


def divide(batch: int) -> None:
    """Batches of so many samples are shared from here on. UsageError where there is not one for each process."""
    if _group is None:
        return
    if batch < _group.place.size:
        raise UsageError(f"--batch {batch}: fewer than the {_group.place.size} processes that are to share it")
    _group.batch = batch


def share() -> slice:
    """The rows of a batch that are this process's."""
    if _group is None:
        return slice(None)
    rank, size, rows = _group.place.rank, _group.place.size, _group.batch
    return slice(rows * rank // size, rows * (rank + 1) // size)


def weights() -> list[float]:
    """How much of a batch each process has: the factor of its mean in the mean over all."""
    if _group is None:
        return [1.0]
    batch, size = _group.batch, _group.place.size
    return [(batch * (rank + 1) // size - batch * rank // size) / batch for rank in range(size)]


def weight() -> float:
    """That of this process."""
    return 1.0 if _group is None else weights()[_group.place.rank]


def in_all() -> bool:
    """Whether there are others."""
    return _group is not None


def whole(rows: int) -> int:
    """The rows of the batch of which this process has so many."""
    return rows if _group is None else _group.batch


def drawn(draw: Callable[..., Tensor], rows: int, *shape: int) -> Tensor:
    """Random numbers [rows, *shape] by draw([rows, *shape]): those of the whole batch, and of these the share.

    All processes draw the same, so that their generators stay alike.
    """
    return draw((rows, *shape)) if _group is None else draw((_group.batch, *shape))[share()]


# ---- What all do together


def add_up(tensors: Sequence[Tensor]) -> None:
    """Each tensor becomes its sum over the processes: one exchange of one flat buffer."""
    if _group is None or not tensors:
        return
    import torch

    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    _exchange(_group, flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gathered(tensor: Tensor) -> Tensor:
    """[processes, ...]: the tensor of each."""
    rank, size = (_group.place.rank, _group.place.size) if _group else (0, 1)
    every = tensor.new_zeros(size, *tensor.shape)
    every[rank] = tensor
    add_up([every])
    return every


def agree(*wishes: float) -> list[float]:
    """The highest that any process has of each number: a wish of one is a wish of all. Waits for every process."""
    if _group is None:
        return list(wishes)
    import torch
    from torch.distributed import ReduceOp

    numbers = torch.tensor(wishes, dtype=torch.float64)
    _exchange(_group, numbers, ReduceOp.MAX)
    return numbers.tolist()


def deviation(samples: Tensor) -> Tensor:
    """Of all numbers of a batch [B, ...] of which this process has its share, biased."""
    if _group is None:
        return samples.std(correction=0)
    mean = weight() * samples.mean()
    add_up([mean])
    variance = weight() * (samples - mean).square().mean()
    add_up([variance])
    return variance.sqrt()


def from_leader(path: Path) -> bytes:
    """The content of the first process's file, which another machine may not see."""
    import torch
    import torch.distributed as dist

    assert _group is not None
    content = path.read_bytes() if place().leads else b""
    (size,) = agree(len(content))
    buffer = torch.zeros(int(size), dtype=torch.uint8)
    if content:
        buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    with _group.watchdog.telling():
        dist.broadcast(buffer, 0)
    return buffer.numpy().tobytes()


def check_alike(what: str, parts: Mapping[str, Any]) -> None:
    """WganError, in all processes, for the first tensor or text that is not the same, bit for bit, in each of them."""
    if _group is None:
        return
    import torch
    import torch.distributed as dist

    mine = torch.tensor([_digest(part) for part in parts.values()], dtype=torch.int64)
    found = [torch.zeros_like(mine) for _ in range(_group.place.size)]
    with _group.watchdog.telling():
        dist.all_gather(found, mine)
    table = torch.stack(found)  # [process, part]
    for rank in range(_group.place.size):
        if differing := (table[rank] != table[0]).nonzero().flatten().tolist():
            names = list(parts)
            more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise WganError(
                f"{what}: {names[differing[0]]}{more} of {_group.watchdog.name(rank)} is not that of "
                f"{_group.watchdog.name(0)}; the last checkpoint is whole. Machines of one kind, with the same "
                "versions of everything, compute alike"
            )


def _digest(part: Any) -> int:
    content = part.encode() if isinstance(part, str) else part.detach().cpu().contiguous().view(-1).numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _exchange(group: _Group, tensor: Tensor, operation: Any = None) -> None:
    import torch.distributed as dist

    with group.watchdog.telling():
        dist.all_reduce(tensor, operation or dist.ReduceOp.SUM)


@contextmanager
def working() -> Iterator[None]:
    """What is in this block is to end within the hang limit, the waiting for others left out."""
    if _group is None:
        yield
        return
    with _group.watchdog.working():
        yield


@contextmanager
def first_on_machine(what: str, say: Callable[[str], None] | None) -> Iterator[None]:
    """The first process of each machine goes through the block, and then the others do."""
    if machine().local_rank:
        wait_for(f"{what} {machine().first}", say)
    yield
    if not machine().local_rank:
        tell(f"{what} {machine().first}")


def machine() -> Place:
    """Which of the processes of its machine that work together this one is."""
    return _group.place if _group else Place()


def tell(what: str) -> None:
    """Others may go on that wait for this."""
    if _group is not None:
        _group.store.set(what, "done")


def wait_for(what: str, say: Callable[[str], None] | None = None) -> None:
    """Until some process tells it. If that takes long, the second process of a machine says so."""
    if _group is None:
        return
    here = _group.place
    others = f"{here.local_size - 1} processes wait" if here.local_size > 2 else "a process waits"
    waiting = f"{others} for process {here.first}, which is at the images"
    _group.watchdog.wait_for(_group.store, what, partial(say, waiting) if say and here.local_rank == 1 else None)
