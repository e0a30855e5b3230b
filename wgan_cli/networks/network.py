"""What every generator and critic is: layers in order, called `net(x, y)`, y [B] the numbers of classes, or None."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .batch_norm import ModulatedBatchNorm2d
from .halving import Halving, transposed
from .palette import Palette
from .resampling import ConvMeanPool, Shrink


class Network(nn.Sequential):
    """Named layers in order. Those without weights leave no trace in a checkpoint."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x)


class OfLatent(Network):
    """A generator of which some layers see the latent beside the features."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        features = x
        for layer in [layer for part in self for layer in (part if isinstance(part, nn.Sequential) else [part])]:
            features = layer(features, x) if isinstance(layer, (ModulatedBatchNorm2d, Palette)) else layer(features)
        return features


class Conditional(nn.Module):
    """A generator of classes: each has a learned vector, [classes, size], that stands beside the latent."""

    def __init__(self, network: nn.Module, classes: int, size: int) -> None:
        super().__init__()
        self.network = network
        self.embedding = _embedding(classes, size, 1.0)  # as latents are

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.network(torch.cat([x, self.embedding(y)], 1))


def _embedding(classes: int, size: int, deviation: float) -> nn.Embedding:
    vectors = torch.empty(classes, size)
    if not vectors.is_meta:  # where a normal distribution would make torch import its compiler
        nn.init.normal_(vectors, 0.0, deviation)
    return nn.Embedding.from_pretrained(vectors, freeze=False)


class Critic(nn.Module):
    """Samples [B, *shape] -> scores [B], by layers whose last is linear, from features [B, F] to [B, 1]."""

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net
        self.classes: nn.Embedding | None = None

    def project(self, classes: int) -> None:
        """Let it see classes: each adds its learned vector times the features (Miyato and Koyama 2018, equation 3)."""
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        self.classes = _embedding(classes, last.in_features, 0.02)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        with parametrize.cached():  # of a spectral norm, whose power method goes a step at each use of a weight
            if not x.is_meta and torch.is_autocast_enabled(x.device.type):
                self._normalise(x.device.type)
            if self.classes is None:
                return self.net(x).squeeze(1)
            features = self.net[:-1](x)
            return self.net[-1](features).squeeze(1) + (self.classes(y) * features).sum(1)

    def _normalise(self, device: str) -> None:
        """Have the weights of this pass under a spectral norm. Autocast would take the norms in 16 bits on a GPU."""
        with torch.autocast(device, enabled=False):
            for layer in self.modules():
                if parametrize.is_parametrized(layer, "weight"):
                    _ = layer.weight


class Residual(nn.Module):
    """branch(x) + skip(x); neither may write into x."""

    def __init__(self, branch: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.skip = skip or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.skip(x)


class GenerativeBasis(nn.Module):
    """[B, C] -> [B, C, h, w]: each number times a learned image, as R3GAN's generators begin; weight [C, h, w]."""

    def __init__(self, maps: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(maps, *size))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, None, None] * self.weight


class DiscriminativeBasis(nn.Conv2d):
    """[B, C, h, w] -> [B, C]: the products with a learned image, as R3GAN's critics end; weight [C, 1, h, w].

    A depthwise convolution, written as the weighted sum that one is at its only place.
    """

    def __init__(self, maps: int, size: tuple[int, int]) -> None:
        super().__init__(maps, maps, size, groups=maps, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight[:, 0]).sum(dim=(2, 3))


class PiecewiseLinear(Critic):
    """A critic of layers that are all linear or (leaky) ReLU, which gives the gradient of its scores in closed form.

    TypeError for a layer whose transpose is not known.
    """

    def __init__(self, net: nn.Sequential) -> None:
        super().__init__(net)
        _check(net)

    def input_gradient(self, points: Tensor, y: Tensor | None = None) -> Tensor:
        """The gradient [B, ...] of the scores with respect to `points`, differentiable in the parameters.

        The transposed layers in reverse order. The slopes found on the way up are constants, so that a penalty takes
        one ordinary backward pass: 4 passes of the critic in all. Differentiating autograd's gradient takes 6, two of
        them to push the slopes' derivative, 0, down through every layer.
        """
        with torch.no_grad():
            features, below = _linearised(self.net[:-1], points)
            scores, last = _linearised(self.net[-1], features)
        torch.clear_autocast_cache()  # of weights cast without gradients, which some torch would take again below
        gradient = last(torch.ones_like(scores))
        return below(gradient if self.classes is None else gradient + self.classes(y).to(gradient.dtype))


Pull = Callable[[Tensor], Tensor]  # the gradient at a layer's output -> the gradient at its input


def _check(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Sequential, Residual)):
        for child in layer.children():
            _check(child)
    elif type(layer) not in _TRANSPOSES:
        raise TypeError(f"{type(layer).__name__} has no transpose here: build a Critic, which autograd differentiates")


def _linearised(layer: nn.Module, x: Tensor) -> tuple[Tensor, Pull]:
    """The layer's output at x, without gradients, and the transpose of its derivative there."""
    if isinstance(layer, nn.Sequential):
        pulls = []
        for child in layer:
            x, pull = _linearised(child, x)
            pulls.append(pull)
        return x, lambda g: _chained(pulls, g)
    if isinstance(layer, Residual):
        on_branch, branch = _linearised(layer.branch, x)
        on_skip, skip = _linearised(layer.skip, x)
        return on_branch + on_skip, lambda g: branch(g) + skip(g)
    after = layer(x)
    return after, lambda g: _TRANSPOSES[type(layer)](layer, g, x, after)


def _chained(pulls: list[Pull], gradient: Tensor) -> Tensor:
    for pull in reversed(pulls):
        gradient = pull(gradient)
    return gradient


# ---- Transposes: (layer, gradient at its output, input, output) -> gradient at its input


def _linear(layer: nn.Linear, gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    return gradient @ layer.weight


def _convolution(layer: nn.Conv2d, gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    assert not isinstance(layer.padding, str)
    kernel = zip(before.shape[2:], after.shape[2:], layer.stride, layer.padding, layer.kernel_size, strict=True)
    rest = [side - ((small - 1) * stride - 2 * pad + size) for side, small, stride, pad, size in kernel]
    return F.conv_transpose2d(gradient, layer.weight, None, layer.stride, layer.padding, rest, layer.groups)


def _average_pool(layer: nn.AvgPool2d, gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    side = layer.kernel_size
    assert isinstance(side, int) and layer.stride == side and not layer.padding
    return F.interpolate(gradient, scale_factor=side, mode="nearest") / side**2


def _crop(layer: nn.ZeroPad2d, gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    left, right, top, bottom = layer.padding
    return gradient[:, :, top : gradient.shape[2] - bottom, left : gradient.shape[3] - right]


def _slope(layer: nn.Module, gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    slope = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else 0.0
    return torch.ops.aten.leaky_relu_backward(gradient, after, slope, True)  # times 1 or slope, by sign


_TRANSPOSES: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    Halving: lambda layer, gradient, before, after: transposed(gradient, layer.weight),
    ConvMeanPool: lambda layer, gradient, before, after: transposed(gradient, layer.kernel),
    Shrink: lambda layer, gradient, before, after: layer.transposed(gradient),
    DiscriminativeBasis: lambda layer, gradient, before, after: gradient[:, :, None, None] * layer.weight[:, 0],
    nn.AvgPool2d: _average_pool,
    nn.ZeroPad2d: _crop,
    nn.Flatten: lambda layer, gradient, before, after: gradient.view(before.shape),
    nn.Identity: lambda layer, gradient, before, after: gradient,
    nn.ReLU: _slope,
    nn.LeakyReLU: _slope,
}
