"""Samples: what they depend on, the forms they are written in, and latents in closed form."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from tiny import call, new_run, save

from wgan_cli import walk
from wgan_cli.sample import GAP, generate, interpolate, latents
from wgan_cli.walk import FRAME, once

SIDE = 16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator whose samples differ well from each other, and from those of its average."""
    state = new_run(ema=0.9, latent=6)
    assert state.ema is not None
    with torch.no_grad():
        for network, scale in ((state.generator, 8.0), (state.ema, 9.0)):
            for parameter in network.parameters():
                parameter.mul_(scale if parameter.dim() > 1 else 1.0)
    return save(state, tmp_path_factory.mktemp("run") / "ckpt.pt")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = new_run(size=0, channels=2, width=8)
    return save(state, tmp_path_factory.mktemp("toy") / "ckpt.pt")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def draw(checkpoint: Path, *words: str) -> NDArray[np.uint8]:
    """Samples [n, 16, 16, 3]."""
    done = call("sample", checkpoint, "-o", "drawn.npy", *words)
    assert done == (0, b"drawn.npy\n", "")
    images: NDArray[np.uint8] = np.load("drawn.npy")
    return images


def pixels(source: Any) -> NDArray[np.uint8]:
    with Image.open(source) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def tile(grid: NDArray[np.uint8], row: int, column: int) -> NDArray[np.uint8]:
    top, left = GAP + row * (SIDE + GAP), GAP + column * (SIDE + GAP)
    return grid[top : top + SIDE, left : left + SIDE]


# ---- Image i follows from (checkpoint, seed, i)


def test_an_image_is_the_same_in_every_form_and_number(checkpoint: Path) -> None:
    images = draw(checkpoint, "-n", "70", "--seed", "5")
    assert images.shape == (70, SIDE, SIDE, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 70
    assert (draw(checkpoint, "-n", "3", "--seed", "5") == images[:3]).all()
    for index in (0, 1, 63, 64, 69):
        assert (draw(checkpoint, "--index", str(index), "--seed", "5") == images[index]).all()
    assert (draw(checkpoint, "--index", "60", "-n", "10", "--seed", "5") == images[60:]).all()
    assert not (draw(checkpoint, "-n", "3", "--seed", "6") == images[:3]).all(axis=(1, 2, 3)).any()

    assert call("sample", checkpoint, "-n", "70", "--seed", "5", "-o", "a.npz").code == 0
    with np.load("a.npz") as archive:
        assert archive.files == ["images"] and (archive["images"] == images).all()
    assert call("sample", checkpoint, "-n", "70", "--seed", "5", "-o", "faces/").out == b"faces/\n"
    assert sorted(os.listdir("faces")) == [f"seed5-{index:06}.png" for index in range(70)]
    assert all((pixels(f"faces/seed5-{index:06}.png") == images[index]).all() for index in range(70))
    assert call("sample", checkpoint, "-n", "70", "--seed", "5", "-o", "grid.PNG").code == 0
    grid = pixels("grid.PNG")  # as square as can be: nine columns
    assert grid.shape == (8 * (SIDE + GAP) + GAP, 9 * (SIDE + GAP) + GAP, 3)
    assert all((tile(grid, *divmod(index, 9)) == images[index]).all() for index in range(70))
    assert (tile(grid, 7, 8) == 0).all()  # and an empty place


def test_a_folder_gets_the_index_in_the_names_and_keeps_what_it_holds(checkpoint: Path) -> None:
    Path("faces").mkdir()
    Path("faces/other.txt").touch()
    assert call("sample", checkpoint, "--index", "37", "--seed", "7", "-o", "faces").code == 0  # a folder already: no /
    assert sorted(os.listdir("faces")) == ["other.txt", "seed7-000037.png"]


def test_a_walk_in_a_folder_has_names_of_its_own(checkpoint: Path) -> None:
    assert call("sample", checkpoint, "-n", "2", "--interpolate", "3", "-o", "walk/").code == 0
    assert sorted(os.listdir("walk")) == [f"seed0-from0-step3-00000{index}.png" for index in range(3)]


@pytest.mark.parametrize("words", [("-n", "70", "--seed", "5", "--index", "9"), ("-n", "3", "--interpolate", "40")])
def test_parts_put_together_are_the_whole(words: tuple[str, ...], checkpoint: Path) -> None:
    assert call("sample", checkpoint, *words, "-o", "whole/").code == 0
    assert call("sample", checkpoint, *words, "-o", "whole.npy").code == 0
    arrays = []
    for number in range(1, 4):
        shard = ("--shard", f"{number}/3")
        assert call("sample", checkpoint, *words, *shard, "-o", "parts/").code == 0
        assert call("sample", checkpoint, *words, *shard, "-o", "part.npy").code == 0
        arrays.append(np.load("part.npy"))
    whole, parts = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("whole", "parts"))
    assert whole == parts and len(whole) > 64
    assert np.array_equal(np.concatenate(arrays), np.load("whole.npy"))


def test_a_link_goes_on_to_point_at_its_target(checkpoint: Path) -> None:
    Path("link.png").symlink_to("target.png")
    assert call("sample", checkpoint, "-n", "1", "-o", "link.png").code == 0
    assert Path("link.png").is_symlink() and Path("target.png").read_bytes().startswith(b"\x89PNG")


def test_the_default_is_a_square_of_64_in_samples_png(checkpoint: Path) -> None:
    assert call("sample", checkpoint) == (0, b"samples.png\n", "")
    assert pixels("samples.png").shape == (8 * (SIDE + GAP) + GAP, 8 * (SIDE + GAP) + GAP, 3)
    before = Path("samples.png").read_bytes()
    assert call("sample", checkpoint.parent).code == 0  # a run folder stands for its checkpoint
    assert Path("samples.png").read_bytes() == before  # the same bytes each time


@pytest.mark.parametrize(("nrow", "columns", "rows"), [("1", 1, 5), ("4", 4, 2), ("5", 5, 1), ("9", 5, 1)])
def test_nrow(nrow: str, columns: int, rows: int, checkpoint: Path) -> None:
    assert call("sample", checkpoint, "-n", "5", "--nrow", nrow, "-o", "g.png").code == 0
    assert pixels("g.png").shape == (rows * (SIDE + GAP) + GAP, columns * (SIDE + GAP) + GAP, 3)


def test_stdout_gets_a_png_but_a_terminal_does_not(checkpoint: Path) -> None:
    assert call("sample", checkpoint, "-n", "4", "-o", "g.png").code == 0
    done = call("sample", checkpoint, "-n", "4", "-o", "-")
    assert (done.code, done.err) == (0, "") and done.out == Path("g.png").read_bytes()
    assert pixels(io.BytesIO(done.out)).shape == (2 * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + GAP, 3)
    refused = call("sample", checkpoint, "-o", "-", terminal=True)
    assert (refused.code, refused.out) == (2, b"") and "terminal" in refused.err
    assert os.listdir() == ["g.png"]


def test_raw_takes_the_last_weights_and_else_their_average(checkpoint: Path) -> None:
    average, last = draw(checkpoint, "-n", "2"), draw(checkpoint, "-n", "2", "--raw")
    assert (average != last).any()
    content = torch.load(checkpoint, weights_only=True)
    for name, wanted in (("ema", average), ("generator", last)):
        torch.save({**content, "generator": content[name], "ema": None}, f"{name}.pt")
        assert (draw(Path(f"{name}.pt"), "-n", "2") == wanted).all()
        assert (draw(Path(f"{name}.pt"), "-n", "2", "--raw") == wanted).all()  # there is no average: the same


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_an_array_is_data_for_train(form: str, checkpoint: Path) -> None:
    assert call("sample", checkpoint, "-n", "9", "-o", f"a.{form}").code == 0
    words = ("train", "--data", f"a.{form}", "--width", "4", "--batch", "8", "--steps", "1", "-o", "again", "-q")
    assert call(*words) == (0, b"again/ckpt.pt\n", "")


def test_a_missing_folder_is_made_and_a_name_that_is_no_utf8_is_printed_as_it_is(checkpoint: Path) -> None:
    name = os.fsdecode(b"new/caf\xe9.png")
    assert call("sample", checkpoint, "-n", "1", "-o", name) == (0, b"new/caf\xe9.png\n", "")
    assert os.listdir(b"new") == [b"caf\xe9.png"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-o", "grid.jpg"), ".png"),
        (("--shard", "1/2"), "--shard 1/2: one picture"),
        (("--shard", "0/2", "-o", "a.npy"), "'0/2' is not a part such as 1/8"),
        (("--shard", "3/2", "-o", "a.npy"), "'3/2' is not a part"),
        (("--shard", "half", "-o", "a.npy"), "'half' is not a part"),
        (("--shard", "1/3", "-n", "2", "-o", "a.npy"), "--shard 1/3: of 2 images"),
        (("-o", "faces"), "in /"),
        (("-o", ".npz"), "in /"),
        (("-o", "/dev/null"), "in /"),
        (("-o", ""), "in /"),
        (("-o", "file/"), "file is not a folder"),
        (("-o", "file/grid.png"), "file is not a folder"),
        (("-n", "0"), "-n"),
        (("--index", "-1"), "--index"),
        (("--index", str(2**63)), "--index"),
        (("--seed", "-1"), "--seed"),
        (("--nrow", "0"), "--nrow"),
        (("--truncation", "nan"), "--truncation nan"),
        (("--truncation", "0"), "--truncation 0"),
        (("--truncation", "1e-9"), "--truncation 1e-09"),
        (("--interpolate", "1"), "--interpolate"),
        (("--index", str(2**63 - 1), "-n", "3"), "below 2^63"),
        (("--interpolate", "5", "-n", "1"), "-n 2"),
        (("--interpolate", "5", "--index", "3"), "-n 2"),
        (("-o", "walk.webp"), "--interpolate"),
        (("-o", "walk.GIF", "-n", "3"), "--interpolate"),
        (("--loop",), "--interpolate"),
        (("--loop", "--interpolate", "5", "-n", "1"), "-n 2"),
        (("--scale", "0"), "--scale"),
        (("--scale", "2", "-o", "a.npz"), "--scale 2"),
        (("--scale", "2", "-o", "faces/"), "--scale 2"),
    ],
)
def test_usage_errors(words: tuple[str, ...], text: str, checkpoint: Path) -> None:
    Path("file").touch()
    done = call("sample", checkpoint, *words)
    assert (done.code, done.out) == (2, b"")
    assert text in done.err and 1 <= len(done.err.splitlines()) <= 2
    assert os.listdir() == ["file"] and Path("file").read_bytes() == b""


# ---- Points


def test_points_are_scattered_in_a_png_and_listed_in_an_array(toy: Path) -> None:
    assert call("sample", toy, "-n", "100", "-o", "points.png").code == 0
    assert pixels("points.png").shape == (512, 512) and set(np.unique(pixels("points.png"))) == {0, 255}
    assert call("sample", toy, "-n", "100", "-o", "points.npz").code == 0
    with np.load("points.npz") as archive:
        points = archive["images"]
    assert points.shape == (100, 2) and points.dtype == np.float32 and np.isfinite(points).all()
    assert call("sample", toy, "--index", "99", "-o", "one.npy").code == 0
    assert np.load("one.npy").tobytes() == points[99:].tobytes()
    for column, row in ((points * (1, -1) + 2.5) * 512 / 5).astype(int):
        assert pixels("points.png")[row, column] == 0


def test_points_are_no_files_in_a_folder(toy: Path) -> None:
    done = call("sample", toy, "-o", "folder/")
    assert (done.code, done.out) == (2, b"") and re.search(r"points.*\.npz", done.err)
    assert os.listdir() == []


# ---- Latents


def test_sampling_does_not_import_torchs_compiler(checkpoint: Path) -> None:
    """Which takes a second, as much as torch itself."""
    script = "import sys; from wgan_cli.cli import cli; cli(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, "sample", checkpoint], capture_output=True, check=True)
    assert b"wgan_cli.sample" in done.stdout and b"torch._dynamo" not in done.stdout


def test_latents_are_those_of_a_generator_for_each_index() -> None:
    for index in (0, 5, 2**63 - 1):
        expected = np.random.Generator(np.random.Philox(key=[7, index])).standard_normal(51).astype(np.float32)
        for truncation in (None, 9.0):
            assert (latents(7, [3, index, index], 51, truncation)[1:] == expected).all()


def test_latents_depend_on_seed_and_index_alone_and_are_normal() -> None:
    rows = latents(3, range(2000), 50)
    assert rows.dtype == np.float32 and rows.shape == (2000, 50)
    assert (latents(3, [1999, 7], 50) == rows[[1999, 7]]).all()
    assert (latents(4, [7], 50) != rows[7]).all() and (latents(7, [3], 50) != rows[7]).all()
    n = rows.size  # five standard errors each
    assert abs(rows.mean()) < 5 / n**0.5 and abs(rows.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(np.mean(np.abs(rows) < 1) - 0.682689) < 5 * 0.47 / n**0.5


@pytest.mark.parametrize("bound", [0.01, 0.5, 2.0, 100.0])
def test_truncation_draws_again_what_is_beyond_and_keeps_the_rest(bound: float, checkpoint: Path) -> None:
    free, bounded = latents(0, range(20), 30), latents(0, range(20), 30, bound)
    assert (np.abs(bounded) <= bound).all()
    inside = np.abs(free) <= bound
    assert (bounded[inside] == free[inside]).all()
    assert (bounded[:3] == latents(0, range(3), 30, bound)).all()
    same = (draw(checkpoint, "-n", "4") == draw(checkpoint, "-n", "4", "--truncation", str(bound))).all()
    assert same == (bound == 100)


def test_interpolate_in_closed_form() -> None:
    a, b = np.array([[3, 0, 0], [0, 3, 0]], np.float32)
    walk = interpolate(np.stack([a, b, a]), 5)
    assert walk.shape == (10, 3) and walk.dtype == np.float32
    angles = np.linspace(0, np.pi / 2, 5)
    circle = 3 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    np.testing.assert_allclose(walk, np.concatenate([circle, circle[::-1]]), atol=1e-6)
    # Of other norms, the midpoint of orthogonal vectors is (a + b) sin 45° / sin 90°.
    np.testing.assert_allclose(interpolate(np.stack([a, 2 * b]), 3)[1], (a + 2 * b) / 2**0.5, atol=1e-6)
    # A third of the way over 120° is 40°.
    turn = 3 * np.array([np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3), 0])
    third = 3 * np.array([np.cos(2 * np.pi / 9), np.sin(2 * np.pi / 9), 0])
    np.testing.assert_allclose(interpolate(np.stack([a, turn]).astype(np.float32), 4)[1], third, atol=1e-6)


def test_interpolate_keeps_the_ends_and_the_norms_between_them() -> None:
    ends = latents(0, range(5), 128)
    walk = interpolate(ends, 7).reshape(4, 7, 128)
    np.testing.assert_allclose(walk[:, 0], ends[:-1], rtol=1e-6)
    np.testing.assert_allclose(walk[:, -1], ends[1:], rtol=1e-6)
    norms, outer = np.linalg.norm(walk, axis=2), np.linalg.norm(ends, axis=1)
    assert (norms > 0.9 * outer.min()).all()  # a straight line would fall to 0.71
    assert (norms < 1.1 * outer.max()).all()


def test_interpolate_between_parallel_latents_has_no_nan() -> None:
    for a in np.array([[3, 0], [1, 1], *latents(0, range(20), 2)], np.float32):
        np.testing.assert_allclose(interpolate(np.stack([a, a]), 5), [a] * 5, rtol=1e-6)
        for b in (-a, 2 * a, np.nextafter(a, np.float32(9))):
            walk = interpolate(np.stack([a, b]), 5)
            assert np.isfinite(walk).all()
            np.testing.assert_allclose(walk[[0, -1]], [a, b], rtol=1e-6)


def test_interpolation_is_drawn_a_row_a_pair(checkpoint: Path) -> None:
    ends = draw(checkpoint, "-n", "3").astype(int)
    assert call("sample", checkpoint, "-n", "3", "--interpolate", "5", "-o", "g.png").code == 0
    grid = pixels("g.png")
    assert grid.shape == (2 * (SIDE + GAP) + GAP, 5 * (SIDE + GAP) + GAP, 3)
    for row, column, end in ((0, 0, 0), (0, 4, 1), (1, 0, 1), (1, 4, 2)):
        assert np.abs(tile(grid, row, column) - ends[end]).max() <= 1
    frames = draw(checkpoint, "--interpolate", "5")
    assert frames.shape == (8 * 5, SIDE, SIDE, 3)  # nine latents unless -n says


# ---- Walks that move, and pixels that are squares


def frames(name: str) -> NDArray[np.uint8]:
    """[T, H, W, C]."""
    with Image.open(name) as image:
        assert image.info["loop"] == 0  # without end
        pictures = []
        for picture in ImageSequence.Iterator(image):
            picture.load()
            assert picture.info["duration"] == FRAME
            pictures.append(np.asarray(picture.convert("RGB")))
        return np.stack(pictures)


@pytest.mark.parametrize("form", ["webp", "apng", "gif"])
@pytest.mark.parametrize("loop", [True, False])
def test_a_walk_moves_through_each_latent_once(form: str, loop: bool, checkpoint: Path) -> None:
    words = ("-n", "3", "--interpolate", "5", *["--loop"][:loop])
    drawn = draw(checkpoint, *words)
    assert len(drawn) == 5 * (3 if loop else 2)
    ends = draw(checkpoint, "-n", "3").astype(int)
    assert np.abs(drawn[[0, 5]] - ends[:2]).max() <= 1 and np.abs(drawn[-1] - ends[0 if loop else 2]).max() <= 1
    once = np.delete(drawn, [4, 9, 14] if loop else [4], axis=0)  # each pair's end is the next one's beginning
    assert call("sample", checkpoint, *words, "-o", f"walk.{form}") == (0, f"walk.{form}\n".encode(), "")
    before, moved = Path(f"walk.{form}").read_bytes(), frames(f"walk.{form}").astype(int)
    assert moved.shape == once.shape == (12 if loop else 9, SIDE, SIDE, 3)
    # A GIF has 256 colours for the 256 pixels. Places in a batch, and so last bits, differ between the two.
    assert np.abs(moved - once).max() <= (24 if form == "gif" else 1)
    assert (moved != once).mean() < (1 if form == "gif" else 0.01)
    assert call("sample", checkpoint, *words, "-o", f"walk.{form}").code == 0
    assert Path(f"walk.{form}").read_bytes() == before


def test_loop_closes_a_grid_by_a_row_and_nothing_is_doubled_at_a_seam(checkpoint: Path) -> None:
    assert call("sample", checkpoint, "-n", "3", "--interpolate", "4", "--loop", "-o", "g.png").code == 0
    grid = pixels("g.png").astype(int)
    assert grid.shape == (3 * (SIDE + GAP) + GAP, 4 * (SIDE + GAP) + GAP, 3)
    assert np.abs(tile(grid, 2, 3) - tile(grid, 0, 0)).max() <= 1
    rows = interpolate(latents(0, range(3), 6), 4, loop=True)
    np.testing.assert_allclose(rows[-1], rows[0], rtol=1e-6)
    walked = once(rows, 4, loop=True)
    assert len(np.unique(walked.round(5), axis=0)) == len(walked) == 9


def test_scale_makes_squares_of_pixels(checkpoint: Path) -> None:
    small = draw(checkpoint, "-n", "4")
    assert call("sample", checkpoint, "-n", "4", "--scale", "3", "-o", "g.png").code == 0
    grid, side = pixels("g.png"), 3 * SIDE
    assert grid.shape == (2 * (side + GAP) + GAP, 2 * (side + GAP) + GAP, 3)
    last = grid[-GAP - side : -GAP, -GAP - side : -GAP]
    assert (last == small[3].repeat(3, axis=0).repeat(3, axis=1)).all()
    words = ("-n", "2", "--interpolate", "3", "-o", "w.webp")
    assert call("sample", checkpoint, *words).code == 0
    moved = frames("w.webp")
    assert call("sample", checkpoint, *words, "--scale", "2").code == 0
    assert (frames("w.webp") == moved.repeat(2, axis=1).repeat(2, axis=2)).all()


def test_every_class_moves_beside_the_others(tmp_path: Path) -> None:
    state = new_run(latent=6, labels="folders", classes=("a", "b", "c"))
    with torch.no_grad():
        for parameter in state.generator.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
    made = save(state, tmp_path / "ckpt.pt")
    words = ("-n", "2", "--interpolate", "3")
    assert call("sample", made, *words, "--nrow", "3", "-o", "all.webp").code == 0  # unless --class names one
    montage = frames("all.webp")
    assert montage.shape == (3, SIDE + 2 * GAP, 3 * (SIDE + GAP) + GAP, 3)
    for number, name in enumerate("abc"):
        assert call("sample", made, *words, "--class", name, "-o", "one.webp").code == 0
        one = frames("one.webp")
        assert one.shape == (3, SIDE, SIDE, 3)
        assert all((tile(frame, 0, number) == alone).all() for frame, alone in zip(montage, one, strict=True))
    assert (tile(montage[0], 0, 0) != tile(montage[0], 0, 1)).any()


def classes(folder: Path, names: str) -> Path:
    return save(new_run(latent=6, labels="folders", classes=tuple(names)), folder / "ckpt.pt")


def test_a_row_of_a_walk_is_of_one_class(tmp_path: Path) -> None:
    words = ("-n", "4", "--interpolate", "3", "-o", "walk.npz")
    assert call("sample", classes(tmp_path, "ab"), *words).code == 0
    assert np.load("walk.npz")["labels"].tolist() == 3 * [0] + 3 * [1] + 3 * [0]


def test_every_class_in_a_folder_has_the_names_of_each_alone(tmp_path: Path) -> None:
    """So that what is drawn later lies beside it."""
    made = classes(tmp_path, "ab")
    for name in "ab":
        assert call("sample", made, "--class", name, "-n", "4", "--index", "5", "-o", "alone/").code == 0
    for first in ("5", "7"):
        assert call("sample", made, "--class", "all", "-n", "2", "--index", first, "-o", "all/").code == 0
    alone, every = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("alone", "all"))
    assert alone == every and len(every) == 8


@pytest.mark.parametrize("form", ["gif", "apng", "webp"])
def test_where_a_frame_is_transparent_the_one_before_does_not_show(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.zeros((5, 8, 40, 4), np.uint8)
    for moment, picture in enumerate(pictures):
        picture[:, 8 * moment : 8 * moment + 8] = (250, 10, 10, 255)
        picture[3, 8 * moment + 3] = 0  # a hole: a WebP whose frames have none counts as opaque
    monkeypatch.setattr(walk, "generate", lambda generator, rows, first, part: [torch.from_numpy(pictures)])
    monkeypatch.setattr(walk, "to_output", torch.Tensor.numpy)
    walk.write_walk(torch.nn.Identity(), np.zeros((5, 1), np.float32), f"walk.{form}")
    with Image.open(f"walk.{form}") as image:
        shown = [np.asarray(picture.convert("RGBA"))[..., 3] for picture in ImageSequence.Iterator(image)]
    assert (np.stack(shown) == pictures[..., 3]).all()


def test_what_cannot_move_is_refused(checkpoint: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("sample", toy, "-n", "2", "--interpolate", "3", "-o", "w.gif")
    assert (done.code, done.out) == (2, b"") and "points" in done.err
    with monkeypatch.context() as patch:
        patch.setattr(walk, "enlarged", lambda *_: pytest.fail("enlarges what is refused"))
        done = call("sample", checkpoint, "-n", "2", "--interpolate", "2", "-o", "w.webp", "--scale", "2000")
        assert done.code == 2 and "a frame of 32000x32000; .webp has sides of 16383 at most" in done.err
    monkeypatch.setitem(walk.LONGEST, ".webp", 2 * SIDE - 1)
    words = ("-n", "2", "--interpolate", "2", "-o", "w.webp")
    done = call("sample", checkpoint, *words, "--scale", "2")
    assert (done.code, done.out) == (2, b"") and "32x32" in done.err and "31 at most" in done.err
    assert os.listdir() == [] and call("sample", checkpoint, *words).code == 0


# ---- Batches


@pytest.mark.parametrize(("first", "count"), [(0, 1), (63, 2), (60, 200), (128, 64)])
def test_generate_computes_each_sample_at_its_place_in_a_batch(first: int, count: int) -> None:
    seen: list[torch.Tensor] = []

    class Spy(torch.nn.Linear):
        def forward(self, batch: torch.Tensor, y: object = None) -> torch.Tensor:
            seen.append(batch)
            return batch

    rows = np.arange(first, first + count, dtype=np.float32)[:, None]
    out = torch.cat(list(generate(Spy(1, 1), rows, first)))
    assert (out.numpy() == rows).all()
    assert {len(batch) for batch in seen} == {64}
    for number, batch in enumerate(seen):
        wanted = np.arange(64) + 64 * (first // 64 + number)
        inside = (wanted >= first) & (wanted < first + count)
        assert (batch[:, 0].numpy() == np.where(inside, wanted, 0)).all()
