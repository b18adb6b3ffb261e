"""Global states of torch, numpy and Python: set to known values for an evaluation, and restored after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_eval.core.devices import float32_precision, full_precision, set_float32_precision


@contextmanager
def standard_state() -> Iterator[None]:
    """Compute in a known state, whatever the caller's is; usable as a decorator.

    Inside: no autocast, gradients enabled, no inference mode, float32 and the CPU as defaults, full float32
    precision (:func:`robust_eval.core.devices.full_precision`), no deterministic mode, no hooks on all
    modules. On leaving, all of this and the generators of torch, numpy and Python are as before.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(np.errstate(all="warn"))
        for read, write in _STATES:
            stack.callback(write, read())
        for hooks in _hooks():
            hooks.clear()
        torch.set_default_dtype(torch.float32)
        # torch.get_default_device of torch 2.6 ignores a block, and fails after set_default_device(None).
        if torch.empty(0).device != _CPU:
            # Not entered otherwise: it slows every call of torch.
            stack.enter_context(_CPU)
        _set_deterministic(False, False)
        torch.backends.cudnn.benchmark = False
        full_precision()
        yield


def _defaults() -> tuple[Any, ...]:
    return (
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


def _set_defaults(values: tuple[Any, ...]) -> None:
    dtype, deterministic, warn_only, benchmark = values
    torch.set_default_dtype(dtype)
    _set_deterministic(deterministic, warn_only)
    torch.backends.cudnn.benchmark = benchmark


def _set_deterministic(mode: bool, warn_only: bool) -> None:
    # The call imports the compiler of torch, which takes seconds.
    if mode != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)


def _generators() -> tuple[Tensor, list[Tensor], Any, Any]:
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), gpus, np.random.get_state(), random.getstate()


def _set_generators(states: tuple[Tensor, list[Tensor], Any, Any]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
    np.random.set_state(states[2])
    random.setstate(states[3])


def _hooks() -> list[dict[int, Any]]:
    """The hooks that torch calls for every module; it has no public function that lists them."""
    kinds = ("forward_pre", "forward", "backward_pre", "backward")
    return [getattr(torch.nn.modules.module, f"_global_{kind}_hooks", {}) for kind in kinds]


def _set_hooks(values: list[dict[int, Any]]) -> None:
    for hooks, before in zip(_hooks(), values, strict=True):
        hooks.clear()
        hooks.update(before)


_CPU = torch.device("cpu")
_STATES: tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...] = (
    (_defaults, _set_defaults),
    (float32_precision, set_float32_precision),
    (_generators, _set_generators),
    (lambda: [dict(hooks) for hooks in _hooks()], _set_hooks),
)
"""(read, write) of each state that is restored."""
