"""Figures of two sets of samples: images [N, C, H, W] in [-1, 1] or vectors [N, D].

A set is a float tensor, or any other `Rows`: slices alone are asked for, so that a set need not fit into memory. The
functions whose names end in `_each` compare several sets with one, and compute once what is that one's part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .rows import Lazy, Rows, chunks, kept, mapped

PATCH, PATCHES = 7, 128  # side of a patch in pixels, and patches of an image on each level
DIRECTIONS, AT_ONCE = 512, 32  # 4 x 128 in the authors' code; those projected on at a time
COARSEST = 14  # pixels; the paper's 16 where the size is a power of two, and a second level for 28
K, K_PRECISION = 5, 3  # neighbours, as in Naeem et al. 2020 and in Kynkäänniemi et al. 2019
CHUNK = 64  # images in a batch
Tell = Callable[[float], None]  # called with the share of the work that is done
BLOCK = 2**23  # float64 values that are computed on at a time: 64 MB


def sliced_wasserstein(a: Rows, b: Rows, seed: int = 0) -> float:
    """Mean Wasserstein-1 distance of [N, D] and [N, D] projected on 512 random directions, in units of the data."""
    return sliced_each([a], b, seed)[0]


def sliced_each(
    sets: Sequence[Rows], real: Rows, seed: int = 0, directions: int = DIRECTIONS, tell: Tell = lambda share: None
) -> list[float]:
    totals, done = [0.0] * len(sets), 0
    few = max(1, min(AT_ONCE, 32 * BLOCK // len(real)))
    for some in _directions(real[:1].shape[1], seed, directions).split(few):
        on_real = _lines(real, some)
        for number, points in enumerate(sets):
            totals[number] += _gaps(_lines(points, some), on_real)
        del on_real  # before the next are made
        done += len(some)
        tell(done / directions)
    return [total / directions for total in totals]


def _lines(points: Rows, directions: Tensor) -> NDArray[np.float32]:
    """[d, N]: the points [N, D] on each of the directions [d, D], in order."""
    lines = np.empty((len(directions), len(points)), np.float32)
    done = 0
    for chunk in chunks(points, max(1, 2 * BLOCK // directions.shape[1])):
        lines[:, done : done + len(chunk)] = directions @ chunk.float().T
        done += len(chunk)
    lines.sort(axis=1)  # numpy sorts floats several times as fast as torch does
    return lines


def _gaps(lines: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """The mean distances of lines [d, N] and [d, N], all d of them added up."""
    return sum(float(np.abs(a - b).mean(dtype=np.float64)) for a, b in zip(lines, others, strict=True))


def _directions(dimensions: int, seed: int, count: int = DIRECTIONS) -> Tensor:
    """[count, D] vectors of length 1, uniform on the sphere."""
    normal = np.random.default_rng([seed, 0]).standard_normal((count, dimensions))
    return F.normalize(torch.from_numpy(normal).float())


def pyramid_distances(
    a: Rows, b: Rows, seed: int = 0, patches: int = PATCHES, directions: int = DIRECTIONS
) -> dict[int, float]:
    """1000 times the sliced Wasserstein distance of patches, on each level of a Laplacian pyramid.

    a, b: images [N, C, H, W], as many of each, in [-1, 1] (the scale does not matter). The keys are the levels' sides:
    the full one, halved while it stays at least 14: 64, 32, 16, or 28, 14. Karras et al. 2018, section 5: 128 patches
    of 7 x 7 of each image, normalised by each set's own mean and deviation in each channel. Image i of both sets is
    cut at the same places, so that a set's distance to itself is 0.
    """
    sides = level_sides(min(b[:1].shape[2:]))  # the shorter ones
    return {side: level_each([a], b, level, seed, patches, directions)[0] for level, side in enumerate(sides)}


def level_each(
    sets: Sequence[Rows],
    real: Rows,
    level: int,
    seed: int = 0,
    patches: int = PATCHES,  # of an image
    directions: int = DIRECTIONS,
    tell: Tell = lambda share: None,
) -> list[float]:
    """The distances of one level, 0 the finest; about half of the time goes into cutting patches."""
    found = []
    for images in (*sets, real):
        found.append(_patches(images, level, seed, patches))
        tell(len(found) / (len(sets) + 1) / 2)
    *of_sets, of_real = found
    return [
        1000 * value for value in sliced_each(of_sets, of_real, seed, directions, lambda share: tell((1 + share) / 2))
    ]


def level_sides(size: int) -> list[int]:
    half = (size + 1) // 2
    return [size, *(level_sides(half) if half >= COARSEST else ())]


def _patches(images: Rows, level: int, seed: int, each: int = PATCHES) -> Lazy:
    """[N · each, C · 49] patches of a level of the pyramid, of which the last keeps the low frequencies."""
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())

    def counted(patches: Tensor) -> NDArray[np.float32]:
        """As they are, when mean and squares, the sum of squares around it, know them (Chan et al. 1979)."""
        nonlocal count, mean, squares
        wide, more = patches.double(), patches[:, 0].numel()
        own = wide.mean(dim=(0, 2, 3), keepdim=True)
        gap = own - mean
        squares = squares + (wide - own).square().sum(dim=(0, 2, 3), keepdim=True)
        squares, mean = squares + gap**2 * (count * more / (count + more)), mean + gap * (more / (count + more))
        count += more
        return patches.numpy()

    raw = kept(map(counted, _cut(images, level, seed, each)))
    shift, scale = mean.float(), (squares / count).sqrt().float().clamp_min(1e-8)  # all alike: 0
    normalised = mapped(raw, lambda patches: patches.sub_(shift).div_(scale).flatten(1))
    return kept(part.numpy() for part in chunks(normalised, CHUNK * PATCHES))


def _cut(images: Rows, level: int, seed: int, each: int = PATCHES) -> Iterator[Tensor]:
    """Patches [n · each, C, 7, 7] of n images."""
    rng = np.random.default_rng([seed, 1, level])
    last = level + 1 == len(level_sides(min(images[:1].shape[2:])))
    for chunk in chunks(images, CHUNK):
        chunk = chunk.float()
        for _ in range(level):
            chunk = _shrink(chunk)
        if not last:
            chunk = chunk - _enlarge(_shrink(chunk), chunk.shape)
        side = min(PATCH, *chunk.shape[2:])
        windows = chunk.unfold(2, side, 1).unfold(3, side, 1)  # [n, C, places, places, side, side], a view
        high, wide = windows.shape[2:4]
        places = high if high == wide else [[[high]], [[wide]]]
        down, right = torch.from_numpy(rng.integers(places, size=(2, len(chunk), each)))
        yield windows[torch.arange(len(chunk))[:, None], :, down, right].flatten(0, 1)


def _shrink(images: Tensor) -> Tensor:
    """Half the side, rounded up, after a binomial filter of 5 x 5 (Burt and Adelson 1983)."""
    return _blur(images)[:, :, ::2, ::2]


def _enlarge(images: Tensor, shape: torch.Size) -> Tensor:
    spread = images.new_zeros(shape)
    spread[:, :, ::2, ::2] = images
    return 4 * _blur(spread)


def _blur(images: Tensor) -> Tensor:
    """By 1, 4, 6, 4, 1 sixteenths along each side. Sums of slices take a fifth of the time of a convolution."""
    for axis, pad in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded = F.pad(images, pad, "reflect")
        a, b, c, d, e = (padded.narrow(axis, start, images.shape[axis]) for start in range(5))
        images = (a + e).add_(b + d, alpha=4).add_(c, alpha=6).div_(16)
    return images


def _distances(a: Rows, b: Rows) -> Iterator[Tensor]:
    """Euclidean distances of [N, D] to [M, D], some rows [n, M] at a time.

    In float64: as a matrix product in float32, the distance of an image to its copy would not be near 0. What is left
    of it is rounding, which is another in each process, and becomes 0.
    """
    width = b[:1].shape[1]
    for rows in chunks(a, max(1, min(1024, 8 * BLOCK // width, 2 * BLOCK // len(b)))):
        rows = rows.double()
        own, done = rows.square().sum(dim=1, keepdim=True), 0
        found = torch.empty(len(rows), len(b), dtype=torch.float64)
        for part in chunks(b, _few(b)):
            part = part.double()
            squares = torch.addmm(part.square().sum(dim=1), rows, part.T, alpha=-2).add_(own)
            found[:, done : done + len(part)] = squares.clamp_min_(0).sqrt_()
            done += len(part)
        yield found.masked_fill_(found < 1e-6 * own.sqrt(), 0)


def _few(points: Rows) -> int:
    """How many of [N, D] make a block."""
    return max(1, min(1024, BLOCK // points[:1].shape[1]))


def exact_wasserstein(a: Rows, b: Rows) -> float:
    """Wasserstein-1 distance of the points [N, D] and [N, D], by the best matching of them (needs scipy).

    Of images in [-1, 1] this is the distance that the critic of `gp` estimates, its gradient having norm 1 in pixels.
    The matching takes 8 N² bytes, and time as the cube of N.
    """
    from scipy.optimize import linear_sum_assignment

    costs, done = np.empty((len(a), len(b))), 0
    for rows in _distances(a, b):
        costs[done : done + len(rows)] = rows
        done += len(rows)
    return float(costs[linear_sum_assignment(costs)].mean())


def radii(centres: Rows, k: int) -> Tensor:
    """[M]: from each of [M, D] to the k-th nearest other."""
    return torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in _distances(centres, centres)])


def coverage_density(samples: Rows, real: Rows, k: int = K) -> tuple[float, float]:
    """Of [N, D] and [M, D] (Naeem et al. 2020, section 3).

    Coverage: the share of real points with a sample in their ball, which reaches to their k-th neighbour. Density: the
    mean number of balls that a sample lies in, over k.
    """
    return coverage_each([samples], real, k)[0]


def coverage_each(sets: Sequence[Rows], real: Rows, k: int = K) -> list[tuple[float, float]]:
    reach, found = radii(real, k), []
    for samples in sets:
        covered, balls = torch.zeros(len(real), dtype=torch.bool), 0
        for rows in _distances(samples, real):
            inside = rows <= reach
            covered |= inside.any(dim=0)
            balls += int(inside.sum())
        found.append((covered.double().mean().item(), balls / len(samples) / k))
    return found


def precision_recall(samples: Rows, real: Rows, k: int = K_PRECISION) -> tuple[float, float]:
    """Kynkäänniemi et al. 2019, equation 2: the share of samples in some ball of real points, and the reverse."""
    return precision_each([samples], real, k)[0]


def precision_each(sets: Sequence[Rows], real: Rows, k: int = K_PRECISION) -> list[tuple[float, float]]:
    reach = radii(real, k)
    return [(_share(samples, real, reach), _share(real, samples, radii(samples, k))) for samples in sets]


def _share(points: Rows, centres: Rows, reach: Tensor) -> float:
    """Of the points, the share that lies in the ball of some centre."""
    return torch.cat([(rows <= reach).any(dim=1) for rows in _distances(points, centres)]).double().mean().item()


def nearest(points: Rows, rows: Rows) -> Tensor:
    """[N]: the distance of each of [N, D] to the nearest of [M, D]."""
    return torch.cat([distances.amin(dim=1) for distances in _distances(points, rows)])


def nearness(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Of distances [N] and [M]: the median of a, and the share of pairs in which a is less, ties counted half.

    The share tells copies (Meehan et al. 2020): 0.5 where samples are as near to what was trained on as other data.
    """
    ordered = b.sort().values
    more, as_many = (len(b) - torch.searchsorted(ordered, a.contiguous(), right=right) for right in (True, False))
    return a.quantile(0.5).item(), (more + as_many).double().mean().item() / (2 * len(b))


def frechet(a: Rows, b: Rows) -> float:
    """Squared Fréchet distance of normal distributions with the means and covariances of [N, D] and [M, D].

    |μ - ν|² + tr(S + T - 2 (S T)^½) (Heusel et al. 2017, equation 6): FID if the features are Inception's. With
    S = RᵀR and T = QᵀQ the root's trace is the sum of the singular values of R Qᵀ, so that no root is drawn of a
    singular matrix, which S is where N ≤ D.
    """
    return frechet_each([a], b)[0]


def frechet_each(sets: Sequence[Rows], real: Rows) -> list[float]:
    found = []
    mean, root = _normal(real)
    for own, factor in map(_normal, sets):
        traces = factor.square().sum() + root.square().sum() - 2 * torch.linalg.svdvals(factor @ root.T).sum()
        found.append(((own - mean).square().sum() + traces).item())
    return found


def _normal(points: Rows) -> tuple[Tensor, Tensor]:
    """The mean [D] of [N, D], and R [min(N, D), D] of which RᵀR is the covariance: a QR decomposition, row by row."""
    width = points[:1].shape[1]
    step, root = max(1024, 2 * width), torch.zeros(0, width, dtype=torch.float64)
    mean = torch.stack([chunk.double().sum(dim=0) for chunk in chunks(points, step)]).sum(dim=0) / len(points)
    for chunk in chunks(points, step):
        centred = (chunk.double() - mean) / (len(points) - 1) ** 0.5
        root = torch.linalg.qr(torch.cat([root, centred]), mode="r").R
    return mean, root


def kernel_distance(a: Rows, b: Rows) -> float:
    """Unbiased squared MMD of [N, D] and [M, D] under (x·y / D + 1)³ (Bińkowski et al. 2018): KID with Inception's.

    Over all pairs, where others take the mean over random subsets.
    """
    return kernel_each([a], b)[0]


def kernel_each(sets: Sequence[Rows], real: Rows) -> list[float]:
    within = _within(real)
    return [_within(a) + within - 2 * _total(a, real) / (len(a) * len(real)) for a in sets]


def _within(x: Rows) -> float:
    """The mean over all pairs of two different ones."""
    twice = sum(_kernel(rows.double().square().sum(dim=1), rows.shape[1]) for rows in chunks(x, _few(x)))
    return (_total(x, x) - twice) / (len(x) * (len(x) - 1))


def _total(x: Rows, y: Rows) -> float:
    width, few = y[:1].shape[1], _few(y)
    return sum(
        _kernel(rows @ part.double().T, width) for rows in map(Tensor.double, chunks(x, few)) for part in chunks(y, few)
    )


def _kernel(products: Tensor, width: int) -> float:
    return ((products / width + 1) ** 3).sum().item()
