"""How far samples are from held-out data: each figure beside the one that data give, and with its protocol.

Samples are rows of float tensors: images [N, C, H, W] in [-1, 1], or vectors [N, D].
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import DataError, UsageError, WganError, metrics
from .config import TrainConfig
from .console import Console
from .data.cache import cache_folder
from .data.dataset import Dataset, unit
from .features import features_of
from .rows import Lazy, Rows, chunks, kept, mapped
from .sample import CHUNK, generate, latents, spread, to_output

COUNT = 1000  # samples, unless asked for otherwise
FEW = 100  # samples, under which figures scatter widely
MATCHED = 10_000  # points that are matched exactly: a table of 0.8 GB, and of 20 GB for 50,000
TOLD = 1 << 30  # bytes on the disk that are told
NOISE, LEAST = 2, 3  # deviations that a difference has to exceed, and repeats that tell a deviation


class Run(NamedTuple):
    """Whose samples are compared: a checkpoint under the name that was typed."""

    name: str
    generator: nn.Module
    config: TrainConfig
    class_counts: Sequence[int] = ()  # of the classes to draw samples of: as many of each in proportion


class Task(NamedTuple):
    """What a comparison gets, in the space of it: images, vectors, or features."""

    sets: Sequence[Rows]  # samples of each run, and other data
    real: Rows  # the data that all of them are compared with
    trained: Sequence[Rows]  # what was trained on, and mirrored where images were
    seed: int
    tell: metrics.Tell  # called with the share of the comparison that is done


Measure = Callable[[Task], Sequence[Any]]  # of each set a value, or one for each figure


class Comparison(NamedTuple):
    """Figures that are computed together."""

    group: str  # what else they are called in `--figures`, if anything
    better: dict[str, str]  # of each figure: lower, higher, as data, near 0.5
    method: str
    measure: Measure
    space: str = "vectors"  # or images, or features, or whichever of these and vectors there is
    needs: str = ""  # a flag, or scipy
    wanted: frozenset[str] = frozenset()  # the figures to tell


def comparisons(config: TrainConfig) -> list[Comparison]:
    """All there are for samples of this kind."""
    directions, features = f"{metrics.DIRECTIONS} directions", ("features", "--features")
    if config.size:
        method = f"x1000, {metrics.PATCHES} patches an image of {metrics.PATCH}x{metrics.PATCH}, {directions}"
        sides = metrics.level_sides(min(config.sides))
        sliced = [
            Comparison("swd", {f"swd_{side}": "lower"}, method, partial(_level, level), "images")
            for level, side in enumerate(sides)
        ]
    else:
        sliced = [Comparison("swd", dict(sliced_wasserstein="lower"), directions, _sliced)]
    normal, pairs, exact = "of normal distributions", "cubic, unbiased, all pairs", "Euclidean, exact"
    balls, few_balls = f"{metrics.K} neighbours", f"{metrics.K_PRECISION} neighbours"
    nearest = "nearest of {train_count} in {train_fingerprint}"
    of_precision = dict(precision="higher", recall="higher")
    of_coverage = dict(coverage="higher", density="as data")
    of_train = dict(train_distance="as data", train_nearer="near 0.5")
    return [
        *sliced,
        Comparison("wasserstein", dict(wasserstein_1="lower"), exact, _exact, needs="scipy"),
        Comparison("fid", dict(frechet_distance="lower"), normal, _each(metrics.frechet_each), *features),
        Comparison("kid", dict(kernel_distance="lower"), pairs, _each(metrics.kernel_each), *features),
        Comparison("", of_precision, few_balls, _each(metrics.precision_each), *features),
        Comparison("", of_coverage, balls, _each(metrics.coverage_each), "either"),
        Comparison("train", of_train, nearest, _nearness, "either", "--train"),
    ]


def _each(function: Callable[[Sequence[Rows], Rows], Sequence[Any]]) -> Measure:
    return lambda task: function(task.sets, task.real)


def _level(level: int, task: Task) -> list[float]:
    return metrics.level_each(task.sets, task.real, level, task.seed, tell=task.tell)


def _sliced(task: Task) -> list[float]:
    return metrics.sliced_each(task.sets, task.real, task.seed, tell=task.tell)


def _exact(task: Task) -> list[float]:
    return [metrics.exact_wasserstein(points, task.real) for points in task.sets]


def _nearness(task: Task) -> list[tuple[float, float]]:
    """Of each set to what was trained on, beside the data that the sets are compared with."""
    *near, of_real = (
        torch.stack([metrics.nearest(points, rows) for rows in task.trained]).amin(dim=0)
        for points in (*task.sets, task.real)
    )
    return [metrics.nearness(of_set, of_real) for of_set in near]


def chosen(config: TrainConfig, names: Sequence[str], given: Sequence[str]) -> list[Comparison]:
    """The comparisons behind figures or groups of these names; behind all that can be computed if there are none.

    given: what there is of what comparisons need. UsageError for a name that is none, or that needs what is not given.
    """
    all_of, found = comparisons(config), []
    known = dict.fromkeys(name for c in all_of for name in (c.group, *c.better) if name)
    if strange := [name for name in names if name not in known]:
        kind = f"images of {min(config.sides)} pixels" if config.size else "points"
        raise UsageError(f"--figures {strange[0]}: no such figure; of {kind} there are {', '.join(known)}")
    for comparison in all_of:
        wanted = frozenset(f for f in comparison.better if not names or {f, comparison.group} & set(names))
        there = comparison.needs in ("", *given)
        if names and wanted and not there:
            how = ": pip install 'wgan[evaluate]'" if comparison.needs == "scipy" else ""
            raise UsageError(f"--figures {','.join(names)}: {', '.join(sorted(wanted))} needs {comparison.needs}{how}")
        if wanted and there:
            found.append(comparison._replace(wanted=wanted))
    return found


def evaluate(
    runs: Sequence[Run],  # of one shape
    data: Dataset,
    console: Console,
    plan: Sequence[Comparison],
    *,
    count: int | None = None,  # N; by default 1000, or half of the data
    seed: int = 0,
    repeats: int = 1,
    features: tuple[Callable[[Tensor], Tensor], str] | None = None,  # as of `load_features`
    train: Dataset | None = None,
    by_name: bool = False,  # the plan is what was asked for, whatever memory it takes
) -> Iterator[list[dict[str, Any]]]:
    """For each figure a record of each run: its value for samples, its value for data, each the mean over the repeats
    with the standard deviation; which way is better; and what it depends on.

    N rows of the data, drawn by the seed, are the reference. N samples are held against them, and so are N other rows
    of the data: what is reached at this N when nothing is left to learn. Samples are rounded to 8 bits, as in a file.
    A repeat draws rows, samples and directions by the next seed.
    Raises DataError where the data are too few, or the features not of use.
    """
    config, device = runs[0].config, next(runs[0].generator.parameters()).device
    count = min(COUNT, len(data) // 2) if count is None else count
    _check_count(data, count, len(runs), console)
    plan = [c for c in plan if c.group != "wasserstein" or _can_match(count, by_name, console)]
    _check_space(config, count, len(runs), plan, console)
    splits = [np.random.default_rng([seed + i, 2]).permutation(len(data))[: 2 * count] for i in range(repeats)]
    _tell_copies(data, splits[0], count, console)
    real_space = "pixels" if config.size else "points"
    protocol = {"n": count, "seed": seed, "space": real_space, "shape": config.shape}
    protocol |= {"data_count": len(data), "data_fingerprint": data.fingerprint}
    (embed, digest), trained = features or (None, ""), list[Lazy]()
    if embed:
        used = np.unique(np.concatenate(splits))
        of_data = features_of(data, used, embed, digest, device, console)
    if train and plan[-1].group == "train":
        for mirrored in (False, True)[: 1 + config.flip]:
            places = np.arange(len(train))
            if embed:
                trained.append(_taken(features_of(train, places, embed, digest, device, console, mirrored), places))
            else:
                rows = mapped(_at(train, places), _mirrored) if mirrored else _at(train, places)
                trained.append(mapped(rows, _vectors))
    found: dict[str, list[list[float]]] = {}
    for number, split in enumerate(splits):
        images = [_drawn(run, count, seed + number, console) for run in runs]
        spaces: dict[str, list[Rows]] = {"images": [*images, _at(data, split[count:]), _at(data, split[:count])]}
        spaces["vectors"] = [mapped(rows, _vectors) for rows in spaces["images"]]
        if embed:
            of_samples = [
                kept(_counted("features", (embed(chunk).numpy() for chunk in chunks(rows, CHUNK)), count, console))
                for rows in images
            ]
            of_halves = [_taken(of_data, np.searchsorted(used, half)) for half in (split[count:], split[:count])]
            spaces["features"] = [*of_samples, *of_halves]
        for place, comparison in enumerate(plan):
            space = comparison.space
            if space == "either":
                space = "features" if embed else "vectors"
            *sets, real = spaces[space]
            tell = partial(_compared, number * len(plan) + place, repeats * len(plan), console)
            values = np.array(comparison.measure(Task(sets, real, trained, seed + number, tell)), np.float64)
            tell(1.0)
            for column, (figure, better) in enumerate(comparison.better.items()):
                if figure not in comparison.wanted:
                    continue
                found.setdefault(figure, []).append(values.reshape(len(sets), -1)[:, column].tolist())
                if number + 1 == repeats:
                    of_figure = protocol.copy()
                    if space == "features":
                        of_figure |= {"space": space, "features_fingerprint": digest}
                    if train and comparison.group == "train":
                        of_figure |= {"train_count": len(train), "train_fingerprint": train.fingerprint}
                    method = comparison.method.format(**of_figure)
                    yield _records(runs, figure, better, method, np.array(found[figure]), of_figure)


def _records(
    runs: Sequence[Run], figure: str, better: str, method: str, values: NDArray[np.float64], protocol: dict[str, Any]
) -> list[dict[str, Any]]:
    """Of values [repeats, runs + 1]: the last are those of data."""
    repeats = len(values)
    *means, on_data = values.mean(axis=0).tolist()
    *deviations, of_data = values.std(axis=0, ddof=1).tolist() if repeats > 1 else [None] * (len(runs) + 1)
    return [
        {"figure": figure, "samples": mean, "data": on_data, "better": better, "method": method}
        | protocol
        | {"samples_std": deviation, "data_std": of_data, "repeats": repeats, "checkpoint": run.name}
        for run, mean, deviation in zip(runs, means, deviations, strict=True)
    ]


def _drawn(run: Run, count: int, seed: int, console: Console) -> Lazy:
    rows = latents(seed, range(count), run.config.latent)
    drawn = generate(run.generator, rows, y=spread(count, run.class_counts))
    return mapped(kept(_counted("drawing samples", map(to_output, drawn), count, console)), unit)


def _counted(label: str, parts: Iterable[NDArray[Any]], total: int, console: Console) -> Iterator[NDArray[Any]]:
    done = 0
    for part in parts:
        yield part
        done += len(part)
        console.progress(label, done, total)


def _compared(before: int, total: int, console: Console, share: float) -> None:
    """In hundredths: one comparison may take minutes."""
    console.progress("comparing", int(100 * (before + share) / total), 100)


def _at(data: Dataset, places: NDArray[np.int64]) -> Lazy:
    return Lazy(len(places), lambda start, stop: unit(torch.from_numpy(data.at(places[start:stop]))))


def _taken(features: NDArray[np.float32], places: NDArray[np.int64]) -> Lazy:
    return Lazy(len(places), lambda start, stop: torch.from_numpy(np.asarray(features[places[start:stop]])))


def _mirrored(images: Tensor) -> Tensor:
    return images.flip(-1)


def _vectors(rows: Tensor) -> Tensor:
    return rows.flatten(start_dim=1)


def _check_count(data: Dataset, count: int, runs: int, console: Console) -> None:
    if count <= metrics.K or 2 * count > len(data):
        which = " that were held out" if runs == 1 else " that no checkpoint was trained on"
        of_them = "" if data.chosen is None else which
        raise DataError(
            f"--data holds {len(data)}{of_them}, too few for N {count}: it takes 2N, half to compare with and half to "
            f"show what data give, and N must be {metrics.K + 1} or more"
        )
    if count < FEW:
        advice = "take a larger -n" if len(data) >= 2 * FEW else "give more of them"
        console.notice(f"N {count} says little: under {FEW}, figures scatter widely; {advice}")


def _can_match(count: int, by_name: bool, console: Console) -> bool:
    """Whether to match exactly. What it takes is told."""
    takes = f"matching {count} points takes {8e-9 * count**2:.1f} GB, and time as the cube of N"
    if count > MATCHED and not by_name:
        console.notice(f"no wasserstein_1: {takes}; -n {MATCHED} gives it, and so does --figures wasserstein")
    elif count > MATCHED:
        console.notice(f"wasserstein_1: {takes}")
    return by_name or count <= MATCHED


def _check_space(config: TrainConfig, count: int, runs: int, plan: Sequence[Comparison], console: Console) -> None:
    """WganError where the disk has no room for samples and patches."""
    takes = runs * count * math.prod(config.shape)
    if config.size and any(comparison.group == "swd" for comparison in plan):
        takes += (runs + 3) * count * metrics.PATCHES * metrics.PATCH**2 * config.shape[0] * 4
    if takes > TOLD:
        folder, told = cache_folder(), f"{takes / 1e9:.1f} GB while it runs"
        if takes > (free := shutil.disk_usage(folder).free):
            raise WganError(f"{folder}: {free / 1e9:.1f} GB are free, and -n {count} takes {told}; take a smaller N")
        console.notice(f"{folder} holds up to {told}")


def _tell_copies(data: Dataset, places: NDArray[np.int64], count: int, console: Console) -> None:
    different = set()
    for start in range(0, len(places), CHUNK):
        different |= {hashlib.sha256(row.tobytes()).digest()[:16] for row in data.at(places[start : start + CHUNK])}
    if len(different) < count:
        console.notice(
            f"--data repeats itself: {len(different)} different of {2 * count}, so the column `data` says little"
        )


def marks(records: Sequence[dict[str, Any]]) -> list[str]:
    """Of the records of one figure: `*` for the best, `**` if it is better than the next beyond noise, else nothing.

    Beyond noise: their means, or their distances to what they should be, differ by more than NOISE times the root of
    the sum of both squared standard deviations, which are over LEAST repeats or more.
    """
    losses = [
        {"lower": value, "higher": -value, "as data": abs(value - r["data"]), "near 0.5": abs(value - 0.5)}[r["better"]]
        for r in records
        for value in [r["samples"]]
    ]
    first, *others = sorted(range(len(records)), key=losses.__getitem__)
    if not others:
        return [""]
    clear = False
    if records[0]["repeats"] >= LEAST:
        noise = math.hypot(records[first]["samples_std"], records[others[0]]["samples_std"])
        clear = losses[others[0]] - losses[first] > NOISE * noise
    return [("**" if clear else "*") if loss == losses[first] else "" for loss in losses]
