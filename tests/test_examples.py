"""The shortest form of every experiment in examples/, from its `make` target to its picture and verdict; the page."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from wgan_cli.data.toys import toy_points

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = re.search(r"^EXPERIMENTS := (.*)$", (EXAMPLES / "Makefile").read_text(), re.M)[1].split()  # type: ignore[index]
PAGE = (EXAMPLES / "README.md").read_text()
# The commands on standard input, as what they import takes longer than most of them.
IN_ONE_PROCESS = """
import runpy, shlex, sys
from wgan_cli.networks import mlp
layers = mlp.HIDDEN_LAYERS
for line in sys.stdin:
    mlp.HIDDEN_LAYERS = layers  # which gaussians.py changes
    sys.argv = shlex.split(line)[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    words = ["make", "--no-print-directory", "-C", EXAMPLES, f"OUT={folder}", f"PYTHON={sys.executable}", "PROCESSES=1"]
    environment = {**os.environ, "WGAN_CACHE": str(folder / "cache")}

    def output(words: list[Any], **more: Any) -> str:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first, *others = [line for line in output([*words, "-n", "quick"]).splitlines() if line.startswith(sys.executable)]
    assert [shlex.split(line)[1] for line in (first, *others)] == [f"{name}.py" for name in NAMES]
    assert output([*words, NAMES[0], "QUICK=1"]) == (folder / f"{NAMES[0]}.txt").read_text()
    output([sys.executable, "-c", IN_ONE_PROCESS], input="\n".join(others), cwd=EXAMPLES)
    return folder


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module("claims")


def test_there_are_twelve() -> None:
    assert len(NAMES) == 12 and all((EXAMPLES / f"{name}.py").exists() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_its_claim_command_and_verdict(name: str) -> None:
    section = re.search(rf"### \d+ [^#]*: `make -C examples {name}`\n(.*?)\n##", PAGE, re.S)
    assert section and f"<!-- {name} -->" in section[1] and "\nBy hand: `" in section[1]
    claim = section[1].strip().split("\n\n")[0]
    assert "`" in claim and re.search(r"et al|and Bottou", claim)  # an equation, and where it is from


def test_the_page_says_what_the_results_say(claims: ModuleType) -> None:
    page = import_module("page")
    assert page.rendered(PAGE, page.found()) == PAGE
    for name in page.found()["first"]:
        assert f"![{name}](pictures/{name}.png)" in PAGE
        assert (EXAMPLES / "pictures" / f"{name}.png").stat().st_size < 60_000


def test_a_page_of_made_up_results(claims: ModuleType) -> None:
    page = import_module("page")
    of: dict[str, object] = {
        "verdict": "FAIL",
        "checks": [["a figure: 1, limit 2 or more", False]],
        "notes": "beside",
        "seeds": [0, 1],
    }
    of |= {"cpu_minutes": 3.0, "processor": "P", "torch": "T", "arithmetic": "A"}
    results = {"first": {"lines": of}, "native": {"lines": of | {"verdict": "PASS"}}, "seeds": {}}
    made = page.rendered(PAGE, results)
    assert "| `lines` | FAIL | PASS | – |\n| `vanishing` | – | – | – |" in made
    assert "**FAIL**, seeds 0 to 1:\n\n- a figure: 1, limit 2 or more (not met)\n" in made
    assert made.count("Not run yet.") == len(NAMES) - 1


@pytest.mark.parametrize("name", NAMES)
def test_ends_in_a_picture_and_a_verdict_with_figures(out: Path, name: str) -> None:
    verdict = (out / f"{name}.txt").read_text()
    assert re.fullmatch(rf"(PASS|FAIL) {name}: .*limit.*\n", verdict)
    told = json.loads((out / f"{name}.json").read_text())
    assert told["verdict"] == verdict[:4] and told["seeds"] == [0] and told["runs"] >= 1
    with Image.open(out / f"{name}.png") as picture:
        assert picture.format == "PNG"
        assert 400 <= picture.width <= 1000
        assert 150 <= picture.height <= 1000
    assert (out / f"{name}.png").stat().st_size < 60_000


@pytest.mark.parametrize("processes", [1, 2])
def test_runs_that_are_done_are_kept(processes: int, claims: ModuleType, tmp_path: Path) -> None:
    plan = claims.Plan("squares", tmp_path, [0], processes, False)
    assert claims.measured(plan, abs, {"a": (-2,)}) == {"a": 2}
    assert claims.measured(plan, math.sqrt, {"a": (16,), "b": (9,)}) == {"a": 4.0, "b": 3.0}
    kept = tmp_path / "squares/b.json"
    kept.write_text(kept.read_text().replace('"found": 3.0', '"found": 7.0'))
    assert claims.measured(plan, math.sqrt, {"b": (9,)}) == {"b": 7.0}  # read
    assert claims.measured(plan, math.sqrt, {"b": (25,)}) == {"b": 5.0}  # of other settings: done again


def test_a_claim_is_shown_by_four_fifths_of_the_runs(claims: ModuleType, tmp_path: Path) -> None:
    check = claims.Check
    assert check("x", [1, 1, 1, 1, 0], least=1).shown and not check("x", [1, 1, 1, 0, 0], least=1).shown
    assert check("x", [1, 1, 1], most=1).shown and not check("x", [1, 1, 2], most=1).shown
    assert not check("x", [math.nan], least=0).shown and not check("x", [1.3], least=0.8, most=1.2).shown
    told = str(check("the fall", [3.0, 1.0, 2.0], least=1.5, form=".1f"))
    assert told == "the fall: 2.0 (1.0 to 3.0), limit 1.5 or more: 2 of 3 runs"
    (tmp_path / "claim").mkdir()
    plan = claims.Plan("claim", tmp_path, [0], 1, False)
    for values, verdict in (([1.0], "PASS"), ([0.0], "FAIL")):
        claims.finish(plan, Figure(), [check("a", [1.0], least=1), check("b", values, least=1)])
        assert (tmp_path / "claim.txt").read_text().startswith(f"{verdict} claim: a: 1, limit 1 or more; b: ")


def test_data_cover_their_own_modes(claims: ModuleType) -> None:
    # Two dimensions, 3 deviations: 1 - exp(-9 / 2) of them.
    for name, count in (("8gaussians", 8), ("25gaussians", 25)):
        points = toy_points(name)[:5000]
        assert claims.modes_covered(points, name) == (count, pytest.approx(0.989, abs=0.005))
        assert claims.modes_covered(points[points[:, 0] > 0.1], name)[0] == {8: 3, 25: 10}[count]


def test_rank_correlation_in_closed_form(claims: ModuleType) -> None:
    assert claims.rank_correlation([1, 20, 300], [-5, 0, 1]) == pytest.approx(1)
    assert claims.rank_correlation([1, 2, 3, 4], [40, 30, 20, 10]) == pytest.approx(-1)
    assert claims.rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_the_test_of_signs_in_closed_form(claims: ModuleType) -> None:
    assert [claims.sign_test(*counts) for counts in ((0, 0), (5, 0), (4, 1), (0, 5))] == [1, 1 / 32, 6 / 32, 1]


def test_tails_have_the_index_of_their_distribution(claims: ModuleType) -> None:
    tails, rng = import_module("tails"), np.random.default_rng(0)
    cauchy = tails.scaled(7 + 3 * rng.standard_cauchy((2000, 50)))
    assert np.quantile(cauchy, [0.25, 0.5, 0.75]) == pytest.approx([-1, 0, 1], abs=0.02)
    assert tails.hill(cauchy) == pytest.approx(1, abs=0.1)
    assert tails.hill(1 + rng.pareto(3, 100_000)) == pytest.approx(3, abs=0.3)
    assert tails.hill(tails.scaled(rng.standard_normal((2000, 50)))) > 4
    assert tails.scaled(np.zeros((10, 3))).size == 0


def test_the_cosine_of_momentum_turns_with_the_gradient(claims: ModuleType) -> None:
    cosine = import_module("momentum").cosine
    for beta1, expected in ((0.0, 1.0), (0.9, -1.0)):
        weight = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.Adam([weight], 0.1, (beta1, 0.999))
        for gradient in (1.0, 1.0, -0.5):
            weight.grad = torch.tensor([gradient])
            optimizer.step()
        assert cosine(optimizer) == pytest.approx(expected)


def test_a_generator_of_noisy_data_is_noisy_data(claims: ModuleType) -> None:
    points = torch.from_numpy(toy_points("8gaussians"))
    noisy = import_module("weights").Noisy(points, 0)(torch.zeros(20_000, 2))
    assert noisy.std(0).tolist() == pytest.approx((points.var(0) + 1).sqrt().tolist(), abs=0.03)


def test_a_penalised_critic_by_hand_has_the_norm_that_the_tool_refuses(claims: ModuleType) -> None:
    norms = import_module("norms")
    state = claims.points_state(variant="gp", width=8)
    norms.give_norm(state, "batch")
    assert any(isinstance(layer, torch.nn.BatchNorm1d) for layer in state.critic.modules())
    (group,) = state.optimizer_critic.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in state.critic.parameters()}
    assert state.config.variant == "gp" and group["betas"] == state.config.betas
