"""wgan critic-score."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import click

from .. import DataError, UsageError
from ..console import Console, printable
from .options import (
    any_path,
    check_stdout,
    checkpoint_argument,
    command,
    device_option,
    null_option,
    option,
    seed_option,
    shard_option,
)


@command("critic-score", short_help="Rank images by a checkpoint's critic.")
@checkpoint_argument()
@click.argument("paths", nargs=-1, type=any_path, metavar="PATHS...")
@null_option()
@option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@option("--summary", is_flag=True, help="Add the means on these images and on as many samples, and their difference.")
@option("--class", "class_name", metavar="NAME", help="Of all images.  [default: the name of each one's folder]")
@seed_option("Of the summary's samples.")
@shard_option("Only the I-th of N parts of the images: N processes share the work.")
@device_option()
@click.pass_obj
def critic_score(
    console: Console,
    /,
    checkpoint: Path,
    paths: tuple[str, ...],
    null: bool,
    as_json: bool,
    summary: bool,
    class_name: str | None,
    seed: int,
    shard: tuple[int, int],
    device: str,
) -> None:
    """\b
    wgan critic-score run/ckpt.pt imgs/ | sort -g | head       the least real
    find . -name '*.png' -print0 | wgan critic-score -0 run/ckpt.pt - | sort -gz
    wgan critic-score run/ckpt.pt a.png b.zip --json --summary

    Score images by the critic, the higher the more real: a line `SCORE<TAB>PATH` each, in order.

    PATHS are images, folders, zips, arrays (.npy, .npz, idx), or `-` for a list on stdin; with -0 paths
    end with NUL, read and written. Without it, control characters in a path are escaped. A file that
    cannot be read is named on stderr, the rest is scored, and the exit code is 3.
    """
    if not paths:
        raise click.UsageError("name images, folders or zips, or `-` for a list on standard input")
    if summary and shard[1] > 1:
        raise UsageError(f"--shard {shard[0]}/{shard[1]}: --summary is of all images; take it in a run of its own")
    check_stdout()

    from ..checkpoint import networks
    from ..data.decode import BadFile
    from ..data.source import find_images, read_paths
    from ..score import class_numbers, mean_on_samples, score_images, share_of

    # Of one reading, as a run may write another checkpoint meanwhile.
    (critic, *others), config, _ = networks(checkpoint, ("critic", "generator") if summary else ("critic",), device)
    listed = [path for name in paths for path in (read_paths(sys.stdin.buffer, null) if name == "-" else [name])]
    items = find_images(listed)
    numbers, share = class_numbers(config.classes, items, class_name), share_of(items, shard)
    stdout, scores, of_class, bad = sys.stdout.buffer, [], [], 0
    for name, result, number in score_images(critic, config, items, numbers, share):
        if isinstance(result, BadFile):
            bad += 1
            console.error(f"{name}: {result.reason}")
            continue
        scores.append(float(result))
        of_class.append(number)
        stdout.write(_score_record(name, str(result), null, as_json))
        if not stdout.isatty():  # where a bar would run into the records
            console.progress("scoring", len(scores) + bad, len(share.wanted))
    console.erase()  # an array that breaks off counts as one
    if summary and scores:
        mean = sum(scores) / len(scores)
        on_samples = mean_on_samples(critic, others[0], config, len(scores), seed, of_class if numbers else ())
        figures = {
            "images": len(scores),
            "mean_real": mean,
            "mean_samples": on_samples,
            "difference": mean - on_samples,
        }
        if as_json:
            stdout.write(json.dumps({"summary": figures}).encode() + b"\n")
        else:
            console.row(" · ".join(f"{name} {value:.6g}" for name, value in figures.items()))
    stdout.flush()
    if not items:
        raise DataError("no images to score; looked for image files, folders and zips")
    if bad:
        raise DataError(f"{bad} of {len(scores) + bad} images could not be read; the other {len(scores)} are scored")


def _score_record(name: str, score: str, null: bool, as_json: bool) -> bytes:
    if as_json:
        return json.dumps({"score": float(score), "path": name}).encode() + b"\n"
    if null:
        return score.encode() + b"\t" + os.fsencode(name) + b"\0"
    safe = re.sub(r"[\x00-\x1f\x7f]", lambda match: printable(match[0]), name)
    return score.encode() + b"\t" + os.fsencode(safe) + b"\n"
