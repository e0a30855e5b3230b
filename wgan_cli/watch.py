"""What a run is judged by: the critic on held-out samples, and whether every figure and weight is finite."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from . import DivergedError, distributed, metrics
from .data.dataset import Dataset, unit
from .rows import mapped
from .sample import generate, latents, to_output
from .state import State, other_seed
from .step import autocast, flipped, noisy, normal
from .variants import Variant

COMPARE_EVERY = 250  # updates of the critic, so that it takes some hundredths of the time at most
COMPARE_BATCHES = 4
# For `distance`: samples and as many of the data, images or points; patches of an image on each level; directions.
IMAGES, POINTS, PATCHES, DIRECTIONS = 512, 1024, 16, 64


@torch.no_grad()
def compare(state: State, training: Dataset, heldout: Dataset | None) -> dict[str, Tensor]:
    """The estimate on training and on held-out samples by one critic, against the same fresh fakes; where there are
    both, the standard error that each has from its real samples; and `diversity`, the mean distance between two fakes
    over that between two real samples. Each over COMPARE_BATCHES batches. And `distance`.

    Nothing of the run changes: the random numbers are of their own, and so are the running statistics. The networks
    stay in training mode, so that batch norm takes each batch by itself as in `critic_step`; with running
    statistics, which mix real and fake, it would be another critic. Training batches are the ones to come, which
    the critic has not met for longest.
    """
    config, record = state.config, state.config.record
    aside = replace(state, rng=torch.Generator(state.device).manual_seed(other_seed(config.seed + state.step)))
    generator, critic = (
        partial(torch.func.functional_call, network, {name: b.clone() for name, b in network.named_buffers()})
        for network in (state.generator, state.critic)
    )
    parts = {"training": training, "heldout": heldout} if heldout else {"training": training}
    estimates: dict[str, list[Tensor]] = {part: [] for part in parts}  # [B] each, one from each real sample
    apart_fake = apart_real = 0.0
    for number in range(state.batches, state.batches + COMPARE_BATCHES):
        batches = [data.batch(number, config.batch, config.seed, state.device) for data in parts.values()]
        y = batches[0].labels
        with autocast(state):
            fake = generator((normal(aside, config.batch, config.latent), y)).float()
            on_fake = critic((noisy(aside, fake), y)).float()
        for part, (real, labels) in zip(parts, batches, strict=True):
            with autocast(state):
                on_real = critic((noisy(aside, flipped(aside, real)), labels)).float()
            estimates[part].append(_from_each(record, on_real, labels, on_fake, y))
        apart_fake += float(torch.pdist(fake.flatten(1)).mean())
        apart_real += float(torch.pdist(real.flatten(1)).mean())
    figures = {f"{record.estimate.name}_{part}": torch.cat(values).mean() for part, values in estimates.items()}
    for part, data in parts.items() if heldout else ():  # the errors are those of a difference
        count = min(len(data), COMPARE_BATCHES * config.batch)  # a small part comes more than once
        figures[f"{part}_error"] = torch.cat(estimates[part]).std() / count**0.5
    if apart_real > 0:  # neither one image over and over, nor batches of one
        figures["diversity"] = torch.tensor(apart_fake / apart_real, device=state.device)
    return figures | {"distance": torch.tensor(distance(state, heldout or training), device=state.device)}


def _from_each(record: Variant, on_real: Tensor, labels: Tensor | None, on_fake: Tensor, y: Tensor | None) -> Tensor:
    """[B] estimates, one from each real sample against all fakes; where a critic of classes compares pairs, which are
    of one class, against those of its class, as far as there are such."""
    estimate = record.estimate.distance
    if not record.pairs or labels is None or y is None:
        return torch.func.vmap(estimate, (0, None))(on_real, on_fake)
    same = labels[:, None] == y
    same |= ~same.any(1, keepdim=True)
    return torch.stack([estimate(score, on_fake[of_class]) for score, of_class in zip(on_real, same, strict=True)])


def distance(state: State, data: Dataset) -> float:
    """How far samples are from data as `evaluate` measures, on fewer of them: the mean over its `swd_` levels, or of
    points its `sliced_wasserstein`. The samples are by the generator that `sample` takes, of the classes of the data.
    Few data come more than once. The sets are so small that all of this takes some hundredths of the time at most.

    Rows, places and directions follow from the run's seed and are the same at each comparison. Latents are others at
    each: their noise goes in a median over comparisons, where that of the same ones would look like a trend.
    """
    config, network = state.config, state.ema or state.generator
    count = IMAGES if config.size else POINTS
    rows, labels = data.stored(0, min(count, len(data)), config.seed)
    again = torch.arange(count) % len(rows)
    rows, y = rows[again], None if labels is None else labels[again].numpy()
    network.eval()
    z = latents(other_seed(config.seed + state.step), range(count), config.latent)
    parts = [to_output(part) for part in generate(network, z, y=y)]
    network.train(network is state.generator)
    samples, real = (mapped(x, unit) for x in (torch.from_numpy(np.concatenate(parts)), rows))
    if config.size:
        return fmean(metrics.pyramid_distances(samples, real, config.seed, PATCHES, DIRECTIONS).values())
    return metrics.sliced_each([samples], real, config.seed, DIRECTIONS)[0]


def check_steps(state: State, unchecked: list[tuple[int, dict[str, Tensor]]], kept: str) -> None:
    """DivergedError for the first figure that is not finite; empties the list. `kept`: what the error says is left."""
    if not unchecked:
        return
    found = [(step, name, value) for step, figures in unchecked for name, value in figures.items()]
    for (step, name, _), value in zip(found, torch.stack([value for *_, value in found]).tolist(), strict=True):
        if not math.isfinite(value):
            raise _diverged(state, step, f"{name} is {value}", kept)
    unchecked.clear()


def check_weights(state: State, kept: str) -> None:
    """DivergedError for a weight that is not finite, or one of batch norm's running statistics."""
    for network, module in (("critic", state.critic), ("generator", state.generator)):
        for name, weight in module.state_dict().items():
            if not weight.isfinite().all():
                raise _diverged(state, state.step, f"{name} of the {network} is not finite", kept)


def check_weights_alike(state: State) -> None:
    """WganError for a weight that is not the same in each process of several."""
    if not distributed.in_all():
        return
    networks = {"critic": state.critic, "generator": state.generator, "average": state.ema}
    weights = {
        f"{name} of the {network}": weight
        for network, module in networks.items()
        if module is not None
        for name, weight in module.state_dict().items()
    }
    distributed.check_alike(f"the processes came apart by step {state.step}", weights)


def _diverged(state: State, step: int, what: str, kept: str) -> DivergedError:
    error = DivergedError(
        f"training diverged at step {step}: {what}; {kept}. "
        f"Start anew with a lower --lr (was {state.config.lr:g}) or another --optimizer"
    )
    error.step = step
    return error
