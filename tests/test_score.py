"""Critic scores: in closed form, in order, by any way of naming images, and beside broken ones."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import subprocess
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import COMMAND, call, new_run, save

from wgan_cli import checkpoint as checkpoints
from wgan_cli.score import BATCH

# How far the score of the known critic below may be off. A processor adds in an order of its own, and a float32 sum of
# n terms is off by at most (n - 1) u Σ|term| in any order, with u = 2⁻²⁴ (Higham 2002, section 4.2). The first layer
# adds 256 pixels of |x| / 256 and a 1, so n = 257 and Σ|term| <= 2; the last layer doubles that error of 512 u; what is
# rounded on the way there adds under 76 u. Of two greys in a row the scores are 240 times as far apart.
CLOSE = 1100 * 2.0**-24

ODD_NAMES = [b"a b.png", b"tab\there.png", b"line\nbreak.png", b"caf\xe9.png", "Zürich.png".encode(), b"-dash.png"]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A critic of grey images that computes 2 · mean(x) - 1 for x in [-1, 1], and a generator of x = -0.5."""
    state = new_run(channels=1, arch="mlp", width=1)
    with torch.no_grad():
        for parameter in [*state.critic.parameters(), *state.generator.parameters()]:
            parameter.fill_(float(parameter.dim() == 2))
        weights = dict(state.critic.named_parameters())
        weights["net.1.weight"].fill_(1 / 256)
        weights["net.1.bias"].fill_(1.0)  # mean(x) + 1 is never negative, so that no ReLU cuts it
        weights["net.7.weight"].fill_(2.0)
        weights["net.7.bias"].fill_(-3.0)
        *_, weight, bias = state.generator.parameters()
        weight.fill_(0.0)
        bias.fill_(math.atanh(-0.5))
    return save(state, tmp_path_factory.mktemp("known") / "ckpt.pt")


def grey(path: Path, value: int) -> Path:
    Image.new("L", (16, 16), value).save(path)
    return path


def scored(out: bytes, end: bytes = b"\n") -> dict[bytes, float]:
    """Path → score, in order."""
    records = [record.split(b"\t", 1) for record in out.split(end)[:-1]]
    return {path: float(score) for score, path in records}


# ---- The score


def test_a_known_critic_gives_the_known_score(known: Path, tmp_path: Path) -> None:
    values = [0, 1, 100, 255]
    paths = [grey(tmp_path / f"{value}.png", value) for value in values]
    done = call("critic-score", known, *paths)
    assert (done.code, done.err) == (0, "")
    scores = scored(done.out)
    assert list(scores) == [os.fsencode(path) for path in paths]
    np.testing.assert_allclose(list(scores.values()), [2 * (v / 127.5 - 1) - 1 for v in values], atol=CLOSE)


def test_images_are_prepared_as_in_training(known: Path, tmp_path: Path) -> None:
    """Colour becomes grey, and of a wide image the middle square counts."""
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (score,) = scored(call("critic-score", known, tmp_path / "wide.png").out).values()
    assert score == pytest.approx(2 * (200 / 127.5 - 1) - 1, abs=CLOSE)


@pytest.mark.parametrize("variant", ["gp", "clip"])  # without batch norm in the critic, and with it
def test_a_score_depends_neither_on_the_batch_nor_on_the_order(variant: str, images: Path, tmp_path: Path) -> None:
    checkpoint = save(new_run(variant=variant), tmp_path / "ckpt.pt")
    paths = sorted(images.iterdir())
    together = scored(call("critic-score", checkpoint, *paths).out)
    assert list(together) == [os.fsencode(path) for path in paths]
    assert len(set(together.values())) == len(paths)
    turned = scored(call("critic-score", checkpoint, *paths[::-1]).out)
    assert list(turned) == [os.fsencode(path) for path in paths[::-1]]
    for path in paths:
        name = os.fsencode(path)
        (alone,) = scored(call("critic-score", checkpoint, path).out).values()
        assert alone == pytest.approx(together[name], abs=1e-5) == pytest.approx(turned[name], abs=1e-5)


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 5])
def test_no_image_is_lost_between_batches(count: int, known: Path, tmp_path: Path) -> None:
    """Some of them broken, so that batches are of any length."""
    names = [f"{index % 256}.png" for index in range(count)]
    for index in range(min(count, 256)):
        grey(tmp_path / f"{index}.png", index) if index % 7 else (tmp_path / f"{index}.png").write_bytes(b"no")
    listed = "".join(f"{tmp_path / name}\n" for name in names)
    done = call("critic-score", known, "-", "--json", stdin=listed.encode())
    records = [json.loads(line) for line in done.out.splitlines()]
    good = [index for index in range(count) if index % 256 % 7]
    assert [record["path"] for record in records] == [str(tmp_path / names[index]) for index in good]
    wanted = [2 * ((index % 256) / 127.5 - 1) - 1 for index in good]
    np.testing.assert_allclose([record["score"] for record in records], wanted, atol=CLOSE)
    assert done.code == 3 and len(done.err.splitlines()) == count - len(good) + 1


def test_parts_put_together_are_the_whole(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """Byte for byte: files, a bad one, and an array that is cut."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "many.npy", rng.integers(0, 256, (150, 16, 16, 3), dtype=np.uint8))
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = ("critic-score", checkpoint, images, tmp_path / "bad.png", tmp_path / "many.npy", images)
    whole = call(*words)
    assert whole.out.count(b"\n") == 150 + 2 * len(list(images.iterdir())) and whole.code == 3
    parts = [call(*words, "--shard", f"{number}/3") for number in range(1, 4)]
    assert b"".join(part.out for part in parts) == whole.out
    assert all(len(part.out) > 1000 for part in parts)
    assert sorted(part.code for part in parts) == [0, 0, 3]
    assert call(*words, "--shard", "2/2", "--summary").code == 2


def test_full_precision(checkpoint: Path, images: Path) -> None:
    """The text is the float32 itself, not a rounded one: the shortest that reads as it."""
    texts = [line.split(b"\t")[0].decode() for line in call("critic-score", checkpoint, images).out.splitlines()]
    assert texts == [str(np.float32(text)) for text in texts]
    assert sorted(len(text.strip("-0.").replace(".", "")) for text in texts)[len(texts) // 2] >= 7  # digits


# ---- Ways of naming images


def test_folder_zip_files_and_lists_give_the_same_scores(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for path in sorted(images.iterdir()):
            archive.write(path, path.name)
    paths = sorted(images.iterdir())
    of_folder = call("critic-score", checkpoint, images)
    assert of_folder == call("critic-score", checkpoint.parent, *paths)
    assert of_folder == call("critic-score", checkpoint, "-", stdin=b"".join(bytes(p) + b"\n" for p in paths))
    assert of_folder == call("critic-score", checkpoint, "-", stdin=b"\n".join(map(bytes, paths)))
    of_zip = scored(call("critic-score", checkpoint, tmp_path / "z.zip").out)
    assert list(of_zip) == [bytes(tmp_path / "z.zip" / path.name) for path in paths]
    assert list(of_zip.values()) == list(scored(of_folder.out).values())
    mixed = call("critic-score", checkpoint, paths[3], "-", tmp_path / "z.zip", paths[1], stdin=bytes(paths[2]))
    assert [os.path.basename(name) for name in scored(mixed.out)][:2] == [b"03.png", b"02.png"]
    assert len(mixed.out.splitlines()) == 3 + len(paths)


@pytest.fixture
def odd(tmp_path: Path, known: Path) -> list[bytes]:
    """Paths with all that a name may hold; the i-th is a grey of 10 · i."""
    paths = [bytes(tmp_path) + b"/" + name for name in ODD_NAMES]
    for index, path in enumerate(paths):
        shutil.copy(bytes(grey(tmp_path / "grey.png", 10 * index)), path)
    return paths


def of_grey(index: int) -> float:
    return 2 * (10 * index / 127.5 - 1) - 1


def test_odd_names_with_nul_come_out_byte_for_byte(known: Path, odd: list[bytes]) -> None:
    done = call("critic-score", "-0", known, "-", stdin=b"\0".join(odd))
    assert (done.code, done.err) == (0, "")
    assert scored(done.out, b"\0") == pytest.approx({path: of_grey(i) for i, path in enumerate(odd)}, abs=CLOSE)


def test_odd_names_without_nul_stay_one_record_a_line(known: Path, odd: list[bytes]) -> None:
    done = call("critic-score", known, *map(os.fsdecode, odd))
    assert (done.code, done.err) == (0, "")
    escaped = [path.replace(b"\t", rb"\t").replace(b"\n", rb"\n") for path in odd]
    assert scored(done.out) == pytest.approx({path: of_grey(i) for i, path in enumerate(escaped)}, abs=CLOSE)


def test_odd_names_in_json(known: Path, odd: list[bytes]) -> None:
    done = call("critic-score", known, "--json", *map(os.fsdecode, odd))
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [os.fsencode(record["path"]) for record in records] == odd
    assert [record["score"] for record in records] == pytest.approx([of_grey(i) for i in range(len(odd))], abs=CLOSE)


def test_a_real_pipeline_with_find_and_sort(known: Path, odd: list[bytes]) -> None:
    script = (
        'find "$1" -name "*.png" ! -name grey.png -print0 | "${@:3}" critic-score -0 "$2" - | sort -gz | head -zn 2'
    )
    where = os.path.dirname(odd[0])
    done = subprocess.run(["bash", "-c", script, "bash", where, known, *COMMAND], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(scored(done.stdout, b"\0")) == odd[:2]  # the darkest first


# ---- What cannot be scored


def test_a_bad_file_is_named_and_the_rest_is_scored(known: Path, images: Path, tmp_path: Path) -> None:
    dark, bright = grey(tmp_path / "dark.png", 10), grey(tmp_path / "bright.png", 200)
    (tmp_path / "broken\n.png").write_bytes((images / "00.png").read_bytes()[:60])
    (tmp_path / "text.txt").write_text("no image")
    (tmp_path / "z.zip").write_text("no zip")
    names = ("broken\n.png", "missing.png", "text.txt", "z.zip", 300 * "x")  # the last one is too long for a file
    bad = [tmp_path / name for name in names]
    done = call("critic-score", known, dark, bad[0], bad[1], dark, *bad[2:], bright)
    assert done.code == 3
    # In closed form, not as scored alone: a batch of another size may be added in another order.
    scores, paths = zip(*(line.split(b"\t") for line in done.out.splitlines()), strict=True)
    assert list(paths) == [bytes(dark), bytes(dark), bytes(bright)]
    assert [float(score) for score in scores] == pytest.approx([of_grey(1), of_grey(1), of_grey(20)], abs=CLOSE)
    *lines, last = done.err.splitlines()
    assert len(lines) == 5
    for line, path in zip(lines, bad, strict=True):
        assert line.startswith(f"Error: {path}: ".replace("\n", r"\n")) and len(line) > len(f"Error: {path}: ")
    assert "5 of 8" in last and "other 3" in last


@pytest.mark.parametrize("json_lines", [False, True])
def test_nothing_but_bad_files(json_lines: bool, checkpoint: Path, tmp_path: Path) -> None:
    done = call("critic-score", checkpoint, "--summary", *["--json"] * json_lines, tmp_path / "missing.png")
    assert (done.code, done.out) == (3, b"")
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize("empty_list", [False, True])
def test_no_images(empty_list: bool, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = call("critic-score", checkpoint, "-" if empty_list else tmp_path / "empty")
    assert (done.code, done.out) == (3, b"") and len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "terminal", "text"),
    [((), False, "name images"), (("-",), True, "terminal"), (("--seed", "-1", "x.png"), False, "--seed")],
)
def test_usage_errors(words: tuple[str, ...], terminal: bool, text: str, checkpoint: Path) -> None:
    done = call("critic-score", checkpoint, *words, terminal=terminal)
    assert (done.code, done.out) == (2, b"")
    assert text in done.err and len(done.err.splitlines()) <= 2


def test_the_critic_of_a_toy_set_scores_no_images(images: Path, tmp_path: Path) -> None:
    toy = save(new_run(size=0, channels=2), tmp_path / "toy.pt")
    done = call("critic-score", toy, images)
    assert (done.code, done.out) == (2, b"") and "points" in done.err


# ---- Summary, and terminals


def test_summary_in_json_is_the_last_line(known: Path, tmp_path: Path) -> None:
    paths = [grey(tmp_path / f"{value}.png", value) for value in (0, 255, 51)]
    done = call("critic-score", known, *paths, "--summary", "--json")
    *records, last = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err, len(records)) == (0, "", 3)
    figures = last["summary"]
    assert set(last) == {"summary"} and set(figures) == {"images", "mean_real", "mean_samples", "difference"}
    assert figures["images"] == 3
    assert figures["mean_real"] == pytest.approx(sum(record["score"] for record in records) / 3)
    assert figures["mean_real"] == pytest.approx(2 * (102 / 127.5 - 1) - 1, abs=CLOSE)
    assert figures["mean_samples"] == pytest.approx(2 * -0.5 - 1, abs=CLOSE)
    assert figures["difference"] == pytest.approx(figures["mean_real"] - figures["mean_samples"])


def test_summary_in_words_goes_to_stderr(known: Path, tmp_path: Path) -> None:
    path = grey(tmp_path / "grey.png", 255)
    done = call("critic-score", known, path, "--summary", "-q")  # asked for, so shown though quiet
    assert done == (0, b"1.0\t" + bytes(path) + b"\n", "images 1 · mean_real 1 · mean_samples -2 · difference 3\n")


def test_the_summary_s_samples_follow_from_the_seed(checkpoint: Path, images: Path) -> None:
    def mean(seed: str) -> float:
        last = call("critic-score", checkpoint, images, "--summary", "--json", "--seed", seed).out.splitlines()[-1]
        return float(json.loads(last)["summary"]["mean_samples"])

    assert mean("1") == mean("1") != mean("2")


@pytest.mark.parametrize("terminal", [False, True])
def test_no_bar_runs_into_records_on_a_terminal(
    terminal: bool, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(0, 10**6, 60))
    monkeypatch.setattr("wgan_cli.console.time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    paths = [grey(tmp_path / f"{value}.png", value) for value in range(3)]
    done = call("critic-score", known, *paths, terminal=terminal)
    assert done.code == 0 and len(done.out.splitlines()) == 3
    assert done.err.count("scoring") == (0 if terminal else 1)


def test_the_progress_is_that_of_the_shard(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an array, which holds many images."""
    seconds = iter(range(0, 10**6, 60))
    monkeypatch.setattr("wgan_cli.console.time", types.SimpleNamespace(monotonic=lambda: next(seconds)))
    np.save(tmp_path / "many.npy", np.zeros((130, 4, 4, 1), np.uint8))
    done = call("critic-score", known, tmp_path / "many.npy", "--shard", "1/3")
    assert done.code == 0 and len(done.out.splitlines()) == 64
    assert [line.split(" · ")[0] for line in done.err.splitlines()] == [f"scoring {n}/64" for n in range(2, 64)]


def test_the_summary_is_of_one_checkpoint(known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a run writes meanwhile."""
    loads = iter([checkpoints.load])
    monkeypatch.setattr(checkpoints, "load", lambda *words: next(loads)(*words))
    assert call("critic-score", known, grey(tmp_path / "a.png", 1), "--summary").code == 0


def test_arrays_are_scored_as_train_takes_them(checkpoint: Path, tmp_path: Path) -> None:
    """Beside images, in order; a broken one is named and the rest is scored."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    np.save(tmp_path / "a.npy", pixels)
    np.savez(tmp_path / "b.npz", images=pixels[1:])
    (tmp_path / "digits-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 16, 16) + bytes(256))
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    images = [tmp_path / f"{number}.png" for number in range(3)]
    arrays = [tmp_path / name for name in ("a.npy", "bad.npy", "b.npz", "digits-idx3-ubyte")]
    done = call("critic-score", checkpoint, *images, *arrays)
    assert done.code == 3 and "bad.npy: " in done.err and "1 of 10 images could not be read" in done.err
    lines = [line.split("\t") for line in done.out.decode().splitlines()]
    assert [Path(name).relative_to(tmp_path).as_posix() for _, name in lines] == [
        "0.png", "1.png", "2.png", "a.npy/0", "a.npy/1", "a.npy/2", "b.npz/0", "b.npz/1", "digits-idx3-ubyte/0",
    ]  # fmt: skip
    scores = [float(score) for score, _ in lines]
    assert scores[3:6] == pytest.approx(scores[:3], abs=1e-5) and scores[6:8] == pytest.approx(scores[1:3], abs=1e-5)
