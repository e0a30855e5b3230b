"""Mutated images, zips, arrays, checkpoints and flags, by hypothesis: the command line ends each as it documents.

    python tests/fuzz.py [--inputs 2400] [--seed 0] [KIND ...]

An input is a call of `main` with captured streams; every hundredth is a process of its own as well. A worker
process that a memory limit, a hang or a crash of a decoder would end runs each part of a kind.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import io
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import hypothesis
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from tiny import call, memory, memory_now, new_run, save, wgan

from wgan_cli.cli import cli
from wgan_cli.data.dataset import Batch
from wgan_cli.data.decode import open_zip
from wgan_cli.step import critic_step, generator_step

CODES = {0, 1, 2, 3, 4, 75, 130, 141, 143}
SECONDS = 20  # that no input may take
GROWTH = 1 << 30  # bytes that none may take
PART = 200  # inputs of a worker
TRAIN = (
    "--arch",
    "mlp",
    "--width",
    "4",
    "--latent",
    "2",
    "--batch",
    "1",
    "--n-critic",
    "1",
    "--steps",
    "2",
    "-o",
    "run",
)


class Case(NamedTuple):
    """Files to make, and words to call `wgan` with, in a folder that also holds a good ckpt.pt and in.png."""

    files: dict[str, bytes]
    words: tuple[str, ...]


# ---- Good inputs


def image_files() -> dict[str, list[bytes]]:
    """By suffix: the modes and options that a format has."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (20, 24, 4), dtype=np.uint8))
    wide = Image.fromarray(rng.integers(0, 65535, (20, 24), dtype=np.uint16))

    def of(form: str, image: Image.Image, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    rgb, grey, palette = colour.convert("RGB"), colour.convert("L"), colour.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        ".png": [of("PNG", i) for i in (colour, rgb, grey, palette, wide)] + [of("PNG", rgb, exif=exif)],
        ".jpg": [of("JPEG", i) for i in (rgb, grey, colour.convert("CMYK"))]
        + [of("JPEG", rgb, progressive=True, exif=exif)],
        ".webp": [of("WEBP", i, lossless=flag) for i in (colour, rgb) for flag in (False, True)],
        ".bmp": [of("BMP", i) for i in (colour, rgb, grey, palette, grey.convert("1"))],
        ".tif": [of("TIFF", i) for i in (colour, wide, grey.convert("F"), grey.convert("1"))]
        + [of("TIFF", rgb, compression=c) for c in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")],
        ".gif": [of("GIF", palette), of("GIF", grey), of("GIF", palette, save_all=True, append_images=[grey])],
    }


def arrays() -> list[bytes]:
    found = []
    for shape in ((3, 8, 8), (3, 8, 8, 3), (2, 3, 8, 8)):
        for dtype in ("uint8", "bool", "float32"):
            buffer = io.BytesIO()
            np.save(buffer, np.ones(shape, dtype))
            found.append(buffer.getvalue())
    return found


def checkpoints() -> list[bytes]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        classes = {"labels": "folders", "classes": ("a", "b")}
        for given in (
            {},
            {"variant": "clip", "arch": "mlp"},
            {"ema": 0.9, "optimizer": "sgd"},
            {"variant": "r3", "arch": "r3", **classes},
        ):
            state = new_run(latent=2, **given)
            batch = Batch(torch.zeros(8, 3, 16, 16), torch.arange(8) % 2 if "classes" in given else None)
            for _ in range(state.config.n_critic):
                critic_step(state, batch)
            state.batches += state.config.n_critic
            generator_step(state, batch)
            found.append(save(state, Path(folder, "a.pt")).read_bytes())
    return found


IMAGES, ARRAYS, CHECKPOINTS = image_files(), arrays(), checkpoints()
_labels = io.BytesIO()
np.save(_labels, np.arange(3))
LABELS = _labels.getvalue()
IDX = [bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 8, 8) + bytes(256)]
IDX += [gzip.compress(IDX[0], mtime=0)]

# ---- Mutations


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after some edits: bytes put over others or between them, taken out, or repeated."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([1, 2, 4, 8, 100, 10**6]))
        edit = draw(st.sampled_from(["over", "over", "over", "in", "out", "twice"]))
        if edit in ("over", "in"):
            new = draw(st.binary(max_size=8) | st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"]))
            content[start : start + (len(new) if edit == "over" else 0)] = new
        else:
            part = content[start : start + length]
            content[start : start + length] = part * 2 if edit == "twice" else b""
    return bytes(content)


def with_checksums(png: bytes) -> bytes:
    """A PNG's chunks with the checksums that they should have, else what they hold would not be looked at."""
    out, place = png[:8], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        body = png[place + 4 : place + 8 + length]
        out += png[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return out + png[place:]


NAMES = st.sampled_from(
    ["../../up.png", "/tmp/wgan-fuzz-absolute.png", "a/../b.png", "\x1b[2J\n.png", "\udcff.png", "a.png"]
)


@st.composite
def mutated_zip(draw: st.DrawFn, seeds: Sequence[bytes], names: st.SearchStrategy[str] | None = None) -> bytes:
    """A zip with one entry mutated under a checksum that is right, perhaps renamed or compressed, or its own bytes."""
    whole = draw(st.sampled_from(seeds))
    if draw(st.integers(0, 3)) == 0:
        return draw(mutated([whole]))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = draw(st.sampled_from(old.namelist()))
        method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
        for name in old.namelist():
            content = old.read(name)
            if name == chosen:
                content = draw(mutated([content]))
                name = (
                    draw(names).encode(errors="replace").decode() if names is not None and draw(st.booleans()) else name
                )
            new.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=8), st.just(10**5000),
    st.sampled_from(["\x1b[2J", "a\nb", "x" * 10**5, "gp", "clip", "dcgan", "adam", "sgd"]), st.lists(st.integers()),
    st.lists(st.integers(0, 70), max_size=4).map(torch.zeros),
    st.just(torch.zeros(1).expand(10**9)), st.just(torch.full((4,), float("nan"))),
)  # fmt: skip


@st.composite
def replanted(draw: st.DrawFn) -> bytes:
    """A checkpoint with one part, however deep, replaced or taken out."""
    content = torch.load(io.BytesIO(draw(st.sampled_from(CHECKPOINTS))), weights_only=True)
    place = content
    while True:
        keys = list(place.keys()) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 4)) == 0:
            break
        place = inner
    if isinstance(place, dict) and draw(st.integers(0, 4)) == 0:
        del place[key]
    else:
        place[key] = draw(LEAVES)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


# ---- Kinds of input


@st.composite
def labels_case(draw: st.DrawFn) -> Case:
    """Images whose classes stand in a mutated dataset.json or array."""
    png, name = IMAGES[".png"][1], draw(st.sampled_from(["in.zip", "in.npz"]))
    text = b'{"labels": [["a.png", 0], ["d/b.png", "x"]]}'
    whole = zipped({"a.png": png, "d/b.png": png, "dataset.json": text})
    if name == "in.npz":
        whole = zipped({"images.npy": ARRAYS[0], "labels.npy": LABELS})
    if name == "in.zip" and draw(st.booleans()):
        whole = zipped({"a.png": png, "d/b.png": png, "dataset.json": draw(mutated([text]))})
    else:
        whole = draw(mutated_zip([whole]))
    how = draw(st.sampled_from(["file", "file", "folders"]))
    return Case({name: whole}, ("train", "--data", name, "--labels", how, "--size", "16", "--channels", "1", *TRAIN))


@st.composite
def data_case(draw: st.DrawFn, name: str, content: st.SearchStrategy[bytes]) -> Case:
    words = [("train", "--data", name, *TRAIN), ("train", "--data", name, *TRAIN, "--skip-bad", "--size", "16")]
    scored = [] if "npz" in name or "npy" in name or "idx" in name else [("critic-score", "ckpt.pt", name, "in.png")]
    return Case({name: draw(content)}, draw(st.sampled_from(words + scored)))


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


@st.composite
def checkpoint_case(draw: st.DrawFn) -> Case:
    content = draw(mutated_zip(CHECKPOINTS) | replanted() | mutated(CHECKPOINTS))
    resumed = "train --data in.png --size 16 --channels 3 --width 4 --batch 1 --latent 2 --steps 3 -o run"
    read = [
        "info bad.pt",
        "info bad.pt --json",
        "sample bad.pt",
        "sample bad.pt -n 2 -o x.npz",
        "sample bad.pt -n 1 -o -",
        "sample bad.pt --class all -n 2",
    ]
    words = draw(st.sampled_from([*read, "critic-score bad.pt in.png", resumed]))
    return Case({"run/ckpt.pt" if words == resumed else "bad.pt": content}, tuple(words.split()))


ODD = st.sampled_from(
    "0 1 2 -1 3.5 1e-3 1e30 1e400 nan inf -inf 16 28 64 257 1000000000000 99999999999999999999999 0x10 ٣ 1_0 , 0.5,0.9 "
    "gp clip gan ns mlp dcgan adam rmsprop sgd crop pad stretch none batch layer bf16 fp32 auto cpu cuda 5s 1h 0s "
    "toy:8gaussians toy:x in.png ckpt.pt run/ missing - . / x.png x.npz x/ ".split(" ")
) | st.text(st.characters(exclude_characters="\0"), max_size=5)


@st.composite
def flags_case(draw: st.DrawFn) -> Case:
    """Any options of a command with values that they may or may not take; sizes that would cost time are kept low."""
    name = draw(st.sampled_from(["train", "train", "sample", "critic-score", "info", "evaluate"]))
    words = [name]
    options = [o for o in cli.commands[name].params if isinstance(o, click.Option)] if name in cli.commands else []
    for option in draw(st.lists(st.sampled_from(options), max_size=5)) if options else []:
        words.append(draw(st.sampled_from(option.opts)))
        if not option.is_flag:
            choices = list(option.type.choices) if isinstance(option.type, click.Choice) else []
            fitting = st.sampled_from(choices) if choices else st.integers(0, 9).map(str) | st.floats(0, 2).map(str)
            words.append(draw(ODD if draw(st.integers(0, 3)) == 0 else fitting))
    if name == "train":
        words += ["--data", draw(st.sampled_from(["in.png", "toy:8gaussians", "."]))] if draw(st.booleans()) else []
        words += [] if draw(st.booleans()) else ["--dry-run"]
        # And that it does not work for hours, or in gigabytes, as asked; a dry run takes some steps.
        words += ["--width", "4", "--batch", "1", "--latent", "2", "--n-critic", "1", "--steps", "1", "-o", "run"]
    elif name == "sample":
        words += ["-n", draw(st.sampled_from(["1", "3", "1000000000000"])), "--interpolate", "2", "--truncation", "3"]
    words += draw(st.lists(st.sampled_from(["ckpt.pt", "in.png", "missing", ".", "-"]), max_size=3))
    return Case({}, tuple(word for word in words if word != "--debug"))


KINDS: dict[str, st.SearchStrategy[Case]] = {
    **{suffix[1:]: data_case("in2" + suffix, mutated(seeds)) for suffix, seeds in IMAGES.items()},
    "png-checksums": data_case("in2.png", mutated(IMAGES[".png"]).map(with_checksums)),
    "zip": data_case(
        "in.zip", mutated_zip([zipped({f"d/{i}{s}": f[i] for i in range(2)}) for s, f in IMAGES.items()], NAMES)
    ),
    "npy": data_case("in.npy", mutated(ARRAYS)),
    "npz": data_case("in.npz", mutated_zip([zipped({"images.npy": a, "y.npy": ARRAYS[0]}) for a in ARRAYS[3:]])),
    "labels": labels_case(),
    "idx": data_case("in-idx3-ubyte", mutated(IDX)),
    "checkpoint": checkpoint_case(),
    "flags": flags_case(),
}
SHARES = {"zip": 2, "checkpoint": 4, "flags": 3, "npz": 2}  # of the inputs, of the others 1 each

# ---- Running them


def check(case: Case, folder: Path, as_process: bool) -> int:
    """Run the case in a new folder; its exit code. AssertionError for what is not documented."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {"ckpt.pt": CHECKPOINTS[0], "in.png": IMAGES[".png"][1], **case.files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "words.json").write_text(json.dumps(case.words))
    os.chdir(folder)
    open_zip.cache_clear()  # which knows zips by names, as no process meets two of one name
    before = memory_now()
    done = wgan(*case.words, timeout=SECONDS) if as_process else call(*case.words)
    shown = f"{case.words}: {done.code}, {done.err[-600:]!r}, in {folder}"
    assert done.code in CODES, shown
    assert "Traceback" not in done.err and "--debug shows where" not in done.err, shown
    assert "MemoryError" not in done.err and not re.search(r"[^\n -~\xa0-\U0010ffff]", done.err), shown
    assert memory("VmHWM") - before < GROWTH, f"{memory('VmHWM') - before} bytes for {shown}"
    assert not Path("/tmp/wgan-fuzz-absolute.png").exists() and not (folder.parent / "up.png").exists(), shown
    return done.code


def run(kind: str, inputs: int, seed: int, every: int = 100) -> Counter[int]:
    """How often each exit code came; each `every`th input is run as a process, too."""
    codes: Counter[int] = Counter()
    home = Path(tempfile.mkdtemp(prefix=f"wgan-fuzz-{kind}-"))
    os.environ["WGAN_CACHE"] = str(home / "case" / "cache")
    hidden = {"matplotlib": None, "matplotlib.figure": None}  # it would take the most of the time
    before = {name: sys.modules.get(name) for name in hidden}
    sys.modules.update(hidden)  # type: ignore[arg-type]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(KINDS[kind])
    def one(case: Case) -> None:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            code = check(case, home / "case" / str(sum(codes.values())), False)
            codes[code] += 1
            if sum(codes.values()) % every == 0:
                assert check(case, home / "case" / "process", True) == code
        finally:
            faulthandler.cancel_dump_traceback_later()
        os.chdir(home)
        shutil.rmtree(home / "case")

    here = Path.cwd()
    try:
        one()
    finally:
        os.chdir(here)
        sys.modules.update({name: module for name, module in before.items() if module})
        for name in hidden.keys() - {name for name, module in before.items() if module}:
            del sys.modules[name]
    shutil.rmtree(home)
    return codes


def work(kind: str, inputs: int, seed: int) -> None:
    torch.set_num_threads(1)
    limit = memory("VmSize") + 2 * GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print(json.dumps(run(kind, inputs, seed)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []])
    given = parser.parse_args()
    if given.worker:
        work(given.kinds[0], given.inputs, given.seed)
        return
    total, failed = 0, []
    for kind in given.kinds or KINDS:
        left = given.inputs * SHARES.get(kind, 1) // sum(SHARES.get(name, 1) for name in given.kinds or KINDS)
        codes: Counter[str] = Counter()
        for part, start in enumerate(range(0, left, PART)):
            words = [kind, "--worker", "--inputs", str(min(PART, left - start)), "--seed", str(given.seed + part)]
            done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                failed.append(" ".join(words))
            else:
                codes.update(json.loads(done.stdout.splitlines()[-1]))
        total += sum(codes.values())
        print(f"{kind:14} {sum(codes.values()):5} inputs; exit codes {dict(sorted(codes.items()))}", flush=True)
    print(f"{total} inputs, {len(failed)} parts failed: {failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
