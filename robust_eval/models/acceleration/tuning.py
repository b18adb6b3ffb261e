"""Choose batch sizes and compilation of the attack copy by timing (only for long runs)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robust_eval.models.acceleration import timing
from robust_eval.models.acceleration.attack_model import AttackCopy

# On a CPU the activations of a slice should fit into the caches: 2**17 input values are 167 MNIST or 42
# CIFAR images, where small-cnn and ResNet-18 run 1.3 times as fast as on 500 (measured).
_SLICE_VALUES = 2**17
_MIN_ROWS = 16
# The default number of samples of SPSA: code compiled for the measurement is then used by the attack too.
_SAMPLES = 256
# Compiled code is chosen only if it is faster by this factor.
_MIN_SPEEDUP = 1.05


@dataclass(frozen=True)
class Tuning:
    """Images per call of the network and whether it is compiled, without and with gradients."""

    rows: int | None = None
    """None: unlimited."""
    gradient_rows: int | None = None
    compiled: bool = False
    gradient_compiled: bool = False
    near_rows: int | None = None
    """Small steps per call of a compiled step evaluator; None: steps are queried like other images."""


def default_tuning(device: torch.device, pixels: int) -> Tuning:
    """The tuning of runs that are too short for measuring; ``pixels``: values of an image (C H W)."""
    if device.type != "cpu":
        return Tuning()
    rows = max(_MIN_ROWS, _SLICE_VALUES // max(pixels, 1))
    return Tuning(rows, rows)


Build = Callable[[Tuning], AttackCopy]


def measure_tuning(
    build: Build,
    x_NCHW: Tensor,
    *,
    compile: bool,
    largest: tuple[int | None, int | None] = (None, None),
) -> Tuning:
    """Measure the fastest tuning of a network.

    ``build`` creates the attack copy for a tuning. Half to four times the default number of rows are tried,
    then compiled code (if ``compile``) with the best of them. ``x_NCHW``: images in [0, 1] on the device.
    ``largest``: the largest number of images that attacks pass per call, without and with gradients (None:
    unlimited); code compiled for more images would always be padded.
    """
    rows, gradient_rows = (
        _best_rows(build, x_NCHW, gradient, largest[gradient]) for gradient in (False, True)
    )
    tuning = Tuning(rows, gradient_rows)
    if not compile:
        return tuning
    counts = rows or largest[0] or 256, gradient_rows or largest[1] or 256
    fixed = replace(tuning, rows=counts[0], gradient_rows=counts[1])
    plain = build(tuning)
    compiled = build(replace(fixed, compiled=True, gradient_compiled=True))
    for gradient, count in zip((False, True), counts, strict=True):
        if _rate(compiled, x_NCHW, count, gradient) > _MIN_SPEEDUP * _rate(plain, x_NCHW, count, gradient):
            tuning = (
                replace(tuning, gradient_compiled=True, gradient_rows=count)
                if gradient
                else replace(tuning, compiled=True, rows=count)
            )
    return tuning


def measure_step_tuning(build: Build, x_NCHW: Tensor, *, compile: bool) -> Tuning:
    """Measure the fastest tuning for attacks that query small steps around images, without gradients.

    A step network (``activation_differences.py``) is only faster if it is compiled: run eagerly, it loses
    between the layers what it saves in them.
    """
    rows = _best_rows(build, x_NCHW, False, None)
    tuning = Tuning(rows, rows)
    if not compile:
        return tuning
    count = rows or 256
    compiled = replace(tuning, rows=count, compiled=True)
    rates = {option: _rate(build(option), x_NCHW, count, False) for option in (tuning, compiled)}
    best = compiled if rates[compiled] > _MIN_SPEEDUP * rates[tuning] else tuning
    with_steps = replace(best, near_rows=steps_per_call(count))
    faster = _step_rate(build(with_steps), x_NCHW) > _MIN_SPEEDUP * rates[best]
    return with_steps if faster else best


def steps_per_call(rows: int) -> int:
    """Steps per call for a network that is fastest on ``rows`` images: the nearest power of two."""
    return 1 << round(math.log2(rows))


def _best_rows(build: Build, x_NCHW: Tensor, gradient: bool, largest: int | None) -> int | None:
    default = default_tuning(x_NCHW.device, x_NCHW.shape[1:].numel()).rows
    choices = [max(_MIN_ROWS, default * f // 2) for f in (1, 2, 4, 8)] if default else [64, 256, 1024, None]
    rates = {
        rows: _rate(build(Tuning(rows, rows)), x_NCHW, rows, gradient) for rows in _within(choices, largest)
    }
    return max(rates, key=lambda rows: rates[rows])


def _within(choices: Sequence[int | None], largest: int | None) -> list[int | None]:
    """The choices, limited to ``largest``."""
    if largest is None:
        return list(choices)
    return list(dict.fromkeys(min(rows or largest, largest) for rows in choices))


def _rate(attack_copy: AttackCopy, x_NCHW: Tensor, rows: int | None, gradient: bool) -> float:
    """Images per second, with or without gradients; 0 if the call fails."""
    count = rows or 1024
    x = x_NCHW.repeat(-(-count // len(x_NCHW)), 1, 1, 1)[:count]

    def call() -> None:
        if gradient:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(attack_copy(leaf).sum(), leaf)
        else:
            attack_copy(x)

    return _per_second(call, count, x.device)


def _step_rate(attack_copy: AttackCopy, x_NCHW: Tensor) -> float:
    """Steps per second; 0 if the call fails or there is no step evaluator."""
    if attack_copy.step_evaluator is None:
        return 0.0
    images = x_NCHW[: max(1, attack_copy.step_evaluator.rows // _SAMPLES)]
    count = min(attack_copy.step_evaluator.rows, _SAMPLES)
    steps = torch.full((len(images), count, *x_NCHW.shape[1:]), 1e-3, device=x_NCHW.device)
    return _per_second(lambda: attack_copy.logits_at_steps(images, steps), len(images) * count, x_NCHW.device)


def _per_second(call: Callable[[], object], count: int, device: torch.device) -> float:
    """``count`` divided by the duration of the fastest call; 0 if the call fails."""
    try:
        return count / timing.fastest_call(call, device)
    except RuntimeError:
        # The model has no gradients, or the compiler fails.
        return 0.0


def flops(model: nn.Module, x_NCHW: Tensor) -> int:
    """Floating-point operations of the forward pass of one image: two per multiplication.

    Only convolutions and linear layers are counted. (The counter of torch takes seconds to import.)
    """
    total = 0

    def count(layer: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        # Each output is a sum over the weights of one filter.
        total += 2 * out.numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            model(x_NCHW[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return total


def compiled_sizes(rows: int | None, compiled: bool) -> Sequence[int]:
    """The batch sizes to compile for: full slices, and a quarter for the few survivors late in a cascade."""
    if not compiled or rows is None:
        return ()
    return tuple(sorted({max(1, rows // 4), rows}))
