"""Check the options of an evaluation that need neither model nor images, once for all interfaces."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from robust_eval.core.errors import UserError
from robust_eval.core.types import BFLOAT16, FLOAT32, PRECISIONS, Suite
from robust_eval.evaluation.planning.options import SearchOptions
from robust_eval.models.acceleration import bfloat16, compilation


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked options.

    ``precision`` is float32 or bfloat16 as the device allows; ``precision_note`` is the reason if
    ``auto`` became float32.
    """

    suite: Suite
    device: torch.device
    batch_size: int | None
    seed: int
    precision: str
    precision_note: str
    precision_required: bool
    """False if ``auto`` was given: a model that does not run in bfloat16 then uses float32."""
    compile: compilation.Mode
    shards: int = 1


def check_options(options: SearchOptions, suite: Suite, device: torch.device, *, shards: int = 1) -> Settings:
    """The settings that the options describe.

    Raises:
        UserError: for a value that is out of range or unknown.
    """
    if options.batch_size is not None and options.batch_size < 1:
        raise UserError(f"The batch size must be at least 1, got {options.batch_size}.")
    if options.seed < 0:
        raise UserError(f"The seed must be 0 or more, got {options.seed}.")
    precision, note = resolve_precision(options.precision, device)
    return Settings(
        suite=suite,
        device=device,
        batch_size=options.batch_size,
        seed=options.seed,
        precision=precision,
        precision_note=note,
        precision_required=options.precision != "auto",
        compile=compilation.parse(options.compile, device),
        shards=shards,
    )


def resolve_precision(precision: str, device: torch.device) -> tuple[str, str]:
    """(float32 or bfloat16, note) for ``--precision float32 | bfloat16 | auto`` on a device."""
    if precision not in (*PRECISIONS, "auto"):
        raise UserError(f"Unknown precision '{precision}'. Use float32, bfloat16 or auto.")
    if precision != "auto":
        return precision, ""
    problem = bfloat16.unsupported_reason(device)
    return (FLOAT32, f"float32: {problem}") if problem else (BFLOAT16, "")
