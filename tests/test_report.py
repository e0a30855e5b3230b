"""report.html: what the page holds, says is missing, and lets nobody do; and the page in a browser."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Page, browser
from PIL import Image
from tiny import Ended, call, write_images

from wgan_cli import checkpoint, report
from wgan_cli import train as training
from wgan_cli.config import TrainConfig, resolve
from wgan_cli.console import Console
from wgan_cli.curve import TITLES
from wgan_cli.data.dataset import Dataset
from wgan_cli.data.decode import Item
from wgan_cli.report import curves, pictures, settings
from wgan_cli.run import Run, check_folder
from wgan_cli.sample import generate, latents, to_output
from wgan_cli.score import score_images
from wgan_cli.train import train
from wgan_cli.verdict import ADVICE

ROOT = Path(__file__).parent.parent
SMALL: dict[str, Any] = {"arch": "mlp", "batch": 4, "latent": 3, "width": 8, "n_critic": 1, "steps": 12, "log_every": 1}
SMALL |= {"save_every": 6, "sample_every": 3}
FILES = ("page.html", "page.css", "page.js")


def run(out: Path, channels: int = 1, html: bool = False, console: Console | None = None, **given: Any) -> Path:
    """A run on noise of 16 x 16 pixels."""
    facts = {"size": 16, "channels": channels, "classes": given.pop("classes", ())}
    config = resolve({**SMALL, **given}, facts)[0]
    labels = np.arange(40) % len(config.classes) if config.classes else None
    train(
        config, noise(channels, labels=labels), out, torch.device("cpu"), console or Console(io.StringIO()), html=html
    )
    return out


def noise(channels: int = 1, **more: Any) -> Dataset:
    """The data of `run`."""
    rows = np.random.default_rng(0).integers(0, 256, (40, 16, 16, channels), dtype=np.uint8)
    return Dataset(rows, "f" * 16, **{"names": lambda: [f"imgs/{i}.png" for i in range(40)], **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("report") / "run")


class Reader(HTMLParser):
    """The tags of a page with their attributes, its text, and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._inside[-1] if self._inside else "", []).append(data)

    @property
    def moving(self) -> dict[str, Any]:
        return json.loads(self.texts["script"][0])

    def all(self, tag: str) -> str:
        return " ".join(self.texts.get(tag, []))


def written(folder: Path, **options: Any) -> Reader:
    """The page of a run, which is in none of its files."""
    out = folder.parent / f"{folder.name}.html"
    report.write(folder, out, **options)
    return Reader(out.read_text("utf-8"))


def picture(uri: str) -> Image.Image:
    kind, _, content = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/webp")
    return Image.open(io.BytesIO(base64.b64decode(content)))


# ---- What the page holds


def test_the_page_of_a_run(trained: Path) -> None:
    page = written(trained)
    headings = page.texts["h2"]
    assert headings[0] == "Verdict: " and headings[1:] == [
        *("Samples over the steps", "A walk between latents", "Curves"),
        *("Images that the critic ranks highest and lowest", "Settings", "Versions and data"),
    ]
    assert page.texts["span"][0] == "too-early"
    assert [frame["step"] for frame in page.moving["frames"]] == [3, 6, 9, 12]
    assert {panel["name"] for panel in page.moving["panels"]} == {
        *("wasserstein", "penalty", "grad_norm", "distance", "diversity"),
        *("images_per_second", "generator_loss", "critic_loss"),
    }
    assert "wgan info run/ --html report.html --data IMAGES" in page.all("p")


def test_every_verdict_and_curve_has_its_words() -> None:
    assert report.MEANING.keys() == ADVICE.keys()
    assert {*report.GOOD, *report.BAD, "too-early"} == ADVICE.keys()
    assert curves.NOTES.keys() == {"estimate", *TITLES}


def test_the_page_is_the_same_each_time_and_tells_of_no_place(trained: Path, tmp_path: Path) -> None:
    written(trained)
    first = (trained.parent / "run.html").read_bytes()
    shutil.copytree(trained, tmp_path / "moved")
    written(tmp_path / "moved")
    assert (tmp_path / "moved.html").read_bytes() == first
    assert str(trained.parent).encode() not in first and b"/tmp" not in first and len(first) < 1_000_000


def test_the_page_loads_nothing(trained: Path) -> None:
    page = written(trained)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
    (policy,) = (a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy and "://" not in page.all("style").replace("http://www.w3.org/2000/svg", "")


def test_curves_say_what_the_records_say(trained: Path) -> None:
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    panels = {panel["name"]: panel for panel in written(trained).moving["panels"]}
    (batches,) = [line for line in panels["penalty"]["lines"] if line["kind"] == "faint"]
    assert batches["steps"] == [record["step"] for record in records]
    assert batches["values"] == pytest.approx([record["penalty"] for record in records], rel=1e-4)
    kinds = [(line["label"], line["kind"]) for line in panels["wasserstein"]["lines"]]
    assert kinds == [("each batch", "faint"), ("training images", "line"), ("held-out images", "dash")]


def test_a_long_curve_is_thinned_and_keeps_both_ends() -> None:
    records = [{"step": step, "wasserstein": float(step)} for step in range(1, 5002)]
    faint, line = curves.panels([("run", records)])[0]["lines"]
    for points in (faint["steps"], line["steps"]):
        assert len(points) == curves.POINTS and points[0] == 1 and points[-1] == 5001


def test_a_logarithmic_scale_where_the_picture_has_one() -> None:
    def scale(last: float, name: str = "wasserstein") -> bool:
        records = [{"step": step, name: 10.0 if step < 50 else last} for step in range(1, 100)]
        return bool(curves.panels([("run", records)])[0]["log"])

    assert scale(0.5) and not scale(4.0) and not scale(-1.0) and not scale(0.5, "penalty")


def test_the_newest_grid_is_shown_to_the_pixel(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    shown = np.asarray(picture(written(folder).moving["frames"][-1]["src"]).convert("L"))
    assert np.array_equal(shown, np.asarray(Image.open(folder / "samples/newest.png")))
    Image.new("L", (146, 146), 77).save(folder / "samples/newest.png")  # as of a stop at a later step
    frames = written(folder).moving["frames"]
    assert [frame["step"] for frame in frames] == [3, 6, 9, 12]
    assert np.asarray(picture(frames[-1]["src"]).convert("L")).mean() == 77


def test_many_and_large_grids_are_thinned(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    rng = np.random.default_rng(0)
    for step in range(1, 41):
        pixels = rng.integers(0, 256, (242, 242, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"samples/{step:06}.png", compress_level=1)
    frames = pictures.frames(tmp_path, None, 0)
    steps = [frame["step"] for frame in frames]
    assert sum(len(frame["src"]) for frame in frames) * 3 / 4 <= 1.1 * pictures.SAMPLE_BYTES
    assert 2 <= len(steps) < 40 and steps[0] == 1 and steps[-1] == 40 and max(np.diff(steps)) - min(np.diff(steps)) <= 1
    (tmp_path / "samples/000001.png").write_bytes(b"half a pict")
    assert [frame["step"] for frame in pictures.frames(tmp_path, None, 0)][-1] == 40


def test_of_a_grid_that_is_too_large_the_first_rows_are_shown(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (1042, 1042), dtype=np.uint8)).save(tmp_path / "samples/000001.png")
    config = resolve({}, {"size": 128, "channels": 1})[0]
    (frame,) = pictures.frames(tmp_path, config, 0)
    assert (frame["width"], frame["height"]) == (1042, 2 * 130 + 2) == picture(frame["src"]).size


@pytest.mark.parametrize("classes", [(), ("a", "b")])
def test_the_walk_goes_through_samples_and_comes_back(classes: tuple[str, ...], tmp_path: Path) -> None:
    labels: dict[str, Any] = {"labels": "folders", "classes": classes} if classes else {}
    path = run(tmp_path / "run", **labels) / "ckpt.pt"
    content, config = checkpoint.load(path)
    walk = pictures.walk(config, content, path)
    assert (walk["count"], walk["frames"], walk["width"], walk["height"]) == (9, 48, 16, 16)
    sheet = np.asarray(picture(walk["src"]).convert("L")).astype(int)
    rows = sheet.reshape(48 // walk["columns"], 16, walk["columns"], 9, 16).transpose(0, 2, 3, 1, 4)
    frames = rows.reshape(48, 9, 16, 16)
    generator, *_ = checkpoint.network(path, "generator")
    for place in (0, 5):
        number = np.array([place % 2]) if classes else None
        (sample,) = generate(generator, latents(config.seed, [4 * place], config.latent), y=number)
        assert np.abs(frames[0, place] - to_output(sample)[0, :, :, 0]).max() <= 1
    steps = np.abs(np.diff(np.concatenate([frames, frames[:1]]), axis=0)).mean(axis=(1, 2, 3))
    assert steps[-1] <= 2 * steps[:-1].max() and steps[-1] < np.abs(frames[0] - frames[24]).mean()
    assert walk["classes"] == ([classes[place % 2] for place in range(9)] if classes else [])


def test_the_ranking_is_that_of_critic_score(tmp_path: Path) -> None:
    images = write_images(tmp_path / "imgs")
    words: list[str | Path] = [
        "--width",
        "4",
        "--arch",
        "mlp",
        "--batch",
        "4",
        "--steps",
        "3",
        "-o",
        tmp_path / "run",
        "-q",
    ]
    assert call("train", "--data", images, *words).code == 0
    out = tmp_path / "report.html"
    done = call("info", tmp_path / "run", "--html", out, "--data", images, "-q")
    assert done == Ended(0, os.fsencode(out) + b"\n", "")
    page = Reader(out.read_text("utf-8"))
    critic, config, _ = checkpoint.network(tmp_path / "run/ckpt.pt", "critic")
    listed = [Item(str(file)) for file in sorted(images.iterdir())]
    scored = {name: score for name, score, _ in score_images(critic, config, listed)}
    held = checkpoint.load(tmp_path / "run/ckpt.pt")[0]["data"]["held"].numpy()
    names = [name for name, out in zip(scored, held, strict=True) if not out]
    ranked = sorted(names, key=lambda name: -float(scored[name]))  # type: ignore[arg-type]
    assert _alts(page) == [Path(name).name for name in (*ranked[:12], *ranked[::-1][:12])]
    assert f"The critic scored all {len(names)} images that the run was trained on." in page.all("p")
    assert page.texts["figcaption"][0] == f"{scored[ranked[0]]:.3g}"


def test_of_many_images_a_choice_is_ranked(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "RANKED", 30)
    page = written(trained, data=noise())
    assert "The critic scored 30, drawn by a fixed seed, of the 36 images that the run was trained on." in page.all("p")
    other = noise(pixels="other", names=lambda: [f"{i}.png" for i in range(40)])
    other.fingerprint = "e" * 16
    assert "of the 40 images named, none of which was trained on." in written(trained, data=other).all("p")


# ---- Settings


@pytest.mark.parametrize(
    "given, facts, preset",
    [
        ({}, {}, "paper"),
        ({"width": 16, "lr": 0.00123456789}, {}, "fast"),
        ({"lr": 0.00123456789}, {"drawn": False}, "fast"),
        ({"upsample": "transposed"}, {"drawn": False}, "fast"),
        ({"variant": "clip", "arch": "mlp", "optimizer": "adam", "flip": True}, {"size": (96, 64)}, "paper"),
        ({"variant": "r3", "arch": "r3", "betas": (0.5, 0.9), "keep": 3}, {"channels": 1}, "paper"),
        ({"variant": "hinge", "arch": "resnet", "augment": ("color", "cutout")}, {"size": 32}, "paper"),
        ({"labels": "folders", "precision": "bf16"}, {"classes": ("a", "<b>")}, "paper"),
        ({"seed": 5}, {"size": 0, "channels": 2}, "paper"),
        ({"arch": "mlp"}, {"size": (9, 12)}, "paper"),  # which the default architecture refuses
    ],
)
def test_the_command_gives_the_settings(
    given: dict[str, Any], facts: dict[str, Any], preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "expected_seconds", lambda config, device: 1.0)
    facts = {"size": 64, "channels": 3, **facts}
    config = resolve(given, facts, preset)[0]
    chosen, table = settings.origins(config)
    assert chosen == preset and {name for name, (origin, _) in table.items() if origin == "given"} == given.keys()
    folder = tmp_path / "imgs"
    for name in ("a", "<b>"):
        write_images(folder / name, 1)
    words = shlex.split(" ".join(settings.command(config)))
    words[words.index("DATA")] = str(folder) if config.size else "toy:8gaussians"
    done = call(*words[1:], "--dry-run", "--json", "-q")
    assert done.code == 0, done.err
    values = {name: entry["value"] for name, entry in json.loads(done.out).items()}
    classes = {"classes": values["classes"]} if config.classes else {}
    assert {**values, "begun": 0} == {**json.loads(json.dumps(config.as_dict())), **classes}


def test_settings_say_where_they_come_from() -> None:
    by_time = resolve({}, {"size": 64, "channels": 3}, "fast", timed=True)[0]
    assert ("steps", "by time", "", "from the preset fast") in settings.setting_rows(by_time)[0]
    rows, given = settings.setting_rows(resolve({"width": 16, "variant": "r1"}, {"size": 64, "channels": 3})[0])
    assert given == [True, True] + [False] * (len(rows) - 2)
    table = {name: rest for name, *rest in rows}
    assert table["variant"] == ["r1", "gp", "given"] and table["width"] == ["16", "64", "given"]
    assert table["latent"] == ["256", "256", "from the variant r1"]
    assert table["size"] == ["64", "", "from the data, or given"] and table["clip"][2] == "not used"


# ---- What is missing


def test_a_run_that_has_saved_nothing_yet(tmp_path: Path) -> None:
    config = resolve(SMALL, {"size": 16, "channels": 1})[0]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(json.dumps(config.as_dict()))
    said = " ".join(re.findall(r'class="lacking">([^<]*)', _page(tmp_path)))
    for sentence in (
        "Nothing has been logged yet",
        "There are no samples yet",
        "There are no curves",
        "There is no checkpoint.",
    ):
        assert sentence in said, said


def _page(folder: Path) -> str:
    out = folder / "report.html"
    done = call("info", folder / "run", "--html", out)
    assert done == Ended(0, os.fsencode(out) + b"\n", ""), done.err
    return out.read_text("utf-8")


@pytest.mark.parametrize("damage", ["gone", "short", "other weights"])
def test_a_run_without_its_checkpoint(damage: str, trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    if damage == "gone":
        (folder / "ckpt.pt").unlink()
    elif damage == "short":
        (folder / "ckpt.pt").write_bytes((folder / "ckpt.pt").read_bytes()[:5000])
    else:
        content, _ = checkpoint.load(folder / "ckpt.pt")
        content["generator"]["stranger"] = torch.zeros(3)
        checkpoint.save(folder / "ckpt.pt", content)
    page = _page(tmp_path)
    wanted = {
        "gone": "There is no checkpoint.",
        "short": "cannot be read: not a checkpoint",
        "other weights": "stranger",
    }
    assert wanted[damage] in page and str(tmp_path) not in page and 'id="panels"' in page and 'id="step"' in page


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    for path, code in ((tmp_path, 2), (tmp_path / "a.txt", 3)):
        done = call("info", path, "--html", tmp_path / "report.html")
        assert done.code == code and done.out == b"" and len(done.err.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_diverged(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    with open(folder / "metrics.jsonl", "a") as log:
        log.write('{"step": 13, "wasserstein": NaN, "verdict": "diverged"}\n')
    assert '<span class="word bad">diverged</span>' in _page(tmp_path)


def test_a_run_of_points(tmp_path: Path) -> None:
    words: list[str | Path] = ["--width", "8", "--steps", "2", "--batch", "8", "-q", "-o", tmp_path / "run"]
    assert call("train", "--data", "toy:8gaussians", *words).code == 0
    page = _page(tmp_path)
    assert "A training run on points" in page and "points, which do not make pictures" in page
    done = call("info", tmp_path / "run", "--html", tmp_path / "x.html", "--data", write_images(tmp_path / "imgs"))
    assert done.code == 2 and "this run draws points" in done.err


@pytest.mark.parametrize("channels", [2, 3, 4, 5])
def test_other_channels(channels: int, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", channels, steps=2)
    page = written(folder, data=noise(channels))
    assert picture(page.moving["walk"]["src"]).width > 16
    assert len(page.texts["figcaption"]) == 24


# ---- What others named


NAMES = ("<script>alert(1)</script>", '</script><img src=x onerror="alert(2)">')


def test_names_are_only_text(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", classes=NAMES, labels="folders", steps=2)
    files = [f"{NAMES[i % 2]}/{i}'\".png" for i in range(40)]
    data = noise(labels=np.arange(40) % 2, names=lambda: files)
    page, plain = written(folder, data=data), written(run(tmp_path / "plain", steps=2), data=data)
    for tag in ("script", "style"):
        assert sum(name == tag for name, _ in page.tags) == sum(name == tag for name, _ in plain.tags)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.moving["walk"]["classes"][:2] == [*NAMES]
    assert NAMES[0] in page.all("td") and {*_alts(page)} < {*files}


def _alts(page: Reader) -> list[str | None]:
    """Of the images that are ranked."""
    return [attributes["alt"] for tag, attributes in page.tags if tag == "img" and attributes.get("id") != "frame"]


def test_a_run_whose_name_is_markup_or_no_utf8(trained: Path, tmp_path: Path) -> None:
    odd = [tmp_path / "<b>run<b>", tmp_path / os.fsdecode(b"caf\xe9")]
    for path in odd:
        shutil.copytree(trained, path)
    done = call("info", *odd, "--html", tmp_path / "report.html")
    assert done.code == 0, done.err
    page = Reader((tmp_path / "report.html").read_text("utf-8"))
    assert ["<b>run<b>", "caf\\udce9"] == [word for word in page.texts["th"] if word[0] in "<c"]
    labels = [line["label"] for panel in page.moving["panels"] for line in panel["lines"]]
    assert {"<b>run<b>", "caf\\udce9"} < {*labels}


# ---- Several runs


def test_several_runs_on_one_page(trained: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", variant="ns", width=9, steps=4)
    done = call("info", trained, other, "--html", tmp_path / "report.html")
    assert done == Ended(0, os.fsencode(tmp_path / "report.html") + b"\n", "")
    page = Reader((tmp_path / "report.html").read_text("utf-8"))
    assert page.texts["h1"] == ["2 runs"]
    panels = {panel["name"]: panel for panel in page.moving["panels"]}
    assert {"wasserstein", "js", "diversity"} <= panels.keys()
    assert [(line["label"], line["color"]) for line in panels["diversity"]["lines"]] == [("run", 0), ("other", 1)]
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    settings_told = page.all("th").split()
    assert {"variant", "width", "steps"} <= {*settings_told} and "latent" not in settings_told
    done = call("info", trained, trained, "--html", tmp_path / "report.html")
    assert done.code == 0 and "These runs have the same settings." in (tmp_path / "report.html").read_text()


def test_the_page_of_a_numbered_checkpoint_tells_nothing_later(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    content, _ = checkpoint.load(folder / "ckpt.pt")
    torch.save({**content, "step": 6}, folder / "ckpt-000006.pt")
    report.write(folder / "ckpt-000006.pt", tmp_path / "page.html")
    page = Reader((tmp_path / "page.html").read_text("utf-8"))
    assert "Step 6 of" in page.all("p") and [frame["step"] for frame in page.moving["frames"]] == [3, 6]
    assert all(max(line["steps"]) <= 6 for panel in page.moving["panels"] for line in panel["lines"])
    report.write_several([folder / "ckpt-000006.pt", folder / "ckpt.pt"], tmp_path / "page.html")
    verdicts = (tmp_path / "page.html").read_text("utf-8")
    assert "run/ckpt-000006.pt" in verdicts and "<td>6</td>" in verdicts and "<td>12</td>" in verdicts


def test_a_page_takes_no_other_files_place(trained: Path, tmp_path: Path) -> None:
    """As of `info --html a/ckpt.pt b/ckpt.pt`, which means to compare two."""
    folder = shutil.copytree(trained, tmp_path / "run")
    before = (folder / "ckpt.pt").read_bytes()
    for words in ((folder,), ()):
        done = call("info", *words, "--html", folder / "ckpt.pt")
        assert done.code == 2 and "name it with .html at its end" in done.err
    assert (folder / "ckpt.pt").read_bytes() == before


def test_info_and_the_page_judge_the_same_records(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    facts = json.loads(call("info", folder, "--json").out)
    with open(folder / "metrics.jsonl", "a") as log:
        log.write("[1]\n")
    assert json.loads(call("info", folder, "--json").out)["run"] == facts["run"]


def test_info_reads_a_checkpoint_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, loaded = checkpoint.load, list[Path]()

    def load(path: Path) -> Any:
        loaded.append(path)
        return read(path)

    monkeypatch.setattr(checkpoint, "load", load)
    assert call("info", trained).code == 0 and loaded == [trained / "ckpt.pt"]


@pytest.mark.parametrize("content", ['{"step": 1', "5", '{"a": 1}'])
def test_info_tells_of_a_checkpoint_beside_foreign_records(content: str, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "other")
    (folder / "metrics.jsonl").write_text(f"{content}\n")
    facts = json.loads(call("info", folder, "--json").out)
    assert facts["checkpoint"]["step"] == 12
    assert facts["run"] == {"verdict": "unknown", "reason": "metrics.jsonl is not as train writes it"}


def test_info_of_several_runs_tells_of_each(trained: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", steps=4)
    facts = json.loads(call("info", trained, other, "--json").out)
    assert [entry["checkpoint"]["step"] for entry in facts["runs"]] == [12, 4] and "torch" in facts
    lines = call("info", trained, other).out.decode().splitlines()
    assert lines.count(str(trained)) == lines.count(str(other)) == 1
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["12", "4"]
    assert sum(line.startswith("torch ") for line in lines) == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (("--html", "x.html"), "name a run"),
        (("RUN", "--html", "x.html", "--json"), "--json"),
        (("RUN", "--data", "imgs"), "go with --html"),
        (("RUN", "RUN", "--html", "x.html", "--data", "imgs"), "--data imgs"),
        (("RUN", "--html", "folder.html"), "is a folder"),
        (("RUN", "--html", "pipe.html"), "no regular file"),
        (("RUN", "--html", "x.html", "--data", "none"), "no such file"),
    ],
)
def test_what_does_not_go_together(
    words: tuple[str, ...], said: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.html").mkdir()
    os.mkfifo("pipe.html")  # not /dev/null, which is a plain file in some containers
    done = call("info", *(trained if word == "RUN" else word for word in words))
    assert done.code == 2 and said in done.err and done.out == b"" and not Path("x.html").exists()


# ---- While training runs


def test_training_keeps_the_page_fresh_and_is_the_same_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, write = [], report.write

    def writing(out: Path) -> None:
        write(out)
        drawn.append(Reader((out / "report.html").read_text("utf-8")).moving["frames"][-1]["step"])

    monkeypatch.setattr(report, "write", writing)
    monkeypatch.setattr(training, "FIRST_SAVE", 0.0)
    ticks = iter(range(0, 10**7, 60))
    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=lambda: float(next(ticks))))
    run(tmp_path / "with", html=True, ema=0.9)
    monkeypatch.undo()
    run(tmp_path / "without", ema=0.9)
    assert len(drawn) > 1 and drawn[-1] == 12 and drawn == sorted(drawn)
    for name in ("ckpt.pt", "config.json", "samples/newest.png"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert not (tmp_path / "without/report.html").exists()


def test_a_page_that_fails_costs_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(out: Path) -> None:
        raise MemoryError("no room for a page")

    monkeypatch.setattr(report, "write", failing)
    stream = io.StringIO()
    run(tmp_path / "run", html=True, console=Console(stream))
    assert (tmp_path / "run/ckpt.pt").exists()
    assert stream.getvalue().count("report.html: MemoryError: no room for a page") == 1
    begun = Run(tmp_path / "run", Console(stream), html=True)
    begun.draw()
    begun.draw()  # without another try
    assert stream.getvalue().count("report.html: MemoryError: no room for a page") == 2


def test_train_html_of_the_command_line(tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "imgs"), tmp_path / "run"
    words: list[str | Path] = [
        "train",
        "--data",
        images,
        "--arch",
        "mlp",
        "--width",
        "4",
        "--batch",
        "8",
        "--steps",
        "2",
        "-o",
        out,
    ]
    assert call(*words, "-q").code == 0 and not (out / "report.html").exists()
    assert call(*words, "-q", "--html").code == 0 and (out / "report.html").exists()  # nothing to do but this
    assert call(*words, "-q", "--force").code == 0 and not (out / "report.html").exists()


def test_the_page_is_a_file_of_the_run(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    config = TrainConfig.from_dict(json.loads((trained / "config.json").read_text()))
    with pytest.raises(Exception, match="holds report.html, and no config.json"):
        check_folder(tmp_path, config)
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    (folder / "report.html").write_text("old")
    (folder / "notes.html").write_text("mine")
    Run(folder, Console(io.StringIO())).prepare(config, fresh=True)
    assert not (folder / "report.html").exists() and (folder / "notes.html").exists()


# ---- Installed


def test_an_installed_wheel_has_the_page(tmp_path: Path, trained: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "wgan_cli", tmp_path / "wgan_cli", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (tmp_path / "csrc").mkdir()
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", "dist"]
    quiet = {**os.environ, "WGAN_CUDA": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert {*FILES} <= {file.name for file in (tmp_path / "site/wgan_cli/report").iterdir()}
    script = "import sys; from pathlib import Path; from wgan_cli import report; report.write(*map(Path, sys.argv[1:]))"
    place = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    subprocess.run([sys.executable, "-P", "-c", script, trained, "x.html"], cwd=tmp_path, env=place, check=True)
    assert (tmp_path / "x.html").stat().st_size > 10_000


def test_no_file_of_the_page_is_long() -> None:
    for name in FILES:
        assert len((ROOT / "wgan_cli/report" / name).read_text().splitlines()) <= 350


# ---- In a browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if not CHROMIUM or sys.platform == "win32":
        pytest.skip("no chromium: the page is not looked at")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages: one of everything, one of little, and one of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    report.write(trained, folder / "all.html", noise())
    (folder / "begun").mkdir()
    shutil.copy(trained / "config.json", folder / "begun")
    report.write(folder / "begun", folder / "little.html")
    report.write_several([trained, run(folder / "a-run-with-a-name-that-is-long", steps=4)], folder / "two.html")
    return {name: folder / f"{name}.html" for name in ("all", "little", "two")}


CONTRASTS = """(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((v) => v / 255)
      .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor, alpha = parts(color)[3];
      if (alpha === undefined || alpha > 0) return color;
    }
  };
  const found = [];
  for (const node of document.body.querySelectorAll("*")) {
    const text = [...node.childNodes].filter((c) => c.nodeType === 3).map((c) => c.data.trim()).join("");
    if (!text || ["SCRIPT", "NOSCRIPT"].includes(node.tagName) || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(node.tagName === "text" ? style.fill : style.color), light(ground(node))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.tagName, text.slice(0, 40)]);
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844), (320, 600)], ids=str)
@pytest.mark.parametrize("name", ["all", "little", "two"])
def test_the_page_in_a_window(name: str, size: tuple[int, int], dark: bool, page: Page, files: dict[str, Path]) -> None:
    page.open(files[name], *size, dark=dark)
    page.ask("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.ask("document.documentElement.scrollWidth") <= size[0]
    contrasts = page.ask(CONTRASTS)
    assert len(contrasts) > 20 and [entry for entry in contrasts if entry[0] < 4.5] == []
    small = page.ask(
        "[...document.body.querySelectorAll('*')].filter((n) => n.getClientRects().length && n.innerText"
        " && parseFloat(getComputedStyle(n).fontSize) < 12).map((n) => n.outerHTML.slice(0, 80))"
    )
    assert small == []
    cut = page.ask(  # labels of plots that reach out of them
        "[...document.querySelectorAll('.plot')].flatMap((p) => [...p.querySelectorAll('text')].filter((t) => {"
        " const a = t.getBoundingClientRect(), b = p.getBoundingClientRect();"
        " return a.left < b.left - 1 || a.right > b.right + 1; }).map((t) => t.textContent))"
    )
    assert cut == []
    assert page.errors == [] and all(url.startswith(("data:", "file:")) for url in page.requests)
    assert page.ask("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 26)" if dark else "rgb(247, 247, 245)"
    )


@pytest.mark.parametrize("name", ["all", "little", "two"])
def test_what_assistive_programs_read(name: str, page: Page, files: dict[str, Path]) -> None:
    page.open(files[name], 1280, 800)
    levels = page.ask("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels), default=0) <= 1
    assert page.ask("document.documentElement.lang") == "en"
    assert page.ask("[...document.images].every((i) => i.alt)")
    assert page.ask("[...document.querySelectorAll('table')].every((t) => t.caption && t.tHead)")
    assert page.ask("[...document.querySelectorAll('canvas, [role=slider], [role=region]')].every((n) => n.ariaLabel)")
    assert page.ask("[...document.querySelectorAll('input')].every((n) => n.labels.length)")
    assert page.ask("new Set([...document.querySelectorAll('[id]')].map((n) => n.id)).size") == page.ask(
        "document.querySelectorAll('[id]').length"
    )


def reach(page: Page, selector: str) -> None:
    """Press Tab until the focus is there."""
    for _ in range(60):
        if page.ask(f"document.activeElement.matches({json.dumps(selector)})"):
            return
        page.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")


def test_the_page_by_the_keyboard_alone(page: Page, files: dict[str, Path]) -> None:
    page.open(files["all"], 1280, 800, still=True)
    reach(page, "#step")
    before = page.ask("frame.src")
    page.press("ArrowLeft", 2)
    assert page.ask("told.textContent") == "6" and page.ask("frame.src") != before
    assert page.ask("frame.alt") == "a grid of samples at step 6" and page.ask("step.ariaValueText") == "step 6"
    reach(page, "[name=zoom]")
    page.press("ArrowRight", 2)
    assert page.ask("frame.getBoundingClientRect().width") == 2 * page.ask("frame.naturalWidth")
    reach(page, "#play")
    assert page.ask("play.textContent") == "Play"  # the reader prefers reduced motion
    page.press("Enter")
    assert page.ask("play.textContent") == "Pause"
    page.press(" ")
    assert page.ask("play.textContent") == "Play"
    reach(page, ".plot")
    page.press("Home")
    page.press("ArrowRight", 3)
    moving = page.ask("moving.panels[0].lines.map((line) => [line.steps, line.values])")
    assert page.ask("document.activeElement.ariaValueNow") == "4"
    told = page.ask("document.activeElement.ariaValueText")
    value = moving[0][1][moving[0][0].index(4)]
    assert told.startswith("step 4: each batch ") and float(told.split()[4].rstrip(",")) == pytest.approx(
        value, rel=1e-3
    )
    assert page.ask("document.querySelector('.legend b').textContent") == told.split()[4].rstrip(",")
    assert page.ask("document.querySelector('.legend .at').textContent") == "step 4"
    page.press("Tab")  # to the next curve, whose cursor has come along
    assert page.ask("document.activeElement.ariaValueNow") == "4"
    reach(page, "#copy")
    page.press("Enter")
    assert page.becomes("document.querySelector('[role=status]').textContent")
    assert page.errors == []


def test_the_pointer_reads_values_and_the_walk_plays(page: Page, files: dict[str, Path]) -> None:
    page.open(files["all"], 1280, 800)
    assert page.becomes("play.textContent === 'Pause'")
    page.ask("window.first = document.querySelector('#tiles canvas').toDataURL()")
    assert page.becomes("document.querySelector('#tiles canvas').toDataURL() !== first")
    page.ask("document.querySelector('.plot').scrollIntoView()")
    x, y = page.ask(
        "(() => { const b = document.querySelector('.plot').getBoundingClientRect(); return [b.left, b.top]; })()"
    )
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + 60, y=y + 50)
    assert page.ask("document.querySelector('.plot').ariaValueNow") == "1"
    assert page.errors == []


def test_the_page_may_not_connect(page: Page, files: dict[str, Path]) -> None:
    page.open(files["all"], 390, 844)
    assert page.ask("fetch('data:,x').then(() => 'fetched', () => 'blocked')") == "blocked"
    assert page.ask(
        "new Promise((done) => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); done(window.ran === undefined); })"
    )


def test_names_do_nothing_in_a_browser(page: Page, tmp_path: Path) -> None:
    folder = run(tmp_path / "run", classes=NAMES, labels="folders", steps=2)
    report.write(folder, tmp_path / "report.html")
    page.open(tmp_path / "report.html", 1280, 800)
    assert page.errors == []
    assert page.ask("document.querySelector('#tiles figcaption').textContent") == NAMES[0]
