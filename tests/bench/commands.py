"""How soon a command answers, and what `sample` and `critic-score` add to the networks' own work.

    python tests/bench/commands.py [--rounds 5] [--json]

A run of DCGAN at 28 by 28, grey, width 64, untrained. `starts` are whole processes. `sample` is 10,000 images into an
.npz against as many forwards of the generator in the same batches; `critic-score` is 10,000 PNGs against a loop that
opens, resizes, converts and scores one after the other. These two run in turn in one process. Medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wgan_cli.config import resolve
from wgan_cli.data.dataset import Dataset
from wgan_cli.data.source import find_images
from wgan_cli.sample import CHUNK, latents, write_samples
from wgan_cli.score import score_images
from wgan_cli.state import new_state, save_state

COUNT = 10_000
SIDE = 28


def timed(forms: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each form, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            began = time.perf_counter()
            form()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    config, _ = resolve({"arch": "dcgan"}, {"size": SIDE, "channels": 1})
    state = new_state(config, torch.device("cpu"))
    generator, critic = state.generator.eval(), state.critic.eval()
    with tempfile.TemporaryDirectory() as place, torch.inference_mode():
        folder = Path(place)
        rows = Dataset(np.zeros((config.batch, *config.shape), np.uint8), "0" * 16)
        save_state(folder / "ckpt.pt", state, rows)
        (folder / "images").mkdir()
        rng = np.random.default_rng(0)
        for index in range(COUNT):
            coarse = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8))
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / "images" / f"{index:05}.png")
        items = find_images([str(folder / "images")])

        def bare_forwards() -> None:
            batch = torch.randn(CHUNK, config.latent)
            for _ in range(-(-COUNT // CHUNK)):
                generator(batch)

        def sample() -> None:
            write_samples(generator, latents(0, range(COUNT), config.latent), str(folder / "out.npz"))

        def plain_loop() -> list[float]:
            scores = []
            for item in items:
                image = Image.open(item.path).convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                pixels = torch.from_numpy(np.array(image)).float().div(127.5).sub(1)
                scores.append(critic(pixels.view(1, 1, SIDE, SIDE)).item())
            return scores

        def critic_score() -> list[float]:
            return [float(score) for _, score, _ in score_images(critic, config, items)]  # type: ignore[arg-type]

        np.testing.assert_allclose(critic_score(), plain_loop(), rtol=1e-3, atol=1e-4)
        wgan, python = [str(Path(sys.executable).with_name("wgan"))], [sys.executable, "-c"]
        commands = {
            "wgan --help": [*wgan, "--help"],
            "import torch": [*python, "import torch"],
            "wgan sample -n 64": [*wgan, "sample", str(folder / "ckpt.pt"), "-n", "64", "-o", str(folder / "out.png")],
        }
        starts = {
            name: partial(subprocess.run, words, stdout=subprocess.DEVNULL, check=True)
            for name, words in commands.items()
        }
        one_forward = timed({"forward": lambda: generator(torch.randn(CHUNK, config.latent))}, asked.rounds)
        seconds = {
            **timed(starts, asked.rounds),
            **timed({"bare forwards": bare_forwards, "sample -n 10000": sample}, asked.rounds),
            **timed({"plain loop": plain_loop, "critic-score": critic_score}, asked.rounds),
        }
    allowed = seconds["import torch"] + one_forward["forward"]
    ratios = {
        "wgan sample -n 64 against importing torch and one forward": seconds["wgan sample -n 64"] / allowed,
        "sample's share of the bare forward rate": seconds["bare forwards"] / seconds["sample -n 10000"],
        "critic-score's rate against the plain loop": seconds["plain loop"] / seconds["critic-score"],
    }
    if asked.json:
        print(json.dumps({"seconds": seconds, "ratios": ratios}, indent=2))
        return
    for name, value in seconds.items():
        print(f"{name:60} {value:8.3f} s")
    for name, value in ratios.items():
        print(f"{name:60} {value:8.2f}")


if __name__ == "__main__":
    main()
