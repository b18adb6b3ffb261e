"""Sides "ours" and "ours bf16": what ``robust-eval run`` does by default, in float32 and bfloat16.

Started by ``python -m benchmarks``.
"""

from __future__ import annotations

import sys
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

    from robust_eval.attacks import _art  # noqa: F401
    from robust_eval.evaluation.executors.display import SilentDisplay
    from robust_eval.evaluation.executors.machine import MachineExecutor, gpus
    from robust_eval.evaluation.executors.run_spec import RunSpec
    from robust_eval.evaluation.executors.scheduler import Scheduler
    from robust_eval.evaluation.planning.options import EvaluationOptions
    from robust_eval.models.acceleration.tuning import flops

    options = EvaluationOptions(
        checkpoint=str(given.folder / "model.pt"),
        data=f"npz:{given.folder / 'images.npz'}",
        suite=given.suite,
        eps=given.eps,
        device=given.device,
        seed=SEED,
        precision=given.precision,
    )
    model, x_NCHW, _ = inputs(given.folder, given.device)
    per_pass = flops(model, x_NCHW)
    stopwatch = Stopwatch()
    executor = MachineExecutor(None, None, lambda text: print(text, file=sys.stderr), gpus(given.device))
    spec = RunSpec(source=options, name="model.pt", folder=lambda _request: None)
    try:
        (run,) = Scheduler([spec], executor, SilentDisplay()).work()
    finally:
        executor.close()
    if run.result is None:
        raise run.error or SystemExit("; ".join(run.failures))
    result = run.result
    columns = {name: Measured(column.robust_bits, column.seconds) for name, column in result.columns.items()}
    elsewhere = sum(worker.busy for worker in executor.workers()) if executor.size > 1 else 0.0
    stopwatch.write(given.out, columns, operations(result, per_pass), elsewhere)


if __name__ == "__main__":
    guarded(main)
