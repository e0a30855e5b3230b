"""Several processes that torchrun starts: the same batches and weights as one, one voice, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from stress import product
from tiny import call, write_images

from wgan_cli import WganError, checkpoint, distributed

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="this torch has no gloo"
)
PEERS = str(Path(__file__).with_name("peers.py"))
TRAIN: tuple[str, ...] = (
    "--data",
    "imgs",
    "--variant",
    "ns",
    "--width",
    "4",
    "--batch",
    "7",
    "--size",
    "16",
    "--steps",
    "8",
    "--flip",
)
TRAIN += ("--save-every", "2", "--log-every", "1", "--sample-every", "4", "-o", "run")


class Trained(NamedTuple):
    """A run of two processes, from images that none had decoded before."""

    code: int
    out: str
    said: list[str]
    product: dict[str, object]
    decoded: dict[str, bytes]  # the files of the cache
    run: Path


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """To hold others against."""
    folder = tmp_path_factory.mktemp("by two")
    cache = folder / "cache"
    write_images(folder / "imgs", 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WGAN_CACHE", str(cache))
        ends = train(2)
    decoded = {path.name: path.read_bytes() for path in cache.iterdir()}
    return Trained(*ends, product(folder / "run"), decoded, folder / "run")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_images(Path("imgs"), 30)
    return tmp_path


def torchrun(size: int, *words: str | Path, given: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Several processes at work."""
    started = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size), *given, *words]
    return subprocess.Popen([sys.executable, *started], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """The exit code of torchrun, standard output, and what the processes said: torchrun's own words are left out."""
    out, err = process.communicate(timeout=300)
    said = [line for line in err.splitlines() if re.match(r"Error: |Stopped|To go on|going on|done|.* wait", line)]
    return process.returncode, out, said


def train(size: int, *words: str, mishap: str = "", given: tuple[str, ...] = ()) -> tuple[int, str, list[str]]:
    begin = (PEERS, f"train:{mishap}") if mishap else ("-m", "wgan_cli", "train")
    return ended(torchrun(size, *begin, *TRAIN, *words, given=given))


@pytest.mark.parametrize("size", [2, 3])
def test_steps_are_those_of_one_process(here: Path, size: int) -> None:
    """For every variant and norm, with uneven shares: weights, figures, and what is drawn. Nothing is left of gloo."""
    process = torchrun(size, PEERS, "equal", here)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    reports = [json.loads((here / f"{rank}.json").read_text()) for rank in range(size)]
    torch.manual_seed(0)
    assert sum((part for _, part, _ in reports), []) == torch.rand(7, 2).tolist()
    assert reports[0][0].keys() >= {"dragan mlp", "r3", "batch norm in both"}
    for found, _, threads in reports:
        assert not [name for name in threads if "gloo" in name]  # or the interpreter aborts at its end, now and then
        wrong = {name: f for name, f in found.items() if not (f["drawn"] and f["weights"] < 1e-4 > f["figures"])}
        assert not wrong


@pytest.mark.usefixtures("drawn")
def test_a_run_of_several_is_a_run(by_two: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are decoded once, the checkpoint moves between numbers of processes, and one process speaks."""
    monkeypatch.chdir(by_two.run.parent)
    assert call("train", *TRAIN, "-o", "alone")[:2] == (0, b"alone/ckpt.pt\n")
    alone, cache = product(Path("alone")), Path(os.environ["WGAN_CACHE"])
    assert (by_two.code, by_two.out) == (0, "run/ckpt.pt\n")
    assert len([line for line in by_two.said if line.startswith("done")]) == 1
    assert by_two.decoded == {path.name: path.read_bytes() for path in cache.iterdir()}
    assert by_two.product.keys() == alone.keys()
    contents = [checkpoint.load(path)[0] for path in ("alone/ckpt.pt", "run/ckpt.pt")]
    for part in ("generator", "critic"):
        for name, weight in contents[0][part].items():
            torch.testing.assert_close(contents[1][part][name], weight, rtol=1e-3, atol=1e-3)
    records: Any = alone["metrics.jsonl"], by_two.product["metrics.jsonl"]
    for by_one, by_both in zip(*records, strict=True):
        assert by_one.keys() == by_both.keys() and by_one["images"] == by_both["images"]
    assert contents[0]["rng"]["state"].equal(contents[1]["rng"]["state"])
    monkeypatch.setenv("WGAN_CACHE", "cache")  # where the images are decoded by now
    assert train(2, "-o", "twice")[0] == 0 and product(Path("twice")) == by_two.product  # to the last bit
    assert call("train", *TRAIN, "-o", "twice", "--steps", "10").code == 0  # the last word counts
    assert checkpoint.load("twice/ckpt.pt")[0]["step"] == 10


def test_a_killed_process_is_named_and_torchrun_goes_on_to_the_same_bytes(here: Path, by_two: Trained) -> None:
    code, out, said = train(2, mishap="killed", given=("--max-restarts", "1"))
    assert code == 0 and out == "run/ckpt.pt\n"
    (error,) = [line for line in said if line.startswith("Error")]
    assert re.match(r"Error: process 1 of 2 \(.+, pid \d+\) was lost: killed", error)
    assert any(re.match("going on at step [24] of 8", line) for line in said)
    assert product(here / "run") == by_two.product


@pytest.mark.parametrize(
    ("what", "words", "error"),
    [
        ("hangs", ("--hang-limit", "2s"), r"process 1 of 2 \(.+\) has made no progress for 2 s; the last"),
        ("stopped", (), r"process 1 of 2 \(.+\) has given no sign of life for 3 s; the last"),
        (
            "other weights",
            (),
            r"came apart by step 6: .+ of the critic of process 1 of 2 \(.+\) is not that of process 0",
        ),
    ],
)
def test_a_process_that_goes_astray_ends_the_run(here: Path, what: str, words: tuple[str, ...], error: str) -> None:
    process = torchrun(2, PEERS, f"train:{what}", *TRAIN, *words)
    if what == "stopped":  # torchrun would wait half a minute for it
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.exists():
            pytest.skip("finds processes as Linux does")
        wait_for(lambda: "T (stopped)" in states(children), process)
        (stopped,) = [int(pid) for pid in children.read_text().split() if "T (stopped)" in status(pid)]
        wait_for(lambda: len(children.read_text().split()) < 2, process)
        os.kill(stopped, signal.SIGKILL)
    code, out, said = ended(process)
    assert code == 1 and not out
    (told,) = [line for line in said if line.startswith("Error")]
    assert re.search(error, told)
    assert checkpoint.load(here / "run/ckpt.pt")[0]["step"] == 4


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.05)


def status(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def states(children: Path) -> str:
    return " ".join(map(status, children.read_text().split()))


def test_the_others_wait_for_a_slow_disk(here: Path) -> None:
    assert train(2, "--hang-limit", "2s", "--sample-every", "8", mishap="slow disk")[0] == 0
    assert checkpoint.load(here / "run/ckpt.pt")[0]["step"] == 8


def test_two_machines(here: Path, by_two: Trained, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each has its own images and cache, one the run folder: the same bytes as on one machine, and on from there."""
    other = tmp_path_factory.mktemp("other machine")
    shutil.copytree("imgs", other / "imgs")

    def both(*words: str) -> list[tuple[int, str, list[str]]]:
        with socket.socket() as found:  # a port that is free
            found.bind(("localhost", 0))
            port = str(found.getsockname()[1])
        started = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "localhost", "--master-port", port]
        processes = []
        for rank, folder in enumerate((here, other)):
            command = [sys.executable, "-m", "torch.distributed.run", *started, "--node-rank", str(rank)]
            given: dict[str, Any] = {"cwd": folder, "env": {**os.environ, "WGAN_CACHE": str(folder / "cache")}}
            given |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            processes.append(subprocess.Popen([*command, "-m", "wgan_cli", "train", *TRAIN, *words], **given))
        return [ended(process) for process in processes]

    (code, out, said), (other_code, nothing, silent) = both()
    assert (code, out) == (0, "run/ckpt.pt\n") and any(line.startswith("done") for line in said)
    assert (other_code, nothing, silent) == (0, "", [])
    assert not (other / "run").exists()
    caches = [sorted(path.suffix for path in (folder / "cache").iterdir()) for folder in (here, other)]
    assert caches[0] == caches[1] and ".rows" in caches[0]
    assert product(here / "run") == by_two.product
    assert [end[0] for end in both("--steps", "10")] == [0, 0]
    assert checkpoint.load(here / "run/ckpt.pt")[0]["step"] == 10


def test_sigterm_to_torchrun_saves_and_ends(here: Path) -> None:
    """And nothing is left of gloo, whose threads may abort the interpreter at its end."""
    process = torchrun(2, PEERS, "train:", *TRAIN, "--steps", "100000")
    log = here / "run/metrics.jsonl"
    wait_for(lambda: log.exists() and log.stat().st_size > 0, process)
    process.terminate()
    _, _, said = ended(process)
    (stopped,) = [line for line in said if line.startswith("Stopped")]
    found = re.fullmatch(r"Stopped by SIGTERM at step (\d+) of 100000, saved in run/ckpt.pt", stopped)
    assert found and checkpoint.load(here / "run/ckpt.pt")[0]["step"] == int(found[1])
    assert "To go on: torchrun --nproc-per-node 2 -m wgan_cli train --data imgs" in " ".join(said)
    for rank in range(2):
        assert "gloo" not in (here / f"{rank}.threads").read_text()


def test_what_is_wrong_is_told_once(here: Path) -> None:
    (here / "imgs/00.png").write_bytes(b"no image")
    code, out, said = train(2)
    assert code == 1 and not out
    assert [line for line in said if line.startswith("Error")][-1].startswith("Error: --data imgs: 1 of 30 files")
    assert sum("files cannot be read" in line for line in said) == 1
    assert sum("fewer than the 2 processes" in line for line in train(2, "--skip-bad", "--batch", "1")[2]) == 1


def test_one_list_is_not_for_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    done = call("train", *TRAIN, "--data", "-")  # before they are joined
    assert done.code == 2 and "--data -: standard input is one list, and 2 processes would read it" in done.err


def test_an_environment_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.place() == distributed.Place()
    for name, value in {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WganError, match="RANK=2 WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1: these make no process"):
        distributed.place()
    monkeypatch.setenv("RANK", "1")
    assert distributed.place().first == 1 and not distributed.place().leads
