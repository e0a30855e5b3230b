"""The critic's score of images: the higher, the more the critic holds an image for a real one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import UsageError, WganError
from .config import TrainConfig
from .console import in_short
from .data.arrays import is_array, read_array
from .data.dataset import to_unit
from .data.decode import BadFile, Item, Pixels, Read, read_file
from .data.pool import read_images
from .sample import class_number, generate, latents, spread

BATCH = 64


def score_images(
    critic: nn.Module, config: TrainConfig, items: Sequence[Item], class_name: str | None = None
) -> Iterator[tuple[str, np.float32 | BadFile]]:
    """(name, score) of each item in order, images prepared as in training; BadFile for one that cannot be read.

    class_name: of all images; by default the name of the folder that each is in, where the critic knows classes.
    Decoding goes on in processes while the critic runs. Raises UsageError for a critic of points, or an image without
    a class.
    """
    if not config.size:
        raise UsageError("this checkpoint was trained on a toy set of points, so its critic cannot score images")
    numbers = _class_numbers(config.classes, items, class_name)
    waiting: list[tuple[str, Pixels | BadFile, int | None]] = []
    for item, name, result in _read(config, items):
        waiting.append((name, result, numbers[item] if numbers else None))
        if len(waiting) == BATCH:
            yield from _score(critic, waiting)
            waiting = []
    yield from _score(critic, waiting)


def _class_numbers(classes: Sequence[str], items: Sequence[Item], name: str | None) -> dict[Item, int] | None:
    """The class of each: `name`, else the folder that it is in. None where there are no classes."""
    if name is not None:
        return dict.fromkeys(items, class_number(classes, name))
    known, found = {name: number for number, name in enumerate(classes)}, {}
    for item in items if classes else ():
        folders = os.path.dirname(item.name).replace(os.sep, "/").split("/")
        names = ("/".join(folders[first:]) for first in range(len(folders)))  # a class may be a/b
        number = next((known[name] for name in names if name in known), None)
        if number is None:
            raise UsageError(
                f"{item.name}: in no folder with the name of a class ({in_short(classes)}); give its class by --class"
            )
        found[item] = number
    return found or None


def _read(config: TrainConfig, items: Sequence[Item]) -> Iterator[tuple[Item, str, Pixels | BadFile]]:
    """(item, name, pixels) of each image; those of an array are named by their number."""
    shape = (config.size, config.size, config.channels)
    result: Any
    for arrays, part in groupby(items, lambda item: is_array(Path(item.path))):
        for item, name, result in _array_results(part, config) if arrays else _image_results(part, config):
            bad = isinstance(result, BadFile)
            yield item, name, result if bad else np.frombuffer(result.pixels, np.uint8).reshape(shape)


def _image_results(items: Iterable[Item], config: TrainConfig) -> Iterator[tuple[Item, str, Read | BadFile]]:
    read = partial(read_file, size=config.size, channels=config.channels, fit=config.fit)
    return ((item, item.name, result) for item, result in read_images(list(items), read))


def _array_results(items: Iterable[Item], config: TrainConfig) -> Iterator[tuple[Item, str, Read | BadFile]]:
    for item in items:
        try:
            _, results = read_array(Path(item.path), config.size, config.channels, config.fit)
            for number, result in enumerate(results):
                yield item, f"{item.path}/{number}", result
        except WganError as error:
            yield item, item.path, BadFile(item.path, str(error).removeprefix(f"{item.path}: "))


def _score(
    critic: nn.Module, batch: Sequence[tuple[str, Pixels | BadFile, int | None]]
) -> Iterator[tuple[str, np.float32 | BadFile]]:
    good = [(pixels, number) for _, pixels, number in batch if not isinstance(pixels, BadFile)]
    scores: Iterator[np.float32] = iter(())
    if good:
        images, numbers = zip(*good, strict=True)
        y = None if numbers[0] is None else torch.tensor(numbers)
        scores = iter(_critic_scores(critic, to_unit(torch.from_numpy(np.stack(images))), y))
    for name, result, _ in batch:
        yield name, result if isinstance(result, BadFile) else next(scores)


@torch.inference_mode()
def _critic_scores(critic: nn.Module, samples: Tensor, y: Tensor | None) -> np.ndarray:
    device = next(critic.parameters()).device
    return critic(samples.to(device), None if y is None else y.to(device)).float().cpu().numpy()


def mean_on_samples(
    critic: nn.Module,
    generator: nn.Module,
    config: TrainConfig,
    count: int,
    seed: int,
    items: Sequence[Item] = (),
    class_name: str | None = None,
) -> float:
    """The critic's mean score of `count` fresh samples, of the classes that `score_images` finds the items in."""
    numbers = _class_numbers(config.classes, items, class_name) or {}
    y = spread(count, np.bincount([*numbers.values()], minlength=1) if numbers else ())
    rows, done, total = latents(seed, range(count), config.latent), 0, []
    for samples in generate(generator, rows, y=y):
        labels = None if y is None else torch.from_numpy(y[done : done + len(samples)])
        total.append(_critic_scores(critic, samples, labels))
        done += len(samples)
    return float(np.concatenate(total).mean(dtype=np.float64))
