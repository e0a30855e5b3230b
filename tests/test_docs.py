"""The pages against the program: what they name is there, and what a user can type or read is named on a page."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tiny import call, write_images

from wgan_cli import verdict
from wgan_cli.cli import cli
from wgan_cli.variants import VARIANTS

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *sorted(ROOT.glob("docs/*.md"))]
OTHERS = [ROOT / "examples/README.md", ROOT / "tests/emulator/README.md"]
DOCS = "\n".join(path.read_text() for path in PAGES if path.parent.name == "docs")

COMMANDS: dict[str, click.Command] = dict(cli.commands)
GROUP = cli.make_context("wgan", [], resilient_parsing=True)
OPTIONS = {
    name: [p for p in command.get_params(click.Context(command, parent=GROUP)) if isinstance(p, click.Option)]
    for name, command in COMMANDS.items()
}
FLAGS = {flag for options in OPTIONS.values() for option in options for flag in (*option.opts, *option.secondary_opts)}
FLAGS |= {"--version"}
TARGETS = {
    folder: set(re.findall(r"^([a-z-]+):.*##", (ROOT / folder / "Makefile").read_text(), re.M))
    for folder in (".", "examples")
}
EXTRAS = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text().partition("optional-")[2], re.M))
CODES = set(re.findall(r"\d+", cli.get_help(GROUP).partition("Exit codes:")[2]))
PROGRAM = "\n".join(path.read_text() for path in [ROOT / "setup.py", *ROOT.glob("wgan_cli/**/*.py")])
VARIABLES = set(re.findall(r"\bWGAN_[A-Z_]+", PROGRAM + (ROOT / "tests/bench/load.py").read_text()))
VARIABLES |= {
    f"WGAN_{name}_{max(option.opts, key=len)[2:]}".replace("-", "_").upper()
    for name in OPTIONS
    for option in OPTIONS[name]
}
TESTS = {path.name: re.findall(r"def (test_\w+)", path.read_text()) for path in ROOT.glob("tests/test_*.py")}
WORDS = {  # the first of each rule (word, whether it holds, reason)
    node.elts[0].value
    for node in ast.walk(ast.parse(Path(verdict.__file__).read_text()))
    if isinstance(node, ast.Tuple) and len(node.elts) == 3
    if isinstance(node.elts[0], ast.Constant) and isinstance(node.elts[0].value, str)
}


# ---- What a page says


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(text))


def column(text: str, head: str) -> list[str]:
    """The cells of each table's column of this head."""
    cells = []
    for table in re.findall(r"(?:^\|.*\n)+", prose(text), re.M):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in table.splitlines()]
        cells += [row[rows[0].index(head)] for row in rows[2:] if head in rows[0]]
    return cells


def named(text: str, head: str) -> set[str]:
    """What stands in backticks in that column."""
    return {span for cell in column(text, head) for span in spans(cell)}


def lines_typed(text: str) -> Iterator[str]:
    """What the page shows as typed: after `$ ` where a block has such lines, else all of it; and each span."""
    for language, content in blocks(text):
        if language != "python":
            lines = content.replace("\\\n", " ").splitlines()
            yield from [line[2:] for line in lines if line.startswith("$ ")] or lines
    yield from spans(text)


def commands_typed(text: str) -> Iterator[list[str]]:
    """The words of each simple command."""
    for line in lines_typed(text):
        first = re.match(r"\s*[\w.-]*", line)
        if first and first[0].strip().startswith("-"):
            line = f"FLAGS {line}"
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&()<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # no command: a lone quote
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("|;&()"):
                yield command
                command = []
            else:
                command.append(word)


# ---- What is wrong with it


def complaints(text: str, page: Path = README) -> list[str]:
    found = [wrong for words in commands_typed(text) if words for wrong in wrong_command(words)]
    found += [f"half a span: {line}" for line in prose(text).splitlines() if line.count("`") % 2]
    foreign = {flag for words in commands_typed(text) for flag in words if words[0] in ("pip", "python", "torchrun")}
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", text):
        if flag not in FLAGS | foreign:
            found.append(f"no such flag: {flag}")
    found += [f"no such file: {name}" for name in wrong_files(text, page)]
    found += [f"no such name: {name}" for name in re.findall(r"wgan_cli(?:\.\w+)+", text) if not is_there(name)]
    for name in re.findall(r"_?WGAN_[A-Z_]+", text):
        if name not in VARIABLES and not any(known.startswith(name) for known in VARIABLES if name.endswith("_")):
            found += [f"no such variable: {name}"] if name != "_WGAN_COMPLETE" else []
    codes = re.findall(r"exit codes? (\d+)", text) + re.findall(r"leaves? with (\d+(?:(?:, | or )\d+)*)", text)
    for code in re.findall(r"\d+", " ".join([*codes, *column(text, "code"), *column(text, "exit code")])):
        if code not in CODES:
            found.append(f"no such exit code: {code}")
    found += [f"no such verdict: {word}" for word in named(text, "verdict") - WORDS]
    found += [f"no such place: {link}" for link in wrong_links(text, page)]
    return found


def wrong_command(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"\w+=.*|eval|\$", words[0]):
        words = words[1:]
    match words:
        case ["wgan", *rest]:
            return wrong_call(rest)
        case [name, *rest] if name in COMMANDS and any(word.startswith("-") for word in rest):
            return wrong_call(words)
        case ["FLAGS", flag, *rest] if flag != "-" and not flag.startswith("---"):
            if flag not in FLAGS:
                return [f"no such flag: {flag}"]
            users = [name for name, options in OPTIONS.items() if any(flag in option.opts for option in options)]
            wrong = [wrong_call([name, flag, *rest]) for name in users]
            return min(wrong, key=len, default=[])
        case ["make", "-C", folder, *targets]:
            return [f"no such target: {t}" for t in targets if "=" not in t and t not in TARGETS[folder]]
        case ["make", *targets]:
            return [f"no such target: {t}" for t in targets if "=" not in t and t not in TARGETS["."]]
        case ["python", script, *rest] if script.endswith(".py"):
            text = (ROOT / script).read_text() if (ROOT / script).exists() else ""
            return [f"no such flag of {script}: {word}" for word in rest if word[:2] == "--" and word not in text]
        case ["pip", *rest]:
            extras = re.findall(r"\[([\w,]+)\]", " ".join(rest))
            return [f"no such extra: {name}" for name in extras if name not in EXTRAS]
        case ["pytest", *rest] if "-k" in rest:
            file, wanted = Path(rest[0]).name, rest[rest.index("-k") + 1]
            names = TESTS.get(file) or [name for names in TESTS.values() for name in names]
            missing = [word for word in wanted.split(" or ") if not any(word in name for name in names)]
            return [f"no such test: {word}" for word in missing]
    return []


def wrong_call(words: list[str]) -> list[str]:
    """Of `wgan` with these words: a command, a flag or a choice that is none. Words in capitals stand for others."""
    name, *rest = words or ["--help"]
    if name.isupper() or name.startswith("-"):
        return [f"no such flag: {word}" for word in words if word.startswith("--") and word not in FLAGS]
    if name not in COMMANDS:
        return [f"no such command: {name}"]
    command = COMMANDS[name]
    rest = [word for word in rest if word[0] not in "<>$"]
    try:
        values, _, _ = command.make_parser(click.Context(command, parent=GROUP)).parse_args(rest)
    except click.NoSuchOption as error:
        return [f"no such flag of wgan {name}: {error.option_name}"]
    except click.UsageError:  # a flag that is only named, without its value
        return []
    choices = {option.name: option.type.choices for option in OPTIONS[name] if isinstance(option.type, click.Choice)}
    return [
        f"wgan {name}: {value} is no {option}"
        for option, value in values.items()
        if option in choices and value not in choices[option] and not str(value).isupper()
    ]


def wrong_files(text: str, page: Path) -> Iterator[str]:
    code = "\n".join([*(content for _, content in blocks(text)), *spans(text)])
    for name in re.findall(r"(?<![\w./-])(?:wgan_cli|csrc|tests|docs|examples|\.ci)/[\w./-]*", code):
        places = [ROOT / name, *(ROOT / name).parents]
        inside = next(place for place in places if place.exists())  # names within a zip go on after its name
        if inside != ROOT / name and not inside.is_file() and not name.startswith("examples/out"):
            yield name
    for name in re.findall(r"(?<![\w./-])[\w-]+\.(?:py|cuh?|cpp|toml)\b", code):
        if not any(path for folder in (".", "tests", "examples", "wgan_cli") for path in ROOT.glob(f"{folder}/{name}")):
            yield name


def is_there(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if (ROOT / (name.replace(".", "/") + ".py")).exists():
        return True
    return (ROOT / module.replace(".", "/")).exists() and hasattr(importlib.import_module(module), attribute)


def wrong_links(text: str, page: Path) -> Iterator[str]:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(text if target == page else target.read_text())):
            yield link


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- Tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    assert complaints(page.read_text(), page) == []


def test_links_of_other_pages_lead_somewhere() -> None:
    assert [link for page in OTHERS for link in wrong_links(page.read_text(), page)] == []


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("take `--rate 3`", "no such flag: --rate"),
        ("take --rate 3", "no such flag: --rate"),
        ("`-x`", "no such flag: -x"),
        ("`--preset\nfast`", "half a span: fast`"),
        ("`--preset quick`", "wgan train: quick is no preset"),
        ("```\nwgan sample run --preset fast\n```\n", "no such flag of wgan sample: --preset"),
        ("```\n$ wgan train --data imgs --steps 3 \\\n  --variant wgan > log\nwgan says\n```\n", "wgan is no variant"),
        ("```\nfind . | wgan score run -\n```\n", "no such command: score"),
        ("`sample --lr 3`", "no such flag of wgan sample: --lr"),
        ("`make cake`", "no such target: cake"),
        ("`make -C examples cake`", "no such target: cake"),
        ("`pip install '.[cake]'`", "no such extra: cake"),
        ("`pytest -k 'signal or cake'`", "no such test: cake"),
        ("`pytest tests/test_safety.py -k flag`", "no such test: flag"),
        ("`python tests/stress.py --cake 3`", "no such flag of tests/stress.py: --cake"),
        ("`wgan_cli/cake.py`", "no such file: wgan_cli/cake.py"),
        ("`docs/cake/`", "no such file: docs/cake/"),
        ("`cake.py`", "no such file: cake.py"),
        ("`wgan_cli.metrics.cake`", "no such name: wgan_cli.metrics.cake"),
        ("`WGAN_TRAIN_CAKE=1`", "no such variable: WGAN_TRAIN_CAKE"),
        ("`WGAN_CAKE_…`", "no such variable: WGAN_CAKE_"),
        ("ends with exit code 5", "no such exit code: 5"),
        ("leaves with 130 or 144", "no such exit code: 144"),
        ("| code | |\n|---|---|\n| 75, 76 | |\n", "no such exit code: 76"),
        ("| verdict | |\n|---|---|\n| `cake` | |\n", "no such verdict: cake"),
        ("[see](docs/cake.md)", "no such place: docs/cake.md"),
        ("[see](docs/data.md#cake)", "no such place: docs/data.md#cake"),
        ("[see](#cake)\n# Pie\n", "no such place: #cake"),
    ],
)
def test_what_is_not_there_is_found(text: str, wrong: str) -> None:
    assert any(wrong in found for found in complaints(text)), complaints(text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_on_a_page(name: str) -> None:
    missing = [option.opts for option in OPTIONS[name] if not any(f"`{flag}" in DOCS for flag in option.opts)]
    assert missing == []


def test_every_exit_code_is_in_the_table() -> None:
    cells = " ".join(column((ROOT / "docs/scripts.md").read_text(), "code"))
    assert set(re.findall(r"\d+", cells)) == CODES


def test_every_verdict_is_explained_and_answered() -> None:
    assert len(WORDS) == 8
    assert named(README.read_text(), "verdict") == WORDS
    assert named((ROOT / "docs/train.md").read_text(), "verdict") == WORDS


def test_every_variant_is_in_both_tables() -> None:
    for page in (README, ROOT / "docs/train.md"):
        assert VARIANTS.keys() <= set(re.findall(r"^\| `(\w+)`", page.read_text(), re.M))


def test_every_variable_is_on_a_page() -> None:
    assert {name for name in re.findall(r"\bWGAN_[A-Z]+", PROGRAM) if name not in DOCS} == set()


def test_every_column_is_on_a_page_and_no_other(tmp_path: Path) -> None:
    images, columns = write_images(tmp_path / "imgs"), set()
    for variant in ("gp", "clip", "ns", "hinge", "lsgan", "r3"):
        out = tmp_path / variant
        settings = f"--variant {variant} --arch mlp --width 4 --batch 4 --steps 1 --size 16"
        assert call("train", "--data", images, *settings.split(), "-o", out).code == 0
        columns |= {name for line in (out / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)}
    assert named((ROOT / "docs/train.md").read_text(), "column") == columns


def test_every_figure_of_evaluate_is_one() -> None:
    source = (ROOT / "wgan_cli/evaluate.py").read_text().replace('f"swd_{side}"', '(swd_28=", swd_14="')
    pages = named((ROOT / "docs/evaluate.md").read_text(), "figure")
    assert {name for name in pages if not re.search(rf'[ (]{name}="', source)} == set()


def test_the_map_has_every_file_and_target() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("wgan_cli/**/*.py")}
    page = CONTRIBUTING.read_text()
    assert files == {name for name in named(page, "file") if name.startswith("wgan_cli/")}
    assert {span.removeprefix("make ") for span in named(page, "target")} == TARGETS["."] - {"help"}


def test_no_module_is_longer_than_the_page_says() -> None:
    (most,) = re.findall(r"no module of `wgan_cli/` over (\d+) lines", CONTRIBUTING.read_text())
    lines = {path.name: len(path.read_text().splitlines()) for path in ROOT.glob("wgan_cli/**/*.py")}
    assert {name: count for name, count in lines.items() if count > int(most)} == {}


def test_names_of_the_code_are_there() -> None:
    names = {span for span in spans(CONTRIBUTING.read_text()) if re.fullmatch(r"_?[A-Z][A-Za-z_]{3,}", span)}
    assert len(names) > 4 and {name for name in names if not re.search(rf"\b{name}\b", PROGRAM)} == set()


def test_the_readme_is_a_screen_and_a_half_and_begins_with_samples_soon() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 130
    first = next(words for words in commands_typed(text) if words[:2] == ["wgan", "train"])
    assert "--time-limit" in first
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= set(re.findall(r"\]\(([^)#]+)", text))


def test_the_python_of_the_page_runs(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = (
        content for language, content in blocks((ROOT / "docs/scripts.md").read_text()) if language == "python"
    )
    exec(source.replace("run/ckpt.pt", str(checkpoint)), {})
    assert "torch.Size([16, 3, 16, 16])" in capsys.readouterr().out
