"""Small models whose robustness is known: those of the self-test."""

from __future__ import annotations

import signal
import time

import torch

from robust_eval.verification.selftest.linear_models import Linear, linear_margin, linear_problem

__all__ = ["Linear", "linear_margin", "linear_problem", "run_in_small_units"]


def run_in_small_units(folder: str, pause: float = 0.0) -> None:
    """An evaluation of many short units, for a process of its own, with ``pause`` seconds after each.

    Who wants to stop it in the middle must see the units come, on a busy machine too.
    """
    from robust_eval import evaluate
    from robust_eval.evaluation.store import FolderStore

    # Shells start what runs in the background deaf to Ctrl-C, and a test run hands that on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    put = FolderStore.put

    def put_and_wait(store: FolderStore, key: str, content: object) -> None:
        put(store, key, content)  # type: ignore[arg-type]
        time.sleep(pause)

    FolderStore.put = put_and_wait  # type: ignore[assignment, method-assign]
    torch.set_num_threads(1)
    model, x, y = linear_problem(n=150)
    evaluate(model, x, y, "Linf 0.04", suite="fgsm,pgd-10,pgd-20", batch_size=6, out=folder)
