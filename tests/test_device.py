"""What only a GPU shows of a run: `pytest -m gpu`. Batches on streams of their own, steps that wait for nothing, the
same bits again, memory that runs out, a second device. Kernels are not needed; tests/test_gpu.py has theirs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wgan_cli import WganError
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.data.dataset import Dataset
from wgan_cli.data.feed import Ahead, Feed, Resident, feed
from wgan_cli.device import arithmetic
from wgan_cli.memory import enough, of_step
from wgan_cli.state import new_state
from wgan_cli.step import critic_step, generator_step
from wgan_cli.train import train
from wgan_cli.variants import VARIANTS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:plain torch ops"),
]
GPU, CPU = torch.device("cuda"), torch.device("cpu")
WAYS = [Ahead, Resident]
LONG = 20_000_000  # cycles that a device sleeps: some hundredth of a second


def settings(**given: Any) -> TrainConfig:
    return resolve({"width": 8, "batch": 16, **given}, {"size": 32, "channels": 3})[0]


def images(count: int = 200) -> Dataset:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return Dataset(rows, "0" * 16, labels=rng.integers(0, 3, count))


@pytest.fixture
def second() -> Iterator[torch.device]:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    with torch.cuda.device(0):
        yield torch.device("cuda", 1)


# ---- Batches


@pytest.mark.parametrize("way", [Feed, *WAYS])
def test_a_batch_on_the_gpu_is_that_of_a_cpu_bit_for_bit(way: type[Feed]) -> None:
    data, fed = images(), way(images(), 16, 0, GPU)
    for number in (0, 1, 2, 13, 12, 40):
        found, expected = fed.take(number), data.batch(number, 16, 0, CPU)
        fed.ahead(number + 1)
        assert found.samples.is_cuda and torch.equal(found.samples.cpu(), expected.samples)
        assert found.samples.stride() == expected.samples.stride()
        assert found.labels is not None and expected.labels is not None
        assert torch.equal(found.labels.cpu(), expected.labels)


@pytest.mark.parametrize("late", ["step", "copy"])
@pytest.mark.parametrize("way", WAYS)
def test_no_batch_is_read_early_or_written_over(way: type[Feed], late: str) -> None:
    """The step or the copy lags far behind this process, so that memory would be given away, or read, too soon."""
    data, fed = images(), way(images(), 16, 0, GPU)
    copying = fed.stream if isinstance(fed, Ahead) else None
    kept = []
    for number in range(60):  # five epochs
        with torch.cuda.stream(copying if late == "copy" else None):
            torch.cuda._sleep(LONG)
        batch = fed.take(number)
        fed.ahead(number + 1)
        kept.append((batch.samples + 0, batch.labels))
        del batch
    torch.cuda.synchronize()
    for number, (samples, labels) in enumerate(kept):
        expected = data.batch(number, 16, 0, CPU)
        assert torch.equal(samples.cpu(), expected.samples), number
        assert labels is not None and expected.labels is not None and torch.equal(labels.cpu(), expected.labels)


def test_this_process_is_ahead_of_a_copy_and_of_a_step() -> None:
    fed, done = Ahead(images(), 16, 0, GPU), torch.cuda.Event()
    for number in range(4):  # takes all the memory it needs, which may wait
        fed.ahead(number)
    fed.take(3)
    torch.cuda.synchronize()
    assert fed.stream is not None
    for stream in (fed.stream, torch.cuda.current_stream()):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50 * LONG)
            done.record()
        fed.take(1)
        fed.ahead(2)
        assert not done.query()  # it would be over if anything had waited
        torch.cuda.synchronize()


def test_rows_lie_on_the_gpu_where_its_free_memory_has_room() -> None:
    assert type(feed(images(), 16, 0, GPU, memory=0.25)) is Resident
    assert type(feed(images(), 16, 0, GPU, memory=0.0)) is Ahead


# ---- Steps


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_in_a_step_waits_for_the_device(variant: str, way: type[Feed]) -> None:
    config = settings(variant=variant, ema=0.9)
    state, batches = new_state(config, GPU), way(images(), config.batch, 0, GPU)

    def step() -> None:
        batch = batches.take(state.batches)
        state.batches += 1
        critic_step(state, batch)
        batches.ahead(state.batches)
        generator_step(state, batch)

    for _ in range(3):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):  # beyond an epoch
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("arch", ["mlp", "dcgan", "resnet", "r3"])
@pytest.mark.parametrize("variant, precision", [("gp", "fp32"), ("gp", "bf16"), ("clip", "tf32")])
def test_a_run_again_and_one_gone_on_end_with_the_same_bits(
    variant: str, precision: str, arch: str, tmp_path: Path
) -> None:
    norm = {"critic_norm": "none"} if arch == "r3" else {}
    given = {"variant": variant, "arch": arch, "precision": precision, "n_critic": 2, "ema": 0.9, **norm}

    def ended(name: str, steps: int, memory: float = 0.0) -> Any:
        quiet = Console(io.StringIO(), quiet=True)
        path = train(settings(steps=steps, **given), images(), tmp_path / name, GPU, quiet, data_memory=memory)
        return torch.load(path, map_location="cpu", weights_only=True)

    once, again, resident = ended("once", 12), ended("again", 12), ended("resident", 12, 1.0)
    ended("halves", 5)
    for other in (again, resident, ended("halves", 12)):
        for network in ("generator", "critic", "ema"):
            for name, weight in once[network].items():
                assert torch.equal(weight, other[network][name]), f"{network}.{name}"


def test_float32_is_float32_and_tf32_is_not() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no TF32 on this device")
    torch.manual_seed(0)
    a, b = torch.randn(512, 512, device=GPU), torch.randn(512, 512, device=GPU)
    image, kernel = torch.randn(8, 128, 16, 16, device=GPU), torch.randn(128, 128, 3, 3, device=GPU)
    exact = [a.double() @ b.double(), torch.nn.functional.conv2d(image.double(), kernel.double())]
    for precision, low, high in (("fp32", 0.0, 1e-5), ("tf32", 1e-4, 1e-2)):
        with arithmetic(GPU, precision):
            found = [a @ b, torch.nn.functional.conv2d(image, kernel)]
        for value, truth in zip(found, exact, strict=True):
            assert low <= ((value - truth).norm() / truth.norm()).item() <= high, precision


def test_a_step_on_a_second_device_while_another_is_the_current_one(second: torch.device) -> None:
    for way in WAYS:
        state, batches = new_state(settings(), second), way(images(), 16, 0, second)
        batch = batches.take(0)
        batches.ahead(1)
        figures = critic_step(state, batch) | generator_step(state, batches.take(1))
        assert all(value.device == second and value.isfinite() for value in figures.values())
        assert torch.equal(batch.samples.cpu(), images().batch(0, 16, 0, CPU).samples)


# ---- Memory


def test_running_out_of_memory_names_a_batch_that_fits() -> None:
    config = settings(batch=2**24)
    with pytest.raises(
        WganError, match="out of memory on cuda: a step of --batch 16777216 takes about .*; try --batch "
    ):
        with enough(config, GPU):
            torch.empty(2**46, device=GPU)


@pytest.mark.parametrize("variant", ["gp", "clip"])
def test_a_step_holds_about_what_is_told(variant: str) -> None:
    config = settings(variant=variant, width=64, batch=64)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    state, batch = new_state(config, GPU), images().batch(0, 64, 0, GPU)
    for _ in range(2):
        critic_step(state, batch)
        generator_step(state, batch)
    held = torch.cuda.max_memory_allocated() - before
    assert 0.5 < held / of_step(config)(64) < 2
