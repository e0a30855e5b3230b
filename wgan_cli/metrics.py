"""Figures of two sets of samples: float tensors, images [N, C, H, W] in [-1, 1] or vectors [N, D]."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PATCH, PATCHES = 7, 128  # side of a patch in pixels, and patches of an image on each level
DIRECTIONS, AT_ONCE = 512, 32  # 4 x 128 in the authors' code; those projected on at a time
COARSEST = 14  # pixels; the paper's 16 where the size is a power of two, and a second level for 28
K, K_PRECISION = 5, 3  # neighbours, as in Naeem et al. 2020 and in Kynkäänniemi et al. 2019
CHUNK = 64  # images in a batch


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
    sides = level_sides(min(a.shape[2:]))  # the shorter ones
    distances = {}
    for level, side in enumerate(sides):
        of_a, of_b = (_patches(x, level, len(sides), seed) for x in (a, b))
        distances[side] = 1000 * sliced_wasserstein(of_a, of_b, seed)
    return distances


def level_sides(size: int) -> list[int]:
    half = (size + 1) // 2
    return [size, *(level_sides(half) if half >= COARSEST else ())]


def _patches(images: Tensor, level: int, levels: int, seed: int) -> Tensor:
    """[N · 128, C · 49] patches of a level of the pyramid, of which the last keeps the low frequencies."""
    rng = np.random.default_rng([seed, 1, level])
    cut = []
    for chunk in images.float().split(CHUNK):
        for _ in range(level):
            chunk = _shrink(chunk)
        if level + 1 < levels:
            chunk = chunk - _enlarge(_shrink(chunk), chunk.shape)
        side = min(PATCH, *chunk.shape[2:])
        windows = chunk.unfold(2, side, 1).unfold(3, side, 1)  # [n, C, places, places, side, side], a view
        high, wide = windows.shape[2:4]
        places = high if high == wide else [[[high]], [[wide]]]
        down, right = torch.from_numpy(rng.integers(places, size=(2, len(chunk), PATCHES)))
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


def nearness(a: Tensor, b: Tensor) -> tuple[float, float]:
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
