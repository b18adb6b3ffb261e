"""Cases for the probes: models whose defect must be found without an attack."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from robust_eval.verification.selftest import planted_gradients, planted_models
from robust_eval.verification.selftest.case import Case, make_case
from robust_eval.verification.selftest.cases_unmodified import probe_flags

_PLANTS: tuple[tuple[str, Callable[[], nn.Module], tuple[str, ...], tuple[str, ...]], ...] = (
    ("softmax", planted_models.Softmax, ("probabilities",), ()),
    ("10 x softmax", planted_models.SoftmaxTimesTen, ("probabilities",), ()),
    ("hard labels", planted_models.OneHot, ("no-gradients", "probabilities"), ()),
    ("logits to one decimal", planted_models.RoundedLogits, ("no-gradients",), ("discontinuous",)),
    ("100,000 x logits", planted_models.LargeLogits, ("saturated-logits",), ()),
    ("input noise of 0.01", planted_models.NoisyInput, ("random-outputs",), ("misleading-gradients",)),
    (
        "noise seeded by the input",
        planted_models.InputSeededNoise,
        ("discontinuous",),
        ("misleading-gradients",),
    ),
    ("input rounded to 16 levels", planted_models.QuantisedInput, ("discontinuous", "no-gradients"), ()),
    (
        "the same, with straight-through gradient",
        planted_models.StraightThroughQuantisedInput,
        ("discontinuous",),
        ("misleading-gradients",),
    ),
    ("k winners take all", planted_models.KWinnersTakeAll, ("discontinuous",), ("misleading-gradients",)),
    ("sparsified features", planted_models.SparsifiedFeatures, ("discontinuous",), ("misleading-gradients",)),
    ("detached input", planted_models.DetachedInput, ("no-gradients",), ()),
    ("no_grad forward", planted_models.NoGradForward, ("no-gradients",), ()),
    ("gradient set to zero", planted_gradients.ZeroGradient, ("no-gradients",), ()),
    ("gradient / 100,000,000", planted_gradients.TinyGradient, ("vanishing-gradients",), ()),
    ("gradient negated", planted_gradients.NegatedGradient, ("misleading-gradients",), ()),
    (
        "gradient with noise",
        planted_gradients.NoisyGradient,
        ("random-gradients",),
        ("misleading-gradients",),
    ),
    ("purifies its input", planted_models.PurifiedInput, ("test-time-optimisation",), ()),
    (
        "BatchNorm in training mode",
        planted_models.TrainingModeBatchNorm,
        ("batch-dependent", "train-mode"),
        ("remembers-images",),
    ),
    (
        "subtracts the batch's mean",
        planted_models.BatchMeanSubtracted,
        ("batch-dependent",),
        ("remembers-images",),
    ),
    (
        "NaN on half of the images",
        planted_models.NaNOnHalf,
        ("non-finite-outputs",),
        ("batch-dependent", "no-gradients"),
    ),
    ("one class for everything", planted_models.ConstantPrediction, ("collapsed", "no-gradients"), ()),
)


def cases() -> list[Case]:
    return [
        make_case("model", name, expected, partial(probe_flags, make), *also)
        for name, make, expected, also in _PLANTS
    ]
