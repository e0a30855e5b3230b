"""How far samples are from held-out data: each figure beside the one that data give, and with its protocol.

Samples are rows of float tensors: images [N, C, H, W] in [-1, 1], or vectors [N, D].
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import DataError, metrics, reason
from .config import TrainConfig
from .console import Console
from .data.arrays import image_shape, open_array
from .data.dataset import Dataset, unit
from .data.decode import native_channels, open_file, open_image
from .data.seen import Seen
from .data.source import Source
from .sample import CHUNK, generate, latents, spread, to_output

COUNT = 1000  # samples, unless asked for otherwise
FEW = 100  # samples, under which figures scatter widely
MATCHED = 10_000  # points that are matched exactly: a table of 0.8 GB, and of 20 GB for 50,000


def evaluate(
    generator: nn.Module,
    config: TrainConfig,
    data: Dataset,
    console: Console,
    *,
    count: int | None = None,  # N; by default 1000, or half of the data
    seed: int = 0,
    features: Path | None = None,  # a TorchScript or torch.export model
    train: Dataset | None = None,
    class_counts: Sequence[int] = (),  # of the classes to draw samples of: as many of each in proportion
) -> Iterator[dict[str, Any]]:
    """A record for each figure: its value for samples, its value for data, which way is better, and what it depends on.

    N rows of the data, drawn by the seed, are the reference. N samples are held against them, and so are N other rows
    of the data: what is reached at this N when nothing is left to learn. Samples are rounded to 8 bits, as in a file.
    Raises DataError where the data are too few, or the features not of use.
    """
    if count is None:
        count = min(COUNT, len(data) // 2)
    if count <= metrics.K or 2 * count > len(data):
        of_them = "" if data.chosen is None else " that were held out"
        raise DataError(
            f"--data holds {len(data)}{of_them}, too few for N {count}: it takes 2N, half to compare with and half to "
            f"show what data give, and N must be {metrics.K + 1} or more"
        )
    flatten: Callable[[Tensor], Tensor] = partial(torch.flatten, start_dim=1)
    if count < FEW:
        console.notice(f"N {count} says little: under {FEW}, figures scatter widely; give more images")
    embed, digest = load_features(features, next(generator.parameters()).device) if features else (flatten, "")
    rows = np.random.default_rng([seed, 2]).permutation(len(data))[: 2 * count]
    stored = data.at(rows)
    if (different := len({row.tobytes() for row in stored})) < count:
        console.notice(f"--data repeats itself: {different} different of {2 * count}, so the column `data` says little")
    real, other = (unit(torch.from_numpy(part)) for part in (stored[:count], stored[count:]))
    chunks = generate(generator, latents(seed, range(count), config.latent), y=spread(count, class_counts))
    images = [torch.cat([unit(torch.from_numpy(to_output(chunk))) for chunk in chunks]), other, real]
    vectors = [flatten(x) for x in images]
    protocol: dict[str, Any] = {"n": count, "seed": seed, "space": "pixels" if config.size else "points"}
    protocol |= {"shape": config.shape, "data_count": len(data), "data_fingerprint": data.fingerprint}

    def compare(
        method: str,
        function: Callable[[Tensor, Tensor], Any],  # one value or several
        sets: Sequence[Tensor],  # samples, other data, and the data that both are compared with
        **figures: str,  # and which way is better
    ) -> Iterator[dict[str, Any]]:
        values = [np.atleast_1d(function(x, sets[2])).tolist() for x in sets[:2]]
        for (figure, better), on_samples, on_data in zip(figures.items(), *values, strict=True):
            record = {"figure": figure, "samples": on_samples, "data": on_data, "better": better, "method": method}
            yield record | protocol

    directions = f"{metrics.DIRECTIONS} directions"
    if config.size:
        method = f"x1000, {metrics.PATCHES} patches an image of {metrics.PATCH}x{metrics.PATCH}, {directions}"
        sides = {f"swd_{side}": "lower" for side in metrics.level_sides(min(config.sides))}
        yield from compare(method, lambda a, b: [*metrics.pyramid_distances(a, b, seed).values()], images, **sides)
    else:
        sliced = partial(metrics.sliced_wasserstein, seed=seed)
        yield from compare(directions, sliced, vectors, sliced_wasserstein="lower")
    if not importlib.util.find_spec("scipy"):
        console.notice("no wasserstein_1: it needs scipy, as in pip install 'wgan[evaluate]'")
    elif count > MATCHED:
        console.notice(
            f"no wasserstein_1: matching {count} points takes {8e-9 * count**2:.1f} GB, and time as the cube of N; "
            f"-n {MATCHED} gives it"
        )
    else:
        yield from compare("Euclidean, exact", metrics.exact_wasserstein, vectors, wasserstein_1="lower")
    if features:
        vectors = [embed(x) for x in images]
        protocol |= {"space": "features", "features_fingerprint": digest}
        yield from compare("of normal distributions", metrics.frechet, vectors, frechet_distance="lower")
        yield from compare("cubic, unbiased, all pairs", metrics.kernel_distance, vectors, kernel_distance="lower")
        method = f"{metrics.K_PRECISION} neighbours"
        yield from compare(method, metrics.precision_recall, vectors, precision="higher", recall="higher")
    method = f"{metrics.K} neighbours"
    yield from compare(method, metrics.coverage_density, vectors, coverage="higher", density="as data")
    if train:
        near = metrics.nearest(torch.cat(vectors), (embed(x) for x in _all_rows(train, config.flip))).split(count)
        method = f"nearest of {len(train)} in {train.fingerprint}"
        protocol |= {"train_count": len(train), "train_fingerprint": train.fingerprint}
        yield from compare(method, metrics.nearness, near, train_distance="as data", train_nearer="near 0.5")


def parts(data: Dataset, train: Dataset | None, seen: Seen, console: Console) -> tuple[Dataset, Dataset | None]:
    """What to compare with, and what was trained on.

    seen: what the checkpoint tells of the data of its run. No sample that was trained on is compared with, unless
    there is no other. Every case is told.
    """
    trained, held = seen.sides(data)
    whole = seen.is_of(data)
    if whole and not held.any():
        console.notice("--data is what it was trained on: copies of it would pass for perfect; hold images out")
    elif trained.all():
        console.notice("all of --data was trained on: copies of it would pass for perfect; take other images")
    elif whole:
        console.notice(f"--data is what it was trained on: compared with the {held.sum()} of it that were held out")
        data = data.part(held)
    elif trained.any() or held.any():
        console.notice(
            f"compared with {(~trained).sum()} of the {len(data)} in --data: {held.sum()} were held out of the run, "
            f"{trained.sum()} were trained on and are left out"
        )
        data = data.part(~trained) if trained.any() else data
    elif seen.contents is None:
        console.notice("--data is not what it was trained on, or not as a whole: this checkpoint does not tell images")
    else:
        console.notice(f"compared with the {len(data)} in --data, of which the run knows none")
    if train is not None:
        trained, _ = seen.sides(train)
        if not trained.any():
            console.notice("--train is not what this checkpoint was trained on")
        elif not trained.all():
            train = train.part(trained)
            console.notice(f"of --train the {len(train)} that it was trained on")
    return data, train


def native_shape(source: Source) -> tuple[int, ...]:
    """(C, H, W) of the first image that can be read, as it is stored; () of none."""
    if source.array:
        with open_array(source.array) as (_, _, shape):
            height, width, channels = image_shape(shape)
            return channels, height, width
    for item in source.items:
        # Decoders raise nearly everything on broken input.
        with suppress(Exception), open_file(item) as file, open_image(file) as image:
            return native_channels(image), image.height, image.width
    return ()


def _all_rows(data: Dataset, flip: bool) -> Iterator[Tensor]:
    """Chunk by chunk, and mirrored ones too where these were trained on."""
    for start in range(0, len(data), 4 * CHUNK):
        rows = unit(torch.from_numpy(data.at(np.arange(start, min(start + 4 * CHUNK, len(data))))))
        yield torch.cat([rows, rows.flip(-1)]) if flip else rows


def load_features(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], str]:
    """The function of a TorchScript or torch.export file, images [N, C, H, W] in [-1, 1] → features [N, D]; its digest.

    The model gets float32 [64, C, H, W], the last batch filled up with zeros, and grey three times as red, green and
    blue. It returns one tensor [64, ...]. Such a file is a program: loading it and calling it runs what is in it.
    """
    name, content = f"--features {path}", path.read_bytes()
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive, warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning):  # of TorchScript; the latter since torch 2.15
                warnings.simplefilter("ignore", category)
            if any(entry.endswith("/archive_format") for entry in archive.namelist()):
                model: Any = torch.export.load(BytesIO(content)).module().to(device)
            else:
                model = torch.jit.load(BytesIO(content), map_location=device).eval()
    except Exception as error:  # torch raises nearly everything on broken input
        raise DataError(f"{name}: not a TorchScript or torch.export model ({reason(error, -1)})") from None

    @torch.no_grad()
    def embed(images: Tensor) -> Tensor:
        images = images.repeat(1, 3, 1, 1) if images.shape[1] == 1 else images
        found = []
        for batch in images.split(CHUNK):
            full = F.pad(batch, (0,) * 7 + (CHUNK - len(batch),))
            try:
                rows = model(full.to(device))[: len(batch)].flatten(1).float().cpu()
            except Exception as error:  # whatever the model's own code raises
                raise DataError(f"{name}: fails on float32 {list(full.shape)} ({reason(error, -1)})") from None
            if len(rows) < len(batch) or not rows.isfinite().all():
                raise DataError(f"{name}: gives no finite row of features for each of {list(full.shape)}")
            found.append(rows)
        return torch.cat(found)

    return embed, hashlib.sha256(content).hexdigest()[:16]
