"""Shapes, initialisation and structure of the networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from wgan_cli.config import TrainConfig
from wgan_cli.networks import build_critic, build_generator, has_batch_norm

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
