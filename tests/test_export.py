"""Exported networks: each form run by others' code gives what the checkpoint gives, of any batch, from plain layers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import call, new_run, save, wgan

from wgan_cli import export, load
from wgan_cli.config import TrainConfig
from wgan_cli.sample import latents

onnx = pytest.importorskip("onnx", reason="no onnx: pip install '.[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="no onnxruntime: pip install '.[export]'")
pytest.importorskip("onnxscript", reason="no onnxscript: pip install '.[export]'")
safetensors = pytest.importorskip("safetensors", reason="no safetensors: pip install '.[export]'")

ROOT = Path(__file__).parent.parent
CLASSES = {"labels": "folders", "classes": ("cat", "dog", "eel")}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "dcgan": {"width": 128, "variant": "ns"},  # so wide that training multiplies matrices between 8x8 and 4x4
    "dcgan-nearest": {"size": (48, 28), "upsample": "nearest", "channels": 1, "width": 16},
    "dcgan-blurred": {"size": (28, 16), "upsample": "blurred", "width": 16},
    "dcgan-palette": {"size": 16, "palette": 3, "upsample": "blurred", "width": 16, **CLASSES},
    "dcgan-self": {"size": 32, "generator_norm": "self", "upsample": "nearest", "width": 16, **CLASSES},
    "dcgan-spectral": {"variant": "hinge", "width": 32, **CLASSES},
    "mlp": {"arch": "mlp", "size": (11, 7), "width": 16},
    "mlp-points": {"arch": "mlp", "size": 0, "channels": 2, **CLASSES},
    "resnet-32": {"arch": "resnet", "size": 28, **CLASSES},
    "resnet-64": {"arch": "resnet", "size": 64, "critic_norm": "layer"},
    "r3-spectral": {"arch": "r3", "variant": "hinge", "size": (16, 28), **CLASSES},
}
# No product of matrices but of the linear layers, no loop over patches, no kernel put together at each call.
PLAIN = {"Conv", "ConvTranspose", "Gemm", "Resize", "BatchNormalization", "InstanceNormalization", "Relu", "LeakyRelu"}
PLAIN |= {"Tanh", "Add", "Mul", "Reshape", "Pad", "Concat", "Gather", "Unsqueeze", "Squeeze", "AveragePool"}
PLAIN |= {"ReduceSum", "Split"}
MORE = {"resnet-64": {"GroupNormalization", "Shape"}, "dcgan-palette": {"Softmax", "Transpose", "MatMul"}}


def make(folder: Path, **settings: Any) -> Path:
    """A checkpoint whose outputs are neither nearly 0 nor the same with averaged weights as without."""
    state = new_run(**{"size": 16, "latent": 6, "ema": 0.9, **settings})
    assert state.ema is not None
    with torch.no_grad():
        for network in (state.generator, state.ema, state.critic):
            for parameter in network.parameters():
                if parameter.dim() > 1:
                    gain = 1.0 if state.config.arch == "r3" else 1.5  # r3 has no norm, and adds up its blocks
                    parameter.normal_(0, gain * (len(parameter) / parameter.numel()) ** 0.5)
                else:
                    parameter.add_(torch.rand_like(parameter) / 10)
            for name, buffer in network.named_buffers():
                if name.endswith("share"):
                    buffer.fill_(0.75)  # of a blur that is coming in
                if "running" in name:
                    buffer.add_(torch.rand_like(buffer))
        y = torch.zeros(2, dtype=torch.int64) if state.config.classes else None
        for _ in range(20 * (state.config.record.constraint == "spectral")):  # for the power method to find the norms
            state.critic.train()(torch.ones(2, *state.config.shape), y)
    return save(state, folder / "ckpt.pt")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    torch.manual_seed(0)


def exported(checkpoint: Path, name: str, *words: str) -> str:
    """What it says on stderr."""
    done = call("export", checkpoint, "-o", name, *words)
    assert (done.code, done.out) == (0, f"{name}\n".encode()), done.err
    return done.err


def run_onnx(name: str, **inputs: NDArray[Any]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == [*inputs]
    (found,) = session.run(None, inputs)
    return np.asarray(found)


def numbers(config: TrainConfig, count: int) -> dict[str, NDArray[np.int64]]:
    return {"class": np.arange(count) % len(config.classes)} if config.classes else {}


def drawn(checkpoint: Path, count: int, *words: str) -> NDArray[Any]:
    assert call("sample", checkpoint, "-n", str(count), "-o", "drawn.npy", *words).code == 0
    return np.load("drawn.npy").astype(float)


def levels(images: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.clip((images.transpose(0, 2, 3, 1) + 1.0) * 127.5, 0, 255)


# ---- ONNX


@pytest.mark.parametrize("run", RUNS)
def test_onnx_runtime_draws_what_sample_draws_and_scores_what_the_critic_scores(run: str, tmp_path: Path) -> None:
    made = make(tmp_path, **RUNS[run])
    assert "ONNX, opset" in exported(made, "g.onnx") + exported(made, "c.onnx", "--critic")
    networks = load(made)
    config, picture = networks.config, "image" if networks.config.size else "point"
    wanted = drawn(made, 7)
    assert np.ptp(wanted) > (50 if config.size else 0.2) and len(np.unique(wanted, axis=0)) == 7
    for count in (1, 7):
        y = numbers(config, count)
        images = run_onnx("g.onnx", latent=latents(0, range(count), 6), **y)
        assert images.dtype == np.float32 and images.shape == (count, *config.shape)
        found, near = (levels(images), 0.51) if config.size else (images.astype(float), 1e-5)
        assert np.abs(found - wanted[:count]).max() <= near
        scores = run_onnx("c.onnx", **{picture: images}, **y)
        classes = torch.from_numpy(y["class"]) if y else None
        expected = networks.critic(torch.from_numpy(images), classes).numpy()
        assert scores.shape == (count,)
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    for name, output in (("g.onnx", picture), ("c.onnx", "score")):
        model = onnx.load(name)
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.output] == [output]
        ends = [*model.graph.input, *model.graph.output]
        assert {value.type.tensor_type.shape.dim[0].dim_param for value in ends} == {"batch"}
        nodes = [node.op_type for node in model.graph.node]
        kinds = set(nodes)
        assert nodes.count("Pad") <= 1  # around the image
        assert kinds <= PLAIN | MORE.get(run, set()), kinds
        assert name == "c.onnx" or run[:2] != "r3" or "Resize" in kinds
    assert sorted(os.listdir()) == ["c.onnx", "drawn.npy", "g.onnx"]


def test_raw_exports_the_weights_of_the_last_step(checkpoint: Path) -> None:
    exported(checkpoint, "average.onnx")
    exported(checkpoint, "raw.onnx", "--raw")
    rows = latents(0, range(3), 6)
    for name, words in (("average.onnx", ()), ("raw.onnx", ("--raw",))):
        assert np.abs(levels(run_onnx(name, latent=rows)) - drawn(checkpoint, 3, *words)).max() <= 0.51
    assert np.abs(run_onnx("average.onnx", latent=rows) - run_onnx("raw.onnx", latent=rows)).max() > 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_uint8_gives_the_bytes_of_sample_in_rgb(channels: int, tmp_path: Path) -> None:
    made = make(tmp_path, channels=channels)
    assert " of 255 levels" in exported(made, "g.onnx", "--uint8")
    for count in (1, 7):
        images = run_onnx("g.onnx", latent=latents(0, range(count), 6))
        assert images.dtype == np.uint8 and images.shape == (count, 3, 16, 16)
        wanted = drawn(made, count).transpose(0, 3, 1, 2)
        assert np.abs(images - wanted).max() <= 1 and (images == wanted).mean() > 0.99  # rounded, not cut off
    assert channels == 3 or (images[:, 0] == images[:, 2]).all()


# ---- Other forms


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "wgan_cli":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
import numpy, torch
try:
    import wgan_cli
except ModuleNotFoundError:
    module = torch.export.load("g.pt2").module()
    for count in (1, 7):
        rows, y = (torch.from_numpy(numpy.load(name)[:count]) for name in ("rows.npy", "y.npy"))
        numpy.save(f"found{count}.npy", module(rows, y).numpy())
"""


def test_pt2_needs_torch_alone(tmp_path: Path) -> None:
    made = make(tmp_path, **RUNS["dcgan-spectral"])
    exported(made, "g.pt2")
    np.save("rows.npy", latents(0, range(7), 6))
    np.save("y.npy", np.arange(7) % 3)
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", BLOCKED], check=True)
    for count in (1, 7):
        assert np.abs(levels(np.load(f"found{count}.npy")) - drawn(made, count)).max() <= 0.51


@pytest.mark.parametrize("words", [(), ("--critic",)])
def test_safetensors_hold_the_weights_and_the_settings(words: tuple[str, ...], tmp_path: Path) -> None:
    made = make(tmp_path, **RUNS["r3-spectral"])
    exported(made, "n.safetensors", *words)
    from safetensors import safe_open

    networks = load(made)
    wanted = (networks.critic if words else networks.generator).state_dict()
    with safe_open("n.safetensors", "pt") as file:
        about = json.loads(file.metadata()["wgan"])
        assert set(file.keys()) == wanted.keys()
        assert all((file.get_tensor(name) == wanted[name]).all() for name in wanted)
    assert about["network"] == ("critic" if words else "generator")
    assert TrainConfig.from_dict(about["config"]) == networks.config


def test_the_python_of_the_page_runs(tmp_path: Path) -> None:
    made = make(tmp_path, latent=16)
    for form in export.FORMS:
        exported(made, f"generator{form}")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/export.md").read_text(), re.M | re.S)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
        if block.startswith("import torch"):
            assert names["images"].shape == (8, 3, 16, 16)
    image = np.asarray(Image.open("first.png"))
    rows = torch.from_numpy(names["latents"])
    wanted = levels(names["generator"](rows).detach().numpy())[0]
    assert image.shape == (16, 16, 3) and np.abs(image - wanted).max() <= 0.51


# ---- The file


@pytest.mark.parametrize("form", export.FORMS)
def test_the_same_checkpoint_gives_the_same_bytes_without_a_place_on_this_machine(form: str, checkpoint: Path) -> None:
    exported(checkpoint, f"a{form}")
    done = wgan("export", checkpoint, "-o", f"b{form}", env={**os.environ, "PYTHONHASHSEED": "7"})
    assert done.code == 0 and done.out == f"b{form}\n".encode()
    line = r"(ONNX, opset \d+|torch\.export of torch \S+|\d+ tensors); differs from the checkpoint by \S+ at most, .*\n"
    assert re.fullmatch(line, done.err)  # nothing of what the libraries say
    content = Path(f"a{form}").read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256(Path(f"b{form}").read_bytes()).digest()
    places = (str(Path(export.__file__).parent), str(Path(torch.__file__).parent), "site-packages", "wgan_cli/", ".py")
    assert [place for place in places if place.encode() in content] == []


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (("g.onnx",), b"old"),
        (("g.pt2",), b"old"),
        (("g.pt2",), None),
        (("g.onnx", "--uint8"), None),
        (("c.pt2", "--critic"), None),
    ],
)
def test_a_file_that_differs_is_an_error_and_not_kept(
    words: tuple[str, ...], before: bytes | None, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = export._plain

    def tampered(net: torch.nn.Module) -> torch.nn.Module:
        layer = next(layer for layer in plain(net).modules() if isinstance(layer, torch.nn.Linear))
        layer.weight = torch.nn.Parameter(layer.weight * 1.2, requires_grad=False)
        return net

    monkeypatch.setattr(export, "_plain", tampered)
    if before:
        Path(words[0]).write_bytes(before)
    done = call("export", checkpoint, "-o", *words)
    assert (done.code, done.out) == (1, b"") and "differ from the checkpoint" in done.err
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == ({words[0]: before} if before else {})


def test_a_missing_package_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    absent = ("onnxscript", "onnxruntime", "safetensors")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else there(name, *rest))
    for name, package in (("g.onnx", "onnxscript and onnxruntime"), ("g.safetensors", "safetensors")):
        done = call("export", checkpoint, "-o", name)
        assert (done.code, done.out) == (2, b"") and f"{package}, as in pip install 'wgan[export]'" in done.err
    assert os.listdir() == []
    exported(checkpoint, "new/g.pt2")  # which needs none, and makes its folder


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "--out"),
        (("-o", "g.pth"), ".onnx, .pt2 or .safetensors"),
        (("-o", "-"), ".onnx, .pt2 or .safetensors"),
        (("-o", ".pt2"), ".onnx, .pt2 or .safetensors"),
        (("-o", "file/g.onnx"), "file is not a folder"),
        (("-o", "g.onnx", "--critic", "--raw"), "--raw"),
        (("-o", "g.onnx", "--critic", "--uint8"), "--uint8"),
        (("-o", "g.safetensors", "--uint8"), "--uint8"),
    ],
)
def test_usage_errors(words: tuple[str, ...], text: str, checkpoint: Path) -> None:
    Path("file").touch()
    done = call("export", checkpoint, *words)
    assert (done.code, done.out) == (2, b"")
    assert text in done.err and 1 <= len(done.err.splitlines()) <= 2
    assert os.listdir() == ["file"]


@pytest.mark.parametrize("settings", [{"channels": 2}, {"channels": 4}, {"size": 0, "channels": 2, "arch": "mlp"}])
def test_uint8_is_for_grey_and_colour(settings: dict[str, Any], tmp_path: Path) -> None:
    done = call("export", make(tmp_path, **settings), "-o", "g.onnx", "--uint8")
    assert (done.code, done.out) == (2, b"") and "--uint8" in done.err and os.listdir() == []
