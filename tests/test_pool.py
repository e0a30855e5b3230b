"""Processes that read images: their order, what they import, how they end, and how many there are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import reads
from tiny import write_images

from wgan_cli.data import pool
from wgan_cli.data.decode import BadFile, Item
from wgan_cli.data.pool import read_images

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="signals and FIFOs are of Unix")


@pytest.fixture(autouse=True, params=["forkserver", "spawn"])
def _two(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on any machine, started in either way."""
    monkeypatch.setattr(pool, "workers", lambda: 2)
    monkeypatch.setattr(pool, "METHOD", request.param)


def numbers(count: int) -> list[Item]:
    return [Item(str(number)) for number in range(count)]


def test_images_come_in_order_though_processes_finish_in_another(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "barrier")
    read = partial(reads.number, barrier=str(tmp_path / "barrier"))
    for number, (item, result) in enumerate(read_images(numbers(1000), read)):
        bad = BadFile(str(number), f"no {number}")
        assert (item, result) == (Item(str(number)), bad if number % 7 == 3 else str(number))
    assert number == 999


def test_a_few_chunks_for_each_process_are_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[int] = []

    @contextmanager
    def processes(count: int) -> Iterator[Callable[..., Future[list[str]]]]:
        def submit(each: Callable[..., list[str]], attempt: Any, items: list[Item]) -> Future[list[str]]:
            future: Future[list[str]] = Future()
            future.set_result([item.path for item in items])
            submitted.append(len(items))
            return future

        yield submit

    monkeypatch.setattr(pool, "_processes", processes)
    results = read_images(numbers(10_000), reads.number)
    next(results)
    assert submitted == 4 * [pool.CHUNK]
    assert len(list(results)) == 9_999 and sum(submitted) == 10_000


def test_a_crash_is_a_bad_file_with_its_name_and_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CHUNK", 8)
    signals = {"0": signal.SIGSEGV, "40": signal.SIGABRT, "41": signal.SIGKILL, "150": signal.SIGSEGV}
    found = dict(read_images(numbers(160), partial(reads.crash, on=dict(signals))))
    assert list(found) == numbers(160)
    crashed = {item.path: result for item, result in found.items() if isinstance(result, BadFile)}
    assert crashed.keys() == signals.keys()
    assert {name for name, bad in crashed.items() if bad.reason == "the decoder crashed on it" and bad.lasts} == {
        *("0", "40", "150")
    }
    assert "memory" in crashed["41"].reason and not crashed["41"].lasts
    assert all(result == item.path for item, result in found.items() if item.path not in signals)


def test_processes_import_neither_torch_nor_the_program_that_starts_them() -> None:
    assert {tuple(names) for _, names in read_images(numbers(100), reads.imported)} == {()}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_crash_on_the_only_image_is_a_bad_file_too(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    monkeypatch.setattr(pool, "workers", lambda: processes)
    ((_, result),) = read_images(numbers(1), partial(reads.crash, on={"0": signal.SIGSEGV}))
    assert result == BadFile("0", "the decoder crashed on it")
    assert list(read_images([], reads.number)) == []


SCRIPT = """
import sys
from functools import partial
sys.path.insert(0, sys.argv[1])
import reads
from wgan_cli.data import pool
from wgan_cli.data.decode import Item
print("begun", flush=True)
pool.METHOD, pool.workers = sys.argv[2], lambda: 2
def read(count, function):
    for _, result in pool.read_images([Item(str(n)) for n in range(count)], function):
        yield result
"""


def begin(tmp_path: Path, script: str) -> subprocess.Popen[str]:
    """A program of a file of its own, which multiprocessing would run again in each process, and its FIFO."""
    (tmp_path / "script.py").write_text(SCRIPT + script)
    os.mkfifo(tmp_path / "fifo")
    here = Path(__file__).parent
    words = [sys.executable, str(tmp_path / "script.py"), str(here), pool.METHOD, str(tmp_path / "fifo")]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


STUCK = """
try:
    list(read(200, partial(reads.stuck, fifo=sys.argv[3])))
except KeyboardInterrupt:
    print("interrupted")
"""
IDLE = """
results = read(96, reads.number)  # three chunks, all of them ahead
for _ in range(90):
    next(results)
open(sys.argv[3]).read()
"""


def test_an_interrupt_ends_all_processes_at_once(tmp_path: Path) -> None:
    process = begin(tmp_path, STUCK)
    with open(tmp_path / "fifo", "w"):  # waits for a process that is at it, and keeps it there
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60) == ("begun\ninterrupted\n", "")
    assert process.returncode == 0


@pytest.mark.parametrize("script", [STUCK, IDLE], ids=["reading", "idle"])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, script: str) -> None:
    process = begin(tmp_path, script)
    with open(tmp_path / "fifo", "w"):
        process.kill()
        out, err = process.communicate(timeout=60)  # which is when nobody has these streams any more
    assert out == "begun\n" and "Traceback" not in err  # Python itself tidies up, and says so


@pytest.mark.parametrize("command", ["train", "critic-score"])
def test_a_caller_that_ignores_the_end_of_children_does_not_matter(
    tmp_path: Path, checkpoint: Path, command: str
) -> None:
    images = tmp_path / "imgs"
    for part in "abcd":
        write_images(images / part)
    words = {
        "train": ["train", "--data", str(images), "--arch", "mlp", "--size", "16", "--channels", "3", "--steps", "1"]
        + ["--batch", "8", "--n-critic", "1", "-o", str(tmp_path / "run")],
        "critic-score": ["critic-score", str(checkpoint), str(images)],
    }[command]
    start = "import wgan_cli.data.pool as p; p.METHOD, p.workers = sys.argv.pop(1), lambda: 2"
    script = f"import sys; {start}; from wgan_cli.cli import main; main()"
    shell = "trap '' CHLD; exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", shell, "-", sys.executable, "-c", script, pool.METHOD, *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == (1 if command == "train" else 128)
    assert "children" not in done.stderr and "process" not in done.stderr


QUOTAS = {  # /proc/self/cgroup, files below /sys/fs/cgroup, and the cores they grant
    "version 2": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "version 2, none": ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
    "version 2, of a group above": ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
    "version 1": (
        "5:cpuset:/\n4:cpu,cpuacct:/x\n0::/\n",
        {"cpu/x/cpu.cfs_quota_us": "200000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
        2,
    ),
    "version 1, by the host's name": (
        "4:cpuacct,cpu:/docker/abc\n",
        {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"},
        0.5,
    ),
    "version 1, none": ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    "damaged": ("0::/\n", {"cpu.max": "much"}, 64),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_the_quota_of_a_container_is_heeded(tmp_path: Path, name: str) -> None:
    own, files, cores = QUOTAS[name]
    (tmp_path / "own").write_text(own)
    for path, content in files.items():
        (tmp_path / "top" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / path).write_text(content)
    assert pool._quota(tmp_path / "top", tmp_path / "own") == cores
    assert pool._quota(tmp_path / "top", tmp_path / "missing") == 64


def test_processes_are_as_many_as_cores_and_quota_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "process_cpu_count", lambda: 8, raising=False)
    monkeypatch.setattr(pool, "_quota", lambda: 2.5)
    assert pool.workers() == 3
    monkeypatch.setattr(pool, "_quota", lambda: 0.1)
    assert pool.workers() == 1
    monkeypatch.setattr(pool, "_quota", lambda: 64.0)
    assert pool.workers() == 8
    monkeypatch.delattr(os, "process_cpu_count")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert pool.workers() == 3
