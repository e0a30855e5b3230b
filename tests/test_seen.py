"""A run and its data: what is the same, what has changed, and what was trained on whatever has changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Ended, call

from wgan_cli import checkpoint as checkpoints
from wgan_cli.config import TrainConfig
from wgan_cli.data import decode, decoding, seen
from wgan_cli.data.dataset import Dataset
from wgan_cli.data.seen import Seen
from wgan_cli.data.split import held_out_by_format_1

WORDS = "--arch mlp --width 4 --size 16 --channels 3 --batch 8 --n-critic 1 --log-every 1 --holdout 0.2".split()


def images(folder: Path, first: int, last: int, form: str = "png") -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(first, last):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.{form}")
    return folder


def train(data: Path, out: Path, steps: int, *more: str) -> Ended:
    return call("train", "--data", data, "-o", out, "--steps", str(steps), *WORDS, *more)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """One step on 60 images."""
    done = train(images(tmp_path / "imgs", 0, 60), tmp_path / "run", 1)
    assert done.code == 0, done.err
    return tmp_path / "run"


def known(run: Path) -> Seen:
    content, config = checkpoints.load(run / "ckpt.pt")
    return Seen.of(content["data"], config)


def test_a_checkpoint_tells_each_image_and_its_side(run: Path, tmp_path: Path) -> None:
    found = known(run)
    assert found.contents is not None and len(np.unique(found.contents)) == found.count == 60
    assert found.held.sum() == 12 and not len(found.gone) and not found.changes
    info = call("info", run)
    assert info.code == 0 and "contents" not in info.out.decode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: images(data, 100, 102), "none are gone, and of the 62 that --data now has 2 are new: {}/100.png"),
        (
            lambda data: (data / "000.png").unlink(),
            "images 1 is gone, and of the 59 that --data now has none",
        ),
        (lambda data: shutil.copy(data / "000.png", data / "007.png"), "1 is gone, .* 1 is new: {}/007.png"),
        (lambda data: (data / "000.png").rename(data / "zzz.png"), "the same 60 images in another order"),
        (lambda data: images(data, 100, 120), r"100.png, {0}/101.png, .*/104.png and 15 others\."),
    ],
    ids=["new", "gone", "other", "renamed", "many"],
)
def test_changed_data_are_refused_and_the_change_is_told(run: Path, change: Any, words: str) -> None:
    data = run.parent / "imgs"
    change(data)
    done = train(data, run, 2)
    assert done.code == 2 and "on other data" in done.err and "--new-data" in done.err
    assert re.search(words.format(data), done.err), done.err


def test_a_run_goes_on_with_new_data_and_every_image_known_keeps_its_side(run: Path) -> None:
    data, before = run.parent / "imgs", known(run)
    trained = before.trained_on
    for name in ("003.png", "004.png", "005.png", "006.png", "007.png"):
        (data / name).unlink()
    images(data, 100, 140)
    done = train(data, run, 2, "--new-data")
    assert done.code == 0 and "other data from step 1 on: of its 60 images 5 are gone" in done.err
    after = known(run)
    assert after.contents is not None and before.contents is not None
    assert after.count == 95 and after.changes == [{"step": 1, "fingerprint": after.fingerprint, "count": 95}]
    assert set(after.gone.tolist()) == set(trained.tolist()) - set(after.contents.tolist()) and len(after.gone)
    assert set(after.trained_on.tolist()) >= set(trained.tolist())
    held = set(after.contents[after.held].tolist())
    assert held & set(before.contents.tolist()) == set(before.contents[before.held].tolist()) & set(
        after.contents.tolist()
    )
    assert len(held - set(before.contents.tolist())) == 8  # a fifth of the new ones
    done = train(data, run, 3)
    assert done.code == 0 and "other data" not in done.err  # it is the run's own now
    assert len(known(run).changes) == 1
    images(data, 3, 8)  # back again: what was trained on is not held out now
    assert train(data, run, 4, "--new-data").code == 0
    last = known(run)
    assert last.contents is not None and not set(last.contents[last.held].tolist()) & set(trained.tolist())
    assert [change["step"] for change in last.changes] == [1, 3]


def test_new_data_of_which_too_little_is_left_to_train_on_is_refused(run: Path) -> None:
    held = {name for name, out in zip(sorted((run.parent / "imgs").iterdir()), known(run).held, strict=True) if out}
    for path in set((run.parent / "imgs").iterdir()) - held:
        path.unlink()
    data = images(run.parent / "imgs", 100, 107)
    before = (run / "ckpt.pt").read_bytes()
    done = train(data, run, 2, "--new-data")
    assert done.code == 3 and "7 images to train on, fewer than --batch 8: the other 12 were held out" in done.err
    assert (run / "ckpt.pt").read_bytes() == before


def test_new_data_of_a_run_that_has_the_same_change_nothing(run: Path) -> None:
    assert train(run.parent / "imgs", run, 2, "--new-data").code == 0
    assert known(run).changes == []


@pytest.mark.usefixtures("one_process")
def test_another_decoder_is_told_and_does_not_end_a_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = decode._fitted

    def brighter(image: Image.Image, *arguments: Any) -> Image.Image:
        return real(image, *arguments).point(lambda value: min(255, value + 1))

    monkeypatch.setattr(decode, "_fitted", brighter)
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path / "another"))
    before = known(run)
    done = train(run.parent / "imgs", run, 2)
    assert done.code == 0 and "another version of Pillow" in done.err
    after = known(run)
    assert after.fingerprint == before.fingerprint and after.pixels != before.pixels
    done = call("evaluate", run, "--data", run.parent / "imgs", "--json", "-n", "6")
    assert "the 12 of it that were held out" in done.err and json.loads(done.out.splitlines()[0])["data_count"] == 12


def test_the_same_pixels_in_other_files_are_the_same_data(run: Path) -> None:
    data = run.parent / "imgs"
    for path in sorted(data.iterdir()):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    assert train(data, run, 2).code == 0
    assert known(run).held.sum() == 12


def as_format_1(path: Path) -> None:
    content, config = checkpoints.load(path)
    data = content["data"]
    content |= {"format": 1, "data": {"fingerprint": data["pixels"], "count": data["count"]}}
    content["data"]["batches"] = data["batches"]
    torch.save(content, path)


def test_checkpoints_of_format_1_are_read_and_gone_on_with(run: Path) -> None:
    as_format_1(run / "ckpt.pt")
    data = run.parent / "imgs"
    assert known(run).contents is None
    commands: list[list[str | Path]] = [
        ["sample", run, "-o", run / "x.png"],
        ["critic-score", run, data],
        ["info", run],
    ]
    for command in commands:
        done = call(*command)
        assert done.code == 0, done.err
    done = call("evaluate", run, "--data", data, "--json", "-n", "6")
    assert "the 12 of it that were held out" in done.err
    held = held_out_by_format_1(60, 0.2, 8, 0)
    assert held.sum() == 12
    images(data, 100, 101)
    done = train(data, run, 2, "--new-data")
    assert done.code == 2 and "60 samples, while --data now has 61" in done.err and "--new-data" not in done.err
    (data / "100.png").unlink()
    done = train(data, run, 2)
    assert done.code == 0 and "another order" in done.err
    assert known(run).held.tolist() == held.tolist()
    assert checkpoints.load(run / "ckpt.pt")[0]["format"] == 2


def test_what_format_1_held_out_is_what_numpy_says_today() -> None:
    assert np.flatnonzero(held_out_by_format_1(100, 0.05, 4, 0)).tolist() == [17, 35, 45, 67, 74]
    assert not held_out_by_format_1(19, 0.05, 4, 0).any() and not held_out_by_format_1(100, 0.0, 4, 0).any()


def test_parts_that_do_not_go_together_are_damage(run: Path) -> None:
    content, _ = checkpoints.load(run / "ckpt.pt")
    block = content["data"]
    assert seen.wrong_in(block, 0) == []
    for name, value in {
        "held": 1 - block["held"],
        "contents": block["contents"][:-1],
        "gone": torch.zeros(3, 7, dtype=torch.uint8),
    }.items():
        assert seen.wrong_in({**block, name: value}, 0) == [name]
    torch.save({**content, "data": {**block, "held": 1 - block["held"]}}, run / "ckpt.pt")
    done = call("info", run)
    assert done.code == 3 and "do not go together: held" in done.err


def test_sides_of_points_follow_from_their_place() -> None:
    points = Dataset(np.zeros((100, 2), np.float32), "a" * 16, pixels="a" * 16)
    points.split(0.2, 8, 0)
    found = Seen.of(seen.block(points, 0), TrainConfig())
    assert points.held is not None and found.sides(points)[1].tolist() == points.held.tolist()
    other = Dataset(np.zeros((100, 2), np.float32), "b" * 16, pixels="b" * 16)
    assert not any(side.any() for side in found.sides(other))


@pytest.mark.usefixtures("one_process")
def test_a_command_stopped_while_it_decodes_goes_on_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(tmp_path / "imgs", 0, 40)
    opened: list[str] = []
    real = decode.read_file

    def stopped(item: decode.Item, *arguments: Any, **named: Any) -> decode.Read:
        opened.append(item.name)
        if len(opened) == 11:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(item, *arguments, **named)

    monkeypatch.setattr(decoding, "read_file", stopped)
    done = train(data, tmp_path / "run", 1)
    assert done.code == 143
    assert "Stopped by SIGTERM at image 11 of 40; what is decoded stays" in done.err
    assert "To go on: wgan train --data" in done.err
    done = train(data, tmp_path / "run", 1)
    assert done.code == 0 and "going on at image 11 of 40" in done.err
    assert len(opened) == 40
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path / "another"))
    done = train(data, tmp_path / "run", 1, "--time-limit", "0s")
    assert done.code == 75 and "Stopped by the time limit at image 1 of 40" in done.err
