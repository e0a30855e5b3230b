"""The shortest form of every experiment in examples/, from its `make` target to its picture and verdict."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = re.findall(r"\S+", re.search(r"^EXPERIMENTS := (.*)$", (EXAMPLES / "Makefile").read_text(), re.M)[1])  # type: ignore[index]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    wgan = shutil.which("wgan", path=str(Path(sys.executable).parent))
    assert wgan
    done = subprocess.run(
        ["make", "-C", EXAMPLES, "-j2", "all", "QUICK=1", f"OUT={folder}", f"PYTHON={sys.executable}", f"WGAN={wgan}"],
        capture_output=True,
        text=True,
        env={**os.environ, "WGAN_CACHE": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_there_are_nine() -> None:
    assert len(NAMES) == 9
    page = (EXAMPLES / "README.md").read_text()
    for name in NAMES:  # each with its command and its picture on the page
        assert f"make -C examples {name}" in page
        assert f"pictures/{name}.png" in page
        assert (EXAMPLES / "pictures" / f"{name}.png").stat().st_size < 60_000


@pytest.mark.parametrize("name", NAMES)
def test_ends_in_a_picture_and_a_verdict_with_figures(out: Path, name: str) -> None:
    verdict = (out / f"{name}.txt").read_text()
    assert re.fullmatch(rf"(PASS|FAIL) {name}: .*\d.*limit.*\n", verdict)
    with Image.open(out / f"{name}.png") as picture:
        assert picture.format == "PNG"
        assert 400 <= picture.width <= 1000
        assert 150 <= picture.height <= 1000
    assert (out / f"{name}.png").stat().st_size < 60_000
