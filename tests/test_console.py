"""Notices, errors and progress, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import types
from collections.abc import Iterator

import pytest

from wgan_cli.console import Console, duration, printable

ERASE = "\r\033[K"


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def take(self) -> str:
        """What was written since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, as a list of one number to be set."""
    now = [1000.0]
    monkeypatch.setattr("wgan_cli.console.time", types.SimpleNamespace(monotonic=lambda: now[0]))
    yield now


def test_a_plain_line_every_ten_seconds_where_there_is_no_terminal(clock: list[float]) -> None:
    stream = Stream(terminal=False)
    console = Console(stream)
    lines = []
    for second in range(41):
        clock[0] = 1000.0 + second
        console.progress("training", 2 * second, 100, {"W": 1.23456})
        lines.append(stream.take())
    assert {second: line for second, line in enumerate(lines) if line} == {
        10: "training 20/100 · 2/s · 0:40 left · W 1.235\n",
        20: "training 40/100 · 2/s · 0:30 left · W 1.235\n",
        30: "training 60/100 · 2/s · 0:20 left · W 1.235\n",
        40: "training 80/100 · 2/s · 0:10 left · W 1.235\n",
    }
    console.progress("training", 100, 100)
    assert stream.take() == ""


def test_a_bar_is_redrawn_in_place_on_a_terminal_and_erased_at_the_end(clock: list[float]) -> None:
    stream = Stream(terminal=True)
    console = Console(stream)
    console.progress("reading images", 0, 200)
    assert stream.take() == ""  # it may be over before one could read it
    clock[0] += 0.09
    console.progress("reading images", 1, 200)
    assert stream.take() == ""
    clock[0] += 9.91
    console.progress("reading images", 50, 200)
    assert stream.take() == f"{ERASE}{'█' * 7}{'░' * 23} reading images 50/200 · 5/s · 0:30 left"
    console.notice("a notice")
    assert stream.take() == f"{ERASE}a notice\n"
    clock[0] += 10
    console.progress("reading images", 100, 200)
    assert stream.take().startswith(f"{ERASE}{'█' * 15}{'░' * 15} ")
    console.progress("reading images", 200, 200)
    assert stream.take() == ERASE


def test_a_new_label_is_timed_from_its_own_beginning(clock: list[float]) -> None:
    stream = Stream(terminal=False)
    console = Console(stream)
    console.progress("reading images", 0, 10)
    clock[0] += 100
    console.progress("training", 50, 100)  # continued at 50
    assert stream.take() == ""
    clock[0] += 10
    console.progress("training", 60, 100)
    assert stream.take() == "training 60/100 · 1/s · 0:40 left\n"


@pytest.mark.parametrize("columns", [10, 30, 45, 200])
def test_a_bar_never_fills_the_terminal_s_width(
    columns: int, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Stream(terminal=True)
    console = Console(stream)
    for done in (0, 1, 50, 99):
        console.progress("training", done, 100, {"W": 1.5})
        clock[0] += 1
        drawn = stream.take().removeprefix(ERASE)
        assert len(drawn) < columns and "\n" not in drawn


def test_an_error_takes_the_place_of_another_console_s_bar(clock: list[float]) -> None:
    stream = Stream(terminal=True)
    first = Console(stream)
    first.progress("training", 0, 10)
    clock[0] += 1
    first.progress("training", 5, 10)
    assert "training 5/10" in stream.take()
    Console(stream).error("stopped")
    assert stream.take().startswith(ERASE)


@pytest.mark.parametrize(
    ("terminal", "environment", "colored", "animated"),
    [
        (True, {}, True, True),
        (False, {}, False, False),
        (True, {"NO_COLOR": "1"}, False, True),
        (True, {"NO_COLOR": ""}, True, True),  # no-color.org: when not empty
        (False, {"FORCE_COLOR": "1"}, True, False),
        (True, {"TERM": "dumb"}, False, False),
    ],
)
def test_colour_and_animation(
    terminal: bool, environment: dict[str, str], colored: bool, animated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Stream(terminal)
    console = Console(stream)
    assert (console.colored, console.animated) == (colored, animated)
    console.error("no such thing")
    text = stream.take()
    assert text.removeprefix(ERASE) == (
        "\033[31mError:\033[0m no such thing\n" if colored else "Error: no such thing\n"
    )
    assert ("\r" in text) <= animated


def test_quiet_says_errors_and_rows_only(clock: list[float]) -> None:
    said = {}
    for name, console in {
        "quiet": Console(Stream(False), quiet=True),
        "plain": Console(Stream(False)),
        "verbose": Console(Stream(False), verbose=True),
        "quiet terminal": Console(Stream(True), quiet=True),
    }.items():
        console.colored = False
        console.notice("notice")
        console.error("error")
        console.row("row")
        console.progress("training", 0, 10)
        clock[0] += 60
        console.progress("training", 5, 10)
        assert isinstance(console.stream, Stream)
        said[name] = console.stream.take().splitlines()
    assert said["quiet"] == said["quiet terminal"] == ["Error: error", "row"]
    assert said["plain"][:-1] == ["notice", "Error: error", "row"]
    assert said["verbose"][:-1] == ["notice", "Error: error", "row"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain name.png", "plain name.png"),
        ("Zürich 東京 🙂", "Zürich 東京 🙂"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\033[2J\a\x7f", r"\x1b[2J\x07\x7f"),
        ("\x85\u2028\u202e", r"\x85\u2028\u202e"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (9.4, "0:09"),
        (59.6, "1:00"),
        (75.2, "1:15"),
        (3599.7, "1:00:00"),
        (4000, "1:06:40"),
        (100000, "27:46:40"),
        (360000, "4.17 days"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_are_printable_whatever_is_in_them() -> None:
    console = Console(Stream(False))
    console.colored = True
    console.notice("a\033[2J\nb")
    console.error("\033[2J")
    assert isinstance(console.stream, Stream)
    assert console.stream.take() == "a\\x1b[2J\\nb\n\033[31mError:\033[0m \\x1b[2J\n"
