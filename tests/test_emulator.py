"""The emulator itself, by small kernels of its own (emulator/selftest.cpp): right ones run, wrong ones are named.

Each case is a process, `selftest CASE SEED RESIDENT`; "resident" is the number of blocks in flight at once.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
import subprocess

import pytest
from emulator import build

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++")

SEEDS = range(6)


@functools.cache
def program(flavour: str) -> str:
    return str(build.selftest(flavour))


def run(case: str, seed: int = 0, resident: int = 1, flavour: str = "plain") -> subprocess.CompletedProcess[str]:
    # Unlike under pytest, the first report ends the process, with a code of its own for each sanitizer.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1", "TSAN_OPTIONS": "exitcode=66"}
    command = [program(flavour), case, str(seed), str(resident)]
    environment = {**os.environ, **options, "LD_PRELOAD": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def result(case: str, seed: int = 0, resident: int = 1, flavour: str = "plain") -> str:
    done = run(case, seed, resident, flavour)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


# ---- What is right runs, in every order


@pytest.mark.parametrize("seed", SEEDS)
def test_block_sum(seed: int) -> None:
    assert result("sum", seed) == "100003"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("resident", [1, 3])
def test_the_last_block_sees_all_and_the_ticket_wraps(seed: int, resident: int) -> None:
    assert numbers(result("ticket", seed, resident)) == [576, 0] * 3


def test_warp_operations() -> None:
    lanes = list(range(32))
    expected = [
        [5] * 32,  # shfl 5
        [lane // 8 * 8 + 1 for lane in lanes],  # shfl 1 of 8
        [lane + 3 if lane + 3 < 32 else lane for lane in lanes],  # down 3
        [lane + 3 if lane % 16 + 3 < 16 else lane for lane in lanes],  # down 3 of 16
        [lane - 3 if lane >= 3 else lane for lane in lanes],  # up 3
        [lane ^ 8 for lane in lanes],  # xor 8
        [lane ^ 8 if lane & 8 else lane for lane in lanes],  # xor 8 of 8: only a lower segment is read
        [sum(1 << lane for lane in lanes if lane % 3 == 0)] * 32,  # ballot
        [2] * 32,  # any, not all
        [lane ^ 1 for lane in lanes],  # xor 1 in each half
        [9] * 32,  # count
        [3] * 32,  # or, and
    ]
    found = numbers(result("lanes"))
    for number, row in enumerate(expected):
        assert found[number * 32 : number * 32 + 32] == pytest.approx(row, rel=1e-8), number


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics(seed: int) -> None:
    words, order = result("atomics", seed).splitlines()
    # 100 threads: add counts, inc wraps after 9, dec goes from 0 to 9 and down, max, and a sum of halves.
    assert words.split() == ["100", "0", "0", "99", "50"]
    assert sorted(numbers(order)) == list(range(100))


def test_halves_round_to_nearest_even() -> None:
    rows = [numbers(line) for line in result("halves").splitlines()]
    assert rows[0] == [1.0, 1.00390625]  # halfway between two bfloat16: to the even one
    assert rows[1] == [1.015625, 1.01171875]
    assert rows[2] == [math.inf, math.inf]  # beyond half of the way to 2^128
    assert rows[3] == [65536.0, math.inf]  # the first value that float16 cannot hold
    assert rows[4] == pytest.approx([1.0e-41, 0.0], rel=0.01)  # a denormal of bfloat16
    assert rows[5] == pytest.approx([6e-8, 5.96046448e-08], rel=0.01)  # the smallest denormal of float16
    assert all(map(math.isnan, rows[6]))
    assert rows[7] == [-math.inf, -math.inf]


# ---- The order of threads


def test_a_seed_fixes_the_order() -> None:
    first = [result("atomics", seed, 2) for seed in SEEDS]
    assert [result("atomics", seed, 2) for seed in SEEDS] == first
    assert len(set(first)) == len(first)


def test_a_missing_barrier_gives_another_result() -> None:
    expected = " ".join(str(63 - i) for i in range(64))
    assert {result("reverse", seed) for seed in SEEDS} == {expected}
    assert {result("missing-barrier", seed) for seed in SEEDS} != {expected}


# ---- Messages


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "skipped-barrier",
            r"barrier divergence: (thread \(\d+,0,0\) of the block has|\d+ threads of the block have) exited",
        ),
        ("two-barriers", r"barrier divergence: thread \(\d,\d,0\) waits at \S*selftest.cpp:\d+"),
        ("deadlock", r"deadlock: 1 threads wait at a barrier, 31 at a warp operation, 0 have exited; thread \("),
        ("absent-lane", r"mask 0xffffffff names lane 16, which is absent: the warp has 16 lanes"),
        ("exited-lane", r"mask 0xffffffff names lane 7, which has exited"),
        ("unnamed-lane", r"mask 0x0000ffff does not name the calling lane \d+"),
        ("two-masks", r"mask 0x\w+ against mask 0x\w+: thread \(\d+,0,0\) waits at \S*selftest.cpp:\d+"),
        ("two-operations", r"warp divergence, another operation: thread \("),
        ("livelock", r"livelock: only atomics and fences for \d+ steps"),
        ("large-shared", r"shared array second of 16388 bytes brings the block to 49156 bytes; the limit is 49152"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_wrong_kernel_is_named(case: str, message: str, seed: int) -> None:
    done = run(case, seed)
    assert done.returncode == 1
    place = r"\S*selftest.cpp:\d+: block \(\d+,0,0\), thread \(\d+,\d+,0\): "
    assert re.match(f"{place}.*({message})", done.stdout), done.stdout


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("parameters", "4104 bytes of parameters; the limit is 4096"),
        ("grid-limit", "grid (1,65536,1) is outside 1 to (2147483647,65535,65535)"),
        ("empty-grid", "grid (0,1,1) is outside 1 to (2147483647,65535,65535)"),
        ("block-limit", "block (32,33,1) is outside 1 to (1024,1024,64), 1024 threads in all"),
    ],
)
def test_a_wrong_launch_is_named(case: str, message: str) -> None:
    done = run(case)
    assert done.returncode == 1
    assert re.match(r"\S*selftest.cpp:\d+: launch: ", done.stdout) and message in done.stdout


def test_a_failed_grid_leaves_nothing_behind() -> None:
    for flavour in build.FLAVOURS:
        message, *rest = result("after-an-error", flavour=flavour).splitlines()
        assert "deadlock" in message
        assert numbers(" ".join(rest)) == [576, 0] * 3


def test_shared_arrays_start_as_nan() -> None:
    assert all(map(math.isnan, numbers(result("uninitialised"))))


def test_a_stack_ends_at_a_guard_page() -> None:
    assert run("deep").returncode == -11


# ---- Sanitizers


@pytest.mark.parametrize("case", ["sum", "ticket", "reverse", "syncwarp", "lanes", "atomics", "shared-inside"])
def test_asan_is_silent_on_what_is_right(case: str) -> None:
    assert run(case, flavour="asan").stderr == ""


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("shared-beyond", "index 32 out of bounds|use-after-poison"),
        ("shared-before", "index -1 out of bounds|use-after-poison"),
        ("global-beyond", "heap-buffer-overflow"),
        ("misaligned", "misaligned address .* requires 16 byte alignment"),
        ("misaligned-shared", "misaligned address .* requires 16 byte alignment"),
    ],
)
def test_asan_reports(case: str, message: str) -> None:
    done = run(case, flavour="asan")
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr


@pytest.mark.parametrize("case", ["ticket", "one-block-reverse", "syncwarp", "lanes", "atomics", "many-blocks"])
@pytest.mark.parametrize(("seed", "resident"), [(0, 1), (1, 3)])
def test_tsan_is_silent_on_what_is_right(case: str, seed: int, resident: int) -> None:
    assert run(case, seed, resident, "tsan").stderr == ""


@pytest.mark.parametrize(
    "case", ["missing-barrier", "missing-syncwarp", "ticket-no-release", "ticket-no-acquire", "same-element"]
)
@pytest.mark.parametrize(("seed", "resident"), [(0, 1), (1, 3)])
def test_tsan_reports(case: str, seed: int, resident: int) -> None:
    done = run(case, seed, resident, "tsan")
    assert done.returncode == 66
    assert "WARNING: ThreadSanitizer: data race" in done.stderr


def test_it_is_fast_enough_for_a_suite() -> None:
    blocks, _ = numbers(result("speed"))  # of 256 threads and 11 stops each, in a second; 6,300 on an idle core
    assert blocks > 300
