"""One critic step of this tool against the same step as it is widely written, on the same weights and random numbers.

    python tests/bench/step.py [--only gp-dcgan-64] [--rounds 5] [--json]

The plain step calls torch's layers one after the other: the critic on real and on fake samples apart, x̂ by products,
autograd's gradient differentiated again, the optimizer of torch as it comes, weights clamped one by one. It is timed
with the generator's samples left attached to their graph, as many scripts do, and detached. All forms run in turn in
one process, and before that their gradients are held against each other. Ratios of medians count; times do not carry
over to another run. Nothing else may run meanwhile: two threads on two cores stall.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wgan_cli.config import TrainConfig, resolve
from wgan_cli.data.dataset import Batch
from wgan_cli.device import keep_freed_memory
from wgan_cli.networks.halving import Doubling, Halving
from wgan_cli.state import State, new_state
from wgan_cli.step import critic_step

CASES = [("mlp", 28, 1), ("dcgan", 32, 3), ("dcgan", 64, 3), ("dcgan", 128, 3)]
# Of the length of the whole gradient, in float32. Of millions of activations a few lie so near 0 that rounding, which
# is another for each order of sums, turns their slope round; tests/test_penalty.py shows the same to 1e-10 in float64.
TOLERANCE = 5e-3
CPU = torch.device("cpu")


class Plain:
    """The plain step: its own copies of the networks, the same random numbers."""

    def __init__(self, state: State, detach: bool) -> None:
        self.config, self.detach = state.config, detach
        self.generator, self.critic = _torch_layers(state.generator), _torch_layers(state.critic)
        for network in (self.generator, self.critic):
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.device = state.device
        self.rng = torch.Generator(self.device).set_state(state.rng.get_state())
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(self.critic.parameters(), self.config.lr, self.config.betas)
            if self.config.betas
            else torch.optim.RMSprop(self.critic.parameters(), self.config.lr)
        )

    def step(self, real: Tensor) -> None:
        config = self.config
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            self.optimizer.zero_grad()
            fake = self.generator(torch.randn(len(real), config.latent, generator=self.rng, device=self.device))
            if self.detach:
                fake = fake.detach()
            loss = self.critic(fake).mean() - self.critic(real).mean()
            if config.gp_weight:
                mix = torch.rand(len(real), generator=self.rng, device=self.device).view(-1, 1, 1, 1)
                points = mix * real + (1 - mix) * fake
                if not points.requires_grad:
                    points.requires_grad_(True)
                scores = self.critic(points)
                (gradient,) = torch.autograd.grad(
                    scores, points, torch.ones_like(scores), create_graph=True, retain_graph=True
                )
                loss = loss + config.gp_weight * ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        if config.clip:
            for p in self.critic.parameters():
                p.data.clamp_(-config.clip, config.clip)


def _torch_layers(network: nn.Module) -> nn.Module:
    """A copy with torch's own convolutions."""
    network = copy.deepcopy(network)
    for layer in network.modules():
        if isinstance(layer, (Halving, Doubling)):
            layer.__class__ = nn.Conv2d if isinstance(layer, Halving) else nn.ConvTranspose2d  # type: ignore[assignment]
    return network


class Operations(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if counts := flop_registry.get(func._overloadpacket):
            self.count += counts(*args, **(kwargs or {}), out_val=out)
        return out


def measure(config: TrainConfig, rounds: int) -> dict[str, Any]:
    state = new_state(config, CPU)
    plain = {"attached": Plain(state, False), "detached": Plain(state, True)}
    rows = torch.randint(0, 256, (config.batch, *config.sides, config.channels), dtype=torch.uint8)
    real = rows.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)  # as a batch comes
    forms: dict[str, Callable[[], Any]] = {
        "attached": lambda: plain["attached"].step(real.contiguous()),
        "detached": lambda: plain["detached"].step(real.contiguous()),
        "ours": lambda: critic_step(state, Batch(real)),
    }
    gflop = {}
    for name, form in forms.items():
        with Operations() as operations:
            form()
        gflop[name] = operations.count / 1e9
    apart = max(_apart(state.critic, twin.critic) for twin in plain.values())
    if config.precision == "fp32" and not apart <= TOLERANCE:
        raise SystemExit(f"gradients differ by {apart:.1e}: {config.variant} {config.arch} {config.size}")
    seconds: dict[str, list[float]] = {name: [] for name in [*forms, "matrix"]}
    for _ in range(rounds):
        for name, form in forms.items():
            if name == "ours":
                keep_freed_memory()
            else:
                free_as_usual()
            seconds[name].append(_timed(form))
        seconds["matrix"].append(matrix_rate(config.precision))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rate = gflop["ours"] / medians["ours"]
    return {
        "case": f"{config.variant}-{config.arch}-{config.size}-{config.precision}",
        "speedup_attached": medians["attached"] / medians["ours"],
        "speedup_detached": medians["detached"] / medians["ours"],
        "ms": 1000 * medians["ours"],
        "gflop": gflop,
        "gflop_per_second": rate,
        "share_of_matrix_product": rate / medians["matrix"],
        "gradients_apart": apart,
    }


def _apart(ours: nn.Module, theirs: nn.Module) -> float:
    """The length of the difference of two gradients in all weights, relative to the second's."""
    a, b = (torch.cat([p.grad.flatten() for p in n.parameters() if p.grad is not None]) for n in (ours, theirs))
    return ((a - b).norm() / b.norm()).item()


def free_as_usual() -> None:
    """Undo `keep_freed_memory`: glibc's limits as they stand when large blocks have been freed."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option, value in ((-4, 65536), (-3, 32 << 20), (-1, 64 << 20)):  # M_MMAP_MAX, _THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _timed(form: Callable[[], Any]) -> float:
    began = time.perf_counter()
    form()
    return time.perf_counter() - began


def matrix_rate(precision: str, side: int = 2048) -> float:
    """GFLOP/s of one large matrix product."""
    a = torch.randn(side, side, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return 2 * side**3 / 1e9 / _timed(lambda: a @ a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name begins so, as gp-dcgan-64")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    results = []
    if not asked.json:
        print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads, batch 64")
        print(
            "case                   against attached  detached      ms   GFLOP (attached, detached)  GFLOP/s  of matrix"
        )
    for variant, (arch, size, channels), precision in product(("clip", "gp"), CASES, ("fp32", "bf16")):
        given = {"variant": variant, "arch": arch, "precision": precision}
        if not f"{variant}-{arch}-{size}-{precision}".startswith(asked.only):
            continue
        result = measure(resolve(given, {"size": size, "channels": channels})[0], asked.rounds)
        results.append(result)
        if not asked.json:
            work = result["gflop"]
            print(
                f"{result['case']:22} {result['speedup_attached']:15.2f}x {result['speedup_detached']:8.2f}x"
                f" {result['ms']:8.1f} {work['ours']:7.1f} ({work['attached']:.1f}, {work['detached']:.1f})"
                f" {result['gflop_per_second']:12.1f} {result['share_of_matrix_product']:9.0%}",
                flush=True,
            )
    if asked.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
