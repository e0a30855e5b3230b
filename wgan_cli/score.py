"""The critic's score of images: the higher, the more the critic holds an image for a real one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, groupby, islice, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import UsageError, WganError
from .config import TrainConfig
from .console import in_short
from .data.arrays import is_array, open_array, read_array
from .data.dataset import to_unit
from .data.decode import BadFile, Item, Read, read_file
from .data.pool import read_images
from .sample import CHUNK, class_number, generate, latents, part, spread

BATCH = 64


class Share(NamedTuple):
    """What is to be scored of the images of a list."""

    counts: list[int]  # images that each item of the list holds
    arrays: list[bool]  # whether it is an array
    wanted: range  # of all the images, by number


def share_of(items: Sequence[Item], shard: tuple[int, int] = (1, 1)) -> Share:
    """The i-th of n parts of the images, in whole batches, so that all parts give the very scores that one process
    gives."""
    kinds = {path: _kind(Path(path)) for path in dict.fromkeys(item.path for item in items)}
    counts = [kinds[item.path][1] for item in items]
    batches, total = part(math.ceil(sum(counts) / BATCH), shard), sum(counts)
    wanted = range(min(total, BATCH * batches.start), min(total, BATCH * batches.stop))
    return Share(counts, [kinds[item.path][0] for item in items], wanted)


def score_images(
    critic: nn.Module,
    config: TrainConfig,
    items: Sequence[Item],
    numbers: Mapping[Item, int] | None = None,
    share: Share | None = None,
) -> Iterator[tuple[str, np.float32 | BadFile, int]]:
    """(name, score, number of its class) of each image in order, prepared as in training; BadFile for one that cannot
    be read.

    numbers: of their classes, as `class_numbers` gives them. share: of the images, None: all. Decoding goes on in
    processes while the critic runs. Raises UsageError for a critic of points.
    """
    if not config.size:
        raise UsageError("this checkpoint was trained on a toy set of points, so its critic cannot score images")
    named = _read(config, items, share or share_of(items))
    while batch := list(islice(named, BATCH)):
        good = [(item, result.pixels) for item, _, result in batch if not isinstance(result, BadFile)]
        images = np.array([np.frombuffer(pixels, np.uint8) for _, pixels in good], np.uint8)
        images = images.reshape(-1, *config.sides, config.channels)
        y = torch.tensor([numbers[item] for item, _ in good]) if numbers else None
        scores = iter(_critic_scores(critic, to_unit(torch.from_numpy(images)), y) if good else ())
        for item, name, result in batch:
            yield name, result if isinstance(result, BadFile) else next(scores), numbers[item] if numbers else 0


def class_numbers(classes: Sequence[str], items: Sequence[Item], name: str | None) -> dict[Item, int]:
    """The class of each: `name`, else the folder that it is in. Empty where there are no classes.

    Raises UsageError for an item that is in no folder of a class.
    """
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
    return found


def _kind(path: Path) -> tuple[bool, int]:
    """Whether a path is an array, and the images that it holds; one of an array that cannot be read, which is told as
    one bad file."""
    if not is_array(path):
        return False, 1
    with suppress(WganError, OSError), open_array(path) as opened:
        return True, opened[2][0]
    return True, 1


def _read(config: TrainConfig, items: Sequence[Item], share: Share) -> Iterator[tuple[Item, str, Read | BadFile]]:
    """(item, name, what was read) of each wanted image; those of an array are named by their number."""
    read = partial(read_file, size=config.sides, channels=config.channels, fit=config.fit)
    starts, wanted = accumulate(share.counts, initial=0), share.wanted
    parts = [
        (item, is_one, range(max(0, wanted.start - start), min(count, wanted.stop - start)))
        for item, is_one, count, start in zip(items, share.arrays, share.counts, starts, strict=False)
    ]
    for arrays, group in groupby((entry for entry in parts if entry[2]), lambda entry: entry[1]):
        if not arrays:
            yield from ((item, item.name, result) for item, result in read_images([item for item, *_ in group], read))
            continue
        for item, _, places in group:
            try:
                _, results = read_array(Path(item.path), config.sides, config.channels, config.fit, places.start)
                for number, result in zip(places, results, strict=False):
                    yield item, f"{item.path}/{number}", result
            except WganError as error:
                yield item, item.path, BadFile(item.path, str(error).removeprefix(f"{item.path}: "))


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
    numbers: Sequence[int] = (),  # of classes, to draw samples of in proportion
) -> float:
    """The critic's mean score of `count` fresh samples."""
    y = spread(count, np.bincount(numbers) if len(numbers) else ())
    chunks = generate(generator, latents(seed, range(count), config.latent), y=y)
    labels: Iterable[Tensor | None] = repeat(None) if y is None else torch.from_numpy(y).split(CHUNK)
    scores = [_critic_scores(critic, samples, part) for samples, part in zip(chunks, labels, strict=False)]
    return float(np.concatenate(scores).mean(dtype=np.float64))
