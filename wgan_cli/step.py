"""One training step, as the papers have it. Figures stay tensors: nothing here waits for the device."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import ops
from .augment import augmented
from .config import TrainConfig
from .data.dataset import Batch
from .distributed import add_up, drawn, weight
from .networks import has_batch_norm
from .penalty import critic_penalty, draw_points
from .state import State


class Now(NamedTuple):
    """What a schedule makes of the settings at a step."""

    lr: float  # of both rates: over those of the start
    gp_weight: float  # the same
    beta2: float  # the same of 1 - β2
    ema: float  # decay


def scheduled(config: TrainConfig, step: int) -> Now:
    """Follows from the settings and the number of generator updates done alone, so that a run can go on at any."""
    done = step / config.steps
    decay = {"none": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[config.lr_decay]
    schedule = config.record.schedule
    if not schedule:
        return Now(decay, 1.0, 1.0, min(config.ema, (1 + step) / (10 + step)))
    way = (1 - math.cos(math.pi * min(1.0, done / schedule.burn_in))) / 2  # from 0 to 1
    lr, gp_weight, beta2 = (1 + way * (end - 1) for end in (schedule.lr, schedule.gp_weight, schedule.beta2))
    return Now(decay * lr, gp_weight, beta2, config.ema ** (1 / way) if way else 0.0)  # the half-life times `way`


def critic_step(state: State, batch: Batch) -> dict[str, Tensor]:
    """One update of the critic on a batch of real samples [B, *shape]; its figures, from before the update.

    Random numbers are drawn in this order: latents, flips, augmentation and noise of real, the same of fake, points of
    each penalty. The critic sees augmented samples alone: a penalty's points are made of these, and its gradient is the
    critic's own, with respect to what the critic sees.
    """
    config, record = state.config, state.config.record
    now = scheduled(config, state.step)
    y = batch.labels
    with torch.no_grad(), autocast(state):
        fake = state.generator(normal(state, len(batch.samples), config.latent), y).float()
    real, fake = noisy(state, flipped(state, batch.samples)), noisy(state, fake)
    with autocast(state):
        on_real, on_fake = _scores(state.critic, real, fake, y)
    figures = {record.estimate.name: record.estimate.distance(on_real, on_fake)}
    loss = record.critic_loss(on_real, on_fake)
    for penalty in record.penalties:
        assert config.gp_weight is not None
        points = draw_points(penalty.place, real, fake, state.rng)
        with autocast(state):
            cost, norms = critic_penalty(state.critic, points, penalty, config.gp_weight * now.gp_weight, y)
        figures["penalty"] = figures.get("penalty", 0) + cost
        if penalty.cost.target:  # where it has a value to be near to
            figures.setdefault("grad_norm", norms.mean())
        loss = loss + cost
    return _update(state.optimizer_critic, {"critic_loss": loss} | figures, now, config.clip)


def generator_step(state: State, batch: Batch) -> dict[str, Tensor]:
    """One update of the generator, and of its average; its figures, from before the update.

    batch: the critic's last one, whose samples the losses that pair real with fake score again (Huang et al. 2024
    take fresh ones).
    """
    config, record = state.config, state.config.record
    y = batch.labels
    state.critic.requires_grad_(False)  # the gradient flows through the critic, not into it
    with autocast(state):
        fake = state.generator(normal(state, len(batch.samples), config.latent), y)
        on_fake = state.critic(noisy(state, fake), y).float()
        on_real = state.critic(noisy(state, flipped(state, batch.samples)), y).float() if record.pairs else None
    loss = record.generator_loss(on_fake, on_real)
    figures = _update(state.optimizer_generator, {"generator_loss": loss}, scheduled(config, state.step))
    state.critic.requires_grad_(True)
    state.step += 1
    if state.ema is not None:
        _average(state.ema, state.generator, scheduled(config, state.step).ema)
    return figures


def _scores(critic: nn.Module, real: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """The critic on both in one pass, or in two where batch norm would mix real and fake (as DCGAN's code does)."""
    if has_batch_norm(critic):
        return critic(real, y).float(), critic(fake, y).float()
    both = critic(torch.cat([real, fake]), None if y is None else torch.cat([y, y]))
    on_real, on_fake = both.float().chunk(2)
    return on_real, on_fake


def _update(
    optimizer: torch.optim.Optimizer, figures: dict[str, Tensor], now: Now, clip: float | None = None
) -> dict[str, Tensor]:
    """One step of the optimizer on the first figure, the loss, then every parameter into [-clip, clip] (Arjovsky et
    al. 2017, algorithm 1); the figures.

    Gradients are used here alone, between `backward` and the step. All figures are means over the batch, so that those
    of several processes, and their gradients, add up by each one's share of the batch.
    """
    optimizer.zero_grad(set_to_none=True)
    loss, share = next(iter(figures.values())), weight()
    (loss if share == 1 else share * loss).backward()
    (group,) = optimizer.param_groups
    figures = {name: value.detach() if share == 1 else share * value.detach() for name, value in figures.items()}
    add_up([*(p.grad for p in group["params"] if p.grad is not None), *figures.values()])
    group["lr"] = optimizer.defaults["lr"] * now.lr
    if "betas" in group and now.beta2 != 1:
        beta1, beta2 = optimizer.defaults["betas"]
        group["betas"] = (beta1, 1 - (1 - beta2) * now.beta2)
    params = group["params"]
    if clip is None:
        optimizer.step()
    elif isinstance(optimizer, torch.optim.RMSprop):  # the paper's own, in one pass over memory
        averages = [optimizer.state[p]["square_avg"] for p in params]
        torch._foreach_add_([optimizer.state[p]["step"] for p in params], 1)
        ops.rmsprop_clamp_(params, [p.grad for p in params], averages, group["lr"], group["alpha"], group["eps"], clip)
    else:
        optimizer.step()
        ops.clamp_(params, clip)
    return figures


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · network, batch statistics included; counters are copied."""
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def normal(state: State, *shape: int) -> Tensor:
    return drawn(partial(torch.randn, generator=state.rng, device=state.device), *shape)


def flipped(state: State, images: Tensor) -> Tensor:
    """Each image mirrored with probability a half, where --flip asks for it."""
    if not state.config.flip:
        return images
    uniform = partial(torch.rand, generator=state.rng, device=state.device)
    mirror = drawn(uniform, len(images), 1, 1, 1) < 0.5
    return torch.where(mirror, images.flip(-1), images)


def noisy(state: State, samples: Tensor) -> Tensor:
    """Samples as the critic sees them: augmented, where --augment asks for it, and with instance noise (Sønderby et al.
    2017, section 3), its deviation falling linearly to 0 over the run."""
    config = state.config
    if config.augment:
        samples = augmented(samples, config.augment, state.rng)
    deviation = config.instance_noise * (1 - state.step / config.steps)
    return samples + deviation * normal(state, *samples.shape) if deviation > 0 else samples


def autocast(state: State) -> AbstractContextManager[Any]:
    return torch.autocast(state.device.type, torch.bfloat16) if state.config.precision == "bf16" else nullcontext()
