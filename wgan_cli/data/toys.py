"""The toy sets of Gulrajani et al. 2017, section 3.1; sizes and scales of the authors' code."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

TOY_POINTS = 100_000


def toy_points(name: str) -> NDArray[np.float32]:
    """[N, 2] points, the same at every call."""
    return TOYS[name](np.random.default_rng(0)).astype(np.float32)


def _eight_gaussians(rng: np.random.Generator) -> NDArray[np.float64]:
    """Eight Gaussians, σ 0.02, on a circle of radius 2; all divided by √2."""
    angles = rng.integers(8, size=TOY_POINTS) * (math.pi / 4)
    centres = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (centres + 0.02 * rng.standard_normal((TOY_POINTS, 2))) / math.sqrt(2)


def _twenty_five_gaussians(rng: np.random.Generator) -> NDArray[np.float64]:
    """Twenty-five Gaussians, σ 0.05, on a 5 by 5 grid of step 2; all divided by 2√2."""
    centres = 2.0 * rng.integers(-2, 3, size=(TOY_POINTS, 2))
    return (centres + 0.05 * rng.standard_normal((TOY_POINTS, 2))) / (2 * math.sqrt(2))


def _swiss_roll(rng: np.random.Generator) -> NDArray[np.float64]:
    """(t cos t, t sin t), t uniform from 1.5π to 4.5π, σ 0.25; all divided by 7.5."""
    t = 1.5 * math.pi * (1 + 2 * rng.random(TOY_POINTS))
    roll = np.stack([t * np.cos(t), t * np.sin(t)], axis=1)
    return (roll + 0.25 * rng.standard_normal((TOY_POINTS, 2))) / 7.5


TOYS: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "8gaussians": _eight_gaussians,
    "25gaussians": _twenty_five_gaussians,
    "swissroll": _swiss_roll,
}
