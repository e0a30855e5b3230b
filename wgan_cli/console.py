"""What the tool says on stderr: notices, errors and progress. stdout is left to the product.

Names and messages of others' come as they are, and are made printable here.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

_BLOCKS = "▁▂▃▄▅▆▇█"


class Console:
    """Talks to one stream: a bar redrawn in place on a terminal, a plain line every 10 s elsewhere."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False, verbose: bool = False) -> None:
        self.stream = stream or sys.stderr
        self.quiet, self.verbose = quiet, verbose
        terminal = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.animated = terminal and not quiet
        self.colored = bool(os.environ.get("FORCE_COLOR")) or (terminal and not os.environ.get("NO_COLOR"))
        self._heard = True  # until that fails
        self._label = ""
        self._began = (0.0, 0)  # time and count at which the current label started
        self._drawn = 0.0  # when progress was last shown
        self._bar_visible = self.animated  # of an earlier Console, perhaps

    def notice(self, text: str) -> None:
        if not self.quiet:
            self.row(text)

    def error(self, text: str) -> None:
        prefix = "\033[31mError:\033[0m " if self.colored else "Error: "
        self.row(text, prefix)

    def row(self, text: str, prefix: str = "") -> None:
        """A line that is shown even when quiet: more of an error, or a result that was asked for."""
        self.erase()
        self._write(prefix + printable(text) + "\n")

    def progress(
        self,
        label: str,
        done: int,
        total: int,
        facts: Mapping[str, float] | None = None,
        history: Sequence[float] = (),
    ) -> None:
        """Show that `done` of `total` are done, with the rate, the time left and further figures; on a terminal also
        the course of one so far, as a sparkline.

        May be called as often as one likes; most calls return at once. The last (`done == total`) erases the bar.
        """
        now = time.monotonic()
        if label != self._label:
            self._label, self._began, self._drawn = label, (now, done), now
        if done >= total:
            self.erase()
            self._label = ""
            return
        if self.quiet or now - self._drawn < (0.1 if self.animated else 10.0):
            return
        self._drawn = now
        seconds, count = now - self._began[0], done - self._began[1]
        figures = [f"{label} {done}/{total}"]
        if count > 0:
            rate = count / seconds
            figures += [f"{rate:.0f}/s" if rate >= 100 else f"{rate:.3g}/s", f"{duration((total - done) / rate)} left"]
        figures += [f"{name} {value:.4g}" for name, value in (facts or {}).items()]
        text = " · ".join(figures)
        if not self.animated:
            self.row(text)
            return
        if history:
            text += " " + sparkline(history)
        columns = shutil.get_terminal_size().columns
        room = min(30, columns - len(text) - 3)
        if room >= 8:
            filled = room * done // total
            text = "█" * filled + "░" * (room - filled) + " " + text
        self._write("\r\033[K" + text[: columns - 1])
        self._bar_visible = True

    def erase(self) -> None:
        """Take the bar away, before something else writes to the terminal."""
        if self._bar_visible:
            self._write("\r\033[K")
            self._bar_visible = False

    def _write(self, text: str) -> None:
        """Talk is only talk: nobody may be listening any more, and the work goes on."""
        try:
            if self._heard:
                self.stream.write(text)
                self.stream.flush()
        except OSError:
            self._heard = False


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The course of the values in at most `width` blocks, each the median of its share of them: a full block is the
    highest, an empty line 0, or the lowest if that is under 0."""
    count = min(width, len(values))
    shares = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    medians = [statistics.median(share[:: len(share) // 64 + 1]) for share in shares]  # 64 of them are enough
    low, high = min([0.0, *medians]), max([0.0, *medians])
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in medians)


def number(value: float) -> str:
    """`0.001`, as short as it goes, and no other number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def in_pixels(size: Any) -> Any:
    """A size as it is given, 64 or 96x64; other values as they are."""
    return "x".join(map(str, size)) if isinstance(size, (tuple, list)) and {*map(type, size)} == {int} else size


def plain(value: Any) -> str:
    """A setting's value as a flag takes it, `-` where there is none."""
    value = in_pixels(value)
    if isinstance(value, (tuple, list)):
        return ",".join(map(plain, value))
    return number(value) if isinstance(value, float) else "-" if value is None else str(value)


def duration(seconds: float) -> str:
    """`75.2` → `1:15`, `4000` → `1:06:40`, from two days on `3.5 days`."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.3g} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_words(seconds: float) -> str:
    """`75` → `about a minute`, `4000` → `about 67 minutes`, `90000` → `about 25 hours`, `300000` → `about 3 days`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length or (unit == "minute" and seconds >= 45):
            count = max(1, round(seconds / length))
            return f"about {count} {unit}s" if count > 1 else f"about a {unit}"
    return "less than a minute"


def in_short(names: Sequence[str], most: int = 20) -> str:
    """`a, b, c and 980 more`."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def printable(text: str) -> str:
    """`text` on one line: control characters and bytes that are no UTF-8 escaped, everything else as it is."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
