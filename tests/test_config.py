"""Defaults, where they come from, and what is refused."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from wgan_cli import UsageError
from wgan_cli.cli.said import drawn_as, preset_for
from wgan_cli.config import MOST_STEPS, PRESETS, RANGES, TrainConfig, differences, resolve
from wgan_cli.data.cache import auto_size
from wgan_cli.networks.padding import padded_size
from wgan_cli.variants import VARIANTS

FACTS = {"size": 32, "channels": 1}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [  # Radford et al. 2016, Arjovsky et al. 2017 and Gulrajani et al. 2017
        ("gan", {"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "n_critic": 1, "critic_norm": "batch"}),
        ("ns", {"optimizer": "adam", "lr": 2e-4, "betas": (0.5, 0.999), "n_critic": 1, "critic_norm": "batch"}),
        ("clip", {"optimizer": "rmsprop", "lr": 5e-5, "clip": 0.01, "n_critic": 5, "batch": 64, "betas": None}),
        ("gp", {"lr": 1e-4, "betas": (0.0, 0.9), "gp_weight": 10, "n_critic": 5, "batch": 64, "critic_norm": "none"}),
    ],
)
def test_each_variant_has_its_papers_settings(variant: str, expected: dict[str, Any]) -> None:
    config, origins = resolve({"variant": variant}, FACTS)
    assert {name: getattr(config, name) for name in expected} == expected
    assert all(origins[name] in (f"variant {variant}", "not used") for name in expected)


def test_what_is_given_overrules_everything() -> None:
    given = {"variant": "clip", "lr": 1.0, "size": 16, "width": 8, "critic_norm": "layer"}
    config, origins = resolve(given, FACTS)
    assert (config.lr, config.size, config.width, config.critic_norm) == (1.0, 16, 8, "layer")
    assert {origins[name] for name in given} == {"given"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_preset_gives_way_to_what_is_given_only(channels: int) -> None:
    facts = {"size": 32, "channels": channels}
    config, origins = resolve({"lr": 0.5}, facts, "fast", "bf16")
    fast = PRESETS["fast"](facts, False)
    assert (config.lr, config.precision) == (0.5, "bf16")
    assert {name: getattr(config, name) for name in fast if name not in ("lr", "precision")} == {
        name: value for name, value in fast.items() if name not in ("lr", "precision")
    }
    assert {origins[name] for name in fast if name != "lr"} == {"preset fast"}
    assert resolve({}, facts, "paper") == resolve({}, facts)


def test_a_preset_goes_by_the_images_as_they_are_trained_on() -> None:
    colour = resolve({}, {"size": 32, "channels": 3}, "fast")[0]
    made_grey = resolve({"channels": 1}, {"size": 32, "channels": 3}, "fast")[0]
    assert (colour.generator_norm, made_grey.generator_norm) == ("self", "batch")
    assert (colour.width, colour.width_critic, made_grey.width, made_grey.width_critic) == (40, 16, 24, None)
    assert (colour.palette, made_grey.palette) == (8, 0)
    assert made_grey == resolve({}, {"size": 32, "channels": 1}, "fast")[0]
    photographs = resolve({}, {"size": 32, "channels": 3, "drawn": False}, "fast")[0]
    assert photographs == replace(colour, upsample="nearest", palette=0)
    assert resolve({"channels": 1}, {"size": 32, "drawn": False}, "fast")[0] == made_grey


@pytest.mark.parametrize(
    ("given", "size", "device", "preset"),
    [
        ({}, 32, "cpu", "fast"),
        ({"lr": 1.0, "labels": "folders"}, 32, "cpu", "fast"),
        ({}, 32, "cuda", "paper"),
        ({"variant": "gp"}, 32, "cpu", "paper"),
        ({"arch": "dcgan"}, 32, "cpu", "paper"),
        ({}, 0, "cpu", "paper"),
    ],
)
def test_a_cpu_is_fast_where_no_system_is_named(given: dict[str, Any], size: int, device: str, preset: str) -> None:
    assert preset_for(given, {"size": size, "channels": 3}, device) == preset


@pytest.mark.parametrize("begun", ["fast", "paper"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_run_goes_on_under_the_preset_that_it_was_begun_with(begun: str, device: str) -> None:
    facts = {"size": 32, "channels": 3}
    known = resolve({"lr": 0.5}, facts, begun, "bf16")[0]
    assert preset_for({"lr": 0.5}, facts, device, known) == begun
    usual = preset_for({}, facts, device)
    assert preset_for({"lr": 0.25}, facts, device, known) == usual  # under neither, and told of the usual one
    assert preset_for({"variant": "clip"}, facts, device, known) == "paper"


@pytest.mark.parametrize("was", [True, False])
def test_a_run_goes_on_with_the_settings_for_images_as_they_were(was: bool) -> None:
    facts = {"size": 32, "channels": 3}
    known = resolve({"lr": 0.5}, {**facts, "drawn": was}, "fast", "bf16")[0]
    for now in (True, False):
        found = {**facts, "drawn": now}
        assert preset_for({"lr": 0.5}, found, "cuda", known) == "fast"
        assert drawn_as(known, {"lr": 0.5}, found, "fast", False) == was
        assert drawn_as(known, {"lr": 0.25}, found, "fast", False) is None
        assert drawn_as(known, {"lr": 0.5}, found, "paper", False) is None


@pytest.mark.parametrize("given", [{"variant": "clip"}, {"arch": "mlp"}])
def test_a_preset_is_for_what_it_was_found_with(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--preset fast: .*--variant gp and --arch dcgan"):
        resolve(given, FACTS, "fast")


@pytest.mark.parametrize("native", ["fp32", "bf16"])
def test_auto_is_what_the_machine_has(native: str) -> None:
    assert resolve({"precision": "auto"}, FACTS, native_precision=native)[0].precision == native


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fully_connected_critic_has_no_batch_norm_unless_asked(variant: str) -> None:
    config, origins = resolve({"variant": variant, "arch": "mlp"}, FACTS)
    assert (config.critic_norm, config.width, origins["width"]) == ("none", 512, "arch mlp")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_every_optimizer_goes_with_every_variant(variant: str, optimizer: str) -> None:
    config, _ = resolve({"variant": variant, "optimizer": optimizer}, FACTS)
    assert (config.betas is None) == (optimizer != "adam")


def test_points_get_a_fully_connected_generator() -> None:
    config, _ = resolve({}, {"size": 0, "channels": 2})
    assert (config.arch, config.shape, config.latent) == ("mlp", (2,), 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": -1.0}, "--lr -1.0: must be a number above 0"),
        ({"lr": float("nan")}, "--lr nan"),
        ({"lr": float("inf")}, "--lr inf"),
        ({"steps": 0}, "--steps 0: must be a whole number from 1"),
        ({"batch": -3}, "--batch -3"),
        ({"betas": (0.5, 1.0)}, "--betas"),
        ({"betas": (0.5,)}, "--betas"),
        ({"variant": "clip", "clip": 0.0}, "--clip 0.0"),
        ({"ema": 1.0}, "--ema 1.0"),
        ({"instance_noise": -0.1}, "--instance-noise -0.1"),
        ({"seed": 2**63}, "--seed"),
        ({"size": 20}, "use 16 or 28"),
        ({"size": 9}, "use 14"),
        ({"size": 512}, "--size 512"),
        ({"critic_norm": "batch"}, "use none or layer"),
        ({"clip": 0.1}, "variant gp does not clip"),
        ({"variant": "clip", "gp_weight": 1.0}, "has no gradient penalty"),
        ({"optimizer": "sgd", "betas": (0.5, 0.9)}, "has no betas"),
        ({"size": 20.0}, "--size 20.0: must be a whole number from 1 to 256"),
        ({"steps": True}, "--steps True: must be a whole number from 1"),
        ({"lr": 10**400}, "must be a number above 0"),
        ({"holdout": 0.6}, "--holdout 0.6: must be a number from 0 to 0.5"),
        ({"keep": -1}, "--keep -1: must be a whole number from 0"),
        ({"lr": "1"}, "--lr 1: must be a number above 0"),
        ({"augment": ("color", "blur")}, "--augment color,blur: choose from color, translation, cutout"),
        ({"augment": ("cutout", "cutout")}, "--augment cutout,cutout: choose from"),
        ({"augment": ()}, "--augment : choose from"),
        ({"augment": "color"}, "--augment c,o,l,o,r: choose from"),
        ({"augment": ("color",), "size": 0, "arch": "mlp"}, "--augment color: is for images"),
        ({"lr_critic": 0.0}, "--lr-critic 0.0: must be a number above 0"),
        ({"lr_decay": "fast"}, "--lr-decay fast: choose one of none, linear, cosine, cooldown"),
    ],
)
def test_settings_that_make_no_run_are_refused_by_flag(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(given, FACTS)
    assert message in str(error.value)


@pytest.mark.parametrize("size", [14, 16, 28, 31, 32, 56, 64, 112, 128, 224, 256])
def test_dcgan_takes_powers_of_two_and_sizes_just_under_one(size: int) -> None:
    padded = padded_size(size)
    assert padded is not None and padded & (padded - 1) == 0 and size <= padded <= size * 8 / 7
    resolve({"size": size}, FACTS)


@pytest.mark.parametrize("size", [1, 13, 17, 20, 27, 33, 47, 100, 255 - 32, 257])
def test_dcgan_takes_no_other_size(size: int) -> None:
    assert padded_size(size) is None


def test_a_fully_connected_network_takes_any_size() -> None:
    assert resolve({"size": 20, "arch": "mlp"}, FACTS)[0].shape == (1, 20, 20)


@pytest.mark.parametrize(
    ("side", "size"), [(1, 16), (16, 16), (27, 16), (28, 28), (29, 16), (32, 32), (63.5, 32), (64, 64), (4000, 64)]
)
def test_automatic_size(side: float, size: int) -> None:
    assert auto_size(side) == size


def test_a_config_survives_json_and_back() -> None:
    for variant in VARIANTS:
        config, _ = resolve({"variant": variant}, FACTS)
        assert TrainConfig.from_dict(config.as_dict()) == config
    config, _ = resolve({"lr_critic": 4e-4, "lr_decay": "cosine", "augment": ("cutout", "color")}, FACTS)
    assert config.as_dict()["augment"] == ["cutout", "color"]
    assert TrainConfig.from_dict(config.as_dict()) == config
    with pytest.raises(UsageError, match="unknown settings: depth"):
        TrainConfig.from_dict({"depth": 3})


def test_every_setting_that_is_a_number_has_a_range() -> None:
    """And each end of a range is refused or taken as the range says."""
    config, _ = resolve({"variant": "clip", "critic_norm": "none"}, FACTS)
    assert {f.name for f in fields(TrainConfig) if isinstance(f.default, int | float) and f.name != "flip"} <= {*RANGES}
    for name, (low, high, low_open, high_open) in RANGES.items():
        for end, is_open in ((low, low_open), (high, high_open)):
            if end is None or name == "size":
                continue
            assert RANGES[name].holds(end) != is_open
            settings: dict[str, Any] = {name: end}
            if is_open:
                with pytest.raises(UsageError, match=name.replace("_", "-")):
                    replace(config, **settings)
            else:
                replace(config, **settings)


def test_differences_leave_out_what_a_run_may_change() -> None:
    old, _ = resolve({}, FACTS)
    assert differences(old, replace(old, steps=7, log_every=1, save_every=1, keep=2, sample_every=3)) == []
    assert differences(old, replace(old, lr=1.0)) == [("lr", 1e-4, 1.0)]


@pytest.mark.parametrize(
    "given", [{"instance_noise": 0.1}, {"lr_decay": "linear"}, {"variant": "hinge"}, {"variant": "r3"}]
)
def test_what_ends_with_the_last_step_forbids_other_steps(given: dict[str, Any]) -> None:
    old, _ = resolve(given, FACTS)
    assert differences(old, replace(old, steps=7)) == [("steps", 100_000, 7)]


def test_a_cooldown_may_be_taken_back() -> None:
    old, _ = resolve({"lr_decay": "cooldown", "upsample": "blurred"}, FACTS)
    assert differences(old, replace(old, steps=7)) == []


def test_with_a_limit_of_time_the_fast_preset_takes_what_steps_there_are() -> None:
    config, origins = resolve({}, {"size": 28, "channels": 3}, "fast", timed=True)
    assert (config.steps, config.lr_decay, origins["steps"]) == (MOST_STEPS, "cooldown", "preset fast")
    assert config.upsample == "blurred" and config.by_time
    for ending in ({"lr_decay": "linear"}, {"instance_noise": 0.1}):  # which a time that nobody knows would cut
        assert resolve(ending, FACTS, "fast", timed=True)[0].steps == 10_000
        assert not resolve({**ending, "steps": MOST_STEPS}, FACTS)[0].by_time
    assert resolve({"steps": 50}, FACTS, "fast", timed=True) == resolve({"steps": 50}, FACTS, "fast")
    assert resolve({}, FACTS, timed=True) == resolve({}, FACTS)


def test_a_run_from_before_there_were_schedules_has_one_rate() -> None:
    config, _ = resolve({}, FACTS)
    old = {k: v for k, v in config.as_dict().items() if k not in ("lr_critic", "width_critic", "lr_decay", "augment")}
    assert TrainConfig.from_dict(old) == config
    assert (config.lr_critic, config.lr_decay, config.augment) == (None, "none", None)
