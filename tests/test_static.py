"""What the machine code of the kernels says: nvcc compiles each source, and a disassembler reads it.

No GPU is needed. Without nvcc all of this is skipped; without nvdisasm (of the CUDA toolkit, or from
`pip install nvidia-cuda-nvdisasm`) the PTX and ptxas's own figures have to do.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

CSRC = Path(__file__).parent.parent / "csrc"
SOURCES = sorted(path.stem for path in CSRC.glob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
STORAGE = {"f": "float32", "d": "float64", "13__nv_bfloat16": "bfloat16", "6__half": "float16"}  # as C++ mangles them

# 16-byte loads and stores that a thread has under way at once. The forward pass of the penalty writes sums only.
WIDE = {"clamp": (4, 4), "rmsprop": (6, 4), "penalty_forward": (2, 0), "penalty_backward": (2, 2)}
WIDE |= {"adam": (4, 3), "adam_average": (5, 4)}
WIDE_16_BIT = WIDE | {"rmsprop": (3, 2)}
REGISTERS = 64  # of 65,536 for four blocks of 256 threads on a multiprocessor

KERNELS = {(kernel, dtype) for kernel in WIDE for dtype in STORAGE.values()}


def _nvcc() -> str:
    home = os.environ.get("CUDA_HOME")
    found = shutil.which(f"{home}/bin/nvcc" if home else "nvcc")
    if found is None:
        pytest.skip("no nvcc: the kernels cannot be compiled here")
    return found


def _nvdisasm() -> str:
    found = shutil.which("nvdisasm")
    package = importlib.util.find_spec("nvidia")  # the pip packages share this folder
    if found is None and package is not None:
        for folder in package.submodule_search_locations or []:
            for path in sorted(Path(folder).glob("*/bin/nvdisasm")):
                path.chmod(path.stat().st_mode | 0o111)
                found = str(path)
    if found is None:
        pytest.skip("no nvdisasm: pip install nvidia-cuda-nvdisasm, or a full CUDA toolkit")
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("static")


@cache
def _compile(folder: Path, stem: str, *options: str, suffix: str) -> tuple[Path, str]:
    """The file that nvcc makes of a source, and what it says."""
    target = folder / f"{stem}{''.join(options)}{suffix}"
    run = subprocess.run(
        [_nvcc(), "-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-v", *options]
        + ["-o", str(target), str(CSRC / f"{stem}.cu")],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return target, run.stderr


def _cubin(folder: Path, stem: str, arch: str) -> tuple[Path, str]:
    return _compile(folder, stem, "-cubin", f"-arch={arch}", suffix=".cubin")


def _kernel(mangled: str) -> tuple[str, str]:
    """The kernel and its storage type, of a symbol such as _ZN4wgan..12clamp_kernelIfEEv..: ("clamp", "float32")."""
    match = re.search(
        r"\d(clamp|rmsprop|adam|adam_average|penalty_\w+?)_kernelI(f|d|13__nv_bfloat16|6__half)E", mangled
    )
    assert match, mangled
    return match[1], STORAGE[match[2]]


def _wide(kernel: str, dtype: str) -> tuple[int, int]:
    return (WIDE_16_BIT if dtype in ("bfloat16", "float16") else WIDE)[kernel]


def _sections(text: str, header: str) -> dict[tuple[str, str], str]:
    """Kernel and type → the part of a listing that follows their `header`, which holds the symbol's name."""
    parts = re.split(header, text)
    return {_kernel(name): body for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def test_every_kernel_is_looked_at(built: Path) -> None:
    seen: set[tuple[str, str]] = set()
    for stem in SOURCES:
        seen |= _sections(_cubin(built, stem, "sm_80")[1], r"Compiling entry function '(\w+)'").keys()
    assert seen == KERNELS


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("stem", SOURCES)
def test_no_kernel_spills_registers_or_uses_a_stack(built: Path, stem: str, arch: str) -> None:
    for kernel, said in _sections(_cubin(built, stem, arch)[1], r"Compiling entry function '(\w+)'").items():
        figures = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
        registers = re.search(r"Used (\d+) registers", said)
        assert figures and registers, said
        assert figures.groups() == ("0", "0", "0"), (kernel, said)
        assert int(registers[1]) <= REGISTERS, (kernel, said)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("stem", SOURCES)
def test_the_machine_code_is_what_was_meant(built: Path, stem: str, arch: str) -> None:
    cubin, _ = _cubin(built, stem, arch)
    listing = subprocess.run([_nvdisasm(), "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    kernels = _sections(listing, r"\n\.text\.(\w+):")
    assert kernels
    for (kernel, dtype), code in kernels.items():
        words = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", code, re.MULTILINE)
        assert len(words) > 50, (kernel, dtype)
        local = [word for word in words if re.match(r"(LDL|STL)\b", word)]
        assert not local, f"{kernel} {dtype}: local memory"
        if dtype != "float64":
            double = [word for word in words if re.match(r"D(ADD|MUL|FMA|SETP|MNMX|MMA)\b|.*\.F64|MUFU.*64", word)]
            assert not double, f"{kernel} {dtype}: float64 arithmetic: {double}"
        loads, stores = (sum(bool(re.match(rf"{op}\..*128", word)) for word in words) for op in ("LDG", "STG"))
        assert (loads, stores) == _wide(kernel, dtype), f"{kernel} {dtype}: 16-byte loads and stores"


@pytest.mark.parametrize("stem", SOURCES)
def test_the_ptx_has_wide_accesses_and_neither_local_memory_nor_stray_doubles(built: Path, stem: str) -> None:
    text = _compile(built, stem, "-ptx", "-arch=compute_80", suffix=".ptx")[0].read_text()
    for (kernel, dtype), code in _sections(text, r"\.entry (\w+)\(").items():
        loads, stores = (len(re.findall(rf"{op}\.global\S*\.v(4\.\w32|2\.\w64)", code)) for op in ("ld", "st"))
        assert (loads, stores) == _wide(kernel, dtype), f"{kernel} {dtype}: 16-byte loads and stores"
        assert ".local" not in code, kernel
        assert dtype == "float64" or ".f64" not in code, f"{kernel} {dtype}: float64 arithmetic"


@pytest.mark.parametrize("stem", SOURCES)
def test_the_host_side_only_launches(built: Path, stem: str) -> None:
    """No allocation, no copy and no wait: nothing that a CUDA graph could not capture."""
    target, _ = _compile(built, stem, "-c", "-arch=sm_80", suffix=".o")
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm")
    symbols = subprocess.run([nm, "--undefined-only", str(target)], capture_output=True, text=True, check=True).stdout
    calls = {word for word in symbols.split() if word.startswith("cuda")}
    assert calls == {"cudaLaunchKernel", "cudaGetLastError", "cudaGetErrorString"}
