"""Classes: where they come from, what is held out of each, what the networks make of them, and the commands."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import Ended, call, new_run
from torch import Tensor, nn

from wgan_cli import DataError, UsageError, sample
from wgan_cli import checkpoint as checkpoints
from wgan_cli.config import TrainConfig
from wgan_cli.data.dataset import Batch
from wgan_cli.data.labels import read_labels
from wgan_cli.data.source import open_source
from wgan_cli.data.split import held_out
from wgan_cli.networks import ARCHITECTURES, build_critic, build_generator
from wgan_cli.networks.network import Conditional, PiecewiseLinear
from wgan_cli.penalty import input_gradient
from wgan_cli.step import critic_step

WORDS = "--arch mlp --width 16 --size 16 --channels 1 --batch 8 --n-critic 1 --log-every 1 --holdout 0.2".split()


def pictures(folder: Path, counts: dict[str, int]) -> Path:
    """So many grey images in the folder of each name, the later the name the brighter."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.random.default_rng([place, number]).integers(0, 60, (16, 16), np.uint8)
            Image.fromarray(pixels + np.uint8(place * 90)).save(folder / name / f"{number:02}.png")
    return folder


def labels(data: Path | str, how: str = "folders", listed: bytes = b"") -> tuple[tuple[str, ...], list[int]]:
    classes, numbers = read_labels(open_source(str(data), io.BytesIO(listed)), how)
    return classes, numbers.tolist()


# ---- Where they come from


@pytest.mark.parametrize("form", ["folder", "zip", "list"])
def test_folders_are_classes_in_order_of_their_numbers(tmp_path: Path, form: str) -> None:
    data = pictures(tmp_path / "imgs" / "train", {"10": 1, "9": 2, "2": 1})
    listed = b""
    if form == "zip":
        data = Path(shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "imgs"))
    if form == "list":
        listed = "\n".join(map(str, sorted(data.rglob("*.png")))).encode()
    # The images come in order of name: 10, 2, 9, 9.
    assert labels("-" if form == "list" else data, "folders", listed) == (("2", "9", "10"), [2, 0, 1, 1])


def test_names_that_are_no_numbers_come_in_order_of_text(tmp_path: Path) -> None:
    data = pictures(tmp_path / "imgs", {"dog": 1, "cat/wild": 1, "cat/tame": 1})
    with pytest.raises(DataError, match=r"cat/tame/00.png|dog/00.png"):
        labels(data)
    (data / "dog").rename(data / "cat" / "dog")
    assert labels(data) == (("dog", "tame", "wild"), [0, 1, 2])


@pytest.mark.parametrize(
    ("counts", "extra", "message"),
    [
        ({"a": 1, "b": 1}, "top.png", r"at one depth.*top\.png and .*[ab].00\.png are at two"),
        ({"a": 2}, None, "all images are in one folder"),
    ],
)
def test_images_without_a_folder_of_a_class_are_named(
    tmp_path: Path, counts: dict[str, int], extra: str | None, message: str
) -> None:
    data = pictures(tmp_path / "imgs", counts)
    if extra:
        shutil.copy(data / "a" / "00.png", data / extra)
    with pytest.raises(DataError, match=message):
        labels(data)


def with_json(folder: Path, content: Any) -> Path:
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_dataset_json_names_the_class_of_each(tmp_path: Path, form: str) -> None:
    data = pictures(tmp_path / "imgs", {"x": 2, "y": 1})
    with_json(data, {"labels": [["y/00.png", 10], ["x/01.png", 3], ["x/00.png", 10], ["not/there.png", 7]]})
    if form == "zip":
        data = Path(shutil.make_archive(str(tmp_path / "all"), "zip", data))
    assert labels(data, "file") == (("3", "10"), [1, 0, 1])
    assert not open_source(str(data), io.BytesIO()).others  # it is no stranger among the images


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"labels": [["x/00.png", 1]]}, r"dataset\.json: no class for 2 of 3 images, such as .*x.01\.png"),
        ({"labels": None}, r"dataset\.json: not "),
        ([1], r"dataset\.json: not "),
        ({"labels": [["x/00.png", [0.0, 1.0]]]}, r"a class of \[0\.0, 1\.0\]; takes whole numbers or names"),
        ({"labels": [["x/00.png", True]]}, "a class of true"),
        ({"labels": [[name, 1] for name in ("x/00.png", "x/01.png", "y/00.png")]}, "one class only, 1"),
    ],
)
def test_a_dataset_json_that_leaves_an_image_without_a_class_is_refused(
    tmp_path: Path, content: Any, message: str
) -> None:
    data = with_json(pictures(tmp_path / "imgs", {"x": 2, "y": 1}), content)
    with pytest.raises(DataError, match=message):
        labels(data, "file")


def test_a_damaged_zip_of_labels_is_bad_data(tmp_path: Path) -> None:
    data = with_json(pictures(tmp_path / "imgs", {"x": 2, "y": 1}), {"labels": [["x/00.png", 1]]})
    path = Path(shutil.make_archive(str(tmp_path / "all"), "zip", data))
    source = open_source(str(path), io.BytesIO())
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("dataset.json")
    content[entry.header_offset + 30 + len("dataset.json") + 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json: cannot be read"):
        read_labels(source, "file")


def test_class_names_and_jsons_beyond_what_python_reads(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "imgs", {"a": 1, "b": 1})
    long = "7" * 5000
    assert labels(with_json(folder, {"labels": [["a/00.png", long], ["b/00.png", 3]]}), "file")[0] == ("3", long)
    (folder / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="dataset.json: not"):
        labels(folder, "file")


def arrays(path: Path, **content: Any) -> Path:
    np.savez(path, **content)
    return path


IMAGES = np.zeros((4, 16, 16), np.uint8)


def test_labels_that_would_fill_the_memory_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_json(pictures(tmp_path / "imgs", {"a": 2}), {"labels": [["a/00.png", 0]], "more": "x" * 1000})
    zipped = shutil.make_archive(str(tmp_path / "all"), "zip", folder)
    listed = arrays(tmp_path / "x.npz", images=IMAGES, labels=np.array(["x" * 200] * 4))
    for module in ("decode", "labels"):
        monkeypatch.setattr(f"wgan_cli.data.{module}.MOST_BYTES", 500)
    for data in (zipped, listed):
        with pytest.raises(DataError, match="more than the 500 that are taken"):
            labels(data, "file")


@pytest.mark.parametrize("name", ["labels", "y_train"])
@pytest.mark.parametrize("values", [np.array([7, 0, 7, 11]), np.array([["7"], ["0"], ["7"], ["11"]])])
def test_an_array_beside_the_images_names_the_class_of_each(tmp_path: Path, name: str, values: Any) -> None:
    data = arrays(tmp_path / "x.npz", **{"x_train" if name == "y_train" else "images": IMAGES, name: values})
    assert labels(data, "file") == (("0", "7", "11"), [1, 0, 1, 2])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.array([0.0, 1.0, 1.0, 0.0]), DataError, r"labels of float64 \[4\]"),
        (np.eye(4, dtype=np.int64), DataError, r"labels of int64 \[4, 4\]"),
        (np.array(3), DataError, r"labels of int64 \[\]"),
        (np.array([0, 1, 1]), DataError, "3 labels for 4 images"),
        (np.array([0, {}, 1, 1]), DataError, r"labels of object \[4\]"),
        (None, UsageError, "holds no array `labels`"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, values: Any, kind: type, message: str) -> None:
    content = {"images": IMAGES} if values is None else {"images": IMAGES, "labels": values}
    with pytest.raises(kind, match=message):
        labels(arrays(tmp_path / "x.npz", **content), "file")


def test_what_holds_no_labels_says_so(tmp_path: Path) -> None:
    data = pictures(tmp_path / "imgs", {"x": 2, "y": 1})
    np.save(tmp_path / "x.npy", IMAGES)
    for name, how, message in (
        (data, "file", "there is no .*dataset.json; --labels folders takes the folders' names"),
        (data / "x" / "00.png", "file", "holds no labels"),
        (tmp_path / "x.npy", "file", "holds no array `labels`"),
        (tmp_path / "x.npy", "folders", "has no folders"),
    ):
        with pytest.raises(UsageError, match=message):
            labels(name, how)
    assert "--labels is for images" in call("train", "--data", "toy:8gaussians", "--labels", "folders").err


# ---- What is held out


def test_of_each_class_its_share_is_held_out() -> None:
    classes = np.repeat([0, 1, 2, 3], [100, 40, 20, 40])[np.random.default_rng(0).permutation(200)]
    held = held_out(200, 0.1, 8, 3, labels=classes)
    assert np.bincount(classes[held]).tolist() == [10, 4, 2, 4]
    contents = np.arange(200, dtype=np.uint64) // 2  # each image twice, and both in the class of the first
    held = held_out(200, 0.1, 8, 3, contents, labels=classes[np.arange(200) // 2 * 2])
    assert (held[::2] == held[1::2]).all() and 20 <= held.sum() <= 24


def test_one_class_is_held_out_as_none() -> None:
    for count, fraction in ((100, 0.05), (57, 0.31)):
        one = held_out(count, fraction, 8, 5, labels=np.zeros(count, np.int64))
        assert (one == held_out(count, fraction, 8, 5)).all()


# ---- Networks

THREE = ("a", "b", "c")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_critic_adds_the_projection_of_the_class_onto_its_features(arch: str) -> None:
    torch.manual_seed(0)
    critic = build_critic(TrainConfig(arch=arch, size=32, channels=1, width=8, classes=THREE)).double()
    x, y = torch.randn(6, 1, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    features, last = critic.net[:-1](x), critic.net[-1]
    assert critic.classes is not None and isinstance(last, nn.Linear)
    expected = F.linear(features, last.weight, last.bias)[:, 0] + (features * critic.classes.weight[y]).sum(1)
    torch.testing.assert_close(critic(x, y), expected)
    assert not torch.equal(critic(x, y), critic(x, y.flip(0).roll(1)))
    assert isinstance(critic, PiecewiseLinear)
    torch.testing.assert_close(critic.input_gradient(x, y), gradient(critic, x, y), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(input_gradient(critic, x, y), gradient(critic, x, y), rtol=1e-9, atol=1e-12)


def gradient(critic: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    points = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(critic(points, y).sum(), points)
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_generator_takes_the_vector_of_the_class_beside_the_latent(arch: str) -> None:
    torch.manual_seed(0)
    config = TrainConfig(arch=arch, size=32, channels=1, width=8, latent=4, classes=THREE)
    generator = build_generator(config).eval()
    z, y = torch.randn(3, 4), torch.tensor([0, 2, 2])
    assert isinstance(generator, Conditional)
    vectors = generator.embedding.weight[y]
    assert vectors.shape == (3, 4)
    torch.testing.assert_close(generator(z, y), generator.network(torch.cat([z, vectors], 1)))


def test_spectral_norm_holds_for_the_vectors_of_the_classes_too() -> None:
    torch.manual_seed(0)
    critic = build_critic(TrainConfig(variant="hinge", arch="mlp", size=16, channels=1, width=8, classes=THREE))
    critic(torch.randn(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64))
    assert critic.classes is not None
    assert torch.linalg.matrix_norm(critic.classes.weight.detach(), 2) == pytest.approx(1, rel=0.05)


def test_fakes_are_of_the_classes_of_the_real_batch() -> None:
    state = new_run(arch="mlp", labels="folders", classes=THREE)
    seen: list[Tensor] = []
    state.generator.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    y = torch.arange(8) % 3
    critic_step(state, Batch(torch.zeros(8, 3, 16, 16), y))
    assert torch.equal(seen[0], y)


# ---- Commands


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred steps on two classes, dark and bright, and the images beside it."""
    folder = tmp_path_factory.mktemp("classes")
    data = pictures(folder / "imgs", {"bright": 0, "dark": 60})
    for path in sorted((data / "dark").iterdir())[:30]:
        pixels = 255 - np.asarray(Image.open(path))
        Image.fromarray(pixels).save(data / "bright" / path.name)
        path.unlink()
    done = train(data, folder / "run", "--steps", "400", "--log-every", "50", "--lr", "2e-3", "--width", "32")
    assert done.code == 0 and "2 classes: bright (30), dark (30)" in done.err, done.err
    return folder / "run"


def train(data: Path, out: Path, *more: str) -> Ended:
    return call("train", "--data", data, "-o", out, *WORDS, "--labels", "folders", *more)


def drawn(*words: str | Path) -> Any:
    out = Path("drawn.npz")
    done = call("sample", *words, "-o", out)
    assert done.code == 0, done.err
    with np.load(out) as arrays:
        return dict(arrays)


def test_each_class_is_drawn_as_it_was_seen(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bright, dark = (drawn(run, "--class", name, "-n", "20")["images"] for name in ("bright", "dark"))
    # From the same latents, so without the class there is no difference; 10 to 16 over four seeds.
    assert bright.mean() > dark.mean() + 4
    both = drawn(run, "--class", "all", "-n", "20")
    np.testing.assert_array_equal(both["images"], np.concatenate([bright, dark]))
    assert both["labels"].tolist() == 20 * [0] + 20 * [1]
    in_turn = drawn(run, "-n", "6")
    assert in_turn["labels"].tolist() == [0, 1, 0, 1, 0, 1]
    np.testing.assert_array_equal(in_turn["images"][::2], bright[:6:2])
    np.testing.assert_array_equal(drawn(run, "--index", "3")["images"][0], dark[3])
    assert call("sample", run, "--class", "all", "-o", "grid.png").code == 0
    with Image.open("grid.png") as picture:
        assert picture.size == (8 * 18 + 2, 2 * 18 + 2)  # a row a class


def test_an_array_with_labels_is_trained_on_again(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn(run, "-n", "40")
    words = [*WORDS, "--labels", "file", "--steps", "1"]
    done = call("train", "--data", "drawn.npz", "-o", "again", *words)
    assert done.code == 0 and "2 classes: 0 (20), 1 (20)" in done.err


@pytest.mark.parametrize("command", ["sample", "critic-score"])
def test_a_class_that_is_none_is_refused_with_those_there_are(run: Path, checkpoint: Path, command: str) -> None:
    more = [str(run.parent / "imgs")] if command == "critic-score" else ["-o", "x.png"]
    done = call(command, run, *more, "--class", "grey")
    assert done.code == 2 and "--class grey: choose one of bright, dark" in done.err
    for name in ("grey", "all"):
        done = call(command, checkpoint, *more, "--class", name)
        assert done.code == 2 and f"--class {name}: this checkpoint was trained without --labels" in done.err


def scores(*words: str | Path) -> list[float]:
    done = call("critic-score", *words)
    assert done.code == 0, done.err
    return [float(line.split(b"\t")[0]) for line in done.out.splitlines()]


def test_images_are_scored_in_the_class_of_their_folder(run: Path, tmp_path: Path) -> None:
    data = run.parent / "imgs"
    own = scores(run, data)
    parts = [data / name for name in ("bright", "dark")]
    close: dict[str, Any] = {
        "rel": 1e-4,
        "abs": 1e-4,
    }  # images of another batch: sums of some hundred products in another order
    assert own == pytest.approx(scores(run, parts[0]) + scores(run, parts[1]), **close)
    assert own == pytest.approx([s for part in parts for s in scores(run, part, "--class", part.name)], **close)
    other = scores(run, data, "--class", "dark")
    assert other[30:] == pytest.approx(own[30:], **close)
    assert np.mean(other[:30]) < np.mean(own[:30])  # bright ones are no good dark ones
    shutil.copy(data / "dark" / sorted(os.listdir(data / "dark"))[0], tmp_path / "x.png")
    done = call("critic-score", run, data, tmp_path / "x.png")
    assert done.code == 2 and done.out == b"" and "x.png: in no folder with the name of a class" in done.err


def test_the_summary_draws_samples_of_the_classes_that_are_scored(run: Path) -> None:
    data = run.parent / "imgs"
    both, bright = (call("critic-score", run, data / part, "--summary") for part in ("", "bright"))
    mean = r"mean_samples (\S+)"
    found = [float(re.search(mean, done.err)[1]) for done in (both, bright)]  # type: ignore[index]
    assert both.code == bright.code == 0 and found[0] != found[1]


def test_the_summary_counts_the_images_of_arrays(run: Path, tmp_path: Path) -> None:
    """And not those that cannot be read."""
    rows = np.random.default_rng(0).integers(0, 255, (12, 16, 16), dtype=np.uint8)
    for name in ("bright", "dark"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "bright/x.npy", rows[:9])
    np.save(tmp_path / "dark/x.npy", rows[9:])
    (tmp_path / "dark/bad.png").write_bytes(b"")
    apart = pictures(tmp_path / "apart", {"bright": 9, "dark": 3})
    bright = pictures(tmp_path / "one", {"bright": 12})
    some = [tmp_path / path for path in ("bright/x.npy", "dark/x.npy", "dark/bad.png")]
    found = []
    for paths in (some, [apart], [bright]):
        told = re.search(r"images 12 .* mean_samples (\S+)", call("critic-score", run, *paths, "--summary").err)
        assert told
        found.append(told[1])
    assert found[0] == found[1] != found[2]


def test_a_stop_between_steps_changes_no_byte_with_classes(run: Path, tmp_path: Path) -> None:
    data = run.parent / "imgs"
    for steps in ("3", "6"):
        assert train(data, tmp_path / "twice", "--steps", steps).code == 0
    assert train(data, tmp_path / "once", "--steps", "6").code == 0
    assert (tmp_path / "once" / "ckpt.pt").read_bytes() == (tmp_path / "twice" / "ckpt.pt").read_bytes()


def test_a_bad_file_takes_its_label_with_it(run: Path, tmp_path: Path) -> None:
    data = shutil.copytree(run.parent / "imgs", tmp_path / "imgs")
    assert train(data, tmp_path / "a", "--steps", "4", "--new-data").code == 0
    (data / "bright" / "000.png").write_bytes(b"")
    assert train(data, tmp_path / "b", "--steps", "4", "--skip-bad").code == 0
    known = [checkpoints.load(tmp_path / part / "ckpt.pt")[0]["data"] for part in "ab"]
    assert [block["class_counts"] for block in known] == [[30, 30], [30, 30]]
    assert known[0]["labels"] == known[1]["labels"]


def test_other_classes_of_the_same_images_are_another_run(run: Path, tmp_path: Path) -> None:
    data = tmp_path / "imgs"
    shutil.copytree(run.parent / "imgs", data)
    names = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.png"))]
    words = [*WORDS, "--labels", "file", "-o", str(tmp_path / "run"), "--data", str(data)]
    with_json(data, {"labels": [[name, number % 2] for number, name in enumerate(names)]})
    assert call("train", *words, "--steps", "1").code == 0
    with_json(data, {"labels": [[name, number % 3 % 2] for number, name in enumerate(names)]})
    done = call("train", *words, "--steps", "2")
    assert done.code == 2 and "the same images in other classes" in done.err
    with_json(data, {"labels": [[name, number % 3] for number, name in enumerate(names)]})
    done = call("train", *words, "--steps", "2")
    assert done.code == 2 and "classes was ('0', '1'), now ('0', '1', '2')" in done.err


def test_damaged_counts_of_classes_are_damage(run: Path, tmp_path: Path) -> None:
    content, _ = checkpoints.load(run / "ckpt.pt")
    assert content["config"]["classes"] == ["bright", "dark"]
    for counts in ([30], [30, -1], [30, "x"], [0, 0], None):
        torch.save({**content, "data": {**content["data"], "class_counts": counts}}, tmp_path / "x.pt")
        done = call("evaluate", tmp_path / "x.pt", "--data", run.parent / "imgs")
        assert done.code == 3 and "class_counts" in done.err


def test_samples_are_spread_over_classes_by_their_weights() -> None:
    assert sample.spread(10, [1, 3, 1]).tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]  # type: ignore[union-attr]
    assert sample.spread(4, [0, 2, 0, 2]).tolist() == [1, 1, 3, 3]  # type: ignore[union-attr]
    assert sample.spread(4, []) is None


def test_evaluate_draws_the_classes_as_the_data_had_them(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def generate(generator: nn.Module, rows: Any, y: Any) -> Iterator[Tensor]:
        seen.append(y)
        return sample.generate(generator, rows, y=y)

    monkeypatch.setattr("wgan_cli.evaluate.generate", generate)
    done = call("evaluate", run, "--data", run.parent / "imgs", "-n", "6", "--json")
    assert done.code == 0, done.err
    assert seen[0].tolist() == [0, 0, 0, 1, 1, 1]
