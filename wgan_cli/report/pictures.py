"""The pictures of a report: samples over the steps, a walk between latents, what the critic ranks."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, features

from ..checkpoint import restore
from ..config import TrainConfig
from ..data.dataset import Dataset, unit
from ..data.decode import open_image
from ..data.seen import Seen
from ..data.split import permutation
from ..networks import build_critic, build_generator
from ..sample import GAP, generate, interpolate, latents, to_image, to_output
from ..walk import once

SAMPLE_BYTES = 240_000  # of all grids of samples on a page; of many steps, an even choice is shown
SAMPLE_PIXELS = 400_000  # of a grid; of a larger one the first rows are shown
WALK_PIXELS = 600_000  # of all frames of the walk
LOSSLESS = 100_000  # bytes of a picture as pixels, up to which nothing of them is lost
WALKS, STOPS, BETWEEN = 9, 4, 12  # walks at most; samples that each goes through; frames from one to the next
RANKED, ENDS = 2000, 12  # images that the critic scores; of them those shown of either end
TILE = 128  # pixels of the longer side of an image that is ranked, at most


def data_uri(image: Image.Image, lossless: int = LOSSLESS) -> str:
    """PNG or WebP without losses, whichever is smaller; WebP with losses of more than `lossless` bytes of pixels."""
    webp, large = features.check("webp"), image.width * image.height * len(image.getbands()) > lossless
    forms: list[tuple[str, dict[str, Any]]] = [] if webp and large else [("PNG", {"optimize": True})]
    forms += [("WEBP", {"quality": 80} if large else {"lossless": True, "exact": True})] if webp else []
    encoded = []
    for kind, options in forms:
        image.save(buffer := BytesIO(), kind, **options)
        encoded.append(f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getbuffer()).decode()}")
    return min(encoded, key=len)


def evenly(count: int, most: int) -> list[int]:
    """At most so many of 0 … count - 1, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, max(2, most))).tolist()})


# ---- Samples over the steps


def frames(
    folder: Path, config: TrainConfig | None, step: int, until: float = math.inf, budget: int = SAMPLE_BYTES
) -> list[dict[str, Any]]:
    """{step, src, width, height} of an even choice of the grids in samples/, the newest as the last; unreadable ones
    are left out.

    step: of the newest checkpoint, which samples/newest.png was drawn with if no numbered grid was. until: the last
    step that is looked at.
    """
    numbered = sorted((int(file.stem), file) for file in folder.glob("samples/*.png") if file.stem.isdecimal())
    newest = folder / "samples" / "newest.png"
    if newest.exists() and not (numbered and numbered[-1][1].read_bytes() == newest.read_bytes()):
        numbered.append((max([step, *(number for number, _ in numbered)]), newest))
    if until < math.inf:  # newest.png may be of any step
        numbered = [(number, file) for number, file in numbered if number <= until and file != newest]
    last = next(_read(numbered[::-1], config, 2 * LOSSLESS), None)
    middle = next(_read(numbered[len(numbered) // 2 :], config), None)
    if not last or not middle:
        return []
    # In base64, as `src` is, three bytes are four characters.
    room = (4 * budget // 3 - len(last["src"])) // len(middle["src"])
    between = _read([numbered[place] for place in evenly(len(numbered), 1 + room)], config)
    return [*(frame for frame in between if frame["step"] < last["step"]), last]


def _read(
    grids: list[tuple[int, Path]], config: TrainConfig | None, lossless: int = LOSSLESS
) -> Iterator[dict[str, Any]]:
    for step, file in grids:
        try:
            with open_image(BytesIO(file.read_bytes())) as opened:
                image = opened if opened.mode in ("L", "RGB", "RGBA") else opened.convert("RGB")
                image.load()
        except Exception:  # decoders raise nearly everything on broken input
            continue
        if config and config.size and image.width * image.height > SAMPLE_PIXELS:
            row = config.sides[0] + GAP
            rows = max(1, (SAMPLE_PIXELS // image.width - GAP) // row)
            image = image.crop((0, 0, image.width, min(image.height, rows * row + GAP)))
        yield {"step": step, "src": data_uri(image, lossless), "width": image.width, "height": image.height}


# ---- A walk between latents


def walk(config: TrainConfig, content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A sheet of frames that go round: each of `count` walks goes through samples of the run's grid, along great
    circles, and back to its first.

    {src, count, frames, columns, width, height, classes}: frame i stands in the sheet's row i // columns; a frame is
    `count` images of width x height side by side. Raises DataError for weights that do not fit.
    """
    generator = restore(build_generator, config, content["ema"] or content["generator"], path).eval()
    high, wide = config.sides
    total = STOPS * BETWEEN
    count = min(WALKS, max(1, WALK_PIXELS // (total * high * wide)))
    stops = latents(config.seed, range(count * STOPS), config.latent).reshape(count, STOPS, -1)
    rows = np.concatenate([once(interpolate(ends, BETWEEN + 1, loop=True), BETWEEN + 1, loop=True) for ends in stops])
    numbers = np.arange(count) % max(1, len(config.classes))
    y = np.repeat(numbers, total) if config.classes else None
    images = np.concatenate([to_output(chunk) for chunk in generate(generator, rows, y=y)])
    columns = max(c for c in range(1, total + 1) if total % c == 0 and c * count * wide <= max(2048, count * wide))
    # [walk, row, column, H, W, C] -> [row, H, column, walk, W, C]
    cells = images.reshape(count, total // columns, columns, high, wide, -1).transpose(1, 3, 2, 0, 4, 5)
    sheet = to_image(np.ascontiguousarray(cells.reshape(total // columns * high, columns * count * wide, -1)))
    classes = [config.classes[number] for number in numbers] if config.classes else []
    shape = {"count": count, "frames": total, "columns": columns, "width": wide, "height": high}
    return {"src": data_uri(sheet, 4 * LOSSLESS), **shape, "classes": classes}


# ---- What the critic ranks highest and lowest


class Ranked(NamedTuple):
    highest: list[tuple[str, float, str]]  # (name, score, picture)
    lowest: list[tuple[str, float, str]]
    scored: int  # images
    of: int  # images, of which these were drawn
    trained: bool  # whether they are images that the run was trained on


def rank(config: TrainConfig, content: Mapping[str, Any], path: Path, data: Dataset) -> Ranked:
    """The images that the critic scores highest and lowest, of those that the run was trained on; of all, where it was
    trained on none of them.

    Raises DataError for weights that do not fit.
    """
    critic = restore(build_critic, config, content["critic"], path).eval()
    trained, _ = Seen.of(content["data"], config).sides(data)
    candidates = np.flatnonzero(trained) if trained.any() else np.arange(len(data.rows))
    places = np.sort(candidates[permutation(len(candidates), 0, 0)[:RANKED]])
    scores = []
    with torch.inference_mode():
        for few in np.split(places, range(64, len(places), 64)):
            y = None if data.labels is None or not config.classes else torch.from_numpy(data.labels[few])
            scores.append(critic(unit(torch.from_numpy(np.take(data.rows, few, axis=0))), y).float().numpy())
    values = np.concatenate(scores).reshape(-1)
    order = np.argsort(-values, kind="stable")
    names = [name.replace(os.sep, "/").split("/") for name in data.names()]
    common = min(len(os.path.commonprefix(names)), *(len(name) - 1 for name in names))  # folders that hold all
    shown = min(ENDS, len(order) // 2)

    def entry(place: int) -> tuple[str, float, str]:
        image = to_image(data.rows[places[place]])
        image = image.reduce(max(1, -(-max(image.size) // TILE)))
        return "/".join(names[places[place]][common:]), float(values[place]), data_uri(image, LOSSLESS // 20)

    highest, lowest = ([entry(place) for place in end] for end in (order[:shown], order[::-1][:shown]))
    return Ranked(highest, lowest, len(places), len(candidates), bool(trained.any()))
