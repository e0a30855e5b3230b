"""Training: the loop that steps, logs, samples and saves, and its one way out."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from . import TIME_LIMIT, StoppedError, curve, distributed, graph
from .config import TrainConfig
from .console import Console, duration, in_words
from .data.dataset import Batch, Dataset
from .data.feed import feed
from .device import arithmetic, fitting_threads, kept_waiting
from .files import copy, newest_of
from .memory import in_bytes, of_step
from .networks import parameter_count
from .run import Follower, Run, record
from .schedule import COOLDOWN
from .signals import Stop, told
from .state import State, new_state, restored_state
from .step import critic_step, generator_step
from .verdict import judge
from .watch import COMPARE_EVERY, check_steps, check_weights, check_weights_alike, compare

FIRST_SAVE, SAVE_AFTER = 60.0, 600.0  # seconds to the first checkpoint and grid, and between later ones at most
PACE_AFTER = 15.0  # seconds of training, before the length of the run is told, and what holds it up
WARM, ENOUGH = 2, 5  # batches that the pace leaves out, and those that it is taken of at least
IN_TIME = 0.95  # of the time left, that steps are taken in: the end is saved and drawn
LONG = 3600.0  # seconds of a run that a faster way is named for


def train(
    config: TrainConfig,
    dataset: Dataset,
    out: Path,
    device: torch.device,
    console: Console,
    stop: Stop | None = None,
    force: bool = False,
    tensorboard: bool = False,
    faster: str = "",  # a command that gives samples in minutes, to be named where this run takes hours
    new_data: bool = False,  # go on with other data than the run has had
    html: bool = False,  # keep report.html fresh too
    data_memory: float = 0.0,  # share of a GPU's free memory that the images may lie in
    graphs: bool = True,  # record the steps on a GPU
    chosen: str = "",  # what a preset has set, to be told first
) -> Path:
    """Train, or go on with the run in `out`; the path of the newest checkpoint.

    A run whose steps a time limit sets takes as many as the time gives: config.steps is set when a cooldown is due, as
    from then on the rates may follow it.
    Raises StoppedError after saving when a signal or the time limit ends it, DivergedError for a loss or weight
    that is not finite.
    """
    began, stop = time.monotonic(), stop or Stop()
    fits = stop.deadline is not None and config.by_time
    distributed.divide(config.batch)
    distributed.check_alike(
        "the processes differ", {"--data": f"{dataset.fingerprint} {dataset.pixels}", "a setting": repr(config)}
    )
    leads = distributed.place().leads
    run = Run(out, console, html) if leads else Follower()
    newest, log = out / "ckpt.pt", out / "metrics.jsonl"
    found = newest_of(out) or newest
    (resumes,) = map(bool, distributed.agree(leads and found.exists() and not force))
    state = restored_state(found, config, dataset, device, console, new_data) if resumes else new_state(config, device)
    config = state.config
    if resumes and leads and found != newest:
        copy(found, newest)
    if state.step >= config.steps:
        console.notice(f"{newest} is at step {state.step}, --steps is {config.steps}: nothing to do")
        run.draw_missing()
        distributed.agree(0)  # all end together
        return newest
    run.prepare(config, fresh=not resumes)
    training, heldout = dataset.split(config.holdout, config.batch, config.seed)
    before = run.keep_records(state.step)
    if chosen:
        console.notice(chosen)
    console.notice(
        f"{config.variant} {config.arch} on {device}: {len(training)} samples of {'x'.join(map(str, config.shape))} "
        f"and {len(heldout) if heldout else 'none'} held out, "
        f"{parameter_count(state.generator)} parameters in the generator, "
        f"{parameter_count(state.critic)} in the critic, {step_memory(config)}"
    )
    if resumes:
        run.saved = state.step
        console.notice(f"going on at step {state.step}" + ("" if fits else f" of {config.steps}"))

    estimate, label = config.record.estimate.name, config.record.estimate.label
    history = [entry[estimate] for entry in (curve.read(log) if leads else ()) if estimate in entry]
    unchecked: list[tuple[int, dict[str, Tensor]]] = []  # (step, figures): to look at one waits for the device
    first, first_step = state.batches, state.step
    redraw, save_by = began + 100, began + FIRST_SAVE
    pace_told, warm_at, reason = fits, 0.0, None  # where the time is known, it is not told
    crowding_told, waited_before = device.type != "cpu", kept_waiting()
    batches = feed(training, config.batch, config.seed, device, distributed.share(), data_memory)
    critic, generator = graph.steps(state, console, graphs, critic_step, generator_step)
    with run.recording(state, tensorboard), arithmetic(device, config.precision):
        while state.step < config.steps and not reason:
            due = config.batches_before(state.step + 1)
            while state.batches < due and not reason:
                with distributed.working():
                    batch = batches.take(state.batches)
                    state.batches += 1
                    figures = critic(state, batch)
                    batches.ahead(state.batches)
                unchecked.append((state.step + 1, figures))
                seconds, done = time.monotonic() - began, state.batches - first - WARM
                warm_at = seconds if done <= 0 else warm_at
                if not pace_told and seconds >= PACE_AFTER and done >= ENOUGH:
                    pace_told = True
                    _tell_pace(state, (seconds - warm_at) / done, console, faster)
                if not crowding_told and seconds >= PACE_AFTER:
                    crowding_told = True
                    _tell_crowding(kept_waiting() - waited_before, seconds, console)
                if state.batches < due:  # amid a step, which may be long
                    ends = stop.code()
                    if ends == TIME_LIMIT and state.step == first_step:
                        ends = 0  # one step is done, however short the time
                    (code,) = distributed.agree(ends)
                    reason = told(int(code))
            samples = saves = False
            late = asked = 0.0
            if not reason:  # the critic's part of the step is whole
                step = state.step + 1
                last = step == config.steps
                logs = last or step % config.log_every == 0
                if leads and (last or (logs and step % max(1, COMPARE_EVERY // config.n_critic) < config.log_every)):
                    with distributed.alone():
                        figures |= compare(state, training, heldout)  # before the generator's step, as the rest
                with distributed.working():
                    figures |= generator(state, batch)  # in place: these are the last in `unchecked` too
                seconds = before + time.monotonic() - began
                samples, saves = last or step % config.sample_every == 0, last or step % config.save_every == 0
                # One that comes after this is answered at the next step, which saves.
                now, taken, left = time.monotonic(), state.step - first_step, 0
                if fits and stop.deadline is not None:
                    left = max(1, int(IN_TIME * (stop.deadline - now) * taken / (now - began)))
                cool = fits and taken >= (1 - COOLDOWN) * (taken + left)
                code, asked, late, most, cools = distributed.agree(
                    stop.code(), stop.take_save(), now >= save_by, left, cool
                )
                end = state.step + int(most) if fits else config.steps
                if cools:  # from here on the run is one of so many steps
                    fits, config = False, replace(config, steps=end)
                    state.config = config
                    run.prepare(config, fresh=False)
                reason = None if last else told(int(code))
                if logs or len(unchecked) > 1000:
                    check_steps(state, unchecked, run.kept)
                if logs:
                    entry = record(state, figures, (state.batches - first) / (seconds - before), seconds)
                    history.append(entry[estimate])
                    if last and leads:
                        verdict = judge([*curve.read(log), entry])
                        entry["verdict"] = verdict.word
                    run.write(entry)
                facts = {label: statistics.median(history[-5:])} if history else {}
                console.progress("training", step, end, facts, history)
            at_once = bool(asked or late or reason)  # whatever the settings say
            if not (samples or saves or at_once):
                continue
            check_steps(state, unchecked, run.kept)
            run.check_there(state.step)
            check_weights(state, run.kept)
            check_weights_alike(state)
            if samples or at_once:
                run.write_grid(state, numbered=samples)
            if saves or at_once:
                run.save(state, dataset, numbered=saves)
                save_by = time.monotonic() + SAVE_AFTER
            if leads and not reason and not last and time.monotonic() >= redraw:
                redraw = time.monotonic()
                run.draw()
                redraw += 100 * (time.monotonic() - redraw)  # a hundredth of the time goes into drawing
            if asked and not reason:
                console.notice(f"saved at step {state.step}, as SIGUSR1 asks")
    run.draw()
    distributed.agree(0)  # all end together: torchrun takes one that ends before the others for lost
    if reason:
        of_all = "" if fits else f" of {config.steps}"
        raise StoppedError(f"Stopped by {reason[0]} at step {state.step}{of_all}, saved in {newest}", reason[1])
    console.notice(f"done: step {state.step}, {duration(seconds)} of training, {label} {facts[label]:.4g}")
    if leads:
        console.notice(str(verdict))
    return newest


def expected_seconds(config: TrainConfig, device: torch.device) -> float:
    """How long a run takes on this machine: one step of each network is timed, on samples of zeros."""
    state = new_state(config, device)
    labels = torch.zeros(config.batch, dtype=torch.int64, device=device) if config.classes else None
    batch = Batch(torch.zeros(config.batch, *config.shape, device=device), labels)
    critic, generator = graph.steps(state, Console(quiet=True), True, critic_step, generator_step)
    first = [critic] if critic is critic_step else [critic, generator] * (graph.WARM_UP + 1)  # are slower
    seconds = 0.0
    with arithmetic(device, config.precision):
        for step in first:
            step(state, batch)
        for step, times in ((critic, config.batches_before(config.steps)), (generator, config.steps)):
            began = time.monotonic()
            next(iter(step(state, batch).values())).item()  # waits for the device
            seconds += times * (time.monotonic() - began)
    return seconds


def step_memory(config: TrainConfig) -> str:
    """`a step takes about 261 MB`, of the share of a batch that this process has."""
    share = range(config.batch)[distributed.share()]
    return f"a step takes about {in_bytes(of_step(config)(len(share)))}"


def _tell_pace(state: State, seconds: float, console: Console, faster: str) -> None:
    """How long the rest takes at so many seconds for a batch of the critic, and what takes less."""
    config, steps = state.config, state.config.steps - state.step
    left = (config.batches_before(config.steps) - config.batches_before(state.step)) * seconds
    hint = f"; samples in minutes: {faster}" if faster and left > LONG and state.device.type == "cpu" else ""
    console.notice(f"the remaining {steps} steps take {in_words(left)} on this machine{hint}")


def _tell_crowding(waited: float, seconds: float, console: Console) -> None:
    """What is faster, where other programs hold the processors that the threads would run on."""
    threads = torch.get_num_threads()
    fewer = fitting_threads(threads, waited, seconds)
    if fewer < threads:
        console.notice(
            f"the {threads} threads of this run wait for processors that others use, and so for each other: "
            f"stopped, and gone on with OMP_NUM_THREADS={fewer}, it may be many times as fast"
        )
