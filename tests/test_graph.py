"""Steps that can be recorded and played back: what they ask of the device, and that a recording is the step.

A CUDA graph repeats kernels on the same memory and runs no Python. On a CPU `Emulated` does the same with the operators
that torch dispatches: numbers and addresses stay those of the recording. Nothing here has run on a GPU but what is
marked so.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wgan_cli import graph, ops
from wgan_cli.config import ARCHS, OPTIMIZERS, TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.data.dataset import Batch
from wgan_cli.schedule import dials, scheduled, within
from wgan_cli.state import State, new_state
from wgan_cli.step import critic_step, generator_step
from wgan_cli.variants import VARIANTS

CPU, META = torch.device("cpu"), torch.device("meta")
BUSY: dict[str, Any] = {  # all that draws random numbers, and all that changes over a run
    "flip": True,
    "augment": ("color", "translation", "cutout"),
    "instance_noise": 0.1,
    "ema": 0.9,
    "lr_decay": "cosine",
}
NO_WAITING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2"}


def settings(**given: Any) -> TrainConfig:
    small = {"batch": 4, "latent": 3, "width": 4 if given.get("arch") in ("resnet", "r3") else 8, "steps": 12}
    facts = {"size": 32 if given.get("arch") == "resnet" else 16, "channels": 1}
    if classes := given.pop("classes", ()):
        facts["classes"] = classes
    return resolve({**small, **BUSY, **given}, facts)[0]


def batches(config: TrainConfig, count: int = 2, device: torch.device = CPU) -> list[Batch]:
    rng = torch.Generator().manual_seed(5) if device != META else None
    rows, made = config.batch, []
    for _ in range(count):
        samples = torch.rand(rows, *config.shape, generator=rng, device="cpu" if rng else device) * 2 - 1
        labels = torch.randint(max(1, len(config.classes)), (rows,), generator=rng, device=samples.device)
        made.append(Batch(samples.to(device), labels.to(device) if config.classes else None))
    return made


def take_part(patch: pytest.MonkeyPatch) -> None:
    """Have a CPU, and the device of tensors without values, take the path of devices that record."""
    for module in ("state", "graph"):
        patch.setattr(f"wgan_cli.{module}.RECORDERS", ("cuda", "cpu", "meta"))
    rmsprop = importlib.import_module("torch.optim.rmsprop")  # whose name a function has in torch.optim
    patch.setattr(rmsprop, "_get_capturable_supported_devices", lambda: ["cpu", "meta"])


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    take_part(monkeypatch)


class Watched(TorchDispatchMode):
    """What the steps ask of the device; AssertionError for what waits for one, or comes from another."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        assert name not in NO_WAITING, f"{func} waits for the device"
        assert all(x.dtype != torch.bool for x in tensors) or not name.startswith("index"), f"{func} by a mask"
        # One in place whose only kernels are of devices with values.
        out = None if name == "_fused_adam_" else func(*args, **(kwargs or {}))
        tensors += [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        assert {x.device for x in tensors} <= {META}, f"{func} takes or makes a tensor elsewhere"
        self.asked.append((str(func), [tuple(x.shape) for x in tensors]))
        return out


class _NoGenerator:
    """That of a device without values: None, which is torch's own."""

    def __init__(self, device: torch.device) -> None:
        assert device == META

    def manual_seed(self, seed: int) -> None:
        return None


def watched(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, change: Callable[[State], Any] | None = None) -> None:
    """Three steps of each kind on tensors without values, the second and third of which have to ask for the same."""
    monkeypatch.setattr(torch, "Generator", _NoGenerator)
    monkeypatch.setenv("WGAN_FUSED", "0")
    state = new_state(config, META)
    if change:
        change(state)
    steps = graph.steps(state, Console(quiet=True), False, critic_step, generator_step)
    (batch,) = batches(config, 1, META)
    lists = []
    for _ in range(3):
        with Watched() as seen:
            figures = steps[0](state, batch) | steps[1](state, batch)
        lists.append(seen.asked)
    assert all(value.device == META and value.shape == () for value in figures.values())
    assert lists[1] == lists[2] and len(lists[1]) > 50


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_waits_for_nothing_and_asks_for_the_same_each_time(
    variant: str, arch: str, monkeypatch: pytest.MonkeyPatch, recording: None
) -> None:
    """No host read, no tensor from elsewhere, no shape that follows from a value, in no optimizer."""
    watched(settings(variant=variant, arch=arch, classes=("a", "b")), monkeypatch)


def test_nor_does_one_that_blurs(monkeypatch: pytest.MonkeyPatch, recording: None) -> None:
    watched(settings(upsample="blurred"), monkeypatch)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("given", [{"variant": "clip"}, {"variant": "r3"}, {"micro_batch": 3}], ids=str)
def test_nor_does_one_of_another_optimizer_or_in_parts(
    given: dict[str, Any], optimizer: str, monkeypatch: pytest.MonkeyPatch, recording: None
) -> None:
    watched(settings(arch="mlp", optimizer=optimizer, **given), monkeypatch)


@pytest.mark.parametrize(
    "planted",
    [
        lambda module, args, output: output * output.sum().item(),
        lambda module, args, output: output[output > 0].sum() + output,
        lambda module, args, output: output + torch.ones(()),
        lambda module, args, output: output.cpu().to(META),
    ],
    ids=["host read", "mask", "number from the host", "copy to the host"],
)
def test_what_waits_is_found(planted: Any, monkeypatch: pytest.MonkeyPatch, recording: None) -> None:
    with pytest.raises((AssertionError, NotImplementedError), match="waits|by a mask|elsewhere|out of meta"):
        watched(settings(arch="mlp"), monkeypatch, lambda state: state.critic.register_forward_hook(planted))


# ---- Recordings


class Emulated:
    """A recorder on the CPU. Recording leaves no effect, as on a GPU, where nothing runs meanwhile."""

    def __init__(self, state: State) -> None:
        self.state, self.played, self.failed = state, 0, False

    aside = staticmethod(nullcontext)

    def record(self, function: Callable[[], Tensor], rng: torch.Generator) -> tuple[Callable[[], None], Tensor]:
        kept, seed = [(x, x.clone()) for x in tensors(self.state)], rng.get_state()
        try:
            with _Operators() as operators:
                result = function()
        finally:
            with torch.no_grad():
                for tensor, before in kept:
                    tensor.copy_(before)
            rng.set_state(seed)
        result.fill_(torch.nan)
        return partial(self.replay, operators.calls), result

    @torch.no_grad()
    def replay(self, calls: list[tuple[Any, Any, Any, Any]]) -> None:
        self.played += 1
        for func, args, kwargs, made in calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "_local_scalar_dense":
            raise RuntimeError("operation not permitted when stream is capturing")
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


def tensors(state: State) -> list[Tensor]:
    """All that a run changes, less its random numbers."""
    networks = [network.state_dict() for network in (state.generator, state.critic, state.ema) if network is not None]
    optimizers = [o.state_dict()["state"] for o in (state.optimizer_critic, state.optimizer_generator)]
    return [x for x in tree_leaves((networks, optimizers)) if isinstance(x, Tensor)]


def trained(
    config: TrainConfig, recorder: str, monkeypatch: pytest.MonkeyPatch, console: Console | None = None
) -> tuple[State, list[dict[str, float]], int]:
    """Seven generator steps of two critic steps each: the run, all figures as they stand at its end, playbacks."""
    state = new_state(config, CPU)
    emulated = Emulated(state)
    monkeypatch.setattr(graph, "_Recorder", lambda device: emulated)
    steps: list[graph.Step] = [critic_step, generator_step]
    if recorder != "none":
        steps = graph.steps(state, console or Console(quiet=True), recorder == "graph", *steps)
    figures = []
    for batch in batches(config, 7):
        figures += [steps[0](state, batch), steps[0](state, batch), steps[1](state, batch)]
    return state, [{name: value.item() for name, value in found.items()} for found in figures], emulated.played


SYSTEMS = [{"variant": variant, "arch": arch} for variant in VARIANTS for arch in ("mlp", "dcgan")] + [
    {"variant": "gp", "arch": "dcgan", "upsample": "blurred", "steps": 8},  # amid the steps the blur comes in
    {"variant": "r3", "arch": "r3", "classes": ("a", "b")},
    {"variant": "gp", "arch": "resnet"},
    {"variant": "gp", "arch": "mlp", "precision": "bf16"},
    {"variant": "gp", "arch": "mlp", "micro_batch": 3},
    {"variant": "hinge", "arch": "mlp", "micro_batch": 3},
    *({"variant": "clip", "arch": "mlp", "optimizer": name} for name in OPTIMIZERS),
    *({"variant": "r3", "arch": "mlp", "optimizer": name} for name in OPTIMIZERS),
]


@pytest.mark.parametrize("given", SYSTEMS, ids=lambda given: " ".join(map(str, given.values())))
def test_a_recording_is_the_step_bit_for_bit(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, recording: None
) -> None:
    """With schedules, average, augmentation and noise: weights, moments, random numbers, figures."""
    config = settings(**given)
    (eager, figures, _), (recorded, figures_of_recorded, played) = (
        trained(config, way, monkeypatch) for way in ("dials", "graph")
    )
    assert played == 2 * 7 - graph.WARM_UP + 7 - graph.WARM_UP
    assert figures_of_recorded == figures and recorded.step == eager.step == 7
    assert recorded.rng.get_state().equal(eager.rng.get_state())
    assert all(x.equal(y) for x, y in zip(tensors(recorded), tensors(eager), strict=True))
    (group,) = recorded.optimizer_critic.param_groups  # as checkpoints have it
    assert type(group["lr"]) is float and group["lr"] == (config.lr_critic or config.lr) * scheduled(config, 6).lr


@pytest.mark.parametrize("variant", ["gp", "r3", "clip"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_that_read_dials_are_those_that_read_the_schedule(
    variant: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 but for what the dials say, which is in float32; torch's own optimizers on the other side."""
    monkeypatch.setattr(Tensor, "float", lambda self: self)
    before = torch.get_default_dtype()
    config = settings(variant=variant, arch="mlp", optimizer=optimizer, critic_norm="none", lr=1e-3)
    try:
        torch.set_default_dtype(torch.float64)
        plain, *_ = trained(config, "none", monkeypatch)
        with monkeypatch.context() as patch:
            take_part(patch)
            dialled, *_ = trained(config, "dials", monkeypatch)
    finally:
        torch.set_default_dtype(before)
    for one, other in zip(tensors(dialled), tensors(plain), strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("given", [{}, {**BUSY, "upsample": "blurred"}], ids=["plain", "busy"])
def test_there_is_a_dial_for_all_that_changes_over_a_run(variant: str, given: dict[str, Any]) -> None:
    config = resolve({"variant": variant, "steps": 200, **given}, {"size": 16, "channels": 1})[0]
    steps = [within(config, step) for step in range(config.steps)]
    for name, dial, *values in zip(scheduled(config, 0)._fields, dials(config, CPU), *steps, strict=True):
        assert isinstance(dial, Tensor) or set(values) == {dial}, name


def test_a_cpu_takes_the_functions_themselves() -> None:
    state = new_state(settings(), CPU)
    assert graph.steps(state, Console(quiet=True), True, critic_step, generator_step) == [critic_step, generator_step]
    assert state.dials is None


def test_a_step_that_cannot_be_recorded_is_called(monkeypatch: pytest.MonkeyPatch, recording: None) -> None:
    """A host read amid the generator's step: a notice, no recording is played after, and the weights are the same."""
    said, config = io.StringIO(), settings(arch="dcgan")

    def reading(module: Any, args: Any, output: Tensor) -> Tensor:
        return output * (1 + 0 * output.sum().item())

    made = new_state

    def planted(*given: Any) -> State:
        state = made(*given)
        state.generator.register_forward_hook(lambda *call: reading(*call) if torch.is_grad_enabled() else None)
        return state

    monkeypatch.setitem(globals(), "new_state", planted)
    eager, figures, _ = trained(config, "dials", monkeypatch)
    recorded, figures_of_recorded, played = trained(config, "graph", monkeypatch, Console(said))
    assert said.getvalue().count("steps are not recorded as a CUDA graph") == 1
    assert "not permitted when stream is capturing" in said.getvalue()
    assert played == 2 * 4 - graph.WARM_UP and figures_of_recorded == figures
    assert all(x.equal(y) for x, y in zip(tensors(recorded), tensors(eager), strict=True))
    assert recorded.rng.get_state().equal(eager.rng.get_state())
    assert all(p.requires_grad for p in recorded.critic.parameters())


# ---- On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("given", SYSTEMS, ids=lambda given: " ".join(map(str, given.values())))
def test_a_graph_is_the_step(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers to the bit. Weights of an mlp too; others add up atomically in some layers' gradients."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setenv("WGAN_FUSED", "auto" if "cuda" in ops._LIBRARIES else "0")
    config, device, runs = settings(**given), torch.device("cuda"), []
    for wanted in (False, True):
        said = io.StringIO()
        state = new_state(config, device)
        steps = graph.steps(state, Console(said), wanted, critic_step, generator_step)
        figures: list[Tensor] = []
        for batch in batches(config, 7, device):
            for step in (steps[0], steps[0], steps[1]):
                figures += step(state, batch).values()
        assert not said.getvalue()
        runs.append((state, torch.stack(figures)))
    (eager, figures_of_eager), (recorded, figures_of_recorded) = runs
    assert recorded.rng.get_state().equal(eager.rng.get_state()) and recorded.step == 7
    rtol, atol = (0.0, 0.0) if config.arch == "mlp" else (1e-3, 1e-5)
    torch.testing.assert_close(figures_of_recorded, figures_of_eager, rtol=rtol, atol=atol)
    for x, y in zip(tensors(recorded), tensors(eager), strict=True):
        torch.testing.assert_close(x, y, rtol=rtol, atol=atol)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_that_reads_its_device_is_not_recorded_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_FUSED", "auto" if "cuda" in ops._LIBRARIES else "0")
    said, config, runs = io.StringIO(), settings(arch="mlp"), []
    for wanted in (False, True):
        state = new_state(config, torch.device("cuda"))
        state.generator.register_forward_hook(lambda module, args, output: output * (1 + 0 * output.sum().item()))
        steps = graph.steps(state, Console(said), wanted, critic_step, generator_step)
        for batch in batches(config, 7, state.device):
            for step in steps:
                step(state, batch)
        runs.append(state)
    assert "steps are not recorded as a CUDA graph" in said.getvalue()
    assert runs[0].rng.get_state().equal(runs[1].rng.get_state())
    assert all(x.equal(y) for x, y in zip(tensors(runs[1]), tensors(runs[0]), strict=True))
