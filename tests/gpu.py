"""All that is to be learnt on a machine with a GPU, in eight minutes: `make gpu`.

    python tests/gpu.py [--out build/gpu] [--only kernels,steps] [--rehearse]

Wants a Python with a CUDA torch, and nvcc for the kernels; downloads nothing. Each stage is a process with a time of
its own, to which what earlier stages left is added. What a stage finds is in gpu.json and, as a table, in gpu.txt as
soon as the stage ends; a stage that fails or is cut is named, and the others go on. Without a GPU all but the first
stage are skipped. --rehearse takes them on the CPU with small networks, to see that the script itself is right.
Exit code 1 if a stage failed or was cut.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STAGES = {  # seconds: 470 in all, the rest is the script's own
    "environment": 40,  # a first import of torch from a slow disk; what is left goes to the next
    "build": 60,
    "kernels": 80,
    "resume": 50,
    "waits": 25,
    "ops": 50,
    "steps": 65,
    "train": 80,
    "memory": 20,
}
WORST = (  # what would make everything else worthless comes first
    "test_rmsprop_is_its_twin_in_float64",
    "test_adam_is_its_twin_in_float64",
    "test_the_penalty_and_its_gradient_are_their_twin_in_float64",
    "test_clamp_is_its_twin_bit_for_bit",
    "test_streams_at_work_at_the_same_time_do_not_share_a_ticket",
    "test_a_captured_step_can_be_replayed_with_another_learning_rate",
)
Row = Callable[..., None]


# ---- The stages that need no torch of this process; the others are in tests/bench/device.py


def environment(row: Row, **_: Any) -> None:
    row(python=sys.version.split()[0], processors=os.cpu_count(), commit=_said("git", "-C", ROOT, "rev-parse", "HEAD"))
    row(nvcc=_said("nvcc", "--version").split("\n")[-2:][0], compiler=_said("c++", "--version").split("\n")[0])
    import torch

    row(torch=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info()
        row(gpu=properties.name, capability=f"{properties.major}.{properties.minor}", GPUs=torch.cuda.device_count())
        row(multiprocessors=properties.multi_processor_count, free_GB=free / 1e9, total_GB=total / 1e9)
        row(driver=_said("nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"))


def _said(*words: object) -> str:
    try:
        return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def build(row: Row, site: Path, **_: Any) -> None:
    """The package and its kernels, for the GPU that is here alone."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    shutil.rmtree(site, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "-v", "--no-index", "--no-deps", "--no-build-isolation"]
    chosen = {"WGAN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
    subprocess.run([*pip, "--target", str(site), str(ROOT)], check=True, env={**os.environ, **chosen})
    asked = "from wgan_cli import ops; print(ops.kernels_state())"
    row(kernels=_said(sys.executable, "-c", asked))


def kernels(row: Row, **_: Any) -> None:
    """All tests marked gpu, worst first, each told as it ends."""
    first = [f"{ROOT}/tests/test_gpu.py::{name}" for name in WORST]
    options = ["-v", "-m", "gpu", "-p", "no:cacheprovider", "-W", "default", "--durations=5", "--tb=short"]
    files = [f"{ROOT}/tests/{name}.py" for name in ("test_gpu", "test_graph", "test_device")]
    command = [sys.executable, "-m", "pytest", *options, *first, *files]
    counts: dict[str, int] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        for line in running.stdout:
            print(line, end="", flush=True)
            if match := re.match(r"\S*?(test_\w+\.py::\S.*?) (PASSED|FAILED|ERROR|SKIPPED)(.*)", line):
                counts[match[2]] = counts.get(match[2], 0) + 1
                if match[2] != "PASSED":
                    row(test=match[1], result=match[2], why=match[3].split("[")[0].strip(" ()"))
    row(**counts)
    if running.returncode:
        raise SystemExit(f"pytest ended with {running.returncode}: {counts}")


def ops(row: Row, **_: Any) -> None:
    command = [sys.executable, f"{ROOT}/tests/bench/ops.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        for line in filter(str.strip, running.stdout):
            row(said=line.rstrip())
    if running.returncode:
        raise SystemExit(f"tests/bench/ops.py ended with {running.returncode}")


# ---- One stage, in a process of its own


def stage(name: str, asked: argparse.Namespace) -> None:
    rows = open(asked.out / f"{name}.rows", "w", buffering=1)  # a line at a time, for when the stage is cut

    def row(**figures: Any) -> None:
        rows.write(json.dumps(figures) + "\n")

    device = "cpu" if asked.rehearse else "cuda"
    options: dict[str, Any] = dict(row=row, site=asked.out / "site", out=asked.out, device=device, until=asked.until)
    if name in ("environment", "build", "kernels", "ops"):
        globals()[name](**options)
    else:
        from bench import device as measured

        getattr(measured, name)(**options)


# ---- All of them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[*STAGES])
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.out = asked.out.resolve()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.stage:
        stage(asked.stage, asked)
        return 0
    results: list[dict[str, Any]] = []
    allowed, why_not = time.monotonic(), ""
    for name, seconds in STAGES.items():
        allowed += seconds
        if name != "environment" and name not in asked.only:
            continue
        reason = why_not or ("a GPU's alone" if asked.rehearse and name in ("build", "kernels") else "")
        result = {"stage": name, "state": "skipped", "why": reason, "rows": []} if reason else run(name, allowed, asked)
        results.append(result)
        if name == "environment" and not asked.rehearse and not any("gpu" in row for row in result["rows"]):
            # One that was cut says nothing of the GPU: the others are tried.
            why_not = {"done": "no CUDA device", "failed": "no torch that starts"}.get(str(result["state"]), "")
        write(asked.out / "gpu.json", json.dumps(results, indent=1) + "\n")
        write(asked.out / "gpu.txt", "\n".join(map(shown, results)))
        print(shown(result), flush=True)
    print(f"all of it: {asked.out}/gpu.json and gpu.txt; what each stage said: {asked.out}/*.log")
    return int(any(result["state"] in ("failed", "cut") for result in results))


def run(name: str, allowed: float, asked: argparse.Namespace) -> dict[str, Any]:
    """The stage's result; whatever it does, this comes back by the time that is allowed."""
    began, log, rows = time.monotonic(), asked.out / f"{name}.log", asked.out / f"{name}.rows"
    rows.unlink(missing_ok=True)
    left = max(5.0, allowed - began)
    command = [sys.executable, __file__, "--stage", name, "--out", str(asked.out), "--until", str(time.time() + left)]
    command += ["--rehearse"] * asked.rehearse
    built = (asked.out / "site/wgan_cli").is_dir() and name != "build"
    place = asked.out / "site" if built and not asked.rehearse else ROOT
    environ = {**os.environ, "PYTHONPATH": str(place), "PYTHONUNBUFFERED": "1", "WGAN_CACHE": str(asked.out / "cache")}
    state, why = "done", ""
    with open(log, "w") as said:
        child = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environ, cwd=asked.out, start_new_session=True
        )
        try:
            code = child.wait(left)
        except subprocess.TimeoutExpired:
            state, why, code = "cut", f"after {left:.0f} s", 0
        finally:
            with_it = child.pid  # the stage and all that it has started
            try:
                os.killpg(with_it, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()
        state, why = "failed", lines[-1] if lines else f"ended with {code}"
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return {"stage": name, "state": state, "why": why, "seconds": round(time.monotonic() - began, 1), "rows": found}


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def shown(result: dict[str, Any]) -> str:
    """A heading, and below it a table of the rows that follow each other with the same columns."""
    after = f" after {result['seconds']} s" if "seconds" in result else ""
    lines = [f"== {result['stage']}: {result['state']}{after}" + (f": {result['why']}" if result["why"] else "")]
    columns: list[str] = []
    rows = [{name: _plain(value) for name, value in row.items()} for row in result["rows"]]
    for place, row in enumerate(rows):
        if [*row] != columns:
            columns = [*row]
            alike = [other for other in rows[place:] if [*other] == columns]
            widths = {name: max(len(name), *(len(other[name]) for other in alike)) for name in columns}
            lines += ["   " + "  ".join(f"{name:{widths[name]}}" for name in columns).rstrip()] * (columns != ["said"])
        lines.append("   " + "  ".join(f"{row[name]:{widths[name]}}" for name in columns).rstrip())
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
