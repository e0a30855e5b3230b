"""The shortest form of every experiment in examples/, from its `make` target to its picture and verdict."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import call

from wgan_cli.curve import read
from wgan_cli.data.toys import toy_points

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = re.search(r"^EXPERIMENTS := (.*)$", (EXAMPLES / "Makefile").read_text(), re.M)[1].split()  # type: ignore[index]
PAGE = (EXAMPLES / "README.md").read_text()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    toy = "--data toy:8gaussians --variant gp --width 128 --batch 128 --lr 5e-4 --gp-weight 0.1 --betas 0.5,0.9"
    interrupted = call("train", *toy.split(), "--holdout", "0", "--steps", "1", "-o", folder / "8gaussians-gp")
    assert interrupted.code == 0
    done = subprocess.run(
        ["make", "-j2", "-C", EXAMPLES, "all", "QUICK=1", f"OUT={folder}", f"PYTHON={sys.executable}"],
        capture_output=True,
        text=True,
        env={**os.environ, "WGAN_CACHE": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_there_are_nine() -> None:
    assert len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_its_command_picture_and_verdict(name: str) -> None:
    section = re.search(rf"### \d [^#]*: `make -C examples {name}`\n(.*?)\n##", PAGE, re.S)
    assert section and f"pictures/{name}.png" in section[1]
    assert (EXAMPLES / "pictures" / f"{name}.png").stat().st_size < 60_000
    table = re.search(rf"^\| `{name}` \| (PASS|FAIL) \|", PAGE, re.M)
    assert table and f"**{table[1]}**: " in section[1]


@pytest.mark.parametrize("name", NAMES)
def test_ends_in_a_picture_and_a_verdict_with_figures(out: Path, name: str) -> None:
    verdict = (out / f"{name}.txt").read_text()
    assert re.fullmatch(rf"(PASS|FAIL) {name}: .*\d.*limit.*\n", verdict)
    with Image.open(out / f"{name}.png") as picture:
        assert picture.format == "PNG"
        assert 400 <= picture.width <= 1000
        assert 150 <= picture.height <= 1000
    assert (out / f"{name}.png").stat().st_size < 60_000


def test_an_interrupted_run_goes_on(out: Path) -> None:
    assert read(out / "8gaussians-gp/metrics.jsonl")[-1]["step"] == 3


def test_data_cover_their_own_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    modes_covered, near_roll = import_module("claims").modes_covered, import_module("gaussians").near_roll

    # Two dimensions, 3 deviations: 1 - exp(-9 / 2) of them.
    for name, count in (("8gaussians", 8), ("25gaussians", 25)):
        points = toy_points(name)[:5000]
        assert modes_covered(points, name) == (count, pytest.approx(0.989, abs=0.005))
        assert modes_covered(points[points[:, 0] > 0.1], name)[0] == {8: 3, 25: 10}[count]
    assert near_roll(toy_points("swissroll")[:1000]) > 0.98
    assert near_roll(np.zeros((10, 2))) == 0


def test_rank_correlation_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    rank_correlation = import_module("progress").rank_correlation
    assert rank_correlation([1, 20, 300], [-5, 0, 1]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [40, 30, 20, 10]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
