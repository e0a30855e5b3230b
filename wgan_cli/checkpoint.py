"""Checkpoints: one file of plain data that holds all there is of a run, read with `weights_only=True` alone."""

from __future__ import annotations

import pickletools
import platform
import re
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import DataError, UsageError, __version__, reason
from .config import TrainConfig
from .data.seen import wrong_in
from .device import pick_device
from .files import replacing
from .networks import build_critic, build_generator, parameter_count

FORMAT = 2  # raised when an older version could not read a new file; those of format 1 are read too
KEYS: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "config": dict,  # TrainConfig.as_dict()
    "step": int,  # generator updates done
    "generator": dict,  # state dicts
    "critic": dict,
    "ema": (dict, type(None)),  # the generator's weights averaged over the steps, where --ema asks for it
    "optimizer_generator": dict,
    "optimizer_critic": dict,
    "rng": dict,  # device type, and the generator's state
    "data": dict,  # as `seen.block` makes it
    "versions": dict,
}

# All that the pickle in a checkpoint may name, and what else could name things.
PLAIN = re.compile(r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage")
IMPORTS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
MOST_PICKLED = 16 << 20  # bytes; what train writes is some tens of kilobytes

PARTS: dict[str, dict[str, type]] = {
    "rng": {"device": str, "state": Tensor},
    "data": {"fingerprint": str, "count": int, "batches": int},
}
SINCE_2 = {"pixels": str, "contents": Tensor, "held": Tensor, "split": str, "gone": Tensor, "changes": list}


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Equal content gives equal bytes."""
    buffer = BytesIO()  # torch says no more of a full disk than that it is at an unexpected place
    torch.save(_canonical({"format": FORMAT, **content, "versions": versions()}), buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def _canonical(value: Any) -> Any:
    """Equal content of equal objects: pickle writes a string or a tuple that it has met before as a reference.

    A run that was continued holds copies where one that never stopped holds the same object twice.
    """
    if isinstance(value, dict):
        return {_canonical(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_canonical(entry) for entry in value])
    return sys.intern(value) if isinstance(value, str) else value


def versions() -> dict[str, str]:
    return {
        "wgan": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def load(path: str | Path, read: bytes | None = None) -> tuple[dict[str, Any], TrainConfig]:
    """A checkpoint's content, on the CPU, and its settings. Nothing in the file is ever executed.

    read: the file's content, where another process has read it.

    Raises DataError for anything but a checkpoint that this version can read.
    """
    name = str(path)
    file = path if read is None else BytesIO(read)
    if read is None:
        try:
            open(path, "rb").close()  # zipfile takes a file that it may not read for one that is no archive
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}") from None
    if not zipfile.is_zipfile(file):
        raise DataError(f"{name}: not a checkpoint of wgan, or one that was cut short; train writes them as ckpt.pt")
    try:
        _check_archive(file)
        if isinstance(file, BytesIO):
            file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
        _check_plain(content)
    except UnpicklingError:
        raise DataError(
            f"{name}: holds more than plain data, as no checkpoint of wgan does; refused, nothing was run"
        ) from None
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except Exception as error:  # torch raises nearly everything on broken input
        raise DataError(f"{name}: damaged ({reason(error)}); take an older copy or train again") from None
    if not isinstance(content, dict) or not isinstance(form := content.get("format"), int):
        raise DataError(f"{name}: not a checkpoint of wgan; those of other tools cannot be read")
    if form not in (1, FORMAT):
        raise DataError(
            f"{name}: of format {form if 0 <= form < 1000 else 'unknown'}; "
            f"wgan {__version__} reads formats 1 and {FORMAT}"
        )
    wrong = [key for key, kind in KEYS.items() if not isinstance(content.get(key, ...), kind)]
    wrong += [
        f"{key}.{part}"
        for key, parts in {**PARTS, "data": PARTS["data"] | (SINCE_2 if form > 1 else {})}.items()
        for part, kind in parts.items()
        if key not in wrong and not isinstance(content[key].get(part), kind)
    ]
    counts = [] if wrong else [content["step"], content["data"]["count"], content["data"]["batches"]]
    if wrong or not all(0 <= count < 2**63 for count in counts):
        wrong = wrong or ["step or data, which count below 0 or beyond 2^63"]
        raise DataError(f"{name}: damaged, nothing usable under {', '.join(wrong)}")
    try:
        config = TrainConfig.from_dict(content["config"])
    except (UsageError, TypeError) as error:
        raise DataError(f"{name}: its settings make no run ({reason(error)})") from None
    wrong = wrong_in(content["data"], len(config.classes)) if form > 1 else ["classes"] * bool(config.classes)
    if wrong:
        raise DataError(f"{name}: damaged, data that do not go together: {', '.join(wrong)}")
    return content, config


def _check_archive(file: str | Path | BytesIO) -> None:
    """ValueError if the file is not whole, or would unpack to more than it is: torch looks at neither.

    UnpicklingError for a pickle that names more than tensors, with which even `weights_only` fills the memory.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.lower().endswith("data.pkl")]
        if len(pickles) != 1 or len({entry.filename.lower() for entry in entries}) < len(entries):
            raise ValueError("not one of each entry")  # which of them torch would take is its own affair
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("compressed entries, which train does not write")
        if broken := archive.testzip():
            raise ValueError(f"{broken} is not what was written")
        if pickles[0].file_size > MOST_PICKLED:
            raise ValueError(f"{pickles[0].file_size} bytes beside the tensors")
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if opcode.name in IMPORTS and not (opcode.name == "GLOBAL" and PLAIN.fullmatch(str(argument))):
                raise UnpicklingError(str(argument))


def _check_plain(content: Any) -> None:
    """ValueError unless this is a tree, so that to walk or print it ends, of tensors that are each all of their memory.

    A file of a kilobyte could else hold a list of 10^30 entries, or a tensor as large with a stride of 0.
    """
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        mark = 0
        if isinstance(value, (dict, list, tuple)):
            waiting += [*value.keys(), *value.values()] if isinstance(value, dict) else value
            mark = id(value) if value else 0
        elif isinstance(value, Tensor):
            dense = value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last)
            if not dense or value.nbytes != value.untyped_storage().nbytes():
                raise ValueError(f"a tensor of shape {list(value.shape)} that does not fill its memory")
            mark = value.data_ptr()
        if mark and mark in seen:
            raise ValueError("a part that stands in two places")
        seen.add(mark)


def describe(path: Path, content: Mapping[str, Any], config: TrainConfig) -> dict[str, Any]:
    """What a checkpoint holds, as `load` gives it, in plain figures. `steps` is None of a run whose steps a time limit
    sets."""
    settings = config.as_dict()
    settings |= {"steps": None} if config.by_time else {}
    return {
        "checkpoint": str(path),
        "step": content["step"],
        "sample_shape": config.shape,
        "generator_parameters": parameter_count(restore(build_generator, config, content["generator"], path)),
        "critic_parameters": parameter_count(restore(build_critic, config, content["critic"], path)),
        **{f"data_{name}": value for name, value in content["data"].items() if isinstance(value, (str, int))},
        "data_changes": len(content["data"].get("changes", ())),
        **{f"written_by_{name}": value for name, value in content["versions"].items()},
        **settings,
    }


def network(
    path: str | Path, name: str, device: str = "cpu", raw: bool = False
) -> tuple[nn.Module, TrainConfig, dict[str, Any]]:
    """A checkpoint's `generator` or `critic`, ready to use, its settings, and what it tells of the data of its run.

    The generator has averaged weights if the run kept them, those of the last step if `raw`.
    """
    (built,), config, of_data = networks(path, (name,), device, raw)
    return built, config, of_data


def networks(
    path: str | Path, names: Sequence[str], device: str = "cpu", raw: bool = False
) -> tuple[list[nn.Module], TrainConfig, dict[str, Any]]:
    """The same of several networks, of one step: the file is read once, whoever writes the next meanwhile."""
    where, built = pick_device(device), []
    content, config = load(path)
    for name in names:
        averaged = name == "generator" and not raw and content["ema"] is not None
        build = build_generator if name == "generator" else build_critic
        network = restore(build, config, content["ema" if averaged else name], path)
        built.append(network.to(where).eval().requires_grad_(False))
    return built, config, content["data"]


def restore(
    build: Callable[[TrainConfig], nn.Module], config: TrainConfig, weights: Mapping[str, Tensor], path: str | Path
) -> nn.Module:
    """A network with the given weights. It takes no memory of its own, whatever size the settings claim."""
    try:
        with torch.device("meta"):
            module = build(config)
    except (RuntimeError, TypeError) as error:  # sizes beyond 64 bits
        raise DataError(f"{path}: its settings make no network ({reason(error)})") from None
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
    found = {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items() if torch.is_tensor(tensor)}
    if expected != found:
        wrong = sorted({str(name)[:80] for name, _ in expected.items() ^ found.items()})
        raise DataError(f"{path}: weights that do not fit its settings: {', '.join(wrong[:3])}")
    module.load_state_dict(weights, assign=True)
    return module
