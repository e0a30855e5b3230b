"""Decoded images on the disk: each source is read once, and mapped into memory by every later run."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import DataError, StoppedError, WganError, distributed
from ..config import TrainConfig
from ..console import Console, printable
from ..files import replacing, sweep
from .arrays import image_shape, open_array, read_array
from .dataset import Dataset
from .decode import DIGEST_BYTES, GRID, BadFile, Look, Read, is_grey, look, read_file
from .decoding import LeftOut, Reason, decode, forget
from .pool import read_images
from .source import Source, digest
from .toys import toy_points

CACHE_VERSION = 4  # to be raised when the same file would be decoded into other pixels, or noted in another way
ALIKE, LOOKED_AT = 2, 32  # grey levels between two neighbouring pixels, and images, of which so many have their share
DRAWN = 0.6  # share of such pixels from which images are drawn: of five sets of drawings 0.79 to 0.87, of photos 0.32


def probe(source: Source, console: Console, should_stop: Callable[[], Reason | None] = lambda: None) -> dict[str, int]:
    """The size and channels that the images suggest: the median of the shorter sides, and most images' channels.

    In colour also whether they are `drawn`: of areas that are even, as those of drawings are and photographs' are not.

    should_stop: asked after each image that is looked at, as `prepare` has it.
    """
    if source.toy:
        return {"size": 0, "channels": 2}
    if source.array:
        with open_array(source.array) as (_, _, shape):
            height, width, channels = image_shape(shape)
        size = auto_size(min(height, width))
        images = islice(read_array(source.array, (size, size), channels, "crop")[1], LOOKED_AT)
        return _facts(size, channels, images)
    note = cache_folder() / f"{source.key}.{CACHE_VERSION}.look.json"
    facts = _note(note) or {}
    if "said" not in facts or ("drawn" in facts) != (facts["channels"] > 1):  # of before it told of `drawn`
        with _caching(), replacing(note) as file:  # a cache that cannot be written is found before images are read
            facts, lasts, reason = _look_at_images(source, facts, console, should_stop)
            file.write(json.dumps(facts if lasts else {}).encode())
        if reason:
            raise StoppedError(
                f"Stopped by {reason[0]} when {len(facts['seen'])} of {len(source.items)} images were looked at, "
                "to find their size and channels; what was found stays",
                reason[1],
            )
    if said := facts.pop("said"):
        console.notice(said)
    return facts


def _look_at_images(
    source: Source, begun: Mapping[str, Any], console: Console, should_stop: Callable[[], Reason | None]
) -> tuple[dict[str, Any], bool, Reason | None]:
    """The facts of `probe`, with what there is to say of them; whether they last; and what has stopped the looking.

    If stopped, what is found instead, to be given as `begun` the next time.
    """
    total, grey = len(source.items), begun.get("grey", 0)
    seen = [Look(*entry) if isinstance(entry[0], int) else BadFile(*entry) for entry in begun.get("seen", ())]
    for _, result in read_images(source.items[len(seen) :], look):
        seen.append(result)
        console.progress("looking at images", len(seen), total)
        if len(seen) < total and (reason := should_stop()):
            return {"seen": seen}, _last(seen), reason
    looks = [result for result in seen if isinstance(result, Look)]
    if not looks:
        bad = [result for result in seen if isinstance(result, BadFile) and result.reason != GRID]
        if not bad:
            raise DataError(f"{source.told}: nothing in it but grids of samples that wgan drew ({total})")
        _show_bad(bad, console.error, console.row, console.verbose)
        raise DataError(f"{source.told}: none of its {total} files can be read")
    channels = Counter(s.channels for s in looks).most_common(1)[0][0]
    stored = Counter(s.stored for s in looks).most_common(1)[0][0]
    said = ""
    if more := [s.channels for s in looks if s.channels > channels]:
        said = (
            f"{len(more)} of {len(looks)} images have colour or transparency that most have not, so it is left out: "
            f"--channels {max(more)} keeps it"
        )
    elif channels < stored == 4:
        said = "the images' alpha is opaque throughout, so it is left out: --channels 4 keeps it"
    good = [item for item, result in zip(source.items, seen, strict=True) if isinstance(result, Look)]
    if channels == 3:
        left = good[grey:]
        # The first image of a coloured set tells, so few are read ahead; only a grey set is read to its end.
        for _, is_so in chain(read_images(left[:4], is_grey), read_images(left[4:], is_grey)):
            if is_so is False:  # one that is cut short tells nothing
                break
            grey += 1
            console.progress("looking for colour", grey, len(looks))
            if grey < len(looks) and (reason := should_stop()):
                return {"seen": seen, "grey": grey}, _last(seen), reason
        else:
            channels, said = 1, "the images are grey in every pixel, so one channel is taken: --channels 3 takes three"
    size = auto_size(statistics.median(s.side for s in looks))
    some = good[:: math.ceil(len(good) / LOOKED_AT)]
    read = partial(read_file, size=(size, size), channels=channels, fit="crop")
    return {**_facts(size, channels, (image for _, image in read_images(some, read))), "said": said}, _last(seen), None


def _facts(size: int, channels: int, images: Iterable[Read | BadFile]) -> dict[str, int]:
    """What `probe` tells, by some of the images at that size, which are read in colour alone."""
    if channels == 1:
        return {"size": size, "channels": channels}
    shares = []
    for image in images:
        if isinstance(image, Read):
            pixels = np.frombuffer(image.pixels, np.uint8).reshape(size, size, channels).astype(np.int16)
            shares.append(float((abs(np.diff(pixels, axis=1)).max(-1) <= ALIKE).mean()))
    return {"size": size, "channels": channels, "drawn": not shares or statistics.fmean(shares) >= DRAWN}


def auto_size(side: float) -> int:
    """The training size for images whose shorter side is `side` pixels in the median: 28 stays 28."""
    if side == 28:
        return 28
    return min(64, max(16, 2 ** int(math.log2(max(side, 1)))))


def _last(results: Iterable[Look | BadFile]) -> bool:
    """Whether what was found holds the next time too."""
    return all(result.lasts for result in results if isinstance(result, BadFile))


def prepare(
    source: Source,
    config: TrainConfig,
    skip_bad: bool,
    console: Console,
    should_stop: Callable[[], Reason | None] = lambda: None,
    should_save: Callable[[], bool] = lambda: False,
    labels: NDArray[np.int64] | None = None,
    say: Callable[[str], None] | None = None,
) -> Dataset:
    """Every image of the source at the config's size and channels: decoded once, mapped from the cache later.

    should_stop: asked after each image that is decoded; what asks to stop, and the exit code for it, or None.
    labels: the number of the class of each image of the source, those that cannot be read included.
    should_save: whether what is decoded is to be brought to the disk at once.
    say: what tells that processes of this machine wait for the first of them.
    Raises DataError if a file cannot be read (unless skip_bad) or if there are fewer images than a batch,
    StoppedError where should_stop says so.
    """
    if source.toy:
        points = toy_points(source.toy)
        _check_count(source, len(points), config.batch)
        fingerprint = hashlib.sha256(points.tobytes()).hexdigest()[:16]
        return Dataset(points, fingerprint, pixels=fingerprint)
    key = digest([[CACHE_VERSION, source.key, config.size, config.channels, config.fit]])
    rows, note = cache_folder() / f"{key}.rows", cache_folder() / f"{key}.json"
    shape = (*config.sides, config.channels)
    # Of several processes the first of a machine alone judges what is there: the others take what it leaves.
    with distributed.first_on_machine(f"images of {key}", say):
        facts = _note(note)
        if not distributed.machine().local_rank and not (
            facts
            and all(LeftOut(*entry).lasts for entry in facts.get("left_out", [(0, "", False)]))
            and _size(rows) == facts["count"] * math.prod(shape)
            and _size(rows.with_suffix(".contents")) == facts["count"] * DIGEST_BYTES
        ):
            with _caching():
                facts = decode(source, config, rows, console, should_stop, should_save)
                with replacing(note) as file:
                    file.write(json.dumps(facts).encode())
    if not facts:
        raise WganError(f"{note}: has been removed while the run began; begin it again")
    left_out = [LeftOut(*entry) for entry in facts["left_out"]]
    files = [BadFile(source.items[entry.place].name, entry.reason) for entry in left_out]
    grids, bad = ([file for file in files if (file.reason == GRID) is grid] for grid in (True, False))
    if grids:
        console.notice(f"left out {len(grids)} that wgan drew as grids of samples, such as {grids[0].name}")
    if source.others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(source.others).most_common(5))
        console.notice(f"left out {sum(source.others.values())} files of other kinds: {kinds}")
    if bad and not skip_bad:
        _show_bad(bad, console.error, console.row, console.verbose)
        raise DataError(
            f"{source.told}: {len(bad)} of {len(bad) + facts['count']} files cannot be read; "
            "mend them, or leave them out with --skip-bad"
        )
    if bad:
        _show_bad(bad, console.notice, console.notice, console.verbose)
        console.notice(f"left out {len(bad)}, {facts['count']} remain")
    _check_count(source, facts["count"], config.batch)
    places = [entry.place for entry in left_out]
    if labels is not None:
        labels = np.delete(labels, np.array(places, int))
    with open(rows, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    return Dataset(
        np.frombuffer(mapped, np.uint8).reshape(-1, *shape),
        facts["fingerprint"],
        mapped,
        pixels=facts["pixels"],
        contents=np.fromfile(rows.with_suffix(".contents"), "<u8"),
        labels=labels,
        names=partial(_names, source, set(places), facts["count"]),
    )


def _names(source: Source, left_out: set[int], count: int) -> list[str]:
    if source.array:
        return [f"{source.array}/{index}" for index in range(count)]
    return [item.name for place, item in enumerate(source.items) if place not in left_out]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _check_count(source: Source, count: int, batch: int) -> None:
    if not count:
        raise DataError(f"{source.told}: no image in it can be used")
    if count < batch:
        what, advice = ("points", "") if source.toy else ("image" if count == 1 else "images", "add images or ")
        raise DataError(f"{source.told}: {count} {what}, fewer than --batch {batch}; {advice}take a smaller batch")


def _note(path: Path) -> dict[str, Any] | None:
    """What the cache says, None if nothing or nothing whole."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _show_bad(
    bad: Sequence[BadFile], head: Callable[[str], None], row: Callable[[str], None], every: bool, most: int = 50
) -> None:
    """A table of what cannot be read: an error where it ends the run, a notice where it does not."""
    shown = bad if every else bad[:most]
    width = min(60, max(len(printable(entry.name)) for entry in shown))
    head(f"{len(bad)} unreadable {'file' if len(bad) == 1 else 'files'}:")
    for entry in shown:
        row(f"  {printable(entry.name):{width}}  {printable(entry.reason)}")
    if len(shown) < len(bad):
        row(f"  and {len(bad) - len(shown)} more; -v names them all")


def cache_folder() -> Path:
    """Where decoded images are kept: WGAN_CACHE, else `wgan` in the user's cache folder."""
    if chosen := os.environ.get("WGAN_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgan"
    except RuntimeError:  # no HOME, and a user whom the system does not know
        raise WganError("no home folder to keep decoded images in; name a folder in WGAN_CACHE") from None


@contextmanager
def _caching() -> Iterator[None]:
    """Make the cache folder, and name it where it cannot be written to."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        forget(folder)
        yield
    except OSError as error:
        raise WganError(
            f"{folder}: cannot keep the decoded images there ({error.strerror or error}); "
            "name another folder in WGAN_CACHE"
        ) from None
