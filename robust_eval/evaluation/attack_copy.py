"""How a run calls its search copy: decided from the planned work, measured where that is long, kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core.devices import device_name
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.core.request import Request
from robust_eval.core.types import BFLOAT16, FLOAT32
from robust_eval.models.acceleration import (
    bfloat16,
    compilation,
    frozen_copy,
    tuning,
)
from robust_eval.models.acceleration.tuning import Tuning

TUNING_FILE = "tuning.json"
SAMPLE = 8
"""Images on which a changed network is compared with the original."""

# Planned operations from which measuring and compiling (up to a minute or two) are repaid: some minutes
# of work at what small convolutional networks reach, 0.1 TFLOP/s on two CPU cores, 10 TFLOP/s on a GPU.
LONG = {"cpu": 3e13, "cuda": 3e15}


Log = Callable[[str], None]
"""Hears a line for whoever waits."""


def no_log(_text: str) -> None:
    """For calls from code."""


@dataclass(frozen=True)
class AttackCopyConfig:
    """Per precision, how the copy is called; ``notes`` say what was decided and why, a line each."""

    tunings: dict[str, Tuning] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def resolve_precision(asked: str, device: torch.device) -> tuple[str, str]:
    """(precision, note) for ``--precision float32 | bfloat16 | auto`` on a device."""
    if asked not in (FLOAT32, BFLOAT16, "auto"):
        raise UserError(f"Unknown precision '{asked}'. Use float32, bfloat16 or auto.")
    if asked != "auto":
        return asked, ""
    problem = bfloat16.unsupported_reason(device)
    return (FLOAT32, f"float32: {problem}") if problem else (BFLOAT16, "")


def check_precision(
    asked: str, precision: str, note: str, model: nn.Module, x_NCHW: Tensor
) -> tuple[str, str]:
    """What :func:`resolve_precision` said, on the model itself: ``auto`` is float32 for one without bfloat16.

    Raises :class:`UserError` for such a model where bfloat16 was asked for.
    """
    if precision != BFLOAT16:
        return precision, note
    try:
        bfloat16.to_bfloat16(model.eval(), x_NCHW[:SAMPLE])
    except bfloat16.BFloat16Error as error:
        if asked != "auto":
            raise
        return FLOAT32, f"float32: the model does not run in bfloat16 ({error.problem})"
    return precision, note


def choose(
    request: Request,
    model: nn.Module,
    x_NCHW: Tensor,
    asked: compilation.Mode,
    folder: Path | None,
    tell: Log = no_log,
) -> AttackCopyConfig:
    """How to search for this request on the images' device; the same folder always gives the same answer.

    ``tell`` hears a line before anything is measured, which may take a minute or two.
    """
    device = x_NCHW.device
    problem = compilation.unavailable_reason(device)
    long = planned_flops(request, model, x_NCHW) >= LONG.get(device.type, LONG["cuda"])
    precisions = sorted(
        {attacks.precision(a, request.precision) for column in request.suite.columns for a in column.attacks}
    )
    if asked == "on":
        rows = tuning.default_tuning(device, x_NCHW.shape[1:].numel()).rows or 256
        ways = {name: _compiled(request, name, rows) for name in precisions}
        return AttackCopyConfig(ways, ("compiled",))
    if not long:
        return AttackCopyConfig({}, ())
    allowed = asked == "auto" and not problem
    notes = (f"not compiled: {problem}",) if asked == "auto" and problem else ()
    kept = {name: _kept_as(request, name) for name in precisions}
    known = _stored(folder, device)
    missing = {name: label for name, label in kept.items() if label not in known}
    if missing:
        tell("Measuring how the attacks best call this model: up to a minute or two, once for a run.")
        for name, label in missing.items():
            known[label] = _measured(request, model, x_NCHW, name, compile=allowed)
        if folder is not None:
            tunings = {label: asdict(way) for label, way in known.items()}
            table = {"device": device_name(device), "tunings": tunings}
            write_text(folder / TUNING_FILE, json.dumps(table, indent=1) + "\n")
    found = {name: known[label] for name, label in kept.items()}
    return AttackCopyConfig(found, (*notes, *(f"{name}: {_words(way)}" for name, way in found.items())))


def planned_flops(request: Request, model: nn.Module, x_NCHW: Tensor) -> float:
    """Operations of all attacks if nothing breaks early; a backward pass counts as a forward one.

    Parameters get no gradients, so that a backward pass repeats the forward's convolutions once.
    """
    per_image = sum(
        cost.forwards + cost.backwards
        for column in request.suite.columns
        for cost in (attacks.cost(attack, request.checkpoint.classes) for attack in column.attacks)
    )
    return float(tuning.flops(model, x_NCHW)) * per_image * request.data.n


def largest_calls(request: Request, precision: str) -> tuple[int | None, int]:
    """(without, with gradients): images that an attack hands over at once. SPSA cuts its queries itself."""
    unit = min(request.batch_size, request.data.n)
    queries = any(
        attack.family == "spsa" and attacks.precision(attack, request.precision) == precision
        for column in request.suite.columns
        for attack in column.attacks
    )
    return None if queries else unit, unit


def by_steps(request: Request, precision: str) -> bool:
    """Whether a copy serves attacks that need float32 alone, in a run that asks for bfloat16.

    Their small steps may then be taken as changes (:mod:`robust_eval.models.acceleration.activation_differences`).
    """
    return precision == FLOAT32 and request.precision == BFLOAT16


def _kept_as(request: Request, precision: str) -> str:
    """A name for the folder: the same run may be continued in another precision."""
    return f"{precision} in a {request.precision} run" if by_steps(request, precision) else precision


def _compiled(request: Request, precision: str, rows: int) -> Tuning:
    """Compiled for so many images a call, or for as many as come at once."""
    free, with_gradients = largest_calls(request, precision)
    near = tuning.steps_per_call(rows) if by_steps(request, precision) else None
    return Tuning(min(rows, free or rows), min(rows, with_gradients), True, True, near)


def _measured(request: Request, model: nn.Module, x_NCHW: Tensor, precision: str, *, compile: bool) -> Tuning:
    parts = frozen_copy.prepare_network(model, sample=x_NCHW[:SAMPLE], precision=precision)

    def build(way: Tuning) -> frozen_copy.AttackCopy:
        return frozen_copy.attack_copy_of(parts, sample=x_NCHW[:SAMPLE], tuning=way)

    if by_steps(request, precision):
        return tuning.measure_step_tuning(build, x_NCHW[:128], compile=compile)
    largest = largest_calls(request, precision)
    return tuning.measure_tuning(build, x_NCHW[:128], compile=compile, largest=largest)


def _stored(folder: Path | None, device: torch.device) -> dict[str, Tuning]:
    """What an earlier command measured in this folder on the same kind of device."""
    if folder is None:
        return {}
    try:
        kept = json.loads((folder / TUNING_FILE).read_text(encoding="utf-8"))
        if kept["device"] != device_name(device):
            return {}
        return {name: Tuning(**table) for name, table in kept["tunings"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _words(way: Tuning) -> str:
    def one(rows: int | None, quick: bool) -> str:
        return f"{rows or 'all'} images a call{', compiled' if quick else ''}"

    gradients = f"with gradients {one(way.gradient_rows, way.gradient_compiled)}"
    steps = f"small steps {way.near_rows} a call, compiled"
    return f"{one(way.rows, way.compiled)}; {steps if way.near_rows else gradients}"
