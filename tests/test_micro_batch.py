"""Gradients added up over parts of a batch, against those of the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import call, new_run
from torch import Tensor, nn

from wgan_cli import UsageError
from wgan_cli.config import TrainConfig, differences
from wgan_cli.data.dataset import Batch
from wgan_cli.state import State
from wgan_cli.step import critic_step, generator_step
from wgan_cli.variants import VARIANTS

BUSY = {"flip": True, "augment": ("color", "translation", "cutout"), "instance_noise": 0.1}


def stepped(micro_batch: int | None, classes: tuple[str, ...] = (), **given: Any) -> tuple[State, Tensor, set[int]]:
    """Two critic steps and a generator step under SGD; the figures; how many rows the critic took at a time."""
    sgd = {"optimizer": "sgd", "lr": 0.1, "ema": 0.5, "latent": 3, "critic_norm": "none", "micro_batch": micro_batch}
    state = new_run(**{**BUSY, **sgd, **given}, classes=classes)
    rows = set[int]()
    state.critic.register_forward_hook(lambda module, args, output: rows.add(len(args[0])))
    rng, figures = torch.Generator().manual_seed(1), dict[str, Tensor]()
    for step in (critic_step, critic_step, generator_step):
        samples = torch.rand(8, 3, 16, 16, generator=rng) * 2 - 1
        labels = torch.randint(2, (8,), generator=rng)
        figures |= step(state, Batch(samples, labels if classes else None))
    return state, torch.stack([*figures.values()]), rows


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def apart(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("arch", ["mlp", "dcgan"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_parts_make_the_step_of_the_whole_batch(variant: str, arch: str) -> None:
    """Of 8 samples 3, 3 and 2, where all random numbers are drawn for the batch."""
    check({"variant": variant, "arch": arch}, 3)


@pytest.mark.parametrize(
    "given",
    [
        {"variant": "r3", "arch": "r3", "classes": ("a", "b")},
        {"variant": "hinge", "classes": ("a", "b")},
        {"variant": "gp", "critic_norm": "layer"},
    ],
    ids=str,
)
def test_parts_of_other_steps_too(given: dict[str, Any]) -> None:
    check(given, 4)


def check(given: dict[str, Any], size: int) -> None:
    (whole, figures, _), (parts, figures_of_parts, rows) = stepped(None, **given), stepped(size, **given)
    assert max(rows) <= 2 * size  # real and fake in one pass
    assert apart(figures_of_parts, figures) < 1e-5
    assert whole.ema is not None and parts.ema is not None
    for one, other in ((parts.critic, whole.critic), (parts.generator, whole.generator)):
        assert one.training and apart(gradients(one), gradients(other)) < 1e-4
    pairs = ((parts.critic, whole.critic), (parts.generator, whole.generator), (parts.ema, whole.ema))
    for one, other in pairs:
        for (name, mine), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, msg=name)
    assert parts.rng.get_state().equal(whole.rng.get_state())


def test_a_part_as_large_as_the_batch_is_the_batch_bit_for_bit() -> None:
    (whole, figures, _), (parts, figures_of_parts, _) = stepped(None), stepped(8)
    assert figures.equal(figures_of_parts)
    assert all(p.equal(q) for p, q in zip(parts.critic.parameters(), whole.critic.parameters(), strict=True))


def test_batch_norm_in_the_critic_refuses_parts() -> None:
    ended = call("train", "--data", "nowhere", "--variant", "clip", "--micro-batch", "8")
    assert ended.code == 2 and "--micro-batch 8: the critic has batch norm" in ended.err
    with pytest.raises(UsageError, match="--micro-batch 0: must be a whole number from 1"):
        TrainConfig(micro_batch=0)


def test_a_run_may_go_on_with_other_parts() -> None:
    assert differences(TrainConfig(), TrainConfig(micro_batch=8)) == []
