"""The commands as a user types them: help, settings, exit codes, what goes to which stream, signals and pipes."""

from __future__ import annotations

import copy
import errno
import io
import itertools
import json
import os
import pickle
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import COMMAND, SETTINGS, Ended, call, memory, memory_now, new_run, save, wgan, write_images

from wgan_cli import EXIT_CODES, PIPE_CLOSED, TIME_LIMIT, DataError, DivergedError, UsageError, WganError, device
from wgan_cli import checkpoint as checkpoints
from wgan_cli import state as states
from wgan_cli.cli import cli
from wgan_cli.cli.said import fast_command, to_go_on
from wgan_cli.config import NO_FLAG, TrainConfig
from wgan_cli.console import Console
from wgan_cli.data.dataset import Dataset
from wgan_cli.distributed import Place
from wgan_cli.signals import Stop

COMMANDS: list[tuple[str, ...]] = [(), *((name,) for name in cli.commands)]


@pytest.fixture(scope="module")
def process(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Ended, Path]:
    """How a real `wgan train` ended, and where it ran."""
    place = tmp_path_factory.mktemp("place")
    environment = {**os.environ, "WGAN_CACHE": str(place / "cache")}
    return wgan("train", "--data", images, *SETTINGS, "-o", "run", cwd=place, env=environment), place


@pytest.fixture
def trained(process: tuple[Ended, Path], here: Path) -> Path:
    """A copy of its run folder, named `run`, in the working folder."""
    subprocess.run(["cp", "-a", process[1] / "run", here / "run"], check=True)
    return Path("run")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def files() -> dict[str, bytes | None]:
    """All below the working folder, with what it holds."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


def check_refused(done: Ended, code: int, *texts: str) -> None:
    """One or two lines on stderr that hold the texts, nothing on stdout."""
    assert done.code == code, done.err
    assert done.out == b""
    assert 1 <= len(done.err.splitlines()) <= 2 and done.err.startswith("Error: "), done.err
    for text in texts:
        assert text in done.err
    assert "Traceback" not in done.err and "\033" not in done.err and "\r" not in done.err


# ---- Help, completion, version


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_begins_with_examples(flag: str, words: tuple[str, ...]) -> None:
    done = call(*words, flag)
    assert (done.code, done.err) == (0, "")
    usage, blank, *rest = done.out.decode().splitlines()
    assert usage.startswith(" ".join(("Usage: wgan", *words))) and blank == ""
    examples = rest[: rest.index("")]
    assert len(examples) >= 2 and all(line.startswith(("  wgan ", "  find ")) for line in examples)
    assert any(f"wgan {' '.join(words)}" in line for line in examples)
    assert max(map(len, rest[: rest.index("Options:")])) <= 100


@pytest.mark.parametrize("name", [None, *cli.commands])
def test_every_option_and_command_has_a_help_text(name: str | None) -> None:
    command = cli.commands[name] if name else cli
    assert command.help and (name is None or command.short_help)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            assert any(word.startswith("--") for word in parameter.opts), parameter.name


def test_train_has_an_option_for_every_setting() -> None:
    options = {parameter.name: parameter for parameter in cli.commands["train"].params}
    for setting in fields(TrainConfig):
        if setting.name in NO_FLAG:
            continue
        assert setting.name in options
        assert isinstance(option := options[setting.name], click.Option) and "default" in str(option.help)


def test_the_help_shows_the_papers_defaults() -> None:
    text = " ".join(call("train", "-h").out.decode().split())
    for default in (
        "gan ns div r3 hinge 0.0002, clip 5e-05, gp lp dragan r1 lsgan 0.0001",
        "gan ns 0.5,0.999, gp lp div r3 hinge 0,0.9, dragan 0.5,0.9",
        "r1 0.999, r3 0.9996, else 0",
        "hinge linear, else none",
        "dcgan resnet 64, mlp 512, r3 24",
        "clip 0.01",
    ):
        assert f"[default: {default}]" in text


def test_examples_in_the_help_use_options_that_exist() -> None:
    for name, command in cli.commands.items():
        known = {word for parameter in command.params for word in parameter.opts}
        parts = [part.split() for line in str(command.help).splitlines() for part in line.split("|")]
        examples = [words for words in parts if words[:2] == ["wgan", name]]
        assert examples
        for words in examples:
            assert {word for word in words if re.match("--?[a-z0]", word)} <= known


def test_one_line_of_version() -> None:
    done = call("--version")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(rb"wgan \d+\.\d+\.\d+\S*, torch \d\S+, Python \d\S+\n", done.out)


def test_what_needs_no_torch_does_not_import_it() -> None:
    """Nor numpy, nor Pillow: the answer comes at once."""
    lines = ["", "-h", "--version", "train", "train -h", "train --data x --lrr 1", "train --data x --lr -1",
             "train --data x --size 20", f"train --data x -o {__file__}", "sample", "sample no.pt", "critic-score -h",
             "critic-score .", "info x"]  # fmt: skip
    script = """if True:
        import os, sys
        from wgan_cli.cli import main

        def check(*words):
            sys.argv = ["wgan", *words]
            try:
                main()
            except SystemExit as end:
                heavy = sys.modules.keys() & {"torch", "numpy", "PIL"}
                assert end.code in (0, 2) and not heavy, (words, end.code, heavy)

        for line in sys.argv[1:]:
            check(*line.split())
        os.environ.update(_WGAN_COMPLETE="bash_complete", COMP_WORDS="wgan train --", COMP_CWORD="2")
        check()
    """
    done = subprocess.run([sys.executable, "-c", script, *lines], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("plain,--help\n"), done.stderr[-500:]


@pytest.mark.parametrize(
    ("shell", "text"), [("bash", b"complete -o nosort -F"), ("zsh", b"#compdef wgan"), ("fish", b"--command wgan")]
)
def test_completion_scripts(shell: str, text: bytes) -> None:
    done = wgan(env={**os.environ, "_WGAN_COMPLETE": f"{shell}_source"})
    assert (done.code, done.err) == (0, "") and text in done.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.out, check=True)


@pytest.mark.parametrize(
    ("typed", "answers"),
    [
        ("wgan cri", ["plain,critic-score"]),
        ("wgan train --vari", ["plain,--variant"]),
        ("wgan train --variant g", ["plain,gan", "plain,gp"]),
        ("wgan train --data x", ["file,x"]),
        ("wgan sample ru", ["file,ru"]),
        ("wgan sample run/ckpt.pt -o x", ["file,x"]),
        ("wgan critic-score run/ckpt.pt im", ["file,im"]),
    ],
)
def test_completion(typed: str, answers: list[str]) -> None:
    variables = {"_WGAN_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = wgan(env={**os.environ, **variables})
    assert (done.code, done.err, done.out.decode().split()) == (0, "", answers)


def test_train_s_help_has_headings_and_begins_with_what_matters() -> None:
    lines = call("train", "-h").out.decode().splitlines()
    assert lines[2].startswith("  wgan train --data ./imgs --time-limit 10m ") and "ten minutes" in lines[2]
    headings = [line[:-1] for line in lines if re.fullmatch(r"\w+:", line)]
    assert headings == ["Options", "Data", "Networks", "Loss", "Optimizer", "Run", "Output"]
    options = {heading: re.findall(r"^  (?:-\w, )?--([\w-]+)", part, re.M) for heading, part in zip(
        headings, re.split(r"^\w+:$", "\n".join(lines), flags=re.M)[1:], strict=True)}  # fmt: skip
    assert options["Options"] == ["data", "out", "preset", "variant", "arch", "size", "steps", "time-limit",
                                  "dry-run", "force", "help"]  # fmt: skip
    assert "fit" in options["Data"] and "clip" in options["Loss"] and "quiet" in options["Output"]
    known = [word[2:] for parameter in cli.commands["train"].params for word in parameter.opts if word[:2] == "--"]
    assert sorted(sum(options.values(), [])) == sorted([*known, "help"])


def test_the_exit_codes_stand_in_the_help_and_on_a_page_as_in_the_table() -> None:
    page = (Path(__file__).parent.parent / "docs/scripts.md").read_text().replace("`", "")
    rows = "".join(f"| {code} | {said} |\n" for code, said in EXIT_CODES.items())
    assert f"| code | meaning |\n|---|---|\n{rows}\n" in page
    text = call("-h").out.decode().partition("Exit codes:\n")[2].splitlines()
    assert [line.split(maxsplit=1) for line in text] == [[str(code), said] for code, said in EXIT_CODES.items()]
    for error in (WganError, UsageError, DataError, DivergedError):
        assert error.exit_code in EXIT_CODES
    for name in ("SIGHUP", "SIGINT", "SIGTERM"):
        assert f"stopped by {name} " in EXIT_CODES[128 + getattr(signal, name)]
    assert {TIME_LIMIT, PIPE_CLOSED} <= EXIT_CODES.keys() and 128 + signal.SIGPIPE == PIPE_CLOSED


# ---- Settings and where they come from


def settings(*words: str | Path) -> dict[str, tuple[Any, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wgan_cli.train.expected_seconds", lambda config, device: 1.0)  # of which none is asked here
        done = call("train", "--dry-run", "--json", "-q", *words)
    assert (done.code, done.err) == (0, "")
    return {name: (entry["value"], entry["from"]) for name, entry in json.loads(done.out).items()}


@pytest.mark.parametrize(
    ("variant", "paper"),
    [
        ("clip", {"optimizer": "rmsprop", "lr": 5e-5, "clip": 0.01, "n_critic": 5, "batch": 64}),
        ("gp", {"optimizer": "adam", "lr": 1e-4, "betas": [0.0, 0.9], "gp_weight": 10.0, "n_critic": 5, "batch": 64}),
        ("gan", {"optimizer": "adam", "lr": 2e-4, "betas": [0.5, 0.999], "n_critic": 1, "batch": 128}),
        ("ns", {"optimizer": "adam", "lr": 2e-4, "betas": [0.5, 0.999], "n_critic": 1, "batch": 128}),
    ],
)
def test_defaults_are_the_paper_s(variant: str, paper: dict[str, Any], images: Path) -> None:
    found = settings("--data", images, "--variant", variant)
    assert found["variant"] == (variant, "flag")
    assert {name: found[name] for name in paper} == {
        name: (value, f"variant {variant}") for name, value in paper.items()
    }
    norm = "none" if variant == "gp" else "batch"  # DCGAN's critic, which WGAN kept and WGAN-GP may not have
    assert found["critic_norm"] == (norm, f"variant {variant}")
    for name in {"clip", "gp_weight", "betas"} - paper.keys():
        assert found[name] == (None, "not used")


def test_a_cpu_takes_the_fast_preset_unless_a_system_is_named(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WGAN_TRAIN_PRESET")
    assert settings("--data", images)["n_critic"] == (1, "preset fast")
    assert settings("--data", images, "--variant", "gp")["n_critic"] == (5, "variant gp")
    assert settings("--data", images, "--preset", "paper")["n_critic"] == (5, "variant gp")
    done = call("train", "--data", images, *SETTINGS, "--lr", "1e-3", "-o", "run")
    first = done.err.splitlines()[0]
    photographs, drawings = "preset fast for photographs: ", "preset fast for drawings: "
    assert first.startswith(photographs) and " --n-critic 1 " in first and "--lr " not in first
    flags = shlex.split(first.removeprefix(photographs))
    again = call("train", "--data", images, *SETTINGS, "--preset", "paper", "--lr", "1e-3", *flags, "-o", "run")
    assert (again.code, again.out) == (0, b"run/ckpt.pt\n") and "nothing to do" in again.err  # the same settings
    as_drawn = ("--upsample", "blurred", "--palette", "8")
    call("train", "--data", images, *SETTINGS, *as_drawn, "--steps", "1", "-o", "drawn")
    longer = call("train", "--data", images, *SETTINGS, "-o", "drawn")
    assert longer.code == 0 and longer.err.startswith(drawings)  # as it was begun


def test_each_setting_comes_from_the_nearest_place(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGAN_TRAIN_LR", "7e-4")
    monkeypatch.setenv("WGAN_TRAIN_BATCH", "16")
    monkeypatch.setenv("WGAN_TRAIN_FLIP", "1")
    monkeypatch.setenv("WGAN_TRAIN_DATA", str(images))
    monkeypatch.setenv("WGAN_TRAIN_BETAS", "0.1,0.2")
    found = settings("--batch", "4")
    assert found["lr"] == (7e-4, "environment")
    assert found["batch"] == (4, "flag")
    assert found["flip"] == (True, "environment")
    assert found["betas"] == ([0.1, 0.2], "environment")
    assert found["gp_weight"] == (10.0, "variant gp")
    assert found["width"] == (64, "arch dcgan")
    assert found["size"] == (16, "data") and found["channels"] == (3, "data")
    assert found["steps"] == (100_000, "default") and found["variant"] == ("gp", "default")
    assert list(found) == [setting.name for setting in fields(TrainConfig) if setting.name != "begun"]
    assert settings("--variant", "clip", "--optimizer", "adam")["betas"] == ([0.1, 0.2], "environment")
    monkeypatch.delenv("WGAN_TRAIN_BETAS")
    assert settings("--variant", "clip", "--optimizer", "adam")["betas"] == ([0.9, 0.999], "optimizer adam")
    assert settings("--arch", "mlp")["width"] == (512, "arch mlp")
    assert files() == {}


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("WGAN_TRAIN_LR", "fast", "Error: --lr (from WGAN_TRAIN_LR): 'fast' is not a valid number."),
        ("WGAN_TRAIN_LR", "-1", "Error: --lr (from WGAN_TRAIN_LR): -1.0 is not in the range x>0.0."),
        ("WGAN_TRAIN_LR", "nan", "Error: --lr (from WGAN_TRAIN_LR) nan: must be a number above 0"),
        ("WGAN_TRAIN_CLIP", "0.1", "Error: --clip (from WGAN_TRAIN_CLIP) 0.1: variant gp does not clip weights; "),
        ("WGAN_TRAIN_OUT", "/dev/null/a", "Error: -o (from WGAN_TRAIN_OUT): cannot write /dev/null/a/ckpt.pt: "),
    ],
)
def test_the_environment_is_checked_as_flags_are_and_named(
    variable: str, value: str, text: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    done = call("train", "--data", images)
    check_refused(done, 2, text)
    typed = call("train", "--data", images, "--" + variable.rpartition("_")[2].lower(), value)
    check_refused(typed, 2)
    assert variable not in typed.err


def test_every_variable_is_named_after_its_flag(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setenv("WGAN_INFO_JSON", "1")
    assert "checkpoint" in json.loads(call("info", checkpoint).out)
    monkeypatch.setenv("WGAN_CRITIC_SCORE_SEED", "-2")
    check_refused(call("critic-score", checkpoint, "."), 2, "--seed (from WGAN_CRITIC_SCORE_SEED): -2 is not")
    for name, command in cli.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                flag = next(word for word in parameter.opts if word.startswith("--"))
                assert parameter.envvar == f"WGAN_{name}_{flag[2:]}".upper().replace("-", "_")


def test_a_variable_of_no_option_is_a_notice(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the command that runs; those of the tool itself and of other commands are none."""
    for name in ("WGAN_CACHE", "WGAN_FUSED", "WGAN_CUDA", "WGAN_TRAIN_LRR", "WGANESE"):
        monkeypatch.setenv(name, "0")
    assert call("info").err == ""
    monkeypatch.setenv("WGAN_INFO_JASON", "1")
    monkeypatch.setenv("WGAN_INFO_X", "1")
    done = call("info", checkpoint)
    assert (done.code, done.err.splitlines()) == (
        0, ["WGAN_INFO_JASON: no such option; did you mean WGAN_INFO_JSON?", "WGAN_INFO_X: no such option"],
    )  # fmt: skip
    assert call("info", checkpoint, "-q").err == ""


def test_dry_run_in_words_has_a_line_a_setting_and_writes_nothing(images: Path) -> None:
    done = call("train", "--data", images, "--dry-run", "-q", "--clip", "0.02", "--variant", "clip", "-o", "run")
    assert (done.code, done.err) == (0, "")
    lines = done.out.decode().splitlines()
    assert len(lines) == len(fields(TrainConfig)) - 1
    assert "clip            0.02         flag" in lines and "lr              5e-05        variant clip" in lines
    assert files() == {}


def test_data_from_a_list_on_stdin(images: Path) -> None:
    paths = sorted(images.iterdir())
    for flags, end in (((), b"\n"), (("-0",), b"\0")):
        listed = end.join(map(bytes, paths))
        done = call("train", "--data", "-", *flags, *SETTINGS, "-o", "listed", "--force", "-q", stdin=listed)
        assert done == (0, b"listed/ckpt.pt\n", "")
    assert call("train", "--data", images, *SETTINGS, "-o", "listed", "-q").code == 0  # the same data, and so finished


# ---- Bad input: the exit code, a line or two, and nothing left behind


def folder(name: str, *contents: bytes) -> Path:
    Path(name).mkdir()
    for index, content in enumerate(contents):
        Path(name, f"{index}.png").write_bytes(content)
    return Path(name)


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("words", "code", "texts"),
    [
        ("--data {text}/list.txt", 3, ["list.txt", "--data - < {text}/list.txt"]),
        ("--data {empty}", 3, ["empty", "no images"]),
        ("--data {text}", 3, ["text", "no images"]),
        ("--data {text}/notes.txt", 3, ["notes.txt"]),
        ("--data missing", 2, ["missing", "no such"]),
        ("--data toy:nine", 2, ["toy:nine", "toy:8gaussians"]),
        ("--data {images} --batch 33", 3, ["32 images", "--batch 33"]),
        ("--data {images} --size 20", 2, ["--size 20", "16 or 28"]),
        ("--data {images} --size 512", 2, ["--size", "512", "256"]),
        ("--data {images} --lr -1e-4", 2, ["--lr", "-0.0001", "x>0"]),
        ("--data {images} --lr nan", 2, ["--lr nan"]),
        ("--data {images} --lr inf", 2, ["--lr inf"]),
        ("--data {images} --lr fast", 2, ["--lr", "fast"]),
        ("--data {images} --steps 0", 2, ["--steps", "0 is not in the range 1<=x<=999999999"]),
        ("--data {images} --steps 1.5", 2, ["--steps", "1.5"]),
        ("--data {images} --seed -1", 2, ["--seed", "-1"]),
        ("--data {images} --betas 0.5", 2, ["--betas"]),
        ("--data {images} --betas a,b", 2, ["--betas", "a,b"]),
        ("--data {images} --betas 0.5,1", 2, ["--betas"]),
        ("--data {images} --betas ''", 2, ["--betas"]),
        ("--data {images} --size 0 --arch mlp", 2, ["--size", "0 must be a whole number from 1 to 256"]),
        ("--data {images} --ema 1", 2, ["--ema", "1.0", "x<1"]),
        ("--data {images} --variant gp --critic-norm batch", 2, ["--critic-norm batch", "none or layer"]),
        ("--data {images} --variant gp --clip 0.1", 2, ["--clip 0.1", "gp"]),
        ("--data {images} --variant clip --gp-weight 1", 2, ["--gp-weight 1", "clip"]),
        ("--data {images} --variant clip --betas 0,0.9", 2, ["--betas", "rmsprop"]),
        ("--data {images} --variant wgan", 2, ["wgan", "'gp'"]),
        ("--data {images} --variants gp", 2, ["--variants", "Did you mean", "--variant"]),
        ("--data {images} --vari gp", 2, ["--vari"]),
        ("--data {images} --time-limit soon", 2, ["soon", "30m"]),
        ("--data {images} --time-limit ''", 2, ["--time-limit"]),
        ("--data {images} --json", 2, ["--dry-run"]),
        ("--data {images} extra", 2, ["extra"]),
        ("--data {images} -o {text}/notes.txt", 2, ["notes.txt", "not a folder"]),
        ("--data {images} -o {text}/notes.txt/run", 2, ["notes.txt", "not a folder"]),
        ("--data toy:8gaussians --size 16", 2, ["--size", "points"]),
        ("--data toy:8gaussians --channels 3", 2, ["--channels", "points"]),
        ("--data toy:8gaussians --flip", 2, ["--flip", "points"]),
        ("--data toy:8gaussians --arch dcgan", 2, ["mlp"]),
        ("", 2, ["--data"]),
    ],
)
def test_train_refuses(words: str, code: int, texts: list[str], images: Path, tmp_path: Path) -> None:
    for name in ("empty", "text"):
        (tmp_path / name).mkdir()
    for name in ("notes", "list"):
        (tmp_path / f"text/{name}.txt").write_text("notes")
    texts = [text.format(text=tmp_path / "text") for text in texts]
    line = words.format(images=images, empty=tmp_path / "empty", text=tmp_path / "text")
    check_refused(call("train", *shlex.split(line)), code, *texts)
    assert files() == {}
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == ["list.txt", "notes.txt"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(images: Path) -> None:
    check_refused(call("train", "--data", images, "--device", "cuda"), 2, "--device cuda")
    assert files() == {}


def test_one_corrupt_image_among_good_ones(tmp_path: Path) -> None:
    os.chdir(tmp_path)
    folder("mixed", *(png(value) for value in range(9)), png()[:50])
    os.chdir("here")
    words = ("train", "--data", tmp_path / "mixed", *SETTINGS, "-o", "run")
    done = call(*words)
    assert (done.code, done.out, files()) == (3, b"", {})
    head, row, last = done.err.splitlines()  # the table, then what it means
    assert "1 unreadable file" in head and "mixed/9.png" in row and "1 of 10" in last and "--skip-bad" in last
    done = call(*words, "--skip-bad")
    assert (done.code, done.out) == (0, b"run/ckpt.pt\n") and "9.png" in done.err
    assert call("critic-score", "run", tmp_path / "mixed/0.png").code == 0


class Bomb:
    """What pickle, left to itself, would call when it loads this."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sentinel,)


def of_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"format": 1, "config": Bomb(Path("ran"))}))


def of_legacy_torch(path: Path) -> None:
    torch.save({"format": 1, "config": Bomb(Path("ran"))}, path, _use_new_zipfile_serialization=False)


def of_torch(path: Path) -> None:
    torch.save({"format": 1, "config": Bomb(Path("ran"))}, path)


def of_torch_in_a_good_one(path: Path) -> None:
    change(path, versions={"wgan": Bomb(Path("ran"))})


def change(path: Path, **changes: Any) -> None:
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)


def change_config(path: Path, **changes: Any) -> None:
    change(path, config={**torch.load(path, weights_only=True)["config"], **changes})


def change_weights(path: Path, **changes: Any) -> None:
    content = torch.load(path, weights_only=True)
    change(path, **{name: {**content[name], **copy.deepcopy(changes)} for name in ("generator", "critic", "ema")})


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def script_module(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/constants.pkl", b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        weights = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[weights.header_offset + 500] ^= 1
    path.write_bytes(content)


def repack(path: Path, method: int, **more: bytes) -> None:
    """The same entries in a zip as other tools write it."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in {**entries, **more}.items():
            archive.writestr(name, content)


class Gigabytes:
    """What fills the memory, though `weights_only` lets it pass."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (1 << 33,)


def endless() -> list[Any]:
    nested: list[Any] = [1]
    for _ in range(100):
        nested = [nested] * 10
    return nested


def change_moments(path: Path, **changes: Any) -> None:
    saved = torch.load(path, weights_only=True)["optimizer_critic"]
    change(path, optimizer_critic={**saved, "state": {**saved["state"], 0: {**saved["state"][0], **changes}}})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not a checkpoint"),
    "truncated": (truncate, "cut short"),
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)), "not a checkpoint"),
    "an image": (lambda path: path.write_bytes(png()), "not a checkpoint"),
    "of another tool": (lambda path: torch.save({"model": {"weight": torch.zeros(3)}}, path), "other tools"),
    "a list": (lambda path: torch.save([1, 2], path), "other tools"),
    "TorchScript": (script_module, "damaged"),
    "a pickle that runs code": (of_pickle, "not a checkpoint"),
    "legacy torch that runs code": (of_legacy_torch, "not a checkpoint"),
    "torch that runs code": (of_torch, "nothing was run"),
    "a good one that runs code": (of_torch_in_a_good_one, "nothing was run"),
    "a flipped bit in the weights": (flip_a_bit, "not what was written"),
    "a zip bomb": (lambda path: repack(path, zipfile.ZIP_DEFLATED, bomb=bytes(1 << 24)), "compressed"),
    "two pickles": (lambda path: repack(path, zipfile.ZIP_STORED, **{"b/DATA.pkl": b""}), "not one of each"),
    "a pickle of gigabytes": (lambda path: change(path, versions={"wgan": Gigabytes()}), "nothing was run"),
    "a tensor of terabytes": (lambda path: change_weights(path, x=torch.zeros(1).expand(10**12)), "fill its memory"),
    "a tensor over itself": (
        lambda path: change_weights(path, x=torch.zeros(9).as_strided((3, 3), (1, 1))),
        "fill its",
    ),
    "a list without end": (lambda path: change(path, versions=endless()), "two places"),
    "control characters": (lambda path: change_config(path, variant="\x1b]0;x\x07"), r"\x1b]0;x\x07"),
    "a text of megabytes": (lambda path: change_config(path, variant="x" * 10**6), "xxx"),
    "a format beyond counting": (lambda path: change(path, format=10**30), "format unknown"),
    "another format": (lambda path: change(path, format=99), "format 99"),
    "no critic": (lambda path: change(path, critic=None), "critic"),
    "no count of data": (lambda path: change(path, data={}), "data.fingerprint, data.count"),
    "no random state": (lambda path: change(path, rng={"device": "cpu", "state": 7}), "rng.state"),
    "a step below 0": (lambda path: change(path, step=-5), "below 0"),
    "no config": (lambda path: change(path, config=7), "config"),
    "unknown setting": (lambda path: change_config(path, colour=1), "colour"),
    "wrong setting": (lambda path: change_config(path, width="wide"), "width"),
    "another width": (lambda path: change_config(path, width=5), "do not fit"),
    "a huge width": (lambda path: change_config(path, width=5000), "do not fit"),
    "a width beyond memory": (lambda path: change_config(path, width=10**6), "do not fit"),
    "a width beyond 64 bits": (lambda path: change_config(path, width=10**12), "make no network"),
    "another size": (lambda path: change_config(path, size=32), "do not fit"),
    "one weight more": (lambda path: change_weights(path, **{"a\nb": torch.zeros(2)}), r"a\nb"),
    "no tensor": (lambda path: change_weights(path, **{"net.0.bias": 3.0, "net.2.weight": 3.0}), "do not fit"),
    "float64": (lambda path: change_weights(path, **{"net.0.bias": torch.zeros(4).double()}), "do not fit"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_refused_by_every_command(name: str, images: Path, trained: Path) -> None:
    path = Path("broken.pt")
    path.write_bytes((trained / "ckpt.pt").read_bytes())
    break_it, text = BROKEN[name]
    break_it(path)
    (trained / "ckpt.pt").write_bytes(path.read_bytes())
    before = files()
    measured = Path("/proc/self/clear_refs").exists()
    resident = memory_now() if measured else 0
    for words in (
        ("sample", path, "-o", "grid.png"),
        ("sample", path, "-o", "folder/"),
        ("critic-score", path, images),
        ("info", path),
        ("train", "--data", images, *SETTINGS, "--steps", "9", "-o", trained, "-q"),
    ):
        done = call(*words)
        if words[0] == "train" and done.code == 2:  # settings other than this command's
            check_refused(done, 2, "now 16" if name == "another size" else "now 4")
        else:
            check_refused(done, 3, text)
    assert files() == before  # above all: no file `ran`
    if measured:
        assert memory("VmHWM") - resident < 500 << 20  # 5,000 wide it would take 3 GB


def test_a_run_begun_on_a_gpu_goes_on_with_other_random_numbers(images: Path, trained: Path) -> None:
    """Whose random state says nothing to a CPU; they follow from the seed and the step."""
    rng = torch.load(trained / "ckpt.pt", weights_only=True)["rng"]
    change(trained / "ckpt.pt", rng={"device": "cuda", "state": rng["state"][:16].clone()})
    shutil.copytree(trained, "again")
    words = ("train", "--data", images, *SETTINGS, "--steps", "6", "--device", "cpu")
    for out in (trained, "again"):
        done = call(*words, "-o", out)
        assert done.code == 0 and "continued on cpu, begun on cuda: other random numbers from here" in done.err
    assert Path("again/ckpt.pt").read_bytes() == (trained / "ckpt.pt").read_bytes()
    assert "begun on" not in call(*words, "--steps", "7", "-o", trained).err


def test_a_run_that_took_no_step_goes_on_where_steps_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU does, whose optimizers have their moments before the first step; on a CPU they come with it."""
    begun = new_run()
    dataset = Dataset(np.zeros((32, 16, 16, 3), np.uint8), "0" * 16)
    states.save_state(tmp_path / "ckpt.pt", begun, dataset)
    monkeypatch.setattr(states, "RECORDERS", ("cpu",))
    state = states.restored_state(tmp_path / "ckpt.pt", begun.config, dataset, torch.device("cpu"), Console())
    for optimizer in (state.optimizer_generator, state.optimizer_critic):
        params = optimizer.param_groups[0]["params"]
        assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in params)


@pytest.mark.parametrize("make", [of_pickle, of_legacy_torch, of_torch])
def test_the_code_in_those_checkpoints_is_live(make: Callable[[Path], None]) -> None:
    """Else the test above would prove nothing."""
    make(Path("live.pt"))
    if make is of_pickle:
        pickle.loads(Path("live.pt").read_bytes())
    else:
        torch.load("live.pt", weights_only=False)
    assert Path("ran").exists()


@pytest.mark.parametrize("command", ["sample", "critic-score", "info"])
def test_a_checkpoint_that_is_not_there(command: str) -> None:
    Path("empty").mkdir()
    check_refused(call(command, "missing.pt"), 2, "missing.pt", "does not exist")
    check_refused(call(command, "empty"), 2, "empty", "without a ckpt.pt")
    assert files() == {"empty": None}


@pytest.mark.parametrize("out", ["/dev/stdout", "out.jpg"])
def test_an_ending_that_is_none_of_a_sample_s(out: str, checkpoint: Path) -> None:
    check_refused(call("sample", checkpoint, "-o", out), 2, f"-o {out}: must end in .png, .npz or .npy", "`-o -`")


def test_a_working_folder_that_is_gone(here: Path, checkpoint: Path) -> None:
    """torch would end the process with a word of a library that cannot be loaded."""
    here.rmdir()
    for words in (("info",), ("sample", checkpoint, "-o", "x.png"), ("train", "--data", "toy:8gaussians")):
        done = wgan(*words)
        assert (done.code, done.out) == (2, b"")
        assert done.err == "Error: the current folder is gone; change into another one\n"
    assert wgan("train", "-h").code == 0


def test_unknown_command_with_a_way_on() -> None:
    check_refused(call("tran"), 2, "tran", "wgan -h")
    check_refused(call("--lr", "1"), 2, "--lr", "wgan -h")
    done = call()
    assert done.code in (0, 2) and b"Usage: wgan" in done.out + done.err.encode()  # as Click has it: 2 since 8.2


def test_a_traceback_only_with_debug(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wgan_cli.checkpoint.networks", lambda *words: 1 / 0)
    words = ("critic-score", save(new_run(), Path("ckpt.pt")), images)
    check_refused(call(*words), 1, "ZeroDivisionError: division by zero", "--debug")
    with pytest.raises(ZeroDivisionError):
        call(*words, "--debug")
    monkeypatch.setenv("WGAN_CRITIC_SCORE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        call(*words)


# ---- Runs: divergence, other settings, running again


def test_a_run_that_diverges_keeps_the_last_good_checkpoint(images: Path, trained: Path) -> None:
    content = torch.load(trained / "ckpt.pt", weights_only=True)
    change(trained / "ckpt.pt", critic={name: weight * 1e30 for name, weight in content["critic"].items()})
    before = files()
    done = call("train", "--data", images, *SETTINGS, "--steps", "9", "-o", trained)
    assert (done.code, done.out) == (4, b"")
    *_, last = done.err.splitlines()
    assert last.startswith("Error: training diverged at step 5: ") and "--lr" in last and "ckpt.pt of step 4" in last
    after = files()
    assert after["run/ckpt.pt"] == before["run/ckpt.pt"]
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5] and records[4]["verdict"] == "diverged"
    assert not [name for name in after if name.endswith(".tmp")]


def test_a_learning_rate_that_is_far_too_high(images: Path) -> None:
    done = call("train", "--data", images, *SETTINGS, "--lr", "1e30", "-o", "run")
    assert (done.code, done.out) == (4, b"") and "nothing had been saved" in done.err and "Traceback" not in done.err
    assert "run/ckpt.pt" not in files()
    for line in Path("run/metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_other_settings_are_refused_and_listed_until_forced(images: Path, trained: Path) -> None:
    before = files()
    words = ("train", "--data", images, *SETTINGS, "-o", trained, "--lr", "2e-3", "--seed", "5")
    check_refused(call(*words), 2, "--lr was 0.0001, now 0.002", "--seed was 0, now 5", "--force")
    other = write_images(Path("other"), 9)
    check_refused(call("train", "--data", other, *SETTINGS, "-o", trained), 2, "--data", "--force")
    assert {name: content for name, content in files().items() if not name.startswith("other")} == before
    done = call(*words, "--force")
    assert (done.code, done.out) == (0, b"run/ckpt.pt\n")
    assert json.loads(Path("run/config.json").read_text())["seed"] == 5
    assert call(*words).code == 0  # and now it is that run


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: change(path, optimizer_critic={"state": {}}),
        lambda path: change(path, optimizer_critic={}),
        lambda path: change_moments(path, exp_avg=torch.zeros(3)),
        lambda path: change_moments(path, exp_avg=3),
        lambda path: change_moments(path, other=torch.zeros(3)),
        lambda path: change(path, step=1),  # with the batches of four
    ],
)
def test_damaged_optimizers_are_told_when_going_on(damage: Callable[[Path], None], images: Path, trained: Path) -> None:
    damage(trained / "ckpt.pt")
    check_refused(call("train", "--data", images, *SETTINGS, "--steps", "9", "-o", trained, "-q"), 3, "damaged")


def test_files_of_others_in_the_run_folder_stay(images: Path) -> None:
    others = ["run/ckpt_other.pt", "run/samples/2024-holiday.png", "run/deep/.vim.tmp", "run/.notes.tmp"]
    for name in others:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"mine")
    Path("run/samples/.000002.png.0123abcd.tmp").touch()  # what a killed run leaves
    for words in ((), ("--force", "--lr", "1e-3")):
        assert call("train", "--data", images, *SETTINGS, "-o", "run", *words).code == 0
        assert all(Path(name).read_bytes() == b"mine" for name in others)
    assert not Path("run/samples/.000002.png.0123abcd.tmp").exists()
    Path("other").mkdir()
    Path("other/metrics.jsonl").write_text("{}")
    check_refused(call("train", "--data", images, *SETTINGS, "-o", "other", "-q"), 2, "no config.json of a run of wgan")


def test_a_make_rule_continues_and_then_leaves_all_as_it_is(images: Path) -> None:
    """The rule of the README: always asked, interrupted runs kept and gone on with, finished ones not touched."""
    wgan_command = shlex.join(COMMAND)
    train = f"{wgan_command} train --data {images} {shlex.join(SETTINGS)} $(LIMIT) -q -o run"
    rules = [".DELETE_ON_ERROR:", ".PRECIOUS: run/ckpt.pt", f"run/ckpt.pt: FORCE\n\t{train}", "FORCE:"]
    rules += ["grid.png: run/ckpt.pt\n\tcp $< $@"]
    Path("Makefile").write_text("\n".join(rules) + "\n")
    make = ["make", "-s", "grid.png"]
    assert call("train", "--data", images, *SETTINGS, "-o", "other").code == 0  # the images are decoded
    stopped = subprocess.run([*make, "LIMIT=--time-limit 0"], capture_output=True)
    assert stopped.returncode == 2 and Path("run/ckpt.pt").exists() and not Path("grid.png").exists()
    assert subprocess.run(make, capture_output=True).returncode == 0
    before = {name: Path(name).stat().st_mtime_ns for name in ("run/ckpt.pt", "grid.png")}
    assert subprocess.run(make, capture_output=True).returncode == 0
    assert {name: Path(name).stat().st_mtime_ns for name in before} == before


def test_a_finished_run_does_nothing_again(images: Path, trained: Path) -> None:
    def state() -> list[Any]:
        return [files(), *(path.stat().st_mtime_ns for path in sorted(trained.rglob("*")))]

    before = state()
    done = call("train", "--data", images, *SETTINGS, "-o", trained)
    assert (done.code, done.out) == (0, b"run/ckpt.pt\n") and "nothing to do" in done.err
    assert call("train", "--data", images, *SETTINGS, "-o", trained, "-q") == (0, b"run/ckpt.pt\n", "")
    assert state() == before


def test_a_time_limit_ends_with_75_and_the_command_to_go_on(images: Path, trained: Path) -> None:
    words = ("train", "--data", str(images), *SETTINGS, "-o", "b", "--time-limit", "0s")
    assert call("train", "--data", images, *SETTINGS, "-o", "other").code == 0  # the images are decoded
    done = call(*words)
    assert (done.code, done.out) == (75, b"")
    *_, stopped, again, following = done.err.splitlines()
    assert (
        following == "Next: wgan sample b/ckpt.pt -n 64 --seed 1 -o grid.png" and Path("b/samples/newest.png").exists()
    )
    assert stopped == "Stopped by the time limit at step 1 of 4, saved in b/ckpt.pt"
    assert again == f"To go on: {shlex.join(['wgan', *words])}"
    for step in (2, 3):
        assert f"at step {step} of 4" in call(*shlex.split(again)[4:]).err
    assert call("train", "--data", images, *SETTINGS, "-o", "b", "-q") == (0, b"b/ckpt.pt\n", "")
    assert Path("b/ckpt.pt").read_bytes() == (trained / "ckpt.pt").read_bytes()  # as if it had not stopped


def test_force_stays_until_the_run_that_was_there_is_gone(images: Path, trained: Path) -> None:
    """A stop amid the images leaves it, and the command that goes on is to start anew still."""
    before = (trained / "ckpt.pt").read_bytes()
    of_run = ("--lr", "0.5", "-o", str(trained), "--force", "--time-limit", "0s")
    words = ("train", "--data", str(images), *SETTINGS, *of_run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WGAN_CACHE", "another")
        done = call(*words)
    assert done.code == 75 and "1 of 32 images were looked at" in done.err
    assert done.err.splitlines()[-1] == f"To go on: {shlex.join(['wgan', *words])}"
    assert (trained / "ckpt.pt").read_bytes() == before
    assert call("train", "--data", images, *SETTINGS, "-o", "other").code == 0  # the images are decoded
    done = call(*words)
    assert done.code == 75 and "--force" not in done.err and "Next: wgan sample" in done.err


def test_force_starts_once_where_torchrun_starts_again(
    images: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    done = call("train", "--data", images, *SETTINGS, "-o", trained, "--force")
    assert done.code == 0 and "nothing to do" in done.err


def test_a_run_goes_on_in_the_precision_that_it_began_in(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "--data", images, "--preset", "fast", "--size", "16", "--width", "4", "--steps")
    for steps, native in (("1", "fp32"), ("2", "bf16")):
        monkeypatch.setattr(device, "native_precision", lambda where, native=native: native)
        done = call(*words, steps, "-o", "run")
        assert done.code == 0 and "precision fp32" in done.err
    assert call(*words, "3", "--precision", "bf16", "-o", "run").code == 2
    Path("alone").mkdir()
    shutil.copy("run/ckpt.pt", "alone")  # which needs no other file
    assert call(*words, "3", "-o", "alone").code == 0
    assert "precision bf16" in call(*words, "1", "-o", "run", "--force").err


def test_the_line_to_go_on_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["wgan", "train", "--data", "a b", "--force"])
    assert to_go_on("a b", Place(), begun=True) == "To go on: wgan train --data 'a b'"
    assert to_go_on("a b", Place(), begun=False).endswith("--force")
    assert to_go_on("-", Place(), begun=True).startswith("To go on: the same list into wgan train ")
    two = "To go on: torchrun --nproc-per-node 2 -m wgan_cli train --data 'a b'"
    assert to_go_on("a b", Place(size=2, local_size=2), begun=True) == two
    four = "To go on: the same torchrun on each machine, with -m wgan_cli train --data 'a b'"
    assert to_go_on("a b", Place(size=4, local_size=2), begun=True) == four
    monkeypatch.setenv("WGAN_TRAIN_FORCE", "1")
    assert to_go_on("a b", Place(), begun=True) == "To go on: env -u WGAN_TRAIN_FORCE wgan train --data 'a b'"
    assert to_go_on("a b", Place(), begun=False) == "To go on: wgan train --data 'a b' --force"


def test_a_dry_run_takes_its_time_to_look_at_images(images: Path) -> None:
    done = call("train", "--data", images, *SETTINGS, "--preset", "fast", "--dry-run", "--time-limit", "0")
    assert done.code == 0 and "Stopped" not in done.err


def test_steps_without_end_are_refused(images: Path) -> None:
    """A number that stands for steps by time."""
    check_refused(call("train", "--data", images, "--steps", "1000000000"), 2, "--steps", "999999999")


@pytest.mark.parametrize(
    "settings, facts, count, command",
    [
        (
            {"skip-bad": True, "null": False},
            {"size": 64, "channels": 3},
            16,
            "wgan train --data imgs --skip-bad --preset",
        ),
        ({"size": 28}, {"channels": 1}, 32, "wgan train --data imgs --size 28 --preset"),
        (
            {"holdout": 0.123456789},
            {"size": 16, "channels": 1},
            99,
            "wgan train --data imgs --holdout 0.123456789 --preset",
        ),
        ({"size": 28}, {"channels": 1}, 31, ""),
        ({"size": 20}, {"channels": 1}, 100, ""),
    ],
)
def test_a_faster_command_is_named_where_it_would_be_taken(
    settings: dict[str, Any], facts: dict[str, Any], count: int, command: str
) -> None:
    told = fast_command("imgs", settings, facts, count)
    assert told == (f"{command} fast -o wgan-fast" if command else "")
    assert fast_command("-", settings, facts, count) == ""


def test_batch_norm_of_one_sample_is_refused(images: Path) -> None:
    words = ("--variant", "clip", "--arch", "mlp", "--critic-norm", "batch", "--width", "4", "--batch", "1")
    done = call("train", "--data", images, *words, "--steps", "1", "-o", "one")
    assert done.code == 2 and "--batch 1: batch norm" in done.err and not Path("one/ckpt.pt").exists()


def test_the_fast_preset_takes_the_steps_that_the_time_limit_gives(images: Path) -> None:
    words = ("train", "--data", images, "--preset", "fast", "--size", "16", "--width", "4", "--time-limit")
    planned = call(*words, "1h", "--dry-run")
    assert re.search(rb"^steps +by time +preset fast$", planned.out, re.M)
    chosen, told, _ = planned.err.splitlines()
    assert chosen.endswith(", and as many steps as the time gives") and "--steps" not in chosen
    assert re.fullmatch(r"1:00:00 gives about [1-9]\d+ steps on this machine, as timed with made-up images", told)
    assert call(*words, "1h", "--steps", "1", "-o", "other").code == 0  # the images are decoded
    done = call(*words, "0s", "-o", "run")
    assert done.code == 75 and "Stopped by the time limit at step 1, saved in run/ckpt.pt" in done.err
    assert json.loads(call("info", "run", "--json").out)["checkpoint"]["steps"] is None  # not known yet
    given = call(*words, "1h", "--steps", "2", "-o", "run")  # a number that is given stays
    assert given.code == 0 and "going on at step 1 of 2" in given.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5s", 1.5), ("30m", 1800), ("1h", 3600), ("1h30m5s", 5405)]
)
def test_durations(text: str, seconds: float, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float | None] = []

    def train(
        config: Any, dataset: Any, out: Path, device: Any, console: Any, stop: Stop, *rest: Any, **named: Any
    ) -> Path:
        given.append(stop.deadline)
        return out

    monkeypatch.setattr("wgan_cli.train.train", train)
    ticks = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: next(ticks) / 1024)
    done = call("train", "--data", images, *SETTINGS, "--time-limit", text)
    assert (done.code, done.out) == (0, b"wgan-gp\n")  # the folder, where -o names none
    assert given == [seconds]  # from the very start, so that reading the images counts


# ---- Streams


def test_a_process_prints_the_path_and_talks_on_stderr(process: tuple[Ended, Path]) -> None:
    done, place = process
    assert (done.code, done.out) == (0, b"run/ckpt.pt\n")
    assert "wgan sample run/ckpt.pt" in done.err.splitlines()[-1]  # what to type next
    assert "\033" not in done.err and "\r" not in done.err
    names = {path.name for path in (place / "run").iterdir()}
    assert {"ckpt.pt", "config.json", "metrics.jsonl", "samples"} <= names <= {
        "ckpt.pt", "config.json", "metrics.jsonl", "samples", "curve.png"
    }  # fmt: skip
    assert {path.name for path in place.iterdir()} == {"run", "cache"}


def test_equal_commands_give_equal_bytes(images: Path, trained: Path) -> None:
    """In another process, folder and state of the cache."""
    assert call("train", "--data", images, *SETTINGS, "-o", "elsewhere/b", "-q") == (0, b"elsewhere/b/ckpt.pt\n", "")
    for name in ("ckpt.pt", "config.json", "samples/000004.png"):
        assert Path("elsewhere/b", name).read_bytes() == (trained / name).read_bytes()


def test_a_run_folder_whose_name_is_no_utf8(images: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    done = call("train", "--data", images, *SETTINGS, "-o", name, "-q")
    assert done == (0, b"caf\xe9/ckpt.pt\n", "")
    assert call("info", name).code == 0
    assert json.loads(call("info", name, "--json").out)["checkpoint"]["step"] == 4


def test_info_tells_what_a_checkpoint_holds(trained: Path) -> None:
    facts = json.loads(call("info", trained, "--json").out)
    held = facts["checkpoint"]
    assert facts["torch"] == torch.__version__ and held["step"] == 4 and held["width"] == 4
    assert held["data_count"] == 32 and held["sample_shape"] == [3, 16, 16]
    lines = call("info", trained).out.decode().splitlines()
    assert any(re.fullmatch(r"step +4", line) for line in lines) and any(
        re.fullmatch(r"width +4", line) for line in lines
    )
    assert call("info").code == 0


@pytest.mark.parametrize("words", [["-h"], ["train", "-h"], ["--version"]])
def test_a_closed_pipe_ends_help_quietly_too(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, *words], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_standard_output_of_eight_bits_takes_what_it_can(process: tuple[Ended, Path]) -> None:
    done = wgan("info", "run", cwd=process[1], env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.code == 0 and b"\nestimate_so_far        \\u258" in done.out


@pytest.mark.parametrize("how", ["closed pipe", "head", "closed", "full"])
def test_a_stdout_that_takes_nothing(how: str, images: Path, trained: Path) -> None:
    """A closed pipe ends quietly with 141; a full disk and a closed stdout are errors."""
    script = {
        "closed pipe": '"$@" - < list | true; exit ${PIPESTATUS[0]}',
        "head": '"$@" - < list | head -n 1; exit ${PIPESTATUS[0]}',
        "closed": '"$@" - < list >&-',
        "full": '"$@" - < list > /dev/full',
    }[how]
    if how == "full" and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    Path("long" * 40).mkdir()
    Path("long" * 40, "a.png").write_bytes(png())
    Path("list").write_text(("long" * 40 + "/a.png\n") * (2000 if how == "head" else 1))  # more than a pipe holds
    command = ["bash", "-c", script, "bash", *COMMAND, "critic-score", str(trained)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == (how == "head")
    code, said = {
        "closed": (2, "Error: standard output is closed, and this goes there\n"),
        "full": (1, "Error: No space left on device\n"),
    }.get(how, (141, ""))
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("words", ["info run", "evaluate run --data list -n 8"])
def test_a_closed_stdout_is_found_before_the_work(words: str, trained: Path) -> None:
    Path("list").mkdir()
    script = f'"$@" {words.replace("run", str(trained))} >&-'
    done = subprocess.run(["bash", "-c", script, "bash", *COMMAND], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "Error: standard output is closed, and this goes there\n")


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open

    def refuse(path: Any, *rest: Any, **more: Any) -> Any:
        if str(path).endswith("ckpt.pt"):  # root may read it whatever its mode
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *rest, **more)

    monkeypatch.setattr("builtins.open", refuse)
    done = call("info", trained)
    assert done.code == 2 and "ckpt.pt: Permission denied" in done.err


def test_a_png_on_a_pipe(trained: Path) -> None:
    done = wgan("sample", trained, "-n", "4", "-o", "-")
    assert (done.code, done.err) == (0, "")
    with Image.open(io.BytesIO(done.out)) as image:
        assert image.format == "PNG" and image.size == (38, 38)


# ---- Terminals and signals


class OnTerminal:
    """A process with stderr on a terminal, and stdout too if asked."""

    def __init__(self, *words: str | Path, stdout: bool = False) -> None:
        self.master, slave = pty.openpty()
        terminal = {"TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}
        inherited = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
        self.process = subprocess.Popen(
            [*COMMAND, *words],
            stdin=subprocess.DEVNULL,
            stdout=slave if stdout else subprocess.PIPE,
            stderr=slave,
            env={**inherited, **terminal},
        )
        os.close(slave)
        self.text = ""

    def read_until(self, text: str | None) -> None:
        """Wait for a text on the terminal, or for its end."""
        while text is None or text not in self.text:
            try:
                read = os.read(self.master, 4096)
            except OSError:  # Linux's way to say that the other side is closed
                read = b""
            if not read:
                assert text is None, f"no {text!r} in {self.text!r}"
                return
            self.text += read.decode(errors="replace")

    def end(self) -> tuple[int, bytes]:
        """Exit code and stdout, the terminal's text being read to its end."""
        self.read_until(None)
        os.close(self.master)
        out, _ = self.process.communicate()
        return self.process.returncode, out


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
)
def test_a_signal_saves_and_tells_how_to_go_on(number: signal.Signals, code: int, images: Path) -> None:
    """On a terminal, which gets a bar while training goes on, and a clean line at the end."""
    words = ("train", "--data", str(images), *SETTINGS, "--steps", "100000", "-o", "run")
    terminal = OnTerminal(*words)
    terminal.read_until(" training ")
    terminal.process.send_signal(number)
    assert terminal.end() == (code, b"")
    assert "░ training " in terminal.text and "Traceback" not in terminal.text
    *_, stopped, again, following, rest = terminal.text.replace("\r\n", "\n").split("\n")
    assert following.startswith("Next: wgan sample run/ckpt.pt")
    assert (match := re.fullmatch(rf".*\r\033\[KStopped by {number.name} at step (\d+) .*", stopped))
    assert again == f"To go on: {shlex.join(['wgan', *words])}" and rest == ""
    records = Path("run/metrics.jsonl").read_text().splitlines()
    content, _ = checkpoints.load("run/ckpt.pt")
    assert content["step"] == int(match[1]) == json.loads(records[-1])["step"] == len(records)
    assert not [name for name in files() if name.endswith(".tmp")]
    done = call(*shlex.split(again)[4:], "--time-limit", "0")
    assert done.code == 75 and f"at step {content['step'] + 1} " in done.err


def test_binary_is_refused_on_a_terminal(trained: Path) -> None:
    before = files()
    terminal = OnTerminal("sample", trained, "-o", "-", stdout=True)
    code, _ = terminal.end()
    assert code == 2 and "terminal" in terminal.text and "PNG\r" not in terminal.text
    assert files() == before
