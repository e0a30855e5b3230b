"""All that a run changes as it goes: made from a seed, or from a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import DataError, UsageError, checkpoint, distributed
from .config import TrainConfig, differences, flag
from .console import Console
from .data import seen as data_seen
from .data.dataset import Dataset
from .data.seen import Seen
from .networks import build_critic, build_generator
from .schedule import Now

RECORDERS = ("cuda",)  # kinds of devices that record steps and play them back (`graph`)


@dataclass
class State:
    """All that a run changes as it goes, which is what a checkpoint holds."""

    config: TrainConfig
    device: torch.device
    generator: nn.Module
    critic: nn.Module
    ema: nn.Module | None
    optimizer_generator: torch.optim.Optimizer
    optimizer_critic: torch.optim.Optimizer
    rng: torch.Generator  # of latents, flips, augmentation, noise, mixing: drawn in this order in a critic step
    step: int = 0  # generator updates done
    batches: int = 0  # of real data taken
    dials: Now | None = None  # what the steps read instead of the schedule (`graph`)


def new_state(config: TrainConfig, device: torch.device) -> State:
    """A run at step 0: weights drawn on the CPU from the seed, so that they do not depend on the device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator, critic = build_generator(config), build_critic(config)
    return _state(config, device, generator, critic, copy.deepcopy(generator) if config.ema else None)


def _state(
    config: TrainConfig, device: torch.device, generator: nn.Module, critic: nn.Module, ema: nn.Module | None
) -> State:
    # Channels last is how the data lies in memory, and what convolutions are fastest on.
    for network in filter(None, (generator, critic, ema)):
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return State(
        config,
        device,
        generator.train(),
        critic.train(),
        ema.eval().requires_grad_(False) if ema else None,
        _optimizer(config, generator, config.lr),
        _optimizer(config, critic, config.lr_critic or config.lr),
        torch.Generator(device).manual_seed(other_seed(config.seed)),
    )


def other_seed(seed: int) -> int:
    """For the random numbers of training: with the seed of the weights, latents would repeat what drew those."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)


def _optimizer(config: TrainConfig, network: nn.Module, rate: float) -> torch.optim.Optimizer:
    """At the rate that the run starts with, which stays in `defaults`; the device counts the steps that it records."""
    params, device = [*network.parameters()], next(network.parameters()).device
    recorded = device.type in RECORDERS
    counter = device if recorded else None
    if config.optimizer == "adam":
        assert config.betas is not None
        fused = recorded or device.type == "cpu"  # one pass over memory, where torch has it
        adam = torch.optim.Adam(params, rate, config.betas, fused=fused, capturable=recorded)
        if recorded:  # as for rmsprop
            for p in params:
                adam.state[p] = {"step": torch.zeros((), device=counter)}
                adam.state[p] |= {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
        return adam
    if config.optimizer == "rmsprop":
        rmsprop = torch.optim.RMSprop(params, rate, capturable=recorded, foreach=recorded or None)
        for p in params:  # what its first step would make, for the fused step to find
            rmsprop.state[p] = {"step": torch.zeros((), device=counter), "square_avg": torch.zeros_like(p)}
        return rmsprop
    return torch.optim.SGD(params, rate)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: Any, config: TrainConfig, updates: int) -> None:
    """Its state after so many updates; rates and the like are the config's. ValueError for one that does not fit."""
    if saved["state"]:  # else that of a run which has stopped before the first of its steps, and what is made stays
        optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    names = {"adam": ("step", "exp_avg", "exp_avg_sq"), "rmsprop": ("step", "square_avg"), "sgd": ()}[config.optimizer]
    (group,) = optimizer.param_groups
    for p in group["params"]:
        found = {name: value.shape for name, value in optimizer.state.get(p, {}).items()}
        if (found or updates) and found != {name: () if name == "step" else p.shape for name in names}:
            raise ValueError("moments that do not fit the weights")


def check_same(out: Path, old: TrainConfig, new: TrainConfig) -> None:
    found = [(name, *("not used" if v is None else v for v in values)) for name, *values in differences(old, new)]
    if changed := [f"{flag(name)} was {before}, now {now}" for name, before, now in found]:
        raise UsageError(
            f"{out} holds a run with other settings: {'; '.join(changed)}. "
            "Repeat its settings to go on, choose another -o, or start anew there with --force"
        )


def restored_state(
    path: Path, config: TrainConfig, dataset: Dataset, device: torch.device, console: Console, new_data: bool = False
) -> State:
    """The run that the checkpoint at `path` holds, to go on under `config`; `dataset` is split as it was there.

    new_data: go on with other data too. UsageError if that was another run.
    """
    content, old = checkpoint.load(path, distributed.from_leader(path) if distributed.in_all() else None)
    check_same(path.parent, old, config)
    if config.lr_decay == "cooldown" or config.upsample == "blurred":  # which begin anew where a run is to be longer
        longer = config.by_time or content["step"] == old.steps < config.steps
        config = replace(config, begun=content["step"] if longer else old.begun)
    _take_up_data(path.parent, content, config, dataset, console, new_data)
    generator = checkpoint.restore(build_generator, config, content["generator"], path)
    critic = checkpoint.restore(build_critic, config, content["critic"], path)
    ema = checkpoint.restore(build_generator, config, content["ema"], path) if config.ema else None
    state = _state(config, device, generator, critic, ema)
    try:
        _restore_optimizer(state.optimizer_generator, content["optimizer_generator"], config, content["step"])
        _restore_optimizer(state.optimizer_critic, content["optimizer_critic"], config, content["data"]["batches"])
        if content["rng"]["device"] == device.type:
            state.rng.set_state(content["rng"]["state"])
        else:  # the state of one kind of device means nothing to another
            state.rng.manual_seed(other_seed(config.seed + content["step"]))
            console.notice(
                f"continued on {device.type}, begun on {content['rng']['device']}: other random numbers from here"
            )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise DataError(f"{path}: damaged optimizers or random state ({error}); take an older copy") from None
    state.step, state.batches = content["step"], content["data"]["batches"]
    if not config.batches_before(state.step) <= state.batches < config.batches_before(state.step + 1):  # amid a step
        raise DataError(f"{path}: damaged, {state.batches} batches at step {state.step}; take an older copy")
    return state


def _take_up_data(
    out: Path, content: Mapping[str, Any], config: TrainConfig, dataset: Dataset, console: Console, new_data: bool
) -> None:
    seen = Seen.of(content["data"], config)
    if seen.is_of(dataset):
        if seen.labels != data_seen.labels_digest(dataset):
            raise UsageError(
                f"{out} holds a run on the same images in other classes. Restore their labels to go on, "
                "choose another -o, or start anew there with --force"
            )
        seen.take_up(dataset)
        if content["format"] == 1:
            console.notice("begun by an older version of wgan: the images come in another order from here on")
        elif seen.pixels != dataset.pixels:
            console.notice("the same files, of which another version of Pillow or its decoders makes other pixels")
        return
    known = seen.contents is not None and dataset.contents is not None
    if not (new_data and known):
        way = "go on with what --data now has by --new-data, " if known else ""
        raise UsageError(
            f"{out} holds a run on other data: {seen.changed(dataset)}. Restore the data to go on, {way}"
            "choose another -o, or start anew there with --force"
        )
    seen.take_up_changed(dataset, config, content["step"])
    assert dataset.held is not None
    if (left := int((~dataset.held).sum())) < config.batch:
        raise DataError(
            f"{left} images to train on, fewer than --batch {config.batch}: the other {len(dataset) - left} were held "
            "out before and stay so; add images"
        )
    console.notice(
        f"other data from step {content['step']} on: {seen.changed(dataset)}. "
        f"What was trained on is not held out: {int(dataset.held.sum())} of {len(dataset)} are"
    )


def save_state(path: Path, state: State, dataset: Dataset) -> None:
    checkpoint.save(
        path,
        {
            "config": state.config.as_dict(),
            "step": state.step,
            "generator": state.generator.state_dict(),
            "critic": state.critic.state_dict(),
            "ema": state.ema.state_dict() if state.ema else None,
            "optimizer_generator": state.optimizer_generator.state_dict(),
            "optimizer_critic": state.optimizer_critic.state_dict(),
            "rng": {"device": state.device.type, "state": state.rng.get_state()},
            "data": data_seen.block(dataset, state.batches),
        },
    )
