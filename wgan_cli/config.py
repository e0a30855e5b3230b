"""What a training run is: every setting, where its default comes from, and what is refused.

The names are those of the flags and of the keys in config.json and in the checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from . import UsageError
from .augment import OPERATIONS
from .console import in_pixels
from .networks import ARCHITECTURES
from .variants import VARIANTS, Variant

ARCHS = tuple(ARCHITECTURES)
OPTIMIZERS = ("adam", "rmsprop", "sgd")
FITS = ("crop", "pad", "stretch")
PRECISIONS = ("fp32", "tf32", "bf16", "auto")
LABELS = ("none", "folders", "file")
CRITIC_NORMS = ("none", "batch", "layer")
GENERATOR_NORMS = ("batch", "self")
DECAYS = ("none", "linear", "cosine", "cooldown")
UPSAMPLES = ("transposed", "nearest", "blurred")


MOST_STEPS = 10**9  # of a run that ends by time


class Range(NamedTuple):
    """The numbers that a setting may be: from `low` to `high`, or where open between them."""

    low: int | float
    high: int | float | None = None
    low_open: bool = False
    high_open: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int)

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        over = self.low < value if self.low_open else self.low <= value
        under = self.high is None or (value < self.high if self.high_open else value <= self.high)
        return over and under and (self.whole or abs(value) <= sys.float_info.max)  # neither NaN nor infinite

    def __str__(self) -> str:
        kind, form = ("whole number", "d") if self.whole else ("number", "g")
        end = "" if self.high is None else f" to {'below ' if self.high_open else ''}{self.high:{form}}"
        return f"a {kind} {'above' if self.low_open else 'from'} {self.low:{form}}{end}"


# Of each setting that is a number; the flags refuse what is outside of it, and so does TrainConfig.
RANGES: Mapping[str, Range] = {
    "size": Range(1, 256),
    "channels": Range(1),
    "holdout": Range(0.0, 0.5),
    "steps": Range(1, MOST_STEPS - 1),
    "begun": Range(0),
    "batch": Range(1),
    "micro_batch": Range(1),
    "latent": Range(1),
    "palette": Range(0),
    "width": Range(1),
    "width_critic": Range(1),
    "n_critic": Range(1),
    "critic_warmup": Range(0),
    "lr": Range(0.0, low_open=True),
    "lr_critic": Range(0.0, low_open=True),
    "clip": Range(0.0, low_open=True),
    "gp_weight": Range(0.0, low_open=True),
    "instance_noise": Range(0.0),
    "ema": Range(0.0, 1.0, high_open=True),
    "seed": Range(0, 2**63 - 1),
    "log_every": Range(1),
    "save_every": Range(1),
    "keep": Range(0),
    "sample_every": Range(1),
}
MAY_BE_NONE = ("width_critic", "micro_batch", "lr_critic", "clip", "gp_weight", "palette")
_OF_DCGAN = {  # settings of its generator, and why another architecture has none
    "upsample": "has one way to double a side, if any",
    "generator_norm": "has one norm in its generator, if any",
    "palette": "mixes no colours",
}
NO_FLAG = ("classes", "begun")  # settings that follow from the data and from the run
BETA = Range(0.0, 1.0, high_open=True)
WARM, WARM_EVERY = 25, 500  # generator steps, in the code of Arjovsky et al. 2017

# What an optimizer needs where the variant's paper used another one: torch's defaults.
_OPTIMIZER_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"adam": {"betas": (0.9, 0.999)}}


def _fast(images: Mapping[str, Any], timed: bool) -> Mapping[str, Any]:
    """Beyond the papers: what reaches good samples soonest on two cores of a CPU (docs/speed.md)."""
    settings = {"latent": 16, "width": 24, "batch": 32, "lr": 1.5e-3, "n_critic": 1, "ema": 0.99}
    in_colour = {"generator_norm": "self", "batch": 16, "gp_weight": 1.0, "lr_decay": "cooldown"}
    in_colour |= {"width": 40, "width_critic": 16}
    in_colour |= {"upsample": "blurred", "palette": 8} if images.get("drawn", True) else {"upsample": "nearest"}
    of_colour = in_colour if images["channels"] > 1 else {}
    steps = MOST_STEPS if timed and not _ends({**settings, **of_colour, **images}) else 10_000
    return {**settings, **of_colour, "steps": steps, "precision": "auto"}


def _ends(settings: Mapping[str, Any]) -> bool:
    """Whether what changes over a run ends with its last step, so that it is another run under another --steps."""
    return bool(
        settings.get("instance_noise")
        or settings.get("lr_decay") in ("linear", "cosine")
        or VARIANTS[settings["variant"]].schedule
    )


# What a preset sets for images of `size` and `channels`, `drawn` or not, and for a run with a limit of time.
PRESETS: Mapping[str, Callable[[Mapping[str, Any], bool], Mapping[str, Any]]] = {
    "paper": lambda images, timed: {},
    "fast": _fast,
}
FAST_FOR = {"variant": "gp", "arch": "dcgan"}


def _may_change(default: Any) -> Any:
    """A setting that a run can be continued with a new value of, since it does not change a step."""
    return field(default=default, metadata={"may_change": True})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a run, validated. A setting that the variant or the optimizer does not use is None."""

    variant: str = "gp"
    arch: str = "dcgan"
    size: int | tuple[int, int] = 64  # side of square images, or (width, height), in pixels; 0: samples are points
    channels: int = 3  # of an image, or coordinates of a point
    fit: str = "crop"
    flip: bool = False
    labels: str = "none"  # where the classes come from
    classes: tuple[str, ...] = ()  # their names, from the data
    holdout: float = 0.05  # share of the samples that is kept from training
    steps: int = _may_change(100_000)  # generator updates; CIFAR-10's length in Gulrajani et al. 2017
    begun: int = _may_change(0)  # the step that a cooldown and a blur are counted from: where a run went on for longer
    batch: int = 64
    micro_batch: int | None = _may_change(None)  # samples that gradients are taken of at a time; None: of all
    latent: int = 100
    width: int = 64
    width_critic: int | None = None  # None: that of width
    n_critic: int = 5
    critic_warmup: int = 0  # critic steps before the generator's first WARM steps and each WARM_EVERY-th; 0: n_critic
    optimizer: str = "adam"
    lr: float = 1e-4
    lr_critic: float | None = None  # None: that of lr
    lr_decay: str = "none"  # of both rates, to 0 over the steps
    betas: tuple[float, float] | None = None
    clip: float | None = None
    gp_weight: float | None = None
    critic_norm: str = "none"
    augment: tuple[str, ...] | None = None  # of augment.OPERATIONS, in their order
    upsample: str | None = "transposed"  # how the dcgan's generator doubles a side
    generator_norm: str | None = "batch"  # of the dcgan's generator; self: scaled and shifted by the latent
    palette: int | None = 0  # colours of an image that the dcgan's generator mixes with a pixel's own
    instance_noise: float = 0.0  # standard deviation at the first step, falling to 0 at the last
    ema: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    log_every: int = _may_change(10)
    save_every: int = _may_change(500)
    keep: int = _may_change(0)
    sample_every: int = _may_change(500)

    @property
    def record(self) -> Variant:
        return VARIANTS[self.variant]

    @property
    def by_time(self) -> bool:
        """Whether a limit of time sets the steps."""
        return self.steps == MOST_STEPS and not _ends(vars(self))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (C, H, W), or (D,) for points."""
        return (self.channels, *self.sides) if self.size else (self.channels,)

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of an image."""
        return (self.size, self.size) if isinstance(self.size, int) else (self.size[1], self.size[0])

    def critic_steps(self, step: int) -> int:
        """Before the generator's step after `step` others."""
        warm = self.critic_warmup and (step < WARM or step % WARM_EVERY == 0)
        return self.critic_warmup if warm else self.n_critic

    def batches_before(self, step: int) -> int:
        """Of real data, one a critic step, that the first `step` generator steps take: the sum of `critic_steps`."""
        warm = min(step, WARM) + max(0, step - 1) // WARM_EVERY
        return self.n_critic * step + (self.critic_warmup and self.critic_warmup - self.n_critic) * warm

    def __post_init__(self) -> None:
        choices = {
            "variant": tuple(VARIANTS),
            "arch": ARCHS,
            "optimizer": OPTIMIZERS,
            "fit": FITS,
            "labels": LABELS,
            "precision": PRECISIONS[:-1],  # auto is resolved before
            "critic_norm": CRITIC_NORMS,
            "lr_decay": DECAYS,
            "upsample": (*UPSAMPLES, None),
            "generator_norm": (*GENERATOR_NORMS, None),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{flag(name)} {getattr(self, name)}: choose one of {', '.join(filter(None, allowed))}"
                )
        for name, numbers in RANGES.items():
            value = getattr(self, name)
            unused = (name, value) in (("size", 0), ("steps", MOST_STEPS)) or (name in MAY_BE_NONE and value is None)
            of_two = name == "size" and isinstance(value, tuple) and len(value) == 2
            if not unused and not all(map(numbers.holds, value if of_two else [value])):
                raise UsageError(f"{flag(name)} {in_pixels(value)}: must be {numbers}")
        if self.betas is not None and not (len(self.betas) == 2 and all(map(BETA.holds, self.betas))):
            raise UsageError(f"--betas {self.betas}: must be two, each {BETA}, as in 0.5,0.9")
        if not all(isinstance(name, str) for name in self.classes) or len(set(self.classes)) < len(self.classes):
            raise UsageError(f"classes {self.classes}: must be names, each another")
        if self.augment is not None:
            told = f"--augment {','.join(map(str, self.augment))}"
            if not self.augment or len({*self.augment} & {*OPERATIONS}) != len(self.augment):
                raise UsageError(f"{told}: choose from {', '.join(OPERATIONS)}, each once, with commas between")
            if not self.size:
                raise UsageError(f"{told}: is for images, and these samples are points; leave the flag out")
        if 0 < self.critic_warmup < self.n_critic:
            raise UsageError(f"--critic-warmup {self.critic_warmup}: must be 0, or at least --n-critic {self.n_critic}")
        if reason := ARCHITECTURES[self.arch].refusal(*self.sides):
            raise UsageError(reason)
        if self.critic_norm != "none" and self.arch == "r3":
            raise UsageError(f"--critic-norm {self.critic_norm}: --arch r3 has no norm in its critic; leave it out")
        if self.critic_norm == "batch" and self.record.penalties:
            raise UsageError(
                f"--critic-norm batch: variant {self.variant} penalises the gradient of each sample by itself, "
                "and batch norm mixes the samples of a batch (Gulrajani et al. 2017, section 4); use none or layer"
            )
        if self.critic_norm == "batch" and self.arch == "mlp" and self.batch == 1:
            raise UsageError("--batch 1: batch norm in the critic of an mlp needs samples to compare; take 2 or more")
        if self.critic_norm == "batch" and self.micro_batch is not None:
            raise UsageError(
                f"--micro-batch {self.micro_batch}: the critic has batch norm, which mixes all samples of a batch; "
                "leave the flag out, or give --critic-norm none or layer"
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and for the checkpoint."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `as_dict`. UsageError for values that do not make a run."""
        if unknown := set(values) - {f.name for f in fields(cls)}:
            raise UsageError(f"unknown settings: {', '.join(sorted(map(str, unknown)))}")
        tuples = {
            k: tuple(values[k])
            for k in ("size", "betas", "augment", "classes")
            if values.get(k) is not None and not isinstance(values[k], int)
        }
        # Of runs from before there were these settings: none were held out, and a dcgan was DCGAN's, as here.
        unused = {} if values.get("arch", "dcgan") == "dcgan" else dict.fromkeys(_OF_DCGAN)
        return cls(**{"holdout": 0.0, **unused, **values, **tuples})


def resolve(
    given: Mapping[str, Any],
    facts: Mapping[str, Any],
    preset: str = "paper",
    native_precision: str = "fp32",
    timed: bool = False,
) -> tuple[TrainConfig, dict[str, str]]:
    """The config of a run, and for each setting where its value comes from.

    given: the settings that the user chose. facts: those that follow from the data, unless chosen; and whether the
    images are `drawn`, as `probe` says, which a preset goes by.
    native_precision: what `auto` means on this machine. timed: the run has a limit of time.
    Precedence: given, the data (of points architecture and latent too), the preset, the architecture, the variant's
    paper, the optimizer, TrainConfig's defaults.
    Raises UsageError for a setting that the variant or the optimizer does not use.
    """
    general = {f.name: f.default for f in fields(TrainConfig)}
    # Points need a generator without convolutions, whatever the default is.
    points = {"arch": "mlp", "latent": 2} if facts.get("size") == 0 else {}
    variant = given.get("variant", general["variant"])
    arch = given.get("arch", points.get("arch", general["arch"]))
    if preset == "fast" and FAST_FOR != {"variant": variant, "arch": arch}:
        why = "is for images" if points else "found for --variant gp and --arch dcgan"
        raise UsageError(f"--preset fast: {why}; leave it out{'' if points else ', or these'}")
    paper = VARIANTS[variant].defaults
    optimizer = given.get("optimizer", paper["optimizer"])
    if optimizer != paper["optimizer"]:
        paper = {k: v for k, v in paper.items() if k != "betas"}
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("default", general),
        (f"optimizer {optimizer}", _OPTIMIZER_DEFAULTS.get(optimizer, {})),
        (f"variant {variant}", paper),
        (f"arch {arch}", ARCHITECTURES[arch].DEFAULTS),
        (f"preset {preset}", PRESETS[preset]({**general, **facts, **given}, timed)),
        ("data", {**{name: value for name, value in facts.items() if name != "drawn"}, **points}),
        ("given", given),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        for name, value in layer.items():
            values[name], origins[name] = value, origin
    if values["precision"] == "auto":
        values["precision"] = native_precision
    record = VARIANTS[variant]
    unused = {
        "clip": None if record.constraint == "clip" else f"variant {variant} does not clip weights",
        "gp_weight": None if record.penalties else f"variant {variant} has no gradient penalty",
        "betas": None if optimizer == "adam" else f"optimizer {optimizer} has no betas",
        **{name: None if arch == "dcgan" else f"arch {arch} {why}" for name, why in _OF_DCGAN.items()},
    }
    for name, reason in unused.items():
        if reason and name in given:
            other = "variant" if name in ("clip", "gp_weight") else "optimizer" if name == "betas" else "architecture"
            raise UsageError(f"{flag(name)} {given[name]}: {reason}; leave the flag out or choose another {other}")
        if reason:
            values[name], origins[name] = None, "not used"
    return TrainConfig(**values), origins


def differences(old: TrainConfig, new: TrainConfig) -> list[tuple[str, Any, Any]]:
    """The settings, with both values, that forbid to continue the run `old` as `new`."""
    fixed = {f.name for f in fields(TrainConfig) if not f.metadata.get("may_change")}
    if _ends(vars(new)):
        fixed.add("steps")
    pairs = [(f.name, getattr(old, f.name), getattr(new, f.name)) for f in fields(TrainConfig) if f.name in fixed]
    return [(name, in_pixels(before), in_pixels(now)) for name, before, now in pairs if before != now]


def flag(name: str) -> str:
    """As errors name a setting."""
    return name if name in NO_FLAG else "--" + name.replace("_", "-")
