"""The extension linked against a real CUDA torch, as far as that shows without a GPU: `make test-cuda-build`.

Skipped where the installed package has no kernels. What they compute is shown in tests/emulator and test_gpu.py.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wgan_cli import ops

pytestmark = pytest.mark.skipif("cuda" not in ops._LIBRARIES, reason=f"the kernels: {ops.kernels_state()}")

FOLDER = Path(ops.__file__).parent


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_it_is_one_file_for_every_python() -> None:
    assert [path.name for path in FOLDER.glob("_C*")] == ["_C.abi3.so"]


def test_info_names_the_kernels_and_what_they_were_built_for() -> None:
    lines = _run(str(Path(sys.executable).with_name("wgan")), "info").splitlines()
    (line,) = (line for line in lines if line.startswith("kernels "))
    assert "loaded, built for compute capability" in line and f"torch {torch.__version__}" in line


def test_it_asks_the_cuda_runtime_for_launches_and_nothing_else() -> None:
    """The names with two underscores are nvcc's own: registering kernels, and its launch stubs."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm")
    undefined = {
        line.split()[-1].split("@")[0] for line in _run(nm, "-D", "-u", str(FOLDER / "_C.abi3.so")).splitlines()
    }
    calls = {name for name in undefined if name.startswith("cuda")}
    assert calls == {"cudaLaunchKernel", "cudaGetLastError", "cudaGetErrorString"}


def test_nothing_of_torch_is_used_that_is_not_in_its_stable_abi() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm")
    undefined = [line.split()[-1] for line in _run(nm, "-D", "-u", str(FOLDER / "_C.abi3.so")).splitlines()]
    assert not [name for name in undefined if name.startswith(("_ZN2at", "_ZN3c10", "_ZN5torch", "_ZNK3c10"))]


def test_cpu_tensors_take_the_twin() -> None:
    param, expected = torch.tensor([-2.0, 0.1, 2.0]), torch.tensor([-1.0, 0.1, 1.0])
    ops.clamp_([param], 1.0)
    assert torch.equal(param, expected)
    penalty, norms = ops.gradient_penalty(torch.tensor([[3.0, 4.0]]), 1.0)
    assert (penalty.item(), norms.tolist()) == (16.0, [5.0])
    with pytest.raises(NotImplementedError, match=r"wgan::clamp_.*CPU"):
        torch.ops.wgan.clamp_([param], 1.0)


def _grads(dtype: torch.dtype) -> Tensor:
    return torch.empty(4, 3, 8, 8, device="meta", dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_fake_kernels_have_the_twins_shapes_and_types(dtype: torch.dtype) -> None:
    ticket = torch.zeros(1, dtype=torch.int32, device="meta")
    penalty, norms = torch.ops.wgan.gradient_penalty(_grads(dtype), ticket, 10.0, 1.0, False)
    for ours, theirs in zip((penalty, norms), ops.gradient_penalty(_grads(dtype), 10.0), strict=True):
        assert (ours.shape, ours.dtype, ours.requires_grad) == (theirs.shape, theirs.dtype, theirs.requires_grad)


def test_a_backward_pass_runs_on_the_meta_device() -> None:
    grads, ticket = _grads(torch.bfloat16), torch.zeros(1, dtype=torch.int32, device="meta")
    penalty, _ = torch.ops.wgan.gradient_penalty(grads, ticket, 10.0, 1.0, False)
    (gradient,) = torch.autograd.grad(penalty, grads)
    assert (gradient.shape, gradient.dtype) == (grads.shape, grads.dtype)


def test_torchs_own_check_of_what_can_be_checked_without_a_gpu() -> None:
    checks = ("test_autograd_registration", "test_faketensor")
    ticket = torch.zeros(1, dtype=torch.int32, device="meta")
    torch.library.opcheck(
        torch.ops.wgan.gradient_penalty, (_grads(torch.float32), ticket, 10.0, 1.0, False), test_utils=checks
    )
    lists = [[torch.empty(5, device="meta"), torch.empty(2, 3, device="meta")] for _ in range(3)]
    torch.library.opcheck(torch.ops.wgan.clamp_, (lists[0], 0.1), test_utils=checks)
    torch.library.opcheck(torch.ops.wgan.rmsprop_clamp_, (*lists, 0.1, 0.9, 1e-8, 0.1), test_utils=checks)
    numbers = (torch.empty(1, device="meta"), 0.1, 0.1, 0.1, 1e-8, 0.1, 0.1)
    torch.library.opcheck(torch.ops.wgan.adam_, (*lists, lists[0], [], *numbers), test_utils=checks)
