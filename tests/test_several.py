"""evaluate with repeats, a choice of figures, several checkpoints, and a picture of them."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluate import write_model
from tiny import call, new_run, save

from wgan_cli import evaluate, features, metrics, plot
from wgan_cli.cli.evaluate import _value

needs_scipy = pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="no scipy: pip install scipy")
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="no matplotlib: pip install matplotlib"
)


def records(*words: str | Path) -> list[dict[str, Any]]:
    done = call("evaluate", *words, "--json")
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def runs(folder: Path, *given: dict[str, Any]) -> list[Path]:
    """Checkpoints of generators with other weights."""
    return [save(new_run(seed=seed, **more), folder / f"{seed}.pt") for seed, more in enumerate(given or [{}] * 3)]


# ---- Repeats


def test_repeats_are_calls_with_the_next_seeds(checkpoint: Path, images: Path) -> None:
    words = (checkpoint, "--data", images, "--train", images, "-n", "10")
    single = [records(*words, "--seed", str(seed)) for seed in (4, 5, 6)]
    for number, record in enumerate(records(*words, "--seed", "4", "--repeats", "3")):
        each = [one[number] for one in single]
        for side in ("samples", "data"):
            values = [one[side] for one in each]
            assert record[side] == pytest.approx(statistics.mean(values))
            assert record[f"{side}_std"] == pytest.approx(statistics.stdev(values))
        assert record["repeats"] == 3 and record["seed"] == 4
        assert record.keys() == each[0].keys()
        assert (each[0]["samples_std"], each[0]["data_std"], each[0]["repeats"]) == (None, None, 1)
    assert any(record["samples_std"] > 0 < record["data_std"] for record in records(*words, "--repeats", "2"))


def test_repeats_in_the_table(checkpoint: Path, images: Path) -> None:
    words = (checkpoint, "--data", images, "--seed", "4", "--figures", "swd,coverage")
    text = call("evaluate", *words, "--repeats", "3").out.decode().splitlines()
    assert text[0].startswith("N 16, seeds 4 to 6, pixels")
    for line, record in zip(text[2:], records(*words, "--repeats", "3"), strict=True):
        cells = [_value(record[side], record[f"{side}_std"]) for side in ("samples", "data")]
        assert line.startswith(f"{record['figure']:20} {cells[0]:>18} {cells[1]:>18}  {record['better']}")
    assert "±" not in call("evaluate", *words).out.decode()


@pytest.mark.parametrize(
    ("mean", "deviation", "shown"),
    [
        (7.1981, None, "7.1981"),
        (7.1981, 0.3123, "7.20 ± 0.31"),
        (0.679, 0.0096, "0.6790 ± 0.0096"),
        (123.4, 56.7, "123 ± 57"),
        (12345.6, 1234.4, "12346 ± 1234"),
        (1.0, 0.0, "1 ± 0"),
        (3e-9, 1.25e-9, "3e-09 ± 1.3e-09"),
    ],
)
def test_a_value_has_the_digits_that_its_deviation_leaves(mean: float, deviation: float | None, shown: str) -> None:
    assert _value(mean, deviation) == shown


# ---- A choice of figures


@pytest.mark.parametrize(
    ("asked", "found", "idle"),
    [
        ("swd", ["swd_28", "swd_14"], ["coverage_each", "exact_wasserstein", "radii"]),
        ("swd_14", ["swd_14"], ["coverage_each", "exact_wasserstein"]),
        ("density", ["density"], ["level_each", "exact_wasserstein", "sliced_each"]),
        ("coverage, swd_28", ["swd_28", "coverage"], ["exact_wasserstein", "nearest"]),
        ("train", ["train_distance", "train_nearer"], ["level_each", "coverage_each", "exact_wasserstein"]),
        ("fid,recall", ["frechet_distance", "recall"], ["level_each", "coverage_each", "kernel_each", "nearest"]),
        ("kid", ["kernel_distance"], ["level_each", "coverage_each", "frechet_each", "radii", "nearest"]),
        pytest.param("wasserstein", ["wasserstein_1"], ["level_each", "coverage_each"], marks=needs_scipy),
    ],
)
def test_nothing_but_what_is_asked_for_is_computed(
    asked: str, found: list[str], idle: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(0, 256, (20, 28, 28, 3), np.uint8))
    path, data = save(new_run(28, arch="mlp"), tmp_path / "ckpt.pt"), tmp_path / "data.npy"
    words: list[str | Path] = [path, "--data", data, "--train", data]
    words += ["--features", write_model(tmp_path / "model.pt", (64, 3, 28, 28))]
    whole = {record["figure"]: record for record in records(*words)}

    def never(*_: Any) -> Any:
        raise AssertionError

    for name in idle:
        monkeypatch.setattr(metrics, name, never)
    if not {"fid", "kid", "train", "density", "coverage"} & set(asked.replace(" ", "").split(",")):
        monkeypatch.setattr(features, "load_features", never)
    assert records(*words, "--figures", asked) == [whole[name] for name in found]


def test_one_level_cuts_no_other(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).integers(0, 256, (20, 28, 28, 3), np.uint8))
    path, cut, levels = save(new_run(28, arch="mlp"), tmp_path / "ckpt.pt"), metrics._cut, set[int]()

    def watched(images: Any, level: int, *more: int) -> Any:
        levels.add(level)
        return cut(images, level, *more)

    monkeypatch.setattr(metrics, "_cut", watched)
    records(path, "--data", tmp_path / "data.npy", "--figures", "swd_14")
    assert levels == {1}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("cake", "--figures cake: no such figure; of images of 16 pixels there are swd, swd_16, wasserstein"),
        ("swd,swd_28", "--figures swd_28: no such figure; of images of 16 pixels there are swd, swd_16"),
        ("", "--figures : no such figure"),
        ("sliced_wasserstein", "no such figure"),
        ("fid", "--figures fid: frechet_distance needs --features"),
        ("swd,precision", "--figures swd,precision: precision needs --features"),
        ("train", "--figures train: train_distance, train_nearer needs --train"),
    ],
)
def test_figures_that_are_none_are_told_at_once(asked: str, said: str, checkpoint: Path) -> None:
    done = call("evaluate", checkpoint, "--data", "nowhere", "--figures", asked)
    assert (done.code, done.out) == (2, b"") and said in done.err
    if "no such" in said:
        assert "kernel_distance, precision, recall, coverage, density, train, train_distance, train_nearer" in done.err


def test_figures_of_points(tmp_path: Path) -> None:
    path = save(new_run(0, 2), tmp_path / "ckpt.pt")
    (found,) = records(path, "--data", "toy:8gaussians", "-n", "50", "--figures", "swd")
    assert found["figure"] == "sliced_wasserstein"
    done = call("evaluate", path, "--data", "toy:8gaussians", "--figures", "swd_16")
    assert done.code == 2 and "of points there are swd, sliced_wasserstein, wasserstein" in done.err


@needs_scipy
def test_an_exact_matching_beyond_the_limit_is_made_when_asked_for(
    checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = records(checkpoint, "--data", images, "--figures", "wasserstein")
    monkeypatch.setattr(evaluate, "MATCHED", 15)
    for name in ("wasserstein", "wasserstein_1"):
        done = call("evaluate", checkpoint, "--data", images, "--figures", name, "--json")
        assert [json.loads(line) for line in done.out.splitlines()] == small
        assert "wasserstein_1: matching 16 points takes 0.0 GB, and time as the cube of N\n" in done.err


def test_what_needs_scipy_is_refused_without(checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = call("evaluate", checkpoint, "--data", images, "--figures", "swd,wasserstein")
    assert done.code == 2 and "wasserstein_1 needs scipy: pip install 'wgan[evaluate]'" in done.err
    assert "scipy" not in call("evaluate", checkpoint, "--data", images, "--figures", "swd").err


# ---- Several checkpoints


def test_several_checkpoints_have_the_figures_of_each(images: Path, tmp_path: Path) -> None:
    paths = runs(tmp_path)
    more = ("--data", images, "--train", images, "--features", write_model(tmp_path / "model.pt"), "--repeats", "2")
    found = records(*paths, *more)
    assert [record["checkpoint"] for record in found[:4]] == [*map(str, paths), str(paths[0])]
    for place, path in enumerate(paths):
        assert found[place::3] == records(path, *more)


def test_the_reference_is_computed_once(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, calls = runs(tmp_path), list[str]()

    def counted(name: str, function: Callable[..., Any], *given: Any) -> Any:
        calls.append(name)
        return function(*given)

    for name in ("radii", "_normal", "_within", "_patches"):
        monkeypatch.setattr(metrics, name, partial(counted, name, getattr(metrics, name)))
    records(*paths, "--data", images, "--features", write_model(tmp_path / "m.pt"), "--figures", "coverage,fid,kid,swd")
    assert {name: calls.count(name) for name in set(calls)} == {"radii": 1, "_normal": 5, "_within": 5, "_patches": 5}


def test_several_checkpoints_in_the_table(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = runs(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    paths[2].rename("run/ckpt.pt")
    words = ("0.pt", "run/", "1.pt", "--data", images, "--figures", "swd,coverage")
    text = call("evaluate", *words).out.decode().splitlines()
    assert text[1].split() == ["figure", "0.pt", "run/", "1.pt", "data", "better", "method"]
    found = records(*words)
    assert [record["checkpoint"] for record in found[:3]] == ["0.pt", "run/", "1.pt"]
    for number, line in enumerate(text[2:]):
        three = found[3 * number : 3 * number + 3]
        shown = [f"{r['samples']:.5g}{mark}" for r, mark in zip(three, evaluate.marks(three), strict=True)]
        assert line.split()[1:5] == [*shown, f"{three[0]['data']:.5g}"]
    assert text[2].count("*") == 1 and "*" not in text[1]


def record(value: float, deviation: float | None = None, repeats: int = 1, better: str = "lower") -> dict[str, Any]:
    return {"samples": value, "samples_std": deviation, "repeats": repeats, "better": better, "data": 1.0}


def test_the_best_is_marked_and_whether_noise_may_have_made_it() -> None:
    """Three and four, of which each has a deviation of 0.3: the root of twice their squares' sum is 0.85."""
    marks = evaluate.marks
    assert marks([record(3)]) == [""]
    assert marks([record(4), record(3), record(5)]) == ["", "*", ""]
    assert marks([record(4, better="higher"), record(3, better="higher")]) == ["*", ""]
    assert marks([record(v, better="as data") for v in (0.2, 1.4, 3)]) == ["", "*", ""]
    assert marks([record(v, better="near 0.5") for v in (0.2, 0.7, 0.9)]) == ["", "*", ""]
    assert marks([record(3), record(3), record(4)]) == ["*", "*", ""]
    assert marks([record(3, 0.3, 3), record(4, 0.3, 3)]) == ["**", ""]
    assert marks([record(3, 0.3, 3), record(3.84, 0.3, 3), record(9, 0.3, 3)]) == ["*", "", ""]
    assert marks([record(3, 0.3, 2), record(4, 0.3, 2)]) == ["*", ""]  # two repeats tell no deviation
    assert marks([record(3, 0.0, 3), record(3, 0.0, 3)]) == ["*", "*"]


def test_checkpoints_that_one_reference_does_not_serve(images: Path, tmp_path: Path) -> None:
    others = {
        "grey": new_run(channels=1),
        "large": new_run(32),
        "points": new_run(0, 2),
        "padded": new_run(fit="pad"),
        "mirrored": new_run(flip=True),
    }
    first = save(new_run(), tmp_path / "first.pt")
    said = {
        "grey": "grey 16x16 images (--fit crop)",
        "large": "colour 32x32 images (--fit crop)",
        "points": "points",
        "padded": "colour 16x16 images (--fit pad)",
    }
    for name, state in others.items():
        path = save(state, tmp_path / f"{name}.pt")
        done = call("evaluate", first, path, "--data", images, "--figures", "swd")
        if name in said:
            assert (done.code, done.out) == (2, b"")
            assert f"{first} was trained on colour 16x16 images (--fit crop), {path} on {said[name]}; " in done.err
        else:
            assert done.code == 0
    done = call("evaluate", first, tmp_path / "mirrored.pt", "--data", images, "--train", images)
    assert done.code == 2 and "on colour 16x16 images (--fit crop, mirrored too); evaluate each by itself" in done.err
    assert call("evaluate", first, tmp_path / "none.pt", "--data", images).code == 2
    assert call("evaluate", "--data", images).code == 2


def test_only_what_no_run_was_trained_on_is_compared_with(images: Path, tmp_path: Path) -> None:
    words = "--size 16 --width 4 --batch 4 --steps 1 --holdout 0.5".split()
    for seed in ("1", "2"):
        done = call("train", "--data", images, *words, "--seed", seed, "-o", tmp_path / seed)
        assert done.code == 0, done.err
    one, two = tmp_path / "1", tmp_path / "2"
    both = call("evaluate", one, two, "--data", images, "-n", "6", "--json")
    if both.code == 0:  # half of a half, more or less
        count = json.loads(both.out.splitlines()[0])["data_count"]
    else:
        count = int(both.err.partition("--data holds ")[2].split()[0])
    assert 0 < count < 16
    same = call("evaluate", one, one / "ckpt.pt", "--data", images, "-n", "6", "--json")
    assert json.loads(same.out.splitlines()[0])["data_count"] == 16
    assert same.err.count("compared with the 16 of it that were held out") == 1
    done = call("evaluate", one, two, "--data", images, "--train", images, "-n", "6")
    assert done.code == 2 and f"--train: {one} and {two} were trained on different parts of it" in done.err


# ---- The picture


def test_numbered_checkpoints_stand_at_their_steps() -> None:
    assert plot.steps(["run/ckpt-000100.pt", "run/ckpt-000050.pt"]) == [100, 50]
    assert plot.steps(["a/ckpt-000100.pt", "b/ckpt-000100.pt"]) is None
    assert plot.steps(["run/ckpt-000100.pt", "run/ckpt.pt"]) is None


@needs_matplotlib
def test_a_panel_has_points_bars_and_the_line_of_data() -> None:
    from matplotlib.figure import Figure

    axes: Any = Figure().add_subplot()
    found = [record(v, s, 3) | {"checkpoint": f"ckpt-{n}.pt", "data_std": 0.25} for v, s, n in [(3, 1, 20), (5, 2, 10)]]
    plot._panel(axes, found, [20, 10])
    points, data = axes.lines[0], axes.lines[-1]
    assert points.get_xydata().tolist() == [[10, 5], [20, 3]] and points.get_linestyle() == "-"
    (bars,) = axes.collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[3, 7], [2, 4]]
    assert set(data.get_ydata()) == {1.0}
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((0.75, 1.25))


@needs_matplotlib
def test_long_names_leave_room_for_the_picture() -> None:
    assert plot.labels(["run/ckpt.pt", "a" * 30 + "/ckpt.pt"]) == ["run/ckpt.pt", "…" + "a" * 15 + "/ckpt.pt"]
    assert plot.labels(["/x/y/a/ckpt.pt", "/x/y/b"]) == ["a/ckpt.pt", "b"] and plot.labels(["/x/a"]) == ["a"]
    assert plot.labels(["/x/a/"]) == ["a"] and plot.labels(["x/a/", "x/b/"]) == ["a", "b"]
    assert plot.labels(["a", "b/c"]) == ["a", "b/c"] and plot.labels(["/a", "/b"]) == ["a", "b"]


def test_a_picture_of_several_checkpoints(images: Path, tmp_path: Path) -> None:
    paths = runs(tmp_path)
    for more in ((), ("--repeats", "2")):
        out = tmp_path / "new" / "figures.png"  # in a folder that is not there yet
        done = call("evaluate", *paths, "--data", images, "--figures", "swd,coverage", "--plot", out, *more)
        assert done.code == 0 and f"{out} shows it" in done.err
        assert out.read_bytes().startswith(b"\x89PNG") and len(done.out.splitlines()) == 4
        first = out.read_bytes()
        call("evaluate", *paths, "--data", images, "--figures", "swd,coverage", "--plot", out, *more)
        assert out.read_bytes() == first


def test_a_picture_that_cannot_be_is_told_at_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, said in (("x.jpg", "name it with .png at its end"), ("ckpt.pt/x.png", "is not a folder")):
        (tmp_path / "ckpt.pt").touch()
        done = call("evaluate", checkpoint, "--data", "nowhere", "--plot", tmp_path / name)
        assert done.code == 2 and said in done.err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call("evaluate", checkpoint, "--data", "nowhere", "--plot", tmp_path / "x.png")
    assert done.code == 2 and "needs matplotlib, as in pip install 'wgan[plot]'" in done.err
