"""wgan sample."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from .. import UsageError
from ..config import RANGES, Range
from ..files import check_writable, names_folder
from .options import (
    any_path,
    check_stdout,
    checkpoint_argument,
    command,
    device_option,
    option,
    seed_option,
    shard_option,
    within,
)

MOST = 2**31  # of images, of which even the numbers fill a machine


@command(short_help="Draw samples from a checkpoint.")
@checkpoint_argument()
@option("-n", "--count", type=within(Range(1, MOST)), metavar="N", help="Number of samples.  [default: 64]")
@option(
    "-o",
    "--out",
    type=any_path,
    default="samples.png",
    show_default=True,
    help="FILE.png (a grid), DIR/ (a file each), FILE.npz, FILE.npy or `-`; of a walk FILE.webp, .gif or .apng.",
)
@seed_option("Of the latents.")
@option(
    "--index", type=within(RANGES["seed"]), metavar="N", help="Begin with this image of the seed; alone, draw only it."
)
@option(
    "--interpolate",
    type=within(Range(2, MOST)),
    metavar="STEPS",
    help="Walk from each of the N latents to the next, a row a pair.  [N: 9]",
)
@option("--loop", is_flag=True, help="Walk from the last latent back to the first.")
@option("--class", "class_name", metavar="NAME", help="Draw this class, or `all`: N of each, a row a class.")
@option("--truncation", type=float, metavar="X", help="Draw latents again beyond this many deviations.")
@option("--raw", is_flag=True, help="Weights of the last step, not their average.")
@option("--nrow", type=within(Range(1, MOST)), metavar="N", help="Images in a row of the grid.")
@option(
    "--scale", type=within(Range(1, 4096)), metavar="N", help="Enlarge pixels of a grid or a walk to squares of side N."
)
@shard_option("Only the I-th of N parts of these images, for a folder or an array: N processes share the work.")
@device_option()
def sample(
    checkpoint: Path,
    count: int | None,
    out: str,
    seed: int,
    index: int | None,
    interpolate: int | None,
    loop: bool,
    class_name: str | None,
    truncation: float | None,
    raw: bool,
    nrow: int | None,
    scale: int | None,
    shard: tuple[int, int],
    device: str,
) -> None:
    """\b
    wgan sample run/ckpt.pt                                    64 images in samples.png
    wgan sample run/ckpt.pt -n 1000 --seed 7 -o faces/         a PNG each
    wgan sample run/ckpt.pt -n 50000 -o samples.npz            an array [N, H, W, C]
    wgan sample run/ckpt.pt -n 16 -o - | display
    wgan sample run/ckpt.pt --class all -n 8                   a row a class
    wgan sample run/ckpt.pt --interpolate 30 --loop -o walk.webp

    Draw samples from a checkpoint; prints the path written.

    Image i of a seed is the same whatever the number of images or the form they are written in. Without --class,
    the classes of a run with --labels come in turn.
    """
    suffix = "" if out == "-" or names_folder(out) else Path(out).suffix.lower()
    moving = suffix in (".webp", ".gif", ".apng")
    if out == "-":
        check_stdout()
        if sys.stdout.isatty():
            raise UsageError("-o - writes a PNG to standard output, which is a terminal; name a file or pipe it on")
    else:
        folder = names_folder(out)
        if not folder and not moving and suffix not in (".png", ".npz", ".npy"):
            raise UsageError(
                f"-o {out}: must end in .png, .npz or .npy, of a walk in .webp, .gif or .apng, or for a folder of PNGs "
                "in /; `-o -` is standard output"
            )
        if scale and not moving and suffix != ".png":
            raise UsageError(f"--scale {scale}: -o {out} is neither a grid nor a walk; enlarge one of these")
        check_writable(Path(out, "*.png") if folder else Path(out), "-o")
    if shard[1] > 1 and (class_name == "all" or not (suffix in (".npz", ".npy") or names_folder(out))):
        raise UsageError(
            f"--shard {shard[0]}/{shard[1]}: one picture, and the rows of all classes, cannot be put together from "
            "parts; name a folder, an .npz or an .npy, and one class"
        )
    if truncation is not None and not truncation >= 0.01:
        raise UsageError(f"--truncation {truncation:g}: must be a number from 0.01; latents are drawn till all fit")
    first = index or 0
    count = count or (1 if index is not None else 9 if interpolate else 8 if class_name == "all" else 64)
    if first + count > 2**63:
        raise UsageError(f"--index {first} with -n {count}: the last index must be below 2^63")
    if moving and not interpolate:
        raise UsageError(f"-o {out}: moves, so it takes --interpolate STEPS to walk by; a grid is a .png")
    if loop and not interpolate:
        raise UsageError("--loop: closes a walk, so it takes --interpolate STEPS")
    if interpolate and count < 2:
        raise UsageError(f"--interpolate {interpolate}: needs -n 2 or more latents to walk between, not {count}")

    from .. import sample as sampling
    from ..checkpoint import network

    generator, config, _ = network(checkpoint, "generator", device, raw)
    rows = sampling.latents(seed, range(first, first + count), config.latent, truncation)
    # Other pictures than those of the seed itself have another name.
    stem = f"seed{seed}" + (f"-truncation{truncation:g}" if truncation else "") + ("-raw" if raw else "")
    if interpolate:
        stem += f"-from{first}-step{interpolate}"
        rows = sampling.interpolate(rows, interpolate, loop)
        first, nrow = 0, nrow or (None if moving else interpolate)
    if moving:
        from ..walk import once, write_walk

        rows = once(rows, interpolate or 0, loop)
        y = sampling.classes_of(config.classes, class_name or ("all" if config.classes else None), range(len(rows)))
        write_walk(generator, rows, out, y=y, columns=nrow, scale=scale or 1)
        click.echo(os.fsencode(out))
        return
    if len(rows) < shard[1]:
        raise UsageError(f"--shard {shard[0]}/{shard[1]}: of {len(rows)} images; take {len(rows)} parts at most")
    mine = sampling.part(len(rows), shard)
    rows, first = rows[mine.start : mine.stop], first + mine.start
    turns = [index // (interpolate or 1) for index in range(first, first + len(rows))]  # a class for a whole row
    y = sampling.classes_of(config.classes, class_name, turns)
    if y is not None and y.ndim == 2:
        nrow = nrow or len(rows)
    elif y is not None and class_name:
        stem += f"-class{y[0]}"
    stdout = sys.stdout.buffer if out == "-" else None
    sampling.write_samples(
        *(generator, rows, out), first=first, y=y, stem=stem, columns=nrow, scale=scale or 1, stdout=stdout
    )
    if out != "-":
        click.echo(os.fsencode(out))
