"""This project's side: ``robust_eval.evaluate(..., suite="full")``."""

from __future__ import annotations

import time

from benchmarks.side import SEED, Measured, arguments, inputs, write_report


def main() -> None:
    given = arguments(__doc__)
    # Loaded on first use otherwise; the plain script imports its libraries before the clock starts, too.
    import pyautoattack  # noqa: F401

    from robust_eval import evaluate
    from robust_eval.attacks import _art  # noqa: F401

    model, x_NCHW, y_N = inputs(given.folder)
    start = time.perf_counter()
    threat = f"Linf {given.eps}"
    result = evaluate(model, x_NCHW, y_N, threat, suite="full", batch_size=given.batch_size, seed=SEED)
    seconds = time.perf_counter() - start
    columns = {name: Measured(column.robust_bits, column.seconds) for name, column in result.columns.items()}
    write_report(given.out, seconds, columns)


if __name__ == "__main__":
    main()
