"""Sides "ours" and "ours bf16": ``robust_eval.evaluate`` in float32 and bfloat16.

Started by ``python -m benchmarks``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.evaluation.side import SEED, Measured, Stopwatch, arguments, inputs
from benchmarks.options import guarded

if TYPE_CHECKING:
    from robust_eval.results import EvalResult


def operations(result: EvalResult, per_pass: int) -> dict[str, float]:
    """Floating-point operations of all forward and backward passes, by precision.

    A backward pass to the pixels costs as much as a forward pass. Small steps that are computed as changes
    of activations use bfloat16, although their attack runs in float32.
    """
    from robust_eval import attacks
    from robust_eval.core.types import BFLOAT16, FLOAT32, AttackSpec

    found: Counter[str] = Counter()
    fine = result.search.tunings.get(FLOAT32) if result.search else None
    by_changes = fine is not None and fine.near_rows is not None
    for column in result.columns.values():
        for record in column.attacks:
            spec = AttackSpec(record.id, record.family, record.version, record.params)
            passes = record.forwards + record.backwards
            precision = attacks.precision(spec, result.suite.precision)
            found[BFLOAT16 if precision == FLOAT32 and by_changes else precision] += passes * per_pass
    return dict(found)


def main() -> None:
    given = arguments(__doc__)
    # Imported before time is measured, as on the plain side.
    import pyautoattack  # noqa: F401

    from robust_eval import evaluate
    from robust_eval.attacks import _art  # noqa: F401
    from robust_eval.models.acceleration.tuning import flops

    model, x_NCHW, y_N = inputs(given.folder, given.device)
    options = {"batch_size": given.batch_size, "seed": SEED, "precision": given.precision}
    stopwatch = Stopwatch()
    result = evaluate(model, x_NCHW, y_N, f"Linf {given.eps}", suite=given.suite, **options)
    columns = {name: Measured(column.robust_bits, column.seconds) for name, column in result.columns.items()}
    stopwatch.write(given.out, columns, operations(result, flops(model, x_NCHW)))


if __name__ == "__main__":
    guarded(main)
