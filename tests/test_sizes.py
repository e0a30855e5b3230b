"""Images that are not square: from the flag to the samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Ended, call

from wgan_cli import UsageError, augment, metrics
from wgan_cli.config import TrainConfig
from wgan_cli.data.decode import Item, fit_image, read_file
from wgan_cli.networks import ARCHITECTURES, build_critic, build_generator
from wgan_cli.networks.network import PiecewiseLinear
from wgan_cli.networks.padding import grid, halvings, inside, margin

WIDE = (96, 64)  # width, height, as the flag has it


@pytest.mark.parametrize(
    ("sides", "worked_at", "times", "smallest"),
    [
        ((64, 64), (64, 64), 4, (4, 4)),
        ((28, 28), (32, 32), 3, (4, 4)),
        ((48, 48), (48, 48), 3, (6, 6)),
        ((64, 96), (64, 96), 4, (4, 6)),
        ((112, 256), (128, 256), 5, (4, 8)),  # up to an eighth under a power of two is padded
        ((176, 240), (176, 256), 4, (11, 16)),  # 176 can be halved four times
    ],
)
def test_sides_are_halved_until_the_shorter_one_is_a_few_pixels(
    sides: tuple[int, int], worked_at: tuple[int, int], times: int, smallest: tuple[int, int]
) -> None:
    assert (inside(sides), halvings(sides), grid(sides)) == (worked_at, times, smallest)
    assert margin(sides, 1)(torch.zeros(1, 1, *sides)).shape[2:] == worked_at
    assert margin(sides, -1)(torch.zeros(1, 1, *worked_at)).shape[2:] == sides


@pytest.mark.parametrize("size", [WIDE, (64, 96), (28, 48)])
@pytest.mark.parametrize("arch", ["dcgan", "r3", "mlp"])
def test_networks_make_and_judge_them(arch: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = TrainConfig(arch=arch, size=size, channels=2, width=4, latent=3)
    generator, critic = build_generator(config).eval(), build_critic(config).double()
    assert config.shape == (2, size[1], size[0])
    assert generator(torch.randn(2, 3)).shape == (2, *config.shape)
    x = torch.randn(3, *config.shape, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(critic(x).sum(), x)
    assert isinstance(critic, PiecewiseLinear)
    torch.testing.assert_close(critic.input_gradient(x), expected, rtol=1e-9, atol=1e-12)


def test_what_cannot_make_them_says_so() -> None:
    with pytest.raises(UsageError, match="--size 96x64: --arch resnet makes squares"):
        TrainConfig(arch="resnet", size=WIDE)
    with pytest.raises(UsageError, match="--size 64x40: --arch dcgan takes multiples of 16.*use 32 or 48 for 40"):
        TrainConfig(arch="dcgan", size=(64, 40))
    with pytest.raises(UsageError, match="--size 64x300: must be a whole number from 1 to 256"):
        TrainConfig(arch="mlp", size=(64, 300))
    assert "resnet" in ARCHITECTURES


@pytest.mark.parametrize(("given", "told"), [("96x", "96x"), ("x64", "x64"), ("96,64", "96,64"), ("", "")])
def test_a_flag_that_is_no_size_is_refused(tmp_path: Path, given: str, told: str) -> None:
    done = call("train", "--data", "toy:8gaussians", "--size", given, "-o", tmp_path / "run")
    assert done.code == 2 and f"'{told}' is not a size such as 64 or 96x64" in done.err


def bands(size: tuple[int, int]) -> Image.Image:
    """A third of the width is red, then green, then blue; the upper half is darker."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    for band in range(3):
        pixels[:, band * width // 3 : (band + 1) * width // 3, band] = 255
    pixels[: height // 2] //= 2
    return Image.fromarray(pixels)


def test_an_image_of_the_same_shape_is_taken_whole() -> None:
    image = bands((192, 128))
    for fit in ("crop", "pad", "stretch"):
        found = fit_image(image.copy(), (64, 96), 3, fit)
        assert found.shape == (64, 96, 3)
        expected = np.asarray(image.resize(WIDE, Image.Resampling.LANCZOS, reducing_gap=3.0))
        np.testing.assert_array_equal(found, expected)


def test_crop_takes_the_middle_of_the_shape() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 192, 3), np.uint8)
    found = fit_image(Image.fromarray(pixels), (64, 96), 3, "crop")  # 48 pixels go on either side
    np.testing.assert_array_equal(found, pixels[:, 48:144])
    tall = fit_image(Image.fromarray(pixels.transpose(1, 0, 2)), (64, 96), 3, "crop")  # 64 wide: 43 high, made 64
    assert tall.shape == (64, 96, 3)


def test_pad_adds_the_margin_where_the_shape_is_wider() -> None:
    found = fit_image(Image.new("RGB", (64, 64), "white"), (64, 96), 3, "pad")
    assert (found[:, 16:80] == 255).all() and not found[:, :16].any() and not found[:, 80:].any()


def test_a_large_jpeg_is_decoded_at_a_scale_that_leaves_twice_both_sides(tmp_path: Path) -> None:
    bands((1536, 1024)).save(tmp_path / "x.jpg", quality=95)
    found = np.frombuffer(read_file(Item(str(tmp_path / "x.jpg")), (64, 96), 3, "crop").pixels, np.uint8)
    expected = fit_image(bands((1536, 1024)), (64, 96), 3, "crop").astype(int)
    assert np.abs(found.reshape(64, 96, 3) - expected).mean() < 4


def test_augmentation_goes_by_each_side() -> None:
    images = torch.ones(2000, 1, 16, 32)
    rng = torch.Generator().manual_seed(0)
    moved = augment.translation(images, rng)
    empty_rows, empty_columns = (moved.sum(dim) == 0 for dim in ((1, 3), (1, 2)))
    assert empty_rows.sum(1).max() == 2 and empty_columns.sum(1).max() == 4  # an eighth
    cut = augment.cutout(images, rng)[:, 0] == 0
    assert cut.any(2).sum(1).max() == 8 and cut.any(1).sum(1).max() == 16  # half


def test_the_pyramid_has_the_levels_of_the_shorter_side() -> None:
    images = torch.rand(4, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    same, other = metrics.pyramid_distances(images, images), metrics.pyramid_distances(images, images.flip(3, 2) ** 3)
    assert list(same) == [32, 16] and set(same.values()) == {0.0}
    assert min(other.values()) > 0


def test_a_run_of_wide_images(tmp_path: Path) -> None:
    data = tmp_path / "imgs"
    data.mkdir()
    for number in range(80):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 70, 3), np.uint8)
        Image.fromarray(pixels).save(data / f"{number:02}.png")
    rest = "--width 2 --batch 4 --n-critic 1 --latent 3 --holdout 0.3 --augment translation,cutout".split()

    def train(size: str, *more: str) -> Ended:
        return call("train", "--data", data, "--size", size, *rest, "-o", tmp_path / "run", *more)

    done = train("48x32", "--dry-run")
    assert done.code == 0 and "size            48x32        flag" in done.out.decode()
    assert train("48x32", "--steps", "1").code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_bytes())["size"] == [48, 32]
    done = train("48x32", "--steps", "2")
    assert done.code == 0, done.err
    done = call("sample", tmp_path / "run", "-n", "3", "--nrow", "3", "-o", tmp_path / "grid.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (3 * 50 + 2, 34 + 2)
    assert len(call("critic-score", tmp_path / "run", data).out.splitlines()) == 80
    done = call("evaluate", tmp_path / "run", "--data", data, "-n", "6")
    assert done.code == 0 and "pixels colour 48x32" in done.out.decode() and "swd_32" in done.out.decode()
    done = train("32x48")
    assert done.code == 2 and "--size was 48x32, now 32x48" in done.err
