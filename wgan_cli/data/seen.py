"""What a checkpoint tells of the data of its run: which samples were trained on, and which were held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import TrainConfig
from .dataset import Dataset
from .source import digest
from .split import Contents, held_out, held_out_by_format_1, split_digest

MOST_NAMED = 5


@dataclass(frozen=True)
class Seen:
    """Of each sample of a run, in order: the digest of its file, and whether it was held out."""

    fingerprint: str
    pixels: str
    count: int
    held: NDArray[np.bool_]  # [count]
    contents: Contents | None  # [count], None of points and in checkpoints of format 1
    gone: Contents  # trained on before, and in the data no more
    changes: list[dict[str, Any]]
    labels: str = ""  # digest of the classes of all samples
    class_counts: Sequence[int] = ()  # samples of each class

    @classmethod
    def of(cls, block: Mapping[str, Any], config: TrainConfig) -> Seen:
        """What stands under `data` in a checkpoint, as `block` and before it format 1 wrote it."""
        count = block["count"]
        if "split" not in block:
            held = held_out_by_format_1(count, config.holdout, config.batch, config.seed)
            return cls("", block["fingerprint"], count, held, None, _numbers(torch.zeros(0, 8)), [])
        contents = _numbers(block["contents"]) if len(block["contents"]) == count else None
        held, gone = block["held"].numpy().astype(bool), _numbers(block["gone"])
        facts = block["fingerprint"], block["pixels"], count, held, contents, gone, block["changes"]
        return cls(*facts, block.get("labels", ""), block.get("class_counts", ()))

    @property
    def trained_on(self) -> Contents:
        assert self.contents is not None
        return np.union1d(self.contents[~self.held], self.gone)

    def is_of(self, data: Dataset) -> bool:
        """Whether these are the samples of the run as a whole: the same files, or the same pixels."""
        return len(data.rows) == self.count and (
            self.fingerprint == data.fingerprint or self.pixels == data.pixels != ""
        )

    def sides(self, data: Dataset) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(trained on, held out) of each row of any data, as far as the checkpoint tells."""
        trained, held = ~self.held, self.held
        if not self.is_of(data):
            trained = held = np.zeros(len(data.rows), np.bool_)
        if self.contents is not None and data.contents is not None:
            trained = trained | np.isin(data.contents, self.trained_on)
            held = (held | np.isin(data.contents, self.contents[self.held])) & ~trained
        return trained, held

    def changed(self, data: Dataset) -> str:
        """In words, in what the files differ."""
        if self.contents is None or data.contents is None:
            return f"{self.count} samples, while --data now has {len(data.rows)}"
        before, now = Counter(self.contents.tolist()), Counter(data.contents.tolist())
        more, gone = now - before, sum((before - now).values())
        if not more and not gone:
            return f"the same {self.count} images in another order, as after a change of names"
        names = data.names()
        new: list[str] = []
        for row in range(len(names) - 1, -1, -1):  # of copies the last are the new ones
            if more[content := int(data.contents[row])] > 0:
                more[content] -= 1
                new.append(names[row])
        new.reverse()
        told = ", ".join(new[:MOST_NAMED]) + (f" and {len(new) - MOST_NAMED} others" if len(new) > MOST_NAMED else "")
        return (
            f"of its {self.count} images {gone or 'none'} {'is' if gone == 1 else 'are'} gone, and of the "
            f"{len(data.rows)} that --data now has {len(new) or 'none'} {'is' if len(new) == 1 else 'are'} new"
            + (f": {told}" if new else "")
        )

    def take_up(self, data: Dataset) -> None:
        """Let the data of the run, as a whole, be split as they were."""
        data.held, data.gone, data.changes = self.held, self.gone, self.changes

    def take_up_changed(self, data: Dataset, config: TrainConfig, step: int) -> None:
        """Let other data take the place of those of the run; what was known stays on its side."""
        assert self.contents is not None and data.contents is not None
        trained, count = self.trained_on, len(data.rows)
        held = self.contents[self.held]
        rule = (count, config.holdout, config.batch, config.seed)
        data.held = held_out(*rule, data.contents, trained, held, data.labels)
        data.gone = np.setdiff1d(trained, data.contents)
        data.changes = [*self.changes, {"step": step, "fingerprint": data.fingerprint, "count": count}]


def block(data: Dataset, batches: int) -> dict[str, Any]:
    """What a checkpoint holds of the data, of which `batches` were taken."""
    held = np.zeros(len(data.rows), np.bool_) if data.held is None else data.held
    return {
        "fingerprint": data.fingerprint,
        "count": len(data.rows),
        "batches": batches,
        "pixels": data.pixels,
        "contents": _bytes(np.zeros(0, np.uint64) if data.contents is None else data.contents),
        "held": torch.from_numpy(held.astype(np.uint8)),
        "split": split_digest(held),
        "gone": _bytes(data.gone),
        "changes": data.changes,
        "labels": labels_digest(data),
        "class_counts": [] if data.labels is None else np.bincount(data.labels).tolist(),
    }


def labels_digest(data: Dataset) -> str:
    """Empty where there are no classes."""
    return "" if data.labels is None else digest(data.labels.tolist())


def wrong_in(block: Mapping[str, Any], classes: int) -> list[str]:
    """The parts of a checkpoint's `data`, each of its type, that do not go together."""
    count, held = block["count"], block["held"]
    wrong = [name for name in ("contents", "gone", "held") if block[name].dtype != torch.uint8]
    wrong += [name for name in ("contents", "gone") if block[name].dim() != 2 or block[name].shape[1] != 8]
    if not wrong and len(block["contents"]) not in (0, count):
        wrong.append("contents")
    if "held" not in wrong and (held.shape != (count,) or split_digest(held.numpy().astype(bool)) != block["split"]):
        wrong.append("held")
    counts = block.get("class_counts", [])
    whole = isinstance(counts, list) and all(type(number) is int and 0 <= number <= count for number in counts)
    if not whole or len(counts) != classes or bool(sum(counts)) != bool(classes):
        wrong.append("class_counts")
    return wrong


def _bytes(contents: Contents) -> Tensor:
    """[N, 8]"""
    return torch.from_numpy(contents.astype("<u8").view(np.uint8).reshape(-1, 8).copy())


def _numbers(contents: Tensor) -> Contents:
    return contents.to(torch.uint8).contiguous().numpy().reshape(-1).view("<u8").astype(np.uint64)
