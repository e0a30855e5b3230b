"""The ops where the answer is known, then the twins against torch's own forms, then the choice between twin and kernel.

The kernels themselves are held against the twins elsewhere: on a CPU in tests/emulator, on a GPU in test_gpu.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from wgan_cli import UsageError, WganError, ops

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
adam_: Any = ops.adam_  # for lists that are unpacked
NAN, INF = math.nan, math.inf


# ---- clamp_


@pytest.mark.parametrize("dtype", DTYPES)
def test_clamp_takes_every_tensor_of_the_list_into_the_bounds_and_keeps_nan(dtype: torch.dtype) -> None:
    params = [torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0]).to(dtype), torch.tensor([[NAN, INF], [-INF, 0.25]]).to(dtype)]
    ops.clamp_(params, 0.5)
    assert params[0].tolist() == [-0.5, -0.5, 0.0, 0.5, 0.5]
    assert params[1][0, 0].isnan() and params[1].flatten()[1:].tolist() == [0.5, -0.5, 0.25]


def test_clamp_by_zero_leaves_zeros_and_by_infinity_everything() -> None:
    for bound, expected in ((0.0, [0.0, 0.0]), (INF, [-3.0, 7.0])):
        param = torch.tensor([-3.0, 7.0])
        ops.clamp_([param], bound)
        assert param.tolist() == expected


def test_clamp_takes_lists_and_tensors_that_are_empty() -> None:
    ops.clamp_([], 1.0)
    ops.clamp_([torch.empty(0), torch.empty(3, 0)], 1.0)


@pytest.mark.parametrize("bound", [None, -0.1, NAN, -INF])
def test_a_bound_that_is_no_bound_is_refused_by_name_and_value(bound: Any) -> None:
    with pytest.raises(ValueError, match=rf"clamp_: c must be a number >= 0, got {bound}"):
        ops.clamp_([torch.ones(1)], bound)


# ---- rmsprop_clamp_


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_first_step_of_rmsprop_has_the_same_length_everywhere(dtype: torch.dtype) -> None:
    """From a mean of squares of 0, lr · g / √((1 - α) g²) is lr / √(1 - α) in the direction of g: here 2 · 0.25."""
    param, grad = torch.zeros(3, dtype=dtype), torch.tensor([4.0, -0.5, 16.0]).to(dtype)
    square_avg = torch.zeros(3, dtype=dtype)
    ops.rmsprop_clamp_([param], [grad], [square_avg], lr=0.25, alpha=0.75, eps=0.0, c=1.0)
    assert param.tolist() == [-0.5, 0.5, -0.5]
    assert square_avg.tolist() == [4.0, 0.0625, 64.0]
    assert grad.tolist() == [4.0, -0.5, 16.0]


def test_the_step_of_rmsprop_ends_at_the_bound_and_eps_stands_outside_of_the_root() -> None:
    param, grad, square_avg = torch.tensor([1.0, 0.0]), torch.tensor([-9.0, 2.0]), torch.tensor([0.0, 0.0])
    ops.rmsprop_clamp_([param], [grad], [square_avg], lr=1.0, alpha=0.0, eps=2.0, c=1.0)
    assert param.tolist() == [1.0, -0.5]  # 1 + 9 / 11, clamped; 0 - 2 / (2 + 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rmsprop_agrees_bit_for_bit_with_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    shapes = [(3,), (4, 5), (0,), (), (2, 3, 4, 4)]
    theirs = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    ours = [param.detach().clone() for param in theirs]
    square_avgs = [torch.zeros_like(param) for param in ours]
    optimizer = torch.optim.RMSprop(theirs, lr=0.01, alpha=0.9, eps=1e-6, foreach=True)
    for _ in range(5):
        for param in theirs:
            param.grad = torch.randn_like(param)
        optimizer.step()
        ops.rmsprop_clamp_(ours, [p.grad for p in theirs if p.grad is not None], square_avgs, 0.01, 0.9, 1e-6, 0.5)
        with torch.no_grad():
            for param, mine in zip(theirs, ours, strict=True):
                assert torch.equal(param.clamp_(-0.5, 0.5), mine)


def test_the_learning_rate_may_be_a_tensor() -> None:
    params, grad = [torch.zeros(5), torch.zeros(5)], torch.arange(5.0)
    rates: list[float | Tensor] = [0.1, torch.tensor(0.1)]
    for param, lr in zip(params, rates, strict=True):
        ops.rmsprop_clamp_([param], [grad], [torch.zeros(5)], lr, alpha=0.99, eps=1e-8, c=10.0)
    torch.testing.assert_close(params[0], params[1])


@pytest.mark.parametrize("name", ["lr", "alpha", "eps", "c"])
def test_numbers_of_rmsprop_that_make_no_sense_are_refused_by_name(name: str) -> None:
    numbers: dict[str, Any] = {"lr": 0.1, "alpha": 0.9, "eps": 1e-8, "c": 1.0} | {name: NAN}
    with pytest.raises(ValueError, match=f"rmsprop_clamp_: {name} must be a number >= 0, got nan"):
        ops.rmsprop_clamp_([torch.ones(1)], [torch.ones(1)], [torch.ones(1)], **numbers)


def test_lists_of_different_lengths_are_refused() -> None:
    one = [torch.ones(1)]
    with pytest.raises(ValueError, match="one length, got 1, 0 and 1"):
        ops.rmsprop_clamp_(one, [], one, 0.1, 0.9, 1e-8, 1.0)


# ---- adam_


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tensors", [False, True])
def test_a_step_of_adam_by_hand(dtype: torch.dtype, tensors: bool) -> None:
    """The second step: m = 2/2 + 4/2 = 3 and v = 3/4 · 4 + 4²/4 = 7, over 1 - 1/4 and 1 - 9/16: 4 and 16.

    4 / (√16 + 4) is 1/2, so that 1 becomes 1/2, and -3/2 becomes -2, which ends at the bound -1. A quarter of the way,
    the averages go from 3/2 to 5/4 and from 3 to 2.
    """
    param, grad = torch.tensor([1.0, -1.5]).to(dtype), torch.tensor([4.0, 4.0]).to(dtype)
    mean, square, average = (torch.tensor(x).to(dtype) for x in ([2.0, 2.0], [4.0, 4.0], [1.5, 3.0]))
    dial: Any = torch.tensor if tensors else float
    step = torch.tensor(2.0)
    lists: Any = [[x] for x in (param, grad, mean, square, average)]
    adam_(*lists, step, dial(1.0), 0.5, dial(0.25), 4.0, 1.0, dial(0.25))
    assert (mean.tolist(), square.tolist(), grad.tolist(), step.item()) == ([3.0, 3.0], [7.0, 7.0], [4.0, 4.0], 2.0)
    assert param.tolist() == pytest.approx([0.5, -1.0], rel=1e-6)
    assert average.tolist() == pytest.approx([1.25, 2.0], rel=1e-6)


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.9)])
def test_adam_agrees_with_torch_in_float64(betas: tuple[float, float], tensors: bool) -> None:
    """With the clamp and the average after torch's step, over five steps."""
    torch.manual_seed(0)
    shapes = [(3,), (4, 5), (0,), (), (2, 3, 4, 4)]
    theirs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    ours = [param.detach().clone() for param in theirs]
    means, squares = ([torch.zeros_like(param) for param in ours] for _ in range(2))
    averages, wanted = ([param.clone() for param in ours] for _ in range(2))
    dial: Any = (lambda x: torch.tensor(x, dtype=torch.float64)) if tensors else float
    optimizer = torch.optim.Adam(theirs, 0.01, betas, eps=1e-6, foreach=True)
    for step in range(1, 6):
        for param in theirs:
            param.grad = torch.randn_like(param)
        grads = [p.grad for p in theirs if p.grad is not None]
        optimizer.step()
        settings = (dial(0.01), 1 - betas[0], dial(1 - betas[1]), 1e-6, 0.5, dial(0.1))
        ops.adam_(ours, grads, means, squares, averages, torch.tensor(float(step)), *settings)
        with torch.no_grad():
            for param, mine, average, mean in zip(theirs, ours, wanted, averages, strict=True):
                torch.testing.assert_close(param.clamp_(-0.5, 0.5), mine, rtol=1e-11, atol=1e-13)
                torch.testing.assert_close(average.lerp_(param, 0.1), mean, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("odd", [NAN, INF])
@pytest.mark.parametrize("tensors", [False, True])
def test_adam_keeps_nan_and_makes_it_of_an_infinite_gradient(odd: float, tensors: bool) -> None:
    param, grad, average = torch.ones(2), torch.tensor([odd, 1.0]), torch.ones(2)
    rest2 = torch.tensor(0.1) if tensors else 0.1
    lists: Any = [[param], [grad], [torch.zeros(2)], [torch.zeros(2)], [average]]
    adam_(*lists, torch.tensor(1.0), 0.1, 0.5, rest2, 1e-8, 0.5, 0.5)
    assert param.isnan().tolist() == average.isnan().tolist() == [True, False]


@pytest.mark.parametrize("name", ["lr", "rest1", "rest2", "eps", "c", "share"])
def test_numbers_of_adam_that_make_no_sense_are_refused_by_name(name: str) -> None:
    numbers: dict[str, Any] = {"lr": 0.1, "rest1": 0.9, "rest2": 0.1, "eps": 1e-8, "c": 1.0, "share": 0.1} | {name: NAN}
    with pytest.raises(ValueError, match=f"adam_: {name} must be a number >= 0, got nan"):
        one: Any = [[torch.ones(1)]]
        adam_(*one * 5, torch.ones(1), **numbers)


def test_lists_of_adam_of_different_lengths_are_refused() -> None:
    one = [torch.ones(1)]
    with pytest.raises(ValueError, match=r"one length, averages may be empty, got \[1, 1, 1, 1, 2\]"):
        ops.adam_(one, one, one, one, one * 2, torch.ones(1), 0.1, 0.1, 0.1, 1e-8)
    ops.adam_([], [], [], [], [], torch.ones(1), 0.1, 0.1, 0.1, 1e-8)


# ---- gradient_penalty (its value and its gradient through a critic: test_penalty.py)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_penalty_are_kept_in_at_least_float32(dtype: torch.dtype) -> None:
    """Rows of norm 5, 0 and 13 and target 1: 6 · (16 + 1 + 144) / 3."""
    grads = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[-5.0, 12.0]]]).to(dtype).requires_grad_()
    penalty, norms = ops.gradient_penalty(grads, 6.0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (penalty.dtype, norms.dtype, penalty.shape) == (wide, wide, ())
    assert norms.tolist() == [5.0, 0.0, 13.0]  # of squares and a root that are whole numbers
    assert penalty.item() == pytest.approx(322.0, rel=4 * 2.0**-24)  # a third is rounded, and what follows from it
    penalty.backward()
    # 2 · 6 / 3 · (norm - 1) · g / norm, and 0 in the row of zeros
    expected = torch.tensor([[[9.6, 12.8]], [[0.0, 0.0]], [[-240 / 13, 576 / 13]]])
    assert grads.grad is not None and grads.grad.dtype == dtype
    torch.testing.assert_close(grads.grad, expected.to(dtype))


def test_one_sided_leaves_rows_below_the_target_alone() -> None:
    grads = torch.tensor([[0.6, 0.8], [3.0, 4.0]], requires_grad=True)  # norms 1 and 5
    penalty, _ = ops.gradient_penalty(grads, weight=1.0, target=2.0, one_sided=True)
    assert penalty.item() == 4.5
    penalty.backward()
    torch.testing.assert_close(grads.grad, torch.tensor([[0.0, 0.0], [1.8, 2.4]]))


def test_the_gradient_of_the_norms_is_the_direction() -> None:
    grads = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    ops.gradient_penalty(grads, 1.0)[1].sum().backward()
    torch.testing.assert_close(grads.grad, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_nan_is_kept_to_its_row_of_norms_and_reaches_the_penalty() -> None:
    penalty, norms = ops.gradient_penalty(torch.tensor([[NAN, 1.0], [3.0, 4.0]]), 1.0, one_sided=True)
    assert norms[0].isnan() and norms[1] == 5 and penalty.isnan()


def test_the_mean_over_no_samples_is_nan() -> None:
    penalty, norms = ops.gradient_penalty(torch.empty(0, 3), 1.0)
    assert penalty.isnan() and norms.shape == (0,)


# ---- Autograd sees what was written


def _saved() -> tuple[list[Tensor], list[Tensor]]:
    """Parameters, and results whose gradient needs them as they are."""
    params = [torch.full((3,), 2.0, requires_grad=True) for _ in range(2)]
    return params, [(param * param).sum() for param in params]


def _clamp(params: list[Tensor]) -> None:
    ops.clamp_(params, 0.5)


def _step(params: list[Tensor]) -> None:
    ops.rmsprop_clamp_(params, [torch.ones(3)] * 2, [torch.zeros(3), torch.zeros(3)], 0.1, 0.99, 1e-8, 0.5)


def _adam(params: list[Tensor]) -> None:
    lists: Any = [params] + [[torch.ones(3)] * 2 for _ in range(4)]
    adam_(*lists, torch.ones(1), 0.1, 0.1, 0.1, 1e-8, 0.5)


class Unseen:
    """Stands for kernels: writes behind autograd's back, as those do."""

    @staticmethod
    def clamp_(params: list[Tensor], c: float) -> None:
        for param in params:
            param.data.clamp_(-c, c)

    @staticmethod
    def rmsprop_clamp_(params: list[Tensor], *rest: Any) -> None:
        Unseen.clamp_(params, rest[5])

    @staticmethod
    def adam_(params: list[Tensor], *rest: Any) -> None:
        Unseen.clamp_(params, rest[9])


@pytest.mark.parametrize("write", [_clamp, _step, _adam])
@pytest.mark.parametrize("kernel", [False, True])
def test_a_saved_parameter_that_was_written_makes_backward_raise(
    write: Callable[[list[Tensor]], None], kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_LIBRARIES", {"cpu": Unseen} if kernel else {})
    params, results = _saved()
    write(params)
    assert all((param <= 0.5).all() for param in params)
    for result in results:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            result.backward()


# ---- Twin or kernel


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_LIBRARIES", {})
    monkeypatch.setattr(ops, "_why_none", "not built: no reason at all")
    monkeypatch.setattr(ops, "_noticed", False)


def test_cpu_tensors_take_the_twin_without_a_word(no_kernels: None) -> None:
    ops.clamp_([torch.ones(1)], 1.0)  # a warning would be an error


def test_cuda_tensors_without_kernels_take_the_twin_with_one_notice(no_kernels: None) -> None:
    tensor: Any = SimpleNamespace(device=torch.device("cuda"), is_cuda=True)
    with pytest.warns(UserWarning, match="plain torch ops instead of the CUDA kernels: none, not built: no reason"):
        assert ops._library(tensor, "auto") is None
    assert ops._library(tensor, "auto") is None  # and no second time
    assert ops._library(tensor, "torch") is None


def test_asking_for_a_kernel_that_is_not_there_says_why(no_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "no kernel for tensors on cpu; the CUDA kernels: none, not built: no reason at all"
    with pytest.raises(WganError, match=reason):
        ops.gradient_penalty(torch.ones(2, 2), 1.0, impl="cuda")
    monkeypatch.setenv("WGAN_FUSED", "1")
    with pytest.raises(WganError, match=reason):
        ops.clamp_([torch.ones(1)], 1.0)


def test_wgan_fused_turns_auto_but_not_an_explicit_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_LIBRARIES", {"cpu": Unseen})
    tensor = torch.ones(1)
    assert ops._library(tensor, "auto") is Unseen
    monkeypatch.setenv("WGAN_FUSED", "0")
    assert ops._library(tensor, "auto") is None
    assert ops._library(tensor, "cuda") is Unseen
    monkeypatch.setenv("WGAN_FUSED", "yes")
    with pytest.raises(UsageError, match="WGAN_FUSED is 'yes': must be auto, 0 or 1"):
        ops._library(tensor, "auto")
    with pytest.raises(ValueError, match="impl is 'numpy'"):
        ops._library(tensor, "numpy")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ImportError, OSError])
def test_an_extension_that_cannot_be_loaded_is_a_reason_and_no_error(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        raise error("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr("importlib.import_module", fails)
    assert "cannot be loaded: libcudart.so.13" in (ops._load() or "")


def test_the_state_of_the_kernels_is_one_line() -> None:
    state = ops.kernels_state()
    assert state.startswith(("loaded, ", "none, ")) and "\n" not in state
    note = Path(ops.__file__).with_name("_build.json")
    if note.exists():  # left by setup.py
        assert json.loads(note.read_text())["kernels"] in state
