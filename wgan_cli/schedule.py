"""What changes over the steps of a run, as numbers or as tensors that a recorded step reads anew (`graph`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .config import TrainConfig

COOLDOWN = 0.4  # of the steps, over which --lr-decay cooldown takes the rates to 0
BLURS = (1 - COOLDOWN, 0.8)  # of the steps, between which the blur of --upsample blurred comes in


class Now(NamedTuple):
    """What a schedule makes of the settings at a step."""

    lr: float | Tensor  # of both rates: over those of the start
    gp_weight: float | Tensor  # the same
    beta2: float | Tensor  # the same of 1 - β2
    ema: float | Tensor  # 1 - decay
    noise: float | Tensor  # deviation of the instance noise
    blur: float | Tensor  # share of it in the generator's last layer


def scheduled(config: TrainConfig, step: int) -> Now:
    """Follows from the settings and the number of generator updates done alone, so that a run can go on at any."""
    done = min(1.0, (step - config.begun) / (config.steps - config.begun))
    decay = {
        "none": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "cooldown": min(1.0, (1 - done) / COOLDOWN),
    }[config.lr_decay]
    noise = config.instance_noise * (1 - done)
    blur = min(1.0, max(0.0, (done - BLURS[0]) / (BLURS[1] - BLURS[0]))) if config.upsample == "blurred" else 0.0
    schedule = config.record.schedule
    if not schedule:
        return Now(decay, 1.0, 1.0, 1 - min(config.ema, (1 + step) / (10 + step)), noise, blur)
    way = (1 - math.cos(math.pi * min(1.0, done / schedule.burn_in))) / 2  # from 0 to 1
    lr, gp_weight, beta2 = (1 + way * (end - 1) for end in (schedule.lr, schedule.gp_weight, schedule.beta2))
    ema = 1 - config.ema ** (1 / way) if way else 1.0  # the half-life times `way`
    return Now(decay * lr, gp_weight, beta2, ema, noise, blur)


def within(config: TrainConfig, step: int) -> Now:
    """For the step after so many: the average is taken, and the blur changes, when the step is done."""
    after = scheduled(config, step + 1)
    return scheduled(config, step)._replace(ema=after.ema, blur=after.blur)


def dials(config: TrainConfig, device: torch.device) -> Now:
    """Tensors [] for what changes over this run, to be turned before each step; numbers for what stays."""
    burns_in = config.record.schedule is not None
    decays, noisy, blurs = config.lr_decay != "none", config.instance_noise > 0, config.upsample == "blurred"
    varies = Now(burns_in or decays, burns_in, burns_in, config.ema > 0, noisy, blurs)
    start = within(config, 0)
    return Now(*(torch.tensor(x, device=device) if moves else x for x, moves in zip(start, varies, strict=True)))


def turn(dials: Now, now: Now, before: Now | None = None) -> None:
    """Have the tensors say what is now, where that is not what was before."""
    for number, dial in enumerate(dials):
        if isinstance(dial, Tensor) and (before is None or now[number] != before[number]):
            dial.fill_(now[number])
