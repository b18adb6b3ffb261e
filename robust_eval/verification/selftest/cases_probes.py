"""Models whose lie a look at a few images must tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from robust_eval.verification.selftest import planted_models
from robust_eval.verification.selftest.case import Case, case
from robust_eval.verification.selftest.cases_unmodified import look

_PLANTS: tuple[tuple[str, Callable[[], nn.Module], tuple[str, ...], tuple[str, ...]], ...] = (
    ("softmax", planted_models.Softmax, ("probabilities",), ()),
    ("10 x softmax", planted_models.SoftmaxTimesTen, ("probabilities",), ()),
    ("hard labels", planted_models.OneHot, ("no-gradients", "probabilities"), ()),
    ("logits to one decimal", planted_models.RoundedLogits, ("no-gradients",), ("discontinuous",)),
    ("100,000 x logits", planted_models.Saturated, ("saturated-logits",), ()),
    ("input noise of 0.01", planted_models.NoisyInput, ("random-outputs",), ("misleading-gradients",)),
    ("noise seeded by the input", planted_models.InputSeeded, ("discontinuous",), ("misleading-gradients",)),
    ("input rounded to 16 levels", planted_models.Quantised, ("discontinuous", "no-gradients"), ()),
    (
        "the same, straight-through gradient",
        planted_models.StraightThrough,
        ("discontinuous",),
        ("misleading-gradients",),
    ),
    ("k winners take all", planted_models.KWinnersTakeAll, ("discontinuous",), ("misleading-gradients",)),
    ("sparsified features", planted_models.Sparse, ("discontinuous",), ("misleading-gradients",)),
    ("detached input", planted_models.Detached, ("no-gradients",), ()),
    ("no_grad forward", planted_models.NoGrad, ("no-gradients",), ()),
    ("gradient killed", planted_models.GradientKiller, ("no-gradients",), ()),
    ("gradient / 100,000,000", planted_models.GradientFaint, ("vanishing-gradients",), ()),
    ("gradient flipped", planted_models.GradientFlipped, ("misleading-gradients",), ()),
    ("gradient with noise", planted_models.GradientNoise, ("random-gradients",), ("misleading-gradients",)),
    ("purifies its input", planted_models.Purified, ("test-time-optimisation",), ()),
    ("BatchNorm in training mode", planted_models.BatchStatistics, ("batch-dependent", "train-mode"), ()),
    ("subtracts the batch's mean", planted_models.BatchMean, ("batch-dependent",), ()),
    (
        "NaN on half of the images",
        planted_models.NaNSometimes,
        ("non-finite-outputs",),
        ("batch-dependent", "no-gradients"),
    ),
    ("one class for everything", planted_models.Constant, ("collapsed", "no-gradients"), ()),
)


def cases() -> list[Case]:
    return [
        case("model", name, expected, partial(look, make), *also) for name, make, expected, also in _PLANTS
    ]
