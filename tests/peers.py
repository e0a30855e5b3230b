"""What a process of several does in the tests of `wgan_cli.distributed`; torchrun starts it.

torchrun --nproc-per-node 3 tests/peers.py equal OUT
torchrun --nproc-per-node 2 tests/peers.py train:MISHAP WORDS OF TRAIN...
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch

from wgan_cli import distributed, step, watchdog
from wgan_cli import run as run_folder
from wgan_cli import train as training
from wgan_cli.cli import main
from wgan_cli.config import resolve
from wgan_cli.data.dataset import Batch
from wgan_cli.state import State, new_state
from wgan_cli.variants import VARIANTS

BATCH, STEPS = 7, 2  # which two or three processes share unevenly
CASES: dict[str, dict[str, Any]] = {f"{name} mlp": {"variant": name, "arch": "mlp"} for name in VARIANTS}
CASES |= {
    "batch norm in both": {"variant": "ns", "arch": "dcgan", "critic_norm": "batch", "size": 16},
    "modulated batch norm": {"variant": "r3", "arch": "dcgan", "generator_norm": "self", "size": 16},
    "palette": {"variant": "gp", "arch": "dcgan", "palette": 3, "channels": 3, "size": 16},
    "batch norm of units": {"variant": "ns", "arch": "mlp", "critic_norm": "batch", "width": 64},
    "layer norm": {"variant": "gp", "arch": "dcgan", "critic_norm": "layer", "size": 16},
    "spectral norm": {"variant": "hinge", "arch": "dcgan", "size": 16},
    "r3": {"variant": "r3", "arch": "r3", "size": 16, "width": 16},
    "resnet": {"variant": "lp", "arch": "resnet", "size": 32},
    "drawn": {
        **{"variant": "gp", "arch": "dcgan", "size": 16, "channels": 3, "flip": True, "instance_noise": 0.3},
        "augment": ("color", "translation", "cutout"),
    },
    "classes": {"variant": "gp", "arch": "dcgan", "size": 16, "labels": "folders", "classes": ("a", "b")},
}


def equal(out: Path) -> None:
    """Each case for some steps by all processes, and by each by itself: the largest difference of a weight, of a figure
    and of what is drawn, relative to the largest value."""
    found = {}
    with distributed.joined(torch.device("cpu"), 60):
        distributed.divide(BATCH)
        for name, given in CASES.items():
            together, figures = run(given)
            with distributed.alone():
                alone, expected = run(given)
            pairs = [(together.critic, alone.critic), (together.generator, alone.generator), (together.ema, alone.ema)]
            found[name] = {
                "weights": max(apart(*pair) for pair in pairs),
                "figures": max(abs(figures[k] - v) / max(1.0, abs(v)) for k, v in expected.items()),
                "drawn": together.rng.get_state().equal(alone.rng.get_state()),
            }
            check = {f"{key}": value for key, value in together.critic.state_dict().items()}
            distributed.check_alike(name, check)  # to the last bit
        part = distributed.drawn(torch.rand, distributed.share().stop - distributed.share().start, 2)
    (out / f"{distributed.place().rank}.json").write_text(json.dumps([found, part.tolist(), threads()]))


def threads() -> list[str]:
    """Names of this process's, as Linux tells them."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def run(given: dict[str, Any]) -> tuple[State, dict[str, float]]:
    facts = {"size": given.get("size", 8), "channels": given.get("channels", 1), "classes": given.get("classes", ())}
    sgd = {"optimizer": "sgd", "lr": 0.1, "ema": 0.5, "batch": BATCH, "width": 4, "latent": 3}
    config = resolve({**sgd, **given} | {"size": facts["size"]}, facts)[0]
    state = new_state(config, torch.device("cpu"))
    rng = torch.Generator().manual_seed(1)
    figures: dict[str, torch.Tensor] = {}
    for _ in range(STEPS):
        labels = torch.randint(2, (BATCH,), generator=rng)
        samples = torch.rand(BATCH, *config.shape, generator=rng) * 2 - 1
        mine = distributed.share()
        batch = Batch(samples[mine], labels[mine] if config.classes else None)
        figures |= step.critic_step(state, batch) | step.generator_step(state, batch)
    torch.manual_seed(0)
    return state, {name: float(value) for name, value in figures.items()}


def apart(one: Any, other: Any) -> float:
    states = (one.state_dict(), other.state_dict())
    largest = max(float(value.abs().max()) for value in states[1].values())
    return max(float((states[0][name] - value).abs().max()) for name, value in states[1].items()) / largest


def mishap(what: str) -> None:
    """At the fifth step of the last process, in the first attempt."""
    here = distributed.place()
    if what == "slow disk":  # of the one that writes: the others wait for longer than they may hang
        write = run_folder.Run.write_grid
        slow = threading.Event()
        run_folder.Run.write_grid = lambda *given, **named: (slow.wait(4), write(*given, **named))  # type: ignore
    if here.rank + 1 < here.size or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return
    critic_step = step.critic_step

    def watched(state: State, batch: Batch) -> Any:
        figures = critic_step(state, batch)
        if state.step == 4:
            if what == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif what == "hangs":
                threading.Event().wait()
            elif what == "other weights":
                with torch.no_grad():
                    next(state.critic.parameters()).add_(1e-6)
        return figures

    training.critic_step = watched  # type: ignore[attr-defined]


if __name__ == "__main__":
    mode, *words = sys.argv[1:]
    if mode == "equal":
        equal(Path(words[0]))
        sys.exit()
    watchdog.SILENT = 3.0 if mode == "train:stopped" else 60.0
    mishap(mode.removeprefix("train:"))
    sys.argv[1:] = ["train", *words]
    try:
        main()
    finally:
        Path(f"{distributed.place().rank}.threads").write_text(" ".join(threads()))
