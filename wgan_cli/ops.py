"""The arithmetic that the project exists for: weight clipping, RMSProp and Adam with it, the gradient penalty.

Every op stands here twice with one signature: the public function, which takes the CUDA kernel of csrc/ where it
can, and under it its twin in plain torch, which is the definition of what the kernel computes. `impl` chooses:

  auto   the kernel for CUDA tensors if it is there, else the twin; WGAN_FUSED=0 and =1 turn this into the next two
  torch  the twin
  cuda   the kernel, or an error that says why there is none

Lists must be of one dtype and device for the kernels. Nothing here waits for the device.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from . import UsageError, WganError

Impl = Literal["auto", "torch", "cuda"]
Dial = float | Tensor  # a float32 tensor of one element on the device can be changed after a graph was captured


# ---- clamp_


@torch.no_grad()
def clamp_(params: Sequence[Tensor], c: float, impl: Impl = "auto") -> None:
    """Clamp every tensor into [-c, c] in place; NaN stays NaN. Arjovsky et al. 2017, algorithm 1, line 7."""
    _check_not_negative("clamp_", c=c)
    params = list(params)
    if not params:
        return
    library = _library(params[0], impl)
    if library is None:
        return _clamp_(params, c)
    library.clamp_(params, c)
    torch.autograd.graph.increment_version(params)  # or autograd would not see that saved tensors have changed


def _clamp_(params: list[Tensor], c: float) -> None:
    torch._foreach_clamp_min_(params, -c)
    torch._foreach_clamp_max_(params, c)


# ---- rmsprop_clamp_


@torch.no_grad()
def rmsprop_clamp_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    square_avgs: Sequence[Tensor],
    lr: Dial,
    alpha: float,
    eps: float,
    c: float,
    impl: Impl = "auto",
) -> None:
    """The step of torch.optim.RMSprop (momentum 0, not centered), then clamp_, in place on params and square_avgs.

    Arjovsky et al. 2017, algorithm 1, lines 6 and 7.
    """
    _check_not_negative("rmsprop_clamp_", lr=lr, alpha=alpha, eps=eps, c=c)
    params, grads, square_avgs = list(params), list(grads), list(square_avgs)
    if not len(params) == len(grads) == len(square_avgs):
        raise ValueError(
            "rmsprop_clamp_: params, grads and square_avgs must be of one length, "
            f"got {len(params)}, {len(grads)} and {len(square_avgs)}"
        )
    if not params:
        return
    library = _library(params[0], impl)
    if library is None:
        return _rmsprop_clamp_(params, grads, square_avgs, lr, alpha, eps, c)
    number, tensor = _number_or_tensor(lr)
    library.rmsprop_clamp_(params, grads, square_avgs, number, alpha, eps, c, tensor)
    torch.autograd.graph.increment_version(params + square_avgs)


def _rmsprop_clamp_(
    params: list[Tensor],
    grads: list[Tensor],
    square_avgs: list[Tensor],
    lr: Dial,
    alpha: float,
    eps: float,
    c: float,
) -> None:
    torch._foreach_mul_(square_avgs, alpha)
    torch._foreach_addcmul_(square_avgs, grads, grads, value=1 - alpha)
    roots = torch._foreach_sqrt(square_avgs)
    torch._foreach_add_(roots, eps)
    if isinstance(lr, Tensor):
        torch._foreach_div_(roots, -lr)
        torch._foreach_addcdiv_(params, grads, roots)
    else:
        torch._foreach_addcdiv_(params, grads, roots, value=-lr)
    _clamp_(params, c)


# ---- adam_


@torch.no_grad()
def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    averages: Sequence[Tensor],  # one for each of params, or none
    step: Tensor,  # a float32 tensor of one element on the device: the number of this step, from 1
    lr: Dial,
    rest1: float,  # 1 - β1
    rest2: Dial,  # 1 - β2
    eps: float,
    c: float = math.inf,
    share: Dial = 0.0,
    impl: Impl = "auto",
) -> None:
    """The step of torch.optim.Adam, then clamp_, then averages ← (1 - share) · averages + share · params, in place.

    Kingma and Ba 2015, algorithm 1. grads are left as they are.
    """
    _check_not_negative("adam_", lr=lr, rest1=rest1, rest2=rest2, eps=eps, c=c, share=share)
    lists = [[*tensors] for tensors in (params, grads, exp_avgs, exp_avg_sqs, averages)]
    lengths = [*map(len, lists)]
    if len({*lengths[:4], lengths[4] or lengths[0]}) > 1:
        raise ValueError(f"adam_: all lists must be of one length, averages may be empty, got {lengths}")
    if not lists[0]:
        return
    library = _library(lists[0][0], impl)
    if library is None:
        return _adam_(lists, step, lr, rest1, rest2, eps, c, share)
    (a, on_a), (b, on_b), (s, on_s) = map(_number_or_tensor, (lr, rest2, share))
    library.adam_(*lists, step, a, rest1, b, eps, c, s, on_a, on_b, on_s)
    torch.autograd.graph.increment_version(lists[0] + lists[2] + lists[3] + lists[4])


def _adam_(
    lists: list[list[Tensor]], step: Tensor, lr: Dial, rest1: float, rest2: Dial, eps: float, c: float, share: Dial
) -> None:
    params, grads, exp_avgs, exp_avg_sqs, averages = lists
    if isinstance(rest2, Tensor):  # whose value torch's own step would read
        step = step.to(rest2.dtype)
        torch._foreach_lerp_(exp_avgs, grads, rest1)
        torch._foreach_mul_(exp_avg_sqs, 1 - rest2)
        torch._foreach_addcmul_(exp_avg_sqs, torch._foreach_mul(grads, rest2), grads)
        roots = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_div_(roots, (-torch.expm1(step * torch.log1p(-rest2))).sqrt())
        torch._foreach_add_(roots, eps)
        torch._foreach_mul_(roots, ((1 - rest1) ** step - 1) / lr)
        torch._foreach_addcdiv_(params, exp_avgs, roots)
    else:
        settings: dict[str, Any] = {"lr": lr, "beta1": 1 - rest1, "beta2": 1 - rest2, "eps": eps}
        settings |= {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
        torch._fused_adam_(params, grads, exp_avgs, exp_avg_sqs, [], [step] * len(params), **settings)
    if c < math.inf:
        _clamp_(params, c)
    for average, param in zip(averages, params, strict=False):
        average.lerp_(param, share.to(param.dtype) if isinstance(share, Tensor) else share)


# ---- gradient_penalty


def gradient_penalty(
    grads: Tensor,  # [B, ...] gradient of the critic's output with respect to its input
    weight: float,
    target: float = 1.0,
    one_sided: bool = False,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """weight · mean((‖g‖ - target)²), and the norms [B]. Gulrajani et al. 2017, eq. 3.

    The norm is each sample's own, in float32 (float64 for float64). one_sided counts only norms above the target
    (Petzka et al. 2018, eq. 8). A zero row has norm 0 and gradient 0, not NaN.
    """
    library = _library(grads, impl)
    if library is None:
        return _gradient_penalty(grads, weight, target, one_sided)
    if not _has_rows(grads):
        grads = grads.contiguous()
    penalty, norms = library.gradient_penalty(grads, _ticket(grads.device), weight, target, one_sided)
    return penalty, norms


def _gradient_penalty(grads: Tensor, weight: float, target: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    norms = torch.linalg.vector_norm(grads.flatten(1), dim=1, dtype=_wide(grads))
    excess = norms - target
    if one_sided:
        excess = excess.clamp(min=0)
    return weight * excess.square().mean(), norms


def _wide(grads: Tensor) -> torch.dtype:
    return torch.float64 if grads.dtype == torch.float64 else torch.float32


def _has_rows(grads: Tensor) -> bool:
    """Whether each sample lies in one piece of memory, in either of the orders that convolutions use."""
    return grads.is_contiguous() or (grads.dim() == 4 and grads.is_contiguous(memory_format=torch.channels_last))


_TICKETS: dict[tuple[torch.device, int], Tensor] = {}


def _ticket(device: torch.device) -> Tensor:
    """The counter of finished blocks, [1] int32: 0 before and after each launch, one for each stream."""
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    ticket = None if capturing else _TICKETS.get((device, stream))
    if ticket is None:
        ticket = torch.zeros(1, dtype=torch.int32, device=device)
        # One that is zeroed in a graph belongs to that graph, and a fake one to its tracing.
        if not capturing and type(ticket) is Tensor:
            _TICKETS[device, stream] = ticket
    return ticket


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grads, _, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grads, output[1])


# ---- The kernels, if there are any

_LIBRARIES: dict[str, Any] = {}  # device type -> the torch.ops namespace whose kernels take its tensors


def register(namespace: str, device_type: str) -> None:
    """Let tensors of `device_type` take the kernels of a namespace of torch.ops that has been loaded."""
    _LIBRARIES[device_type] = _completed(namespace)


def unregister(device_type: str) -> None:
    """Give the tensors of `device_type` back to the twins."""
    del _LIBRARIES[device_type]


@cache
def _completed(namespace: str) -> Any:
    """The namespace with what the stable ABI has no C++ for: fake kernels and the gradient."""
    library = getattr(torch.ops, namespace)

    for in_place in ("clamp_", "rmsprop_clamp_", "adam_"):
        torch.library.register_fake(f"{namespace}::{in_place}", lambda *args, **kwargs: None)

    @torch.library.register_fake(f"{namespace}::gradient_penalty")
    def penalty_fake(
        grads: Tensor, ticket: Tensor, weight: float, target: float, one_sided: bool
    ) -> tuple[Tensor, Tensor]:
        return grads.new_empty((), dtype=_wide(grads)), grads.new_empty(grads.shape[:1], dtype=_wide(grads))

    @torch.library.register_fake(f"{namespace}::gradient_penalty_backward")
    def backward_fake(grads: Tensor, *args: Any) -> Tensor:
        return torch.empty_like(grads)

    def backward(ctx: Any, grad_penalty: Tensor | None, grad_norms: Tensor | None) -> tuple[Tensor | None, ...]:
        grads, norms = ctx.saved_tensors
        rest = (None,) * (1 + len(ctx.settings))
        if grad_penalty is None and grad_norms is None:
            return None, *rest
        if torch.is_grad_enabled():  # create_graph: the twin's gradient can be differentiated again
            pairs = zip(_gradient_penalty(grads, *ctx.settings), (grad_penalty, grad_norms), strict=True)
            used = {output: upstream for output, upstream in pairs if upstream is not None}
            return *torch.autograd.grad([*used], grads, [*used.values()], create_graph=True), *rest
        grad_norms = None if grad_norms is None else grad_norms.contiguous()
        return library.gradient_penalty_backward(grads, norms, grad_penalty, grad_norms, *ctx.settings), *rest

    torch.library.register_autograd(f"{namespace}::gradient_penalty", backward, setup_context=_save_for_backward)
    return library


def kernels_state() -> str:
    """One line: the kernels that are loaded and what they were built for, or why there are none."""
    return f"loaded, {_built()}" if _why_none is None else f"none, {_why_none}"


def _built() -> str:
    """What setup.py has noted down: what it built, or why it did not."""
    try:
        return str(json.loads(Path(__file__).with_name("_build.json").read_text())["kernels"])
    except (OSError, ValueError, KeyError):
        return "not built: the package was not installed by its setup.py"


def _load() -> str | None:
    """Load and register the extension; None, or why that cannot be."""
    try:
        importlib.import_module(f"{__package__}._C")
    except ModuleNotFoundError:
        return _built()
    except (ImportError, OSError) as error:  # built for another torch, or a CUDA library is missing
        return f"{_built()}, but it cannot be loaded: {error}"
    register("wgan", "cuda")
    return None


_why_none = _load()
_noticed = False


def _library(tensor: Tensor, impl: Impl) -> Any | None:
    """The kernels for a call whose first tensor is `tensor`, or None: the twin."""
    global _noticed
    if impl == "auto":
        fused = os.environ.get("WGAN_FUSED", "auto")
        if fused not in ("auto", "0", "1"):
            raise UsageError(f"WGAN_FUSED is {fused!r}: must be auto, 0 or 1")
        impl = "torch" if fused == "0" else "cuda" if fused == "1" else "auto"
    if impl == "torch":
        return None
    if impl not in ("auto", "cuda"):
        raise ValueError(f"impl is {impl!r}: must be auto, torch or cuda")
    library = _LIBRARIES.get(tensor.device.type)
    if library is None and impl == "cuda":
        raise WganError(f"no kernel for tensors on {tensor.device}; the CUDA kernels: {kernels_state()}")
    if library is None and tensor.is_cuda and not _noticed:
        _noticed = True
        warnings.warn(f"plain torch ops instead of the CUDA kernels: {kernels_state()}", stacklevel=3)
    return library


def _check_not_negative(op: str, **numbers: Dial) -> None:
    for name, number in numbers.items():
        if not isinstance(number, Tensor) and (number is None or not number >= 0):  # not >=: NaN
            raise ValueError(f"{op}: {name} must be a number >= 0, got {number}")


def _number_or_tensor(setting: Dial) -> tuple[float, Tensor | None]:
    return (0.0, setting) if isinstance(setting, Tensor) else (setting, None)
