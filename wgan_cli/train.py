"""Training: the two steps as the papers have them, and the loop that logs, samples, saves and resumes."""

from __future__ import annotations

import copy
import ctypes
import json
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import DataError, DivergedError, StoppedError, UsageError, checkpoint, curve, ops, sample
from .config import TrainConfig, differences, flag
from .console import Console, duration
from .data import Dataset
from .files import link, replacing, sweep
from .models import build_critic, build_generator, has_batch_norm, parameter_count
from .penalty import critic_penalty
from .verdict import judge

TIME_LIMIT_CODE = 75  # EX_TEMPFAIL: try again later
COMPARE_EVERY = 250  # updates of the critic, so that it takes about a hundredth of the time at most
COMPARE_BATCHES = 4

# What a run writes into its folder, its settings apart.
_WRITTEN = re.compile(r"ckpt(-\d+)?\.pt|metrics\.jsonl|curve\.png|samples/\d+\.png|tensorboard/events\.out\..+")


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
    rng: torch.Generator  # of latents, flips, noise, mixing: drawn in this order in a critic step
    step: int = 0  # generator updates done
    batches: int = 0  # of real data taken


# ---- One step. The two updates never wait for the device: figures stay tensors until they are logged.


def critic_step(state: State, real: Tensor) -> dict[str, Tensor]:
    """One update of the critic on a batch of real samples [B, *shape]; its figures, from before the update."""
    config, record = state.config, state.config.record
    with torch.no_grad(), _autocast(state):
        fake = state.generator(_normal(state, len(real), config.latent)).float()
    real, fake = _noisy(state, _flipped(state, real)), _noisy(state, fake)
    with _autocast(state):
        on_real, on_fake = _scores(state.critic, real, fake)
    figures = {record.estimate: record.distance(on_real, on_fake)}
    loss = record.critic_loss(on_real, on_fake)
    if record.penalty:
        assert config.gp_weight is not None
        mix = torch.rand(len(real), generator=state.rng, device=state.device)
        with _autocast(state):
            penalty, norms = critic_penalty(state.critic, real, fake, mix, record.penalty, config.gp_weight)
        figures |= {"penalty": penalty, "grad_norm": norms.mean()}
        loss = loss + penalty
    _update(state.optimizer_critic, loss, config.clip)
    return {"critic_loss": loss.detach()} | {name: value.detach() for name, value in figures.items()}


def generator_step(state: State) -> dict[str, Tensor]:
    """One update of the generator, and of its average; its figures, from before the update."""
    config = state.config
    state.critic.requires_grad_(False)  # the gradient flows through the critic, not into it
    with _autocast(state):
        fake = state.generator(_normal(state, config.batch, config.latent))
        on_fake = state.critic(_noisy(state, fake)).float()
    loss = config.record.generator_loss(on_fake)
    _update(state.optimizer_generator, loss, None)
    state.critic.requires_grad_(True)
    state.step += 1
    if state.ema is not None:
        _average(state.ema, state.generator, min(config.ema, (1 + state.step) / (10 + state.step)))
    return {"generator_loss": loss.detach()}


@torch.no_grad()
def compare(state: State, training: Dataset, heldout: Dataset | None) -> dict[str, Tensor]:
    """The estimate on training and on held-out samples by one critic, against the same fresh fakes, and `diversity`:
    the mean distance between two fakes over that between two real samples. Each over COMPARE_BATCHES batches.

    Nothing of the run changes: the random numbers are of their own, and so are the running statistics. The networks
    stay in training mode, so that batch norm takes each batch by itself as in `critic_step`; with running
    statistics, which mix real and fake, it would be another critic. Training batches are the ones to come, which
    the critic has not met for longest.
    """
    config, record = state.config, state.config.record
    aside = replace(state, rng=torch.Generator(state.device).manual_seed(_other_seed(config.seed + state.step)))
    generator, critic = (
        partial(torch.func.functional_call, network, {name: b.clone() for name, b in network.named_buffers()})
        for network in (state.generator, state.critic)
    )
    parts = {"training": training, "heldout": heldout} if heldout else {"training": training}
    estimates: dict[str, list[Tensor]] = {part: [] for part in parts}  # [B] each, one from each real sample
    from_each = torch.func.vmap(record.distance, (0, None))
    apart_fake = apart_real = 0.0
    for number in range(state.batches, state.batches + COMPARE_BATCHES):
        with _autocast(state):
            fake = generator(_normal(aside, config.batch, config.latent)).float()
            on_fake = critic(_noisy(aside, fake)).float()
        for part, data in parts.items():
            real = data.batch(number, config.batch, config.seed, state.device)
            with _autocast(state):
                on_real = critic(_noisy(aside, _flipped(aside, real))).float()
            estimates[part].append(from_each(on_real, on_fake))
        apart_fake += float(torch.pdist(fake.flatten(1)).mean())
        apart_real += float(torch.pdist(real.flatten(1)).mean())
    figures = {f"{record.estimate}_{part}": torch.cat(values).mean() for part, values in estimates.items()}
    if heldout:
        count = min(len(heldout), COMPARE_BATCHES * config.batch)  # a small part comes more than once
        figures["heldout_error"] = torch.cat(estimates["heldout"]).std() / count**0.5
    if apart_real > 0:  # neither one image over and over, nor batches of one
        figures["diversity"] = torch.tensor(apart_fake / apart_real, device=state.device)
    return figures


def _scores(critic: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The critic on both in one pass, or in two where batch norm would mix real and fake (as DCGAN's code does)."""
    if has_batch_norm(critic):
        return critic(real).float(), critic(fake).float()
    on_real, on_fake = critic(torch.cat([real, fake])).float().chunk(2)
    return on_real, on_fake


def _update(optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None) -> None:
    """One step of the optimizer, then every parameter into [-clip, clip] (Arjovsky et al. 2017, algorithm 1)."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    (group,) = optimizer.param_groups
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


@torch.no_grad()
def _average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average ← decay · average + (1 - decay) · network, batch statistics included; counters are copied."""
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def _normal(state: State, *shape: int) -> Tensor:
    return torch.randn(shape, generator=state.rng, device=state.device)


def _flipped(state: State, images: Tensor) -> Tensor:
    """Each image mirrored with probability a half, where --flip asks for it."""
    if not state.config.flip:
        return images
    mirror = torch.rand(len(images), 1, 1, 1, generator=state.rng, device=state.device) < 0.5
    return torch.where(mirror, images.flip(-1), images)


def _noisy(state: State, samples: Tensor) -> Tensor:
    """Instance noise (Sønderby et al. 2017, section 3), its deviation falling linearly to 0 over the run."""
    config = state.config
    deviation = config.instance_noise * (1 - state.step / config.steps)
    return samples + deviation * _normal(state, *samples.shape) if deviation > 0 else samples


def _autocast(state: State) -> AbstractContextManager[Any]:
    return torch.autocast(state.device.type, torch.bfloat16) if state.config.precision == "bf16" else nullcontext()


# ---- A run


def keep_freed_memory() -> None:
    """Have the C library keep what tensors free, where it can be told to (Linux with glibc).

    It would hand blocks over 32 MB back at once, and the system clear them page by page when they are asked for again:
    6 % of a step of a DCGAN of 64x64.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            set_option = ctypes.CDLL(None).mallopt
            set_option(-4, 0)  # M_MMAP_MAX: no block apart from the heap
            set_option(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: of the heap's end, nothing is handed back


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
        _optimizer(config, generator),
        _optimizer(config, critic),
        torch.Generator(device).manual_seed(_other_seed(config.seed)),
    )


def _other_seed(seed: int) -> int:
    """For the random numbers of training: with the seed of the weights, latents would repeat what drew those."""
    return int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)


def _optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        assert config.betas is not None
        fused = next(network.parameters()).device.type in ("cpu", "cuda")  # one pass over memory, where torch has it
        return torch.optim.Adam(network.parameters(), config.lr, config.betas, fused=fused)
    if config.optimizer == "rmsprop":
        rmsprop = torch.optim.RMSprop(network.parameters(), config.lr)
        for p in network.parameters():  # what its first step would make, for the fused step to find
            rmsprop.state[p] = {"step": torch.zeros(()), "square_avg": torch.zeros_like(p)}
        return rmsprop
    return torch.optim.SGD(network.parameters(), config.lr)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: Any, config: TrainConfig, updates: int) -> None:
    """Its state after so many updates; rates and the like are the config's. ValueError for one that does not fit."""
    optimizer.load_state_dict({"state": saved["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    names = {"adam": ("step", "exp_avg", "exp_avg_sq"), "rmsprop": ("step", "square_avg"), "sgd": ()}[config.optimizer]
    (group,) = optimizer.param_groups
    for p in group["params"]:
        found = {name: value.shape for name, value in optimizer.state.get(p, {}).items()}
        if (found or updates) and found != {name: () if name == "step" else p.shape for name in names}:
            raise ValueError("moments that do not fit the weights")


def check_folder(out: Path, config: TrainConfig) -> None:
    """UsageError, naming each difference, if `out` holds a run that cannot go on under these settings."""
    path = out / "ckpt.pt"
    if path.exists():
        _check_same(out, checkpoint.load(path)[1], config)


def _check_same(out: Path, old: TrainConfig, new: TrainConfig) -> None:
    if changed := [f"{flag(name)} was {before}, now {now}" for name, before, now in differences(old, new)]:
        raise UsageError(
            f"{out} holds a run with other settings: {'; '.join(changed)}. "
            "Repeat its settings to go on, choose another -o, or start anew there with --force"
        )


def restored_state(path: Path, config: TrainConfig, dataset: Dataset, device: torch.device, console: Console) -> State:
    """The run that the checkpoint at `path` holds, to go on under `config`. UsageError if that was another run."""
    content, old = checkpoint.load(path)
    _check_same(path.parent, old, config)
    if content["data"]["fingerprint"] != dataset.fingerprint:
        raise UsageError(
            f"{path.parent} holds a run on other data, {content['data']['count']} samples, while --data now has "
            f"{len(dataset)}. Restore the data to go on, choose another -o, or start anew there with --force"
        )
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
            state.rng.manual_seed(_other_seed(config.seed + content["step"]))
            console.notice(
                f"continued on {device.type}, begun on {content['rng']['device']}: other random numbers from here"
            )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise DataError(f"{path}: damaged optimizers or random state ({error}); take an older copy") from None
    state.step, state.batches = content["step"], content["data"]["batches"]
    if not 0 <= state.batches - config.n_critic * state.step < config.n_critic:  # batches of a step begun
        raise DataError(f"{path}: damaged, {state.batches} batches at step {state.step}; take an older copy")
    return state


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
            "data": {"fingerprint": dataset.fingerprint, "count": len(dataset), "batches": state.batches},
        },
    )


def train(
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    device: torch.device,
    console: Console,
    time_limit: float | None = None,  # seconds
    force: bool = False,
    tensorboard: bool = False,
) -> Path:
    """Train, or go on with the run in `out`; the path of the newest checkpoint.

    Raises StoppedError after saving when a signal or the time limit ends it, DivergedError for a loss or weight
    that is not finite.
    """
    began = time.monotonic()
    keep_freed_memory()
    newest, log, picture = out / "ckpt.pt", out / "metrics.jsonl", out / "curve.png"
    for folder in filter(Path.is_dir, (out, out / "samples")):
        sweep(folder)
    resumes = newest.exists() and not force
    state = restored_state(newest, config, dataset, device, console) if resumes else new_state(config, device)
    if state.step >= config.steps:
        console.notice(f"{newest} is at step {state.step}, --steps is {config.steps}: nothing to do")
        if log.exists() and (not picture.exists() or picture.stat().st_mtime < log.stat().st_mtime):
            curve.write(out)  # which a kill has kept from being drawn
        return newest
    _make_folder(out, config, fresh=not resumes)
    training, heldout = dataset.split(config.holdout, config.batch, config.seed)
    before = _keep_records(log, state.step)
    console.notice(
        f"{config.variant} {config.arch} on {device}: {len(training)} samples of {'x'.join(map(str, config.shape))} "
        f"and {len(heldout) if heldout else 'none'} held out, "
        f"{parameter_count(state.generator)} parameters in the generator, {parameter_count(state.critic)} in the critic"
    )
    if resumes:
        console.notice(f"going on at step {state.step} of {config.steps}")

    estimate, label = config.record.estimate, {"wasserstein": "W", "js": "JS"}[config.record.estimate]
    history = [record[estimate] for record in curve.read(log) if estimate in record]
    saved = state.step if resumes else None
    unchecked: list[tuple[int, dict[str, Tensor]]] = []  # (step, figures): to look at one waits for the device
    redraw = began + 100
    with _stop_signals() as (stopped, asked), _records(log, state, tensorboard) as (write, sync):
        while state.step < config.steps:
            while state.batches < config.n_critic * (state.step + 1):
                real = training.batch(state.batches, config.batch, config.seed, device)
                state.batches += 1
                figures = critic_step(state, real)
                unchecked.append((state.step + 1, figures))
                if stopped and state.batches < config.n_critic * (state.step + 1):  # amid a step, as it may be long
                    _check_weights(state, newest, saved)
                    _save(out, state, dataset)
                    raise _stopped(state, newest, *_signal_reason(stopped[0]))
            step = state.step + 1
            last = step == config.steps
            logs = last or step % config.log_every == 0
            if last or (logs and step % max(1, COMPARE_EVERY // config.n_critic) < config.log_every):
                figures |= compare(state, training, heldout)  # before the generator's step, as the rest
            figures |= generator_step(state)  # in place: these are the last in `unchecked` too
            seconds = before + time.monotonic() - began
            late = time_limit is not None and time.monotonic() - began >= time_limit
            ends = last or bool(stopped) or late
            samples = last or step % config.sample_every == 0
            saves = ends or bool(asked) or step % config.save_every == 0
            if logs or samples or saves or len(unchecked) > 1000:
                _check_steps(state, unchecked, newest, saved)
            if logs:
                record = _record(state, figures, seconds)
                history.append(record[estimate])
                if last:
                    verdict = judge([*curve.read(log), record])
                    record["verdict"] = verdict.word
                write(record)
            facts = {label: statistics.median(history[-5:])} if history else {}
            console.progress("training", step, config.steps, facts, history)
            if samples or saves:
                os.stat(out / "config.json")  # of a folder that was removed, which a grid would make anew
                _check_weights(state, newest, saved)
            if samples:
                _write_grid(state, out / "samples" / f"{state.step:06}.png")
            if saves:
                sync()  # no checkpoint without the records up to it
                _save(out, state, dataset)
                saved = state.step
            if (samples or saves) and not ends and time.monotonic() >= redraw:
                redraw = time.monotonic()
                curve.write(out)
                redraw += 100 * (time.monotonic() - redraw)  # a hundredth of the time goes into drawing
            if ends and not last:
                reason = _signal_reason(stopped[0]) if stopped else ("the time limit", TIME_LIMIT_CODE)
                raise _stopped(state, newest, *reason)
            if asked and saves:  # it may have come since
                asked.clear()
                console.notice(f"saved at step {state.step}, as SIGUSR1 asks")
    console.notice(f"done: step {state.step}, {duration(seconds)} of training, {label} {facts[label]:.4g}")
    console.notice(str(verdict))
    if not curve.write(out):
        console.notice(f"no {out / 'curve.png'}: drawing it {curve.INSTALL}")
    return newest


@contextmanager
def _records(
    log: Path, state: State, tensorboard: bool
) -> Iterator[tuple[Callable[[dict[str, Any]], None], Callable[[], None]]]:
    """What takes a record, for metrics.jsonl and where wanted TensorBoard, and what brings the former to the disk.

    Divergence is the last record's verdict.
    """
    board = None
    if tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        # What was written after this step, and will be again, is hidden.
        board = SummaryWriter(str(log.parent / "tensorboard"), purge_step=state.step + 1)
    with open(log, "ab") as file, closing(board) if board else nullcontext():

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            if board:
                for name, value in record.items():
                    if name not in ("step", "verdict"):
                        board.add_scalar(name, value, record["step"])

        try:
            yield write, lambda: os.fsync(file.fileno())
        except DivergedError:
            write({"step": state.step, "verdict": "diverged"})
            curve.write(log.parent)
            raise


def _record(state: State, figures: dict[str, Tensor], seconds: float) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    config = state.config
    images = state.batches * config.batch
    record: dict[str, Any] = {"step": state.step, "images": images}
    record |= {name: value.item() for name, value in figures.items()}
    if config.clip is not None:
        weights = [p.detach() for p in state.critic.parameters()]
        at_limit = sum((w.abs() >= config.clip).sum() for w in weights)
        record["clip_fraction"] = float(at_limit) / sum(w.numel() for w in weights)
    return record | {"images_per_second": round(images / seconds, 2), "seconds": round(seconds, 3)}


def _check_steps(state: State, unchecked: list[tuple[int, dict[str, Tensor]]], newest: Path, saved: int | None) -> None:
    """DivergedError for the first figure that is not finite; the list is emptied."""
    values = iter(torch.stack([value for _, figures in unchecked for value in figures.values()]).tolist())
    for step, figures in unchecked:
        _check_figures(state, {"step": step, **dict(zip(figures, values, strict=False))}, newest, saved)
    unchecked.clear()


def _check_figures(state: State, record: dict[str, Any], newest: Path, saved: int | None) -> None:
    if wrong := [f"{name} is {value}" for name, value in record.items() if not np.isfinite(value)]:
        raise _diverged(state, record["step"], wrong[0], newest, saved)


def _check_weights(state: State, newest: Path, saved: int | None) -> None:
    """The running statistics of batch norm included."""
    for network, module in (("critic", state.critic), ("generator", state.generator)):
        for name, weight in module.state_dict().items():
            if not weight.isfinite().all():
                raise _diverged(state, state.step, f"{name} of the {network} is not finite", newest, saved)


def _diverged(state: State, step: int, what: str, newest: Path, saved: int | None) -> DivergedError:
    kept = f"{newest} of step {saved} is untouched" if saved is not None else "nothing had been saved yet"
    return DivergedError(
        f"training diverged at step {step}: {what}; {kept}. "
        f"Start anew with a lower --lr (was {state.config.lr:g}) or another --optimizer"
    )


def _make_folder(out: Path, config: TrainConfig, fresh: bool) -> None:
    """Make the run folder; of a run that was begun there before, remove what it wrote, and nothing else."""
    if fresh and (out / "metrics.jsonl").exists() and not (out / "config.json").exists():
        raise UsageError(f"{out}: holds a metrics.jsonl that is not of a run of wgan; choose another -o")
    (out / "samples").mkdir(parents=True, exist_ok=True)
    for file in [*out.iterdir(), *out.glob("samples/*"), *out.glob("tensorboard/*")]:
        name = file.relative_to(out).as_posix()
        if fresh and (out / "config.json").exists() and _WRITTEN.fullmatch(name):
            file.unlink()
    with replacing(out / "config.json") as content:
        content.write(json.dumps(config.as_dict(), indent=2).encode() + b"\n")


def _keep_records(log: Path, step: int) -> float:
    """Drop the records after `step`, which will be made again, and a half line; the seconds trained so far."""
    kept, seconds = [], 0.0
    for line in log.read_bytes().split(b"\n") if log.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= step:
            kept.append(line + b"\n")
            seconds = record.get("seconds", seconds)
    with replacing(log) as file:
        file.writelines(kept)
    return float(seconds)


def _save(out: Path, state: State, dataset: Dataset) -> None:
    """Write ckpt.pt, and with --keep a numbered copy, of which the oldest beyond that number go.

    ckpt.pt comes last: a run that is killed amid this does it again.
    """
    newest, keep = out / "ckpt.pt", state.config.keep
    path = out / f"ckpt-{state.step:06}.pt" if keep else newest
    save_state(path, state, dataset)
    if keep:
        numbered = {int(m[1]): file for file in out.iterdir() if (m := re.fullmatch(r"ckpt-(\d+)\.pt", file.name))}
        for step in sorted(numbered)[:-keep]:
            numbered[step].unlink()
        link(path, newest)


def _write_grid(state: State, path: Path) -> None:
    """64 samples of the same latents each time, those of `wgan sample --seed` with the run's seed."""
    network = state.ema or state.generator
    network.eval()
    rows = sample.latents(state.config.seed, range(64), state.config.latent)
    sample.write_samples(network, rows, str(path))
    if network is state.generator:
        network.train()


@contextmanager
def _stop_signals() -> Iterator[tuple[list[int], list[int]]]:
    """Two lists to be looked at between steps: the signal that asks to stop, and those that ask to save and go on.

    A second signal to stop ends the process at once.
    """
    stopped: list[int] = []
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped:
            os._exit(128 + number)
        stopped.append(number)

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGUSR1: lambda number, frame: asked.append(number)}
    heeded = {n: handler for n, handler in handlers.items() if signal.getsignal(n) != signal.SIG_IGN}  # not nohup's
    before = {number: signal.signal(number, handler) for number, handler in heeded.items()}
    try:
        yield stopped, asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_reason(number: int) -> tuple[str, int]:
    return signal.Signals(number).name, 128 + number


def _stopped(state: State, newest: Path, reason: str, code: int) -> StoppedError:
    return StoppedError(f"Stopped by {reason} at step {state.step} of {state.config.steps}, saved in {newest}", code)
