"""Features of images by a model in a file, and those of data in the cache: they are computed once."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from . import DataError, reason
from .console import Console
from .data.cache import cache_folder
from .data.dataset import Dataset, unit
from .data.source import digest
from .files import replacing
from .sample import CHUNK

FEATURES_VERSION = 1  # to be raised when the same model would be given other values
HEAD = 32  # bytes of SHA-256 before the features


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


def features_of(
    data: Dataset,
    places: NDArray[np.int64],
    embed: Callable[[Tensor], Tensor],
    model: str,  # digest of the model
    device: torch.device,
    console: Console,
    mirrored: bool = False,
) -> NDArray[np.float32]:
    """[n, D] features of these rows of the data, mapped from a file in the cache, which is made where there is none.

    The file's name follows from the pixels, the rows, the model and where it computes; the digest of the features
    stands before them. A file that is damaged is made anew. The same features to the last bit, from the file or not.
    """
    rows = places if data.chosen is None else data.chosen[places]
    of_rows = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
    shape, where = data.rows.shape[1:], [device.type, str(torch.__version__)]
    key = digest([[FEATURES_VERSION, data.pixels, shape, of_rows, model, mirrored, *where]])
    path = cache_folder() / f"{key}.features"
    if not _is_whole(path, len(places)):
        with replacing(path) as file:
            file.write(bytes(HEAD))
            written = hashlib.sha256()
            for start in range(0, len(places), CHUNK):
                images = unit(torch.from_numpy(data.at(places[start : start + CHUNK])))
                content = embed(images.flip(-1) if mirrored else images).numpy().astype("<f4").tobytes()
                written.update(content)
                file.write(content)
                console.progress("features of data", min(start + CHUNK, len(places)), len(places))
            file.seek(0)
            file.write(written.digest())
    return np.memmap(path, "<f4", "r", HEAD).reshape(len(places), -1)


def _is_whole(path: Path, count: int) -> bool:
    """Whether a file holds features of so many rows, and what was written."""
    try:
        size = path.stat().st_size - HEAD
        with open(path, "rb") as file:
            expected, found = file.read(HEAD), hashlib.sha256()
            while block := file.read(1 << 20):
                found.update(block)
    except OSError:
        return False
    return size > 0 and size % (4 * count) == 0 and found.digest() == expected
