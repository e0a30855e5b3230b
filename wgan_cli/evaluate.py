"""How far samples are from held-out data: each figure beside the one that data give, and with its protocol.

Samples are rows of float tensors: images [N, C, H, W] in [-1, 1], or vectors [N, D].
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from . import DataError
from .config import TrainConfig
from .console import Console
from .data import Dataset, to_unit
from .sample import CHUNK, generate, latents, to_output

COUNT = 1000  # samples, unless asked for otherwise
PATCH, PATCHES = 7, 128  # side of a patch in pixels, and patches of an image on each level
DIRECTIONS, AT_ONCE = 512, 32  # 4 x 128 in the authors' code; those projected on at a time
COARSEST = 14  # pixels; the paper's 16 where the size is a power of two, and a second level for 28
K, K_PRECISION = 5, 3  # neighbours, as in Naeem et al. 2020 and in Kynkäänniemi et al. 2019


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
) -> Iterator[dict[str, Any]]:
    """A record for each figure: its value for samples, its value for data, and what they depend on.

    N rows of the data, drawn by the seed, are the reference. N samples are held against them, and so are N other rows
    of the data: what is reached at this N when nothing is left to learn. Samples are rounded to 8 bits, as in a file.
    Raises DataError where the data are too few, or the features not of use.
    """
    if count is None:
        count = min(COUNT, len(data) // 2)
    if count <= K or 2 * count > len(data):
        of_them = "" if data.chosen is None else " that were held out"
        raise DataError(
            f"--data holds {len(data)}{of_them}, too few for N {count}: it takes 2N, half to compare with and half to "
            f"show what data give, and N must be {K + 1} or more"
        )
    flatten: Callable[[Tensor], Tensor] = partial(torch.flatten, start_dim=1)
    embed, digest = load_features(features, next(generator.parameters()).device) if features else (flatten, "")
    rows = np.random.default_rng([seed, 2]).permutation(len(data))[: 2 * count]
    real, other = _unit(data.at(rows[:count])), _unit(data.at(rows[count:]))
    chunks = generate(generator, latents(seed, range(count), config.latent))
    images = [torch.cat([_unit(to_output(chunk)) for chunk in chunks]), other, real]
    vectors = [flatten(x) for x in images]
    protocol: dict[str, Any] = {"n": count, "seed": seed, "space": "pixels" if config.size else "points"}
    protocol |= {"shape": config.shape, "data_count": len(data), "data_fingerprint": data.fingerprint}

    if config.size:
        names = [f"swd_{side}" for side in _sides(config.size)]
        method = f"x1000, {PATCHES} patches an image of {PATCH}x{PATCH}, {DIRECTIONS} directions"
        pyramid = partial(pyramid_distances, seed=seed)
        yield from _compare(names, method, lambda a, b: [*pyramid(a, b).values()], images, protocol)
    else:
        sliced = partial(sliced_wasserstein, seed=seed)
        yield from _compare(["sliced_wasserstein"], f"{DIRECTIONS} directions", sliced, vectors, protocol)
    if importlib.util.find_spec("scipy"):
        yield from _compare(["wasserstein_1"], "Euclidean, exact", exact_wasserstein, vectors, protocol)
    else:
        console.notice("no wasserstein_1: it needs scipy, as in pip install 'wgan[evaluate]'")
    if features:
        vectors = [embed(x) for x in images]
        protocol |= {"space": "features", "features_fingerprint": digest}
        yield from _compare(["frechet_distance"], "of normal distributions", frechet, vectors, protocol)
        yield from _compare(["kernel_distance"], "cubic, unbiased, all pairs", kernel_distance, vectors, protocol)
        yield from _compare(["precision", "recall"], f"{K_PRECISION} neighbours", precision_recall, vectors, protocol)
    yield from _compare(["coverage", "density"], f"{K} neighbours", coverage_density, vectors, protocol)
    if train:
        near = nearest(torch.cat(vectors), (embed(x) for x in _all_rows(train, config.flip))).split(count)
        method = f"nearest of {len(train)} in {train.fingerprint}"
        protocol |= {"train_count": len(train), "train_fingerprint": train.fingerprint}
        yield from _compare(["train_distance", "train_nearer"], method, _nearness, near, protocol)


def parts(
    data: Dataset, train: Dataset | None, config: TrainConfig, fingerprint: str, console: Console
) -> tuple[Dataset, Dataset | None]:
    """What to compare with, and what was trained on: of the data of the run, its held-out part and the rest.

    fingerprint: of the data of the run. What is not of the run, or has no part held out, is taken whole.
    """
    if data.fingerprint == fingerprint:
        _, heldout = data.split(config.holdout, config.batch, config.seed)
        data = heldout or data
        console.notice(
            f"--data is what it was trained on: compared with the {len(data)} of it that were held out"
            if heldout
            else "--data is what it was trained on: copies of it would pass for perfect; hold images out"
        )
    if train and train.fingerprint == fingerprint:
        train, _ = train.split(config.holdout, config.batch, config.seed)
    elif train:
        console.notice("--train is not what this checkpoint was trained on")
    return data, train


def _compare(
    figures: Sequence[str],
    method: str,
    function: Callable[[Tensor, Tensor], Any],  # one value or several
    sets: Sequence[Tensor],  # samples, other data, and the data that both are compared with
    protocol: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    values = [np.atleast_1d(function(x, sets[2])).tolist() for x in sets[:2]]
    for figure, on_samples, on_data in zip(figures, *values, strict=True):
        yield {"figure": figure, "samples": on_samples, "data": on_data, "method": method, **protocol}


def _unit(rows: NDArray[Any]) -> Tensor:
    """Rows as a generator makes them: images [N, C, H, W] in [-1, 1], or points."""
    return to_unit(torch.from_numpy(rows)) if rows.dtype == np.uint8 else torch.from_numpy(rows)


def _all_rows(data: Dataset, flip: bool) -> Iterator[Tensor]:
    """Chunk by chunk, and mirrored ones too where these were trained on."""
    for start in range(0, len(data), 4 * CHUNK):
        rows = _unit(data.at(np.arange(start, min(start + 4 * CHUNK, len(data)))))
        yield torch.cat([rows, rows.flip(-1)]) if flip else rows


def load_features(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], str]:
    """The function of a TorchScript or torch.export file, images [N, C, H, W] in [-1, 1] → features [N, D]; its digest.

    The model gets float32 [64, C, H, W], the last batch filled up with zeros, and grey three times as red, green and
    blue. It returns one tensor [64, ...]. Such a file is a program: loading it and calling it runs what is in it.
    """
    name, content = f"--features {path}", path.read_bytes()
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
            if any(entry.endswith("/archive_format") for entry in archive.namelist()):
                model: Any = torch.export.load(BytesIO(content)).module().to(device)
            else:
                model = torch.jit.load(BytesIO(content), map_location=device).eval()
    except Exception as error:  # torch raises nearly everything on broken input
        raise DataError(f"{name}: not a TorchScript or torch.export model ({_reason(error)})") from None

    @torch.no_grad()
    def embed(images: Tensor) -> Tensor:
        images = images.repeat(1, 3, 1, 1) if images.shape[1] == 1 else images
        found = []
        for batch in images.split(CHUNK):
            full = F.pad(batch, (0,) * 7 + (CHUNK - len(batch),))
            try:
                rows = model(full.to(device))[: len(batch)].flatten(1).float().cpu()
            except Exception as error:  # whatever the model's own code raises
                raise DataError(f"{name}: fails on float32 {list(full.shape)} ({_reason(error)})") from None
            if len(rows) < len(batch) or not rows.isfinite().all():
                raise DataError(f"{name}: gives no finite row of features for each of {list(full.shape)}")
            found.append(rows)
        return torch.cat(found)

    return embed, hashlib.sha256(content).hexdigest()[:16]


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


# ---- Sliced Wasserstein distance


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Mean Wasserstein-1 distance of [N, D] and [N, D] projected on 512 random directions, in units of the data."""
    total = 0.0
    for few in _directions(a.shape[1], seed).split(AT_ONCE):
        # numpy sorts floats several times as fast as torch does
        lines = [np.sort((few @ points.float().T).numpy(), axis=1) for points in (a, b)]
        total += float(np.abs(lines[0] - lines[1]).mean(axis=1, dtype=np.float64).sum())
    return total / DIRECTIONS


def _directions(dimensions: int, seed: int) -> Tensor:
    """[512, D] vectors of length 1, uniform on the sphere."""
    normal = np.random.default_rng([seed, 0]).standard_normal((DIRECTIONS, dimensions))
    return F.normalize(torch.from_numpy(normal).float())


def pyramid_distances(a: Tensor, b: Tensor, seed: int = 0) -> dict[int, float]:
    """1000 times the sliced Wasserstein distance of patches, on each level of a Laplacian pyramid.

    a, b: images [N, C, H, W], as many of each, in [-1, 1] (the scale does not matter). The keys are the levels' sides:
    the full one, halved while it stays at least 14: 64, 32, 16, or 28, 14. Karras et al. 2018, section 5: 128 patches
    of 7 x 7 of each image, normalised by each set's own mean and deviation in each channel. Image i of both sets is
    cut at the same places, so that a set's distance to itself is 0.
    """
    sides = _sides(a.shape[2])
    distances = {}
    for level, side in enumerate(sides):
        of_a, of_b = (_patches(x, level, len(sides), seed) for x in (a, b))
        distances[side] = 1000 * sliced_wasserstein(of_a, of_b, seed)
    return distances


def _sides(size: int) -> list[int]:
    half = (size + 1) // 2
    return [size, *(_sides(half) if half >= COARSEST else ())]


def _patches(images: Tensor, level: int, levels: int, seed: int) -> Tensor:
    """[N · 128, C · 49] patches of a level of the pyramid, of which the last keeps the low frequencies."""
    rng = np.random.default_rng([seed, 1, level])
    cut = []
    for chunk in images.float().split(CHUNK):
        for _ in range(level):
            chunk = _shrink(chunk)
        if level + 1 < levels:
            chunk = chunk - _enlarge(_shrink(chunk), chunk.shape)
        side = min(PATCH, chunk.shape[2])
        windows = chunk.unfold(2, side, 1).unfold(3, side, 1)  # [n, C, places, places, side, side], a view
        down, right = torch.from_numpy(rng.integers(windows.shape[2], size=(2, len(chunk), PATCHES)))
        cut.append(windows[torch.arange(len(chunk))[:, None], :, down, right].flatten(0, 1))
    patches = torch.cat(cut)
    deviation, mean = torch.std_mean(patches, dim=(0, 2, 3), correction=0, keepdim=True)
    return patches.sub_(mean).div_(deviation.clamp_min(1e-8)).flatten(1)  # all alike: 0


def _shrink(images: Tensor) -> Tensor:
    """Half the side, rounded up, after a binomial filter of 5 x 5 (Burt and Adelson 1983)."""
    return _blur(images)[:, :, ::2, ::2]


def _enlarge(images: Tensor, shape: torch.Size) -> Tensor:
    spread = images.new_zeros(shape)
    spread[:, :, ::2, ::2] = images
    return 4 * _blur(spread)


def _blur(images: Tensor) -> Tensor:
    row = images.new_tensor([1, 4, 6, 4, 1]) / 16
    for kernel, pad in ((row.view(1, 1, 1, 5), (2, 2, 0, 0)), (row.view(1, 1, 5, 1), (0, 0, 2, 2))):
        padded = F.pad(images, pad, "reflect")
        images = F.conv2d(padded.flatten(0, 1)[:, None], kernel).view(images.shape)
    return images


# ---- Distances of vectors


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of [N, D] to [M, D], some rows [n, M] at a time.

    In float64: as a matrix product in float32, the distance of an image to its copy would not be near 0. What is left
    of it is rounding, which is another in each process, and becomes 0.
    """
    few = max(1, min(1024, 2**23 // a.shape[1]))  # 64 MB
    mode = "use_mm_for_euclid_dist"
    for rows in a.split(few):
        parts = [torch.cdist(rows.double(), part.double(), compute_mode=mode) for part in b.split(few)]
        rounding = 1e-6 * torch.linalg.vector_norm(rows.double(), dim=1, keepdim=True)
        found = torch.cat(parts, dim=1)
        yield found.masked_fill_(found < rounding, 0)


def exact_wasserstein(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance of the points [N, D] and [N, D], by the best matching of them (needs scipy).

    Of images in [-1, 1] this is the distance that the critic of `gp` estimates, its gradient having norm 1 in pixels.
    """
    from scipy.optimize import linear_sum_assignment

    costs = torch.cat(list(_distances(a, b))).numpy()
    return float(costs[linear_sum_assignment(costs)].mean())


def coverage_density(samples: Tensor, real: Tensor, k: int = K) -> tuple[float, float]:
    """Of [N, D] and [M, D] (Naeem et al. 2020, section 3).

    Coverage: the share of real points with a sample in their ball, which reaches to their k-th neighbour. Density: the
    mean number of balls that a sample lies in, over k.
    """
    inside = _inside(samples, real, k)
    return inside.any(dim=0).double().mean().item(), inside.sum(dim=1).double().mean().item() / k


def precision_recall(samples: Tensor, real: Tensor, k: int = K_PRECISION) -> tuple[float, float]:
    """Kynkäänniemi et al. 2019, equation 2: the share of samples in some ball of real points, and the reverse."""
    pairs = ((samples, real), (real, samples))
    precision, recall = (_inside(a, b, k).any(dim=1).double().mean().item() for a, b in pairs)
    return precision, recall


def _inside(points: Tensor, centres: Tensor, k: int) -> Tensor:
    """[N, M] of bool: which points lie in which centres' balls, that reach to the k-th nearest other centre."""
    radii = torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in _distances(centres, centres)])
    return torch.cat([rows <= radii for rows in _distances(points, centres)])


def nearest(points: Tensor, chunks: Iterable[Tensor]) -> Tensor:
    """[N]: the distance of each of [N, D] to the nearest of all rows of the chunks [m, D]."""
    best = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for chunk in chunks:
        best = torch.minimum(best, torch.cat([rows.amin(dim=1) for rows in _distances(points, chunk)]))
    return best


def _nearness(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Of distances [N] and [N]: the median of a, and the share of pairs in which a is less, ties counted half.

    The share tells copies (Meehan et al. 2020): 0.5 where samples are as near to what was trained on as other data.
    """
    less = (a[:, None] < b).double().mean() + (a[:, None] <= b).double().mean()
    return a.quantile(0.5).item(), less.item() / 2


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Fréchet distance of normal distributions with the means and covariances of [N, D] and [M, D].

    |μ - ν|² + tr(S + T - 2 (S T)^½) (Heusel et al. 2017, equation 6): FID if the features are Inception's. With
    S = RᵀR and T = QᵀQ the root's trace is the sum of the singular values of R Qᵀ, so that no root is drawn of a
    singular matrix, which S is where N ≤ D.
    """
    a, b = a.double(), b.double()
    roots = [torch.linalg.qr((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5, mode="r").R for x in (a, b)]
    traces = sum(root.square().sum() for root in roots)
    gap = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return (gap + traces - 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum()).item()


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared MMD of [N, D] and [M, D] under (x·y / D + 1)³ (Bińkowski et al. 2018): KID with Inception's.

    Over all pairs, where others take the mean over random subsets.
    """

    def total(x: Tensor, y: Tensor) -> float:
        return sum(kernel(rows @ y.T).sum().item() for rows in x.split(1024))

    def kernel(products: Tensor) -> Tensor:
        return (products / a.shape[1] + 1) ** 3

    def within(x: Tensor) -> float:
        return (total(x, x) - kernel(x.square().sum(dim=1)).sum().item()) / (len(x) * (len(x) - 1))

    a, b = a.double(), b.double()
    return within(a) + within(b) - 2 * total(a, b) / (len(a) * len(b))
