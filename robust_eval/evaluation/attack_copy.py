"""Decide how a run calls its attack copies: batch sizes and compilation, measured if the work is long."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from robust_eval import attacks
from robust_eval.core import strict_json
from robust_eval.core.devices import device_name
from robust_eval.core.errors import UserError
from robust_eval.core.float_images import Images
from robust_eval.core.request import Request
from robust_eval.core.types import BFLOAT16, FLOAT32
from robust_eval.evaluation.planning.settings import Settings
from robust_eval.models.acceleration import (
    bfloat16,
    compilation,
    frozen_copy,
    tuning,
)
from robust_eval.models.acceleration.tuning import Tuning

TUNING_FILE = "tuning.json"
"""File of a run folder with the measured tunings."""
SAMPLE = 8
"""Images on which a changed network is compared with the original."""

LONG = {"cpu": 3e13, "cuda": 3e15}
"""Planned operations above which tuning and compiling (up to two minutes) save time.

Some minutes of work at the rate of small convolutional networks: 0.1 TFLOP/s on two CPU cores, 10 TFLOP/s on
a GPU.
"""

Log = Callable[[str], None]
"""Receives one line of text for the user."""


def no_log(_text: str) -> None:
    """A log that discards everything."""


@dataclass(frozen=True)
class AttackCopyConfig:
    """How the attack copies are called."""

    tunings: dict[str, Tuning] = field(default_factory=dict)
    """By precision."""
    notes: tuple[str, ...] = ()
    """What was decided and why, one line each."""
    stored: str | None = None
    """Content of the run folder's TUNING_FILE, if anything was measured."""


def check_precision(settings: Settings, model: nn.Module, x_NCHW: Images) -> tuple[str, str]:
    """(precision, note) for this model: ``auto`` becomes float32 if the model does not run in bfloat16.

    Raises:
        UserError: if bfloat16 was required for such a model.
    """
    if settings.precision != BFLOAT16:
        return settings.precision, settings.precision_note
    try:
        bfloat16.to_bfloat16(model.eval(), x_NCHW[:SAMPLE])
    except bfloat16.BFloat16Error as error:
        if settings.precision_required:
            raise
        return FLOAT32, f"float32: the model does not run in bfloat16 ({error.problem})"
    return settings.precision, settings.precision_note


def choose_config(
    request: Request,
    model: nn.Module,
    x_NCHW: Images,
    mode: compilation.Mode,
    stored: str | None = None,
    log: Log = no_log,
) -> AttackCopyConfig:
    """How to call the attack copies for this request on the images' device; measured if the work is long.

    ``stored``: an earlier :attr:`AttackCopyConfig.stored`, whose tunings are used again, because another
    tuning could change single verdicts by rounding. ``log`` receives a line before anything is measured.
    """
    device = x_NCHW.device
    problem = compilation.unavailable_reason(device)
    long = planned_flops(request, model, x_NCHW) >= LONG.get(device.type, LONG["cuda"])
    precisions = sorted(
        {attacks.precision(a, request.precision) for column in request.suite.columns for a in column.attacks}
    )
    if mode == "on":
        rows = tuning.default_tuning(device, x_NCHW.shape[1:].numel()).rows or 256
        tunings = {name: _compiled(request, name, rows) for name in precisions}
        return AttackCopyConfig(tunings, ("compiled",), stored)
    if not long:
        return AttackCopyConfig(stored=stored)
    may_compile = mode == "auto" and not problem
    notes = (f"not compiled: {problem}",) if mode == "auto" and problem else ()
    labels = {name: _stored_label(request, name) for name in precisions}
    known = _read(stored, device)
    missing = {name: label for name, label in labels.items() if label not in known}
    if missing:
        log("Measuring how to call this model fastest: up to two minutes, once per run.")
        for name, label in missing.items():
            known[label] = _measured(request, model, x_NCHW, name, compile=may_compile)
        tunings_by_label = {label: asdict(found) for label, found in known.items()}
        stored = json.dumps({"device": device_name(device), "tunings": tunings_by_label}, indent=1) + "\n"
    found = {name: known[label] for name, label in labels.items()}
    words = (f"{name}: {_description(one)}" for name, one in found.items())
    return AttackCopyConfig(found, (*notes, *words), stored)


def planned_flops(request: Request, model: nn.Module, x_NCHW: Images) -> float:
    """Operations of all attacks if nothing breaks early; a backward pass counts as a forward one.

    Parameters get no gradients, so that a backward pass repeats the forward's convolutions once.
    """
    per_image = sum(
        cost.forwards + cost.backwards
        for column in request.suite.columns
        for cost in (attacks.cost(attack, request.checkpoint.classes) for attack in column.attacks)
    )
    return float(tuning.flops(model, x_NCHW[:1])) * per_image * request.data.n


def largest_calls(request: Request, precision: str) -> tuple[int | None, int]:
    """(without, with gradients): images that an attack passes in one call.

    None: unlimited, because SPSA splits its queries itself.
    """
    unit = min(request.batch_size, request.data.n)
    queries = any(
        attack.family == "spsa" and attacks.precision(attack, request.precision) == precision
        for column in request.suite.columns
        for attack in column.attacks
    )
    return None if queries else unit, unit


def serves_only_float32_attacks(request: Request, precision: str) -> bool:
    """Whether only attacks that need float32 use the copy of this precision, in a bfloat16 run.

    Their small steps may then be computed as changes of activations
    (:mod:`robust_eval.models.acceleration.activation_differences`).
    """
    return precision == FLOAT32 and request.precision == BFLOAT16


def _stored_label(request: Request, precision: str) -> str:
    """Name in TUNING_FILE: the same run may be continued in another precision."""
    return (
        f"{precision} in a {request.precision} run"
        if serves_only_float32_attacks(request, precision)
        else precision
    )


def _compiled(request: Request, precision: str, rows: int) -> Tuning:
    """Compiled for ``rows`` images per call, or for fewer if attacks pass fewer."""
    free, with_gradients = largest_calls(request, precision)
    near = tuning.steps_per_call(rows) if serves_only_float32_attacks(request, precision) else None
    return Tuning(min(rows, free or rows), min(rows, with_gradients), True, True, near)


def _measured(request: Request, model: nn.Module, x_NCHW: Images, precision: str, *, compile: bool) -> Tuning:
    parts = frozen_copy.prepare_network(model, sample=x_NCHW[:SAMPLE], precision=precision)

    def build(candidate: Tuning) -> frozen_copy.AttackCopy:
        return frozen_copy.attack_copy_of(parts, sample=x_NCHW[:SAMPLE], tuning=candidate)

    if serves_only_float32_attacks(request, precision):
        return tuning.measure_step_tuning(build, x_NCHW[:128], compile=compile)
    largest = largest_calls(request, precision)
    return tuning.measure_tuning(build, x_NCHW[:128], compile=compile, largest=largest)


def _read(stored: str | None, device: torch.device) -> dict[str, Tuning]:
    """Tunings that were measured on the same kind of device; none if the text is damaged."""
    try:
        table = strict_json.loads(stored or "", TUNING_FILE)
        if table["device"] != device_name(device):
            return {}
        tunings = {name: Tuning(**values) for name, values in table["tunings"].items()}
    except (UserError, KeyError, TypeError, AttributeError):
        return {}
    return tunings if all(_is_sound(tuning) for tuning in tunings.values()) else {}


def _is_sound(tuning: Tuning) -> bool:
    """Whether stored values have the types of a tuning."""
    rows = (tuning.rows, tuning.gradient_rows, tuning.near_rows)
    flags = (tuning.compiled, tuning.gradient_compiled)
    return all(one is None or (type(one) is int and one > 0) for one in rows) and {*map(type, flags)} == {
        bool
    }


def _description(chosen: Tuning) -> str:
    def one(rows: int | None, compiled: bool) -> str:
        return f"{rows or 'all'} images a call{', compiled' if compiled else ''}"

    gradients = f"with gradients {one(chosen.gradient_rows, chosen.gradient_compiled)}"
    steps = f"small steps {chosen.near_rows} a call, compiled"
    return f"{one(chosen.rows, chosen.compiled)}; {steps if chosen.near_rows else gradients}"
