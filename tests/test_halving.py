"""The products against torch's own convolutions, to rounding, with their first and second derivatives."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wgan_cli.networks import halving
from wgan_cli.networks.halving import Doubling, Halving, transposed


@pytest.fixture
def few_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the product at sizes that finite differences can be taken of."""
    monkeypatch.setattr(halving, "MAPS", 2)


def _operands(maps_in: int, maps_out: int, batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, maps_in, 8, 8), (batch, maps_out, 4, 4), (maps_out, maps_in, 4, 4)
    large, small, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return large.contiguous(memory_format=torch.channels_last), small, weight


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", ["halving", "doubling"])
def test_product_is_the_convolution(few_maps: None, form: str, bias: bool) -> None:
    large, small, weight = _operands(2, 5)
    image = large if form == "halving" else small
    layer = (Halving(2, 5, bias) if form == "halving" else Doubling(5, 2, bias)).double()
    layer.weight.data.copy_(weight)
    image = image.requires_grad_()
    function = F.conv2d if form == "halving" else F.conv_transpose2d
    out, theirs = layer(image), function(image, layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(out, theirs)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = (image, *layer.parameters())
    for ours, gradient in zip(
        torch.autograd.grad(out, wanted, upstream), torch.autograd.grad(theirs, wanted, upstream), strict=True
    ):
        torch.testing.assert_close(ours, gradient)


def test_second_derivatives(few_maps: None) -> None:
    large, small, weight = (t.requires_grad_() for t in _operands(2, 1, batch=1))
    halved, doubled = halving._Halved.apply, halving._Doubled.apply
    for function, image in ((halved, large), (doubled, small)):
        assert torch.autograd.gradcheck(function, (image, weight))
        assert torch.autograd.gradgradcheck(function, (image, weight))


def test_transposed_is_the_transpose(few_maps: None) -> None:
    large, small, weight = _operands(4, 3)
    layer = Halving(4, 3, bias=False).double()
    layer.weight.data.copy_(weight)
    torch.testing.assert_close((layer(large) * small).sum(), (large * transposed(small, weight)).sum())


@pytest.mark.parametrize(
    ("maps", "side", "product"), [(128, 8, True), (127, 8, False), (128, 16, False), (128, 4, False)]
)
def test_product_is_taken_where_it_pays(monkeypatch: pytest.MonkeyPatch, maps: int, side: int, product: bool) -> None:
    taken = []

    def instead(*shape: int) -> Callable[[Tensor], Tensor]:
        return lambda _: taken.append(shape) or torch.zeros(shape)  # type: ignore[func-returns-value]

    monkeypatch.setattr(halving, "_patches", instead(16, 16 * maps))
    monkeypatch.setattr(halving, "_summed", instead(1, maps, 8, 8))
    Halving(maps, 2)(torch.zeros(1, maps, side, side))
    Doubling(2, maps)(torch.zeros(1, 2, side // 2, side // 2))
    transposed(torch.zeros(1, 2, side // 2, side // 2), torch.zeros(2, maps, 4, 4))
    assert len(taken) == (3 if product else 0)


def test_autocast_as_torch(few_maps: None) -> None:
    large, small, weight = (t.float() for t in _operands(2, 5))
    layer = Halving(2, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out, theirs = layer(large), F.conv2d(large, layer.weight, layer.bias, stride=2, padding=1)
        assert out.dtype == theirs.dtype == transposed(small, weight).dtype == torch.bfloat16
        torch.testing.assert_close(out, theirs, rtol=0.02, atol=0.02)
    out.sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


def test_views_where_weights_are_channels_last() -> None:
    """Neither weights nor pixels are copied before and after the product."""
    weight = torch.zeros(3, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    assert halving._matrix(weight).data_ptr() == weight.data_ptr()
    image = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert halving._rows(image).data_ptr() == image.data_ptr()
    assert halving._image(halving._rows(image), 4).is_contiguous(memory_format=torch.channels_last)
