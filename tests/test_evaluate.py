"""Distances between samples and data: in closed form, against other implementations, and as a command."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import call, new_run, save, wgan, write_images
from torch import Tensor, nn

from wgan_cli import checkpoint as checkpoints
from wgan_cli import evaluate, features, metrics
from wgan_cli.console import Console

needs_scipy = pytest.mark.skipif(importlib.util.find_spec("scipy") is None, reason="no scipy: pip install scipy")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def whitened(count: int, dimensions: int, seed: int = 0) -> Tensor:
    """Points whose mean is 0 and whose covariance is the identity, to the last digits."""
    points = normal(count, dimensions, seed=seed)
    return torch.linalg.qr(points - points.mean(dim=0)).Q * (count - 1) ** 0.5


def close(value: float, expected: float, tolerance: float = 1e-6) -> None:
    assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)


# ---- Sliced Wasserstein distance


def test_sliced_distance_of_a_set_to_itself_is_zero_in_any_order() -> None:
    """But for the last digits of float32: a product of matrices may add a row in another order at another place."""
    points = normal(50, 3)
    close(metrics.sliced_wasserstein(points, points.flip(0)), 0, 1e-5)  # three terms below 4, each 2⁻²⁴ off
    images = normal(20, 3, 28, 28)
    distances = metrics.pyramid_distances(images, images.clone(), seed=3)
    assert distances == pytest.approx({28: 0, 14: 0}, abs=1e-3)


def test_sliced_distance_of_a_shift() -> None:
    """|v·θ| on each direction: |v| on the line, |v| 2/π on the mean over the circle."""
    line, plane = normal(50, 1), normal(50, 2)
    close(metrics.sliced_wasserstein(line, line + 3), 3)
    close(metrics.sliced_wasserstein(plane, plane + torch.tensor([3.0, 4.0])), 5 * 2 / math.pi, 0.05)


def test_sliced_distance_of_normal_distributions() -> None:
    """Of σ 1 and 3 on a line it is 2 E|z| = 2 √(2/π), and the same on every direction in space."""
    a, b = normal(20_000, 5), 3 * normal(20_000, 5, seed=1)
    close(metrics.sliced_wasserstein(a, b), 2 * math.sqrt(2 / math.pi), 0.02)


@pytest.mark.parametrize(("size", "sides"), [(28, [28, 14]), (64, [64, 32, 16]), (27, [27, 14]), (26, [26]), (5, [5])])
def test_levels_of_the_pyramid(size: int, sides: list[int]) -> None:
    distances = metrics.pyramid_distances(normal(9, 1, size, size), normal(9, 1, size, size, seed=1))
    assert list(distances) == sides
    assert all(value > 0 for value in distances.values())


def test_patches_are_normalised_per_channel() -> None:
    a, b = normal(30, 2, 16, 16), normal(30, 2, 16, 16, seed=1) ** 3
    scaled = b * torch.tensor([2.0, 5.0]).view(2, 1, 1) + torch.tensor([-1.0, 9.0]).view(2, 1, 1)
    close(metrics.pyramid_distances(a, scaled)[16], metrics.pyramid_distances(a, b)[16], 1e-4)
    blank = torch.zeros(30, 2, 16, 16)
    assert math.isfinite(metrics.pyramid_distances(a, blank)[16])


def test_the_finest_detail_is_on_the_finest_level_alone() -> None:
    """A chessboard has no part in anything that the binomial filter leaves over."""
    images = normal(20, 1, 32, 32)
    board = torch.arange(32)[:, None].add(torch.arange(32)).remainder(2) * 2 - 1
    distances = metrics.pyramid_distances(images, images + 3 * board)
    assert distances[32] > 100
    close(distances[16], 0, 1e-3)


def test_how_much_of_a_level_is_done_is_told_on_the_way() -> None:
    a, b = torch.randn(2, 8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    told: list[float] = []
    found = metrics.level_each([a], b, 0, patches=4, directions=96, tell=told.append)
    assert found == metrics.level_each([a], b, 0, patches=4, directions=96)
    assert told == pytest.approx([1 / 4, 1 / 2, 2 / 3, 5 / 6, 1])  # two sets cut, then 32 directions at a time


def test_a_slow_wave_is_on_the_coarsest_level_alone() -> None:
    images = normal(20, 1, 32, 32)
    distances = metrics.pyramid_distances(images, images + 3 * torch.arange(32).mul(math.pi / 16).cos())
    assert distances[32] < 20 < 200 < distances[16]


@needs_scipy
@pytest.mark.parametrize("size", [28, 15])
def test_pyramid_filters_are_those_of_the_paper(size: int) -> None:
    """As the authors write them: a mirrored convolution with the outer product of 1 4 6 4 1."""
    from scipy.ndimage import convolve

    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / 256
    images = normal(2, 3, size, size)
    small = convolve(images.numpy(), kernel, mode="mirror")[:, :, ::2, ::2]
    spread = np.zeros(images.shape)
    spread[:, :, ::2, ::2] = small
    np.testing.assert_allclose(metrics._shrink(images), small, atol=1e-12)
    large = metrics._enlarge(torch.from_numpy(small), images.shape)
    np.testing.assert_allclose(large, convolve(spread, 4 * kernel, mode="mirror"), atol=1e-12)


# ---- Distances of vectors


@needs_scipy
def test_wasserstein_of_a_shift_is_its_length() -> None:
    """Whatever the points and their order, and in 64-bit arithmetic: a copy is at distance 0."""
    points = 100 + normal(200, 30)
    shift = torch.full((30,), 2.0) / math.sqrt(30)
    close(metrics.exact_wasserstein(points, points.flip(0) + shift), 2)
    close(metrics.exact_wasserstein(points, points.flip(0)), 0, 1e-4)


@needs_scipy
def test_wasserstein_on_the_line_is_the_mean_gap_of_the_sorted() -> None:
    a, b = normal(300, 1), 5 * normal(300, 1, seed=1)
    gaps = (a.sort(dim=0).values - b.sort(dim=0).values).abs()
    close(metrics.exact_wasserstein(a, b), gaps.mean().item())


def test_coverage_and_density_of_constructed_sets() -> None:
    """Real points at 0, 1, 2 and 10, 11, 12; to the nearest other from each it is 1, to the second 2, 1, 2."""
    real = torch.tensor([[0.0], [1], [2], [10], [11], [12]])
    assert metrics.coverage_density(real, real, k=1) == pytest.approx((1, 14 / 6))
    on_one = torch.full((4, 1), 1.0)  # in three balls each
    assert metrics.coverage_density(on_one, real, k=1) == (0.5, 3)
    assert metrics.coverage_density(on_one, real, k=2) == (0.5, 1.5)
    assert metrics.coverage_density(torch.tensor([[3.5], [13.5]]), real, k=2) == pytest.approx((2 / 6, 0.5))
    assert metrics.coverage_density(torch.full((4, 1), 99.0), real, k=2) == (0, 0)


def test_coverage_and_density_of_the_same_distribution() -> None:
    """1 - 2⁻ᵏ and 1 in expectation, as N grows (Naeem et al. 2020)."""
    coverage, density = metrics.coverage_density(normal(2000, 4), normal(2000, 4, seed=1))
    close(coverage, 1 - 2**-5, 0.015)
    close(density, 1, 0.05)


def test_precision_and_recall_of_constructed_sets() -> None:
    real = torch.tensor([[0.0], [1], [2], [10], [11], [12]])
    samples = torch.tensor([[1.0], [2], [3], [50]])  # balls of 1, 1, 1, 47
    assert metrics.precision_recall(samples, real, k=1) == (0.75, 1)
    assert metrics.precision_recall(samples[:3], real, k=1) == (1, 0.5)


def test_frechet_of_normal_distributions() -> None:
    """|μ - ν|² + Σ (σ - τ)² for axes that agree; for others in the plane tr √M = √(tr M + 2 √det M)."""
    x, y = whitened(500, 3), whitened(400, 3, seed=1)
    scale, other, shift = torch.tensor([1.0, 2, 0]), torch.tensor([1.0, 5, 1]), torch.tensor([1.0, 2, 3])
    close(metrics.frechet(x * scale, y * other + shift), 14 + 9 + 1)
    close(metrics.frechet(x, x + 7), 3 * 49)
    one, two = torch.tensor([[2.0, 0], [1, 1]]).double(), torch.tensor([[1.0, -3], [0, 1]]).double()
    product = one.T @ one @ two.T @ two
    root = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    expected = one.square().sum() + two.square().sum() - 2 * root
    close(metrics.frechet(whitened(500, 2) @ one, whitened(300, 2, seed=1) @ two), float(expected))


def test_frechet_with_fewer_samples_than_dimensions() -> None:
    few = normal(10, 200)
    close(metrics.frechet(few, few), 0)
    close(metrics.frechet(few, 3 * few), 4 * few.mean(dim=0).square().sum().item() + 4 * few.var(dim=0).sum().item())


def test_kernel_distance_of_constant_sets() -> None:
    a, b = torch.ones(5, 2), torch.tensor([[1.0, 3]]).repeat(7, 1)
    close(metrics.kernel_distance(a, b), (1 + 1) ** 3 + (5 + 1) ** 3 - 2 * (2 + 1) ** 3)


def test_kernel_distance_is_unbiased() -> None:
    values = [metrics.kernel_distance(normal(20, 4, seed=s), normal(20, 4, seed=1000 + s)) for s in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0


def test_nearest_over_chunks() -> None:
    points, rows = normal(5, 3), normal(11, 3, seed=1)
    expected = torch.cdist(points, rows).amin(dim=1)
    torch.testing.assert_close(metrics.nearest(points, rows), expected)
    assert metrics.nearness(torch.tensor([1.0, 2, 6]), torch.tensor([2.0, 3])) == pytest.approx((2, 3.5 / 6))


# ---- Against other implementations, on the same arrays


def test_frechet_kernel_and_precision_agree_with_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("no torch_fidelity: pip install --no-deps torch-fidelity scipy tqdm")
    if importlib.util.find_spec("torchvision") is None:  # it imports it, though not for these functions
        for name in ("", ".datasets", ".transforms", ".transforms.functional"):
            stub: Any = types.ModuleType(f"torchvision{name}")
            stub.CIFAR10 = stub.STL10 = stub.CIFAR100 = object
            monkeypatch.setitem(sys.modules, stub.__name__, stub)
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    a, b = normal(400, 32).float(), 0.3 + 1.2 * normal(400, 32, seed=1).float()
    statistics = [metric_fid.fid_features_to_statistics(x.double()) for x in (a, b)]
    theirs = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    close(metrics.frechet(a, b), theirs["frechet_inception_distance"], 1e-9)
    theirs = metric_kid.kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=400, verbose=False)
    close(metrics.kernel_distance(a, b), theirs["kernel_inception_distance_mean"], 1e-5)
    theirs = metric_prc.prc_features_to_metric(a, b, verbose=False, save_cpu_ram=False)
    assert metrics.precision_recall(a, b) == pytest.approx((theirs["precision"], theirs["recall"]))


def test_wasserstein_agrees_with_pot() -> None:
    if importlib.util.find_spec("ot") is None:
        pytest.skip("no POT: pip install pot")
    import ot

    a, b = normal(150, 20), 0.5 + normal(150, 20, seed=1)
    weights = np.full(150, 1 / 150)
    costs = ot.dist(a.numpy(), b.numpy(), metric="euclidean")
    close(metrics.exact_wasserstein(a, b), ot.emd2(weights, weights, costs), 1e-9)
    directions = metrics._directions(20, 7).double().T.numpy()
    theirs = ot.sliced_wasserstein_distance(a.numpy(), b.numpy(), projections=directions, p=1)
    close(metrics.sliced_wasserstein(a, b, seed=7), theirs, 1e-6)


# ---- The command


class Model(nn.Module):
    """Features that a test can work out: the mean and the largest value of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean(dim=(2, 3)), images.amax(dim=(2, 3))], dim=1)


def write_model(path: Path, shape: tuple[int, ...] = (64, 3, 16, 16), model: nn.Module | None = None) -> Path:
    example = torch.zeros(shape)
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):  # of TorchScript; the latter since torch 2.15
            warnings.simplefilter("ignore", category)
        if path.suffix == ".pt2":
            torch.export.save(torch.export.export(model or Model(), (example,)), path)
        else:
            torch.jit.save(torch.jit.trace(model or Model(), example), path)
    return path


def figures(*words: str | Path) -> dict[str, dict[str, Any]]:
    done = call("evaluate", *words, "--json")
    assert done.code == 0, done.err
    return {record["figure"]: record for record in map(json.loads, done.out.splitlines())}


@needs_scipy
def test_every_figure_has_its_protocol(checkpoint: Path, images: Path) -> None:
    found = figures(checkpoint, "--data", images, "--seed", "7")
    assert list(found) == ["swd_16", "wasserstein_1", "coverage", "density"]
    for record in found.values():
        assert {"samples", "data", "method", "data_fingerprint"} <= record.keys()
        assert (record["n"], record["seed"], record["data_count"]) == (16, 7, 32)
        assert (record["space"], record["shape"]) == ("pixels", [3, 16, 16])
    text = call("evaluate", checkpoint, "--data", images, "--seed", "7").out.decode().splitlines()
    assert text[0] == f"N 16, seed 7, pixels colour 16x16, data 32 in {found['swd_16']['data_fingerprint']}"
    assert text[1].split() == ["figure", "samples", "data", "better", "method"]
    for line, record in zip(text[2:], found.values(), strict=True):
        assert line.startswith(f"{record['figure']} ")
        assert float(line.split()[1]) == pytest.approx(record["samples"], rel=1e-4)
        assert line.endswith(f"  {record['better']:9} {record['method']}")
    assert [record["better"] for record in found.values()] == ["lower", "lower", "higher", "as data"]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_no_row_runs_into_the_bar(
    more: tuple[str, ...], checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, which has both."""
    seconds = iter(range(10**6))
    monkeypatch.setattr("wgan_cli.console.time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    seen: dict[str, bool] = {}
    write, echo = Console._write, click.echo

    def drawn(console: Console, text: str) -> None:
        seen["bar"] = "comparing" in text
        write(console, text)

    def printed(text: str) -> None:
        assert not seen["bar"]
        seen["row"] = True
        echo(text)

    monkeypatch.setattr(Console, "_write", drawn)
    monkeypatch.setattr(click, "echo", printed)
    done = call("evaluate", checkpoint, "--data", images, *more, terminal=True)
    assert done.code == 0 and seen["row"] and "comparing" in done.err


def test_the_same_bytes_from_every_process(checkpoint: Path, images: Path) -> None:
    words = ("evaluate", checkpoint, "--data", images, "--train", images)
    first, second = wgan(*words), call(*words)
    assert (first.code, first.out) == (0, second.out)
    assert call(*words, "--seed", "1").out != second.out


@needs_scipy
def test_a_known_generator_is_at_the_known_distance(tmp_path: Path) -> None:
    """All samples are 0.2 in [-1, 1], which is 153 of 255, and all data 0.6 (204): 0.4 · √256 apart."""
    state = new_run(channels=1, arch="mlp", width=1)
    with torch.no_grad():
        for parameter in state.generator.parameters():
            parameter.fill_(0.0)
        *_, bias = state.generator.parameters()
        bias.fill_(math.atanh(0.2))
    np.save(tmp_path / "data.npy", np.full((12, 16, 16), 204, np.uint8))
    np.save(tmp_path / "train.npy", np.full((9, 16, 16), 153, np.uint8))
    held, trained = tmp_path / "data.npy", tmp_path / "train.npy"
    found = figures(save(state, tmp_path / "ckpt.pt"), "--data", held, "--train", trained)
    values = {name: (record["samples"], record["data"]) for name, record in found.items()}
    assert values["wasserstein_1"] == (pytest.approx(6.4), pytest.approx(0, abs=1e-5))
    assert values["coverage"] == (0, 1)
    assert values["train_distance"] == (pytest.approx(0, abs=1e-5), pytest.approx(6.4))
    assert values["train_nearer"] == (1, 0.5)


def test_copies_of_what_was_trained_on_are_told(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """The samples themselves as training data: at distance 0, and all nearer to it than the held-out data."""
    assert call("sample", checkpoint, "-n", "16", "--seed", "3", "-o", tmp_path / "copies.npy").code == 0
    found = figures(checkpoint, "--data", images, "--train", tmp_path / "copies.npy", "--seed", "3")
    assert found["train_distance"]["samples"] == pytest.approx(0, abs=1e-5)
    assert found["train_distance"]["data"] > 1
    assert (found["train_nearer"]["samples"], found["train_distance"]["train_count"]) == (1, 16)
    assert "train_count" not in found["coverage"]


def test_mirrored_copies_are_told_where_images_were_mirrored(images: Path, tmp_path: Path) -> None:
    path = save(new_run(flip=True), tmp_path / "ckpt.pt")
    assert call("sample", path, "-n", "16", "-o", tmp_path / "copies.npy").code == 0
    np.save(tmp_path / "mirrored.npy", np.load(tmp_path / "copies.npy")[:, :, ::-1])
    found = figures(path, "--data", images, "--train", tmp_path / "mirrored.npy")
    assert found["train_distance"]["samples"] == pytest.approx(0, abs=1e-5)


def test_toy_sets(tmp_path: Path) -> None:
    path = save(new_run(0, 2), tmp_path / "ckpt.pt")
    found = figures(path, "--data", "toy:8gaussians", "-n", "200")
    assert found["sliced_wasserstein"]["samples"] > 5 * found["sliced_wasserstein"]["data"] > 0
    assert (found["coverage"]["space"], found["coverage"]["shape"], found["coverage"]["n"]) == ("points", [2], 200)
    assert found["coverage"]["data"] > 0.9 > found["coverage"]["samples"]


@pytest.mark.parametrize("name", ["model.pt", "model.pt2"])
def test_features(name: str, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """TorchScript and torch.export, of a fixed batch of 64, give what the model gives."""
    found = figures(checkpoint, "--data", images, "--features", write_model(tmp_path / name), "--train", images)
    of_features = "frechet_distance kernel_distance precision recall coverage density train_distance train_nearer"
    assert [n for n, record in found.items() if record["space"] == "features"] == of_features.split()
    assert len({record["features_fingerprint"] for n, record in found.items() if n in of_features.split()}) == 1
    assert found["swd_16"]["space"] == "pixels" and "features_fingerprint" not in found["swd_16"]
    text = call("evaluate", checkpoint, "--data", images, "--features", tmp_path / name).out.decode().splitlines()
    within = [line.split()[0] for line in text if line.endswith(found["coverage"]["features_fingerprint"])]
    assert within == of_features.split()[:-2]
    batch = normal(70, 3, 16, 16).float()
    function, _ = features.load_features(tmp_path / name, torch.device("cpu"))
    torch.testing.assert_close(function(batch), Model()(batch))
    grey = function(batch[:, :1])  # as red, green and blue
    torch.testing.assert_close(grey, Model()(batch[:, :1].repeat(1, 3, 1, 1)))


class Broken(nn.Module):
    def __init__(self, result: str) -> None:
        super().__init__()
        self.result = result

    def forward(self, images: Tensor) -> Any:
        return {"pair": (images, images), "nan": images * math.nan, "sum": images.sum()}[self.result]


@pytest.mark.parametrize("result", ["pair", "nan", "sum", "size", "text", "checkpoint"])
def test_features_that_are_of_no_use(result: str, checkpoint: Path, images: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if result == "text":
        path.write_text("no model")
    elif result == "checkpoint":
        path = checkpoint
    elif result == "size":
        write_model(path, model=nn.Conv2d(5, 1, 3), shape=(1, 5, 8, 8))
    else:
        write_model(path, model=Broken(result))
    done = call("evaluate", checkpoint, "--data", images, "--features", path, "-q")
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert f"--features {path}" in done.err


def test_what_is_no_model_is_found_before_images_are_read(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "x.pt").write_bytes(b"no model")
    done = call("evaluate", checkpoint, "--data", tmp_path / "a.png", "--features", tmp_path / "x.pt")
    assert done.code == 3 and "not a TorchScript or torch.export model" in done.err and "a.png" not in done.err


def test_too_few_images_and_other_kinds(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    few = write_images(tmp_path / "few", 11)
    assert "N must be 6 or more" in (done := call("evaluate", checkpoint, "--data", few)).err and done.code == 3
    assert (
        "holds 32, too few for N 17" in (done := call("evaluate", checkpoint, "--data", images, "-n", "17")).err
        and not done.out
        and done.code == 3
    )
    assert "like with like" in (done := call("evaluate", checkpoint, "--data", "toy:swissroll")).err and done.code == 2
    points = save(new_run(0, 2), tmp_path / "points.pt")
    assert "draws points" in (done := call("evaluate", points, "--data", images)).err and done.code == 2
    words = ("--data", "toy:swissroll", "--features", images / "00.png")
    assert "--features" in (done := call("evaluate", points, *words)).err and done.code == 2


def test_without_scipy_the_rest_is_there(checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    done = call("evaluate", checkpoint, "--data", images)
    assert done.code == 0 and b"coverage" in done.out and b"wasserstein_1" not in done.out
    assert "pip install 'wgan[evaluate]'" in done.err
    assert call("evaluate", checkpoint, "--data", images, "-q").err == ""


@needs_scipy
def test_an_exact_matching_that_is_too_large_is_left_out(
    checkpoint: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "MATCHED", 16)
    assert b"wasserstein_1" in call("evaluate", checkpoint, "--data", images).out
    monkeypatch.setattr(evaluate, "MATCHED", 15)
    done = call("evaluate", checkpoint, "--data", images)
    assert done.code == 0 and b"coverage" in done.out and b"wasserstein_1" not in done.out
    assert "no wasserstein_1" in done.err and "-n 15 gives it" in done.err


def test_data_of_another_shape_are_told(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 20), dtype=np.uint8)
    np.save(tmp_path / "grey.npy", pixels)
    grey = tmp_path / "grey"
    grey.mkdir()
    (grey / "0.png").write_bytes(b"no image")
    for number, image in enumerate(pixels, 1):
        Image.fromarray(image).save(grey / f"{number:02}.png")
    for data, more in ((tmp_path / "grey.npy", ()), (grey, ("--skip-bad",))):
        done = call("evaluate", checkpoint, "--data", data, *more)
        assert done.code == 0 and f"--data {data}: grey 20x28 made colour 16x16" in done.err
    done = call("evaluate", checkpoint, "--data", images, "--train", tmp_path / "grey.npy")
    assert f"--train {tmp_path / 'grey.npy'}: grey 20x28 made colour 16x16" in done.err
    assert " made " not in call("evaluate", checkpoint, "--data", images).err


def test_few_images_and_images_that_repeat_are_told(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "zeros.npy", np.zeros((200, 16, 16, 3), np.uint8))
    done = call("evaluate", checkpoint, "--data", tmp_path / "zeros.npy", "-n", "99")
    assert "N 99 says little" in done.err and "repeats itself: 1 different of 198" in done.err
    assert "says little: under" not in call("evaluate", checkpoint, "--data", tmp_path / "zeros.npy").err  # N 100
    assert "repeats itself" not in call("evaluate", checkpoint, "--data", images).err
    assert call("evaluate", checkpoint, "--data", tmp_path / "zeros.npy", "-q").err == ""


def test_data_that_was_trained_on_is_told(images: Path, tmp_path: Path) -> None:
    done = call(
        "train", "--data", images, "--size", "16", "--width", "4", "--batch", "8", "--steps", "1", "-o", tmp_path
    )
    assert done.code == 0, done.err
    other, shared = tmp_path / "other", write_images(tmp_path / "shared", 16)
    other.mkdir()
    for path in shared.iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(other / path.name)
    assert "is what it was trained on" in call("evaluate", tmp_path, "--data", images).err
    done = call("evaluate", tmp_path, "--data", other, "--train", images)
    assert done.code == 0 and "compared with the 16 in --data, of which the run knows none\n" in done.err
    assert "is not what" in call("evaluate", tmp_path, "--data", other, "--train", other).err
    assert "all of --data was trained on" in call("evaluate", tmp_path, "--data", shared).err
    for path in shared.iterdir():
        path.rename(other / f"shared-{path.name}")
    done = call("evaluate", tmp_path, "--data", other, "--json", "-n", "8")
    assert json.loads(done.out.splitlines()[0])["data_count"] == 16
    assert "with 16 of the 32 in --data: 0 were held out of the run, 16 were trained on and are left out" in done.err


def test_of_the_data_that_it_was_trained_on_only_the_held_out_part_is_taken(images: Path, tmp_path: Path) -> None:
    words = "--size 16 --width 4 --batch 4 --steps 1 --holdout 0.5".split()
    assert call("train", "--data", images, *words, "-o", tmp_path).code == 0
    done = call("evaluate", tmp_path, "--data", images, "--train", images, "--json", "-n", "8")
    assert done.code == 0 and "the 16 of it that were held out" in done.err
    records = {record["figure"]: record for record in map(json.loads, done.out.splitlines())}
    assert records["swd_16"]["data_count"] == records["train_distance"]["train_count"] == 16
    assert records["train_distance"]["data"] > 0  # no held-out image is among those trained on
    names = {records["swd_16"]["data_fingerprint"], records["train_distance"]["train_fingerprint"]}
    assert len(names) == 2 and checkpoints.load(tmp_path / "ckpt.pt")[0]["data"]["fingerprint"] not in names


def test_errors_name_the_flag(checkpoint: Path, images: Path) -> None:
    done = call("evaluate", checkpoint, "--data", images, "--train", "nowhere")
    assert done.code == 2 and "--train nowhere: no such" in done.err
    done = call("evaluate", checkpoint, "--data", "-", "--train", "-")
    assert done.code == 2 and "one list" in done.err
