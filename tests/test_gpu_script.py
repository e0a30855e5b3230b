"""`make gpu` where there is no GPU: it runs through, and names what it leaves out. A stage that fails, hangs or is cut
is named, and what it had found stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu
import pytest

SCRIPT = Path(__file__).with_name("gpu.py")


def results(out: Path) -> dict[str, dict[str, Any]]:
    return {result["stage"]: result for result in json.loads((out / "gpu.json").read_text())}


def test_without_a_gpu_all_but_the_environment_is_skipped_and_named(tmp_path: Path) -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", tmp_path], capture_output=True, text=True, env=hidden, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(tmp_path)
    assert [*found] == [*gpu.STAGES]
    assert found["environment"]["state"] == "done" and any("torch" in row for row in found["environment"]["rows"])
    for name in [*gpu.STAGES][1:]:
        assert (found[name]["state"], found[name]["why"]) == ("skipped", "no CUDA device")
        assert f"== {name}: skipped: no CUDA device\n" in (tmp_path / "gpu.txt").read_text()
    assert sum(gpu.STAGES.values()) <= 475  # of eight minutes


@pytest.mark.parametrize(
    "ends, state, why, code",
    [
        ("raise SystemExit('two are wrong')", "failed", "two are wrong", 1),
        ("raise ValueError('odd')", "failed", "ValueError: odd", 1),
        ("os.abort()", "failed", "", 1),
        ("subprocess.Popen(['sleep', '600']).wait()", "cut", "after 5 s", 1),
        ("pass", "done", "", 0),
    ],
)
def test_a_stage_that_ends_badly_is_named_and_the_next_one_runs(
    ends: str, state: str, why: str, code: int, tmp_path: Path
) -> None:
    """The script with two other stages in place of its own; of the first the row before its end is kept."""
    script, text = tmp_path / "script.py", SCRIPT.read_text()
    stages = f"""
def environment(row, **_):
    row(here=1)
    {ends}

def build(row, **_):
    row(there=2)

"""
    first, last, main = text.index("STAGES = {"), text.index("WORST = ("), text.index("if __name__")
    text = text[:first] + "STAGES = {'environment': 0, 'build': 60}\n" + text[last:main] + stages + text[main:]
    script.write_text(text.replace('"a GPU\'s alone"', '""').replace(".parent.parent", ".parent"))
    done = subprocess.run([sys.executable, script, "--rehearse", "--out", tmp_path], capture_output=True, text=True)
    found = results(tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert found["environment"]["state"] == state and found["environment"]["why"].startswith(why)
    assert found["environment"]["rows"][0] == {"here": 1}
    assert (found["build"]["state"], found["build"]["rows"]) == ("done", [{"there": 2}])


@pytest.mark.parametrize("state, tried", [("cut", True), ("failed", False), ("done", False)])
def test_an_environment_that_was_cut_says_nothing_of_the_gpu(
    state: str, tried: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first import of torch may take long where the disk is slow: the minutes with the GPU are not thrown away."""
    asked = []

    def run(name: str, *_: Any) -> dict[str, Any]:
        asked.append(name)
        return {"stage": name, "state": state if name == "environment" else "done", "why": "", "seconds": 1, "rows": []}

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    gpu.main()
    assert asked == ([*gpu.STAGES] if tried else ["environment"])


def test_rows_with_the_same_columns_stand_below_each_other() -> None:
    rows = [{"a": 1.23456, "b": "long one"}, {"a": 10, "b": ""}, {"said": "as it is"}]
    text = gpu.shown({"stage": "ops", "state": "failed", "why": "odd", "seconds": 1.5, "rows": rows})
    assert text == "== ops: failed after 1.5 s: odd\n   a      b\n   1.235  long one\n   10\n   as it is\n"
