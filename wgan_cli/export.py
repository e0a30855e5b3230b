"""A network as a file for other programs, run against the checkpoint before it gets its name.

`.onnx` and `.pt2` hold layers that any program knows, plain convolutions and their transposes, whatever form training
computes them in; `.safetensors` holds the weights as this package names them. The same checkpoint gives the same bytes.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import UsageError, WganError, __version__
from .checkpoint import networks, restore
from .config import TrainConfig
from .console import Console
from .data.dataset import to_pixels
from .files import replacing, try_lock
from .networks import build_critic, build_generator
from .networks.halving import Doubling, Halving
from .networks.resampling import ConvMeanPool, UpsampleConv
from .sample import CHUNK, generate, latents

# The packages that each form takes to be written and to be run.
FORMS = {".onnx": ("onnx", "onnxscript", "onnxruntime"), ".pt2": (), ".safetensors": ("safetensors",)}
INSTALL = "as in pip install 'wgan[export]'"
CLOSE = 1e-4  # of an output, or of the largest one where that is above 1; rounding stays well under this


def export(
    checkpoint: Path, out: Path, console: Console, *, critic: bool = False, raw: bool = False, uint8: bool = False
) -> None:
    """Write the generator, with averaged weights unless `raw`, or the `critic` to `out`, whose ending is the form.

    uint8: a generator that gives RGB bytes [batch, 3, H, W]. Raises UsageError for a package that is missing, and for
    a network that cannot give bytes; WganError for a file that does not give what the checkpoint gives on 64 latents:
    `out` is left as it was.
    """
    form = out.suffix.lower()
    if missing := [name for name in FORMS[form] if not importlib.util.find_spec(name)]:
        raise UsageError(f"-o {out}: {form} needs {' and '.join(missing)}, {INSTALL}")
    (generator, scorer), config, _ = networks(checkpoint, ("generator", "critic"), "cpu", raw)
    if uint8 and (not config.size or config.channels not in (1, 3)):
        given = f"images of {config.channels} channels" if config.size else "points"
        raise UsageError(f"--uint8: makes RGB of grey or colour images, and this checkpoint draws {given}")
    inputs, names = [torch.from_numpy(latents(0, range(CHUNK), config.latent))], ["latent"]
    picture = output = "image" if config.size else "point"
    y = np.arange(CHUNK) % len(config.classes) if config.classes else None
    net = _EightBit(generator) if uint8 else generator
    if critic:
        net, output = scorer, "score"
        inputs, names = [torch.cat([*generate(generator, inputs[0].numpy(), y=y)])], [picture]
    if y is not None:
        inputs, names = [*inputs, torch.from_numpy(y)], [*names, "class"]
    with torch.inference_mode():
        wanted = net(*inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        with _hushed(), torch.no_grad():
            if form == ".safetensors":
                content, note = _safetensors(net, config, "critic" if critic else "generator")
            else:
                content, note = _WRITERS[form](_traced(_plain(net), inputs), names, output)
        file.write(content)
        file.flush()
        with _hushed(), torch.no_grad():
            found = _READERS[form](file.name, names, inputs)
        try_lock(file.fileno())  # which went when the reader closed the file
        difference = float((found.double() - wanted.double()).abs().max()) if found.shape == wanted.shape else np.inf
        limit = 1.0 if uint8 else CLOSE * max(1.0, float(wanted.abs().max()))
        if found.dtype != wanted.dtype or not difference <= limit:
            raise WganError(
                f"{out}: not written, as the file would differ from the checkpoint by {difference:.3g} on {CHUNK} "
                f"latents, and {limit:.3g} is the most; try other versions of torch{', '.join(['', *FORMS[form]])}"
            )
    unit = " of 255 levels" if uint8 else ""
    console.notice(f"{note}; differs from the checkpoint by {difference:.3g}{unit} at most, on {CHUNK} latents")


class _EightBit(nn.Module):
    """A generator whose images are RGB, uint8 [B, 3, H, W], rounded as in the files of `wgan sample`; grey thrice."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return to_pixels(self.generator(x, y)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)


def _plain(net: nn.Module) -> nn.Module:
    """The same function of layers of torch's own; spectral norms and kernels that are sums become weights."""
    for name, layer in [*net.named_modules()]:
        if parametrize.is_parametrized(layer):
            parametrize.remove_parametrizations(layer, "weight")
        if isinstance(layer, (Halving, Doubling, ConvMeanPool, UpsampleConv)):
            kernel = getattr(layer, "kernel", layer.weight)  # of what puts it together at each call
            up = isinstance(layer, (Doubling, UpsampleConv))
            maps_in, maps_out = kernel.shape[:2] if up else kernel.shape[1::-1]
            kind = nn.ConvTranspose2d if up else nn.Conv2d
            size, biased = kernel.shape[-1], layer.bias is not None
            plain = kind(maps_in, maps_out, size, stride=2, padding=size // 2 - 1, bias=biased, device="meta")
            plain.weight = nn.Parameter(kernel.contiguous(), requires_grad=False)
            plain.bias = layer.bias
            net.set_submodule(name, plain)
    return net


def _traced(net: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """A torch.export.ExportedProgram of any batch, and without the places of the code on this machine."""
    example = tuple(tensor.new_zeros(2, *tensor.shape[1:]) for tensor in inputs)  # a batch of 1 would stay one
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, example, dynamic_shapes=tuple({0: batch} for _ in example))
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    return program


def _onnx(program: Any, names: list[str], output: str) -> tuple[bytes, str]:
    made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=[output])
    assert made is not None
    model: Any = made.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.ClearField("value_info")  # which has torch's own name of the batch, and may be inferred
    return model.SerializeToString(deterministic=True), f"ONNX, opset {model.opset_import[0].version}"


def _run_onnx(path: str, names: list[str], inputs: Sequence[Tensor]) -> Tensor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    return torch.from_numpy(session.run(None, arrays)[0])


def _pt2(program: Any, names: list[str], output: str) -> tuple[bytes, str]:
    buffer = BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue(), f"torch.export of torch {torch.__version__}"


def _run_pt2(path: str, names: list[str], inputs: Sequence[Tensor]) -> Tensor:
    with open(path, "rb") as file:
        found: Tensor = torch.export.load(file).module()(*inputs)
    return found


def _safetensors(net: nn.Module, config: TrainConfig, name: str) -> tuple[bytes, str]:
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    about = {"wgan": __version__, "network": name, "config": config.as_dict()}
    content: bytes = save(weights, {"wgan": json.dumps(about)})  # one entry, as entries come in any order
    return content, f"{len(weights)} tensors"


def _run_safetensors(path: str, names: list[str], inputs: Sequence[Tensor]) -> Tensor:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["wgan"])
        weights = {name: file.get_tensor(name) for name in file.keys()}
    build: Callable[[TrainConfig], nn.Module] = build_critic if about["network"] == "critic" else build_generator
    found: Tensor = restore(build, TrainConfig.from_dict(about["config"]), weights, path).eval()(*inputs)
    return found


_WRITERS = {".onnx": _onnx, ".pt2": _pt2}
_READERS = {".onnx": _run_onnx, ".pt2": _run_pt2, ".safetensors": _run_safetensors}


@contextmanager
def _hushed() -> Iterator[None]:
    """What the libraries say of themselves does not reach the user: warnings, logs and prints."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
