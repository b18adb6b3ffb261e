"""This project's side: ``robust_eval.evaluate(..., suite=..., precision=...)``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.evaluation.side import SEED, Measured, Stopwatch, arguments, inputs
from benchmarks.options import guarded

if TYPE_CHECKING:
    from robust_eval.results import EvalResult


def operations(result: EvalResult, per_pass: int) -> dict[str, float]:
    """By precision, of all passes; one back to the pixels repeats the forward's products once.

    What takes float32 for its small steps, but takes them as changes, multiplies in bfloat16.
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
    # Loaded on first use otherwise; the plain script imports its libraries before the clock starts, too.
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
