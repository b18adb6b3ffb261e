"""Small models whose robustness is known: those of the self-test."""

from __future__ import annotations

import torch

from robust_eval.selftest.linear import Linear, linear_margin, linear_problem

__all__ = ["Linear", "linear_margin", "linear_problem", "run_in_small_units"]


def run_in_small_units(folder: str) -> None:
    """An evaluation of many short units, for a process that is going to be killed."""
    from robust_eval import evaluate

    torch.set_num_threads(1)
    model, x, y = linear_problem(n=150)
    evaluate(model, x, y, "Linf 0.04", suite="fgsm,pgd-10,pgd-20", batch_size=6, out=folder)
