"""Networks that resample: resnet, r3, and the generator of a dcgan that doubles by nearest neighbours or is blurred."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import save
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from wgan_cli import UsageError, checkpoint
from wgan_cli.config import TrainConfig, differences, resolve
from wgan_cli.console import Console
from wgan_cli.data.dataset import Batch, Dataset, to_pixels
from wgan_cli.networks import ARCHITECTURES, build_critic, build_generator, parameter_count
from wgan_cli.networks.halving import Doubling
from wgan_cli.networks.network import Network, PiecewiseLinear, Residual
from wgan_cli.networks.resampling import BlurredDoubling, ConvMeanPool, Grow, Shrink, UpsampleConv
from wgan_cli.schedule import within
from wgan_cli.state import State, new_state, restored_state
from wgan_cli.step import critic_step, generator_step
from wgan_cli.variants import VARIANTS

SHAPES = [
    *(("resnet", size) for size in (28, 32, 56, 64)),
    *(("r3", size) for size in (14, 16, 28, 32, 64, 128, 256)),
]


def small(arch: str, **settings: Any) -> TrainConfig:
    size = {"resnet": 32}.get(arch, 16)
    return TrainConfig(**{"arch": arch, "width": 4, "latent": 5, "size": size, "channels": 1, **settings})


@pytest.mark.parametrize(("arch", "size"), SHAPES)
def test_every_size_is_generated_and_scored(arch: str, size: int) -> None:
    config = small(arch, size=size, channels=3)
    images = build_generator(config)(torch.randn(2, 5))
    assert images.shape == (2, 3, size, size)
    assert build_critic(config)(images).shape == (2,)


@pytest.mark.parametrize(
    ("size", "near"), [(1, "28"), (16, "28"), (27, "28"), (33, "32 or 56"), (55, "32 or 56"), (65, "64"), (256, "64")]
)
def test_resnet_names_a_size_that_it_takes(size: int, near: str) -> None:
    with pytest.raises(UsageError, match=f"--size {size}: --arch resnet takes 32 and 64, .*; use {near}, or"):
        small("resnet", size=size)


@pytest.mark.parametrize(("arch", "size"), [("r3", 12), ("r3", 47), ("r3", 0), ("resnet", 0)])
def test_other_sizes_are_refused(arch: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"--arch {arch} takes" if size else "a toy set holds points"):
        small(arch, size=size)


def build_on_meta(**given: Any) -> tuple[nn.Module, nn.Module]:
    config, _ = resolve(given, {"size": 32, "channels": 3})
    with torch.device("meta"):
        return build_generator(config), build_critic(config)


def test_resnet_has_the_papers_number_of_weights_by_default() -> None:
    """Counted by hand from the layers of the authors' gan_cifar_resnet.py and gan_64x64.py, without classes."""
    block = 2 * (9 * 128 * 128 + 128)  # two 3x3 convolutions with biases
    generator, critic = build_on_meta(arch="resnet")
    skip, norms = 128 * 128 + 128, 4 * 128
    blocks = 3 * (block - 128 + skip + norms)  # no bias before a norm
    assert parameter_count(generator) == 129 * 2048 + blocks + 2 * 128 + 9 * 128 * 3 + 3
    first = 9 * 3 * 128 + 128 + 9 * 128 * 128 + 128 + 3 * 128 + 128
    assert parameter_count(critic) == first + block + skip + 2 * block + 129
    generator, critic = build_on_meta(arch="resnet", size=64, critic_norm="layer")
    up = [9 * a * b + 9 * b * b + b + 2 * a + 2 * b + a * b + b for a, b in pairwise([512, 512, 256, 128, 64])]
    assert parameter_count(generator) == 129 * 8192 + sum(up) + 2 * 64 + 9 * 64 * 3 + 3
    down = [9 * a * a + 9 * a * b + b + 2 * a + 2 * a + a * b + b for a, b in pairwise([64, 128, 256, 512, 512])]
    assert parameter_count(critic) == 9 * 3 * 64 + 64 + sum(down) + 8193


def test_r3_has_a_stage_a_side_of_two_blocks_with_groups_of_16() -> None:
    config = TrainConfig(arch="r3", size=64, width=8)
    for network in build_generator(config), build_critic(config):
        blocks = [m for m in network.modules() if isinstance(m, Residual)]
        convolutions = [[m for m in b.modules() if isinstance(m, nn.Conv2d)] for b in blocks]
        widths = [expand.in_channels for expand, _, _ in convolutions]
        assert sorted(widths) == 2 * [8] + 2 * [16] + 6 * [32]
        assert widths == sorted(widths, reverse=isinstance(network, PiecewiseLinear) is False)
        for expand, grouped, back in convolutions:
            assert expand.out_channels == grouped.in_channels == grouped.out_channels == 2 * expand.in_channels
            assert grouped.in_channels // grouped.groups == 16
            assert (expand.bias is None, grouped.bias is None, back.bias is None) == (False, False, True)


@pytest.mark.parametrize(("arch", "norm"), [("resnet", "none"), ("resnet", "layer"), ("r3", "none")])
def test_a_critic_ends_in_one_linear_layer_and_says_whether_it_is_piecewise_linear(arch: str, norm: str) -> None:
    critic = build_critic(small(arch, critic_norm=norm))
    layers = critic.net
    assert isinstance(layers, nn.Sequential)
    assert isinstance(layers[-1], nn.Linear) and layers[-1].out_features == 1
    assert isinstance(critic, PiecewiseLinear) == (norm == "none")


@pytest.mark.parametrize("size", [16, 64])
def test_r3_begins_with_blocks_that_change_nothing(size: int) -> None:
    """And so with the linear layers alone: f(x) is linear in x, though every block holds leaky ReLUs."""
    config = small("r3", size=size)
    for network, shape in ((build_generator(config), (5,)), (build_critic(config), config.shape)):
        blocks = [m for m in network.modules() if isinstance(m, Residual)]
        for block in blocks:
            x = torch.randn(2, block.branch.get_parameter("0.weight").shape[1], 4, 4)
            assert block(x).equal(x)
        network.double()
        a, b = torch.randn(2, 3, *shape, dtype=torch.float64)
        torch.testing.assert_close(network(a + 2 * b), network(a) + 2 * network(b))


def test_r3_begins_with_the_papers_variances() -> None:
    """Huang et al. 2024, authors' code: gain √(2 / 1.04) L^-¼ over √(fan in) in a block, 1 over it elsewhere."""
    torch.manual_seed(0)
    critic = build_critic(TrainConfig(arch="r3", size=32, width=32))
    gain = (2 / 1.04) ** 0.5 * 8**-0.25
    for block in (m for m in critic.modules() if isinstance(m, Residual)):
        expand, grouped, _ = (m for m in block.modules() if isinstance(m, nn.Conv2d))
        assert expand.weight.std().item() == pytest.approx(gain * expand.in_channels**-0.5, rel=0.1)
        assert grouped.weight.std().item() == pytest.approx(gain * (9 * 16) ** -0.5, rel=0.1)
    layers = critic.net
    assert isinstance(layers, nn.Sequential) and isinstance(layers[-1], nn.Linear)
    assert layers[-1].weight.std().item() == pytest.approx(128**-0.5, rel=0.2)


def test_resnet_begins_with_the_authors_variances() -> None:
    """2 / (fan in + fan out), twice that in the branches of blocks."""
    torch.manual_seed(0)
    critic = build_critic(TrainConfig(arch="resnet", size=32, width=16))
    blocks = [m for m in critic.modules() if isinstance(m, Residual)]
    branch, skip = (
        next(m for m in part.modules() if isinstance(m, nn.Conv2d)) for part in (blocks[2].branch, blocks[1].skip)
    )
    assert branch.weight.std().item() == pytest.approx((4 / (2 * 9 * 32)) ** 0.5, rel=0.05)
    assert skip.weight.std().item() == pytest.approx((2 / (2 * 32)) ** 0.5, rel=0.1)


# ---- Resampling


def test_shrinking_weighs_pixels_by_1_3_3_1_and_its_transpose_is_its_transpose() -> None:
    impulse = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    impulse[0, 1, 3:7, 3:7] = torch.ones(4, 4)
    small = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    small[0, 1, 2, 1] = 1
    spread = Shrink().transposed(small)
    assert spread[0, 1, 3:7, 1:5].equal(row[:, None] * row)
    assert spread.sum() == 1
    x = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close((Shrink()(x) * small).sum(), (x * spread).sum())


def test_in_bfloat16_shrinking_convolves_in_float32() -> None:
    """Up, down, and for the gradient; and gives bfloat16 back."""
    seen = []

    class Convolutions(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "convolution" in str(func):
                seen.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    x = torch.randn(2, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    with Convolutions(), torch.autocast("cpu", torch.bfloat16):
        again = Shrink().transposed(Shrink()(x))
        again.sum().backward()
    assert again.dtype == torch.bfloat16 and seen == [torch.float32] * 4


def test_doubling_in_r3_weighs_pixels_by_1_3_3_1_too() -> None:
    """Away from the border: four times the transpose of shrinking."""
    (up, *_) = [m for m in build_generator(small("r3")).modules() if isinstance(m, Grow)]
    x = torch.randn(1, 2, 8, 8)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(up(x)[inner], 4 * Shrink().transposed(x)[inner])


@pytest.mark.parametrize("size", [(4, 4), (5, 16), (3, 1)])
def test_doubling_by_a_convolution_is_torchs_doubling(size: tuple[int, int]) -> None:
    """And so is its gradient, which on a GPU has one order of its sums."""
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = Grow.convolved(x), Grow()(x)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(way, x, weights)[0] for way in (ours, theirs)))


@pytest.mark.parametrize(("maps", "side"), [((3, 5), 8), ((130, 128), 4), ((130, 130), 8)])
def test_convolutions_are_those_around_a_doubling_and_a_mean(maps: tuple[int, int], side: int) -> None:
    """Also where the product of patches takes the place of a convolution: 128 maps and more at 4x4."""
    up, down = UpsampleConv(*maps).double(), ConvMeanPool(*maps).double()
    x = torch.randn(2, maps[0], side, side, dtype=torch.float64, requires_grad=True)
    for ours, theirs in (
        (up(x), F.conv2d(F.interpolate(x, scale_factor=2), up.weight, up.bias, padding=1)),
        (down(x), F.avg_pool2d(F.conv2d(x, down.weight, down.bias, padding=1), 2)),
    ):
        layer = up if ours.shape[2] > side else down
        torch.testing.assert_close(ours, theirs)
        upstream = torch.randn_like(ours)
        gradients = [torch.autograd.grad(y, [x, *layer.parameters()], upstream) for y in (ours, theirs)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)


def test_nearest_doubling_draws_no_checkerboard_on_an_even_image() -> None:
    """What the first layer makes of one value is one value inside; of a transposed convolution four, in turns."""
    inner = (0, 0, slice(1, -1), slice(1, -1))
    for upsample, even in (("nearest", True), ("transposed", False)):
        generator = build_generator(small("dcgan", size=32, upsample=upsample))
        layers = generator.get_submodule("net")
        assert isinstance(layers, nn.Sequential) and isinstance(layers[2], (nn.Conv2d, nn.ConvTranspose2d))
        with torch.no_grad():
            pixels = layers[2](torch.ones(1, layers[2].in_channels, 6, 6))[inner]
        assert bool((pixels.max() - pixels.min()).abs() < 1e-6) == even


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_blurred_doubling_is_a_doubling_and_a_filter(share: float) -> None:
    """That of all pixels that the doubling makes, one beyond each edge included; gradients too."""
    layer = BlurredDoubling(5, 3).double()
    layer.share.fill_(share)
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    wide = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
    row = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    taps = torch.zeros(3, 3, 3, 3, dtype=torch.float64)
    taps[range(3), range(3)] = share * row[:, None] * row
    taps[range(3), range(3), 1, 1] += 1 - share
    ours, theirs = layer(x), F.conv2d(wide, taps)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    gradients = [torch.autograd.grad(y, [x, *layer.parameters()], upstream) for y in (ours, theirs)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    if not share:
        plain = Doubling(5, 3).double()
        plain.load_state_dict(layer.state_dict(), strict=False)
        torch.testing.assert_close(ours, plain(x))


def test_a_full_blur_takes_the_noise_of_single_pixels() -> None:
    """No colour that changes from pixel to pixel is left; one that is even stays."""
    layer = BlurredDoubling(1, 1, bias=False)
    layer.share.fill_(1)
    rows = torch.tensor([1.0, -1.0, 1.0, -1.0])
    x = torch.ones(1, 1, 6, 6)
    with torch.no_grad():
        for pattern in (rows[:, None] * rows, rows[:, None].expand(4, 4), rows.expand(4, 4)):
            layer.weight.copy_(pattern)
            assert layer(x)[..., 2:-2, 2:-2].abs().max() < 1e-6
        layer.weight.fill_(1)
        torch.testing.assert_close(layer(x)[..., 2:-2, 2:-2], Doubling(1, 1, bias=False)(x)[..., 2:-2, 2:-2] * 0 + 4)


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_the_last_layer_is_blurred_as_the_run_ends(classes: tuple[str, ...]) -> None:
    """From 0.6 to 0.8 of the steps; the average of the weights has the average of the blur."""
    given = {"upsample": "blurred", "steps": 20, "ema": 0.5, "width": 4, "batch": 2, "classes": classes}
    config, _ = resolve(given, {"size": 16, "channels": 1})
    state = new_state(config, torch.device("cpu"))
    layers = [layer for layer in state.generator.modules() if isinstance(layer, BlurredDoubling)]
    assert [layer.weight.shape[1] for layer in layers] == [1]
    y = torch.zeros(2, dtype=torch.int64) if classes else None
    shares, averages, mean = [], [], 0.0
    for _ in range(20):
        batch = Batch(torch.zeros(2, 1, 16, 16), y)
        critic_step(state, batch)
        generator_step(state, batch)
        assert state.ema is not None
        shares.append(layers[0].share.item())
        averages.append(next(v for k, v in state.ema.named_buffers() if k.endswith("share")).item())
        mean += float(within(config, state.step - 1).ema) * (shares[-1] - mean)
        assert averages[-1] == pytest.approx(mean)
    assert shares == pytest.approx([0.0] * 12 + [0.25, 0.5, 0.75] + [1.0] * 5)


# ---- Settings, steps and checkpoints


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_r3_refuses_norms_in_its_critic(norm: str) -> None:
    with pytest.raises(UsageError, match=f"--critic-norm {norm}: --arch r3 has no norm"):
        resolve({"arch": "r3", "variant": "ns", "critic_norm": norm}, {"size": 32})
    assert resolve({"arch": "r3", "variant": "ns"}, {"size": 32})[0].critic_norm == "none"


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - {"dcgan"}))
def test_only_dcgan_takes_upsample(arch: str) -> None:
    config, origins = resolve({"arch": arch}, {"size": 32})
    assert config.upsample is None and origins["upsample"] == "not used"
    with pytest.raises(
        UsageError, match="--upsample nearest: arch .* leave the flag out or choose another architecture"
    ):
        resolve({"arch": arch, "upsample": "nearest"}, {"size": 32})


def test_upsample_has_choices() -> None:
    with pytest.raises(UsageError, match="--upsample bicubic: choose one of transposed, nearest, blurred"):
        TrainConfig(upsample="bicubic")


@pytest.mark.parametrize("arch", ["dcgan", "mlp"])
def test_a_run_from_before_upsample_and_norms_goes_on_with_its_settings(arch: str) -> None:
    config, _ = resolve({"arch": arch}, {"size": 32})
    newer = ("upsample", "generator_norm", "palette")
    older = {name: value for name, value in config.as_dict().items() if name not in newer}
    assert differences(TrainConfig.from_dict(older), config) == []


def steps(state: State, numbers: range) -> None:
    for number in numbers:
        real = torch.randn(4, *state.config.shape, generator=torch.Generator().manual_seed(number))
        critic_step(state, Batch(real))
        state.batches += 1
        generator_step(state, Batch(real))


CASES: list[tuple[str, dict[str, Any]]] = [
    ("resnet", {}),
    ("r3", {}),
    ("dcgan", {"upsample": "nearest"}),
    ("dcgan", {"upsample": "blurred", "steps": 5}),  # amid which the blur comes in
    ("dcgan", {"upsample": "blurred", "steps": 5, "palette": 3}),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["resnet", "r3"])
def test_a_step_of_every_variant_changes_both_networks(variant: str, precision: str, arch: str) -> None:
    given = {"arch": arch, "variant": variant, "width": 4, "batch": 4, "precision": precision}
    state = new_state(resolve(given, {"size": small(arch).size, "channels": 1})[0], torch.device("cpu"))
    before = [[p.clone() for p in network.parameters()] for network in (state.generator, state.critic)]
    steps(state, range(1))
    for network, old in zip((state.generator, state.critic), before, strict=True):
        assert all(p.isfinite().all() and p.dtype == torch.float32 for p in network.parameters())
        assert any(not p.equal(q) for p, q in zip(network.parameters(), old, strict=True))


@pytest.mark.parametrize("arch", ["resnet", "r3"])
def test_a_step_reads_nothing_on_the_host(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device a tensor has no value, and one from elsewhere raises."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda seed: None))
    state = new_state(resolve({"arch": arch, "width": 4}, {"size": 32, "channels": 1})[0], meta)
    batch = Batch(torch.empty(4, 1, 32, 32, device=meta))
    figures = critic_step(state, batch) | generator_step(state, batch)
    assert all(value.device == meta for value in figures.values())


@pytest.mark.parametrize(("arch", "given"), CASES, ids=[f"{arch}-{given.get('upsample', '')}" for arch, given in CASES])
@pytest.mark.parametrize("variant", ["gp", "hinge"])
def test_a_checkpoint_goes_on_bit_for_bit(arch: str, given: dict[str, Any], variant: str, tmp_path: Path) -> None:
    """Networks restored from a checkpoint are built on the meta device: nothing of them may stay there."""
    size = 32 if arch == "resnet" else 16
    config, _ = resolve(
        {"arch": arch, "variant": variant, "width": 4, "batch": 4, "latent": 3, "n_critic": 1, "ema": 0.9, **given},
        {"size": size, "channels": 1},
    )
    whole = new_state(config, torch.device("cpu"))
    steps(whole, range(2))
    path = save(whole, tmp_path / "ckpt.pt")
    steps(whole, range(2, 4))
    dataset = Dataset(np.zeros((8, *config.shape), np.uint8), "0" * 16)
    parts = restored_state(path, config, dataset, torch.device("cpu"), Console(quiet=True))
    steps(parts, range(2, 4))
    for one, other in ((whole.generator, parts.generator), (whole.critic, parts.critic), (whole.ema, parts.ema)):
        assert one is not None and other is not None
        for name, value in one.state_dict().items():
            assert value.isfinite().all() and value.equal(other.state_dict()[name]), name
    generator, *_ = checkpoint.network(path, "generator")
    assert generator(torch.zeros(2, 3)).isfinite().all()


def test_what_leaves_the_range_is_clamped_into_pixels() -> None:
    """Samples of r3, which has no tanh, go beyond [-1, 1]."""
    samples = torch.tensor([-3.0, -1.0, 0.0, 1.0, 1.01, 50.0]).view(1, 1, 1, 6)
    assert to_pixels(samples).flatten().tolist() == [0, 0, 128, 255, 255, 255]
    network = build_generator(small("r3"))
    assert isinstance(network, Network) and not any(isinstance(m, nn.Tanh) for m in network.modules())
