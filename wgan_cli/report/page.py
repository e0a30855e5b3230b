"""The page around the parts of a report. page.html is its frame, page.css its look, page.js what moves.

All text in the parts goes through `text`. A Content-Security-Policy forbids the page every connection, and every script
and style but its own two.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from ..console import printable
from ..files import replacing


def write_page(out: Path, title: str, lead: str, parts: Sequence[str], moving: Mapping[str, Any]) -> None:
    """title: plain text. lead, parts: HTML. moving: plain data for page.js."""
    frame, look, script = (Path(__file__).with_name(f"page.{end}").read_text("utf-8") for end in ("html", "css", "js"))
    content = Template(frame).substitute(
        title=text(title),
        lead=lead,
        look=look,
        script=script,
        look_hash=_hash(look),
        script_hash=_hash(script),
        parts="\n".join(parts),
        moving=json.dumps(moving, allow_nan=False).replace("<", "\\u003c"),  # so that no name ends the script
    )
    with replacing(out) as file:
        file.write(content.encode())


def _hash(content: str) -> str:
    """By which the page's Content-Security-Policy lets a script or a style pass."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def text(value: Any) -> str:
    """Any text, harmless in HTML and in quotes."""
    return escape(printable(str(value)))


def part(name: str, heading: str, *content: str) -> str:
    """A section of the page; heading and content are HTML."""
    body = "\n".join(content)
    return (
        f'<section id="{name}" aria-labelledby="{name}-head">\n<h2 id="{name}-head">{heading}</h2>\n{body}\n</section>'
    )


def lacking(sentence: str) -> str:
    """What stands in the place of what a run does not hold."""
    return f'<p class="lacking">{text(sentence)}</p>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Any]], marked: Sequence[bool] = ()) -> str:
    """A table of text, the first cell of each row being the row's name; narrow screens scroll it sideways."""
    wordy = " wordy" if head[-1] == "meaning" else ""
    heads = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    lines = []
    for number, (name, *rest) in enumerate(rows):
        mark = ' class="marked"' if marked and marked[number] else ""
        cells = "".join(f"<td>{text(cell)}</td>" for cell in rest)
        lines.append(f'<tr{mark}><th scope="row">{text(name)}</th>{cells}</tr>\n')
    return (
        f'<div class="wide{wordy}" tabindex="0" role="region" aria-label="{text(caption)}"><table>\n'
        f"<caption>{text(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>{''.join(lines)}</tbody>\n"
        "</table></div>"
    )
