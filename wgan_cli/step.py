"""One training step, as the papers have it. Figures stay tensors: nothing here waits for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from . import ops
from .augment import augmented
from .config import TrainConfig
from .data.dataset import Batch
from .distributed import add_up, drawn, weight
from .networks import has_batch_norm
from .networks.resampling import BlurredDoubling
from .penalty import critic_penalty, draw_points
from .schedule import Now, within
from .state import State

Part = slice | None  # rows of a batch; None: all
Rows = TypeVar("Rows", Tensor, Tensor | None)


def present(state: State) -> Now:
    """What holds in the step that is taken: of the schedule, or on the dials where a recording reads these."""
    return state.dials or within(state.config, state.step)


def critic_step(state: State, batch: Batch) -> dict[str, Tensor]:
    """One update of the critic on a batch of real samples [B, *shape]; its figures, from before the update.

    Random numbers are drawn in this order: latents, flips, augmentation and noise of real, the same of fake, points of
    each penalty. The critic sees augmented samples alone: a penalty's points are made of these, and its gradient is the
    critic's own, with respect to what the critic sees.
    """
    config, record = state.config, state.config.record
    now = present(state)
    with torch.no_grad(), autocast(state):
        fake = state.generator(normal(state, len(batch.samples), config.latent), batch.labels).float()
    real, fake = noisy(state, flipped(state, batch.samples)), noisy(state, fake)
    points = [draw_points(penalty.place, real, fake, state.rng) for penalty in record.penalties]

    def figures(part: Part) -> dict[str, Tensor]:
        y = _cut(batch.labels, part)
        with autocast(state):
            on_real, on_fake = _scores(state.critic, _cut(real, part), _cut(fake, part), y)
        found = {record.estimate.name: record.estimate.distance(on_real, on_fake)}
        loss = record.critic_loss(on_real, on_fake)
        for penalty, at in zip(record.penalties, points, strict=True):
            assert config.gp_weight is not None
            factor = config.gp_weight * now.gp_weight
            with autocast(state):
                cost, norms = critic_penalty(state.critic, _cut(at, part), penalty, factor, y)
            found["penalty"] = found.get("penalty", 0) + cost
            if penalty.cost.target:  # where it has a value to be near to
                found.setdefault("grad_norm", norms.mean())
            loss = loss + cost
        return {"critic_loss": loss} | found

    state.optimizer_critic.zero_grad(set_to_none=True)
    return _update(state.optimizer_critic, _backward(state, len(real), figures), now, config.clip)


def generator_step(state: State, batch: Batch) -> dict[str, Tensor]:
    """One update of the generator, and of its average; its figures, from before the update.

    batch: the critic's last one, whose samples the losses that pair real with fake score again (Huang et al. 2024
    take fresh ones).
    """
    config, record = state.config, state.config.record
    now = present(state)
    state.critic.requires_grad_(False)  # the gradient flows through the critic, not into it
    with autocast(state):
        fake = noisy(state, state.generator(normal(state, len(batch.samples), config.latent), batch.labels))
        real = noisy(state, flipped(state, batch.samples)) if record.pairs else None
    seen = fake.detach().requires_grad_() if _parts(config, len(fake))[1:] else fake

    def figures(part: Part) -> dict[str, Tensor]:
        y = _cut(batch.labels, part)
        with autocast(state):
            on_fake = state.critic(_cut(seen, part), y).float()
            on_real = None if real is None else state.critic(_cut(real, part), y).float()
        return {"generator_loss": record.generator_loss(on_fake, on_real)}

    state.optimizer_generator.zero_grad(set_to_none=True)
    found = _backward(state, len(fake), figures)
    if seen is not fake:  # the gradient of all parts, through the generator at once: its batch norm sees the batch
        fake.backward(seen.grad)
    # A fused step takes the average of the weights along; batch statistics are then left.
    folded = [*state.ema.parameters()] if state.ema is not None and _is_fused(state.optimizer_generator) else []
    found = _update(state.optimizer_generator, found, now, averages=folded)
    state.critic.requires_grad_(True)
    state.step += 1
    _blur(state.generator, now.blur)
    if state.ema is not None:
        _average(state.ema, state.generator, now.ema, statistics_only=bool(folded))
    return found


def _scores(critic: nn.Module, real: Tensor, fake: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """The critic on both in one pass, or in two where batch norm would mix real and fake (as DCGAN's code does)."""
    if has_batch_norm(critic):
        return critic(real, y).float(), critic(fake, y).float()
    both = critic(torch.cat([real, fake]), None if y is None else torch.cat([y, y]))
    on_real, on_fake = both.float().chunk(2)
    return on_real, on_fake


def _parts(config: TrainConfig, rows: int) -> list[tuple[Part, float]]:
    """Of a batch of so many rows those that gradients are taken of at a time, and their share of the whole batch."""
    size = config.micro_batch or rows
    if size >= rows:
        return [(None, weight())]
    parts = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    return [(part, weight() * (part.stop - part.start) / rows) for part in parts]


def _cut(rows: Rows, part: Part) -> Rows:
    return rows if rows is None or part is None else rows[part]


def _backward(state: State, rows: int, figures: Callable[[Part], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Add up the gradients of the first figure, the loss, over the parts of a batch; all figures, of the batch.

    All figures are means over the batch, so that those of several parts and processes, and their gradients, add up by
    each one's share of the batch.
    """
    whole: dict[str, Tensor] = {}
    parts = _parts(state.config, rows)
    for number, (part, share) in enumerate(parts):
        if number:
            state.critic.eval()  # a spectral norm's power method has gone its step, as it does for a whole batch
        found = figures(part)
        loss = next(iter(found.values()))
        (loss if share == 1 else share * loss).backward()
        for name, value in found.items():
            value = value.detach() if share == 1 else share * value.detach()
            whole[name] = whole[name] + value if number else value
    if parts[1:]:
        state.critic.train()
    return whole


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ops.adam_ is its step: where steps can be recorded, of which torch's own would read β2 on the host."""
    return isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["capturable"]


def _update(
    optimizer: torch.optim.Optimizer,
    figures: dict[str, Tensor],
    now: Now,
    clip: float | None = None,
    averages: Sequence[Tensor] = (),
) -> dict[str, Tensor]:
    """One step of the optimizer, then every parameter into [-clip, clip] (Arjovsky et al. 2017, algorithm 1); the
    figures. Gradients and figures are added up over the processes first.

    averages: of the parameters, which a fused step takes along.
    """
    (group,) = optimizer.param_groups
    params = group["params"]
    add_up([*(p.grad for p in params if p.grad is not None), *figures.values()])
    group["lr"] = optimizer.defaults["lr"] * now.lr
    if _is_fused(optimizer):
        grads, (beta1, beta2) = [p.grad for p in params], group["betas"]
        names = ("step", "exp_avg", "exp_avg_sq")
        steps, means, squares = ([optimizer.state[p][name] for p in params] for name in names)
        torch._foreach_add_(steps, 1)
        settings = (group["lr"], 1 - beta1, (1 - beta2) * now.beta2, group["eps"], math.inf if clip is None else clip)
        ops.adam_(params, grads, means, squares, averages, steps[0], *settings, now.ema)
        return figures
    if "betas" in group and now.beta2 != 1:
        beta1, beta2 = optimizer.defaults["betas"]
        group["betas"] = (beta1, 1 - (1 - beta2) * now.beta2)
    if clip is not None and isinstance(optimizer, torch.optim.RMSprop):  # the paper's own, in one pass over memory
        squares = [optimizer.state[p]["square_avg"] for p in params]
        torch._foreach_add_([optimizer.state[p]["step"] for p in params], 1)
        ops.rmsprop_clamp_(params, [p.grad for p in params], squares, group["lr"], group["alpha"], group["eps"], clip)
        return figures
    if isinstance(optimizer, torch.optim.SGD) and isinstance(now.lr, Tensor):  # torch's own would read its value
        with torch.no_grad():
            torch._foreach_sub_(params, torch._foreach_mul([p.grad for p in params], group["lr"]))
    else:
        optimizer.step()
    if clip is not None:
        ops.clamp_(params, clip)
    return figures


def _blur(generator: nn.Module, share: float | Tensor) -> None:
    for layer in generator.modules():
        if isinstance(layer, BlurredDoubling):
            layer.share.fill_(share)


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, share: float | Tensor, statistics_only: bool = False) -> None:
    """average ← (1 - share) · average + share · network, batch statistics included; counters are copied."""
    means, values = (dict(x.named_buffers()) if statistics_only else x.state_dict() for x in (average, network))
    for mean, value in zip(means.values(), values.values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, share)
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
    return samples + present(state).noise * normal(state, *samples.shape) if config.instance_noise else samples


def autocast(state: State) -> AbstractContextManager[Any]:
    return torch.autocast(state.device.type, torch.bfloat16) if state.config.precision == "bf16" else nullcontext()
