"""Put what the experiments found onto the page: python page.py

Reads out/, out-native/ and out-seeds/, as far as they are there, keeps their verdicts in results/COLUMN.json and the
pictures of out/ in pictures/, and writes the table and the verdicts of README.md anew from results/.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COLUMNS = {"first": "verdict", "native": "another arithmetic", "seeds": "other seeds"}
NAMES = re.search(r"^EXPERIMENTS := (.*)$", (HERE / "Makefile").read_text(), re.M)[1].split()  # type: ignore[index]
Results = dict[str, dict[str, Any]]  # of each column, of each experiment


def found() -> Results:
    return {column: json.loads((HERE / f"results/{column}.json").read_text()) for column in COLUMNS}


def collect(column: str, out: Path) -> None:
    """Take up what a folder holds; what it does not stays as it was."""
    file = HERE / f"results/{column}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for name in NAMES:
        if (out / f"{name}.json").exists():
            known[name] = json.loads((out / f"{name}.json").read_text())
            if column == "first":
                shutil.copyfile(out / f"{name}.png", HERE / f"pictures/{name}.png")
    file.write_text(
        json.dumps({name: known[name] for name in NAMES if name in known}, indent=1, ensure_ascii=False) + "\n"
    )


def rendered(page: str, results: Results) -> str:
    """The page with its table and verdicts as these results have them."""
    page = re.sub(r"(<!-- verdicts -->\n).*?(<!-- end -->)", lambda m: m[1] + table(results) + m[2], page, flags=re.S)
    for name in NAMES:
        block = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        page = re.sub(block, lambda m, name=name: m[1] + verdict(name, results) + m[2], page, flags=re.S)  # type: ignore[misc]
    return page


def table(results: Results) -> str:
    rows = ["| experiment | " + " | ".join(COLUMNS.values()) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name in NAMES:
        cells = [results[column].get(name, {}).get("verdict", "–") for column in COLUMNS]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(machines(title, results[column]) for column, title in COLUMNS.items()), ""])


def machines(title: str, of_column: dict[str, Any]) -> str:
    """A line of where a column was made, which may be in parts."""
    minutes: dict[str, float] = {}
    for of in of_column.values():
        where = f"{of['processor']}, {of['arithmetic']}, torch {of['torch']}"
        minutes[where] = minutes.get(where, 0) + of["cpu_minutes"]
    parts = [f"on {where}, {count:.0f} CPU minutes" for where, count in minutes.items()]
    return filled(f"{title}: {'; '.join(parts) or 'not run yet'}")


def filled(line: str) -> str:
    return textwrap.fill(f"- {line}", 120, subsequent_indent="  ", break_long_words=False)


def verdict(name: str, results: Results) -> str:
    parts: list[str] = []
    for column, title in COLUMNS.items():
        if name not in results[column]:
            continue
        of = results[column][name]
        seeds = f"seed{'s' if len(of['seeds']) > 1 else ''} {of['seeds'][0]}" + (
            f" to {of['seeds'][-1]}" if len(of["seeds"]) > 1 else ""
        )
        if not parts:  # of the first column, and of the next one where that is not made yet
            about = seeds if column == "first" else f"{title}, {seeds}"
            parts += [f"![{name}](pictures/{name}.png)", "", f"**{of['verdict']}**, {about}:", ""]
            lines = [f"{text}{'' if shown else ' (not met)'}" for text, shown in of["checks"]]
            lines += [f"beside this: {of['notes']}"] if of["notes"] else []
        else:
            lines = [f"{title}, {seeds}: {of['verdict']}; {'; '.join(text for text, _ in of['checks'])}"]
        parts += map(filled, lines)
    return "\n".join([*(parts or ["Not run yet."]), ""])


def main() -> None:
    (HERE / "results").mkdir(exist_ok=True)
    for column in COLUMNS:
        collect(column, HERE / ("out" if column == "first" else f"out-{column}"))
    page = HERE / "README.md"
    page.write_text(rendered(page.read_text(), found()))


if __name__ == "__main__":
    main()
