"""Build the attack copy: folded BatchNorm, optional bfloat16, compilation, and batch splitting.

Verdicts are computed with the original model. Acceleration can therefore weaken an attack, but it cannot
make a robust example count as broken.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from robust_eval.core.types import BFLOAT16, FLOAT32, PRECISIONS
from robust_eval.models.acceleration import activation_differences
from robust_eval.models.acceleration.attack_model import AttackCopy
from robust_eval.models.acceleration.batchnorm_folding import fold_batchnorm
from robust_eval.models.acceleration.bfloat16 import describe, to_bfloat16
from robust_eval.models.acceleration.compilation import compile_network
from robust_eval.models.acceleration.deep_copy import copy_model
from robust_eval.models.acceleration.engine import Engine
from robust_eval.models.acceleration.small_steps import StepEvaluator
from robust_eval.models.acceleration.tuning import Tuning, compiled_sizes, default_tuning
from robust_eval.models.isolation import writes_into_input


def make_attack_copy(
    model: nn.Module,
    *,
    batch: int | None = None,
    sample: Tensor | None = None,
    precision: str = FLOAT32,
    tuning: Tuning | None = None,
) -> AttackCopy:
    """The attack copy of ``model``: a deep copy in eval mode, channels-last, without parameter gradients.

    ``model`` maps ``x_NCHW`` in [0, 1] to ``logits_NK`` and is not modified. ``batch``: the largest number
    of images per call. ``sample``: a few images on the device of the model; only with them BatchNorm is
    folded and bfloat16 is possible, both checked on these images. ``tuning``: how the copy is called; by
    default :func:`default_tuning` for the size of the sample.
    """
    parts = prepare_network(model, sample=sample, precision=precision)
    return attack_copy_of(parts, batch=batch, sample=sample, tuning=tuning)


def prepare_network(
    model: nn.Module, *, sample: Tensor | None, precision: str
) -> tuple[nn.Module, tuple[str, ...]]:
    """(network, notes): the copied and converted network, for :func:`attack_copy_of`."""
    network, notes = copy_model(model).eval(), []
    for parameter in network.parameters():
        # TorchScript modules have no requires_grad_, and their copies have parameters that are no leaves.
        parameter.detach_()
    if sample is not None:
        network, note = fold_batchnorm(network, sample)
        notes += [note] if note else []
        if precision == BFLOAT16:
            network = to_bfloat16(network, sample)
            notes.append(describe(network))
    return network.to(memory_format=torch.channels_last), tuple(notes)


def attack_copy_of(
    parts: tuple[nn.Module, tuple[str, ...]],
    *,
    batch: int | None = None,
    sample: Tensor | None = None,
    tuning: Tuning | None = None,
) -> AttackCopy:
    """The attack copy for the result of :func:`prepare_network`; arguments as in :func:`make_attack_copy`."""
    network, notes = parts
    if tuning is None:
        tuning = Tuning() if sample is None else default_tuning(sample.device, sample.shape[1:].numel())

    writes = sample is not None and writes_into_input(network, sample)
    if writes:
        # Compiled code does not run in a mode that records writes.
        tuning = replace(tuning, compiled=False, gradient_compiled=False)

    def engine(rows: int | None, compiled: bool) -> Engine:
        call = compile_network(network) if compiled else network
        return Engine(call, rows, tuple(compiled_sizes(rows, compiled)))

    step_evaluator = None
    if tuning.near_rows and sample is not None:
        steps, note = activation_differences.step_network(network, sample)
        notes = (*notes, note)
        step_evaluator = (
            StepEvaluator(compile_network(steps), tuning.near_rows) if steps is not None else None
        )
    return AttackCopy(
        network,
        batch,
        forward=engine(tuning.rows, tuning.compiled),
        gradient=engine(tuning.gradient_rows, tuning.gradient_compiled),
        step_evaluator=step_evaluator,
        notes=notes,
        writes=writes,
    )


__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "PRECISIONS",
    "AttackCopy",
    "attack_copy_of",
    "make_attack_copy",
    "prepare_network",
]
