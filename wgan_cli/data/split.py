"""Which samples are held out, and in which order the rest come.

Both follow from raw bits, whose stream numpy promises not to change; it promises no such thing of `permutation`.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

EPOCH, SPLIT = 1, 2  # what a permutation is for
Contents = NDArray[np.uint64]  # [N], the digest of each sample's file


def permutation(count: int, seed: int, epoch: int, purpose: int = EPOCH) -> NDArray[np.int64]:
    """Of 0 … count - 1: the order of as many numbers of Philox 4x64-10 (Salmon et al. 2011), equal ones in turn."""
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, purpose], np.uint64)
    return np.argsort(np.random.Philox(key=key, counter=counter).random_raw(count), kind="stable")


def held_out(
    count: int,
    fraction: float,
    batch: int,
    seed: int,
    contents: Contents | None = None,
    trained: Contents | None = None,  # contents that were trained on before
    held: Contents | None = None,  # and those that were held out
    labels: NDArray[np.int64] | None = None,  # [count]
) -> NDArray[np.bool_]:
    """[count], which samples are held out.

    What was trained on or held out before stays so. Of the others `fraction` is held out, or more until a batch is,
    of each class its share; none of them if there are less than five batches in all. Samples of the same content stay
    together.
    """
    group = np.arange(count) if contents is None else np.unique(contents, return_inverse=True)[1]
    out, new = np.zeros(count, np.bool_), np.ones(count, np.bool_)
    if contents is not None and trained is not None and held is not None:
        seen = np.isin(contents, trained)
        out = np.isin(contents, held) & ~seen
        new = ~(seen | out)
    wanted = round(fraction * int(new.sum()))
    wanted = max(wanted, min(batch - int(out.sum()), int(new.sum()))) if fraction and count >= 5 * batch else 0
    if wanted <= 0:
        return out
    groups = int(group.max()) + 1
    order = permutation(groups, seed, 0, SPLIT)
    sizes = np.bincount(group[new], minlength=groups)
    of_class = np.zeros(groups, np.int64)  # of each group; of copies in several classes, the last one's
    of_class[group] = 0 if labels is None else labels
    counts = np.bincount(of_class, sizes)  # of new samples
    shares = np.diff(np.round(counts.cumsum() * (wanted / counts.sum())), prepend=0)
    chosen = [np.zeros(0, np.int64)]
    for number in np.flatnonzero(shares):
        part = order[of_class[order] == number]
        # Copies of one image that are much of what is wanted come last: they would make it too many.
        part = part[np.argsort(2 * sizes[part] > max(shares[number], 2), kind="stable")]
        chosen.append(part[: int(np.searchsorted(sizes[part].cumsum(), shares[number])) + 1])
    more = out | (new & np.isin(group, np.concatenate(chosen)))
    return more if count - more.sum() >= batch else out


def held_out_by_format_1(count: int, fraction: float, batch: int, seed: int) -> NDArray[np.bool_]:
    """What runs held out whose checkpoints are of format 1."""
    out = np.zeros(count, np.bool_)
    if fraction and count >= 5 * batch:
        held = max(batch, round(fraction * count))
        out[np.random.default_rng([seed, 0, 1]).permutation(count)[:held]] = True
    return out


def split_digest(out: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(out).tobytes() + len(out).to_bytes(8, "little")).hexdigest()[:16]
