"""The critic's score of images: the higher, the more the critic holds an image for a real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import UsageError, WganError
from .config import TrainConfig
from .data.arrays import is_array, read_array
from .data.dataset import to_unit
from .data.decode import BadFile, Item, Read, read_file
from .data.pool import read_images
from .sample import generate, latents

BATCH = 64


def score_images(
    critic: nn.Module, config: TrainConfig, items: Sequence[Item]
) -> Iterator[tuple[str, np.float32 | BadFile]]:
    """(name, score) of each item in order, images prepared as in training; BadFile for one that cannot be read.

    Decoding goes on in processes while the critic runs. Raises UsageError for a critic of points.
    """
    if not config.size:
        raise UsageError("this checkpoint was trained on a toy set of points, so its critic cannot score images")
    named = _read(config, items)
    while batch := list(islice(named, BATCH)):
        pixels = [np.frombuffer(result.pixels, np.uint8) for _, result in batch if not isinstance(result, BadFile)]
        images = np.array(pixels, np.uint8).reshape(-1, config.size, config.size, config.channels)
        scores = iter(_critic_scores(critic, to_unit(torch.from_numpy(images))) if pixels else ())
        for name, result in batch:
            yield name, result if isinstance(result, BadFile) else next(scores)


def _read(config: TrainConfig, items: Sequence[Item]) -> Iterator[tuple[str, Read | BadFile]]:
    """(name, what was read) of each image; those of an array are named by their number."""
    read = partial(read_file, size=config.size, channels=config.channels, fit=config.fit)
    for arrays, part in groupby(items, lambda item: is_array(Path(item.path))):
        if not arrays:
            yield from ((item.name, result) for item, result in read_images(list(part), read))
            continue
        for item in part:
            try:
                _, results = read_array(Path(item.path), config.size, config.channels, config.fit)
                for number, result in enumerate(results):
                    yield f"{item.path}/{number}", result
            except WganError as error:
                yield item.path, BadFile(item.path, str(error).removeprefix(f"{item.path}: "))


@torch.inference_mode()
def _critic_scores(critic: nn.Module, samples: Tensor) -> np.ndarray:
    device = next(critic.parameters()).device
    return critic(samples.to(device)).float().cpu().numpy()


def mean_on_samples(critic: nn.Module, generator: nn.Module, config: TrainConfig, count: int, seed: int) -> float:
    """The critic's mean score of `count` fresh samples."""
    rows = latents(seed, range(count), config.latent)
    chunks = [_critic_scores(critic, samples) for samples in generate(generator, rows)]
    return float(np.concatenate(chunks).mean(dtype=np.float64))
