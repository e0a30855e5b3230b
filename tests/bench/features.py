"""A network whose features tell images apart, for `wgan evaluate --features`: where no other can be had.

    python tests/bench/features.py --data A.zip [--data B.zip ...] -o features.pt
    python tests/bench/features.py --data A.zip --classes -o features.pt
    python tests/bench/features.py --data A --data B --attributes -o features.pt
    python tests/bench/features.py --data A --present RUN [--present RUN ...]

Contrastive learning (Chen et al. 2020, arXiv 2002.05709): two views of an image, shifted, scaled and flipped, are to
lie near each other and far from all others. Colours, noise and patterns stay as they are, so that features tell of them
too. The network never sees a sample of a generator. Other images than those that are compared may and should be among
its data. Images are of 64x64. About 5 minutes of one core.

With --classes it learns to tell the folders of one set apart instead, at the size of its images: a digit's features are
what makes it a 3. About a minute for 28x28. With --attributes it learns what is on drawings, as A.json tells of the
images in A (`drawings.mjs`): noise of single pixels, which no drawing has, then moves features far. About 5 minutes.
TorchScript, [N, 3, H, W] in [-1, 1] -> [N, 128].

With --present it tells whether all that drawings have is on samples of a run too. It learns the attributes of four
fifths of the drawings in A. Values count that it finds on nine tenths of the other drawings which have them, and of ten
times nine rightly; of these it tells how many are on any of 2,000 samples, and which are less than half as often there.
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

from wgan_cli import load
from wgan_cli.config import TrainConfig
from wgan_cli.console import Console
from wgan_cli.data.cache import prepare, probe
from wgan_cli.data.dataset import to_unit
from wgan_cli.data.labels import read_labels
from wgan_cli.data.source import open_source
from wgan_cli.device import keep_freed_memory, native_precision

SIDE, WIDTHS, FEATURES, BATCH, TEMPERATURE, RATE = 64, (32, 64, 128, 256), 128, 128, 0.1, 1e-3
PRESENT = 2000  # samples that are looked at for attributes


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
    kind.add_argument("--present", metavar="RUN", action="append", help="tell what is on samples of this run")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("-o", "--out")
    asked = parser.parse_args()
    if bool(asked.out) == bool(asked.present):
        parser.error("give either -o or --present")
    if asked.present and len(asked.data) > 1:
        parser.error("--present is for one --data")
    torch.manual_seed(0)
    keep_freed_memory()
    as_they_are = asked.classes or asked.attributes or asked.present
    sets = [images(path, 0 if as_they_are else SIDE) for path in asked.data]
    network = Features()
    if asked.present:
        present(network, asked.data[0], sets[0], asked.present, asked.steps)
        return
    if asked.classes or asked.attributes:
        told = [classes(path) if asked.classes else attributes(path)[:2] for path in asked.data]
        learn(network, sets, told, asked.steps)
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


def attributes(path: str) -> tuple[Tensor, list[int], list[list[str]]]:
    """The value of each attribute on each image [N, A], how many values there are of each [A], and their names."""
    drawn = json.loads(Path(path).with_suffix(".json").read_text())
    of_images = [drawn[Path(item.name).name] for item in open_source(path, BytesIO()).items]
    columns, names = [], []
    for name in sorted(set().union(*of_images)):
        values = {value: number for number, value in enumerate(sorted({of.get(name, "") for of in of_images}))}
        if len(values) > 1:
            columns.append([values[of.get(name, "")] for of in of_images])
            names.append([f"{name} {value or 'none'}" for value in values])
    return torch.tensor(columns).T, [*map(len, names)], names


def learn(network: Features, sets: list[Tensor], told: list[tuple[Tensor, list[int]]], steps: int) -> nn.ModuleList:
    """Train the network to tell the attributes of each set; its head for each: features -> scores of all values."""
    heads = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Linear(FEATURES, sum(counts))) for _, counts in told)
    train(network, heads, partial(attributes_loss, network, heads, sets, told), steps)
    return heads


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


def present(network: Features, path: str, rows: Tensor, runs: list[str], steps: int) -> None:
    numbers, counts, names = attributes(path)
    others = torch.arange(len(rows)) % 5 == 0
    (head,) = learn(network, [rows[~others]], [(numbers[~others], counts)], steps)
    network.eval()

    @torch.no_grad()
    def found(images: Tensor) -> Tensor:
        """The value of each attribute that the network sees [N, A]."""
        scores = torch.cat([head(network(part.expand(-1, 3, -1, -1))) for part in images.split(BATCH)])
        return torch.stack([of.argmax(1) for of in scores.split(counts, dim=1)], 1)

    def share(of: Tensor, k: int, value: int) -> float:
        return (of[:, k] == value).double().mean().item()

    def well_told(k: int, value: int) -> bool:
        right = share(seen[true[:, k] == value], k, value), share(true[seen[:, k] == value], k, value)
        return min(right) >= 0.9

    seen, true = found(to_unit(rows[others])), numbers[others]
    well = [(k, value) for k, count in enumerate(counts) for value in range(count) if well_told(k, value)]
    for run in runs:
        generator, _, config = load(run)
        latents = torch.randn(PRESENT, config.latent, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            of_run = found(torch.cat([generator(part) for part in latents.split(BATCH)]))
        shares = [(names[k][value], share(of_run, k, value), share(seen, k, value)) for k, value in well]
        seldom = [f"{name} {here:.3f} ({usual:.3f})" for name, here, usual in shares if 2 * here < usual]
        found_at_all = sum(here > 0 for _, here, _ in shares)
        print(f"{run}: {found_at_all} of {len(well)} values; seldom {', '.join(seldom) or 'none'}", flush=True)


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
