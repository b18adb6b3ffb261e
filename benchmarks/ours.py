"""This project's side: ``robust_eval.evaluate(..., suite="full")``."""

from __future__ import annotations

from benchmarks.side import SEED, Measured, Stopwatch, arguments, inputs


def main() -> None:
    given = arguments(__doc__)
    # Loaded on first use otherwise; the plain script imports its libraries before the clock starts, too.
    import pyautoattack  # noqa: F401

    from robust_eval import evaluate
    from robust_eval.attacks import _art  # noqa: F401

    model, x_NCHW, y_N = inputs(given.folder)
    stopwatch = Stopwatch()
    threat = f"Linf {given.eps}"
    result = evaluate(model, x_NCHW, y_N, threat, suite="full", batch_size=given.batch_size, seed=SEED)
    columns = {name: Measured(column.robust_bits, column.seconds) for name, column in result.columns.items()}
    stopwatch.write(given.out, columns)


if __name__ == "__main__":
    main()
