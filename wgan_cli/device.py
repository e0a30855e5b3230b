"""The device that is computed on: which, in what arithmetic, and with what memory."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from . import UsageError


def pick_device(name: str, number: int | None = None) -> torch.device:
    """`auto` is the GPU where there is one, of several that of this number. UsageError for one that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device cuda: torch {torch.__version__} finds no GPU; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if number is None:
        return torch.device("cuda")
    if number >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: process {number} of this machine has no GPU of {torch.cuda.device_count()}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def native_precision(device: torch.device) -> str:
    """`bf16` where the device multiplies bfloat16 natively, else `fp32`."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    # get_capabilities is newer than the oldest torch that is taken.
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"


@contextmanager
def arithmetic(device: torch.device, precision: str, exact: bool = True) -> Iterator[None]:
    """How a GPU computes in this block, and as before after it. A CPU has nothing to choose.

    `tf32` rounds the factors of products and convolutions of float32 to 10 bits, all others do not; torch by itself
    rounds those of convolutions. exact: the algorithms of cuDNN follow from the shapes and give the same bits each
    time, so that a run that goes on ends as one that never stopped; else cuDNN times them and takes the fastest, which
    is another one at times.
    """
    if device.type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    rounding = "tf32" if precision == "tf32" else "ieee"
    chosen: list[tuple[Any, str, Any]] = [
        (torch.backends.cuda.matmul, "fp32_precision", rounding),
        (cudnn.conv, "fp32_precision", rounding),
        (cudnn, "deterministic", exact),
        (cudnn, "benchmark", not exact),
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in chosen]
    try:
        for place, name, value in chosen:
            setattr(place, name, value)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def keep_freed_memory() -> None:
    """Have the C library keep what tensors free, where it can be told to (Linux with glibc).

    It would hand blocks over 32 MB back at once, and the system clear them page by page when they are asked for again:
    6 % of a step of a DCGAN of 64x64.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            set_option = ctypes.CDLL(None).mallopt
            set_option(-4, 0)  # M_MMAP_MAX: no block apart from the heap
            set_option(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: of the heap's end, nothing is handed back


def kept_waiting(tasks: Path = Path("/proc/self/task")) -> float:
    """Seconds that the threads of this process have been ready to run while the processors ran others; 0 where the
    system does not tell (Linux does)."""
    waited = 0
    with suppress(OSError, ValueError, IndexError):
        for thread in tasks.iterdir():
            waited += int((thread / "schedstat").read_text().split()[1])  # nanoseconds
    return waited / 1e9


def fitting_threads(threads: int, waited: float, seconds: float) -> int:
    """As many of the threads as find a processor free, where all of them waited so long in so many seconds: the threads
    of a step wait for each other, so that one without a processor holds up all."""
    return threads if waited < 0.2 * seconds else max(1, threads - math.ceil(waited / seconds))
