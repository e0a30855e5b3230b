"""The kernels of csrc/, run by the emulator, against the twins of wgan_cli/ops.py in float64.

Under a sanitizer's flavour (make test-kernels) a test also fails where the sanitizer has anything to say.
"""

from __future__ import annotations

import ctypes
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from emulator import build
from torch import Tensor
from torch.utils._pytree import tree_leaves

from wgan_cli import graph, ops
from wgan_cli.config import resolve
from wgan_cli.console import Console
from wgan_cli.data.dataset import Batch
from wgan_cli.state import new_state
from wgan_cli.step import critic_step, generator_step

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
adam_: Any = ops.adam_  # for lists that are unpacked
TSAN = build.flavour() == "tsan"  # some 30 times slower: fewer blocks there
SEEDS = [(0, 1), (1, 2), (2, 4)]  # of the threads' order; blocks in flight at once
TABLE = 96  # tensors in one launch, of up to three lists
TABLE_OF_FIVE = 72  # ... and of more
NAN, INF = math.nan, math.inf
SENTINEL = 77.0

Configure = Callable[[int, int], None]


@pytest.fixture(scope="module")
def emulator() -> Iterator[ctypes.CDLL]:
    loaded = build.load()
    ops.register(build.NAMESPACE, "cpu")
    yield loaded
    ops.unregister("cpu")
    for (what, dtype), worst in sorted(WORST.items(), key=str):
        print(f"{what} in {dtype}: at most {worst:.3g} spacings from float64")


@pytest.fixture(autouse=True)
def checked(emulator: ctypes.CDLL) -> Iterator[None]:
    """A fresh random state and order; afterwards no new report of a sanitizer, and every ticket back at 0."""
    torch.manual_seed(0)
    emulator.emulator_configure(0, 1)
    before = len(build.reports())
    yield
    new = build.reports()[before:]
    assert not new, new[:4000]
    assert all(ticket.item() == 0 for ticket in ops._TICKETS.values())


class Memory:
    """Tensors in one piece of memory, with guard elements between them that must stay as they are."""

    GUARD = 16  # elements

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, shift: int = 0) -> None:
        sizes = [math.prod(shape) for shape in shapes]
        step = 16  # elements: a multiple of 16 bytes in every type
        starts = []
        end = self.GUARD
        for size in sizes:
            starts.append(end + shift)
            end += (shift + size + self.GUARD + step - 1) // step * step
        storage = torch.full((end + step,), SENTINEL, dtype=dtype)
        first = -storage.data_ptr() % 16 // storage.element_size()
        self.storage = storage[first:]
        self.tensors = []
        self.guards = torch.ones(self.storage.shape, dtype=torch.bool)
        for shape, size, start in zip(shapes, sizes, starts, strict=True):
            self.tensors.append(self.storage[start : start + size].view(shape))
            self.guards[start : start + size] = False

    def fill(self, make: Callable[[Tensor], Any]) -> Memory:
        for tensor in self.tensors:
            tensor.copy_(make(tensor))
        return self

    def check(self) -> None:
        assert (self.storage[self.guards] == SENTINEL).all(), "written outside of the tensors"


def same(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def wide_copy(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64, copy=True)


def normal(tensor: Tensor) -> Tensor:
    return torch.randn(tensor.shape, dtype=torch.float64)


# Sizes around everything that a kernel counts in: elements, packs of 16 bytes, warps, blocks, chunks.
EDGES = [0, 1, 255, 256, 257, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 8193]
IMAGES = [3 * 64 * 64] + ([] if TSAN else [3 * 128 * 128])
ALL_SIZES = [*range(71), *EDGES, *IMAGES]
LISTS: dict[str, list[tuple[int, ...]]] = {
    "1 to 70": [(n,) for n in range(1, 71)],
    "edges": [(n,) for n in EDGES],
    "images": [(3, 64, 64), *([] if TSAN else [(3, 128, 128)])],
    "hundreds": [((n * 37) % 71,) if n % 40 else (4097 + n,) for n in range(301)],
    "a full table": [(3,)] * TABLE,
    "one more": [(3,)] * (TABLE + 1),
    "one less, and empty ones": [(3,), (0,)] * (TABLE - 1),
    "two tables, the second of one": [(5, 1)] * TABLE + [(4100,)],
    "empty": [(0,), (3, 0)],
    "scalar": [()],
}


def launches(shapes: Sequence[tuple[int, ...]]) -> int:
    return -(-sum(math.prod(shape) > 0 for shape in shapes) // TABLE)


# ---- clamp_


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("shift", [0, 1])
def test_clamp(emulator: ctypes.CDLL, name: str, dtype: torch.dtype, shift: int) -> None:
    """Exact: a comparison rounds nothing, and c in storage is c rounded once."""
    memory = Memory(LISTS[name], dtype, shift).fill(normal)
    expected = [wide_copy(tensor) for tensor in memory.tensors]
    ops.clamp_(expected, 0.3, impl="torch")
    before = emulator.emulator_launches()
    ops.clamp_(memory.tensors, 0.3, impl="cuda")
    assert emulator.emulator_launches() - before == launches(LISTS[name])
    for found, wanted in zip(memory.tensors, expected, strict=True):
        same(found, wanted.to(dtype))
    memory.check()


def special(dtype: torch.dtype, size: int) -> Tensor:
    """`size` elements of what breaks arithmetic, in turn."""
    info = torch.finfo(dtype)
    denormal = info.smallest_normal / 4
    values = [NAN, INF, -INF, 0.0, -0.0, denormal, -denormal, info.max, info.min, info.smallest_normal, 0.5, -0.5, 1.0]
    return torch.tensor(values, dtype=torch.float64).repeat(size // len(values) + 1)[:size].to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", [0.0, 1e-3, 0.5, INF])
def test_clamp_keeps_nan_and_denormals_and_bounds_infinities(dtype: torch.dtype, c: float) -> None:
    for size, shift in ((13, 0), (100, 1), (4200, 0)):
        memory = Memory([(size,)], dtype, shift)
        memory.tensors[0].copy_(special(dtype, size))
        expected = [memory.tensors[0].clone()]
        ops.clamp_(expected, c, impl="torch")
        ops.clamp_(memory.tensors, c, impl="cuda")
        same(memory.tensors[0], expected[0])
        assert memory.tensors[0].isnan().sum() == -(-size // 13)
        memory.check()


# ---- How far from float64


def spacing(size: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of neighbouring values of `dtype` at each size."""
    info = torch.finfo(dtype)
    return info.eps * 2.0 ** size.abs().double().clamp(min=info.smallest_normal).log2().floor()


# By how many spacings of the type that a kernel computes in (float32, or float64 for float64) a result may miss what
# the twin gives in float64, beyond the one rounding to the storage type: the first for what is computed in float32, the
# second where both compute in float64. Beside each the worst that was measured; `pytest -s` prints it.
WITHIN = {
    "parameter": (5.0, 4.0),  # 3.5, 2.0
    "mean of squares": (3.0, 2.0),  # 1.7, 1.0
    "mean": (2.0, 2.0),  # 1.3, 1.0
    "average": (4.0, 6.0),  # 2.9, 4.0
    "step of Adam": (5.5, 6.0),  # 3.9, 4.0
    "norm": (3.0, 8.0),  # 1.8, 5.0
    "penalty": (3.0, 3.0),  # 1.4, 1.5
    "gradient": (5.0, 7.0),  # 3.5, 4.5
}
WORST: dict[tuple[str, torch.dtype], float] = {}


def close(what: str, found: Tensor, reference: Tensor, size: Tensor) -> None:
    """`size` is the largest magnitude that went into each element's last sum: what cancels keeps its error."""
    if not found.numel():
        return
    wide = torch.float64 if found.dtype == torch.float64 else torch.float32
    missed = (found.double() - reference).abs() - (found.dtype != wide) * 0.5 * spacing(reference, found.dtype)
    worst = (missed / spacing(torch.maximum(size, reference.abs()), wide)).max().item()
    WORST[what, found.dtype] = max(worst, WORST.get((what, found.dtype), 0.0))
    limit = WITHIN[what][wide == torch.float64]
    assert worst <= limit, f"{what}: {worst} spacings from float64"  # and not NaN


# ---- rmsprop_clamp_


def rmsprop_lists(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, shift: int) -> list[Memory]:
    params = Memory(shapes, dtype, shift).fill(lambda t: 0.3 * normal(t))
    grads = Memory(shapes, dtype, shift).fill(normal)
    squares = Memory(shapes, dtype, shift).fill(lambda t: normal(t).square() + 0.01)
    return [params, grads, squares]


def tensors(memories: Sequence[Memory]) -> list[list[Tensor]]:
    return [memory.tensors for memory in memories]


def rmsprop(lists: Sequence[Sequence[Tensor]], lr: float | Tensor, eps: float, c: float, impl: ops.Impl) -> None:
    params, grads, square_avgs = lists
    ops.rmsprop_clamp_(params, grads, square_avgs, lr, 0.97, eps, c, impl=impl)


def check_rmsprop(memories: list[Memory], lr: float | Tensor, eps: float, c: float) -> None:
    before = [[wide_copy(tensor) for tensor in memory.tensors] for memory in memories]
    expected, unbounded = ([[tensor.clone() for tensor in tensors] for tensors in before] for _ in range(2))
    rate = lr.item() if isinstance(lr, Tensor) else lr
    rmsprop(expected, rate, eps, c, "torch")
    rmsprop(unbounded, rate, eps, INF, "torch")
    rmsprop(tensors(memories), lr, eps, c, "cuda")
    for i, found in enumerate(memories[0].tensors):
        step = (unbounded[0][i] - before[0][i]).abs()
        close("parameter", found, expected[0][i], torch.maximum(step, before[0][i].abs()))
        same(memories[1].tensors[i].double(), before[1][i])
        close("mean of squares", memories[2].tensors[i], expected[2][i], expected[2][i])
    for memory in memories:
        memory.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("shift", [0, 1])
def test_rmsprop(emulator: ctypes.CDLL, name: str, dtype: torch.dtype, shift: int) -> None:
    memories = rmsprop_lists(LISTS[name], dtype, shift)
    before = emulator.emulator_launches()
    check_rmsprop(memories, lr=0.05, eps=1e-3, c=0.4)
    assert emulator.emulator_launches() - before == launches(LISTS[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_rmsprop_with_a_rate_on_the_device_and_other_constants(dtype: torch.dtype, eps: float) -> None:
    for lr in (torch.tensor(0.125), torch.tensor([0.0]), 0.0, 1.0):
        check_rmsprop(rmsprop_lists([(33,), (2049,)], dtype, 0), lr, eps, c=2.0)


@pytest.mark.parametrize("odd", range(3))
def test_rmsprop_with_one_of_the_lists_misaligned(odd: int) -> None:
    shapes = [(70,), (4097,)]
    memories = [rmsprop_lists(shapes, torch.float32, int(i == odd))[i] for i in range(3)]
    check_rmsprop(memories, lr=0.05, eps=1e-3, c=0.4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rmsprop_keeps_nan_where_it_was(dtype: torch.dtype) -> None:
    """Against the twin in the same type; infinities make NaN in both, and only there."""
    for size, shift in ((39, 0), (2200, 1)):
        for place in range(3):
            memories = rmsprop_lists([(size,)], dtype, shift)
            target = memories[place].tensors[0]
            target.copy_(special(dtype, size))
            if place == 2:
                target.abs_()
            expected = [[wide_copy(memory.tensors[0])] for memory in memories]
            rmsprop(expected, 0.05, 1e-3, 0.4, "torch")
            rmsprop(tensors(memories), 0.05, 1e-3, 0.4, "cuda")
            for i in (0, 2):
                found, wanted = memories[i].tensors[0], expected[i][0].to(dtype)
                # The square of a large value is infinite in float32, though not in float64: then nothing moves.
                compared = torch.ones(size, dtype=torch.bool) if place != 1 else target.abs() < 1e6
                compared |= target.isnan()
                if dtype == torch.float64:
                    compared &= ~(target.abs() > 1e300) | target.isinf()
                torch.testing.assert_close(found[compared], wanted[compared], equal_nan=True)
                memories[i].check()


def test_rmsprop_in_denormals_agrees_with_torch_in_float32() -> None:
    shapes = [(70,), (2049,)]
    tiny = torch.finfo(torch.float32).smallest_normal
    memories = [Memory(shapes, torch.float32).fill(lambda t: normal(t) * tiny) for _ in range(2)]
    memories.append(Memory(shapes, torch.float32).fill(lambda t: normal(t).abs() * tiny / 8))
    expected = [[tensor.clone() for tensor in memory.tensors] for memory in memories]
    rmsprop(expected, 0.05, 1e-8, 0.4, "torch")
    rmsprop(tensors(memories), 0.05, 1e-8, 0.4, "cuda")
    for memory, wanted in zip(memories, expected, strict=True):
        for found, reference in zip(memory.tensors, wanted, strict=True):
            torch.testing.assert_close(found, reference, rtol=1e-6, atol=2.0**-149)


# ---- adam_


ADAM_LISTS = {name: LISTS[name] for name in ("1 to 70", "edges", "hundreds", "empty", "scalar")} | {
    "a full table": [(3,)] * TABLE_OF_FIVE,
    "one more": [(3,)] * (TABLE_OF_FIVE + 1),
    "one less, and empty ones": [(3,), (0,)] * (TABLE_OF_FIVE - 1),
}
ADAM: dict[str, Any] = {"lr": 0.05, "rest1": 0.3, "rest2": 0.01, "eps": 1e-3, "c": 0.4, "share": 0.1}
MOMENTS = ("parameter", "gradient", "mean", "mean of squares", "average")


def adam_lists(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, shift: int = 0) -> list[Memory]:
    averages = Memory(shapes, dtype, shift).fill(normal)
    params, grads, squares = rmsprop_lists(shapes, dtype, shift)
    return [params, grads, Memory(shapes, dtype, shift).fill(lambda t: 0.3 * normal(t)), squares, averages]


def adam(lists: Sequence[Sequence[Tensor]], step: float, settings: dict[str, Any], impl: ops.Impl) -> None:
    """Four lists: without averages."""
    given: Any = [*lists, []][:5]
    adam_(*given, torch.tensor(float(step)), **settings, impl=impl)


def check_adam(memories: list[Memory], step: float = 3, **given: Any) -> None:
    settings = ADAM | given
    before = [[wide_copy(tensor) for tensor in memory.tensors] for memory in memories]
    expected, unbounded = ([[tensor.clone() for tensor in tensors] for tensors in before] for _ in range(2))
    numbers = {name: x.item() if isinstance(x, Tensor) else x for name, x in settings.items()}
    # Torch's own step, which the twin takes for a number, is told β2: 1 - rest2, rounded.
    numbers["rest2"] = torch.tensor(numbers["rest2"], dtype=torch.float64)
    adam(expected, step, numbers, "torch")
    for lists in unbounded[1], unbounded[2]:  # how far a step goes where nothing cancels
        for tensor in lists:
            tensor.abs_()
    adam(unbounded, step, numbers | {"c": INF}, "torch")
    adam(tensors(memories), step, settings, "cuda")
    for i, param in enumerate(memories[0].tensors):
        old = [each[i].abs() for each in before]
        moved = torch.maximum((unbounded[0][i] - before[0][i]).abs(), old[0])
        close("step of Adam", param, expected[0][i], moved)
        same(memories[1].tensors[i].double(), before[1][i])
        close("mean", memories[2].tensors[i], expected[2][i], torch.maximum(old[2], old[1]))
        close("mean of squares", memories[3].tensors[i], expected[3][i], expected[3][i])
        if memories[4:]:
            close("average", memories[4].tensors[i], expected[4][i], torch.maximum(old[4], moved))
    for memory in memories:
        memory.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ADAM_LISTS)
@pytest.mark.parametrize("shift", [0, 1])
def test_adam(emulator: ctypes.CDLL, name: str, dtype: torch.dtype, shift: int) -> None:
    """With averages and without, in one launch."""
    shapes = ADAM_LISTS[name]
    wanted = -(-sum(math.prod(shape) > 0 for shape in shapes) // TABLE_OF_FIVE)
    for lists in (5, 4):
        memories = adam_lists(shapes, dtype, shift)[:lists]
        before = emulator.emulator_launches()
        check_adam(memories)
        assert emulator.emulator_launches() - before == wanted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", [1, 2, 70, 10**6])
@pytest.mark.parametrize(("rest1", "rest2"), [(1.0, 0.1), (0.5, 0.001), (0.1, 1e-5)])
def test_adam_corrects_its_means_at_any_step(dtype: torch.dtype, step: int, rest1: float, rest2: float) -> None:
    """As accurately with a β2 next to 1 as with another: of 1 - β2^step no digit is lost."""
    for lists in (4, 5):
        memories = adam_lists([(33,), (2049,)], dtype)[:lists]
        check_adam(memories, step, rest1=rest1, rest2=rest2, eps=1e-8, c=INF, lr=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.0, 1e-3, 0.5, 0.9, 1.0])
def test_adam_reads_settings_on_the_device(dtype: torch.dtype, share: float) -> None:
    for name, value in (("lr", 0.125), ("lr", 0.0), ("rest2", 0.01), ("rest2", 1.0), ("eps", 0.0), ("c", 0.0)):
        on_device = value if name in ("eps", "c") else torch.tensor(value)
        settings: list[Any] = [{name: on_device, "share": torch.tensor([share])}, {name: value, "share": share}]
        for given in settings:
            check_adam(adam_lists([(33,), (2049,)], dtype), **given)


def test_an_average_that_takes_all_is_the_weights() -> None:
    memories = adam_lists([(70,)], torch.float32)
    adam(tensors(memories), 1, ADAM | {"share": 1.0}, "cuda")
    same(memories[4].tensors[0], memories[0].tensors[0])
    assert memories[0].tensors[0].abs().max() == torch.tensor(0.4)


@pytest.mark.parametrize("odd", range(5))
def test_adam_with_one_of_the_lists_misaligned(odd: int) -> None:
    shapes = [(70,), (4097,)]
    check_adam([adam_lists(shapes, torch.float32, int(i == odd))[i] for i in range(5)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", range(5), ids=MOMENTS)
def test_adam_keeps_nan_where_it_was(dtype: torch.dtype, place: int) -> None:
    """Infinities make NaN in the kernel and in the twin, and only there."""
    for size, shift in ((39, 0), (2200, 1)):
        memories = adam_lists([(size,)], dtype, shift)
        target = memories[place].tensors[0]
        target.copy_(special(dtype, size))
        if place == 3:
            target.abs_()
        # What is finite and has an infinite square, in float32 alone or in both, is another test's.
        large = target.isfinite() & (target.double().abs() > 1e6)
        target[large] = 1.0
        expected = [[wide_copy(memory.tensors[0])] for memory in memories]
        adam(expected, 3, ADAM, "torch")
        adam(tensors(memories), 3, ADAM, "cuda")
        for memory, (wanted,) in zip(memories, expected, strict=True):
            torch.testing.assert_close(memory.tensors[0], wanted.to(dtype), equal_nan=True)
            memory.check()
        assert memories[4].tensors[0].isnan().any() and memories[4].tensors[0].isfinite().any()


@pytest.mark.skipif(build.flavour() != "plain", reason="of the step, not of the kernel")
def test_the_steps_of_a_run_take_the_kernel(emulator: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where steps can be recorded: one launch for each, and the weights, moments and averages of the twin."""
    for module in ("state", "graph"):
        monkeypatch.setattr(f"wgan_cli.{module}.RECORDERS", ("cpu",))
    given = {"variant": "clip", "arch": "dcgan", "critic_norm": "none", "optimizer": "adam", "lr_decay": "linear"}
    small = {"ema": 0.9, "width": 8, "batch": 4, "latent": 3, "steps": 20, "lr": 1e-3}
    config, _ = resolve({**given, **small}, {"size": 16, "channels": 1})
    ends, rng = [], torch.Generator().manual_seed(3)
    batches = [Batch(torch.rand(4, *config.shape, generator=rng) * 2 - 1, None) for _ in range(3)]
    for fused in ("0", "1"):
        monkeypatch.setenv("WGAN_FUSED", fused)
        state, before = new_state(config, torch.device("cpu")), emulator.emulator_launches()
        steps = graph.steps(state, Console(quiet=True), False, critic_step, generator_step)
        for batch in batches:
            for step in steps:
                step(state, batch)
        assert emulator.emulator_launches() - before == 6 * int(fused)
        assert state.ema is not None
        moments = [x.state_dict()["state"] for x in (state.optimizer_critic, state.optimizer_generator)]
        networks = [x.state_dict() for x in (state.critic, state.generator, state.ema)]
        ends.append(tree_leaves((moments, networks)))
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


# ---- gradient_penalty


def penalty_and_gradient(
    grads: Tensor, impl: ops.Impl, weight: float, target: float, one_sided: bool, upstream: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grads = grads.detach().requires_grad_()
    penalty, norms = ops.gradient_penalty(grads, weight, target, one_sided, impl=impl)
    ((3.0 * penalty) + (norms * upstream.to(norms.dtype)).sum()).backward()
    assert grads.grad is not None
    return penalty.detach(), norms.detach(), grads.grad


def check_penalty(grads: Tensor, weight: float = 10.0, target: float = 1.0, one_sided: bool = False) -> None:
    rows = grads.shape[0]
    upstream = torch.randn(rows, dtype=torch.float64)
    arguments = (weight, target, one_sided, upstream)
    found = penalty_and_gradient(grads, "cuda", *arguments)
    expected = penalty_and_gradient(grads.double(), "torch", *arguments)
    wide = torch.float64 if grads.dtype == torch.float64 else torch.float32
    assert found[0].dtype == found[1].dtype == wide and found[2].dtype == grads.dtype
    assert [tensor.shape for tensor in found] == [(), (rows,), grads.shape]
    norms = expected[1]
    close("norm", found[1], norms, norms)
    if rows == 0:
        assert found[0].isnan() and expected[0].isnan()
        return
    close("penalty", found[0], expected[0], weight * (norms + target).square().mean())
    # 3 · 2 · weight / rows · (norm - target) + upstream, times g / norm
    slope = 6 * weight / rows * (norms + target) + upstream.abs()
    direction = grads.double().flatten(1) / norms.view(-1, 1).clamp(min=1e-300)
    close("gradient", found[2].flatten(1), expected[2].flatten(1), slope.view(-1, 1) * direction.abs())


def rows_of(rows: int, columns: int, dtype: torch.dtype, shift: int = 0) -> Memory:
    """Rows whose norms lie on both sides of 1."""
    scale = torch.where(torch.arange(rows) % 2 == 0, 0.5, 2.0).double() / max(1, columns) ** 0.5
    return Memory([(rows, columns)], dtype, shift).fill(lambda tensor: normal(tensor) * scale.view(-1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1])
def test_penalty_of_every_small_row(dtype: torch.dtype, shift: int) -> None:
    for columns in range(1, 71):
        memory = rows_of(3, columns, dtype, shift)
        check_penalty(memory.tensors[0])
        memory.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("columns", EDGES[2:] + IMAGES)
def test_penalty_of_long_rows(dtype: torch.dtype, shift: int, columns: int) -> None:
    for rows in (1,) if TSAN else (1, 2):
        memory = rows_of(rows, columns, dtype, shift)
        check_penalty(memory.tensors[0])
        memory.check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(0, 7), (1, 1), (257, 1), (257, 33), (257, 1100), (70, 2049)])
def test_penalty_of_batches(dtype: torch.dtype, rows: int, columns: int) -> None:
    if TSAN and rows * columns > 10000:
        pytest.skip("slow under ThreadSanitizer")
    check_penalty(rows_of(rows, columns, dtype).tensors[0])


def test_penalty_of_a_row_without_elements() -> None:
    penalty, norms = ops.gradient_penalty(torch.empty(3, 0), 2.0, impl="cuda")
    assert penalty.item() == 2.0 and norms.tolist() == [0, 0, 0]


@pytest.mark.skipif(TSAN, reason="slow under ThreadSanitizer")
def test_penalty_of_more_chunks_than_partial_sums() -> None:
    """257 rows of 24 chunks in 4,096 partial sums: a block takes several chunks of its row."""
    check_penalty(rows_of(257, 3 * 128 * 128, torch.float32).tensors[0])


def test_penalty_of_more_rows_than_partial_sums() -> None:
    if TSAN:
        pytest.skip("slow under ThreadSanitizer")
    check_penalty(rows_of(4097, 2049, torch.float32).tensors[0])


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize(("weight", "target"), [(10.0, 1.0), (0.0, 1.0), (0.1, 0.0), (3.0, 1.5)])
def test_penalty_settings(weight: float, target: float, one_sided: bool) -> None:
    for dtype in DTYPES:
        check_penalty(rows_of(5, 70, dtype).tensors[0], weight, target, one_sided)


def test_penalty_of_images_in_either_memory_format() -> None:
    images = rows_of(4, 3 * 16 * 16, torch.float32).tensors[0].view(4, 3, 16, 16)
    check_penalty(images)
    check_penalty(images.contiguous(memory_format=torch.channels_last))
    check_penalty(images[:, :, ::2])  # neither: copied first


def test_forward_and_backward_are_one_launch_each(emulator: ctypes.CDLL) -> None:
    grads = rows_of(3, 5000, torch.float32).tensors[0].requires_grad_()
    before = emulator.emulator_launches()
    penalty, _ = ops.gradient_penalty(grads, 10.0, impl="cuda")
    assert emulator.emulator_launches() - before == 1
    penalty.backward()
    assert emulator.emulator_launches() - before == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_rows_have_gradient_zero(dtype: torch.dtype) -> None:
    for columns in (1, 33, 2049):
        grads = rows_of(4, columns, dtype).tensors[0]
        grads[1] = 0
        grads[3] = -0.0
        check_penalty(grads)
        gradient = penalty_and_gradient(grads, "cuda", 10.0, 1.0, False, torch.ones(4))[2]
        assert (gradient[1::2] == 0).all() and (gradient[::2] != 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("one_sided", [False, True])
def test_non_finite_values_stay_in_their_row(dtype: torch.dtype, value: float, one_sided: bool) -> None:
    for columns, place in ((1, 0), (33, 32), (70, 13), (2049, 2048), (4100, 1030)):
        grads = rows_of(3, columns, dtype).tensors[0]
        clean = penalty_and_gradient(grads, "cuda", 10.0, 1.0, one_sided, torch.ones(3))
        grads[1, place] = value
        found = penalty_and_gradient(grads, "cuda", 10.0, 1.0, one_sided, torch.ones(3))
        expected = penalty_and_gradient(grads.double(), "torch", 10.0, 1.0, one_sided, torch.ones(3))
        same(found[0].isnan(), expected[0].isnan())
        same(found[1].isnan(), expected[1].isnan())
        same(found[1].isinf(), expected[1].isinf())
        assert found[0].isnan() if math.isnan(value) else found[0].isinf()
        for row in (0, 2):
            same(found[1][row], clean[1][row])
            same(found[2][row], clean[2][row])
        assert found[2][1, place].isnan()


def test_denormals_do_not_vanish() -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    grads = torch.full((2, 70), tiny / 4, dtype=torch.float64)
    _, norms = ops.gradient_penalty(grads, 1.0, impl="cuda")
    torch.testing.assert_close(norms, torch.full((2,), tiny / 4 * 70**0.5, dtype=torch.float64), rtol=1e-14, atol=0)
    half = torch.full((2, 70), 2.0**-24, dtype=torch.float16)  # float16's smallest, and an ordinary number in float32
    _, norms = ops.gradient_penalty(half, 1.0, impl="cuda")
    torch.testing.assert_close(norms, torch.full((2,), 2.0**-24 * 70**0.5), rtol=1e-6, atol=0)


def test_gradcheck() -> None:
    grads = rows_of(3, 5, torch.float64).tensors[0].clone().requires_grad_()
    for one_sided in (False, True):
        assert torch.autograd.gradcheck(lambda g, o=one_sided: ops.gradient_penalty(g, 2.0, 1.0, o, impl="cuda"), grads)


# ---- Every order gives the same bits


def test_results_do_not_depend_on_the_order_of_threads_and_blocks(emulator: ctypes.CDLL) -> None:
    grads = rows_of(3, 5000, torch.float32).tensors[0]
    lists = rmsprop_lists([(70,), (4097,), (0,), (9,)], torch.float32, 0)
    moments = adam_lists([(70,), (4097,), (0,), (9,)], torch.float32)
    outcomes = []
    for seed, resident in [*SEEDS, *((seed, 3) for seed in range(3, 12))]:
        emulator.emulator_configure(seed, resident)
        outcome = list(penalty_and_gradient(grads, "cuda", 10.0, 1.0, False, torch.ones(3)))
        copies = [[tensor.clone() for tensor in memory.tensors] for memory in lists]
        rmsprop(copies, 0.05, 1e-3, 0.4, "cuda")
        outcome += copies[0] + copies[2]
        ops.clamp_(copies[1], 0.2, impl="cuda")
        outcome += copies[1]
        copies = [[tensor.clone() for tensor in memory.tensors] for memory in moments]
        adam(copies, 3, ADAM, "cuda")
        outcome += [tensor for tensors in copies for tensor in tensors]
        outcomes.append(outcome)
    for outcome in outcomes[1:]:
        for found, first in zip(outcome, outcomes[0], strict=True):
            same(found, first)


@pytest.mark.parametrize(("seed", "resident"), SEEDS)
def test_penalty_in_several_orders(emulator: ctypes.CDLL, seed: int, resident: int) -> None:
    emulator.emulator_configure(seed, resident)
    for dtype in DTYPES:
        for rows, columns in ((1, 1), (9, 70), (3, 4100)):
            check_penalty(rows_of(rows, columns, dtype).tensors[0])


# ---- What the binding refuses, and what autograd is told


def test_the_binding_names_argument_index_and_rule() -> None:
    library = getattr(torch.ops, build.NAMESPACE)
    ticket = torch.zeros(1, dtype=torch.int32)
    ones = [torch.ones(3), torch.ones(2, 2)]
    rates: list[Any] = [torch.ones(1), 0.1, 0.1, 0.1, 0.1, 1.0, 0.1]
    refused: list[tuple[Callable[[], Any], str]] = [
        (lambda: library.clamp_([ones[0], torch.ones(3, dtype=torch.int64)], 1.0), r"clamp_: params\[1\].*float32"),
        (lambda: library.clamp_([torch.ones(3), torch.ones(3).double()], 1.0), r"clamp_: params\[1\].*same dtype"),
        (lambda: library.clamp_([torch.ones(4, 4)[:, ::2]], 1.0), r"clamp_: params\[0\].*dense"),
        (lambda: library.clamp_(ones, NAN), r"clamp_: c must be a number >= 0, got nan"),
        (
            lambda: library.rmsprop_clamp_(ones, ones[:1], ones, 0.1, 0.9, 0.1, 1.0),
            r"rmsprop_clamp_: grads must .*1 and 2",
        ),
        (lambda: library.rmsprop_clamp_(ones, ones, ones[::-1], 0.1, 0.9, 0.1, 1.0), r"square_avgs\[0\].*same shape"),
        (
            lambda: library.rmsprop_clamp_(ones, ones, ones, 0.1, 0.9, 0.1, 1.0, torch.ones(2)),
            r"rmsprop_clamp_: lr_tensor must have 1 elements, got 2",
        ),
        (lambda: library.adam_(ones, ones, ones, ones, ones[:1], *rates), r"adam_: averages must .*1 and 2"),
        (lambda: library.adam_(ones, ones, ones[::-1], ones, [], *rates), r"adam_: exp_avgs\[0\].*same shape"),
        (lambda: library.adam_(ones, ones, ones, ones, ones[::-1], *rates), r"adam_: averages\[0\].*same shape"),
        (lambda: library.adam_(*[ones] * 5, torch.ones(2), *rates[1:]), r"adam_: step must have 1 elements, got 2"),
        (lambda: library.adam_(*[ones] * 5, rates[0].double(), *rates[1:]), r"adam_: step must be float32"),
        (lambda: library.adam_(*[ones] * 5, *rates[:-1], NAN), r"adam_: share must be a number >= 0, got nan"),
        (lambda: library.gradient_penalty(torch.ones(3), ticket, 1.0, 1.0, False), r"gradient_penalty: grads.*batch"),
        (lambda: library.gradient_penalty(ones[1], torch.zeros(1), 1.0, 1.0, False), r"ticket must be one int32"),
    ]
    for call, message in refused:
        with pytest.raises(RuntimeError, match=message):
            call()


def test_autograd_sees_what_a_kernel_wrote() -> None:
    for write in (
        lambda params: ops.clamp_(params, 0.5, impl="cuda"),
        lambda params: ops.rmsprop_clamp_(params, [torch.ones(3)], [torch.ones(3)], 0.1, 0.9, 0.1, 1.0, impl="cuda"),
        lambda params: adam([params, *([torch.ones(3)] for _ in range(4))], 1, ADAM, "cuda"),
        lambda averages: adam([*([torch.ones(3)] for _ in range(4)), averages], 1, ADAM, "cuda"),
    ):
        param = torch.full((3,), 2.0, requires_grad=True)
        result = (param * param).sum()
        write([param])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward()


@pytest.mark.skipif(build.flavour() != "plain", reason="of the binding, not of the kernels")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch 2.15's own
def test_opcheck() -> None:
    library = getattr(torch.ops, build.NAMESPACE)
    ones = [torch.ones(3), torch.ones(2, 2)]
    ticket = torch.zeros(1, dtype=torch.int32)
    grads = torch.randn(3, 7)
    torch.library.opcheck(library.clamp_.default, (ones, 0.5))
    lists = [[one.clone() for one in ones] for _ in range(3)]
    torch.library.opcheck(library.rmsprop_clamp_.default, (*lists, 0.1, 0.9, 0.1, 1.0))
    lists = [[one.clone() for one in ones] for _ in range(5)]
    for averages in (lists[4], []):
        numbers = (torch.ones(1), 0.1, 0.1, 0.1, 0.1, 1.0, 0.1, torch.ones(1))
        torch.library.opcheck(library.adam_.default, (*lists[:4], averages, *numbers))
    torch.library.opcheck(library.gradient_penalty.default, (grads.clone().requires_grad_(), ticket, 10.0, 1.0, False))
    torch.library.opcheck(
        library.gradient_penalty_backward.default, (grads, grads.norm(dim=1), torch.ones(()), None, 10.0, 1.0, False)
    )
