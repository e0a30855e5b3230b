"""--critic-warmup: how many critic steps come before a generator step, and that a run stopped among them goes on."""

from __future__ import annotations

import io
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from wgan_cli import DataError, StoppedError, UsageError, checkpoint
from wgan_cli.cli.train import _checked
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.data.dataset import Dataset
from wgan_cli.signals import Stop
from wgan_cli.train import train

CPU = torch.device("cpu")


def settings(**given: object) -> TrainConfig:
    small = {"variant": "clip", "width": 4, "batch": 4, "n_critic": 2, "critic_warmup": 7, "log_every": 1}
    return resolve({**small, **given}, {"size": 0, "channels": 2})[0]


class StopAt(Stop):
    """As a signal that comes after so many times that the loop has asked."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.left = asked

    @property
    def ended_by(self) -> int | None:
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else None

    @ended_by.setter
    def ended_by(self, number: int | None) -> None: ...


def run(config: TrainConfig, out: Path, stop: Stop | None = None) -> Path:
    points = Dataset(np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32), "0" * 16)
    return train(config, points, out, CPU, Console(io.StringIO()), stop or Stop())


def test_the_first_25_and_every_500th_generator_step_have_the_warm_number() -> None:
    config = settings(critic_warmup=100, n_critic=5)
    warm = [step for step in range(1600) if config.critic_steps(step) != 5]
    assert warm == [*range(25), 500, 1000, 1500]
    assert {config.critic_steps(step) for step in warm} == {100}


@pytest.mark.parametrize("warmup", [0, 2, 100])
def test_the_batches_taken_follow_from_the_step(warmup: int) -> None:
    config, taken = settings(critic_warmup=warmup), 0
    for step in range(1600):
        assert config.batches_before(step) == taken
        taken += config.critic_steps(step)


def test_a_run_takes_as_many_batches(tmp_path: Path) -> None:
    content, _ = checkpoint.load(run(settings(steps=27), tmp_path))
    assert content["data"]["batches"] == 25 * 7 + 2 * 2
    assert {value["step"].item() for value in content["optimizer_critic"]["state"].values()} == {179}


def test_a_run_stopped_amid_the_critics_steps_ends_bit_for_bit_as_one_that_was_not(tmp_path: Path) -> None:
    config, places = settings(steps=27), set()
    whole, _ = checkpoint.load(run(config, tmp_path / "whole"))
    for _ in range(4):
        with pytest.raises(StoppedError):
            run(config, tmp_path / "parts", StopAt(37))
        content, _ = checkpoint.load(tmp_path / "parts/ckpt.pt")
        places.add(content["data"]["batches"] - config.batches_before(content["step"]))
    assert len(places) > 2  # amid a step at several places
    parts, _ = checkpoint.load(run(config, tmp_path / "parts"))
    assert parts["data"]["batches"] == whole["data"]["batches"] and parts["rng"]["state"].equal(whole["rng"]["state"])
    for network in ("generator", "critic"):
        assert all(whole[network][name].equal(parts[network][name]) for name in whole[network])


def test_a_time_limit_is_heeded_amid_a_step_once_one_is_done(tmp_path: Path) -> None:
    """Or a step of many critic steps would go far over it; and a limit however short does a step."""
    config = settings(steps=27)
    for stops in (1, 2, 3):
        with pytest.raises(StoppedError, match=f"by the time limit at step {stops} of 27") as ended:
            run(config, tmp_path / "first", Stop(0.0))
        content, _ = checkpoint.load(tmp_path / "first/ckpt.pt")
        assert ended.value.exit_code == 75 and content["data"]["batches"] == 7 * stops

    class Later(Stop):
        asked = 0

        def code(self) -> int:
            self.asked += 1
            return 75 if self.asked > 10 else 0

    with pytest.raises(StoppedError, match="at step 1 of 27"):
        run(config, tmp_path / "later", Later())
    content, _ = checkpoint.load(tmp_path / "later/ckpt.pt")
    assert content["data"]["batches"] == 11  # asked after each critic step, and after the generator's


@pytest.mark.parametrize("batches", [7 * 3 - 1, 7 * 4])
def test_batches_that_do_not_go_with_the_step_are_damage(batches: int, tmp_path: Path) -> None:
    path = run(settings(steps=3), tmp_path)
    content, _ = checkpoint.load(path)
    content["data"]["batches"] = batches
    checkpoint.save(path, content)
    with pytest.raises(DataError, match=f"damaged, {batches} batches at step 3"):
        run(settings(steps=4), tmp_path)


def test_a_run_from_before_there_was_a_warm_up_has_none() -> None:
    config = settings(critic_warmup=0)
    old = {name: value for name, value in config.as_dict().items() if name != "critic_warmup"}
    assert TrainConfig.from_dict(old) == config


def test_fewer_warm_steps_than_others_are_refused() -> None:
    assert _checked({"critic_warmup": 3}, {}, None).n_critic == 1  # of `fast`, which a CPU may come to take
    for given, preset in (({"critic_warmup": 3, "variant": "gp"}, None), ({"critic_warmup": 3}, "paper")):
        with pytest.raises(UsageError, match="--critic-warmup 3: must be 0, or at least --n-critic 5"):
            _checked(given, {}, preset)
    with pytest.raises(UsageError, match="--critic-warmup 1: must be 0, or at least --n-critic 2"):
        settings(critic_warmup=1)
    assert replace(settings(), critic_warmup=2).critic_steps(0) == 2
