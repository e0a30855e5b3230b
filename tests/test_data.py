"""Every form of data and mode of image in, known pixels out; and what a bad file, a cache and a batch do."""

from __future__ import annotations

import errno
import gzip
import math
import mmap
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny import SETTINGS, call, memory, write_images

from wgan_cli import DataError, StoppedError, UsageError, WganError
from wgan_cli.config import TrainConfig
from wgan_cli.console import Console
from wgan_cli.data import cache, dataset, decode, decoding, pool, source, split
from wgan_cli.data.dataset import Dataset
from wgan_cli.data.decode import Item, Pixels
from wgan_cli.data.source import open_source
from wgan_cli.distributed import Place

CPU = torch.device("cpu")
Write = Callable[[Path], object]


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def config(size: int, channels: int, **settings: Any) -> TrainConfig:
    return TrainConfig(**{"arch": "mlp", "size": size, "channels": channels, "batch": 1, **settings})


def prepare(
    path: str | Path,
    size: int,
    channels: int,
    *,
    listed: bytes = b"",
    null: bool = False,
    skip_bad: bool = False,
    talk: StringIO | None = None,
    **settings: Any,
) -> Dataset:
    """The data set that `--data path` makes; `listed` is its stdin, `talk` gets its stderr."""
    source = open_source(str(path), BytesIO(listed), null)
    return cache.prepare(source, config(size, channels, **settings), skip_bad, Console(talk or StringIO()))


def probe(path: str | Path, talk: StringIO | None = None) -> dict[str, int]:
    return cache.probe(open_source(str(path), BytesIO()), Console(talk or StringIO()))


def grey(path: str | Path, value: int, size: int = 4) -> str:
    """A flat grey PNG, whatever the name's suffix says."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), value).save(path, "PNG")
    return str(path)


def read_image(item: Item, size: int, channels: int, fit: str) -> Pixels:
    """A square, as training has it."""
    pixels = decode.read_file(item, (size, size), channels, fit).pixels
    return np.frombuffer(pixels, np.uint8).reshape(size, size, channels)


def fit_image(image: Image.Image, size: int, channels: int, fit: str) -> Pixels:
    return decode.fit_image(image, (size, size), channels, fit)


def values(dataset: Dataset) -> list[int]:
    """The first value of each row: flat images are told apart by it."""
    return [int(row.flat[0]) for row in dataset.rows]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, one_process: None) -> list[Any]:
    """Every image that is opened, from now on."""
    seen: list[Any] = []
    real = Image.open

    def counting(file: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(file)
        return real(file, *args, **kwargs)

    monkeypatch.setattr(Image, "open", counting)
    return seen


# ---- Forms of data


def test_a_folder_gives_its_images_at_any_depth_in_order_of_name(tmp_path: Path) -> None:
    for value, name in enumerate(["a/b/c/deep.png", "a/z.png", "b.PNG", "c.JpEg", "d/e.TIFF"]):
        grey(tmp_path / name, value)
    for name in (".hidden.png", ".git/x.png", "d/.y.png"):
        grey(tmp_path / name, 255)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "png").write_text("no image")
    assert values(prepare(tmp_path, 4, 1)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"count": 5}'])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    grey(tmp_path / "imgs/a.png", 7)
    prepare(tmp_path / "imgs", 4, 1)
    for file in cache.cache_folder().iterdir():
        file.write_bytes(damage)
    assert probe(tmp_path / "imgs") == {"size": 16, "channels": 1}
    assert values(prepare(tmp_path / "imgs", 4, 1)) == [7]


@pytest.mark.usefixtures("one_process")
def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wgan_cli.data.decode.MOST_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(1001))
        archive.writestr("good.png", Path(grey(tmp_path / "good.png", 3)).read_bytes())
    talk = StringIO()
    assert values(prepare(tmp_path / "x.zip", 4, 1, skip_bad=True, talk=talk)) == [3]
    assert "1001 bytes when unpacked" in talk.getvalue()


def test_a_run_among_the_images_adds_no_images(tmp_path: Path) -> None:
    grey(tmp_path / "imgs/a.png", 1)
    grey(tmp_path / "imgs/wgan-gp/samples/000500.png", 2)
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "imgs/wgan-gp" / name).touch()
    assert values(prepare(tmp_path / "imgs", 4, 1)) == [1]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_every_suffix_is_read_in_any_case(tmp_path: Path, suffix: str, case: Callable[[str], str]) -> None:
    colour = (200, 40, 90)
    Image.new("RGB", (16, 16), colour).save(tmp_path / f"x{case(suffix)}")
    rows = prepare(tmp_path, 16, 3).rows
    assert rows.shape == (1, 16, 16, 3)
    assert np.abs(rows - np.array(colour, np.int16)).max() <= 3  # some of them are lossy


def test_a_run_in_a_zip_adds_no_images(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("metrics.jsonl", "a/run/config.json", "a/run/metrics.jsonl"):
            archive.writestr(name, "{}")
        for name in ("a/b.png", "a/run/curve.png", "a/run/samples/1.png", "a/runs.png"):
            archive.write(grey(tmp_path / "b.png", 1), name)
    assert [item.member for item in open_source(str(tmp_path / "x.zip"), BytesIO()).items] == ["a/b.png", "a/runs.png"]


def test_a_list_may_name_what_the_run_itself_has_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `find` does when a run goes on."""
    monkeypatch.chdir(tmp_path)
    drawn = [grey(f"run/{name}.png", 1) for name in ("curve", "samples/1")]
    for name in source.RUN_FILES:
        Path("run", name).touch()
    listed = "\n".join([grey("a.png", 1), grey("running.png", 1), *drawn]).encode()
    found = [open_source("-", BytesIO(listed), out=out) for out in (Path("run"), tmp_path / "run")]
    assert [[item.path for item in those.items] for those in found] == [["a.png", "running.png"]] * 2
    assert len(open_source("-", BytesIO(listed)).items) == 4


def test_a_zip_gives_its_images_as_the_same_folder_would(tmp_path: Path) -> None:
    names = ["z.png", "a/b/c.png", "a.png", "a/B.JPG"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for value, name in enumerate(names):
            archive.write(grey(tmp_path / "x" / name, value), name)
        for name in ("__MACOSX/a.png", "__MACOSX/a/._b.png", ".hidden.png", ".git/a.png", "readme.txt", "a/"):
            archive.writestr(name, b"not an image")
    zipped, folder = prepare(tmp_path / "x.zip", 4, 1), prepare(tmp_path / "x", 4, 1)
    assert values(zipped) == values(folder) == [3, 1, 2, 0]
    assert zipped.fingerprint == folder.fingerprint


def test_a_single_image_is_a_data_set_of_one(tmp_path: Path) -> None:
    assert values(prepare(grey(tmp_path / "one.png", 7), 4, 1)) == [7]


ODD_NAMES = [b"plain.png", b"with space.png", b" both ends .png", b"\xff\xfe.png", "é雪.png".encode()]


@pytest.mark.parametrize("null", [False, True])
def test_stdin_lists_paths_of_any_name_in_its_order(tmp_path: Path, null: bool) -> None:
    names = [*ODD_NAMES, b"new\nline.png"] if null else ODD_NAMES
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in reversed(names)]
    for value, path in enumerate(paths):
        grey(os.fsdecode(path), value)
    end = b"\0" if null else b"\n"
    listed = end.join(paths) + end
    assert values(prepare("-", 4, 1, listed=listed, null=null)) == list(range(len(paths)))
    assert values(prepare("-", 4, 1, listed=listed.rstrip(end), null=null)) == list(range(len(paths)))


def test_stdin_may_list_folders_and_zips(tmp_path: Path) -> None:
    grey(tmp_path / "folder/a.png", 1)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(grey(tmp_path / "b.png", 2), "b.png")
    listed = f"{tmp_path}/b.zip\n{tmp_path}/folder\n".encode()
    assert values(prepare("-", 4, 1, listed=listed)) == [2, 1]


def test_a_file_called_dash_does_not_stand_in_for_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_text("something")
    grey("a.png", 5)
    assert values(prepare("-", 4, 1, listed=b"a.png\n")) == [5]


def test_a_terminal_and_a_list_without_its_0_flag_are_usage_errors() -> None:
    class Terminal(BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(UsageError, match="terminal"):
        open_source("-", Terminal())
    with pytest.raises(UsageError, match="-0"):
        open_source("-", BytesIO(b"a.png\0b.png\0"))


LAYOUTS: dict[str, Callable[[Pixels], NDArray[Any]]] = {
    "NHW": lambda images: images[..., 0],
    "NHWC": lambda images: images,
    "NCHW": lambda images: images.transpose(0, 3, 1, 2),
}
TYPES: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], Callable[[Pixels], Pixels]]] = {
    # how pixels are stored, and which come back
    "uint8": (lambda x: x, lambda x: x),
    "bool": (lambda x: x > 127, lambda x: np.where(x > 127, np.uint8(255), np.uint8(0))),
    "float in [0,1]": (lambda x: (x / 255).astype(np.float32), lambda x: x),
    "float in [-1,1]": (lambda x: (x / 127.5 - 1).astype(">f8"), lambda x: x),
    "half in [-1,1]": (lambda x: (x / 127.5 - 1).astype(np.float16), lambda x: x),
}


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize(
    ("layout", "channels"), [("NHW", 1), *((layout, c) for layout in ("NHWC", "NCHW") for c in (1, 2, 3, 4, 5))]
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_every_layout_and_type(tmp_path: Path, stored: str, layout: str, channels: int, suffix: str) -> None:
    images = noise(3, 8, 8, channels)
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    store, expected = TYPES[stored]
    array = np.ascontiguousarray(store(LAYOUTS[layout](images)))
    save: Callable[..., None] = np.save if suffix == ".npy" else np.savez_compressed
    save(tmp_path / f"x{suffix}", array)
    in_colour = {"drawn": False} if channels > 1 else {}
    assert probe(tmp_path / f"x{suffix}") == {"size": 16, "channels": channels} | in_colour
    np.testing.assert_array_equal(prepare(tmp_path / f"x{suffix}", 8, channels).rows, expected(images))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_an_arrays_images_are_fitted_layer_by_layer(tmp_path: Path, channels: int) -> None:
    flat = np.arange(10, 10 + channels, dtype=np.uint8)
    flat[3:4] = 255  # opaque, where the fourth layer is alpha
    np.save(tmp_path / "x.npy", np.broadcast_to(flat, (2, 12, 20, channels)))
    rows = prepare(tmp_path / "x.npy", 6, channels).rows
    np.testing.assert_array_equal(rows, np.broadcast_to(flat, (2, 6, 6, channels)))


def test_an_array_larger_than_what_is_read_at_once_is_read_whole(tmp_path: Path) -> None:
    images = noise(5, 1500, 1000, 1)  # 1.5 MB each
    np.save(tmp_path / "x.npy", images)
    reference = [read_image(Item(png(tmp_path, image[..., 0])), 8, 1, "stretch") for image in images]
    np.testing.assert_array_equal(prepare(tmp_path / "x.npy", 8, 1, fit="stretch").rows, np.stack(reference))


def png(folder: Path, pixels: Pixels) -> str:
    path = folder / "reference.png"
    Image.fromarray(pixels).save(path)
    return str(path)


def test_of_several_arrays_the_one_of_images_is_taken(tmp_path: Path) -> None:
    images = noise(3, 4, 4)
    np.savez(tmp_path / "labels.npz", labels=np.arange(3), pixels=images)
    np.savez(tmp_path / "keras.npz", x_train=images, x_test=images[:1], y_train=np.arange(3))
    np.savez(tmp_path / "named.npz", other=images[:1], images=images)
    for name in ("labels", "keras", "named"):
        np.testing.assert_array_equal(prepare(tmp_path / f"{name}.npz", 4, 1).rows[..., 0], images)


def idx(array: NDArray[np.uint8], kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "x.idx"])
def test_idx_files_plain_and_gzipped(tmp_path: Path, name: str) -> None:
    images = noise(3, 28, 28)
    content = idx(images)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert probe(tmp_path / name) == {"size": 28, "channels": 1}
    np.testing.assert_array_equal(prepare(tmp_path / name, 28, 1).rows[..., 0], images)


# ---- Toy sets (Gulrajani et al. 2017, section 3.1)


def nearest(points: NDArray[np.float32], centres: list[tuple[float, float]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(the number of each point's nearest centre, its offset from there)"""
    offsets = points[:, None] - np.array(centres)
    number = (offsets**2).sum(axis=2).argmin(axis=1)
    return number, offsets[np.arange(len(points)), number]


EIGHT = [(math.sqrt(2) * math.cos(k * math.pi / 4), math.sqrt(2) * math.sin(k * math.pi / 4)) for k in range(8)]
TWENTY_FIVE = [(x / math.sqrt(2), y / math.sqrt(2)) for x in range(-2, 3) for y in range(-2, 3)]


@pytest.mark.parametrize(
    ("name", "centres", "sigma"),
    [("8gaussians", EIGHT, 0.02 / math.sqrt(2)), ("25gaussians", TWENTY_FIVE, 0.05 / (2 * math.sqrt(2)))],
)
def test_gaussians_lie_evenly_at_their_centres(name: str, centres: list[tuple[float, float]], sigma: float) -> None:
    points = prepare(f"toy:{name}", 0, 2).rows
    assert points.dtype == np.float32 and points.shape == (100_000, 2)
    number, offsets = nearest(points, centres)
    share = len(points) / len(centres)
    assert np.abs(np.bincount(number) - share).max() < 5 * math.sqrt(share)
    assert offsets.std(axis=0) == pytest.approx([sigma, sigma], rel=0.02)
    assert np.abs(offsets.mean(axis=0)).max() < 5 * sigma / math.sqrt(len(points))


def test_the_swiss_roll_winds_from_one_and_a_half_to_four_and_a_half_pi() -> None:
    # Of a point (t cos t, t sin t) + noise, the radius is t + n and the angle t + m/t, with n and m of σ 0.25.
    x, y = prepare("toy:swissroll", 0, 2).rows.T * 7.5
    radius = np.hypot(x, y)
    assert (radius.min(), radius.max()) == pytest.approx((1.5 * math.pi, 4.5 * math.pi), abs=5 * 0.25)
    assert radius.mean() == pytest.approx(3 * math.pi, rel=0.01)
    assert radius.std() == pytest.approx(math.hypot(3 * math.pi / math.sqrt(12), 0.25), rel=0.01)
    difference = (np.arctan2(y, x) - radius + math.pi) % (2 * math.pi) - math.pi
    assert difference.std() == pytest.approx(0.25, rel=0.05)


def test_toy_sets_are_the_same_each_time_and_points() -> None:
    assert prepare("toy:swissroll", 0, 2).fingerprint == prepare("toy:swissroll", 0, 2).fingerprint
    assert probe("toy:8gaussians") == {"size": 0, "channels": 2}
    batch = prepare("toy:8gaussians", 0, 2).batch(0, 16, 0, CPU).samples
    assert batch.shape == (16, 2) and batch.dtype == torch.float32
    with pytest.raises(UsageError, match="toy:25gaussians"):
        open_source("toy:9gaussians", BytesIO())
    with pytest.raises(DataError, match="100000 points"):
        prepare("toy:8gaussians", 0, 2, batch=100_001)


# ---- Modes of image: 2 by 2 pixels, and what they are with 1, 3 and 4 channels


def luma(*colours: tuple[int, ...]) -> list[int]:
    """ITU-R 601."""
    return [round(0.299 * r + 0.587 * g + 0.114 * b) for r, g, b in colours]


def picture(mode: str, pixels: Iterable[Any], **info: Any) -> Image.Image:
    image = Image.new(mode, (2, 2))
    image.putdata(list(pixels))
    image.info.update(info)
    return image


def palette(*colours: tuple[int, int, int], **info: Any) -> Image.Image:
    image = picture("P", range(4), **info)
    image.putpalette([value for colour in colours for value in colour])
    return image


def opaque(pixels: Iterable[Any]) -> list[Any]:
    return [(*(p if isinstance(p, tuple) else (p,) * 3), 255) for p in pixels]


GREYS = [0, 1, 128, 255]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30)]
CLEAR = [(255, 0, 0, 255), (0, 255, 0, 0), (0, 0, 0, 128), (10, 20, 30, 255)]
ON_WHITE = [(255, 0, 0), (255, 255, 255), (127, 127, 127), (10, 20, 30)]
SECOND_CLEAR = [(255, 0, 0), (255, 255, 255), (0, 0, 255), (10, 20, 30)]
INKS = [(0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255)]

# name: (file, its own channels, pixels with 1, with 3 and with 4 channels; those of 3 follow from 1 if None)
MODES: dict[str, tuple[Image.Image, str, int, list[int], list[Any] | None, list[Any]]] = {
    "grey": (picture("L", GREYS), "PNG", 1, GREYS, None, opaque(GREYS)),
    "grey, one value transparent": (
        picture("L", GREYS, transparency=1),
        "PNG",
        4,
        [0, 255, 128, 255],
        None,
        [(0, 0, 0, 255), (1, 1, 1, 0), (128, 128, 128, 255), (255, 255, 255, 255)],
    ),
    "grey and alpha": (
        picture("LA", [(0, 255), (0, 0), (0, 128), (9, 255)]),
        "PNG",
        4,
        [0, 255, 127, 9],
        None,
        [(0, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128), (9, 9, 9, 255)],
    ),
    "1 bit": (picture("1", [0, 255, 255, 0]), "PNG", 1, [0, 255, 255, 0], None, opaque([0, 255, 255, 0])),
    "1 bit TIFF": (picture("1", [0, 255, 255, 0]), "TIFF", 1, [0, 255, 255, 0], None, opaque([0, 255, 255, 0])),
    "16 bits PNG": (picture("I;16", [0, 257, 32896, 65535]), "PNG", 1, GREYS, None, opaque(GREYS)),
    "16 bits TIFF": (picture("I;16", [0, 257, 32896, 65535]), "TIFF", 1, GREYS, None, opaque(GREYS)),
    "floats": (picture("F", [0.0, 1 / 255, 128 / 255, 1.0]), "TIFF", 1, GREYS, None, opaque(GREYS)),
    "RGB": (picture("RGB", COLOURS), "PNG", 3, luma(*COLOURS), COLOURS, opaque(COLOURS)),
    "RGBA": (picture("RGBA", CLEAR), "PNG", 4, luma(*ON_WHITE), ON_WHITE, CLEAR),
    "RGBA WebP": (
        picture("RGBA", CLEAR),
        "WEBP",
        4,
        luma(*ON_WHITE),
        ON_WHITE,
        CLEAR,
    ),
    "palette": (palette(*COLOURS), "PNG", 3, luma(*COLOURS), COLOURS, opaque(COLOURS)),
    "palette GIF": (palette(*COLOURS), "GIF", 3, luma(*COLOURS), COLOURS, opaque(COLOURS)),
    "palette, one entry transparent": (
        palette(*COLOURS, transparency=1),
        "GIF",
        4,
        luma(*SECOND_CLEAR),
        SECOND_CLEAR,
        [(255, 0, 0, 255), (0, 255, 0, 0), (0, 0, 255, 255), (10, 20, 30, 255)],
    ),
    "palette with alphas": (
        palette((255, 0, 0), (0, 255, 0), (0, 0, 0), (10, 20, 30), transparency=b"\xff\x00\x80\xff"),
        "PNG",
        4,
        luma(*ON_WHITE),
        ON_WHITE,
        CLEAR,
    ),
    "inks": (
        picture("CMYK", INKS),
        "TIFF",
        3,
        luma((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)),
        [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)],
        opaque([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]),
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_an_image_of_any_mode_has_the_pixels_it_shows(tmp_path: Path, name: str) -> None:
    image, form, own, one, three, four = MODES[name]
    path = tmp_path / f"x.{form.lower()}"
    options: dict[str, Any] = {"lossless": True, "exact": True} if form == "WEBP" else {}
    image.save(path, form, **options)
    assert probe(path)["channels"] == own
    for channels, expected in ((1, one), (3, three or [(value,) * 3 for value in one]), (4, four)):
        found = read_image(Item(str(path)), 2, channels, "crop").reshape(4, channels)
        np.testing.assert_array_equal(found, np.array(expected).reshape(4, channels), err_msg=f"{channels} channels")


def test_a_jpeg_of_four_inks_has_the_colour_it_shows(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    assert probe(tmp_path / "x.jpg")["channels"] == 3
    found = read_image(Item(str(tmp_path / "x.jpg")), 16, 3, "crop")
    assert np.abs(found - np.array((255, 0, 0), np.int16)).max() <= 3


@pytest.mark.parametrize(
    "image",
    [picture("F", [0.0, 1.0, 2.0, 0.5]), picture("F", [0.0, math.nan, 1.0, 0.5]), picture("I", [0, -1, 1, 2])],
    ids=["above 1", "NaN", "negative"],
)
def test_values_that_no_scale_is_known_for_are_refused(tmp_path: Path, image: Image.Image) -> None:
    image.save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="1 of 1 files"):
        prepare(tmp_path, 2, 1)


# EXIF 2.3, tag 0x0112: which side of the picture the first stored row and the first stored column are.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,  # top, left
    2: lambda x: x[:, ::-1],  # top, right
    3: lambda x: x[::-1, ::-1],  # bottom, right
    4: lambda x: x[::-1],  # bottom, left
    5: lambda x: x.transpose(1, 0, 2),  # left, top
    6: lambda x: x.transpose(1, 0, 2)[::-1],  # right, top
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: lambda x: x.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("form", ["png", "tiff", "webp", "jpeg"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int, form: str) -> None:
    upright = np.repeat(np.repeat(noise(2, 3, 3), 8, axis=0), 8, axis=1)  # blocks of a JPEG
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, dict[str, Any]] = {"webp": {"lossless": True}, "jpeg": {"quality": 95, "subsampling": 0}}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / f"x.{form}", exif=exif, **options.get(form, {}))
    found = read_image(Item(str(tmp_path / f"x.{form}")), 16, 3, "crop")
    assert np.abs(found - upright[:, 4:20].astype(np.int16)).max() <= (6 if form == "jpeg" else 0)


def test_a_photo_on_its_side_keeps_its_rows(tmp_path: Path) -> None:
    """A JPEG is decoded at a smaller scale where that leaves twice the size, by the sides that it is shown with."""
    upright = Image.fromarray(np.repeat(np.repeat(noise(32, 128, 3), 2, axis=0), 2, axis=1))  # 256x64, shown
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.save(tmp_path / "upright.jpg", quality=100, subsampling=0)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "side.jpg", quality=100, subsampling=0, exif=exif)
    read = [decode.read_file(Item(str(tmp_path / name)), (32, 8), 3, "crop") for name in ("side.jpg", "upright.jpg")]
    found, other = (np.frombuffer(image.pixels, np.uint8).astype(int) for image in read)
    assert np.abs(found - other).mean() < 3 < np.abs(other - other.mean()).mean()


# ---- Fits


RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


def halves(width: int, height: int) -> Image.Image:
    """Red on the left or at the top, blue on the other side: along the longer axis."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = RED
    if width > height:
        pixels[:, width // 2 :] = BLUE
    else:
        pixels[height // 2 :] = BLUE
    return Image.fromarray(pixels)


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [  # of an image 64 by 32, along its longer axis and across it; None: where colours mix
        ("crop", 32, [RED] * 12 + [None] * 8 + [BLUE] * 12),
        ("stretch", 32, [RED] * 12 + [None] * 8 + [BLUE] * 12),
        ("pad", 64, [RED] * 28 + [None] * 8 + [BLUE] * 28),
    ],
)
def test_fits_of_two_halves(upright: bool, scale: int, fit: str, size: int, expected: list[Any]) -> None:
    image = halves(32 * scale, 64 * scale) if upright else halves(64 * scale, 32 * scale)
    found = fit_image(image, size, 3, fit)
    found = found.transpose(1, 0, 2) if upright else found
    edge = size // 4 if fit == "pad" else 0
    assert (found[:edge] == 0).all() and (found[size - edge :] == 0).all()
    for column, colour in enumerate(expected):
        if colour:
            assert (found[edge : size - edge, column] == colour).all(), column


@pytest.mark.parametrize(("width", "height"), [(10, 4), (4, 10), (7, 4), (4, 5), (4, 4)])
def test_a_crop_takes_whole_pixels_of_the_middle(width: int, height: int) -> None:
    pixels = noise(height, width, 3)
    left, top = (width - 4) // 2, (height - 4) // 2
    np.testing.assert_array_equal(
        fit_image(Image.fromarray(pixels), 4, 3, "crop"), pixels[top : top + 4, left : left + 4]
    )


def test_padding_is_transparent_with_four_channels_and_else_black() -> None:
    white = Image.new("RGBA", (4, 2), "white")
    assert fit_image(white, 4, 4, "pad")[:, 0].tolist() == [[0] * 4, [255] * 4, [255] * 4, [0] * 4]
    assert fit_image(white, 4, 3, "pad")[:, 0].tolist() == [[0] * 3, [255] * 3, [255] * 3, [0] * 3]
    assert fit_image(white, 4, 1, "pad")[:, 0].tolist() == [[0], [255], [255], [0]]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 300), (300, 1), (1, 1), (3, 5)])
def test_extreme_shapes_give_squares(fit: str, size: tuple[int, int]) -> None:
    assert fit_image(Image.new("RGB", size), 16, 3, fit).shape == (16, 16, 3)


def test_resizing_does_not_let_hidden_colours_bleed() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (0, 0, 255, 255)
    pixels[:, 32:] = (255, 0, 0, 0)  # red, but invisible
    assert fit_image(Image.fromarray(pixels), 16, 4, "stretch")[..., 0].max() == 0


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(
    ("form", "channels"),
    [("bmp", 1), ("bmp", 3), *((form, channels) for form in ("png", "tiff", "webp") for channels in (1, 3, 4))],
)
def test_images_of_the_right_size_come_out_bit_for_bit(tmp_path: Path, fit: str, channels: int, form: str) -> None:
    pixels = noise(16, 16, channels)
    options: dict[str, Any] = {"lossless": True, "exact": True} if form == "webp" else {}
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(tmp_path / f"x.{form}", **options)
    np.testing.assert_array_equal(read_image(Item(str(tmp_path / f"x.{form}")), 16, channels, fit), pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_is_nearly_what_full_decoding_gives(tmp_path: Path, mode: str, fit: str, channels: int) -> None:
    rough = Image.fromarray(noise(40, 50, 3)).resize((1000, 800), Image.Resampling.BICUBIC)
    rough.convert(mode).save(tmp_path / "x.jpg", quality=95)
    with Image.open(tmp_path / "x.jpg") as image:
        decoded = image.copy()  # has no format, so it cannot be decoded at a lower scale
    full = fit_image(decoded, 64, channels, fit).astype(np.int16)
    difference = np.abs(read_image(Item(str(tmp_path / "x.jpg")), 64, channels, fit) - full)
    assert difference.mean() < 1.5 and difference.max() < 25


# ---- Size and channels from the data


@pytest.mark.parametrize(
    ("sides", "size"),
    [([28], 28), ([8], 16), ([16], 16), ([31], 16), ([32], 32), ([63], 32), ([64], 64), ([500], 64), ([1], 16)]
    + [([20, 40, 400], 32), ([28, 28, 400], 28), ([24, 40], 32), ([27, 28, 29], 28)],
)
def test_the_size_follows_from_the_median_of_the_shorter_sides(tmp_path: Path, sides: list[int], size: int) -> None:
    for number, side in enumerate(sides):
        Image.new("1", (side, side + 50) if number % 2 else (side + 50, side)).save(tmp_path / f"{number}.png")
    assert probe(tmp_path) == {"size": size, "channels": 1}


@pytest.mark.parametrize(
    ("modes", "channels"), [("L RGB RGB", 3), ("L L RGB", 1), ("RGBA LA RGB", 4), ("1 I;16 RGBA", 1), ("P RGB L", 3)]
)
def test_the_channels_are_those_of_most_images(tmp_path: Path, modes: str, channels: int) -> None:
    for number, mode in enumerate(modes.split()):
        colour: Any = {"RGB": (9, 0, 0), "RGBA": (9, 0, 0, 100), "LA": (9, 100), "P": 1}.get(mode, 0)
        image = Image.new(mode, (4, 4), colour)
        if mode == "P":
            image.putpalette([0, 0, 0, 9, 0, 0])
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    assert probe(tmp_path)["channels"] == channels


@pytest.mark.parametrize("form", ["folder", "array"])
@pytest.mark.parametrize(("step", "at", "drawn"), [(3, 5, True), (3, 7, False), (-3, 7, False), (2, 15, True)])
def test_images_are_drawn_where_three_fifths_of_neighbours_are_alike(
    tmp_path: Path, form: str, step: int, at: int, drawn: bool
) -> None:
    """In each of 15 pairs of a row a step of one colour, in `at` of them in the mean of two images."""
    images = np.full((2, 16, 16, 3), 100, np.uint8)
    for image, steps in zip(images, (at - 1, at + 1) if at < 15 else (at, at), strict=True):
        image[:, 1 : steps + 1, 1] += np.cumsum(np.full(steps, step)).astype(np.uint8)
        image[:, steps + 1 :, 1] = image[:, [steps], 1]
    if form == "array":
        np.save(tmp_path / "x.npy", images)
    else:
        (tmp_path / "x.npy").mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / "x.npy" / f"{number}.png")
    assert probe(tmp_path / "x.npy") == {"size": 16, "channels": 3, "drawn": drawn}
    assert probe(tmp_path / "x.npy")["drawn"] == drawn  # as noted


def test_some_of_many_images_tell_whether_they_are_drawn(tmp_path: Path, opened: list[Any]) -> None:
    """Some all over the data; one that cannot be read tells nothing."""
    for number in range(80):
        image = noise(1, 16, 16, 3)[0] if number % 2 else np.full((16, 16, 3), (9, 0, 0), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    whole = (tmp_path / "03.png").read_bytes()
    (tmp_path / "03.png").write_bytes(whole[: len(whole) // 2])
    assert not probe(tmp_path)["drawn"]
    assert len(opened) == 80 + 1 + 27  # each for its header, the first for its colour, and each third


@pytest.mark.parametrize(
    ("pixels", "channels", "said"),
    [
        ([(9, 0, 0, 255)] * 3, 3, "alpha is opaque throughout"),
        ([(9, 0, 0, 255), (9, 0, 0, 254), (9, 0, 0, 0)], 4, ""),  # in most of them
        ([(9, 9, 9, 255)] * 3, 1, "grey in every pixel"),
        ([(9, 9, 9)] * 3, 1, "grey in every pixel"),
        ([(9, 9, 9), (9, 9, 9), (9, 9, 8)], 3, ""),
        ([(9, 255)] * 3, 1, "alpha is opaque throughout"),
        ([(9,), (9,), (9, 0, 0)], 1, "1 of 3 images have colour or transparency that most have not"),
        ([(9, 0, 0), (9, 0, 0), (9, 0, 0, 0)], 3, "--channels 4 keeps it"),
    ],
)
def test_channels_are_what_the_pixels_need(
    pixels: list[tuple[int, ...]], channels: int, said: str, tmp_path: Path
) -> None:
    """One pixel that is not opaque needs alpha, one of colour needs three channels."""
    for number, pixel in enumerate(pixels):
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(pixel)]
        image = Image.new(mode, (40, 40), pixels[0] if len(pixel) == len(pixels[0]) else pixel)
        image.paste(pixel, (20, 30, 21, 31))
        image.save(tmp_path / f"{number}.png")
    for _ in range(2):  # from the files, and from the cache
        talk = StringIO()
        assert probe(tmp_path, talk)["channels"] == channels
        assert said in talk.getvalue() and bool(said) == bool(talk.getvalue())


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    grey(tmp_path / "0.png", 3)
    for name in ("a.zip", "b.NPY", "deep/c.npy", "noext", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    prepare(tmp_path, 4, 1, talk=(talk := StringIO()))
    assert "left out 4 files of other kinds: 2 .npy, 1 " in talk.getvalue()


def test_grids_that_wgan_drew_are_no_data_and_single_samples_are(tmp_path: Path, checkpoint: Path) -> None:
    """A grid from the tool's own `Next:` line, with --data . as the training data."""
    place = write_images(tmp_path / "imgs", 12)
    assert call("sample", checkpoint, "-n", "3", "-o", f"{place}/").code == 0
    first = call("train", "--data", place, *SETTINGS, "--size", "16", "--channels", "3", "-o", place / "run")
    assert first.code == 0 and "15 samples" in first.err
    for out in (place / "grid.png", place / "walk.png"):
        assert call("sample", checkpoint, "-n", "4", "-o", out).code == 0
    again = call(
        "train", "--data", place, *SETTINGS, "--steps", "5", "--size", "16", "--channels", "3", "-o", place / "run"
    )
    assert again.code == 0 and f"left out 2 that wgan drew as grids of samples, such as {place}/grid.png" in again.err
    assert call("critic-score", checkpoint, place / "grid.png").code == 0  # who names one gets its score
    data = prepare(place, 16, 3)
    names = sorted(str(path) for path in place.glob("*.png") if path.stem not in ("grid", "walk"))
    assert data.names() == names and len(data) == 15  # each row has the name of its own file


@pytest.mark.parametrize(
    ("data", "out", "what"),
    [
        ("imgs", "imgs", "is"),
        ("imgs", ".", "holds"),
        ("imgs/", "imgs/../imgs", "is"),
        ("imgs", "link", "is"),
        ("-", "imgs", "is"),
    ],
)
@pytest.mark.parametrize("flag", [(), ("--force",), ("--dry-run",)])
def test_a_run_folder_that_is_or_holds_the_images_is_refused(
    data: str, out: str, what: str, flag: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("imgs"))
    Path("link").symlink_to("imgs")
    before = sorted(tmp_path.rglob("*"))
    names = "".join(f"{path}\n" for path in sorted(Path("imgs").iterdir())).encode()
    done = call("train", "--data", data, *SETTINGS, "-o", out, *flag, stdin=names)
    assert done.code == 2 and f"-o {out} {what} the folder of the images" in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_folder_inside_that_of_the_images_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("imgs"))
    Path("link").symlink_to("imgs")
    for data, out in (("imgs", "imgs/run"), ("link", "imgs/other")):
        assert call("train", "--data", data, *SETTINGS, "-o", out, "-q").code == 0


# ---- Cache


def test_images_are_read_once(tmp_path: Path, opened: list[Any]) -> None:
    for value in range(5):
        grey(tmp_path / f"{value}.png", value)
    facts, first = probe(tmp_path), prepare(tmp_path, 4, 1)
    read = len(opened)
    assert read == 10  # each for its header and for its pixels
    assert probe(tmp_path) == facts
    again = prepare(tmp_path, 4, 1)
    assert len(opened) == read
    np.testing.assert_array_equal(first.rows, again.rows)
    assert first.fingerprint == again.fingerprint


def permit(path: Path) -> None:
    """Change the permissions, again if the clock of the file system has not moved on since the last change."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.chmod(0o600)


CHANGES: dict[str, Write] = {
    "content": lambda path: Image.new("L", (5, 5), 200).save(path),
    "time": lambda path: os.utime(path, ns=(1, 1)),
    "name": lambda path: path.rename(path.with_name("c.png")),
    "permissions": permit,  # one that could not be read may now be readable
    "another image": lambda path: grey(path.with_name("c.png"), 3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_images_are_read_again_after_a_change_of(tmp_path: Path, opened: list[Any], change: str) -> None:
    grey(tmp_path / "a.png", 1)
    grey(tmp_path / "b.png", 2)
    prepare(tmp_path, 4, 1)
    CHANGES[change](tmp_path / "b.png")
    read = len(opened)
    dataset = prepare(tmp_path, 4, 1)
    assert len(opened) - read == len(dataset)
    assert values(dataset) == {"content": [1, 200], "another image": [1, 2, 3]}.get(change, [1, 2])


def test_each_preparation_has_a_cache_of_its_own(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "x.png")
    wanted = [(size, channels, fit) for size in (8, 16) for channels in (1, 3) for fit in ("crop", "pad", "stretch")]
    for _ in range(2):
        for size, channels, fit in wanted:
            found = prepare(tmp_path, size, channels, fit=fit).rows[0]
            np.testing.assert_array_equal(found, read_image(Item(str(tmp_path / "x.png")), size, channels, fit))


def test_sizes_and_channels_whose_digits_agree_are_not_confused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(2, 64, 64, 41))
    assert prepare(tmp_path / "x.npy", 16, 41).rows.shape == (2, 16, 16, 41)
    with pytest.raises(DataError, match="have 41 channels"):
        prepare(tmp_path / "x.npy", 164, 1)


@pytest.mark.parametrize("step", [probe, lambda path: prepare(path, 4, 1)], ids=["probe", "prepare"])
def test_a_cache_that_cannot_be_made_is_named_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Any], step: Callable[[Path], Any]
) -> None:
    grey(tmp_path / "imgs/a.png", 1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WGAN_CACHE", str(tmp_path / "file/cache"))
    with pytest.raises(WganError, match="file/cache.*WGAN_CACHE") as caught:
        step(tmp_path / "imgs")
    assert caught.value.exit_code == 1
    assert not opened


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("WGAN_CACHE", "/chosen")
    assert cache.cache_folder() == Path("/chosen")
    monkeypatch.delenv("WGAN_CACHE")
    assert cache.cache_folder() == Path("/xdg/wgan")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path("/home/me/.cache/wgan")


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script apart from here: with Python's own filters for warnings, and nothing lost if it dies."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment)


BEGUN = """
import os, signal, sys
from wgan_cli.config import TrainConfig
from wgan_cli.console import Console
from wgan_cli.data import decoding
from wgan_cli.data.cache import prepare
from wgan_cli.data.source import open_source

class Killed(Console):
    def progress(self, label, done, total, facts=None):
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

decoding.FLUSH_SECONDS = float(sys.argv[2])
config = TrainConfig(arch="mlp", size=4, channels=1, batch=1)
prepare(open_source(sys.argv[1], sys.stdin.buffer), config, True, Killed())
"""


def cached(suffix: str) -> list[Path]:
    return sorted(cache.cache_folder().glob(f"*{suffix}"))


def some_images(folder: Path, count: int = 5) -> Path:
    for value in range(count):
        grey(folder / f"{value}.png", value)
    (folder / "1x.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize(("seconds", "kept"), [("-1", 3), ("1000", 0)])
def test_a_killed_run_leaves_what_was_flushed_and_the_next_goes_on_from_there(
    tmp_path: Path, opened: list[Any], seconds: str, kept: int
) -> None:
    """Of five images and, as the third of all, one that is bad."""
    images = some_images(tmp_path / "imgs")
    assert python(BEGUN, str(images), seconds).returncode == -signal.SIGKILL
    assert cached(".part") and not cached(".rows") and not cached(".json")
    talk = StringIO()
    found = prepare(images, 4, 1, skip_bad=True, talk=talk)
    assert len(opened) == 6 - kept
    assert ("going on at image 3 of 6" in talk.getvalue()) == bool(kept)
    assert not cached(".part") and not cached(".journal")
    whole = {path.suffix: path.read_bytes() for path in cache.cache_folder().iterdir()}
    shutil.rmtree(cache.cache_folder())
    again = prepare(images, 4, 1, skip_bad=True)
    assert {path.suffix: path.read_bytes() for path in cache.cache_folder().iterdir()} == whole
    assert values(found) == values(again) == [0, 1, 2, 3, 4]
    assert (found.fingerprint, found.pixels) == (again.fingerprint, again.pixels)


def stopping(images: Path, after: int, config: TrainConfig, talk: StringIO | None = None) -> Dataset:
    """Asked to stop when it has decoded so many."""
    asked = iter(range(1, 1000))
    return cache.prepare(
        open_source(str(images), BytesIO()),
        config,
        True,
        Console(talk or StringIO()),
        lambda: ("SIGTERM", 143) if next(asked) == after else None,
    )


@pytest.mark.parametrize("form", ["folder", "npy", "npz"])
def test_decoding_stops_when_asked_and_goes_on_later(tmp_path: Path, form: str, opened: list[Any]) -> None:
    images = some_images(tmp_path / "imgs")
    if form != "folder":
        images = tmp_path / f"x.{form}"
        write: Callable[..., None] = np.save if form == "npy" else np.savez_compressed
        write(images, noise(6, 4, 4))
    for after in (1, 2, 1):
        with pytest.raises(StoppedError, match=r"Stopped by SIGTERM at image \d of 6; what is decoded stays") as caught:
            stopping(images, after, config(4, 1))
        assert caught.value.exit_code == 143
    found = prepare(images, 4, 1, skip_bad=True)
    assert form != "folder" or len(opened) == 6
    shutil.rmtree(cache.cache_folder())
    again = prepare(images, 4, 1, skip_bad=True)
    np.testing.assert_array_equal(found.rows, again.rows)
    assert found.contents is not None and again.contents is not None
    np.testing.assert_array_equal(found.contents, again.contents)
    assert (found.fingerprint, found.pixels) == (again.fingerprint, again.pixels)


def test_an_interrupt_keeps_what_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[Any]) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    grey(tmp_path / "a.png", 1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Console, "progress", interrupt)
        prepare(tmp_path, 4, 1)
    assert values(prepare(tmp_path, 4, 1)) == [1] and len(opened) == 1


def test_sigusr1_brings_what_is_decoded_to_the_disk(tmp_path: Path) -> None:
    images, asked, lines = some_images(tmp_path / "imgs"), iter([False, True, False]), []

    class Watching(Console):
        def progress(self, *_: Any) -> None:
            lines.append(len(cached(".journal")))

    source = open_source(str(images), BytesIO())
    talk = StringIO()
    cache.prepare(source, config(4, 1), True, Watching(talk), should_save=lambda: next(asked, False))
    assert lines == [0, 1, 1, 1, 1, 1]
    assert "saved at image 2 of 6" in talk.getvalue()


@pytest.mark.parametrize("grey_too", [False, True])
def test_looking_stops_when_asked_and_goes_on_later(tmp_path: Path, opened: list[Any], grey_too: bool) -> None:
    """At the headers, and at the pixels of images that may all be grey."""
    images = some_images(tmp_path / "imgs")
    if grey_too:
        for path in images.glob("[0-9].png"):
            Image.open(path).convert("RGB").save(path)
        opened.clear()
    stops = 0
    for asked in range(20):
        talk = StringIO()
        try:
            facts = cache.probe(open_source(str(images), BytesIO()), Console(talk), lambda: ("SIGTERM", 143))
            break
        except StoppedError as stopped:
            stops += 1
            assert stopped.exit_code == 143
            assert f"when {min(asked + 1, 6)} of 6 images were looked at" in str(stopped)
    assert facts == {"size": 16, "channels": 1}
    assert stops == (5 + 4 if grey_too else 5)  # after each but the last
    assert len(opened) == (6 + 5 if grey_too else 6)
    assert ("grey in every pixel" in talk.getvalue()) == grey_too
    assert probe(images) == facts and len(opened) == (11 if grey_too else 6)


def test_an_image_that_is_cut_short_makes_no_grey_set_one_of_colour(tmp_path: Path) -> None:
    (tmp_path / "imgs").mkdir()
    for number in range(3):
        Image.fromarray(noise(64, 64)).convert("RGB").save(tmp_path / f"imgs/{number}.jpg")
    whole = (tmp_path / "imgs/1.jpg").read_bytes()
    (tmp_path / "imgs/1.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    assert probe(tmp_path / "imgs") == {"size": 64, "channels": 1}


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "rows cut": lambda part, journal: part.write_bytes(part.read_bytes()[:-1]),
    "no rows": lambda part, journal: part.unlink(),
    "no journal": lambda part, journal: journal.unlink(),
    "journal of something else": lambda part, journal: journal.write_bytes(b"[1]\n"),
    "journal cut": lambda part, journal: journal.write_bytes(journal.read_bytes()[:-2]),
    "more rows than the journal speaks of": lambda part, journal: part.write_bytes(part.read_bytes() + bytes(99)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_not_gone_on_with(tmp_path: Path, damage: str) -> None:
    images = some_images(tmp_path / "imgs")
    with pytest.raises(StoppedError):
        stopping(images, 4, config(4, 1))
    DAMAGE[damage](*cached(".part"), *cached(".journal"))
    assert values(prepare(images, 4, 1, skip_bad=True)) == [0, 1, 2, 3, 4]


def test_a_second_process_decodes_for_itself_and_both_end_with_the_same(tmp_path: Path) -> None:
    images = some_images(tmp_path / "imgs")
    with pytest.raises(StoppedError):
        stopping(images, 3, config(4, 1))
    (part,) = cached(".part")
    script = """
import sys
from wgan_cli.files import try_lock
with open(sys.argv[1], "r+b") as file:
    assert try_lock(file.fileno())
    print("locked", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", script, part], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"locked\n"
    before = part.read_bytes()
    found = prepare(images, 4, 1, skip_bad=True)
    assert values(found) == [0, 1, 2, 3, 4]
    assert part.read_bytes() == before and not list(cache.cache_folder().glob(".*"))
    other.communicate()
    for path in (*cached(".json"), *cached(".rows")):
        path.unlink()
    again = prepare(images, 4, 1, skip_bad=True)
    assert values(again) == values(found) and not cached(".part")


def test_of_the_processes_of_a_machine_the_first_alone_judges_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one would wait for another that takes what a third process has made meanwhile."""
    images = some_images(tmp_path / "imgs")
    lasting = prepare(images, 4, 1, skip_bad=True)
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decodes"))
    monkeypatch.setattr(cache, "decode", lambda *_: pytest.fail("decodes"))
    (note,) = cached(".json")
    note.write_text(note.read_text().replace("true", "false"))  # of bad files, which the first one has just tried
    for rank in (1, 0):
        place = Place(rank=rank, size=2, local_rank=rank, local_size=2)
        monkeypatch.setattr("wgan_cli.distributed.machine", lambda place=place: place)
        with nullcontext() if rank else pytest.raises(pytest.fail.Exception, match="decodes"):
            assert values(prepare(images, 4, 1, skip_bad=True)) == values(lasting)


def test_what_nobody_goes_on_with_goes_after_a_week(tmp_path: Path) -> None:
    images = some_images(tmp_path / "imgs")
    with pytest.raises(StoppedError):
        stopping(images, 3, config(4, 1))
    (part,) = cached(".part")
    probe(images)
    assert part.exists()
    os.utime(part, (0, 0))
    prepare(images, 2, 1, skip_bad=True)
    assert not part.exists() and not cached(".journal")


def test_an_interrupted_look_at_the_images_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    grey(tmp_path / "a.png", 1)
    monkeypatch.setattr(Console, "progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        probe(tmp_path)
    assert not list(cache.cache_folder().iterdir())


def test_the_fingerprint_is_of_the_files_contents_alone(tmp_path: Path) -> None:
    for value in range(3):
        grey(tmp_path / f"here/{value}.png", value)
    here = prepare(tmp_path / "here", 4, 1)
    shutil.copytree(tmp_path / "here", tmp_path / "there/under", copy_function=shutil.copyfile)
    (tmp_path / "there/under/0.png").rename(tmp_path / "there/under/00.png")
    there = prepare(tmp_path / "there", 4, 1)
    assert there.fingerprint == here.fingerprint
    assert [Path(name).name for name in there.names()] == ["00.png", "1.png", "2.png"]
    Image.open(tmp_path / "there/under/1.png").save(tmp_path / "there/under/1.png", compress_level=0)
    again = prepare(tmp_path / "there", 4, 1)
    assert again.fingerprint != here.fingerprint and again.pixels == here.pixels
    assert here.contents is not None and again.contents is not None
    assert (again.contents == here.contents).tolist() == [True, False, True]
    assert int(here.contents[0]).to_bytes(8, "little") == sha256((tmp_path / "here/0.png").read_bytes()).digest()[:8]
    np.save(tmp_path / "x.npy", here.rows)
    array = prepare(tmp_path / "x.npy", 4, 1)
    assert array.pixels == here.pixels and array.names() == [f"{tmp_path}/x.npy/{index}" for index in range(3)]


# ---- Bad files


@pytest.mark.parametrize("mode", ["I;16", "RGBA"])
def test_bands_of_a_large_image_are_as_the_whole(mode: str) -> None:
    pixels = noise(1100, 1500, 2).view(np.uint16)[:, :, 0] if mode == "I;16" else noise(1100, 1500, 4)
    image = Image.fromarray(pixels)
    assert image.mode == mode
    if mode == "RGBA":
        whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L")
    else:
        whole = Image.fromarray(np.round(pixels * (255 / 65535)).astype(np.uint8))
    found = decode.fit_image(image, (1100, 1500), 1, "crop")
    assert len(list(decode._bands(image))) == 2
    assert np.array_equal(found[:, :, 0], np.asarray(whole))


def test_a_device_is_no_image() -> None:
    if not Path("/dev/zero").is_char_device():
        pytest.skip("no device that is read without end")
    with pytest.raises(ValueError, match="a pipe or a device"):
        decode.read_file(Item("/dev/zero"), (4, 4), 1, "crop")


def test_which_errors_of_a_file_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may read what this one may not."""

    def attempt(path: Path) -> Any:
        return pool._attempt(partial(decode.read_file, size=(4, 4), channels=1, fit="crop"), Item(str(path)))

    (tmp_path / "self.png").symlink_to("self.png")
    assert attempt(tmp_path / "self.png").lasts and attempt(tmp_path).lasts

    def refuse(*_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(decode, "open_file", refuse)
    assert not attempt(tmp_path / "x.png").lasts


def test_what_keeps_processes_from_starting_is_not_blamed_on_the_cache() -> None:
    with pytest.raises(WganError, match="can be started .AF_UNIX path too long.; name a folder .* TMPDIR"):
        with pool._starting():
            raise OSError("AF_UNIX path too long")  # as of Python 3.11 under a long TMPDIR


def test_without_a_home_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("WGAN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(WganError, match="WGAN_CACHE"):
        cache.cache_folder()


def test_lab_in_one_channel() -> None:
    image = Image.new("LAB", (8, 8), (128, 128, 128))
    assert decode.fit_image(image, (8, 8), 1, "crop").shape == (8, 8, 1)


def encoded(form: str, size: int = 40) -> bytes:
    buffer = BytesIO()
    Image.fromarray(noise(size, size, 3)).save(buffer, form)
    return buffer.getvalue()


def broken_png() -> bytes:
    content = bytearray(encoded("PNG"))
    content[len(content) // 2] ^= 0xFF
    return bytes(content)


BAD: dict[str, tuple[str, bytes]] = {
    "zero bytes": ("x.png", b""),
    "text": ("x.png", b"hello, world\n" * 20),
    "one byte wrong": ("x.png", broken_png()),
    "a format that is not ours": ("x.png", b"P6 2 2 255\n" + bytes(12)),
    "PostScript": ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"),
    **{f"cut {form}": (f"x.{form.lower()}", encoded(form)[:-1000]) for form in decode.FORMATS},
    **{f"cut {form} header": (f"x.{form.lower()}", encoded(form)[:20]) for form in decode.FORMATS},
    "large": ("x.png", encoded("PNG", 48)),  # between once and twice Pillow's limit, where it only warns
    "bomb": ("x.png", encoded("PNG", 100)),
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_and_left_out_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, form: str
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 45 * 45)
    name, content = BAD[kind]
    grey(tmp_path / "imgs/a.png", 1)
    (tmp_path / "imgs" / name).write_bytes(content)
    grey(tmp_path / "imgs/z.png", 2)
    path = tmp_path / "imgs"
    if form == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "all"), "zip", path))
    for _ in range(2):  # from the files, and from the cache
        talk = StringIO()
        with pytest.raises(DataError, match="1 of 3 files.*--skip-bad") as caught:
            prepare(path, 4, 1, talk=talk)
        assert caught.value.exit_code == 3
        title, row = talk.getvalue().splitlines()
        assert title == "Error: 1 unreadable file:"
        assert row.startswith(f"  {path}/{name}  ") and len(row) > len(f"  {path}/{name}  ")
        assert " at 0x" not in row and row.count(str(path)) == 1
        assert values(prepare(path, 4, 1, skip_bad=True, talk=talk)) == [1, 2]
        assert "left out 1" in talk.getvalue()


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "x.gif").write_bytes(encoded("PNG", 16))
    np.testing.assert_array_equal(prepare(tmp_path, 16, 3).rows[0], noise(16, 16, 3))


def test_bombs_are_refused_and_oddities_pass_silently_outside_of_tests_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker's name that is cut off"
    Image.new("L", (8, 8), 9).save(tmp_path / "exif.jpg", exif=exif.tobytes()[:-20])
    grey(tmp_path / "large.png", 0, size=12)
    script = """
import sys
from PIL import Image
from wgan_cli.data.decode import Item, read_file
Image.MAX_IMAGE_PIXELS = 100
print(max(read_file(Item(sys.argv[1]), (8, 8), 1, "crop").pixels))
try:
    read_file(Item(sys.argv[2]), (8, 8), 1, "crop")
except Image.DecompressionBombWarning:
    print("bad")
"""
    done = python(script, str(tmp_path / "exif.jpg"), str(tmp_path / "large.png"))
    assert (done.stdout, done.stderr, done.returncode) == ("9\nbad\n", "", 0)


def test_bad_files_of_a_list_are_named_each_for_its_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "loop.png").symlink_to("loop.png")
    names = ["missing.png", "missing.zip", "broken.zip", "loop.png", "\x1b[31mred\udcff.png"]
    listed = b"".join(os.fsencode(tmp_path / name) + b"\0" for name in [*names, grey(tmp_path / "a.png", 1)])
    talk = StringIO()
    assert values(prepare("-", 4, 1, listed=listed, null=True, skip_bad=True, talk=talk)) == [1]
    table = talk.getvalue()
    assert table.startswith("5 unreadable files:\n")
    for name in ("missing.png", "missing.zip", "broken.zip", "loop.png", r"\x1b[31mred\udcff.png"):
        assert f"  {tmp_path}/{name}  " in table
    assert table.count("no such file") == 3 and "zip file" in table
    assert "\x1b" not in table


def test_a_long_table_of_bad_files_is_cut_unless_verbose(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    for verbose, lines in ((False, 52), (True, 61)):
        talk = StringIO()
        with pytest.raises(DataError, match="60 of 60 files"):
            source = open_source(str(tmp_path), BytesIO())
            cache.prepare(source, config(4, 1), False, Console(talk, verbose=verbose))
        assert len(talk.getvalue().splitlines()) == lines


def test_nothing_but_bad_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    talk = StringIO()
    with pytest.raises(DataError, match="none of its 2 files"):
        cache.probe(open_source(str(tmp_path), BytesIO()), Console(talk))
    assert "a.png" in talk.getvalue() and "b.jpg" in talk.getvalue()
    with pytest.raises(DataError, match="no image in it can be used"):
        prepare(tmp_path, 4, 1, skip_bad=True)


def test_nothing_but_grids_that_the_tool_drew(tmp_path: Path) -> None:
    mark = PngInfo()
    mark.add_text("Software", decode.GRID_MARK)
    Image.new("L", (9, 9)).save(tmp_path / "grid.png", pnginfo=mark)
    with pytest.raises(DataError, match=r"nothing in it but grids of samples that wgan drew \(1\)"):
        probe(tmp_path)
    with pytest.raises(DataError, match="no image in it can be used"):
        prepare(tmp_path, 4, 1)


def test_what_is_left_out_stays_so_however_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is found by absolute paths, under whatever name the folder was given."""
    monkeypatch.chdir(tmp_path)
    for value in range(4):
        grey(f"imgs/{value}.png", value)
    Path("imgs/1.png").write_bytes(b"")
    labels = np.arange(4)
    for name in ("imgs", "./imgs", str(tmp_path / "imgs")):
        talk = StringIO()
        source = open_source(name, BytesIO())
        data = cache.prepare(source, config(4, 1), True, Console(talk), labels=labels)
        assert values(data) == [0, 2, 3] and data.labels is not None and data.labels.tolist() == [0, 2, 3]
        assert [Path(path).name for path in data.names()] == ["0.png", "2.png", "3.png"]
        assert f"{source.items[1].name}  " in talk.getvalue()


def test_a_file_that_is_listed_twice_is_left_out_where_it_is_bad(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    listed = "".join(f"{path}\n" for path in [grey(tmp_path / "a.png", 1), tmp_path / "bad.png"] * 2).encode()
    data = prepare("-", 4, 1, listed=listed, skip_bad=True)
    assert values(data) == [1, 1] and len(data.names()) == 2


def test_fewer_images_than_a_batch(tmp_path: Path) -> None:
    for value in range(3):
        grey(tmp_path / f"{value}.png", value)
    with pytest.raises(DataError, match="3 images, fewer than --batch 4"):
        prepare(tmp_path, 4, 1, batch=4)
    assert len(prepare(tmp_path, 4, 1, batch=3)) == 3


def holding(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def zip_of(**entries: bytes) -> Write:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)

    return write


@pytest.mark.parametrize(
    ("name", "write", "error", "words"),
    [
        ("missing", lambda path: None, UsageError, "no such file or folder"),
        ("empty", Path.mkdir, DataError, "no images there"),
        ("x.zip", zip_of(), DataError, "no images there"),
        ("x.zip", zip_of(readme=b"text"), DataError, "no images there"),
        ("notes.txt", holding(b"text"), DataError, "not a folder, a .zip"),
        ("nothing", Path.touch, DataError, "not a folder, a .zip"),
        ("x.gz", holding(gzip.compress(b"text")), DataError, "not a folder"),
        ("x.gz", holding(gzip.compress(b"")[:10] + b"\xff" * 9), DataError, "not a folder"),
    ],
)
def test_data_that_is_none(tmp_path: Path, name: str, write: Write, error: type[WganError], words: str) -> None:
    write(tmp_path / name)
    with pytest.raises(error, match=words):
        open_source(str(tmp_path / name), BytesIO())


def test_a_folder_without_images_and_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/notes.txt").write_text("text")
    with pytest.raises(DataError, match="no images there; looked for .png"):
        open_source(str(tmp_path), BytesIO())
    with pytest.raises(DataError, match="standard input: no images"):
        open_source("-", BytesIO(b"\n\n"))


def test_links_are_followed_and_loops_of_them_end(tmp_path: Path) -> None:
    grey(tmp_path / "imgs/a.png", 1)
    grey(tmp_path / "elsewhere/b.png", 2)
    (tmp_path / "imgs/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "imgs/up").symlink_to("..")
    (tmp_path / "imgs/self").symlink_to("self")
    assert sorted(values(prepare(tmp_path / "imgs", 4, 1))) == [1, 2]


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def save(array: Any) -> Write:
    return lambda path: np.save(path, array)


def npy(array: NDArray[Any]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    buffer = BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


BYTES = noise(3, 8, 8)
FLOATS = BYTES / np.float32(255)
WITH_NAN = np.where(BYTES == BYTES.max(), np.float32(math.nan), FLOATS)
FLIPPED = bytearray(npz(images=BYTES))
FLIPPED[len(FLIPPED) // 2] ^= 0xFF  # among the pixels
BAD_ARRAYS: dict[str, tuple[str, Write, str]] = {
    "channels first or last": ("x.npy", save(noise(2, 3, 8, 3)), r"\[2, 3, 8, 3\].*channels"),
    "two dimensions": ("x.npy", save(noise(8, 8)), r"\[8, 8\]; takes \[N, H, W\]"),
    "five dimensions": ("x.npy", save(noise(2, 2, 2, 2, 2)), r"takes \[N, H, W\]"),
    "no images": ("x.npy", save(noise(0, 8, 8)), r"\[0, 8, 8\]"),
    "int64": ("x.npy", save(np.zeros((2, 8, 8), np.int64)), "int64; takes uint8"),
    "complex": ("x.npy", save(np.zeros((2, 8, 8), complex)), "complex"),
    "fields": ("x.npy", save(np.zeros((2, 8, 8), [("a", "u1")])), "takes uint8"),
    "text": ("x.npy", save(np.full((2, 8, 8), "a")), "takes uint8"),
    "NaN": ("x.npy", save(WITH_NAN), "nan"),
    "infinite": ("x.npy", save(np.where(np.isnan(WITH_NAN), np.float32(math.inf), FLOATS)), "inf"),
    "floats to 255": ("x.npy", save(FLOATS * 255), r"floats from 0 to \d+; takes \[0, 1\] or \[-1, 1\]"),
    "Fortran order": ("x.npy", save(np.asfortranarray(BYTES)), "Fortran.*ascontiguousarray"),
    "nothing in it": ("x.npy", holding(b""), "x.npy"),
    "no array": ("x.npy", holding(b"hello, world" * 9), "x.npy"),
    "cut header": ("x.npy", holding(npy(BYTES)[:50]), "x.npy"),
    "cut": ("x.npy", holding(npy(BYTES)[:-1]), "holds 2 of 3 images"),
    "cut floats": ("x.npy", holding(npy(FLOATS)[:-1]), "holds 2 of 3 images"),
    "cut npz": ("x.npz", holding(npz(images=BYTES)[:-30]), "x.npz"),
    "one byte of npz wrong": ("x.npz", holding(bytes(FLIPPED)), "CRC"),
    "no npz": ("x.npz", holding(b"hello, world"), "x.npz"),
    "two arrays": ("x.npz", holding(npz(first=BYTES, second=BYTES)), "first, second.*`images`"),
    "no array of images": ("x.npz", holding(npz(labels=np.arange(3))), "labels.*`images`"),
    "labels": ("x", holding(idx(np.arange(9, dtype=np.uint8))), r"\[9\]; takes \[N, H, W\]"),
    "idx of floats": ("x", holding(idx(BYTES, kind=0x0D)), "unsigned bytes"),
    "cut idx": ("x", holding(idx(BYTES)[:-1]), "holds 2 of 3 images"),
    "idx of a header": ("x", holding(idx(BYTES)[:10]), "x: "),
    "cut idx.gz": ("x.gz", holding(gzip.compress(idx(BYTES))[:-20]), "x.gz: "),
    "short idx.gz": ("x.gz", holding(gzip.compress(idx(BYTES)[:-1])), "holds 2 of 3 images"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_an_array_that_cannot_be_used_says_why(tmp_path: Path, kind: str) -> None:
    name, write, words = BAD_ARRAYS[kind]
    write(tmp_path / name)
    with pytest.raises(DataError, match=words) as caught:
        probe(tmp_path / name)
        prepare(tmp_path / name, 8, 1)
    assert caught.value.exit_code == 3 and str(tmp_path / name) in str(caught.value)
    assert not list(cache.cache_folder().glob("*"))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_in_an_array_are_never_executed(tmp_path: Path, suffix: str) -> None:
    traps = np.full((2, 8, 8), Trap(tmp_path / "executed"), object)
    write: Callable[..., None] = np.save if suffix == ".npy" else np.savez
    write(tmp_path / f"x{suffix}", traps)
    for step in (probe, lambda path: prepare(path, 8, 1)):
        with pytest.raises(DataError, match="object; takes uint8"):
            step(tmp_path / f"x{suffix}")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("own", "asked"), [(2, 3), (5, 1), (3, 2)])
def test_channels_that_an_array_does_not_have_cannot_be_made(tmp_path: Path, own: int, asked: int) -> None:
    np.save(tmp_path / "x.npy", noise(2, 8, 8, own))
    with pytest.raises(DataError, match=f"x.npy: its images have {own} channels, which cannot be made {asked}"):
        prepare(tmp_path / "x.npy", 8, asked)


# ---- Processes (test_pool.py has the rest)


def test_processes_read_a_zip_each_for_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pool, "workers", lambda: 2)
    images = [noise(128, 128, seed=seed) for seed in range(200)]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for index, image in enumerate(images):
            content = BytesIO()
            Image.fromarray(image).save(content, "PNG")
            archive.writestr(f"{index:03}.png", content.getvalue())
    np.testing.assert_array_equal(prepare(tmp_path / "x.zip", 128, 1).rows[..., 0], images)


# ---- Batches


def numbered(count: int) -> Dataset:
    return Dataset(np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1), "")


def drawn(rows: Dataset, number: int, size: int, seed: int) -> list[int]:
    return [int(pixel) for pixel in dataset.to_pixels(rows.batch(number, size, seed, CPU).samples).flatten()]


@pytest.mark.parametrize(("count", "size"), [(12, 4), (14, 4), (8, 8), (7, 1)])
def test_each_epoch_has_every_row_once_and_another_order(count: int, size: int) -> None:
    dataset, batches = numbered(count), count // size
    epochs = []
    for epoch in range(6):
        rows = [row for number in range(batches) for row in drawn(dataset, epoch * batches + number, size, 0)]
        assert len(set(rows)) == len(rows) == batches * size
        epochs.append(tuple(rows))
    assert len(set(epochs)) == len(epochs)
    left_out = Counter(frozenset(range(count)) - set(epoch) for epoch in epochs)
    assert count % size == 0 or len(left_out) > 1


def test_a_batch_follows_from_seed_and_number_alone() -> None:
    order = [(number, seed) for seed in (0, 1, 2**63 - 1) for number in range(7)]
    first = {pair: drawn(numbered(100), pair[0], 30, pair[1]) for pair in order}
    dataset = numbered(100)
    assert {pair: drawn(dataset, pair[0], 30, pair[1]) for pair in reversed(order)} == first
    assert len(set(map(tuple, first.values()))) == len(first)


def test_copies_of_one_image_do_not_make_the_part_held_out_too_large() -> None:
    """300 of 1000 are one image, so a tenth held out has none of them; where nothing else remains they are taken."""
    contents = np.concatenate([np.zeros(300), np.arange(1, 701)]).astype(np.uint64)
    for seed in range(20):
        assert split.held_out(1000, 0.1, 16, seed, contents).sum() == 100
    halves = np.repeat(np.arange(2, dtype=np.uint64), 500)
    assert split.held_out(1000, 0.1, 16, 0, halves).sum() == 500


def test_a_small_part_held_out_does_not_cost_the_order_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
        made.append(count)
        return split.permutation(count, seed, epoch)

    monkeypatch.setattr(dataset, "permutation", counted)
    training, heldout = numbered(100).split(0.1, 10, 0)
    made.clear()
    assert heldout
    for number in range(8):  # an epoch of the one is nine batches, and of the other one
        training.batch(number, 10, 0, CPU)
        heldout.batch(number, 10, 0, CPU)
    assert made.count(90) == 1 and made.count(10) == 8


def test_units_and_pixels_are_inverse() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 4, 4)
    unit = dataset.to_unit(pixels)
    assert unit.shape == (2, 4, 8, 4) and unit.dtype == torch.float32
    assert unit.min() == -1 and unit.max() == 1
    assert torch.equal(unit[1, 2, 3], pixels[1, 3, :, 2] / 127.5 - 1)
    assert torch.equal(dataset.to_pixels(unit), pixels)
    assert dataset.to_pixels(torch.tensor([-9.0, -1, 0.001, 1, 9]).reshape(1, 5, 1, 1)).flatten().tolist() == [
        *(0, 0, 128, 255, 255)
    ]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures as Linux does")
@pytest.mark.parametrize(("side", "channels", "count"), [(28, 1, 3_000_000), (64, 3, 300_000)])
def test_gathering_from_gigabytes_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, channels: int, count: int
) -> None:
    def resident() -> int:
        return memory("RssFile") + memory("RssShmem")  # of the map, on a disk or not; a heap grows as it likes

    monkeypatch.setattr("wgan_cli.data.dataset.RESIDENT_BYTES", 1 << 20)
    with open(tmp_path / "rows", "w+b") as file:
        os.truncate(file.fileno(), count * side * side * channels)  # sparse: takes no room
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    dataset = Dataset(np.frombuffer(mapped, np.uint8).reshape(-1, side, side, channels), "", mapped)
    dataset.batch(0, 64, 0, CPU)
    before = resident()
    growth = []
    for number in range(1, 25):
        assert dataset.batch(number, 64, 0, CPU).samples.max() == -1
        growth.append(resident() - before)
    assert max(growth) < 12 << 20
