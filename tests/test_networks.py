"""Shapes, initialisation and structure of the networks."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from wgan_cli import UsageError
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.networks import ARCHITECTURES, build_critic, build_generator, has_batch_norm, parameter_count
from wgan_cli.networks.batch_norm import ModulatedBatchNorm2d
from wgan_cli.networks.palette import Palette
from wgan_cli.networks.resampling import BlurredDoubling

DCGAN_SHAPES = [(14, 1), (16, 3), (28, 1), (32, 3), (56, 2), (64, 3), (64, 4), (112, 1), (128, 5), (224, 3), (256, 1)]


def small(**settings: Any) -> TrainConfig:
    return TrainConfig(**{"width": 4, "latent": 5, "size": 16, "channels": 1, **settings})


@pytest.mark.parametrize(("size", "channels"), DCGAN_SHAPES)
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_dcgan_generates_and_scores_every_size(size: int, channels: int, norm: str) -> None:
    config = small(size=size, channels=channels, width=2, critic_norm=norm)
    images = build_generator(config)(torch.randn(2, 5))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert build_critic(config)(images).shape == (2,)


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (20, 3), (0, 2)])
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_mlp_generates_and_scores_images_and_points(size: int, channels: int, norm: str) -> None:
    config = small(arch="mlp", variant="clip", size=size, channels=channels, critic_norm=norm)
    samples = build_generator(config)(torch.randn(3, 5))
    assert samples.shape == (3, *config.shape)
    assert build_critic(config)(samples).shape == (3,)


def test_dcgan_has_the_papers_layers_at_64() -> None:
    """Radford et al. 2016, figure 1: 1024 (here 8w) maps at 4x4, halved with each doubling of the side."""
    config = small(size=64, channels=3, width=4)
    generator, critic = build_generator(config), build_critic(config)
    up = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in up] == [(32, 16), (16, 8), (8, 4), (4, 3)]
    down = [m for m in critic.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in down] == [(3, 4), (4, 8), (8, 16), (16, 32)]
    first, last = list(generator.children())[0], list(critic.modules())[-1]
    assert isinstance(first, nn.Linear) and first.out_features == 32 * 4 * 4
    assert isinstance(last, nn.Linear) and (last.in_features, last.out_features) == (32 * 4 * 4, 1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_critic_may_have_a_width_of_its_own(arch: str) -> None:
    def weights(**widths: int) -> list[int]:
        config = small(arch=arch, size=32, channels=3, **widths)
        return [parameter_count(build_generator(config)), parameter_count(build_critic(config))]

    wide, narrow = weights(width=8), weights(width=4)
    assert weights(width=8, width_critic=4) == [wide[0], narrow[1]] != weights(width=4, width_critic=8)


def test_modulated_norm_is_scaled_and_shifted_by_its_latent() -> None:
    """Chen et al. 2019, equations 1 and 2: γ(z) times the normalised features, plus β(z)."""
    config = small(generator_norm="self", size=16)
    generator = build_generator(config)
    norm = next(m for m in generator.modules() if isinstance(m, ModulatedBatchNorm2d))
    with torch.no_grad():
        norm.norm.weight.fill_(1)
        norm.modulation.weight.normal_()
        norm.modulation.bias.normal_()
    x, z = 3 + 2 * torch.randn(6, 8, 4, 4), torch.randn(6, 5)
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), correction=0, keepdim=True)
    a, b = (z @ norm.modulation.weight.T + norm.modulation.bias)[..., None, None].split(8, 1)
    torch.testing.assert_close(norm(x, z), (1 + a) * (x - mean) / deviation + b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_self_modulation_at_rest_is_batch_norm_and_else_sees_latent_and_class(classes: tuple[str, ...]) -> None:
    settings = {"classes": classes, "labels": "folders" if classes else "none", "size": 16}
    plain, modulated = build_generator(small(**settings)), build_generator(small(**settings, generator_norm="self"))
    z, y = torch.randn(4, 5), torch.tensor([0, 1, 0, 1]) if classes else None
    state = iter(plain.state_dict().values())
    with torch.no_grad():
        for name, value in modulated.state_dict().items():
            value.zero_() if "modulation" in name else value.copy_(next(state))
    torch.testing.assert_close(modulated.eval()(z, y), plain.eval()(z, y), rtol=0, atol=0)
    norms = [m for m in modulated.modules() if isinstance(m, ModulatedBatchNorm2d)]
    assert len(norms) == 2
    for norm in norms:
        assert norm.modulation.in_features == (10 if classes else 5)  # the class's vector too
        nn.init.normal_(norm.modulation.bias)
        assert not torch.equal(modulated(z, y), plain(z, y))


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - {"dcgan"}))
def test_only_dcgan_takes_another_norm_in_its_generator(arch: str) -> None:
    config, origins = resolve({"arch": arch}, {"size": 32})
    assert config.generator_norm is None and origins["generator_norm"] == "not used"
    with pytest.raises(UsageError, match="--generator-norm self: arch .* choose another architecture"):
        resolve({"arch": arch, "generator_norm": "self"}, {"size": 32})


@pytest.mark.parametrize("low", [None, torch.bfloat16])
def test_a_palette_weighs_the_colours_of_image_and_pixel_by_the_masks(low: torch.dtype | None) -> None:
    """By hand, pixel by pixel; under autocast too in float32."""
    palette, z = Palette(nn.Identity(), 5, 4, 3), torch.randn(2, 5)
    maps = (3 * torch.randn(2, 8, 3, 6)).to(low or torch.float32)
    of_images = torch.tanh(z @ palette.colours.weight.T + palette.colours.bias).view(2, 4, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=low is not None):
        images = palette(maps, z)
    assert images.dtype == torch.float32 and images.shape == (2, 3, 3, 6)
    for image, row, column in product(range(2), range(3), range(6)):
        own, weights = torch.tanh(maps[image, :3, row, column].float()), maps[image, 3:, row, column].float().exp()
        colours = torch.cat([own[None], of_images[image]])
        expected = weights @ colours / weights.sum()
        torch.testing.assert_close(images[image, :, row, column], expected, rtol=1e-5, atol=1e-5)


def test_an_area_of_one_mask_is_even_whatever_lies_under_it() -> None:
    palette, z = Palette(nn.Identity(), 5, 4, 3), torch.randn(2, 5)
    maps = torch.randn(2, 8, 8, 8)
    maps[:, 6] += 100
    colours = torch.tanh(palette.colours(z)).view(2, 4, 3)
    torch.testing.assert_close(palette(maps, z), colours[:, 2, :, None, None].expand(2, 3, 8, 8))


def test_a_palette_mixes_the_pixels_of_a_blurred_layer_before_they_are_shuffled_to_the_same_images() -> None:
    layer, z = BlurredDoubling(5, 8), torch.randn(2, 5)
    layer.share.fill_(0.3)
    before, after = Palette(layer, 5, 4, 3), Palette(nn.Identity(), 5, 4, 3)
    after.colours = before.colours
    features = torch.randn(2, 5, 3, 6)
    torch.testing.assert_close(before(features, z), after(layer(features), z))


@pytest.mark.parametrize("norm", ["batch", "self"])
@pytest.mark.parametrize("classes", [(), ("cat", "dog")])
def test_a_generator_with_a_palette_begins_with_colours_that_differ(classes: tuple[str, ...], norm: str) -> None:
    torch.manual_seed(0)
    labels = "folders" if classes else "none"
    config = small(size=16, channels=3, palette=100, generator_norm=norm, classes=classes, labels=labels)
    generator = build_generator(config)
    (palette,) = (m for m in generator.modules() if isinstance(m, Palette))
    assert palette.colours.in_features == (10 if classes else 5)  # the class's vector too
    assert palette.colours.bias.std().item() == pytest.approx(0.5, rel=0.15)
    assert palette.colours.weight.std().item() == pytest.approx(0.02, rel=0.15)
    bias = palette.layer.bias
    assert isinstance(bias, torch.Tensor) and bias.nonzero().tolist() == [[3]]
    assert bias[3:].softmax(0)[0].item() == pytest.approx(1 / (1 + math.exp(-2)))
    y = torch.tensor([0, 1, 0, 1]) if classes else None
    images = generator(torch.randn(4, 5), y)
    assert images.shape == (4, 3, 16, 16) and images.abs().max() <= 1
    assert generator(torch.randn(4, 5), y).sub(images).abs().max() > 0


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - {"dcgan"}))
def test_only_dcgan_takes_a_palette(arch: str) -> None:
    config, origins = resolve({"arch": arch}, {"size": 32})
    assert config.palette is None and origins["palette"] == "not used"
    with pytest.raises(UsageError, match="--palette 3: arch .* mixes no colours; .* choose another architecture"):
        resolve({"arch": arch, "palette": 3}, {"size": 32})


def test_generator_norm_has_choices() -> None:
    with pytest.raises(UsageError, match="--generator-norm layer: choose one of batch, self$"):
        TrainConfig(generator_norm="layer")


def test_dcgan_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    config = small(size=64, channels=3, width=32, variant="clip", critic_norm="batch")
    for network in (build_generator(config), build_critic(config)):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
                assert module.weight.mean().item() == pytest.approx(0, abs=0.002)
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
                assert not module.bias.any()


def test_batch_norm_stands_where_it_is_asked_for() -> None:
    assert has_batch_norm(build_critic(small(variant="clip", critic_norm="batch")))
    assert has_batch_norm(build_critic(small(variant="clip", arch="mlp", critic_norm="batch")))
    assert not has_batch_norm(build_critic(small(critic_norm="layer")))
    assert not has_batch_norm(build_critic(small(critic_norm="none")))


@pytest.mark.parametrize("arch", ["mlp", "dcgan"])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_without_batch_norm_a_score_depends_on_its_own_sample_alone(arch: str, norm: str) -> None:
    torch.manual_seed(0)
    critic = build_critic(small(size=28, arch=arch, critic_norm=norm)).double()
    images = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    alone = torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(critic(images), alone)


def test_a_padded_critic_sees_the_same_margin_for_every_image() -> None:
    """28 is worked on as 32, so moving the content by the margin changes what the border layers see."""
    torch.manual_seed(0)
    critic = build_critic(small(size=28, width=2)).double()  # scores are near 0, where float32's tolerance is wide
    image = torch.randn(1, 1, 28, 28, dtype=torch.float64)
    padded = torch.zeros(1, 1, 32, 32, dtype=torch.float64)
    padded[:, :, 2:30, 2:30] = image
    same = build_critic(small(size=32, width=2)).double()
    for parameter, value in zip(same.parameters(), critic.parameters(), strict=True):
        parameter.data.copy_(value.data)
    torch.testing.assert_close(critic(image), same(padded), rtol=1e-9, atol=0)
