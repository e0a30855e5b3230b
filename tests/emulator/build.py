"""Builds and loads what runs on the emulator: the extension's sources under g++, in three flavours.

    python tests/emulator/build.py FLAVOUR COMMAND...     runs COMMAND with the flavour's sanitizer in place

plain   as it is
asan    AddressSanitizer and UndefinedBehaviorSanitizer: red zones, misaligned accesses, overflow
tsan    ThreadSanitizer: unordered accesses of two threads

Objects are kept in build/emulator, or $WGAN_EMULATOR_CACHE, under a hash of all that goes into them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
CACHE = Path(os.environ.get("WGAN_EMULATOR_CACHE", ROOT / "build" / "emulator"))
NAMESPACE = "wgan_emulated"

# How the kernels are compiled, what emulator.cpp is told of it, and what has to be in the process first.
FLAVOURS: dict[str, tuple[list[str], list[str], list[str]]] = {
    "plain": (["-O2"], [], []),
    "asan": (
        ["-O1", "-g", "-fsanitize=address,undefined", "-fsanitize-recover=address,undefined"],
        ["-DEMULATOR_ASAN"],
        ["libasan.so", "libubsan.so"],
    ),
    "tsan": (["-O1", "-g", "-fsanitize=thread"], ["-DEMULATOR_TSAN"], ["libtsan.so"]),
}
COMMON = ["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]


def flavour() -> str:
    """The flavour that this process can load."""
    return os.environ.get("WGAN_EMULATOR_FLAVOUR", "plain")


def library(chosen: str) -> Path:
    """The extension's sources and the emulator, as a shared object."""
    flags, hints, _ = FLAVOURS[chosen]
    includes = [f"-I{HERE}", f"-I{CSRC}", "-DWGAN_EMULATOR", f"-DWGAN_NAMESPACE={NAMESPACE}"]
    plain_headers = sorted(CSRC.glob("*.h"))
    headers = [HERE / "emulator.h", *plain_headers, *sorted(CSRC.glob("*.cuh"))]
    objects = [_object(HERE / "emulator.cpp", [*COMMON, "-O2", *hints], [HERE / "emulator.h"])]
    for source in sorted(CSRC.glob("*.cu")):
        objects.append(_object(source, [*COMMON, *flags, *includes], headers))
    for source in sorted(CSRC.glob("*.cpp")):
        # The checks on the host are the same in each flavour; torch's headers take long enough without a sanitizer.
        objects.append(_object(source, [*COMMON, "-O1", *includes, *_torch_includes()], plain_headers))
    return _linked(objects, [*flags, "-shared", f"-L{_torch()}/lib"], "libwgan_emulated.so", ["-ltorch_cpu", "-lc10"])


def selftest(chosen: str) -> Path:
    """The emulator's own small kernels, as a program."""
    flags, hints, _ = FLAVOURS[chosen]
    objects = [
        _object(HERE / "emulator.cpp", [*COMMON, "-O2", *hints], [HERE / "emulator.h"]),
        _object(HERE / "selftest.cpp", [*COMMON, *flags], [HERE / "emulator.h"]),
    ]
    return _linked(objects, flags, "selftest")


def load() -> ctypes.CDLL:
    """Build this process's flavour, load it into torch under NAMESPACE, and return it for emulator_configure."""
    import torch

    path = library(flavour())
    torch.ops.load_library(str(path))
    loaded = ctypes.CDLL(str(path))
    loaded.emulator_configure.argtypes = [ctypes.c_uint64, ctypes.c_uint64]
    for counter in ("emulator_launches", "emulator_blocks", "emulator_switches"):
        getattr(loaded, counter).restype = ctypes.c_uint64
    return loaded


def environment(chosen: str, log: Path | None = None) -> dict[str, str]:
    """The variables under which a process can load a flavour; the sanitizers write their reports to `log`.PID."""
    changed = dict(os.environ, WGAN_EMULATOR_FLAVOUR=chosen, OMP_NUM_THREADS="1")
    if FLAVOURS[chosen][2]:
        # And g++'s own runtime: a sanitizer can wrap the throwing of exceptions only if it finds that when it starts.
        names = [*FLAVOURS[chosen][2], "libstdc++.so.6"]
        found = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True) for name in names]
        changed["LD_PRELOAD"] = " ".join(path.strip() for path in found)
    options = f":log_path={log}" if log else ""
    changed["ASAN_OPTIONS"] = "detect_leaks=0:halt_on_error=0:detect_odr_violation=0" + options
    changed["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=0" + options
    changed["TSAN_OPTIONS"] = "halt_on_error=0:ignore_noninstrumented_modules=1:exitcode=0" + options
    if log:
        changed["WGAN_EMULATOR_LOG"] = str(log)
    return changed


def reports() -> str:
    """What the sanitizers have written about this process so far."""
    log = os.environ.get("WGAN_EMULATOR_LOG")
    path = Path(f"{log}.{os.getpid()}") if log else None
    return path.read_text(errors="replace") if path and path.exists() else ""


@functools.cache
def _torch() -> Path:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _torch_includes() -> list[str]:
    folders = [_torch() / "include", _torch() / "include/torch/csrc/api/include", sysconfig.get_paths()["include"]]
    return [f"-isystem{folder}" for folder in folders]


@functools.cache
def _versions() -> str:
    return subprocess.check_output(["g++", "--version"], text=True) + importlib.metadata.version("torch")


def _hash(flags: Iterable[str], files: Iterable[Path]) -> str:
    digest = hashlib.sha256(_versions().encode())
    for flag in flags:
        # A copy of the sources elsewhere is the same source.
        digest.update(flag.replace(str(ROOT), "").encode() + b"\0")
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:20]


def _object(source: Path, flags: Sequence[str], headers: Sequence[Path]) -> Path:
    target = CACHE / f"{source.stem}-{_hash(flags, [source, *headers])}.o"
    # Names in messages begin at the repository's root.
    language = ["-x", "c++", "-c", f"-fmacro-prefix-map={ROOT}/="]
    return _made(target, [*flags, *language, str(source)])


def _linked(objects: Sequence[Path], flags: Sequence[str], name: str, libraries: Sequence[str] = ()) -> Path:
    target = CACHE / _hash([name, *flags], objects) / name
    return _made(target, [*flags, *map(str, objects), *libraries])


def _made(target: Path, arguments: Sequence[str]) -> Path:
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    command = ["g++", *arguments, "-o", str(fresh)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ failed for {target.name}:\n{done.stdout}")
    if done.stdout:
        sys.stderr.write(done.stdout)
    fresh.replace(target)
    return target


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in FLAVOURS:
        sys.exit(__doc__)
    library(sys.argv[1])
    CACHE.mkdir(parents=True, exist_ok=True)
    os.execvpe(sys.argv[2], sys.argv[2:], environment(sys.argv[1], CACHE / f"reports-{sys.argv[1]}-{os.getpid()}"))
