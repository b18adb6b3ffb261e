"""How a search copy is best called on this device: measured once for long work, never guessed twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robust_eval.models.acceleration import timing
from robust_eval.models.acceleration.attack_model import AttackCopy

# A CPU's caches should hold the activations of a slice: 2**17 input values are 167 MNIST or 42 CIFAR
# images, where small-cnn and ResNet-18 run 1.3 times as fast as on 500 (measured).
_VALUES = 2**17
_SMALLEST = 16
# Steps around an image in SPSA's usual settings: code compiled for measuring then serves the attack too.
_SAMPLES = 256
# Compiled code must win clearly; a tie goes to the plain network.
_WORTH = 1.05


@dataclass(frozen=True)
class Tuning:
    """Images in a call of the network, and whether it is compiled, without and with gradients."""

    rows: int | None = None
    """None: any number."""
    gradient_rows: int | None = None
    compiled: bool = False
    gradient_compiled: bool = False
    near_rows: int | None = None
    """Small steps in a compiled call around an image; None: they are asked like any other images."""


def default_tuning(device: torch.device, pixels: int) -> Tuning:
    """For work too short to measure anything; ``pixels``: values of an image (C H W)."""
    if device.type != "cpu":
        return Tuning()
    rows = max(_SMALLEST, _VALUES // max(pixels, 1))
    return Tuning(rows, rows)


Build = Callable[[Tuning], AttackCopy]


def measure_tuning(
    build: Build,
    x_NCHW: Tensor,
    *,
    compile: bool,
    largest: tuple[int | None, int | None] = (None, None),
) -> Tuning:
    """The fastest way found for a network. ``build`` makes its search copy for a tuning.

    Tries half to four times the usual number of rows, then compiled code (where ``compile``) at the
    best of them. ``x_NCHW``: some images in [0, 1] on the device. ``largest``: the most images that will
    come at once, without and with gradients (None: any number); compiled for more, all would be padding.
    """
    rows, gradient_rows = (
        _best_rows(build, x_NCHW, gradient, largest[gradient]) for gradient in (False, True)
    )
    tuning = Tuning(rows, gradient_rows)
    if not compile:
        return tuning
    counts = rows or largest[0] or 256, gradient_rows or largest[1] or 256
    fixed = replace(tuning, rows=counts[0], gradient_rows=counts[1])
    plain, quick = build(tuning), build(replace(fixed, compiled=True, gradient_compiled=True))
    for gradient, count in zip((False, True), counts, strict=True):
        if _rate(quick, x_NCHW, count, gradient) > _WORTH * _rate(plain, x_NCHW, count, gradient):
            tuning = (
                replace(tuning, gradient_compiled=True, gradient_rows=count)
                if gradient
                else replace(tuning, compiled=True, rows=count)
            )
    return tuning


def measure_step_tuning(build: Build, x_NCHW: Tensor, *, compile: bool) -> Tuning:
    """The fastest way found for an attack that takes small steps around images, and no gradients.

    Code for the steps (:mod:`robust_eval.models.acceleration.activation_differences`) must be compiled to be quicker than asking
    for their images: eagerly, what it spares in the layers it spends between them.
    """
    rows = _best_rows(build, x_NCHW, False, None)
    tuning = Tuning(rows, rows)
    if not compile:
        return tuning
    count = rows or 256
    quick = replace(tuning, rows=count, compiled=True)
    asked = {way: _rate(build(way), x_NCHW, count, False) for way in (tuning, quick)}
    best = quick if asked[quick] > _WORTH * asked[tuning] else tuning
    near = replace(best, near_rows=steps_per_call(count))
    return near if _near_rate(build(near), x_NCHW) > _WORTH * asked[best] else best


def steps_per_call(rows: int) -> int:
    """Steps in a call where ``rows`` images go well: a power of two, as numbers of samples are."""
    return 1 << round(math.log2(rows))


def _best_rows(build: Build, x_NCHW: Tensor, gradient: bool, largest: int | None) -> int | None:
    usually = default_tuning(x_NCHW.device, x_NCHW.shape[1:].numel()).rows
    choices = [max(_SMALLEST, usually * f // 2) for f in (1, 2, 4, 8)] if usually else [64, 256, 1024, None]
    rates = {
        rows: _rate(build(Tuning(rows, rows)), x_NCHW, rows, gradient) for rows in _within(choices, largest)
    }
    return max(rates, key=lambda rows: rates[rows])


def _within(choices: Sequence[int | None], largest: int | None) -> list[int | None]:
    """The choices, none of them above what will come at once."""
    if largest is None:
        return list(choices)
    return list(dict.fromkeys(min(rows or largest, largest) for rows in choices))


def _rate(search: AttackCopy, x_NCHW: Tensor, rows: int | None, gradient: bool) -> float:
    """Images per second, with or without gradients; 0 where it fails."""
    count = rows or 1024
    x = x_NCHW.repeat(-(-count // len(x_NCHW)), 1, 1, 1)[:count]

    def call() -> None:
        if gradient:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(search(leaf).sum(), leaf)
        else:
            search(x)

    return _per_second(call, count, x.device)


def _near_rate(search: AttackCopy, x_NCHW: Tensor) -> float:
    """Steps per second; 0 where it fails, or where there is no code for steps."""
    if search.step_evaluator is None:
        return 0.0
    images = x_NCHW[: max(1, search.step_evaluator.rows // _SAMPLES)]
    around = min(search.step_evaluator.rows, _SAMPLES)
    steps = torch.full((len(images), around, *x_NCHW.shape[1:]), 1e-3, device=x_NCHW.device)
    return _per_second(lambda: search.logits_at_steps(images, steps), len(images) * around, x_NCHW.device)


def _per_second(call: Callable[[], object], count: int, device: torch.device) -> float:
    """``count`` over the seconds of the fastest call; 0 where it fails."""
    try:
        return count / timing.fastest_call(call, device)
    except RuntimeError:
        # A model without gradients, or one that the compiler cannot take.
        return 0.0


def flops(model: nn.Module, x_NCHW: Tensor) -> int:
    """Floating-point operations of one image's forward pass: two for each product of its layers.

    Convolutions and linear layers alone. (Torch's own counter takes seconds to load.)
    """
    counted = 0

    def count(layer: nn.Module, _inputs: object, out: Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        # Each output is a sum over one filter's weights.
        counted += 2 * out.numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            model(x_NCHW[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return counted


def compiled_sizes(rows: int | None, compiled: bool) -> Sequence[int]:
    """The batch sizes to compile for: full slices, and a small one for what is left of a cascade."""
    if not compiled or rows is None:
        return ()
    return tuple(sorted({max(1, rows // 4), rows}))
