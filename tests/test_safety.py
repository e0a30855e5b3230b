"""What is promised of runs left alone and of strangers' files: nothing is lost, and nobody is let in."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzz
import numpy as np
import pytest
import stress
import torch
from PIL import Image
from tiny import COMMAND, SETTINGS, call, memory, memory_now, new_run, save, write_images

from wgan_cli import DataError, DivergedError, StoppedError, UsageError, checkpoint, files, step
from wgan_cli import train as training
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.data import cache, decode, pool, source
from wgan_cli.data.dataset import Dataset
from wgan_cli.signals import Stop
from wgan_cli.state import State

CPU = torch.device("cpu")
measures = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures as Linux does")
TRAIN = ("train", "--data", "imgs", *SETTINGS, "--save-every", "2", "--sample-every", "2", "-o", "run")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with 16 images."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_images(Path("imgs"), 16)
    return tmp_path / "here"


def run(steps: int, out: str = "run", **given: Any) -> Path:
    """A run in this process: of an mlp on 8 images, 3 critic steps to a step."""
    config: TrainConfig = resolve({**small(steps), **given}, {"size": 16, "channels": 1})[0]
    rows = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    with Stop() as stop:
        return training.train(config, Dataset(rows, "0" * 16), Path(out), CPU, Console(io.StringIO()), stop)


def small(steps: int) -> dict[str, Any]:
    every = {"log_every": 100, "save_every": 2, "sample_every": 100}
    return {"arch": "mlp", "width": 4, "latent": 2, "batch": 4, "n_critic": 3, "steps": steps, **every}


def litter() -> list[str]:
    return [str(path) for path in Path().rglob(".*")] + list(map(str, cache.cache_folder().glob(".*")))


# ---- Killed at any moment


def test_killed_runs_lose_nothing(tmp_path: Path) -> None:
    """The short form of `make stress`, which compares each run with one never killed."""
    *_, total = stress.stress(tmp_path, 2, seed=0)
    assert stress.count(total) >= 2


@pytest.mark.parametrize("name", ["ckpt-000002.pt", "ckpt.pt", "ckpt-000004.pt"])
def test_a_kill_amid_a_save_leaves_the_checkpoint_before(name: str) -> None:
    """Before a new file gets its name: the run goes on from the checkpoint before, where there is no ckpt.pt from the
    numbered one, to the same files."""
    words = (*TRAIN, "--keep", "2")
    assert call(*words[:-3], "whole", "--keep", "2", "-q").code == 0
    patch = f"""
real = os.replace
def dying(*words):
    if ".{name}" in str(words):
        os.kill(os.getpid(), signal.SIGKILL)
    real(*words)
os.replace = dying
"""
    assert Started(*words, patch=patch).end()[0] == -signal.SIGKILL
    assert [file for file in litter() if name in file]
    left = {"ckpt-000002.pt": set(), "ckpt.pt": {"ckpt-000002.pt"}, "ckpt-000004.pt": {"ckpt-000002.pt", "ckpt.pt"}}
    assert {path.name for path in Path("run").glob("ckpt*")} == left[name]
    done = call(*words, "-v")
    assert done.code == 0 and ("going on at step 2 of" in done.err) == bool(left[name])
    assert litter() == []
    assert {path.name for path in Path("run").iterdir()} == {path.name for path in Path("whole").iterdir()}
    for path in Path("run").glob("ckpt*"):
        assert path.read_bytes() == Path("whole", path.name).read_bytes()


@pytest.mark.usefixtures("drawn")
def test_a_curve_that_a_kill_kept_from_being_drawn_is_drawn_when_asked_again() -> None:
    pytest.importorskip("matplotlib")
    run(2)
    drawn = Path("run/curve.png").read_bytes()
    Path("run/curve.png").rename("run/.curve.png.0123abcd.tmp")
    run(2)
    assert Path("run/curve.png").read_bytes() == drawn and litter() == []


def test_what_a_killed_write_left_in_the_cache_goes_and_what_is_being_written_stays() -> None:
    folder = cache.cache_folder()
    (folder / ".old.rows.0123abcd.tmp").write_bytes(b"half")
    (folder / ".mine.tmp").write_bytes(b"of somebody else")
    script = f"""if True:
        import sys
        from wgan_cli.files import replacing
        with replacing({str(folder / "new")!r}) as file:
            file.write(b"x")
            file.flush()
            print(flush=True)
            sys.stdin.read()
    """
    writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout and writer.stdout.readline()
    files.sweep(folder)
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 2 and ".mine.tmp" in left and any(name.startswith(".new.") for name in left)
    writer.communicate()
    assert (folder / "new").read_bytes() == b"x"
    call(*TRAIN)
    assert litter() == [str(folder / ".mine.tmp")]


# ---- Asked to stop


class Started:
    """`wgan` as a process whose stderr is read line by line. `patch`: code to run in it first."""

    def __init__(self, *words: str, patch: str = "") -> None:
        modules = "import os, signal, sys\nfrom wgan_cli import cli, train\nfrom wgan_cli.data import cache"
        script = f"{modules}\n{patch}\ncli.main()"
        command = [sys.executable, "-c", script, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def read_until(self, text: str) -> str:
        assert self.process.stderr
        for line in self.process.stderr:
            if text in line:
                return line
        raise AssertionError(f"no line with {text!r}")

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate()
        return self.process.returncode, err


SLOW = """
real, (heard, hears) = train.generator_step, os.pipe()  # a byte for each signal
os.set_blocking(hears, False)
signal.set_wakeup_fd(hears)
def slow(*words):
    if words[0].step == 2:
        print("in a long step", file=sys.stderr, flush=True)
        os.read(heard, 1)
        print("heard", file=sys.stderr, flush=True)
        {then}
    return real(*words)
train.generator_step = slow
"""


def test_the_first_signal_lets_the_step_end_and_saves() -> None:
    """A SIGINT on a terminal is in test_cli.py."""
    started = Started(*TRAIN, patch=SLOW.format(then=""))
    started.read_until("in a long step")
    started.process.send_signal(signal.SIGTERM)
    code, err = started.end()
    assert code == 143 and "Stopped by SIGTERM at step 3 of 4" in err and "To go on: " in err
    assert checkpoint.load("run/ckpt.pt")[0]["step"] == 3 and litter() == []


def test_the_second_signal_ends_at_once() -> None:
    started = Started(*TRAIN, patch=SLOW.format(then="os.read(heard, 1)"))
    started.read_until("in a long step")
    started.process.send_signal(signal.SIGTERM)
    started.read_until("heard")
    started.process.send_signal(signal.SIGINT)
    assert started.end() == (130, "")
    assert checkpoint.load("run/ckpt.pt")[0]["step"] == 2  # of --save-every


def test_sigusr1_saves_and_goes_on() -> None:
    started = Started(*TRAIN, "--save-every", "100", patch=SLOW.format(then=""))
    started.read_until("in a long step")
    started.process.send_signal(signal.SIGUSR1)
    assert started.read_until("SIGUSR1") == "saved at step 3, as SIGUSR1 asks\n"
    assert checkpoint.load("run/ckpt.pt")[0]["step"] >= 3
    assert started.end()[0] == 0 and checkpoint.load("run/ckpt.pt")[0]["step"] == 4


@pytest.mark.parametrize(
    ("place", "number", "code"),
    [
        ("cache.look", signal.SIGTERM, 143),
        ("decoding.read_file", signal.SIGINT, 130),
        ("decoding.read_file", signal.SIGUSR1, 0),
    ],
)
def test_signals_while_images_are_read(place: str, number: signal.Signals, code: int) -> None:
    """To see their channels, or their pixels. What is decoded is kept."""
    patch = f"""
from wgan_cli.data import cache, decode, decoding, pool
pool._in_order = lambda attempt, items, count: map(attempt, items)
real, own = {place}, os.getpid()
once = []
def signalled(*words, **more):
    if not once:
        once.append(os.kill(own, {number:d}))
    return real(*words, **more)
{place} = signalled
"""
    ended, err = Started(*TRAIN, patch=patch).end()
    assert ended == code and "Traceback" not in err
    assert litter() == [] and Path("run").exists() == (code == 0)
    assert bool(list(cache.cache_folder().glob("*.part"))) == (code == 130)
    assert code or "saved at image 1 of 16, as SIGUSR1 asks" in err
    if code:
        assert "To go on: wgan train --data" in err


@pytest.mark.parametrize("stop", range(1, 12))
def test_a_stop_amid_a_step_loses_nothing(stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal during each of the twelve critic steps of a run: it goes on to the same bytes."""
    whole = run(4, "whole").read_bytes()
    real, calls = step.critic_step, []

    def signalled(*words: Any) -> Any:
        calls.append(words)
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(training, "critic_step", signalled)
        with pytest.raises(StoppedError) as stopped:
            run(4)
    assert stopped.value.exit_code == 143 and len(calls) == stop
    content = checkpoint.load("run/ckpt.pt")[0]
    assert (content["step"], content["data"]["batches"]) == (stop // 3, stop)
    assert run(4).read_bytes() == whole


# ---- Disks that fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_leaves_the_last_checkpoint(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing write layer, for disks that are full, over quota, read-only or broken."""
    assert call(*TRAIN, "--steps", "2").code == 0
    before = Path("run/ckpt.pt").read_bytes()

    def failing(descriptor: int) -> None:
        if ".ckpt" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        done = call(*TRAIN, "-q")
    assert (done.code, done.out, done.err) == (1, b"", f"Error: run/ckpt.pt: {os.strerror(number)}\n")
    assert Path("run/ckpt.pt").read_bytes() == before and litter() == []
    assert call(*TRAIN).code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "RUN", "-o", "old.png"),
        ("sample", "RUN", "-o", "old.npz"),
        ("sample", "RUN", "-o", "old.npy"),
        ("sample", "RUN", "--interpolate", "2", "-o", "old.webp"),
        ("sample", "RUN", "-n", "1", "-o", "old/"),
        ("info", "RUN", "--html", "old.html"),
        ("evaluate", "RUN", "--data", "imgs", "-n", "6", "--figures", "coverage", "--plot", "old.png"),
        ("export", "RUN", "-o", "old.safetensors"),
    ],
)
def test_an_output_is_whole_or_what_it_was(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full as it ends."""
    if "--plot" in words:
        pytest.importorskip("matplotlib")
    if words[0] == "export":
        pytest.importorskip("safetensors")
    save(new_run(holdout=0.0), Path("ckpt.pt"))
    out = Path(words[-1])
    if words[-1].endswith("/"):
        out.mkdir()
        out /= "seed0-000000.png"
    out.write_bytes(b"old")

    def failing(descriptor: int) -> None:
        if f".{out.name}." in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        done = call(*("ckpt.pt" if word == "RUN" else word for word in words))
    assert done.code == 1 and done.err.endswith(f"Error: {out}: {os.strerror(errno.ENOSPC)}\n"), done
    assert out.read_bytes() == b"old" and litter() == []
    assert call(*("ckpt.pt" if word == "RUN" else word for word in words)).code == 0 and out.read_bytes() != b"old"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path / "disk")]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no permission to mount a file system")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_a_full_disk(disk: Path) -> None:
    words = (*TRAIN[:-1], disk / "run")
    assert call(*words, "--steps", "2").code == 0
    kept = (disk / "run/ckpt.pt").read_bytes()
    room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    for left in (0, 8192, len(kept) // 2):  # for the lock, for the records, for half a checkpoint
        (disk / "rest").write_bytes(bytes(room - left))
        done = call(*words, "-q")
        assert (
            done.code == 1
            and done.err.startswith(f"Error: {disk}/run")
            and done.err.endswith(": No space left on device\n")
        )
        assert (disk / "run/ckpt.pt").read_bytes() == kept
        assert not list(disk.rglob(".*"))
        (disk / "rest").unlink()
    assert call(*words).code == 0  # room again
    records = (disk / "run/metrics.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["step"] for line in records] == [1, 2, 3, 4]


def test_a_read_only_file_system(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = call(*TRAIN[:-1], disk / "run", "-q")
    assert done.code == 2 and str(disk) in done.err and len(done.err.splitlines()) == 1


def test_a_limit_on_the_size_of_files() -> None:
    """As a quota has it, on a real process."""
    assert call(*TRAIN, "--steps", "2").code == 0
    before = Path("run/ckpt.pt").read_bytes()
    limited = ["bash", "-c", 'ulimit -f 20 && exec "$@"', "bash", *COMMAND, *TRAIN, "-q"]
    done = subprocess.run(limited, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "Error: run/ckpt.pt: File too large\n")
    assert Path("run/ckpt.pt").read_bytes() == before and litter() == []


def test_a_folder_that_is_removed_during_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = step.generator_step

    def removing(*words: Any) -> Any:
        shutil.rmtree("run", ignore_errors=True)
        return real(*words)

    monkeypatch.setattr("wgan_cli.train.generator_step", removing)
    done = call(*TRAIN, "-q")
    gone = "Error: run is gone: it was moved or removed during training; step 2 is not saved\n"
    assert (done.code, done.err) == (1, gone)
    assert not Path("run").exists()


# ---- Two runs on one folder


def test_the_second_run_is_refused_and_a_stale_lock_is_not() -> None:
    first = Started(*TRAIN, patch=SLOW.format(then="os.read(heard, 1)"))
    first.read_until("in a long step")
    for words in (TRAIN, (*TRAIN, "--force")):
        done = call(*words, "-q")
        assert (done.code, done.out) == (2, b"") and f"process {first.process.pid} on " in done.err
    assert call(*TRAIN, "--dry-run").code == 0
    first.process.kill()
    first.end()
    assert Path("run/.lock").read_text().startswith(f"{first.process.pid} on ")
    assert call(*TRAIN).code == 0 and litter() == []


def test_a_child_does_not_keep_the_lock() -> None:
    """Nor does one that outlives a process that was killed."""
    script = """if True:
        import os, signal
        from pathlib import Path
        from wgan_cli.files import lock
        with lock(Path("run")):
            if os.fork():
                os.kill(os.getpid(), signal.SIGKILL)
            os.read(0, 1)
    """
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert parent.wait() == -9 and Path("run/.lock").exists()
    with files.lock(Path("run")):
        pass
    assert parent.stdin
    parent.stdin.close()


def test_a_lock_that_is_a_link_writes_nowhere_else() -> None:
    Path("precious").write_text("mine")
    Path("run").mkdir()
    Path("run/.lock").symlink_to("../precious")
    assert call(*TRAIN, "-q").code == 1 and Path("precious").read_text() == "mine"


def test_a_lock_leaves_no_folders_behind() -> None:
    Path("kept").mkdir()
    with pytest.raises(UsageError), files.lock(Path("kept/a/b")):
        assert Path("kept/a/b/.lock").exists()
        raise UsageError("as of bad data")
    assert not list(Path("kept").iterdir())


# ---- Divergence


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["critic_loss", "generator_loss"])
def test_a_loss_that_is_not_finite_is_found_though_it_is_not_logged(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one step between two that are logged, with weights that stay finite."""
    kept = run(2).read_bytes()
    function = name.replace("loss", "step")
    real = getattr(step, function)

    def diverging(state: State, *words: Any) -> Any:
        amid = state.step == 2 and state.batches % 3 == (1 if name == "critic_loss" else 0)
        figures = real(state, *words)
        return {**figures, name: torch.tensor(value)} if amid else figures

    monkeypatch.setattr(training, function, diverging)
    with pytest.raises(DivergedError, match=rf"at step 3: {name} is {value}; run/ckpt.pt of step 2 is untouched"):
        run(8)
    assert Path("run/ckpt.pt").read_bytes() == kept


@pytest.mark.parametrize("network", ["generator", "critic"])
def test_weights_and_running_statistics_that_are_not_finite(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"variant": "clip", "arch": "dcgan"}
    kept = run(2, **given).read_bytes()
    real = step.generator_step

    def diverging(state: State, *words: Any) -> Any:
        figures = real(state, *words)
        buffers = dict(getattr(state, network).named_buffers())
        next(value for name, value in buffers.items() if "running_var" in name).fill_(float("inf"))
        return figures

    monkeypatch.setattr("wgan_cli.train.generator_step", diverging)
    with pytest.raises(DivergedError, match=rf"at step 4: \S+running_var of the {network} is not finite"):
        run(8, **given)
    assert Path("run/ckpt.pt").read_bytes() == kept


# ---- Strangers' files; broken checkpoints of many kinds are in test_cli.py


def test_no_flipped_bit_of_a_checkpoint_passes() -> None:
    """It is refused, or was in a part that holds nothing."""
    path = save(new_run(latent=2), Path("ckpt.pt"))
    good = path.read_bytes()
    rng, weights = random.Random(0), checkpoint.load(path)[0]["critic"]
    refused = 0
    for place in rng.sample(range(len(good)), 400):
        content = bytearray(good)
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            found = checkpoint.load(path)[0]["critic"]
            assert all(found[name].equal(weight) for name, weight in weights.items())
        except DataError:
            refused += 1
    assert refused > 200


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    image = Path("imgs/00.png").read_bytes()
    names = ["../up.png", str(tmp_path / "absolute.png"), "a/../../up.png", "\x1b[2Jred.png"]
    with zipfile.ZipFile("in.zip", "w") as archive:
        for name in names:
            archive.writestr(name, image)
    save(new_run(), Path("ckpt.pt"))
    done = call("critic-score", "ckpt.pt", "in.zip", "-q")
    assert done.code == 0 and len(done.out.splitlines()) == 2 and b"\x1b" not in done.out  # .. counts as hidden
    assert call("train", "--data", "in.zip", *SETTINGS, "--batch", "2", "-o", "run").code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"here"} and not list(tmp_path.rglob("*up.png"))


@measures
def test_a_zip_of_a_hundred_thousand_entries() -> None:
    """All are listed, in little memory."""
    with zipfile.ZipFile("many.zip", "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{number}.png", b"")
    before = memory_now()
    assert len(source.find_images(["many.zip"])) == 100_000
    assert memory("VmHWM") - before < 256 << 20


def test_pipes_links_and_folders_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    save(new_run(), Path("ckpt.pt"))
    os.mkfifo("imgs/a.png")
    Path("imgs/self.png").symlink_to("self.png")
    Path("imgs/up").symlink_to("../imgs")
    Path("imgs/closed").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):  # root could read it whatever its mode
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = call("critic-score", "ckpt.pt", "imgs", "-q")
    assert done.code == 3 and len(done.out.splitlines()) == 16
    *bad, last = done.err.splitlines()
    assert [line.split(": ")[1] for line in bad] == ["imgs/a.png", "imgs/closed", "imgs/self.png"]
    assert "a pipe" in bad[0] and "symbolic links" in bad[2]


def test_folders_deeper_than_a_call_can_nest() -> None:
    here = os.getcwd()
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)
    try:
        assert source.find_images(["d"]) == []
    finally:
        subprocess.run(["rm", "-r", "d"], check=True)  # pytest could not


@pytest.mark.usefixtures("one_process")
def test_what_the_disk_could_not_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a file is told as the bad one it is, and not remembered as one."""
    real, errors = decode.open_file, [OSError(errno.EIO, "Input/output error"), MemoryError()]

    def opening(item: decode.Item) -> Any:
        if item.name.endswith("03.png") and errors:
            raise errors.pop()
        return real(item)

    monkeypatch.setattr(decode, "open_file", opening)
    done = call(*TRAIN, "-q")  # probed, then decoded
    assert done.code == 3 and "03.png  Input/output error" in done.err
    assert not any(json.loads(path.read_bytes()) for path in cache.cache_folder().glob("*.look.json"))
    assert call(*TRAIN, "-q").code == 0 and not errors


# ---- Fuzzing, and reproducibility


@measures
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_mutated_inputs_end_as_documented(kind: str) -> None:
    """The short form of `make fuzz`."""
    codes = fuzz.run(kind, 15, seed=0, every=1000)
    assert sum(codes.values()) >= 10 and codes.keys() & {0, 3}, codes  # not all refused as a command


def test_one_and_two_decoding_processes_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many it takes is in test_pool.py."""
    Path("many").mkdir()
    for value in range(150):
        Image.new("RGB", (16, 16), (value, 0, 255 - value)).save(f"many/{value}.png")
    found = []
    for number in (1, 2):
        Path(str(number)).mkdir()
        monkeypatch.setenv("WGAN_CACHE", f"{number}/cache")
        monkeypatch.setattr(pool, "workers", lambda number=number: number)
        done = call("train", "--data", "many", *SETTINGS, "-o", f"{number}/run")
        scores = call("critic-score", f"{number}/run", "many")
        assert (done.code, scores.code) == (0, 0)
        paths = [Path(str(number), "run", name) for name in ("ckpt.pt", "samples/000004.png", "config.json")]
        found.append([scores.out, *(path.read_bytes() for path in paths)])
    assert found[0] == found[1]
