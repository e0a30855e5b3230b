"""Training: the loop that steps, logs, samples, saves, and ends."""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from . import StoppedError, curve, run
from .config import TrainConfig
from .console import Console, duration
from .data.dataset import Dataset
from .files import sweep
from .networks import parameter_count
from .state import State, new_state, restored_state
from .step import critic_step, generator_step
from .verdict import judge
from .watch import COMPARE_EVERY, check_steps, check_weights, compare

TIME_LIMIT_CODE = 75  # EX_TEMPFAIL: try again later


def train(
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    device: torch.device,
    console: Console,
    time_limit: float | None = None,  # seconds
    force: bool = False,
    tensorboard: bool = False,
    new_data: bool = False,  # go on with other data than the run has had
) -> Path:
    """Train, or go on with the run in `out`; the path of the newest checkpoint.

    Raises StoppedError after saving when a signal or the time limit ends it, DivergedError for a loss or weight
    that is not finite.
    """
    began = time.monotonic()
    newest, log, picture = out / "ckpt.pt", out / "metrics.jsonl", out / "curve.png"
    for folder in filter(Path.is_dir, (out, out / "samples")):
        sweep(folder)
    resumes = newest.exists() and not force
    state = restored_state(newest, config, dataset, device, console, new_data) if resumes else new_state(config, device)
    if state.step >= config.steps:
        console.notice(f"{newest} is at step {state.step}, --steps is {config.steps}: nothing to do")
        if log.exists() and (not picture.exists() or picture.stat().st_mtime < log.stat().st_mtime):
            curve.write(out)  # which a kill has kept from being drawn
        return newest
    run.make_folder(out, config, fresh=not resumes)
    training, heldout = dataset.split(config.holdout, config.batch, config.seed)
    before = run.keep_records(log, state.step)
    console.notice(
        f"{config.variant} {config.arch} on {device}: {len(training)} samples of {'x'.join(map(str, config.shape))} "
        f"and {len(heldout) if heldout else 'none'} held out, "
        f"{parameter_count(state.generator)} parameters in the generator, {parameter_count(state.critic)} in the critic"
    )
    if resumes:
        console.notice(f"going on at step {state.step} of {config.steps}")

    estimate, label = config.record.estimate.name, config.record.estimate.label
    history = [record[estimate] for record in curve.read(log) if estimate in record]
    saved = state.step if resumes else None
    unchecked: list[tuple[int, dict[str, Tensor]]] = []  # (step, figures): to look at one waits for the device
    redraw = began + 100
    with _stop_signals() as (stopped, asked), run.records(log, state, tensorboard) as (write, sync):
        while state.step < config.steps:
            while state.batches < config.n_critic * (state.step + 1):
                batch = training.batch(state.batches, config.batch, config.seed, device)
                state.batches += 1
                figures = critic_step(state, batch)
                unchecked.append((state.step + 1, figures))
                if stopped and state.batches < config.n_critic * (state.step + 1):  # amid a step, as it may be long
                    check_weights(state, newest, saved)
                    run.save(out, state, dataset)
                    raise _stopped(state, newest, *_signal_reason(stopped[0]))
            step = state.step + 1
            last = step == config.steps
            logs = last or step % config.log_every == 0
            if last or (logs and step % max(1, COMPARE_EVERY // config.n_critic) < config.log_every):
                figures |= compare(state, training, heldout)  # before the generator's step, as the rest
            figures |= generator_step(state, batch)  # in place: these are the last in `unchecked` too
            seconds = before + time.monotonic() - began
            late = time_limit is not None and time.monotonic() - began >= time_limit
            ends = last or bool(stopped) or late
            samples = last or step % config.sample_every == 0
            saves = ends or bool(asked) or step % config.save_every == 0
            if logs or samples or saves or len(unchecked) > 1000:
                check_steps(state, unchecked, newest, saved)
            if logs:
                record = run.record(state, figures, seconds)
                history.append(record[estimate])
                if last:
                    verdict = judge([*curve.read(log), record])
                    record["verdict"] = verdict.word
                write(record)
            facts = {label: statistics.median(history[-5:])} if history else {}
            console.progress("training", step, config.steps, facts, history)
            if samples or saves:
                os.stat(out / "config.json")  # of a folder that was removed, which a grid would make anew
                check_weights(state, newest, saved)
            if samples:
                run.write_grid(state, out / "samples" / f"{state.step:06}.png")
            if saves:
                sync()  # no checkpoint without the records up to it
                run.save(out, state, dataset)
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
