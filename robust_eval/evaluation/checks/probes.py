"""Probes: cheap checks of a model that show whether attacks on it can be trusted.

Each probe gives a figure; thresholds are in :mod:`robust_eval.results.flags`. Differences between
logits are in units of the logits' standard deviation over the probed images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robust_eval.core.devices import full_precision
from robust_eval.core.errors import UserError
from robust_eval.core.logits import largest_difference, logit_std, margin
from robust_eval.evaluation.checks import side_effects
from robust_eval.evaluation.job import Job
from robust_eval.models import out_of_memory
from robust_eval.models.isolation import Isolated
from robust_eval.results.flags.figures import COARSE, FINE, NoiseResponse, Probe

PROBED = 32
"""Images that are probed."""
_DRAWS = 5
_FEW = 16
"""Images that are evaluated one by one, and under noise."""
_STEP = 1 / 255
_OFF_GRID = 4 / 255


def probe(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, *, seed: int = 0, size: float = _OFF_GRID) -> Probe:
    """Probe a model in eval mode, [0, 1] pixels to logits, on a few images.

    ``size``: of the perturbations under which it must not remember an image, in pixels.
    """
    effects = side_effects.measure(model, x_NCHW, size=size, seed=seed)
    model = Isolated(model)
    training = sum(module.training for module in model.modules())
    with torch.no_grad():
        with _Watch() as watch:
            logits = model(x_NCHW)
        finite = logits.isfinite().all(1)
        scale = logit_std(logits)
        repeat = max(largest_difference(model(x_NCHW), logits) for _ in range(2)) / scale
        single = torch.cat([model(image[None]) for image in x_NCHW[:_FEW]])
        batch = largest_difference(single, logits[:_FEW]) / scale
        moved = _off_grid(x_NCHW, seed)
        fine, coarse = (_response(model, moved[:_FEW], size, seed, scale) for size in (FINE, COARSE))
    classes = logits.argmax(1)
    return Probe(
        n=len(x_NCHW),
        nonfinite=float((~finite).float().mean()),
        training_modules=training,
        probabilities=_probabilities(logits),
        one_class=bool((classes == classes[0]).all()) and len(set(y_N.tolist())) >= 3,
        optimises=watch.seen,
        repeat=repeat,
        batch=batch,
        fine=fine,
        coarse=coarse,
        effects=effects,
        **_gradient_figures(model, x_NCHW, moved, y_N, scale),
    )


class _Watch(TorchFunctionMode):
    """Detects calls of autograd while the context is active."""

    seen = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.seen |= func in (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
        return func(*args, **(kwargs or {}))


def _probabilities(logits: Tensor) -> bool:
    totals = logits.double().sum(1)
    return bool((logits >= 0).all() and (totals - totals.mean()).abs().max() < 1e-4 * totals.mean().abs())


def _off_grid(x: Tensor, seed: int) -> Tensor:
    """Images moved off the 8-bit grid, on which rounding inside a model has no effect."""
    generator = torch.Generator().manual_seed(seed)
    noise = 2 * torch.rand(x.shape, generator=generator).to(x) - 1
    return (x + _OFF_GRID * noise).clamp(COARSE, 1 - COARSE)


def _response(model: nn.Module, x: Tensor, size: float, seed: int, scale: float) -> NoiseResponse:
    generator = torch.Generator().manual_seed(seed)
    logits = model(x)
    change = second_difference = 0.0
    for _ in range(_DRAWS):
        noise = size * (torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1)
        up, down = model(x + noise), model(x - noise)
        change = max(change, largest_difference(up, logits), largest_difference(down, logits))
        second_difference = max(second_difference, largest_difference(up + down, 2 * logits))
    return NoiseResponse(change / scale, second_difference / scale)


def _gradient_figures(model: nn.Module, x: Tensor, moved: Tensor, y: Tensor, scale: float) -> dict[str, Any]:
    """Gradient figures at the images and near them, where a model may behave differently."""
    at_images, nearby = _gradients(model, x, y), _gradients(model, moved, y)
    if at_images is None or nearby is None:
        zeros = dict.fromkeys(("weak_margin", "gradient_repeat", "gradient_sign_errors"), 0.0)
        return {"no_gradient": True, "zero_ce": 1.0, "zero_margin": 1.0, **zeros}
    again = _gradients(model, x, y)
    assert again is not None
    ce, margin_grad = at_images
    useful = ~_zero(margin_grad)
    return {
        "no_gradient": False,
        "zero_ce": max(_fraction(_zero(ce)), _fraction(_zero(nearby[0]))),
        "zero_margin": max(_fraction(_zero(margin_grad)), _fraction(_zero(nearby[1]))),
        "weak_margin": _fraction(useful & (margin_grad.abs().flatten(1).sum(1) < 1e-3 * scale)),
        "gradient_repeat": _relative(again[1][useful], margin_grad[useful]),
        "gradient_sign_errors": _gradient_sign_errors(model, x[useful], y[useful], margin_grad[useful]),
    }


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Gradients of cross-entropy and margin, each shaped like x; None if the outputs carry no gradient."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        if not logits.requires_grad:
            return None
        ce = torch.autograd.grad(
            F.cross_entropy(logits, y, reduction="sum"), x, retain_graph=True, allow_unused=True
        )
        margin_grad = torch.autograd.grad(margin(logits, y).sum(), x, allow_unused=True)
    return None if ce[0] is None or margin_grad[0] is None else (ce[0], margin_grad[0])


def _zero(gradient: Tensor) -> Tensor:
    """(N,) bool: the gradient gives no direction for a signed step; some devices flush denormals to zero."""
    largest = gradient.flatten(1).abs().amax(1)
    return (largest < torch.finfo(torch.float32).tiny) | ~largest.isfinite()


def _relative(again: Tensor, margin_grad: Tensor) -> float:
    if not len(margin_grad):
        return 0.0
    size = margin_grad.flatten(1).abs().amax(1)
    return float(((again - margin_grad).flatten(1).abs().amax(1) / size).max())


@torch.no_grad()
def _gradient_sign_errors(model: nn.Module, x: Tensor, y: Tensor, margin_grad: Tensor) -> float:
    if not len(x):
        return 0.0
    stepped = (x - _STEP * margin_grad.sign()).clamp(0, 1)
    return _fraction(margin(model(stepped), y) >= margin(model(x), y))


def _fraction(yes: Tensor) -> float:
    return float(yes.float().mean())


def probe_job(job: Job) -> Probe:
    """Probe the first PROBED images of a job, fewer if memory is short.

    Raises:
        UserError: if the model fails on a single image.
    """
    full_precision()
    pixels = job.x_NCHW[0].numel()
    size = job.request.threat.radius / (1 if job.request.threat.norm == "Linf" else pixels**0.5)
    count = min(PROBED, len(job.x_NCHW))
    while True:
        try:
            return probe(job.model.eval(), job.x_NCHW[:count], job.y_N[:count], size=size)
        except Exception as error:
            if count == 1 or not out_of_memory.is_out_of_memory(error):
                shape = tuple(job.x_NCHW[:count].shape)
                raise UserError(
                    f"The model fails on a batch of shape {shape}: {type(error).__name__}: {error}."
                ) from error
        count //= 2
        out_of_memory.release_cache()
