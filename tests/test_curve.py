"""curve.png, TensorBoard's files, the sparkline, what `wgan info` says of a run, and several runs in one picture."""

from __future__ import annotations

import io
import json
import math
import statistics
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SETTINGS, Ended, call, write_images

from wgan_cli import StoppedError, curve
from wgan_cli import train as training
from wgan_cli.config import resolve
from wgan_cli.console import Console, sparkline
from wgan_cli.data.dataset import Dataset
from wgan_cli.run import Run
from wgan_cli.signals import Stop
from wgan_cli.train import train

COMPARE = Path(__file__).parents[1] / "examples/compare.py"

pytestmark = pytest.mark.usefixtures("drawn")


def run(out: Path, console: Console | None = None, **given: Any) -> None:
    options = {"stop": Stop(given.pop("time_limit", None)), "tensorboard": given.pop("tensorboard", False)}
    small = {"batch": 4, "latent": 3, "width": 8, "steps": 6, "log_every": 1, "save_every": 2, "sample_every": 3}
    config = resolve({**small, **given}, {"size": 16, "channels": 1})[0]
    rows = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 1), dtype=np.uint8)
    train(config, Dataset(rows, "f" * 16), out, torch.device("cpu"), console or Console(io.StringIO()), **options)


def test_the_running_median() -> None:
    assert curve.running_median([1, 9, 2, 3, 100, 4, 5]) == [1, 2, 3, 4, 4, 5, 5]  # the last is itself
    assert curve.running_median([]) == [] and math.isnan(curve.running_median([math.nan])[0])
    noisy = [(i * 7919 % 101) / 10 for i in range(300)]  # with many that are equal
    around = [noisy[max(0, i - 7) : i + min(7, i) + 1] for i in range(300)]
    assert curve.running_median(noisy) == [statistics.median(values) for values in around]
    assert curve.running_median([1, math.nan, 3, 4, 5])[2:] == [3.5, 4, 5]
    line = [float(i) for i in range(200)]
    assert curve.running_median(line)[:195] == line[:195]  # over eleven, none of them moved


def test_of_few_values_each_is_a_dot() -> None:
    """A single comparison makes no line."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    for count, marker in ((1, "o"), (curve.FEW, "None")):
        axes = figure.add_subplot()
        curve.draw_estimate(axes, [{"step": i, "js_training": 0.5} for i in range(count)], "js")
        assert [line.get_marker() for line in axes.lines if line.get_label() == "training data"] == [marker]


def test_the_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([3.0]) == "█" and sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([8, 4, 4, 99, 4, 2, 2, 2], 2) == "█▃"  # the medians 6 and 2
    assert sparkline([-7, 0]) == "▁█"  # the lowest is the bottom where it is under 0
    assert len(sparkline(list(range(1000)))) == 16


@pytest.mark.parametrize("terminal", [True, False])
def test_the_sparkline_is_shown_on_a_terminal_without_colours(
    terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    ticks = iter(range(0, 10**6, 20))
    monkeypatch.setattr("wgan_cli.console.time", types.SimpleNamespace(monotonic=lambda: float(next(ticks))))
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    run(tmp_path, Console(stream))
    drawn = [line for line in stream.getvalue().split("\r") if "training 5/6" in line]
    assert drawn and (drawn[0][-1] in "▁▂▃▄▅▆▇█") == terminal
    assert "\033[" not in stream.getvalue().replace("\033[K", "")


@pytest.mark.parametrize("variant", ["gp", "clip", "ns"])
def test_the_picture_follows_from_the_run_to_the_last_byte(variant: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run(tmp_path, variant=variant)
    log, picture = tmp_path / "metrics.jsonl", tmp_path / "curve.png"
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG")
    curve.write(tmp_path)
    assert picture.read_bytes() == first
    (tmp_path / "samples/a-holiday.png").write_bytes(b"mine")
    with open(log, "ab") as file:
        file.write(b'{"step": 7, "wasser')  # being written just now
    curve.write(tmp_path)
    assert picture.read_bytes() == first
    (tmp_path / "samples/newest.png").unlink()
    curve.write(tmp_path)
    assert picture.read_bytes() != first


@pytest.mark.parametrize("records", [[], [{"step": 3, "verdict": "diverged"}], [{"step": 1, "js": 0.1}]])
def test_the_picture_of_hardly_anything(records: list[dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    curve.write(tmp_path)
    assert (tmp_path / "curve.png").exists()


def test_a_logarithmic_scale_where_the_medians_span_a_decade() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    for number, (last, scale) in enumerate([(0.5, "log"), (2.0, "linear"), (-1.0, "linear")]):
        axes = figure.add_subplot(3, 1, number + 1)
        records = [
            {"step": step, "wasserstein": -9.0, "wasserstein_training": 10.0 if step < 50 else last}
            for step in range(100)
        ]
        curve.draw_estimate(axes, records, "wasserstein")
        assert axes.get_yscale() == scale


def test_without_matplotlib_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    stream = io.StringIO()
    run(tmp_path, Console(stream))
    (line,) = [line for line in stream.getvalue().splitlines() if "matplotlib" in line]
    assert "pip install 'wgan[plot]'" in line and not (tmp_path / "curve.png").exists()


def test_drawing_takes_a_hundredth_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by a second when it is looked at, and by five more for a picture; all steps save."""
    now, drawn = [0.0], []

    def second() -> float:
        now[0] += 1
        return now[0]

    def write(out: Path) -> bool:
        drawn.append(now[0])
        now[0] += 5
        return True

    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=second))
    monkeypatch.setattr(training, "FIRST_SAVE", math.inf)
    monkeypatch.setattr(curve, "write", write)
    monkeypatch.setattr(Run, "save", lambda *given, **named: None)  # which waits for the disk
    run(tmp_path, steps=400, save_every=1, arch="mlp", n_critic=1, sample_every=1000, log_every=1000)
    gaps = np.diff(drawn[:-1])  # the last is that of the end
    assert drawn[0] >= 100 and len(gaps) >= 2 and all(600 <= gap <= 602 for gap in gaps)  # 6 s each


# ---- TensorBoard


def test_tensorboard_has_each_step_once_after_a_run_was_continued(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, steps=4, save_every=100, tensorboard=True)
    content = (tmp_path / "ckpt.pt").read_bytes()
    run(tmp_path, steps=8, save_every=100, tensorboard=True)
    (tmp_path / "ckpt.pt").write_bytes(content)  # as after a kill -9 at step 8
    run(tmp_path, steps=10, save_every=100, tensorboard=True)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("wasserstein", "penalty", "generator_loss"):
        assert [event.step for event in events.Scalars(name)] == list(range(1, 11))
    records = curve.read(tmp_path / "metrics.jsonl")
    values = [event.value for event in events.Scalars("wasserstein")]
    assert values == pytest.approx([record["wasserstein"] for record in records])


def test_tensorboard_is_whole_after_a_stop_and_gone_after_force(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(StoppedError):
        run(tmp_path, time_limit=0.0, tensorboard=True)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("wasserstein")] == [1]
    Run(tmp_path, Console(io.StringIO())).prepare(resolve({}, {})[0], fresh=True)
    assert not list((tmp_path / "tensorboard").iterdir())


def test_tensorboard_is_asked_for_before_anything_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wgan_cli.cli.train.find_spec", lambda name: None)
    done = call("train", "--data", "no such folder", "--tensorboard", "-o", tmp_path / "run")
    assert done == Ended(2, b"", done.err) and "pip install 'wgan[tensorboard]'" in done.err
    assert len(done.err.splitlines()) == 1 and not (tmp_path / "run").exists()


# ---- info, and several runs


def test_info_tells_of_a_run(tmp_path: Path) -> None:
    images = write_images(tmp_path / "imgs")
    assert call("train", "--data", images, *SETTINGS, "-o", tmp_path / "run").code == 0
    facts = json.loads(call("info", tmp_path / "run", "--json").out)
    assert facts["run"]["verdict"] == "too-early" and len(facts["run"]["estimate_so_far"]) == 4
    assert facts["checkpoint"]["holdout"] == 0.05 and facts["checkpoint"]["data_count"] == 32
    text = call("info", tmp_path / "run/ckpt.pt").out.decode()
    assert "verdict                too-early\n" in text and facts["run"]["estimate_so_far"] in text
    (tmp_path / "run/metrics.jsonl").unlink()
    assert "run" not in json.loads(call("info", tmp_path / "run", "--json").out)


def test_several_runs_in_one_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for variant in ("gp", "ns"):
        run(tmp_path / variant, variant=variant)
    command = [sys.executable, str(COMPARE), "gp", "ns", "-o", "both.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "both.png\n", "")
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*command[:2], "nothing"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing/metrics.jsonl: No such file" in done.stderr
