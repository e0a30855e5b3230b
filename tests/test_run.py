"""The run folder: what it takes for its own, when it saves, and the one way out."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import COMMAND, SETTINGS, call, write_images

from wgan_cli import DivergedError, StoppedError, UsageError, checkpoint, curve, device, step
from wgan_cli import train as training
from wgan_cli.config import resolve
from wgan_cli.console import Console, in_words
from wgan_cli.curve import read
from wgan_cli.data.dataset import Batch, Dataset
from wgan_cli.files import newest_checkpoint
from wgan_cli.run import Run, check_folder
from wgan_cli.signals import Stop

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(stream: io.StringIO | None = None, out: str = "run", **given: Any) -> Path:
    """A run in this process: of an mlp on 8 images, 3 critic steps to a step."""
    small = {"arch": "mlp", "width": 4, "latent": 2, "batch": 4, "n_critic": 3, "steps": 4, "log_every": 1}
    options = {"stop": given.pop("stop", Stop()), "faster": given.pop("faster", "")}
    config = resolve({**small, **given}, {"size": 16, "channels": 1})[0]
    rows = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    return training.train(config, Dataset(rows, "0" * 16), Path(out), CPU, Console(stream or io.StringIO()), **options)


def files(folder: str = "run") -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def foreign() -> dict[str, bytes]:
    Path("mine/samples").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", "curve.png", "samples/0001.png", "samples/000010.png"):
        Path("mine", name).write_bytes(b"{}")
    return files("mine")


# ---- What is of a run, and what is somebody else's


@pytest.mark.parametrize("content", [b"{}", b'{"steps": 3}', b'{"model_type": "bert"}', b"[]", b"not json"])
@pytest.mark.parametrize("flags", [(), ("--force",), ("--dry-run",)])
def test_somebody_elses_files_are_refused_by_name_and_left_as_they_are(content: bytes, flags: tuple[str, ...]) -> None:
    write_images(Path("imgs"))
    foreign()
    Path("mine/config.json").write_bytes(content)
    before = files("mine")
    done = call("train", "--data", "imgs", *SETTINGS, "-o", "mine", *flags)
    assert done.code == 2 and files("mine") == before
    error = done.err.splitlines()[-1]
    assert error.startswith(
        "Error: mine: holds config.json, curve.png, metrics.jsonl, samples/000010.png, and no config"
    )


def test_a_library_call_refuses_them_too() -> None:
    before = foreign()
    with pytest.raises(UsageError, match="holds config.json"):
        run(out="mine")
    assert files("mine") == before


def test_a_checkpoint_beside_somebody_elses_config_is_not_gone_on_with() -> None:
    run()
    Path("run/config.json").write_bytes(b"{}")
    before = files()
    with pytest.raises(UsageError, match="holds config.json, .*metrics.jsonl, samples/000004.png"):
        run(steps=8)
    assert files() == before


def test_a_fresh_start_removes_what_the_run_wrote_and_nothing_else() -> None:
    run(sample_every=2, save_every=2, keep=2)
    for name in ("notes.txt", "samples/0001.png", "samples/best.png", "ckpt-best.pt", "ckpt-1.pt"):
        Path("run", name).write_bytes(b"mine")
    config = resolve({"steps": 7}, {"size": 16, "channels": 1})[0]
    check_folder(Path("run"), config, force=True)
    Run(Path("run"), Console(io.StringIO())).prepare(config, fresh=True)
    kept = {"notes.txt", "samples/0001.png", "samples/best.png", "ckpt-best.pt", "ckpt-1.pt"}
    assert files().keys() == {"config.json", *kept}


# ---- Talk is only talk


def test_training_goes_on_without_anybody_to_talk_to() -> None:
    """The reader of stderr leaves after a line, as in 2> >(head -1)."""
    write_images(Path("imgs"))
    words = [*COMMAND, "train", "--data", "imgs", *SETTINGS, "-v", "-o", "run"]
    reads, writes = os.pipe()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writes)
    os.close(writes)
    assert os.read(reads, 1)
    os.close(reads)
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, b"run/ckpt.pt\n")
    assert checkpoint.load("run/ckpt.pt")[0]["step"] == 4


def test_a_console_whose_stream_breaks_is_silent_from_then_on() -> None:
    tried: list[str] = []

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            tried.append(text)
            raise BrokenPipeError

    console = Console(Broken())
    console.notice("one")
    console.error("two")
    console.progress("three", 1, 2)
    assert tried == ["one\n"]


# ---- Stopped


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_each_signal_that_ends_saves_first(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(Path("imgs"))
    real = step.generator_step

    def signalled(state: Any, batch: Batch) -> Any:
        if state.step == 1:
            os.kill(os.getpid(), number)
        return real(state, batch)

    monkeypatch.setattr("wgan_cli.train.generator_step", signalled)
    done = call("train", "--data", "imgs", *SETTINGS, "-o", "run")
    assert done.code == 128 + number
    stopped, again, following = done.err.splitlines()[-3:]
    assert stopped == f"Stopped by {number.name} at step 2 of 4, saved in run/ckpt.pt"
    assert again.startswith("To go on: wgan train") and following.startswith("Next: wgan sample run/ckpt.pt")
    assert checkpoint.load("run/ckpt.pt")[0]["step"] == 2 and Path("run/samples/newest.png").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no SIGHUP here")
def test_nohup_is_heeded() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.reason() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def stop_amid(monkeypatch: pytest.MonkeyPatch, stop: Stop, figure: float = 0.0) -> None:
    """A signal after the first of the critic's updates of step 3, whose loss is moved by `figure`."""
    real = step.critic_step

    def signalled(state: Any, batch: Batch) -> Any:
        figures = real(state, batch)
        if state.step == 2 and state.batches == 7:
            stop.ended_by = signal.SIGTERM
            figures["critic_loss"] = figures["critic_loss"] + figure
        return figures

    monkeypatch.setattr("wgan_cli.train.critic_step", signalled)


def test_a_stop_amid_a_step_leaves_the_numbered_copy_of_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    run(keep=3, save_every=1, out="whole", steps=2)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop = Stop()
        stop_amid(patch, stop)
        run(keep=3, save_every=1, stop=stop)
    assert sorted(name for name in files() if name.startswith("ckpt")) == [
        "ckpt-000001.pt",
        "ckpt-000002.pt",
        "ckpt.pt",
    ]
    numbered, newest = (checkpoint.load(Path("run", name))[0] for name in ("ckpt-000002.pt", "ckpt.pt"))
    assert (numbered["data"]["batches"], newest["data"]["batches"]) == (6, 7)
    finished = checkpoint.load("whole/ckpt-000002.pt")[0]
    assert all(numbered["critic"][name].equal(weight) for name, weight in finished["critic"].items())


def test_a_stop_amid_a_step_looks_at_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    stop_amid(monkeypatch, stop, float("inf"))
    with pytest.raises(DivergedError, match="at step 3: critic_loss is inf; run/ckpt.pt of step 2 is untouched"):
        run(save_every=2, stop=stop)
    assert checkpoint.load("run/ckpt.pt")[0]["data"]["batches"] == 6
    assert read(Path("run/metrics.jsonl"))[-1] == {"step": 3, "verdict": "diverged"}


# ---- Numbered checkpoints


def test_a_numbered_checkpoint_shares_nothing_with_the_newest() -> None:
    run(save_every=2, sample_every=2, keep=2)
    before = files()
    for name in ("ckpt.pt", "samples/newest.png"):
        Path("run", name).write_bytes(b"as cp writes")
    assert {name for name, content in files().items() if content != before[name]} == {"ckpt.pt", "samples/newest.png"}


def test_without_the_newest_a_run_goes_on_from_the_last_numbered_one() -> None:
    run(out="whole", save_every=2, keep=2, steps=6)
    run(save_every=2, keep=2)
    Path("run/ckpt.pt").unlink()
    assert newest_checkpoint(Path("run")) == Path("run/ckpt-000004.pt")  # for the other commands
    before = files()
    with pytest.raises(UsageError, match="--batch was 4, now 8"):
        run(save_every=2, keep=2, steps=6, batch=8)
    with pytest.raises(UsageError, match="--batch was 4, now 8"):
        check_folder(Path("run"), resolve({"arch": "mlp", "batch": 8}, {"size": 16, "channels": 1})[0])
    assert files() == before
    run(save_every=2, keep=2)  # which has nothing to do
    assert files()["ckpt.pt"] == files()["ckpt-000004.pt"]
    Path("run/ckpt.pt").unlink()
    run(save_every=2, keep=2, steps=6)
    assert files()["ckpt.pt"] == files("whole")["ckpt.pt"] == files()["ckpt-000006.pt"]


def test_a_run_taken_back_drops_the_records_and_the_grids_of_later_steps() -> None:
    run(out="whole", save_every=2, sample_every=2, keep=9, steps=4)
    run(save_every=2, sample_every=2, keep=9, steps=8)
    shutil.copy("run/ckpt-000002.pt", "run/ckpt.pt")
    run(save_every=2, sample_every=2, keep=9, steps=4)
    grids = sorted(name for name in files() if name.startswith("samples/"))
    assert grids == ["samples/000002.png", "samples/000004.png", "samples/newest.png"]
    assert all(files()[name] == files("whole")[name] for name in grids)
    assert [record["step"] for record in read(Path("run/metrics.jsonl"))][-1] == 4


def test_a_numbered_name_of_the_users_is_no_checkpoint() -> None:
    run(save_every=2, keep=1)
    Path("run/ckpt-1.pt").write_bytes(b"mine")
    run(save_every=2, keep=1, steps=8)
    assert sorted(name for name in files() if name.startswith("ckpt-")) == ["ckpt-000008.pt", "ckpt-1.pt"]


def test_the_speed_is_that_of_the_process_that_trains() -> None:
    run(steps=40)
    Path("run/metrics.jsonl").unlink()  # as a stop loses the time since the last record
    run(steps=80)
    last = read(Path("run/metrics.jsonl"))[-1]
    trained = 40 * 3 * 4  # images, of steps, critic steps and a batch
    assert last["images_per_second"] * last["seconds"] == pytest.approx(trained, rel=0.1)


def test_records_are_on_the_disk_before_a_checkpoint_of_whatever_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def replaced(source: Any, target: Any) -> None:
        order.append("-> " + Path(target).name)
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("names descriptors as Linux does")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    stop = Stop()
    stop_amid(monkeypatch, stop)
    with pytest.raises(StoppedError):
        run(save_every=100, sample_every=100, stop=stop)
    assert "metrics.jsonl" in order[order.index("-> newest.png") : order.index("-> ckpt.pt")]


# ---- A picture that cannot be drawn


@pytest.mark.parametrize("steps", [4, 1])
def test_a_picture_that_fails_costs_a_notice(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "write", lambda out: 1 / 0)
    stream = io.StringIO()
    run(stream, steps=steps)
    assert checkpoint.load("run/ckpt.pt")[0]["step"] == steps
    assert stream.getvalue().count("no run/curve.png: ZeroDivisionError: division by zero") == 1


def test_a_picture_that_fails_leaves_divergence_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "write", lambda out: 1 / 0)
    with pytest.raises(DivergedError):
        run(lr=1e30, steps=50)


def test_matplotlib_does_not_talk(tmp_path: Path) -> None:
    """With no place for its caches it has much to say."""
    pytest.importorskip("matplotlib")
    run()
    script = "from pathlib import Path; from wgan_cli import curve; curve.write(Path('run'))"
    nowhere = {
        **os.environ,
        "HOME": "/nonexistent",
        "XDG_CONFIG_HOME": "/nonexistent",
        "XDG_CACHE_HOME": "/nonexistent",
    }
    nowhere.pop("MPLCONFIGDIR", None)
    done = subprocess.run([sys.executable, "-c", script], env=nowhere, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- Saved in time, and how long it takes


def clock(monkeypatch: pytest.MonkeyPatch, tick: float) -> None:
    now = [0.0]

    def monotonic() -> float:
        now[0] += tick
        return now[0]

    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=monotonic))


def test_the_first_checkpoint_and_grid_come_in_the_first_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever --save-every says; the kept files of the finished run are those that it says."""
    seen: list[tuple[int, bool]] = []
    real = step.critic_step

    def watched(state: Any, batch: Batch) -> Any:
        seen.append((state.step, Path("run/ckpt.pt").exists() and Path("run/samples/newest.png").exists()))
        return real(state, batch)

    with monkeypatch.context() as patch:
        patch.setattr("wgan_cli.train.critic_step", watched)
        clock(patch, 1.0)
        run(steps=40, save_every=100, sample_every=100, keep=1)
    first = next(number for number, there in seen if there)
    assert 3 < first < 15  # of some six ticks a step
    run(out="quick", steps=40, save_every=100, sample_every=100, keep=1)
    ours, theirs = files(), files("quick")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours if name not in ("metrics.jsonl", "curve.png"))


def test_how_long_it_takes_is_said_in_words_with_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 10.0)
    stream = io.StringIO()
    run(stream, steps=4, faster="wgan train --preset fast")
    (line,) = [line for line in stream.getvalue().splitlines() if "remaining" in line]
    assert line == "the remaining 2 steps take about 3 minutes on this machine"  # told after a few batches
    monkeypatch.setattr(training, "LONG", 60.0)
    stream = io.StringIO()
    run(stream, out="again", steps=4, faster="wgan train --preset fast")
    assert f"{line}; samples in minutes: wgan train --preset fast\n" in stream.getvalue()


@pytest.mark.parametrize(
    ("threads", "waited", "fewer"),
    [(2, 2.9, 2), (2, 10.0, 1), (2, 40.0, 1), (16, 7.5, 15), (16, 48.0, 12), (1, 15.0, 1)],
)
def test_threads_that_wait_for_busy_processors(threads: int, waited: float, fewer: int) -> None:
    """Beside one other program, two threads on two processors wait two thirds of a thread's time, beside two a
    whole one."""
    assert device.fitting_threads(threads, waited, 15.0) == fewer


def test_how_long_the_threads_have_waited_is_read_where_the_system_tells(tmp_path: Path) -> None:
    for thread, line in (("7", "900 1500000000 3"), ("8", "12 250000000 9")):  # run, waited, times
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(line + "\n")
    assert device.kept_waiting(tmp_path) == 1.75
    assert device.kept_waiting(tmp_path / "none") == 0.0
    assert sys.platform != "linux" or device.kept_waiting() >= 0.0


def test_a_run_that_waits_for_busy_processors_names_fewer_threads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = iter([5.0, 25.0])
    monkeypatch.setattr(training, "kept_waiting", lambda: next(waited))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    clock(monkeypatch, 10.0)
    stream = io.StringIO()
    run(stream, steps=4)
    told = "the 2 threads of this run wait for processors that others use, and so for each other: stopped, and gone on"
    assert stream.getvalue().count(f"{told} with OMP_NUM_THREADS=1, it may be many times as fast\n") == 1
    monkeypatch.setattr(training, "kept_waiting", lambda: 5.0)
    stream = io.StringIO()
    run(stream, out="again", steps=4)
    assert "OMP_NUM_THREADS" not in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "less than a minute"), (75, "about a minute"), (4000, "about 67 minutes"), (9000, "about 2 hours"),
     (90_000, "about 25 hours"), (1_800_000, "about 21 days")],
)  # fmt: skip
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_dry_run_shows_the_settings_then_the_time_then_what_is_in_the_way() -> None:
    write_images(Path("imgs"))
    words = ("train", "--data", "imgs", *SETTINGS, "-o", "run")
    assert call(*words, "-q").code == 0
    before = files()
    done = call(*words, "--lr", "0.5", "--dry-run", "--json")
    assert done.code == 2 and json.loads(done.out)["lr"] == {"value": 0.5, "from": "flag"} and files() == before
    chosen, took, held, error = done.err.splitlines()
    assert chosen.startswith("preset paper: ")
    assert took == "4 steps take less than a minute on this machine, as timed with made-up images"
    assert held.startswith("a step takes about ") and held.endswith(" of memory")
    assert error.startswith("Error: run holds a run with other settings: --lr was 0.0001, now 0.5")
    done = call(*words, "--dry-run")
    assert done.code == 0 and b"lr " in done.out and files() == before
