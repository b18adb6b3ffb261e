"""Cases with linear models: the evaluation must find exactly the calculated robust accuracy."""

from __future__ import annotations

from functools import partial

import torch

from robust_eval.evaluation.in_memory import evaluate
from robust_eval.verification.selftest.case import EXACT, Case, make_case
from robust_eval.verification.selftest.linear_models import linear_margin, linear_problem

_GRADIENTS = "fgsm,pgd-20,cw-inf,apgd-ce-t"
_RADII = {"Linf": (0.01, 0.04, 0.08), "L2": (0.05, 0.15, 0.3)}


def cases() -> list[Case]:
    found = [
        make_case("closed form", f"linear, 4 classes, {norm} {eps}", (EXACT,), partial(_linear, norm, eps))
        for norm, radii in _RADII.items()
        for eps in radii
    ]
    return [
        *found,
        make_case("closed form", "linear, 2 classes", (EXACT,), partial(_linear, "Linf", 0.04, classes=2)),
        make_case("closed form", "linear, 3 classes", (EXACT,), partial(_linear, "Linf", 0.04, classes=3)),
        make_case("closed form", "all labels wrong", (EXACT,), _always_wrong),
    ]


def _linear(norm: str, eps: float, classes: int = 4) -> set[str]:
    model, x, y = linear_problem(n=60, classes=classes)
    expected = int((linear_margin(model, x, y, norm) > eps).sum())
    result = evaluate(model, x, y, f"{norm} {eps}", suite=_GRADIENTS)
    return _compare(result.worst_case.n_robust, expected)


def _always_wrong() -> set[str]:
    """No example is correct, so nothing is attacked and nothing is robust."""
    model, x, y = linear_problem(n=20)
    with torch.no_grad():
        y = (model(x).argmax(1) + 1) % 4
    return _compare(evaluate(model, x, y, "Linf 0.02", suite=_GRADIENTS).worst_case.n_robust, 0)


def _compare(found: int, expected: int) -> set[str]:
    return {EXACT} if found == expected else {f"{found} robust, not {expected}"}
