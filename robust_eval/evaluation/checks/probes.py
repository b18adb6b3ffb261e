"""Probes: cheap checks of a model that show whether attacks on it can be trusted.

Each probe gives a figure; thresholds are in :mod:`robust_eval.results.flags`. Differences between
logits are in units of the logits' standard deviation over the probed images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robust_eval.core.devices import full_precision
from robust_eval.core.errors import UserError
from robust_eval.core.float_images import Images
from robust_eval.core.logits import largest_difference, logit_std
from robust_eval.core.threat import ThreatModel
from robust_eval.evaluation.checks import (
    batch_probe,
    decoy_outputs,
    finite_differences,
    gradient_probe,
    side_effects,
)
from robust_eval.evaluation.checks.attack_points import Model
from robust_eval.evaluation.job import Job
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration.tuning import flops
from robust_eval.models.isolation import Isolated
from robust_eval.results.flags.figures import COARSE, FINE, NoiseResponse, Probe

PROBED = 32
"""Images that are probed."""
_DRAWS = 5
_FEW = 16
"""Images that are evaluated one by one, and under noise."""
_OFF_GRID = 4 / 255
_QUICK_OPERATIONS = 2e10
"""Of a forward pass of the largest batch: a second on one core."""


_ENGINE = "_engine_run_backward"
"""What torch.autograd.grad and backward call, which torch.func and Tensor.backward call in turn."""

_USUAL = ThreatModel("Linf", Fraction(8, 255))


@dataclass(frozen=True)
class Conditions:
    """What a run does with the model, as far as the probes repeat it."""

    threat: ThreatModel = _USUAL
    pool_NCHW: Tensor | None = None
    """Images that fill up batches; the probed ones come first. None: the probed ones."""
    batch_sizes: tuple[int, ...] = ()
    """Sizes of batches, that of units first; none: the number of probed images."""
    labels: frozenset[int] = frozenset()
    """Of all evaluated images; none: those of the probed images."""
    quick: bool = False
    """Fewer directions and steps, for a first look at a model."""


def probe(
    model: nn.Module, x_NCHW: Tensor, y_N: Tensor, conditions: Conditions = Conditions(), *, seed: int = 0
) -> Probe:
    """Probe a model in eval mode, [0, 1] pixels to logits, on a few images."""
    pool = x_NCHW if conditions.pool_NCHW is None else conditions.pool_NCHW
    batch_sizes = list(conditions.batch_sizes) or [len(x_NCHW)]
    effects = side_effects.measure(model, x_NCHW, conditions.threat, rows=batch_sizes[0], seed=seed)
    ask = Isolated(model)
    training = sum(module.training for module in model.modules())
    with torch.no_grad():
        with _Watch() as watch:
            logits = ask(x_NCHW)
        finite = logits.isfinite().all(1)
        scale = logit_std(logits)
        repeat = max(largest_difference(ask(x_NCHW), logits) for _ in range(2)) / scale
        single = torch.cat([ask(image[None]) for image in x_NCHW[:_FEW]])
        batch, batch_size = batch_probe.largest_batch_difference(ask, single, pool, batch_sizes)
        moved = _off_grid(x_NCHW, seed)
        fine, coarse = (_response(ask, moved[:_FEW], size, seed, scale) for size in (FINE, COARSE))
    classes = logits.argmax(1)
    return Probe(
        n=len(x_NCHW),
        nonfinite=float((~finite).float().mean()),
        training_modules=training,
        probabilities=_probabilities(logits),
        one_class=bool((classes == classes[0]).all()) and len(set(y_N.tolist())) >= 3,
        optimises=watch.seen,
        repeat=repeat,
        batch=batch / scale,
        batch_size=batch_size,
        output_type=str(logits.dtype).removeprefix("torch."),
        fine=fine,
        coarse=coarse,
        effects=effects,
        decoys=decoy_outputs.decoy_share(
            ask,
            x_NCHW,
            y_N,
            conditions.threat,
            conditions.labels or frozenset(y_N.tolist()),
            logits.shape[1],
        ),
        **gradient_probe.gradient_figures(ask, x_NCHW, moved, y_N, scale, conditions.threat.norm),
        cosine=finite_differences.gradient_cosines(
            ask, x_NCHW[:_FEW], y_N[:_FEW], conditions.threat, pool, batch_sizes[0], quick=conditions.quick
        ),
    )


class _Watch(TorchFunctionMode):
    """Detects calls of autograd while the context is active.

    A mode sees the calls of its own thread only, the engine's entry in :mod:`torch.autograd` those of all.
    """

    seen = False

    def __enter__(self) -> _Watch:
        self._engine = getattr(torch.autograd, _ENGINE, None)
        if self._engine is not None:
            setattr(torch.autograd, _ENGINE, self._run)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if self._engine is not None:
            setattr(torch.autograd, _ENGINE, self._engine)

    def _run(self, *arguments: Any, **keywords: Any) -> Any:
        self.seen = True
        assert self._engine is not None
        return self._engine(*arguments, **keywords)

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
    # Relative to the logits' differences: a large constant may have been added to all of them.
    return bool((logits >= 0).all() and (totals - totals.mean()).abs().max() < 1e-3 * logit_std(logits))


def _off_grid(x: Tensor, seed: int) -> Tensor:
    """Images moved off the 8-bit grid, on which rounding inside a model has no effect."""
    generator = torch.Generator().manual_seed(seed)
    noise = 2 * torch.rand(x.shape, generator=generator).to(x) - 1
    return (x + _OFF_GRID * noise).clamp(COARSE, 1 - COARSE)


def _response(model: Model, x: Tensor, size: float, seed: int, scale: float) -> NoiseResponse:
    generator = torch.Generator().manual_seed(seed)
    logits = model(x)
    change = second_difference = 0.0
    for _ in range(_DRAWS):
        noise = size * (torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1)
        up, down = model(x + noise), model(x - noise)
        change = max(change, largest_difference(up, logits), largest_difference(down, logits))
        second_difference = max(second_difference, largest_difference(up + down, 2 * logits))
    return NoiseResponse(change / scale, second_difference / scale)


def probe_job(job: Job, *, quick: bool = False) -> Probe:
    """Probe the first PROBED images of a job, fewer if memory is short, in batches of the job's sizes.

    ``quick``: on as many as the job holds, with fewer passes; if the network is large, only in batches of
    these images.

    Raises:
        UserError: if the model fails on a single image.
    """
    full_precision()
    count = min(PROBED, len(job.x_NCHW))
    while True:
        try:
            return _probe_images(job, count, quick)
        except Exception as error:
            if count == 1 or not out_of_memory.is_out_of_memory(error):
                shape = tuple(job.x_NCHW[:count].shape)
                raise UserError(
                    f"The model fails on a batch of shape {shape}: {type(error).__name__}: {error}."
                ) from error
        count //= 2
        out_of_memory.release_cache()


def _ends(x_NCHW: Images, rows: int) -> Tensor:
    """The first and the last images: batches of ``rows`` images are filled up with no others."""
    if len(x_NCHW) <= 2 * rows:
        rows = len(x_NCHW)
        return x_NCHW[:rows]
    ends = (x_NCHW[:rows], x_NCHW[len(x_NCHW) - rows :])
    return torch.cat(ends)


def _probe_images(job: Job, count: int, quick: bool) -> Probe:
    model, x = job.model.eval(), job.x_NCHW
    batch_sizes = batch_probe.sizes(job.request, x.device, x.shape[1:].numel())
    if quick and batch_sizes[0] * flops(model, x[:1]) > _QUICK_OPERATIONS:
        batch_sizes = [count]
    pool = _ends(x, max(count, *batch_sizes))
    conditions = Conditions(job.request.threat, pool, tuple(batch_sizes), frozenset(job.y_N.tolist()), quick)
    return probe(model, x[:count], job.y_N[:count], conditions)
