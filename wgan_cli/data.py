"""Images in every form that a user has them in, made into rows of uint8 on disk, and batches of those.

A source (what `--data` names) is listed, probed for its size and channels, and decoded once into a cache file
that later runs map into memory. The toy sets of the WGAN-GP paper are points in the plane, held in memory.
"""

from __future__ import annotations

import errno
import gc
import gzip
import hashlib
import json
import math
import mmap
import os
import signal
import stat
import statistics
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, NoReturn, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from . import DataError, UsageError, WganError
from .config import TrainConfig, auto_size
from .console import Console, printable
from .files import replacing, sweep

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # no other decoder is reached, whatever a file claims to be
TOY_POINTS = 100_000
CACHE_VERSION = 1  # to be raised when the same file would be decoded into other pixels
MOST_BYTES = 256 << 20  # of one image file in a zip
RESIDENT_BYTES = 256 << 20  # of the cache file's pages, before they are handed back to the system
FAULT_BYTES = 64 << 10  # that Linux maps around the one byte that was asked for

# Pillow only warns of a decompression bomb up to twice its limit; here it is the file's error. Its other warnings
# are of oddities beside the pixels, such as a broken EXIF, and tell the user nothing.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
warnings.simplefilter("error", Image.DecompressionBombWarning)
gc.freeze()  # what importing torch has made is there to stay: no collection goes through it, no fork copies it

Pixels = NDArray[np.uint8]  # [H, W, C]
T = TypeVar("T")
R = TypeVar("R")


class Item(NamedTuple):
    """One image file, or one entry of a zip."""

    path: str
    member: str = ""

    @property
    def name(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path


class BadFile(NamedTuple):
    name: str
    reason: str
    lasts: bool = True  # not for what the system could not do this time, as on a disk or network that fails


@dataclass(frozen=True)
class Source:
    """What `--data` or another flag names. `key` changes when a file's name, size or time does."""

    name: str
    items: Sequence[Item] = ()  # images, unless it is an array or a toy set
    array: Path | None = None
    key: str = ""
    flag: str = "--data"

    @property
    def told(self) -> str:
        """What errors begin with."""
        return f"{self.flag} {self.name}"

    @property
    def toy(self) -> str | None:
        return self.name.removeprefix("toy:") if self.name.startswith("toy:") else None


# ---- Listing


def open_source(data: str, listed: BinaryIO, null: bool = False, flag: str = "--data") -> Source:
    """List what `data` names, without reading a pixel; `listed` is where `-` reads its paths from.

    Raises UsageError if there is no such thing, DataError if there is no image in it.
    """
    if data.startswith("toy:"):
        if data.removeprefix("toy:") not in TOYS:
            raise UsageError(f"{flag} {data}: choose one of {', '.join('toy:' + name for name in TOYS)}")
        return Source(data, flag=flag)
    path = Path(data)
    if data != "-" and not path.exists():
        raise UsageError(f"{flag} {data}: no such file or folder")
    is_file = data != "-" and path.is_file()  # a file may well be called `-`
    if is_file and (path.suffix.lower() in (".npy", ".npz") or _is_idx(path)):
        return Source(data, array=path, key=_digest([_stamp(path)]), flag=flag)
    if is_file and path.suffix.lower() not in (".zip", *IMAGE_SUFFIXES):
        raise DataError(f"{flag} {data}: not a folder, a .zip, an .npy or .npz array, an idx file or an image")
    items = find_images(read_paths(listed, null) if data == "-" else [data])
    if not items:
        where = "standard input" if data == "-" else data
        raise DataError(f"{flag} {where}: no images there; looked for {' '.join(IMAGE_SUFFIXES)}")
    stamps = lru_cache(maxsize=1)(_stamp)  # a zip's entries stand together
    return Source(data, items=items, key=_digest([stamps(item.path), item.member] for item in items), flag=flag)


def read_paths(listed: BinaryIO, null: bool) -> list[str]:
    """Paths from a list that ends each with a newline, or with NUL."""
    if listed.isatty():
        raise UsageError("- reads a list of paths from standard input, which is a terminal; pipe `find` into it")
    content = listed.read()
    if not null and b"\0" in content:
        raise UsageError("the list of paths on standard input is separated by NUL; add -0")
    return [os.fsdecode(entry) for entry in content.split(b"\0" if null else b"\n") if entry]


def find_images(paths: Iterable[str]) -> list[Item]:
    """The images that `paths` name: files as they are, folders (any depth) and zips opened up, in order of name."""
    items: list[Item] = []
    for path in paths:
        if os.path.isdir(path):
            items += [Item(found) for found in _walk(path)]
        elif path.lower().endswith(".zip"):
            items += _zip_items(path)
        else:
            items.append(Item(path))
    return items


def _walk(top: str) -> Iterator[str]:
    """The images below a folder, depth first, and the folders that cannot be read; links are followed, once."""
    waiting, seen = [(top, True)], set()
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
            continue
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            continue  # a link back to a folder above
        seen.add((status.st_dev, status.st_ino))
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name, reverse=True)
        except OSError:
            yield path  # one bad file among the others: reading it will fail in the same way
            continue
        if path != top and {"config.json", "metrics.jsonl"} <= {entry.name for entry in entries}:
            continue  # the folder of a run begun among the images: its sample grids are none of them
        for entry in entries:
            # entry.is_dir() raises for a link to itself, and asks the system nothing for all that is no link.
            folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()
            if (folder or entry.name.lower().endswith(IMAGE_SUFFIXES)) and not entry.name.startswith("."):
                waiting.append((entry.path, folder))


def _zip_items(path: str) -> list[Item]:
    """In the order in which `_walk` would find them, so that a folder and its zip are the same data."""

    def wanted(entry: str) -> bool:
        hidden = any(part.startswith((".", "__MACOSX")) for part in entry.split("/"))
        return entry.lower().endswith(IMAGE_SUFFIXES) and not hidden

    try:
        entries = _open_zip(path).namelist()
    except Exception:  # zipfile raises nearly everything on a broken one
        return [Item(path)]  # one bad file among the others: reading it will fail in the same way
    return [Item(path, entry) for entry in sorted(entries, key=lambda entry: entry.split("/")) if wanted(entry)]


@lru_cache(maxsize=8)
def _open_zip(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _stamp(path: str | Path) -> list[Any]:
    try:
        status = os.stat(path)
    except OSError:
        return [os.path.abspath(path)]
    # The time of the last change of content or of permissions: one that could not be read may now be readable.
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()[:32]


# ---- One image


def read_image(item: Item, size: int, channels: int, fit: str) -> Pixels:
    """Decode one image and bring it to [size, size, channels]. Raises whatever its decoder does."""
    with _open_image(item) as image:
        return fit_image(image, size, channels, fit)


def _open_image(item: Item) -> Image.Image:
    if not item.path.lower().endswith(".zip"):
        if stat.S_ISFIFO(os.stat(item.path).st_mode):  # would wait for a writer
            raise ValueError("a pipe, not a file")
        return Image.open(item.path, formats=FORMATS)
    archive = _open_zip(item.path)
    if (size := archive.getinfo(item.member).file_size) > MOST_BYTES:  # a few kilobytes may say so, and mean it
        raise ValueError(f"{size} bytes when unpacked, more than the {MOST_BYTES} that are taken")
    return Image.open(BytesIO(archive.read(item.member)), formats=FORMATS)


def fit_image(image: Image.Image, size: int, channels: int, fit: str) -> Pixels:
    """Bring an image to [size, size, channels] as in training.

    Turned as its EXIF says. Transparency is kept with 4 channels, else shown on white. Grey of 16 bits is scaled
    to 8, floats are taken from 0 to 1. fit: `crop` the middle square, `pad` with black (transparent with
    4 channels), or `stretch`; resampled with Lanczos.
    """
    # A JPEG is decoded at 1/2, 1/4 or 1/8 scale where that leaves twice the size; others take no draft.
    image.draft("L" if channels == 1 and image.mode == "RGB" else "", (2 * size, 2 * size))
    ImageOps.exif_transpose(image, in_place=True)
    image = _to_mode(image, {1: "L", 3: "RGB", 4: "RGBA"}[channels])
    width, height = image.size
    target, box = (size, size), (0.0, 0.0, float(width), float(height))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2  # whole pixels: half a pixel's shift would blur
        box = (left, top, left + side, top + side)
    elif fit == "pad":
        scale = size / max(width, height)
        target = (max(1, round(width * scale)), max(1, round(height * scale)))
    if target != image.size:
        image = image.resize(target, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if target != (size, size):
        canvas = Image.new(image.mode, (size, size))
        canvas.paste(image, ((size - target[0]) // 2, (size - target[1]) // 2))
        image = canvas
    return np.frombuffer(image.tobytes(), np.uint8).reshape(size, size, channels)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        top = 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"values from {values.min():g} to {values.max():g}, expected 0 to {top:g}")
        image = Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))
    if has_alpha(image):
        image = image.convert("RGBA")
        if mode != "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def has_alpha(image: Image.Image) -> bool:
    wide = image.mode[0] in "IF"  # whose transparent value, if any, Pillow cannot apply
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or ("transparency" in image.info and not wide)


def native_channels(image: Image.Image) -> int:
    if has_alpha(image):
        return 4
    return 1 if image.mode[0] in "1LIF" and image.mode != "LAB" else 3


# ---- Many images


def read_images(items: Sequence[Item], read: Callable[[Item], R]) -> Iterator[tuple[Item, R | BadFile]]:
    """`read` of each item, in order, in a process for each core; what a decoder raises becomes a BadFile.

    Each process is ahead by some dozens of results and what a pipe holds, however many items there are.
    """

    def attempt(item: Item) -> R | BadFile:
        try:
            return read(item)
        except FileNotFoundError:
            return BadFile(item.name, "no such file")
        except UnidentifiedImageError:  # its own text has an address in memory for a zip's entry
            return BadFile(item.name, f"not an image in any of the formats {', '.join(FORMATS)}")
        except Exception as error:  # decoders raise nearly everything on broken input
            lasts = not isinstance(error, MemoryError) and getattr(error, "errno", None) in (None, errno.EACCES)
            said = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
            return BadFile(item.name, said or type(error).__name__, lasts)

    yield from zip(items, _in_order(attempt, items), strict=True)


def _in_order(function: Callable[[T], R], items: Sequence[T], chunk: int = 32) -> Iterator[R]:
    """Processes, since threads that decode small images pass the interpreter's lock to and fro and are slower than one.

    Each is a fork, takes its turn at the chunks and waits while its pipe is full. It never touches torch.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    cores = min(cores, len(chunks))
    if cores < 2 or not hasattr(os, "fork"):
        yield from map(function, items)
        return
    Image.preinit()  # the decoders' modules, before every process imports them
    pipes: list[Connection] = []
    children = []
    try:
        for number in range(cores):
            receiver, sender = Pipe(duplex=False)
            pipes.append(receiver)
            child = os.fork()
            if not child:
                _send(function, chunks[number::cores], sender, pipes)
            children.append(child)
            sender.close()
        for number in range(len(chunks)):
            yield from pipes[number % cores].recv()
    except (EOFError, OSError):
        raise WganError("a process that read images was killed, perhaps for want of memory") from None
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _send(
    function: Callable[[T], R], chunks: Sequence[Sequence[T]], sender: Connection, others: list[Connection]
) -> NoReturn:
    """What a forked process does till its end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, which the parent has as well
        for pipe in others:
            pipe.close()  # so that a parent's death breaks every pipe
        _open_zip.cache_clear()  # the parent's have one file position between all of them
        for chunk in chunks:
            sender.send([function(item) for item in chunk])
    finally:
        os._exit(0)


def probe(source: Source, console: Console) -> dict[str, int]:
    """The size and channels that the images suggest: the median of the shorter sides, and most images' channels."""
    if source.toy:
        return {"size": 0, "channels": 2}
    if source.array:
        with _open_array(source.array) as (_, _, shape):
            height, width, channels = _image_shape(shape)
            return {"size": auto_size(min(height, width)), "channels": channels}
    note = cache_folder() / f"{source.key}.probe.json"
    if (facts := _note(note)) and {"size", "channels"} <= facts.keys():
        return facts
    with _caching(), replacing(note) as file:  # a cache that cannot be written is found before the images are read
        facts, lasts = _look_at_images(source, console)
        file.write(json.dumps(facts if lasts else {}).encode())
    return facts


def _look_at_images(source: Source, console: Console) -> tuple[dict[str, int], bool]:
    def look(item: Item) -> tuple[int, int]:
        with _open_image(item) as image:
            return min(image.size), native_channels(image)

    seen: list[tuple[int, int]] = []
    bad = []
    for done, (_, result) in enumerate(read_images(source.items, look), 1):
        if isinstance(result, BadFile):
            bad.append(result)
        else:
            seen.append(result)
        console.progress("looking at images", done, len(source.items))
    if not seen:
        _show_bad(bad, console.error, console.row, console.verbose)
        raise DataError(f"{source.told}: none of its {len(source.items)} files can be read")
    channels = Counter(channels for _, channels in seen).most_common(1)[0][0]
    facts = {"size": auto_size(statistics.median(side for side, _ in seen)), "channels": channels}
    return facts, all(entry.lasts for entry in bad)


def prepare(source: Source, config: TrainConfig, skip_bad: bool, console: Console) -> Dataset:
    """Every image of the source at the config's size and channels: decoded once, mapped from the cache later.

    Raises DataError if a file cannot be read (unless skip_bad) or if there are fewer images than a batch.
    """
    if source.toy:
        points = toy_points(source.toy)
        _check_count(source, len(points), config.batch)
        return Dataset(points, hashlib.sha256(points.tobytes()).hexdigest()[:16])
    key = _digest([[CACHE_VERSION, source.key, config.size, config.channels, config.fit]])
    rows, note = cache_folder() / f"{key}.rows", cache_folder() / f"{key}.json"
    shape = (config.size, config.size, config.channels)
    facts = _note(note)
    if not (
        facts
        and all(BadFile(*entry).lasts for entry in facts.get("bad", [("", "", False)]))
        and rows.exists()
        and rows.stat().st_size == facts["count"] * math.prod(shape)
    ):
        with _caching():
            facts = _decode(source, config, rows, note, console)
    bad = [BadFile(*entry) for entry in facts["bad"]]
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
    with open(rows, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return Dataset(np.frombuffer(mapped, np.uint8).reshape(-1, *shape), facts["fingerprint"], mapped)


def _check_count(source: Source, count: int, batch: int) -> None:
    if count < batch:
        what, advice = ("points", "") if source.toy else ("images", "add images or ")
        raise DataError(f"{source.told}: {count} {what}, fewer than --batch {batch}; {advice}take a smaller batch")


def _note(path: Path) -> dict[str, Any] | None:
    """What the cache says, None if nothing or nothing whole."""
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _decode(source: Source, config: TrainConfig, rows: Path, note: Path, console: Console) -> dict[str, Any]:
    """Write the rows, one image after the other, and beside them what there is to know of them."""
    digest, bad, count = hashlib.sha256(), [], 0
    size, channels, fit = config.size, config.channels, config.fit
    results: Iterator[Pixels | BadFile]
    if source.array:
        total, results = _array_pixels(source.array, size, channels, fit)
    else:
        total = len(source.items)
        images = read_images(source.items, lambda item: read_image(item, size, channels, fit))
        results = (result for _, result in images)
    with replacing(rows) as file:
        for done, result in enumerate(results, 1):
            if isinstance(result, BadFile):
                bad.append(result)
            else:
                count += 1
                pixels = np.ascontiguousarray(result).data
                digest.update(pixels)
                file.write(pixels)
            console.progress("reading images", done, total)
    facts = {"count": count, "fingerprint": digest.hexdigest()[:16], "bad": bad}
    with replacing(note) as file:
        file.write(json.dumps(facts).encode())
    return facts


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
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wgan"


@contextmanager
def _caching() -> Iterator[None]:
    """Make the cache folder, and name it where it cannot be written to."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        yield
    except OSError as error:
        raise WganError(
            f"{folder}: cannot keep the decoded images there ({error.strerror}); name another folder in WGAN_CACHE"
        ) from None


# ---- Arrays


def _is_idx(path: Path) -> bool:
    """MNIST's format, gzipped or not: two zero bytes, a type, the number of dimensions."""
    try:
        with _maybe_gzip(path) as file:
            magic = file.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in b"\x08\x09\x0b\x0c\x0d\x0e" and 1 <= magic[3] <= 4


def _maybe_gzip(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if gzipped else open(path, "rb")  # type: ignore[return-value]


@contextmanager
def _open_array(path: Path) -> Iterator[tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]]:
    """A stream that stands at an array's first value, the values' type, and the array's shape [N, ...]."""
    try:
        if path.suffix.lower() == ".npz":
            with zipfile.ZipFile(path) as archive, archive.open(_array_member(archive)) as stream:
                yield stream, *_npy_header(stream)
        elif path.suffix.lower() == ".npy":
            with open(path, "rb") as stream:
                yield stream, *_npy_header(stream)
        else:
            with _maybe_gzip(path) as stream:
                magic = stream.read(4)
                if magic[2] != 8:
                    raise ValueError("an idx file of other values than unsigned bytes")
                shape = tuple(int.from_bytes(stream.read(4), "big") for _ in range(magic[3]))
                yield stream, np.dtype(np.uint8), _checked_shape(shape)
    except WganError:
        raise
    except Exception as error:  # readers of archives raise nearly everything on broken input
        raise DataError(f"{path}: {str(error) or type(error).__name__}") from None


def _npy_header(stream: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    shape, fortran, dtype = _npy_facts(stream)
    if dtype.kind not in "bf" and dtype != np.uint8:
        raise ValueError(f"an array of {dtype}; takes uint8, or floats in [0, 1] or [-1, 1]")
    if fortran:
        raise ValueError("an array in Fortran order; save np.ascontiguousarray(array)")
    return dtype, _checked_shape(shape)


def _npy_facts(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, in Fortran order, type) of the array that a stream is about to give."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    return (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(stream)


def _array_member(archive: zipfile.ZipFile) -> str:
    """The array of images in an .npz: the one of 3 or 4 dimensions, `images` or `x_train` where there are several."""
    found = []
    for entry in archive.namelist():
        with archive.open(entry) as stream:
            if len(_npy_facts(stream)[0]) in (3, 4):
                found.append(entry)
    preferred = [entry for entry in found if entry in ("images.npy", "x_train.npy")]
    if len(found) != 1 and len(preferred) != 1:
        names = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist())
        raise ValueError(f"cannot tell which array holds the images (there are: {names}); name it `images`")
    return (preferred or found)[0]


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"an array of shape {list(shape)}; takes [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if len(shape) == 4 and shape[1] == shape[3]:
        raise ValueError(f"an array of shape {list(shape)}: cannot tell channels from pixels; save it as [N, H, W, C]")
    return shape


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(H, W, C) of an array's images; of its second and last dimension, the smaller one is C."""
    if len(shape) == 3:
        return shape[1], shape[2], 1
    return (shape[2], shape[3], shape[1]) if shape[1] < shape[3] else (shape[1], shape[2], shape[3])


def _array_records(path: Path) -> Iterator[NDArray[Any]]:
    """An array's images as stored, some megabytes at a time: [n, ...]."""
    with _open_array(path) as (stream, dtype, shape):
        record = math.prod(shape[1:]) * dtype.itemsize
        if record > MOST_BYTES:
            raise ValueError(f"images of {record} bytes each, more than the {MOST_BYTES} that are taken")
        at_once = max(1, (4 << 20) // record)
        for start in range(0, shape[0], at_once):
            count = min(at_once, shape[0] - start)
            content = stream.read(count * record)
            if len(content) < count * record:
                raise ValueError(f"cut short: holds {start + len(content) // record} of {shape[0]} images")
            yield np.frombuffer(content, dtype).reshape(count, *shape[1:])


def _array_pixels(path: Path, size: int, channels: int, fit: str) -> tuple[int, Iterator[Pixels | BadFile]]:
    """The number of an array's images, and each of them at [size, size, channels]."""
    with _open_array(path) as (_, dtype, shape):
        pass
    height, width, own = _image_shape(shape)
    if own != channels and not {own, channels} <= {1, 3, 4}:
        raise UsageError(f"--channels {channels}: the images of {path} have {own}; leave the flag out")
    scale, offset = _float_scale(path) if dtype.kind == "f" else (255 if dtype.kind == "b" else 1, 0)

    def pixels() -> Iterator[Pixels | BadFile]:
        for records in _array_records(path):
            if dtype.kind == "f":
                records = np.round(records.astype(np.float64) * scale + offset)
            images = records.astype(np.uint8) * np.uint8(scale if dtype.kind == "b" else 1)
            images = images.reshape(-1, height, width, 1) if len(shape) == 3 else images
            for image in images.transpose(0, 2, 3, 1) if len(shape) == 4 and shape[1] == own else images:
                yield _fit_array(image, size, channels, fit)

    return shape[0], pixels()


def _float_scale(path: Path) -> tuple[float, float]:
    """(scale, offset) that bring an array of floats from [0, 1], or else from [-1, 1], to [0, 255]."""
    lowest, highest = math.inf, -math.inf
    for records in _array_records(path):
        lowest, highest = np.minimum(lowest, records.min()), np.maximum(highest, records.max())  # keeps NaN
    if not (lowest >= -1 and highest <= 1):
        raise DataError(f"{path}: floats from {lowest:g} to {highest:g}; takes [0, 1] or [-1, 1]")
    return (255.0, 0.0) if lowest >= 0 else (127.5, 127.5)


def _fit_array(image: Pixels, size: int, channels: int, fit: str) -> Pixels:
    own = image.shape[2]
    if image.shape == (size, size, channels):
        return image
    if {own, channels} <= {1, 3, 4}:
        return fit_image(Image.fromarray(image[:, :, 0] if own == 1 else image), size, channels, fit)
    layers = [fit_image(Image.fromarray(image[:, :, c]), size, 1, fit) for c in range(own)]
    return np.concatenate(layers, axis=2)


# ---- Toy sets (Gulrajani et al. 2017, section 3.1; sizes and scales of the authors' code)


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


# ---- Batches


@dataclass
class Dataset:
    """Rows to train on: uint8 images [N, H, W, C] mapped from the cache, or float32 points [N, D]."""

    rows: NDArray[Any]
    fingerprint: str  # of the content: the same wherever the files lie
    mapped: mmap.mmap | None = None
    chosen: NDArray[np.int64] | None = None  # the rows that belong to this part of a split, all if None
    _resident: int = 0

    def __len__(self) -> int:
        return len(self.rows if self.chosen is None else self.chosen)

    def split(self, fraction: float, batch: int, seed: int) -> tuple[Dataset, Dataset | None]:
        """(rows to train on, rows held out), of which the seed says which, and fraction and batch how many.

        At least a batch is held out; nothing where there are less than five batches in all.
        """
        if not fraction or len(self) < 5 * batch:
            return self, None
        held = max(batch, round(fraction * len(self)))
        order = np.random.default_rng([seed, 0, 1]).permutation(len(self))  # unlike that of any epoch
        kept, heldout = (
            replace(self, chosen=part, fingerprint=_digest([self.fingerprint, seed, held, name])[:16])
            for name, part in (("kept", order[held:]), ("held out", order[:held]))
        )
        return kept, heldout

    def batch(self, number: int, size: int, seed: int, device: torch.device) -> Tensor:
        """Batch `number` since the start of training, [B, *shape] float32, images in [-1, 1].

        An epoch is a new permutation of the rows; its last, incomplete batch is left out. It follows from (seed,
        number) alone, so the position in the data is one number.
        """
        rows = torch.from_numpy(np.take(self.rows, self._index(number, size, seed), axis=0)).to(device)
        self._give_back(size * max(FAULT_BYTES, rows[0].nbytes))
        if self.mapped and len(self.mapped) > RESIDENT_BYTES:
            self._announce(self._index(number + 1, size, seed), rows[0].nbytes)
        return to_unit(rows) if rows.dtype == torch.uint8 else rows

    def at(self, places: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of these rows of this part, as they are stored."""
        return np.take(self.rows, places if self.chosen is None else self.chosen[places], axis=0)

    def _index(self, number: int, size: int, seed: int) -> NDArray[np.int64]:
        epoch, place = divmod(number, len(self) // size)
        index = _permutation(seed, epoch, len(self))[place * size : (place + 1) * size]
        return index if self.chosen is None else self.chosen[index]

    def _announce(self, index: NDArray[np.int64], row: int) -> None:
        """Have the system read these rows from the disk while the batch before them is computed on."""
        assert self.mapped
        for first in (index * row).tolist() if hasattr(mmap, "MADV_WILLNEED") else ():
            start = first - first % mmap.PAGESIZE
            self.mapped.madvise(mmap.MADV_WILLNEED, start, first + row - start)

    def _give_back(self, read: int) -> None:
        """Let the system take pages of the map back, so that the process does not grow to the size of the data."""
        self._resident += read
        if self.mapped and self._resident > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)
            self._resident = 0


@lru_cache(maxsize=3)  # of the part that is trained on, for this epoch and the next, and of the held-out one
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, C] → float32 [B, C, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pixels(samples: Tensor) -> Tensor:
    """float [B, C, H, W] in [-1, 1] → uint8 [B, H, W, C], the inverse of `to_unit`."""
    return samples.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
