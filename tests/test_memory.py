"""How much memory a step takes: what is counted, how it follows the batch, and what is said where it is too much."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import call, new_run

from wgan_cli import WganError, device, memory, train
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.data.dataset import Batch
from wgan_cli.memory import Held, enough, in_bytes, of_step
from wgan_cli.step import critic_step, generator_step

GPU = torch.device("cuda")


def settings(**given: Any) -> TrainConfig:
    return resolve({"width": 4, "batch": 8, **given}, {"size": 16, "channels": 3})[0]


def test_what_autograd_keeps_is_counted_and_what_is_freed_is_not() -> None:
    with Held() as held:
        weight = torch.ones(1000, requires_grad=True)
        value = weight
        for _ in range(10):
            value = value.exp()  # each is saved for backward, and has no other owner
        assert held.now == 11 * 4000
        half = value[:500]  # a view takes none
        assert held.now == 11 * 4000
        half.sum().backward()
        del value, half
    assert max(held.course) > 11 * 4000 and held.now == 2 * 4000  # weight and gradient


@pytest.mark.parametrize("variant, arch", [("gp", "dcgan"), ("clip", "dcgan"), ("dragan", "mlp"), ("r3", "r3")])
def test_the_estimate_for_a_batch_is_what_a_step_of_it_holds(variant: str, arch: str) -> None:
    with Held() as held:
        state = new_run(variant=variant, arch=arch, ema=0.9, batch=32)
        batch = Batch(torch.zeros(32, 3, 16, 16).contiguous(memory_format=torch.channels_last))
        for _ in range(2):
            critic_step(state, batch)
            generator_step(state, batch)
    assert of_step(state.config)(32) == pytest.approx(max(held.course), rel=0.01)


def test_more_samples_take_evenly_more() -> None:
    bytes_of = of_step(settings())
    small, large, larger = (bytes_of(batch) for batch in (64, 128, 192))
    assert larger - large == pytest.approx(large - small, rel=0.01)
    assert large - small > 64 * 3 * 16 * 16 * 4  # the images alone


def test_a_step_in_parts_takes_what_its_fullest_part_does() -> None:
    """Held against the step itself: never more than is told, and less than a step of the whole batch."""
    with Held() as held:
        state = new_run(batch=64, micro_batch=4)
        batch = Batch(torch.zeros(64, 3, 16, 16).contiguous(memory_format=torch.channels_last))
        for _ in range(2):
            critic_step(state, batch)
            generator_step(state, batch)
    whole, parts = of_step(new_run(batch=64).config)(64), of_step(state.config)(64)
    assert max(held.course) <= parts < whole


def test_to_estimate_changes_no_random_number() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    of_step(settings())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "count, text", [(1, "1 kB"), (999_000, "999 kB"), (1_234_000, "1.2 MB"), (271_865_544, "272 MB"), (2e10, "20 GB")]
)
def test_bytes_are_told_in_two_or_three_figures(count: float, text: str) -> None:
    assert in_bytes(count) == text


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Gives the GPU so many bytes, of a step that takes 1000 and 100 for each sample, 80 of them only for those of a
    part."""

    def set_room(there: int) -> None:
        def of_step(config: TrainConfig) -> Callable[..., int]:
            return lambda batch, part=config.micro_batch: 1000 + 80 * min(batch, part or batch) + 20 * batch

        monkeypatch.setattr(memory, "room", lambda device: there)
        monkeypatch.setattr(memory, "of_step", of_step)

    return set_room


def raised(config: TrainConfig) -> str:
    with pytest.raises(WganError) as error, enough(config, GPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    assert error.value.exit_code == 1
    return str(error.value)


def test_an_error_of_memory_names_the_batch_and_one_that_fits(full: Callable[[int], None]) -> None:
    full(20_000)
    assert raised(settings(batch=256)) == (
        "out of memory on cuda: a step of --batch 256 takes about 27 kB, and 20 kB are there; "
        "try --batch 128, or --micro-batch 128 for the same steps in parts"
    )
    full(10_000)  # of which 9000 count
    assert "try --batch 64, or --micro-batch 32" in raised(settings(batch=256))
    assert "try --batch 128, or --micro-batch 16" in raised(settings(batch=256, micro_batch=32))  # no larger one
    full(6000)  # of which 6120 for what lies there whatever the parts are
    assert raised(settings(batch=256)).endswith("; try --batch 32")
    full(10**9)  # where the count says that it fits, and it does not
    assert "try --batch 128" in raised(settings(batch=256))
    full(1000)
    assert raised(settings(batch=256)).endswith("are there; no --batch fits, so take a lower --width or --size")


def test_parts_of_a_batch_are_not_named_where_batch_norm_forbids_them(full: Callable[[int], None]) -> None:
    full(20_000)
    assert raised(settings(batch=256, variant="clip")).endswith("; try --batch 128")


def test_each_of_several_processes_has_its_share(full: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    full(20_000)
    monkeypatch.setattr("wgan_cli.distributed.place", lambda: SimpleNamespace(size=4))
    told = raised(settings(batch=1024))
    assert "--batch 1024 takes about 27 kB, and 20 kB are there; try --batch 512, or --micro-batch 128" in told
    full(1200)
    assert "no --batch fits" in raised(settings(batch=8))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="another"), enough(settings(), GPU):
        raise RuntimeError("another")


def test_a_run_that_runs_out_ends_with_1_and_the_advice(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(train, "critic_step", out_of_memory)
    monkeypatch.setattr(memory, "room", lambda device: 10**12)
    words = ("train", "--data", images, "--size", "16", "--width", "4", "--batch", "8", "-o", tmp_path / "run")
    for more in ((), ("--dry-run",)):
        done = call(*words, *more)
        assert done.code == 1
        assert "Error: out of memory on cpu: a step of --batch 8 takes about " in done.err
        assert "try --batch 4, or --micro-batch 4" in done.err and "Traceback" not in done.err


def test_a_dry_run_and_the_first_line_of_a_run_tell_it(images: Path, tmp_path: Path) -> None:
    words = ("train", "--data", images, "--size", "16", "--width", "4", "--batch", "8", "--steps", "1")
    told = f"a step takes about {in_bytes(of_step(settings())(8))}"
    assert f"made-up images\n{told} of memory\n" in call(*words, "--dry-run").err
    assert f"in the critic, {told}\n" in call(*words, "-o", tmp_path / "run").err


@pytest.mark.parametrize("precision, rounding", [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_the_arithmetic_of_a_gpu_is_chosen_for_a_block(precision: str, rounding: str) -> None:
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul

    def now() -> tuple[Any, ...]:
        return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.deterministic, cudnn.benchmark

    before = now()
    with pytest.raises(KeyError), device.arithmetic(GPU, precision):
        assert now() == (rounding, rounding, True, False)
        raise KeyError
    assert now() == before
    with device.arithmetic(GPU, precision, exact=False):
        assert now() == (rounding, rounding, False, True)
    with device.arithmetic(torch.device("cpu"), precision):
        assert now() == before
