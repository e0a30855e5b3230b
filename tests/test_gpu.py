"""The kernels against their twins on a GPU: `pytest -m gpu`. Everything that an emulator cannot show stands here too:
streams, capture, several devices, more than 2³¹ elements, and that nothing waits for the device.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from wgan_cli import ops

if not torch.cuda.is_available():
    WHY_NOT = "no CUDA device"
elif "cuda" not in ops._LIBRARIES:
    WHY_NOT = f"the kernels are not there: {ops.kernels_state()}"
else:
    WHY_NOT = ""
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

DEVICE = "cuda"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
adam_: Any = ops.adam_  # for lists that are unpacked
SIZES = [*range(70), 4095, 4096, 4097, 3 * 64 * 64, 3 * 128 * 128 + 1]  # more tensors than one table holds
SETTINGS = {"alpha": 0.99, "eps": 1e-8, "c": 0.3}

# Of float32 against float64, and half a unit in the last place of what is stored, of values near 1.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def _tensors(dtype: torch.dtype) -> list[Tensor]:
    """One of each size twice: aligned to 16 bytes, and one element off."""
    aligned = [torch.randn(size, device=DEVICE, dtype=dtype) for size in SIZES]
    return aligned + [torch.randn(size + 1, device=DEVICE, dtype=dtype)[1:] for size in SIZES]


def _copies(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    """Copies as far off a multiple of 16 bytes as the originals."""
    copies = []
    for tensor in tensors:
        copy = torch.empty(tensor.numel() + tensor.storage_offset(), device=tensor.device, dtype=dtype or tensor.dtype)
        copies.append(copy[tensor.storage_offset() :].copy_(tensor))
    return copies


@pytest.mark.parametrize("dtype", DTYPES)
def test_clamp_is_its_twin_bit_for_bit(dtype: torch.dtype) -> None:
    params = _tensors(dtype)
    params[50][7], params[60][8], params[61][9] = float("nan"), float("inf"), float("-inf")
    ours, theirs = _copies(params), _copies(params)
    ops.clamp_(ours, 0.3, impl="cuda")
    ops.clamp_(theirs, 0.3, impl="torch")
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rmsprop_is_its_twin_in_float64(dtype: torch.dtype) -> None:
    params, grads, squares = _tensors(dtype), _tensors(dtype), [tensor.square() for tensor in _tensors(dtype)]
    ours, ours_squares = _copies(params), _copies(squares)
    ops.rmsprop_clamp_(ours, grads, ours_squares, 0.01, **SETTINGS, impl="cuda")
    theirs, theirs_squares = _copies(params, torch.float64), _copies(squares, torch.float64)
    ops.rmsprop_clamp_(theirs, [g.double() for g in grads], theirs_squares, 0.01, **SETTINGS, impl="torch")
    for ours_, theirs_ in zip(ours + ours_squares, theirs + theirs_squares, strict=True):
        torch.testing.assert_close(ours_.double(), theirs_, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("step", [1, 1000])
def test_adam_is_its_twin_in_float64(dtype: torch.dtype, averaged: bool, step: int) -> None:
    params, grads, means, averages = (_tensors(dtype) for _ in range(4))
    squares = [tensor.square() + 0.1 for tensor in _tensors(dtype)]
    lists = [params, grads, means, squares, averages if averaged else []]
    number = torch.tensor(float(step), device=DEVICE)
    # Of steps short enough for float16: a mean's correction makes them long.
    numbers = (0.001, 0.1, torch.tensor(0.001, device=DEVICE), 1e-8, 0.3, torch.tensor(0.1, device=DEVICE))
    ours: Any = [_copies(x) for x in lists]
    theirs: Any = [_copies(x, torch.float64) for x in lists]
    adam_(*ours, number, *numbers, impl="cuda")
    wide: Any = (x.double() if isinstance(x, Tensor) else x for x in numbers)
    adam_(*theirs, number.double(), *wide, impl="torch")
    for ours_, theirs_ in zip(sum(ours, []), sum(theirs, []), strict=True):
        # What is on the device is float32, for float64 too.
        tolerance = max(TOLERANCE[dtype], 1e-12)
        torch.testing.assert_close(ours_.double(), theirs_, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (257, 3), (64, 3, 64, 64), (5, 3, 128, 128), (7, 4099), (0, 5), (3, 0)])
def test_the_penalty_and_its_gradient_are_their_twin_in_float64(
    shape: tuple[int, ...], one_sided: bool, dtype: torch.dtype
) -> None:
    grads = torch.randn(shape, device=DEVICE, dtype=dtype) / max(1, _columns(shape)) ** 0.5
    if len(grads) > 1:
        grads[1] = 0
    results = []
    for leaf, impl in ((grads.clone(), "cuda"), (grads.double(), "torch")):
        leaf.requires_grad_()
        penalty, norms = ops.gradient_penalty(leaf, 10.0, 0.9, one_sided, impl=impl)  # type: ignore[arg-type]
        (penalty + norms.square().sum()).backward()
        assert leaf.grad is not None
        results.append((penalty.double(), norms.double(), leaf.grad.double()))
    for ours, theirs in zip(*results, strict=True):
        tolerance = 1e-5 if dtype != torch.float64 else 1e-12
        stored = TOLERANCE[dtype] if ours.dim() > 1 else 0
        torch.testing.assert_close(ours, theirs, rtol=tolerance + stored, atol=tolerance, equal_nan=True)


def _columns(shape: tuple[int, ...]) -> int:
    """Elements of one sample."""
    return torch.Size(shape[1:]).numel()


def test_the_penalty_is_the_same_to_the_bit_each_time() -> None:
    grads = torch.randn(64, 3, 64, 64, device=DEVICE)
    first = ops.gradient_penalty(grads, 10.0, impl="cuda")
    for _ in range(20):
        again = ops.gradient_penalty(grads, 10.0, impl="cuda")
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_the_gradient_agrees_with_finite_differences_and_can_be_differentiated_again() -> None:
    grads = torch.randn(3, 7, device=DEVICE, dtype=torch.float64, requires_grad=True)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return ops.gradient_penalty(x, 10.0, impl="cuda")

    assert torch.autograd.gradcheck(both, grads) and torch.autograd.gradgradcheck(both, grads)


def test_samples_in_channels_last_order_need_no_copy() -> None:
    grads = torch.randn(4, 3, 8, 8, device=DEVICE).to(memory_format=torch.channels_last).requires_grad_()
    penalty, norms = ops.gradient_penalty(grads, 10.0, impl="cuda")
    torch.testing.assert_close(norms, grads.detach().flatten(1).norm(dim=1))
    penalty.backward()
    assert grads.grad is not None and grads.grad.stride() == grads.stride()


def test_the_operators_pass_torchs_own_check() -> None:
    library = torch.ops.wgan
    grads = torch.randn(3, 5, device=DEVICE, requires_grad=True)
    torch.library.opcheck(library.gradient_penalty, (grads, ops._ticket(grads.device), 10.0, 1.0, False))
    lists = [[torch.rand(5, device=DEVICE), torch.rand(4, 3, device=DEVICE)] for _ in range(3)]
    torch.library.opcheck(library.clamp_, (lists[0], 0.1))
    torch.library.opcheck(library.rmsprop_clamp_, (*lists, 0.1, 0.9, 1e-8, 0.1))
    more = [[torch.rand_like(tensor) for tensor in lists[0]] for _ in range(2)]
    numbers = (torch.ones(1, device=DEVICE), 0.1, 0.1, 0.1, 1e-8, 0.1, 0.1)
    torch.library.opcheck(library.adam_, (*lists, *more, *numbers))


def test_a_saved_parameter_that_was_written_makes_backward_raise() -> None:
    param = torch.randn(3, device=DEVICE, requires_grad=True)
    result = (param * param).sum()
    ops.clamp_([param], 0.1, impl="cuda")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_nothing_waits_for_the_device() -> None:
    params, grads = [torch.randn(5000, device=DEVICE)], torch.randn(8, 100, device=DEVICE, requires_grad=True)
    rate = torch.tensor(0.1, device=DEVICE)
    ops.gradient_penalty(grads, 1.0, impl="cuda")  # makes the ticket
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.clamp_(params, 0.1, impl="cuda")
        ops.rmsprop_clamp_(params, params, [torch.ones_like(params[0])], rate, **SETTINGS, impl="cuda")
        lists: Any = [[torch.ones_like(params[0])] for _ in range(5)]
        for impl in ("cuda", "torch"):
            adam_(*lists, rate, rate, 0.1, rate, 1e-8, 0.1, rate, impl=impl)
        ops.gradient_penalty(grads, 1.0, impl="cuda")[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_step_can_be_replayed_with_another_learning_rate() -> None:
    param, grad, square = (torch.rand(5000, device=DEVICE) for _ in range(3))
    samples = torch.randn(8, 300, device=DEVICE, requires_grad=True)
    rate = torch.tensor(0.0, device=DEVICE)

    def step() -> tuple[Tensor, Tensor]:
        ops.rmsprop_clamp_([param], [grad], [square], rate, 0.99, 1e-8, 10.0, impl="cuda")
        penalty, _ = ops.gradient_penalty(samples, 10.0, impl="cuda")
        return penalty, torch.autograd.grad(penalty, samples)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        penalty, gradient = step()
    for lr in (0.1, 0.2):
        rate.fill_(lr)
        samples.data.normal_()
        expected, expected_square = param.clone(), square.clone()
        ops.rmsprop_clamp_([expected], [grad], [expected_square], lr, 0.99, 1e-8, 10.0, impl="torch")
        graph.replay()
        torch.testing.assert_close(param, expected)
        twin, _ = ops.gradient_penalty(samples, 10.0, impl="torch")
        torch.testing.assert_close(penalty, twin)
        torch.testing.assert_close(gradient, torch.autograd.grad(twin, samples)[0])
    # and what was captured has left the eager calls' ticket alone
    torch.testing.assert_close(ops.gradient_penalty(samples, 10.0, impl="cuda")[0], twin)


def test_a_captured_step_of_adam_reads_its_number_and_its_settings_anew() -> None:
    lists = [[torch.rand(5000, device=DEVICE)] for _ in range(5)]
    number, lr, rest2, share = (torch.ones((), device=DEVICE) for _ in range(4))

    def step(given: Any, impl: ops.Impl) -> None:
        adam_(*given, number, lr, 0.1, rest2, 1e-8, 0.9, share, impl=impl)

    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(lists, "cuda")
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        step(lists, "cuda")
    for turned in ((2.0, 0.1, 0.01, 0.5), (3.0, 0.02, 0.001, 0.1)):
        for dial, value in zip((number, lr, rest2, share), turned, strict=True):
            dial.fill_(value)
        expected = [_copies(each) for each in lists]
        step(expected, "torch")
        graph.replay()
        for ours, theirs in zip(sum(lists, []), sum(expected, []), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_streams_at_work_at_the_same_time_do_not_share_a_ticket() -> None:
    grads = torch.randn(64, 3, 64, 64, device=DEVICE)
    expected = ops.gradient_penalty(grads, 10.0, impl="cuda")[0]
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    results = []
    for _ in range(50):
        for stream in streams:
            with torch.cuda.stream(stream):
                results.append(ops.gradient_penalty(grads, 10.0, impl="cuda")[0])
    torch.cuda.synchronize()
    assert all(torch.equal(result, expected) for result in results)


def _results(op: str, params: Tensor, grads: Tensor, impl: ops.Impl) -> list[Tensor]:
    """What an op makes of params [N] and of a batch of gradients [B, N]; params are changed in place."""
    if op == "clamp_":
        ops.clamp_([params], 0.3, impl=impl)
        return [params]
    if op == "rmsprop_clamp_":
        squares = torch.full_like(params, 0.5)
        ops.rmsprop_clamp_([params], [grads[0]], [squares], 0.1, **SETTINGS, impl=impl)
        return [params, squares]
    if op == "adam_":
        lists: Any = [[params], [grads[0]], *([torch.full_like(params, 0.5)] for _ in range(3))]
        number = torch.full_like(params[0], 3.0)
        adam_(*lists, number, 0.1, 0.5, 0.1, 1e-8, 0.3, 0.1, impl=impl)
        return [params, *lists[2], *lists[3], *lists[4]]
    penalty, norms = ops.gradient_penalty(grads, 10.0, one_sided=op.endswith("one_sided"), impl=impl)
    return [penalty, norms, *torch.autograd.grad(penalty, grads)]


OPS = ["clamp_", "rmsprop_clamp_", "adam_", "gradient_penalty", "gradient_penalty, one_sided"]


@pytest.mark.parametrize("op", OPS)
def test_each_op_alone_is_captured_and_replayed_on_other_numbers(op: str) -> None:
    params, grads = torch.randn(5000, device=DEVICE), torch.randn(8, 5000, device=DEVICE, requires_grad=True)
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        _results(op, params, grads, "cuda")
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        found = _results(op, params, grads, "cuda")
    for _ in range(3):
        params.normal_()
        grads.data.normal_().div_(70)
        expected = _results(op, params.clone(), grads.detach().clone().requires_grad_(), "torch")
        graph.replay()
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_where_its_twin_has_it(op: str, odd: float) -> None:
    results = []
    for impl in ("cuda", "torch"):
        torch.manual_seed(1)
        params, grads = torch.randn(5000, device=DEVICE), torch.randn(8, 5000, device=DEVICE)
        params[[0, 7, 4999]] = odd
        grads[0, 3] = grads[5, 4999] = odd
        results.append(_results(op, params, grads.requires_grad_(), impl))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("op", OPS)
def test_tensors_of_another_device_than_the_current_one(op: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    params, grads = torch.randn(5000, device="cuda:1"), torch.randn(8, 5000, device="cuda:1", requires_grad=True)
    with torch.cuda.device(0):
        expected = _results(op, params.clone(), grads, "torch")
        for ours, theirs in zip(_results(op, params, grads, "cuda"), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        with pytest.raises(RuntimeError, match=r"clamp_: params\[1\] must be on cuda:1"):
            ops.clamp_([params, torch.ones(1, device="cuda:0")], 1.0, impl="cuda")


def _needs(count: int) -> None:
    """So many bytes of the device."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < count:
        pytest.skip("too little memory on the device")


def test_indices_beyond_32_bits() -> None:
    count = 2**31 + 4100
    _needs(4 * 2 * count)
    param = torch.full((count,), 2.0, device=DEVICE, dtype=torch.float16)
    ops.clamp_([param], 1.0, impl="cuda")
    assert param.max().item() == 1.0
    grad, square = torch.ones_like(param), torch.ones_like(param)
    ops.rmsprop_clamp_([param], [grad], [square], 0.5, 0.99, 1e-8, 1.0, impl="cuda")
    assert param.min().item() == param.max().item() == 0.5
    number = torch.ones(1, device=DEVICE)  # from means of 0.9 · g and of g²: a step of lr · 0.9 / 0.9 / 1
    _needs(2 * count)
    mean = torch.full_like(param, 0.9)
    ops.adam_([param], [grad], [mean], [square], [], number, 0.25, 0.9, 1.0, 0.0, impl="cuda")
    torch.testing.assert_close(param.min().item(), param.max().item(), rtol=0, atol=0)
    assert param[-1].item() == pytest.approx(0.5 - 0.25 * 0.99 / 0.9, abs=1e-3)


@pytest.mark.parametrize("shape", [(2, 2**30 + 4100), (2**21 + 3, 1024)])  # long rows, and many
def test_a_penalty_of_more_elements_than_32_bits_count(shape: tuple[int, int]) -> None:
    _needs(5 * 2 * shape[0] * shape[1])
    grads = torch.full(shape, 2.0**-10, device=DEVICE, dtype=torch.float16, requires_grad=True)
    penalty, norms = ops.gradient_penalty(grads, 10.0, 0.0, impl="cuda")
    expected = 2.0**-10 * shape[1] ** 0.5
    torch.testing.assert_close(norms, torch.full_like(norms, expected), rtol=1e-4, atol=0)
    torch.testing.assert_close(penalty.item(), 10 * expected**2, rtol=1e-3, atol=0)
    (gradient,) = torch.autograd.grad(norms.sum(), grads)
    slope = gradient[-1, -1].item()
    assert slope > 0 and gradient.min().item() == gradient.max().item() == slope


@pytest.mark.parametrize("op", ["clamp_", "rmsprop_clamp_", "adam_", "gradient_penalty"])
def test_a_launch_that_the_device_refuses_is_an_error_that_names_the_op(op: str) -> None:
    """In a process of its own, whose device has failed an assertion and takes no more kernels."""
    calls = {
        "clamp_": "ops.clamp_([x], 0.1, impl='cuda')",
        "rmsprop_clamp_": "ops.rmsprop_clamp_([x], [x], [x], 0.1, 0.9, 1e-8, 0.1, impl='cuda')",
        "adam_": "ops.adam_([x], [x], [x], [x], [], x[:1], 0.1, 0.1, 0.1, 1e-8, impl='cuda')",
        "gradient_penalty": "ops.gradient_penalty(x[None], 10.0, impl='cuda')",
    }
    script = f"""
import torch
from wgan_cli import ops
x = torch.ones(5000, device="cuda")
ops.gradient_penalty(x[None], 10.0, impl="cuda")  # makes the ticket
try:
    x[torch.tensor([10**6], device="cuda")].sum().item()
except RuntimeError:
    print("the device has failed")
try:
    {calls[op]}
except RuntimeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the device has failed" in done.stdout and f"{op}: the kernel was not launched: " in done.stdout, done


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([torch.zeros(3), torch.zeros(3, dtype=torch.int32)], r"params\[1\] must be float32, float64"),
        ([torch.zeros(3), torch.zeros(6)[::2]], r"params\[1\] must be dense"),
        ([torch.zeros(3), torch.zeros(3, dtype=torch.float64)], r"params\[1\] must have the same dtype as params\[0\]"),
    ],
)
def test_a_list_that_the_kernel_cannot_take_is_refused_by_index_and_rule(tensors: list[Tensor], message: str) -> None:
    on_device = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=DEVICE) for t in tensors]
    with pytest.raises(RuntimeError, match=f"clamp_: {message}"):
        ops.clamp_(on_device, 1.0, impl="cuda")
