"""Models whose lie a look at a few images must tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from robust_eval.verification.selftest import planted_models as plants
from robust_eval.verification.selftest.case import Case, case
from robust_eval.verification.selftest.cases_unmodified import look

_PLANTS: tuple[tuple[str, Callable[[], nn.Module], tuple[str, ...], tuple[str, ...]], ...] = (
    ("softmax", plants.Softmax, ("probabilities",), ()),
    ("10 x softmax", plants.SoftmaxTimesTen, ("probabilities",), ()),
    ("hard labels", plants.OneHot, ("no-gradients", "probabilities"), ()),
    ("logits to one decimal", plants.RoundedLogits, ("no-gradients",), ("discontinuous",)),
    ("100,000 x logits", plants.Saturated, ("saturated-logits",), ()),
    ("input noise of 0.01", plants.NoisyInput, ("random-outputs",), ("misleading-gradients",)),
    ("noise seeded by the input", plants.InputSeeded, ("discontinuous",), ("misleading-gradients",)),
    ("input rounded to 16 levels", plants.Quantised, ("discontinuous", "no-gradients"), ()),
    (
        "the same, straight-through gradient",
        plants.StraightThrough,
        ("discontinuous",),
        ("misleading-gradients",),
    ),
    ("k winners take all", plants.Winners, ("discontinuous",), ("misleading-gradients",)),
    ("sparsified features", plants.Sparse, ("discontinuous",), ("misleading-gradients",)),
    ("detached input", plants.Detached, ("no-gradients",), ()),
    ("no_grad forward", plants.NoGrad, ("no-gradients",), ()),
    ("gradient killed", plants.GradientKiller, ("no-gradients",), ()),
    ("gradient / 100,000,000", plants.GradientFaint, ("vanishing-gradients",), ()),
    ("gradient flipped", plants.GradientFlipped, ("misleading-gradients",), ()),
    ("gradient with noise", plants.GradientNoise, ("random-gradients",), ("misleading-gradients",)),
    ("purifies its input", plants.Purified, ("test-time-optimisation",), ()),
    ("BatchNorm in training mode", plants.BatchStatistics, ("batch-dependent", "train-mode"), ()),
    ("subtracts the batch's mean", plants.BatchMean, ("batch-dependent",), ()),
    (
        "NaN on half of the images",
        plants.NaNSometimes,
        ("non-finite-outputs",),
        ("batch-dependent", "no-gradients"),
    ),
    ("one class for everything", plants.Constant, ("collapsed", "no-gradients"), ()),
)


def cases() -> list[Case]:
    return [
        case("model", name, expected, partial(look, make), *also) for name, make, expected, also in _PLANTS
    ]
