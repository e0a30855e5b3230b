"""Plants bugs in the kernels, one at a time in a copy of the sources, and expects the suite to catch each.

    python tests/emulator/mutate.py [PART OF A NAME...]

Prints a table and a count; exits with 1 where a bug survives, where its text no longer stands in the sources, or
where the suite fails without any. A bug that does not compile counts as not planted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from emulator import build  # noqa: E402

PARTS = ["csrc", "wgan_cli", "tests/emulator", "tests/test_kernels.py", "pyproject.toml"]
HANG = 600  # seconds, after which a run counts as failed


class Bug(NamedTuple):
    name: str
    flavour: str  # of the build that catches it
    file: str  # in csrc
    old: str
    new: str
    times: int = 1  # how often the old text stands there; all are replaced


BUGS = [
    # ---- sums, barriers and the ticket
    Bug(
        "no barrier between the warps' sums and their reader",
        "plain",
        "penalty.cu",
        "    warps[threadIdx.x / kWarp] = value;\n  }\n  __syncthreads();\n",
        "    warps[threadIdx.x / kWarp] = value;\n  }\n",
    ),
    Bug(
        "only a warp's barrier between the warps' sums and their reader",
        "tsan",
        "penalty.cu",
        "    warps[threadIdx.x / kWarp] = value;\n  }\n  __syncthreads();\n",
        "    warps[threadIdx.x / kWarp] = value;\n  }\n  __syncwarp();\n",
    ),
    Bug(
        "the last warp lost",
        "plain",
        "penalty.cu",
        "warp < kThreads / kWarp; ++warp",
        "warp < kThreads / kWarp - 1; ++warp",
    ),
    Bug("the first shuffle lost", "plain", "penalty.cu", "int distance = kWarp / 2;", "int distance = kWarp / 4;"),
    Bug("the last shuffle lost", "plain", "penalty.cu", "distance > 0; distance /= 2", "distance > 1; distance /= 2"),
    Bug("a mask without lane 31", "plain", "penalty.cu", "kAllLanes = 0xffffffffu", "kAllLanes = 0x7fffffffu"),
    Bug(
        "a shared array one too short",
        "asan",
        "penalty.cu",
        "WGAN_SHARED(A, warps, kThreads / kWarp)",
        "WGAN_SHARED(A, warps, kThreads / kWarp - 1)",
    ),
    Bug(
        "a barrier that not all threads reach",
        "plain",
        "penalty.cu",
        "  cost = block_sum(cost);\n",
        "  if (threadIdx.x < k.rows) {\n    cost = block_sum(cost);\n  }\n",
    ),
    Bug(
        "no fence before the ticket",
        "tsan",
        "penalty.cu",
        "    __threadfence();  // the partial sum is seen before the ticket\n",
        "",
    ),
    Bug(
        "the fence before the write",
        "tsan",
        "penalty.cu",
        "    partials[blockIdx.x] = squares;\n    __threadfence();",
        "    __threadfence();\n    partials[blockIdx.x] = squares;",
    ),
    Bug(
        "no fence after the ticket",
        "tsan",
        "penalty.cu",
        "    __threadfence();  // and the others' sums after it, by this thread and past the barrier by all\n",
        "",
    ),
    Bug(
        "no barrier after the ticket",
        "plain",
        "penalty.cu",
        "  __syncthreads();\n  if (!last[0]) {",
        "  if (!last[0]) {",
    ),
    Bug(
        "a ticket that wraps one late",
        "plain",
        "penalty.cu",
        "atomicInc(ticket, gridDim.x - 1) ==",
        "atomicInc(ticket, gridDim.x) ==",
    ),
    Bug(
        "a ticket without an atomic",
        "tsan",
        "penalty.cu",
        "atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;",
        "*ticket == gridDim.x - 1;\n    *ticket = last[0] ? 0 : *ticket + 1;",
    ),
    Bug(
        "the last but one block adds",
        "plain",
        "penalty.cu",
        "== gridDim.x - 1;",
        "== (gridDim.x > 1 ? gridDim.x - 2 : 0);",
    ),
    # ---- the penalty's indices and arithmetic
    Bug("a partial sum dropped", "plain", "penalty.cu", "slice < k.slices; ++slice", "slice < k.slices - 1; ++slice"),
    Bug(
        "partial sums of the wrong stride",
        "plain",
        "penalty.cu",
        "partials[r * k.slices + slice]",
        "partials[slice * k.rows + r]",
    ),
    Bug(
        "only the first 256 rows",
        "plain",
        "penalty.cu",
        "r < k.rows; r += kThreads",
        "r < k.rows && r < kThreads; r += kThreads",
    ),
    Bug(
        "a row's chunks of the wrong stride",
        "plain",
        "penalty.cu",
        "stride = static_cast<int64_t>(k.slices) * kSize;\n  A squares",
        "stride = static_cast<int64_t>(k.slices + 1) * kSize;\n  A squares",
    ),
    Bug(
        "every block writes its whole row",
        "tsan",
        "penalty.cu",
        "  for (int64_t start = static_cast<int64_t>(blockIdx.x % k.slices) * kSize; start < k.columns;\n"
        "       start += stride) {",
        "  for (int64_t start = 0 * stride; start < k.columns; start += kSize) {",
    ),
    Bug(
        "a norm of zero divides",
        "plain",
        "penalty.cu",
        "norm == 0 ? A(0) : slope / norm",
        "slope / norm",
    ),
    Bug(
        "one-sided loses NaN",
        "plain",
        "penalty.cu",
        "one_sided && distance < 0 ? A(0) : distance",
        "one_sided && !(distance > 0) ? A(0) : distance",
    ),
    Bug(
        "half of the gradient",
        "plain",
        "penalty.cu",
        "rows_of<A>(settings, slices, 2.0)",
        "rows_of<A>(settings, slices, 1.0)",
    ),
    Bug("the norms' gradient dropped", "plain", "penalty.cu", "slope += grad_norms[row];", ""),
    # ---- the loop over memory
    Bug(
        "the tail begins one late",
        "plain",
        "memory.cuh",
        "int i = done + threadIdx.x; i < n",
        "int i = done + 1 + threadIdx.x; i < n",
    ),
    Bug("the tail ends one early", "plain", "memory.cuh", "i < n; i += kThreads", "i < n - 1; i += kThreads"),
    Bug("the tail ends one late", "plain", "memory.cuh", "i < n; i += kThreads", "i <= n; i += kThreads"),
    Bug("the tail of the wrong stride", "plain", "memory.cuh", "i < n; i += kThreads", "i < n; i += kThreads + 1"),
    Bug(
        "packs of the wrong stride",
        "plain",
        "memory.cuh",
        "i = threadIdx.x + load * kThreads;",
        "i = threadIdx.x + load * (kThreads + 1);",
        2,
    ),
    Bug(
        "a pack read beyond the end and not used",
        "asan",
        "memory.cuh",
        "      if (i < packs) {\n#pragma unroll\n        for (int a = 0; a < kArrays; ++a) {\n          if (kRead",
        "      if (i <= packs) {\n#pragma unroll\n        for (int a = 0; a < kArrays; ++a) {\n          if (kRead",
    ),
    Bug("16-byte accesses at multiples of 8", "asan", "memory.cuh", "if (bits % 16 == 0)", "if (bits % 8 == 0)"),
    Bug(
        "only the last array's alignment looked at",
        "asan",
        "memory.cuh",
        "bits |= reinterpret_cast",
        "bits = reinterpret_cast",
    ),
    Bug(
        "the rest of the last chunk not left out",
        "asan",
        "memory.cuh",
        "const int packs = n / kWidth;",
        "const int packs = (n + kWidth - 1) / kWidth;",
    ),
    Bug(
        "clamping loses NaN",
        "plain",
        "memory.cuh",
        "return x < -c ? -c : x > c ? c : x;",
        "return std::fmin(std::fmax(x, -c), c);",
    ),
    Bug(
        "clamping forgets the lower bound",
        "plain",
        "memory.cuh",
        "return x < -c ? -c : x > c ? c : x;",
        "return x > c ? c : x;",
    ),
    # ---- the table of tensors
    Bug(
        "the last, partial table dropped",
        "plain",
        "tensor_list.cuh",
        "if ((i == count || full) && list.count > 0)",
        "if (full && list.count > 0)",
    ),
    Bug(
        "one tensor more than the table holds",
        "asan",
        "tensor_list.cuh",
        "list.count == kTensors<kArrays> ||",
        "list.count > kTensors<kArrays> ||",
    ),
    Bug("empty tensors take places in the table", "plain", "tensor_list.cuh", "if (wanted > 0) {", "if (i < count) {"),
    Bug(
        "the search for a block's tensor off by one",
        "plain",
        "tensor_list.cuh",
        "list.first[middle] <= block",
        "list.first[middle] < block",
    ),
    Bug(
        "a chunk that runs over its tensor's end",
        "asan",
        "tensor_list.cuh",
        "left < kSize ? static_cast<int>(left) : kSize, f);",
        "left < 0 ? static_cast<int>(left) : kSize, f);",
    ),
    # ---- Adam
    Bug(
        "Adam's means not corrected",
        "plain",
        "adam.cu",
        "const A rate = lr / correction(k.rest1, step);",
        "const A rate = lr;",
    ),
    Bug(
        "Adam's correction of squares with the wrong beta",
        "plain",
        "adam.cu",
        "root(correction(rest2, step))",
        "root(correction(k.rest1, step))",
    ),
    Bug(
        "Adam's correction by a power",
        "plain",
        "adam.cu",
        "return -expm1f(step * log1pf(-rest));",
        "return 1.0f - powf(1.0f - rest, step);",
    ),
    Bug(
        "Adam's clamp after the average",
        "plain",
        "adam.cu",
        "    x[0] = clamped(x[0] - rate * x[2] / (root(x[3]) * scale + k.eps), k.c);\n"
        "    if constexpr (kArrays == 5) {\n      x[4] = between(x[4], x[0], share);\n    }\n",
        "    x[0] = x[0] - rate * x[2] / (root(x[3]) * scale + k.eps);\n"
        "    if constexpr (kArrays == 5) {\n      x[4] = between(x[4], x[0], share);\n    }\n"
        "    x[0] = clamped(x[0], k.c);\n",
    ),
    Bug(
        "Adam's share the other way round",
        "plain",
        "adam.cu",
        "between(x[4], x[0], share)",
        "between(x[0], x[4], share)",
    ),
    Bug(
        "Adam's average inexact where it takes all",
        "plain",
        "adam.cu",
        "return near + part * (to - from);",
        "return from + share * (to - from);",
    ),
    Bug(
        "Adam's share on the device not read",
        "plain",
        "adam.cu",
        "k.share_tensor ? static_cast<A>(*k.share_tensor) : k.share",
        "k.share",
    ),
    Bug("Adam's gradient written over", "plain", "adam.cu", "kAll, kAll - 0b10>", "kAll, kAll - 0b100>"),
    Bug(
        "averages' shapes not compared",
        "plain",
        "binding.cpp",
        '    check_alike(op, "averages", averages, params, dtype, device);\n',
        "",
    ),
    # ---- RMSProp, launchers, binding
    Bug("eps inside of the root", "plain", "rmsprop.cu", "(root(x[2]) + k.eps)", "root(x[2] + k.eps)"),
    Bug(
        "1 - alpha in float32",
        "plain",
        "rmsprop.cu",
        "static_cast<A>(1.0 - settings.alpha)",
        "static_cast<A>(A(1) - static_cast<A>(settings.alpha))",
    ),
    Bug("the mean of squares not stored", "plain", "rmsprop.cu", "0b111, 0b101>", "0b111, 0b001>"),
    Bug(
        "half of the threads",
        "plain",
        "rmsprop.cu",
        "launch(rmsprop_kernel<T>, blocks, kThreads,",
        "launch(rmsprop_kernel<T>, blocks, kThreads / 2,",
    ),
    Bug(
        "the first tensor only",
        "plain",
        "clamp.cu",
        "entries, count, kChunk<T, kLoads>,",
        "entries, 1, kChunk<T, kLoads>,",
    ),
    Bug(
        "shapes not compared",
        "plain",
        "binding.cpp",
        '  check_alike(op, "square_avgs", square_avgs, params, dtype, device);\n',
        "",
    ),
]


def copy(target: Path) -> None:
    for part in PARTS:
        source = build.ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, target / part)


def run(tree: Path, flavour: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, WGAN_EMULATOR_CACHE=str(build.CACHE), PYTHONDONTWRITEBYTECODE="1")
    wrapped = [sys.executable, "tests/emulator/build.py", flavour, *command]
    try:
        return subprocess.run(wrapped, cwd=tree, env=environment, capture_output=True, text=True, timeout=HANG)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(wrapped, -1, "does not end", "")


def suite(tree: Path, flavour: str, *options: str) -> subprocess.CompletedProcess[str]:
    # Not capturing: what a sanitizer prints as a process dies would be lost.
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider", "--capture=sys"]
    return run(tree, flavour, *pytest, "tests/test_kernels.py", *options)


def attempt(bug: Bug) -> tuple[str, str]:
    """caught, SURVIVED, or STALE (not planted); and by what."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        (tree / "tests").mkdir()
        copy(tree)
        path = tree / "csrc" / bug.file
        text = path.read_text()
        if text.count(bug.old) != bug.times:
            return "STALE", f"its text stands {text.count(bug.old)} times in {bug.file}, not {bug.times}"
        path.write_text(text.replace(bug.old, bug.new))
        built = run(tree, bug.flavour, "true")
        if built.returncode:
            errors = [line for line in built.stderr.splitlines() if "error" in line]
            return "STALE", f"does not compile: {errors[0] if errors else built.stderr[-200:]}"
        # What stands in penalty.cu alone can be caught by its own tests alone.
        chosen = ("-k", "not clamp and not rmsprop and not adam") if bug.file == "penalty.cu" else ()
        done = suite(tree, bug.flavour, *chosen)
        if done.returncode == 0:
            return "SURVIVED", ""
        failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return "caught", failed[0].split("::")[-1] if failed else f"exit {done.returncode}"


def main() -> int:
    words = sys.argv[1:]
    bugs = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    for flavour in sorted({bug.flavour for bug in bugs}):
        began = time.monotonic()
        done = suite(build.ROOT, flavour)
        if done.returncode:
            print(f"the suite fails without a bug ({flavour}):\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
            return 1
        print(f"{'clean':9}{flavour:7}{time.monotonic() - began:5.0f} s  {done.stdout.splitlines()[-1]}", flush=True)
    counts = {"caught": 0, "SURVIVED": 0, "STALE": 0}
    for bug in bugs:
        began = time.monotonic()
        verdict, how = attempt(bug)
        counts[verdict] += 1
        print(
            f"{verdict:9}{bug.flavour:7}{time.monotonic() - began:5.0f} s  {bug.file}: {bug.name}  [{how}]", flush=True
        )
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), f"of {len(bugs)}")
    return int(counts["caught"] < len(bugs))


if __name__ == "__main__":
    sys.exit(main())
