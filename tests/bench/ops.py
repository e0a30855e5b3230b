"""The ops against the strongest forms that torch has of them, on the critic and the batch of DCGAN at 64×64.

    python tests/bench/ops.py

Equality first, then the time of one call, eager and replayed from a CUDA graph, and the bytes it moves a second, beside
those of a device copy. Bytes and launches are counted by running the same calls on the meta device: each tensor that an
operator reads or writes counts once, each operator that is no view is one launch, and one on a list as many as torch's
multi_tensor_apply makes of it. That part needs no GPU, and without one it is all that is shown.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wgan_cli import ops
from wgan_cli.config import TrainConfig
from wgan_cli.networks import build_critic

BATCH, BOUND, LR, ALPHA, EPS, WEIGHT = 64, 0.01, 5e-5, 0.99, 1e-8, 10.0
REST1, REST2, SHARE = 0.5, 0.1, 0.001
Call = Callable[[], Any]


class Case:
    """The tensors of one comparison on a device, and each form of the op as a call without arguments."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(0)
        config = TrainConfig(arch="dcgan", size=64, channels=3, width=64, critic_norm="none")
        shapes = [param.shape for param in build_critic(config).parameters()]
        self.params = [torch.randn(shape, device=device) * BOUND for shape in shapes]
        for param in self.params:
            param.grad = torch.randn_like(param)
        self.grads = [param.grad for param in self.params if param.grad is not None]
        self.squares = [torch.rand_like(param) for param in self.params]
        self.means, self.averages = ([torch.randn_like(param) * BOUND for param in self.params] for _ in range(2))
        self.number = torch.ones((), device=device)
        on_gpu = device == "cuda"
        self.adam_of = {  # torch's own, on the same tensors
            way: torch.optim.Adam(self.params, LR, (1 - REST1, 1 - REST2), EPS, capturable=on_gpu, **{way: True})
            for way in ("foreach", "fused")
        }
        for adam in self.adam_of.values():
            for param, mean, square in zip(self.params, self.means, self.squares, strict=True):
                steps = torch.zeros((), device=device if on_gpu or adam is self.adam_of["fused"] else "cpu")
                adam.state[param] = {"step": steps, "exp_avg": mean, "exp_avg_sq": square}
        self.optimizer = torch.optim.RMSprop(self.params, LR, ALPHA, EPS, foreach=True, capturable=on_gpu)
        for param, square in zip(self.params, self.squares, strict=True):
            steps = torch.zeros((), device=device if on_gpu else "cpu")
            self.optimizer.state[param] = {"step": steps, "square_avg": square}
        self.compiled = torch.compile(self.optimizer_step) if on_gpu else None
        self.flat = torch.cat([param.flatten() for param in self.params])
        self.flat_grad = torch.cat([grad.flatten() for grad in self.grads])
        self.flat_square = torch.cat([square.flatten() for square in self.squares])
        self.samples = torch.randn(BATCH, 3, 64, 64, device=device) / 100
        self.samples.requires_grad_()
        self.upstream = torch.ones((), device=device)

    def penalty(self, impl: Any) -> Tensor:
        return ops.gradient_penalty(self.samples, WEIGHT, impl=impl)[0]

    def flat_step(self) -> None:
        self.flat_square.mul_(ALPHA).addcmul_(self.flat_grad, self.flat_grad, value=1 - ALPHA)
        self.flat.addcdiv_(self.flat_grad, self.flat_square.sqrt().add_(EPS), value=-LR)
        self.flat.clamp_(-BOUND, BOUND)

    def optimizer_step(self) -> None:
        self.optimizer.step()
        ops.clamp_(self.params, BOUND, impl="torch")

    def backward(self, impl: str) -> Tensor:
        """With the forward pass, on whose stream it runs: the only way to capture it."""
        return torch.autograd.grad(self.penalty(impl), self.samples, self.upstream)[0]

    def step(self, impl: Any) -> None:
        ops.rmsprop_clamp_(self.params, self.grads, self.squares, LR, ALPHA, EPS, BOUND, impl=impl)

    @torch.no_grad()
    def torch_adam(self, way: str) -> None:
        self.adam_of[way].step()
        ops.clamp_(self.params, BOUND, impl="torch")
        for average, param in zip(self.averages, self.params, strict=True):
            average.lerp_(param, SHARE)

    def adam(self, impl: Any) -> None:
        lists = (self.params, self.grads, self.means, self.squares, self.averages)
        ops.adam_(*lists, self.number, LR, REST1, REST2, EPS, BOUND, SHARE, impl=impl)

    def forms(self) -> dict[str, dict[str, Call]]:
        """Op → form → call. The last form of each is ours."""
        return {
            "clamp": {
                "clamp_ for each tensor": lambda: [param.clamp_(-BOUND, BOUND) for param in self.params],
                "_foreach_clamp_min_, _max_": lambda: ops.clamp_(self.params, BOUND, impl="torch"),
                "one flat buffer": lambda: self.flat.clamp_(-BOUND, BOUND),
                "fused": lambda: ops.clamp_(self.params, BOUND),
            },
            "RMSProp + clamp": {
                "optim.RMSprop(foreach), clamp": self.optimizer_step,
                "_foreach ops": lambda: self.step("torch"),
                "one flat buffer": self.flat_step,
                **({"torch.compile(optim, clamp)": self.compiled} if self.compiled else {}),
                "fused": lambda: self.step("auto"),
            },
            "Adam, clamp, mean": {
                "optim.Adam(foreach), clamp, lerp": lambda: self.torch_adam("foreach"),
                "optim.Adam(fused), clamp, lerp": lambda: self.torch_adam("fused"),
                "fused": lambda: self.adam("auto"),
            },
            "penalty": {
                "linalg.vector_norm and arithmetic": lambda: self.penalty("torch"),
                "fused": lambda: self.penalty("auto"),
            },
            "penalty, gradient": {
                "autograd": lambda: self.backward("torch"),
                "fused": lambda: self.backward("auto"),
            },
        }


# ---- Counting


class Counter(TorchDispatchMode):
    """Adds up bytes and launches of the operators that run under it."""

    CHUNK, BLOCKS = 65536, 320  # of multi_tensor_apply: elements a block, blocks a launch
    TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # ... and tensors a launch, by the number of lists

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        schema = func._schema
        # One in place that has no kernel for tensors without values.
        result = None if schema.name == "aten::_fused_adam_" else func(*args, **(kwargs or {}))
        given = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | (kwargs or {})
        written = [given[a.name] for a in schema.arguments if a.alias_info and a.alias_info.is_write]
        if schema.name == "aten::_fused_adam_":  # which writes gradients only where these are scaled
            written = [tensors for tensors in written if tensors is not given["grads"]]
        is_view = any(out.alias_info and not out.alias_info.is_write for out in schema.returns)
        if is_view or schema.name.startswith(("aten::empty", "aten::new_empty", "aten::detach")):
            return result
        outputs = _tensors(written or result)
        inputs = {id(tensor): tensor for tensor in _tensors([*given.values()])}
        if not any(tensor.is_meta for tensor in outputs):  # the optimizer counts its steps on the CPU
            return result
        if "zeros" in schema.name or "ones_like" in schema.name or "fill" in schema.name:
            inputs = {}
        self.bytes += sum(t.nbytes for t in inputs.values()) + sum(t.nbytes for t in outputs)
        on_lists = schema.name.startswith(("aten::_foreach", "aten::_fused"))
        self.launches += self._of_lists(given, outputs) if on_lists else 1
        return result

    def _of_lists(self, given: dict[str, Any], outputs: list[Tensor]) -> int:
        lists = sum(isinstance(x, list | tuple) and bool(x) and isinstance(x[0], Tensor) for x in given.values())
        lists += id(outputs[0]) not in {id(tensor) for tensor in _tensors([*given.values()])}
        launches, tensors, blocks = 1, 0, 0
        for output in outputs:
            wanted = -(-output.numel() // self.CHUNK)
            if tensors == self.TENSORS[lists] or blocks + wanted > self.BLOCKS:
                launches, tensors, blocks = launches + 1, 0, 0
            tensors, blocks = tensors + 1, blocks + wanted
        return launches


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.dtype.is_floating_point else []  # tickets and step counts are no traffic
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []


def count() -> dict[tuple[str, str], tuple[int, int]]:
    """(op, form) → (bytes, launches), of the same calls on the meta device, with the schemas of csrc/binding.cpp."""
    text = (Path(__file__).parents[2] / "csrc/binding.cpp").read_text()
    for definition in re.findall(r"library\.def\(((?:\s*\"[^\"]*\")+)", text):
        torch.library.define(*_split("wgan_counted::" + "".join(re.findall(r'"([^"]*)"', definition))))
    ops.register("wgan_counted", "meta")
    case, counts = Case("meta"), {}
    for op, forms in case.forms().items():
        for form, call in forms.items():
            for _ in range(2):  # makes the ticket, once
                with Counter() as counter:
                    call()
            counts[op, form] = counter.bytes, counter.launches
    return counts


def _split(schema: str) -> tuple[str, str]:
    name, arguments = schema.split("(", 1)
    return name, "(" + arguments


# ---- Timing


def check_equal(device: str) -> None:
    """Each form of each op from the same start: the same result as the first."""
    for op, forms in Case(device).forms().items():
        results = []
        for form in forms:
            case = Case(device)
            value = case.forms()[op][form]()
            if "penalty" not in op:
                changed = [*case.params, *case.averages] if "Adam" in op else case.params
                value = case.flat if "flat" in form else torch.cat([tensor.flatten() for tensor in changed])
            results.append(value)
        for form, result in zip(forms, results, strict=True):
            torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-8, msg=f"{op}: {form} differs")


def microseconds(call: Call, calls: int = 20, repeats: int = 30) -> float:
    """Median over `repeats` of the mean over `calls`."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            call()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / calls)
    return statistics.median(times)


def replayed(call: Call, calls: int = 20) -> float:
    """The same from a captured graph, where the host costs nothing."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return microseconds(graph.replay, calls=1) / calls


def main() -> None:
    counts = count()
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        check_equal("cuda")
        a, b = (torch.empty(64 * 2**20, device="cuda") for _ in range(2))
        copy = 2 * a.nbytes / microseconds(lambda: b.copy_(a)) / 1e3
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; kernels: {ops.kernels_state()}")
        print(f"all forms agree; a device copy moves {copy:.0f} GB/s\n")
    else:
        print("no CUDA device: bytes and launches only, counted\n")
    header = f"{'op':18}{'form':36}{'MB':>8}{'launches':>10}"
    print(header + (f"{'µs':>9}{'µs, graph':>11}{'GB/s':>7}{'of copy':>9}" if has_gpu else ""))
    for op, forms in Case("cuda" if has_gpu else "meta").forms().items():
        for form, call in forms.items():
            size, launches = counts.get((op, form), (0, 0))  # what a compiler makes of it is not counted
            line = f"{op:18}{form:36}" + (f"{size / 1e6:8.2f}{launches:10}" if size else f"{'':18}")
            if has_gpu:
                eager, graph = microseconds(call), replayed(call)
                line += f"{eager:9.1f}{graph:11.1f}"
                line += f"{size / graph / 1e3:7.0f}{size / graph / 1e3 / copy:9.0%}" if size else ""
            print(line)


if __name__ == "__main__":
    main()
