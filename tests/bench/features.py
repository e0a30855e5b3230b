"""A network whose features tell images apart, for `wgan evaluate --features`: where no other can be had.

    python tests/bench/features.py --data A.zip [--data B.zip ...] -o features.pt
    python tests/bench/features.py --data A.zip --classes -o features.pt
    python tests/bench/features.py --data A --data B --attributes -o features.pt

Contrastive learning (Chen et al. 2020, arXiv 2002.05709): two views of an image, shifted, scaled and flipped, are to
lie near each other and far from all others. Colours, noise and patterns stay as they are, so that features tell of them
too. The network never sees a sample of a generator. Other images than those that are compared may and should be among
its data. Images are of 64x64. About 5 minutes of one core.

With --classes it learns to tell the folders of one set apart instead, at the size of its images: a digit's features are
what makes it a 3. About a minute for 28x28. With --attributes it learns what is on drawings, as A.json tells of the
images in A (`drawings.mjs`): noise of single pixels, which no drawing has, then moves features far. About 5 minutes.
TorchScript, [N, 3, H, W] in [-1, 1] -> [N, 128].
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wgan_cli.config import TrainConfig
from wgan_cli.console import Console
from wgan_cli.data.cache import prepare, probe
from wgan_cli.data.dataset import to_unit
from wgan_cli.data.labels import read_labels
from wgan_cli.data.source import open_source
from wgan_cli.device import keep_freed_memory, native_precision

SIDE, WIDTHS, FEATURES, BATCH, TEMPERATURE, RATE = 64, (32, 64, 128, 256), 128, 128, 0.1, 1e-3


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for maps_in, maps_out in zip((3, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Conv2d(maps_in, maps_out, 3, padding=1), nn.BatchNorm2d(maps_out), nn.ReLU(), nn.AvgPool2d(2)]
        self.net, self.last = nn.Sequential(*layers), nn.Linear(4 * WIDTHS[-1], FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(F.adaptive_avg_pool2d(self.net(images), 2).flatten(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--classes", action="store_true", help="tell the folders of the images apart")
    kind.add_argument(
        "--attributes", action="store_true", help="tell what is on each image, of one size and three channels"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("-o", "--out", required=True)
    asked = parser.parse_args()
    torch.manual_seed(0)
    keep_freed_memory()
    sets = [images(path, 0 if asked.classes or asked.attributes else SIDE) for path in asked.data]
    network = Features()
    if asked.classes or asked.attributes:
        told = [classes(path) if asked.classes else attributes(path) for path in asked.data]
        heads = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, sum(counts))) for _, counts in told)
        loss = partial(attributes_loss, network, heads, sets, told)
        train(network, heads, loss, asked.steps)
    else:
        head = nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, 64))
        train(network, head, partial(contrastive_loss, network, head, sets, torch.cat(sets)), asked.steps)
    torch.jit.script(network.eval()).save(asked.out)


def images(path: str, side: int = 0) -> Tensor:
    """uint8 [N, H, W, C], of their own size and channels unless `side` is given."""
    source = open_source(path, BytesIO())
    facts = {"size": side, "channels": 3} if side else probe(source, Console())
    config = TrainConfig(size=facts["size"], channels=facts["channels"], batch=1, betas=(0.0, 0.9), gp_weight=1.0)
    return torch.from_numpy(np.array(prepare(source, config, True, Console()).rows))


def classes(path: str) -> tuple[Tensor, list[int]]:
    """The folder of each image [N, 1], and how many there are."""
    names, numbers = read_labels(open_source(path, BytesIO()), "folders")
    return torch.from_numpy(numbers)[:, None], [len(names)]


def attributes(path: str) -> tuple[Tensor, list[int]]:
    """The value of each attribute on each image [N, A], and how many values there are of each [A]."""
    drawn = json.loads(Path(path).with_suffix(".json").read_text())
    of_images = [drawn[Path(item.name).name] for item in open_source(path, BytesIO()).items]
    columns, counts = [], []
    for name in sorted(set().union(*of_images)):
        values = {value: number for number, value in enumerate(sorted({of.get(name, "") for of in of_images}))}
        if len(values) > 1:
            columns.append([values[of.get(name, "")] for of in of_images])
            counts.append(len(values))
    return torch.tensor(columns).T, counts


def train(network: Features, head: nn.Module, loss_of: Callable[[int], Tensor], steps: int) -> None:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], RATE)
    for step in range(steps):
        loss = loss_of(step)
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / 50) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: loss {loss.item():.3f}", file=sys.stderr)


def attributes_loss(
    network: Features, heads: nn.ModuleList, sets: list[Tensor], told: list[tuple[Tensor, list[int]]], step: int
) -> Tensor:
    """A batch has as many images of each set: batch norm's statistics are of all of them."""
    chosen = [torch.randint(len(rows), (BATCH // len(sets),)) for rows in sets]
    real = to_unit(torch.cat([rows[places] for rows, places in zip(sets, chosen, strict=True)]))
    found = network(real.expand(-1, 3, -1, -1)).split([len(places) for places in chosen])
    losses = []
    for features, head, places, (numbers, counts) in zip(found, heads, chosen, told, strict=True):
        scores = head(features).split(counts, dim=1)
        losses += [F.cross_entropy(of, numbers[places, k]) for k, of in enumerate(scores)]
    return torch.stack(losses).mean()


def contrastive_loss(network: Features, head: nn.Module, sets: list[Tensor], together: Tensor, step: int) -> Tensor:
    """Every second batch is of one set alone, so that its images are told from each other, not from another set's."""
    pool = together if step % 2 else sets[int(torch.randint(len(sets), ()))]
    real = to_unit(pool[torch.randint(len(pool), (BATCH,))])
    with torch.autocast("cpu", torch.bfloat16, enabled=native_precision(torch.device("cpu")) == "bf16"):
        found = network(torch.cat([view(real), view(real)]))
    points = F.normalize(head(found.float()), dim=1)
    likeness = (points @ points.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(likeness, torch.arange(2 * BATCH).roll(BATCH))


def view(image: Tensor) -> Tensor:
    """[B, C, H, W]: each four fifths to all of an image, anywhere in it, as it is or mirrored."""
    share = torch.empty(len(image)).uniform_(0.8, 1)
    mirror = torch.where(torch.rand(len(image)) < 0.5, -1.0, 1.0)
    place = torch.zeros(len(image), 2, 3)
    place[:, 0, 0], place[:, 1, 1] = share * mirror, share
    place[:, :, 2] = (2 * torch.rand(len(image), 2) - 1) * (1 - share)[:, None]
    grid = F.affine_grid(place, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)


if __name__ == "__main__":
    main()
