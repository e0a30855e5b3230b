"""What the experiments share: runs without a folder, the modes of a toy set, a picture, and a verdict."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from wgan_cli import load
from wgan_cli.config import resolve
from wgan_cli.sample import generate, latents
from wgan_cli.state import State, new_state

SIGMAS = 3  # a sample within three deviations of a mode is one of that mode
DISTANCE = "sliced Wasserstein distance\nto held-out digits (×1000)"
COVERED = 0.2  # a mode is covered by a fifth of its fair share of the samples


def points_state(**given: Any) -> State:
    """A run of points in the plane at step 0; `given` as the flags of `wgan train`."""
    config, _ = resolve(given, {"size": 0, "channels": 2})
    return new_state(config, torch.device("cpu"))


def samples(checkpoint: Path, count: int) -> torch.Tensor:
    """[count, ...], the same as of `wgan sample -n count`."""
    generator, _, config = load(checkpoint)
    return torch.cat(list(generate(generator, latents(0, range(count), config.latent))))


def quality(run: Path) -> tuple[list[int], list[float], float]:
    """The steps of a run's numbered checkpoints, the distances of their samples to held-out data, and those data's own.

    Sliced Wasserstein distances, the mean over the levels of the pyramid, from what `wgan evaluate --json` wrote beside
    each checkpoint.
    """
    steps, distances, floor = [], [], 0.0
    for checkpoint in sorted(run.glob("ckpt-*.pt")):
        figures = [json.loads(line) for line in checkpoint.with_suffix(".jsonl").open()]
        levels = [figure for figure in figures if figure["figure"].startswith("swd_")]
        steps.append(int(checkpoint.stem.removeprefix("ckpt-")))
        distances.append(mean(figure["samples"] for figure in levels))
        floor = mean(figure["data"] for figure in levels)
    return steps, distances, floor


def modes(name: str) -> tuple[NDArray[np.float64], float]:
    """The centres [K, 2] and the deviation of toy:8gaussians or toy:25gaussians."""
    if name == "8gaussians":
        angles = np.arange(8) * np.pi / 4
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.sqrt(2), 0.02 / np.sqrt(2)
    steps = np.arange(-2, 3) / np.sqrt(2)
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2), 0.05 / np.sqrt(8)


def modes_covered(points: NDArray[Any], name: str) -> tuple[int, float]:
    """The number of modes covered, and the share of the samples [N, 2] within 3 deviations of a mode."""
    centres, deviation = modes(name)
    within = np.linalg.norm(points[:, None] - centres, axis=2) <= SIGMAS * deviation
    return int((within.mean(axis=0) >= COVERED / len(centres)).sum()), float(within.any(axis=1).mean())


def finish(out: Path, figure: Figure, name: str, passed: bool, summary: str, colours: int = 64) -> None:
    """Write NAME.png, of few colours to be small, and the verdict with the figures it was judged by as NAME.txt."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    picture = Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    picture.save(out / f"{name}.png", optimize=True)
    line = f"{'PASS' if passed else 'FAIL'} {name}: {summary}"
    (out / f"{name}.txt").write_text(line + "\n")
