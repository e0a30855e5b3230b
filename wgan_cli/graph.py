"""Both steps of a run recorded as CUDA graphs and played back: one launch in place of some hundred.

A recording repeats the same kernels on the same memory, so that what changes from step to step has to stand in memory:
a batch is copied to where the recorded one lay, and what a schedule changes is turned on the dials that the steps read.
Random numbers are those of the step itself: the run's generator takes part in the recording, and playing moves it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import distributed, reason
from .console import Console
from .data.dataset import Batch
from .schedule import Now, dials, turn, within
from .state import RECORDERS, State

Step = Callable[[State, Batch], dict[str, Tensor]]

WARM_UP = 3  # steps before the recorded one, in which libraries choose their algorithms and take their memory


def steps(state: State, console: Console, wanted: bool, *functions: Step) -> list[Step]:
    """The functions, steps of the run `state`, to be called in their stead. On a CPU these are the functions.

    On a GPU all take the path that can be recorded, to the same weights whether they are recorded or not. They are
    called where one cannot be recorded, where recordings are not `wanted`, and where processes exchange gradients.
    """
    if state.device.type not in RECORDERS:
        return [*functions]
    state.dials = dials(state.config, state.device)
    recorder = _Recorder(state.device) if wanted and not distributed.in_all() else None
    turned: list[Now] = []  # what the dials say, of all functions
    return [_played(function, state, turned, recorder, console) for function in functions]


def _played(step: Step, state: State, turned: list[Now], recorder: _Recorder | None, console: Console) -> Step:
    calls, play = 0, None

    def call(state: State, batch: Batch) -> dict[str, Tensor]:
        assert state.dials is not None
        now = within(state.config, state.step)
        turn(state.dials, now, *turned)
        turned[:] = [now]
        figures = taken(batch)
        for optimizer in (state.optimizer_critic, state.optimizer_generator):
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * now.lr  # a number again, for the checkpoint
        return figures

    def taken(batch: Batch) -> dict[str, Tensor]:
        nonlocal calls, play
        if recorder is None or recorder.failed:
            return step(state, batch)
        calls += 1
        if calls <= WARM_UP:
            with recorder.aside():
                return step(state, batch)
        if play is None:
            try:
                play = _recorded(step, state, batch, recorder)
            except RuntimeError as error:
                recorder.failed = True
                console.notice(f"steps are not recorded as a CUDA graph, and take longer: {reason(error)}")
                return step(state, batch)
        return play(batch)

    return call


def _recorded(step: Step, state: State, batch: Batch, recorder: _Recorder) -> Callable[[Batch], dict[str, Tensor]]:
    """Record the step, which changes nothing; what plays it back. Where this fails too, nothing has changed."""
    inputs = Batch(batch.samples.clone(), None if batch.labels is None else batch.labels.clone())
    names: list[str] = []
    done, rng = state.step, state.rng.get_state()

    def once() -> Tensor:
        figures = step(state, inputs)
        names[:] = figures
        return torch.stack([*figures.values()])

    try:
        replay, figures = recorder.record(once, state.rng)
        steps_on = state.step - done
    except RuntimeError:
        state.critic.requires_grad_(True).train()
        state.rng = torch.Generator(state.device)  # the other may be left amid the recording, so no recording is played
        state.rng.set_state(rng)
        raise
    finally:
        state.step = done

    def play(batch: Batch) -> dict[str, Tensor]:
        inputs.samples.copy_(batch.samples)
        if inputs.labels is not None and batch.labels is not None:
            inputs.labels.copy_(batch.labels)
        replay()
        state.step += steps_on
        return dict(zip(names, figures.clone().unbind(), strict=True))  # the next playback writes over the originals

    return play


class _Recorder:
    """What recordings of one run share: a stream, and memory, as none is played while another is."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.failed = False

    @contextmanager
    def aside(self) -> Iterator[None]:
        """On the stream of the recordings, where it takes its turn."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, function: Callable[[], Tensor], rng: torch.Generator) -> tuple[Callable[[], None], Tensor]:
        """What the function would do, to be done by a call, and where that leaves its result."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(rng)
        # Other threads may take pinned memory meanwhile.
        with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result
