"""Each operation where its result is known."""

from __future__ import annotations

import pytest
import torch
from tiny import new_run

from wgan_cli.augment import OPERATIONS, augmented, color, cutout, translation
from wgan_cli.data.dataset import Batch
from wgan_cli.step import critic_step, generator_step, noisy


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_color_is_brightness_then_saturation_then_contrast_of_each_image_by_itself() -> None:
    """Two images of two channels and 1x2 pixels, by hand; the draws are the generator's own."""
    images = torch.tensor([[[[0.5, -0.5]], [[0.1, 0.3]]], [[[1.0, 0.0]], [[-1.0, 0.2]]]], dtype=torch.float64)
    draws = torch.stack([torch.rand(2, generator=r) for r in [rng()] for _ in range(3)]).double().tolist()
    result = color(images, rng())
    for image, got, (b, s, k) in zip(images.tolist(), result.tolist(), zip(*draws, strict=True), strict=True):
        bright = [[x + b - 0.5 for x in channel[0]] for channel in image]
        grey = [(bright[0][i] + bright[1][i]) / 2 for i in range(2)]
        saturated = [[(x - c) * 2 * s + c for x, c in zip(channel, grey, strict=True)] for channel in bright]
        mean = sum(map(sum, saturated)) / 4
        expected = [[[(x - mean) * (k + 0.5) + mean for x in channel]] for channel in saturated]
        assert torch.tensor(got, dtype=torch.float64).allclose(torch.tensor(expected, dtype=torch.float64), rtol=1e-6)


def test_saturation_leaves_one_channel_as_it_is() -> None:
    """So that the image is moved and scaled about its mean by one number each: k in ½ to 1½, b in ±½."""
    images = torch.randn(500, 1, 4, 4, dtype=torch.float64, generator=rng())
    result = color(images, rng(1))
    scale = result.flatten(1).std(1) / images.flatten(1).std(1)
    moved = (result - images).mean((1, 2, 3))
    straight = scale.view(-1, 1, 1, 1) * (images - images.mean((1, 2, 3), keepdim=True))
    torch.testing.assert_close(result - result.mean((1, 2, 3), keepdim=True), straight)
    for drawn, low in ((scale, 0.5), (moved, -0.5)):
        assert low <= drawn.min() < low + 0.05 and low + 0.95 < drawn.max() < low + 1


@pytest.mark.parametrize(("side", "margin"), [(16, 2), (28, 4), (20, 3), (32, 4)])
def test_translation_fills_with_0_and_never_goes_further_than_an_eighth_of_the_side(side: int, margin: int) -> None:
    image = 1.0 + torch.arange(2.0 * side * side).view(1, 2, side, side)
    found = set()
    for moved in translation(image.repeat(400, 1, 1, 1), rng()):
        rows, columns = moved[0].any(1).nonzero().flatten(), moved[0].any(0).nonzero().flatten()
        first = moved[0, rows[0], columns[0]].item() - 1  # the number of the pixel that lies there now
        down, right = rows[0].item() - int(first // side), columns[0].item() - int(first % side)
        expected = torch.zeros(2, side, side)
        for y in range(side):
            for x in range(side) if 0 <= y - down < side else ():
                if 0 <= x - right < side:
                    expected[:, y, x] = image[0, :, y - down, x - right]
        assert moved.equal(expected)
        found.add((down, right))
        if len(found) > 12:
            break
    shifts = torch.stack(
        [translation(image, rng(seed))[0, 0].eq(0).all(d).sum() for seed in range(200) for d in (0, 1)]
    )
    assert shifts.max() == margin and shifts.min() == 0


@pytest.mark.parametrize(("side", "size"), [(16, 8), (28, 14), (14, 7), (13, 7)])
def test_cutout_blanks_a_square_of_half_the_side_that_the_border_cuts(side: int, size: int) -> None:
    images = cutout(torch.ones(4000, 2, side, side), rng())
    assert ((images == 0) | (images == 1)).all() and images[:, 0].equal(images[:, 1])
    rows, columns = (images[:, 0] == 0).any(2).sum(1), (images[:, 0] == 0).any(1).sum(1)
    assert (rows * columns).equal((images[:, 0] == 0).sum((1, 2)))  # a rectangle
    for lengths in (rows, columns):
        assert lengths.max() == size and lengths.min() == size - size // 2  # a centre on the border
    last = images[:, 0, -1].eq(0).any(1).float().mean()
    first = images[:, 0, 0].eq(0).any(1).float().mean()
    assert abs(first - last) < 0.05  # as often at either end


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_gradient_flows_to_the_images(name: str) -> None:
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=rng(), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: augmented(x, [name], rng(1)), images)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_image_and_each_call_has_draws_of_its_own(name: str) -> None:
    images, draws = torch.ones(20, 1, 16, 16) + torch.arange(256).view(16, 16), rng()
    first, second = OPERATIONS[name](images, draws), OPERATIONS[name](images, draws)
    assert len({row.numpy().tobytes() for row in torch.cat([first, second])}) > 15
    assert OPERATIONS[name](images, rng()).equal(first)


def test_operations_come_in_the_order_given() -> None:
    """A square cut out before is moved off 0 by the colours; cut out after, the square stays 0."""
    images = torch.full((8, 1, 16, 16), 0.5)
    assert (augmented(images, ("color", "cutout"), rng()) == 0).any()
    assert not (augmented(images, ("cutout", "color"), rng()) == 0).any()
    both = augmented(images, ("color", "cutout"), r := rng())
    assert both.equal(cutout(color(images, r := rng()), r))


def test_without_augmentation_no_number_is_drawn() -> None:
    state = new_run()
    before = state.rng.get_state()
    images = torch.randn(8, 3, 16, 16)
    assert noisy(state, images) is images and state.rng.get_state().equal(before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_generator_learns_through_every_operation(precision: str) -> None:
    state = new_run(variant="r3", augment=tuple(OPERATIONS), precision=precision)
    batch = Batch(torch.randn(8, 3, 16, 16, generator=rng()))
    figures = critic_step(state, batch) | generator_step(state, batch)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in figures.values())
    for network in (state.critic, state.generator):
        gradients = [p.grad for p in network.parameters() if p.dim() > 1]
        assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)
