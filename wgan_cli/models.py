"""Generators and critics: fully connected, and DCGAN (Radford et al. 2016) up to 256 pixels.

A generator maps latents [B, latent] to samples [B, *shape], images in [-1, 1]; a critic maps samples to
scores [B], read as logits by the variants with a discriminator.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from . import UsageError
from .config import TrainConfig, padded_size
from .convolution import Doubling, Halving

LATENT_GRID = 4  # side in pixels of the generator's first and the critic's last feature map
MAX_FACTOR = 8  # feature maps are doubled with each halving of the side, up to this factor of the width
HIDDEN_LAYERS = 3  # of a fully connected network, as in the WGAN authors' code


def build_generator(config: TrainConfig) -> nn.Module:
    if config.arch == "mlp":
        return MLPGenerator(config.latent, config.width, config.shape)
    return DCGANGenerator(config.latent, config.width, config.channels, config.size)


def build_critic(config: TrainConfig) -> nn.Module:
    if config.arch == "mlp":
        return MLPCritic(config.width, config.shape, config.critic_norm)
    return DCGANCritic(config.width, config.channels, config.size, config.critic_norm)


def mlp(inputs: int, width: int, hidden: int, outputs: int, norm: str = "none") -> nn.Sequential:
    """`hidden` layers of `width` ReLU units and a linear one; torch's default initialisation, as the authors' code."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([inputs] + [width] * hidden):
        layers += [nn.Linear(fan_in, fan_out)]
        if norm != "none":
            layers += [nn.BatchNorm1d(fan_out) if norm == "batch" else nn.LayerNorm(fan_out)]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class MLPGenerator(nn.Module):
    """[B, latent] -> [B, *shape]: tanh for images, linear for points."""

    def __init__(self, latent: int, width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.net = mlp(latent, width, HIDDEN_LAYERS, math.prod(shape))

    def forward(self, latent: Tensor) -> Tensor:
        sample = self.net(latent).view(-1, *self.shape)
        return sample if len(self.shape) == 1 else torch.tanh(sample)


class MLPCritic(nn.Module):
    """[B, *shape] -> [B]."""

    def __init__(self, width: int, shape: tuple[int, ...], norm: str) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), *mlp(math.prod(shape), width, HIDDEN_LAYERS, 1, norm))

    def forward(self, sample: Tensor) -> Tensor:
        return self.net(sample).squeeze(1)


class DCGANGenerator(nn.Module):
    """[B, latent] -> [B, C, size, size] in [-1, 1]: linear to a 4x4 grid, then doublings by transposed convolution."""

    def __init__(self, latent: int, width: int, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        maps = _feature_maps(width, size)[::-1]
        self.first_maps = maps[0]
        self.project = nn.Linear(latent, self.first_maps * LATENT_GRID**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.first_maps), nn.ReLU(inplace=True)]
        for maps_in, maps_out in pairwise(maps):
            layers += [
                Doubling(maps_in, maps_out, bias=False),
                nn.BatchNorm2d(maps_out),
                nn.ReLU(inplace=True),
            ]
        self.net = nn.Sequential(*layers, Doubling(maps[-1], channels), nn.Tanh())
        self.apply(_dcgan_init)

    def forward(self, latent: Tensor) -> Tensor:
        grid = self.project(latent).view(-1, self.first_maps, LATENT_GRID, LATENT_GRID)
        image = self.net(grid)  # [B, C, P, P], P the padded size
        before, _ = _margins(self.size)
        return image[:, :, before : before + self.size, before : before + self.size]


class DCGANCritic(nn.Module):
    """[B, C, size, size] -> [B]: halvings by strided convolution to a 4x4 grid, then linear."""

    def __init__(self, width: int, channels: int, size: int, norm: str) -> None:
        super().__init__()
        before, after = _margins(size)
        maps = _feature_maps(width, size)
        # The margin is mid-grey, for real and fake alike.
        layers: list[nn.Module] = [nn.ZeroPad2d((before, after, before, after))] if before or after else []
        layers += [Halving(channels, maps[0]), nn.LeakyReLU(0.2, inplace=True)]
        for maps_in, maps_out in pairwise(maps):
            layers += [Halving(maps_in, maps_out, bias=norm == "none")]
            if norm != "none":  # layer norm over all of a sample's features, scaled by feature map
                layers += [nn.BatchNorm2d(maps_out) if norm == "batch" else nn.GroupNorm(1, maps_out)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
        self.net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(maps[-1] * LATENT_GRID**2, 1))
        self.apply(_dcgan_init)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image).squeeze(1)


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. UsageError for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device cuda: torch {torch.__version__} finds no GPU; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def native_precision(device: torch.device) -> str:
    """`bf16` where the device multiplies bfloat16 natively, else `fp32`."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    # get_capabilities is newer than the oldest torch that is taken.
    features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"


def has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in module.modules())


def parameter_count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _feature_maps(width: int, size: int) -> list[int]:
    """Feature maps at each side from half the padded size down to 4, for a critic; 64: w, 2w, 4w, 8w."""
    padded = padded_size(size)
    assert padded is not None  # checked in TrainConfig
    return [width * min(2**k, MAX_FACTOR) for k in range(int(math.log2(padded // LATENT_GRID)))]


def _margins(size: int) -> tuple[int, int]:
    """Pixels to add before and after each side to come to the padded size: (2, 2) for 28."""
    extra = (padded_size(size) or size) - size
    return extra // 2, extra - extra // 2


def _dcgan_init(module: nn.Module) -> None:
    """Weights from N(0, 0.02), scales from N(1, 0.02), biases 0 (Radford et al. 2016, section 4, and their code)."""
    if any(weight.is_meta for weight in module.parameters(recurse=False)):
        return  # to be loaded; a normal distribution on no memory would make torch import its compiler, a second's work
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
