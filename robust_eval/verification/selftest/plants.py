"""All planted models built on a network: published defenses, and models that deceive an evaluator.

Each must raise its flags in a run; those without expected flags are judged correctly without one.
The table of docs/flags.md lists them all with their robust accuracy under an adaptive attack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from robust_eval.verification.selftest import (
    planted_batches,
    planted_features,
    planted_gradients,
    planted_memory,
    planted_models,
    planted_outputs,
    planted_purifiers,
    planted_side_effects,
    planted_transforms,
)
from robust_eval.verification.selftest.plain_network import digit_images

DEFENSE, DECEPTION = "defense", "deception"
Build = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Plant:
    """A planted model."""

    group: str
    """``defense``: published as a defense; ``deception``: built to deceive the evaluator, or by mistake."""
    name: str
    source: str
    """Paper or implementation; a dash for none."""
    build: Build
    """A new model, built on a network that is not changed."""
    expected: frozenset[str]
    """Flags that a run must raise."""
    allowed: frozenset[str]
    """Further flags that it may raise."""
    slow: bool = False
    """Takes longer than the other cases of the self-test, which leaves it out."""


def plants() -> tuple[Plant, ...]:
    """All planted models, published defenses first."""
    return (*_defenses(), *_deceptions())


CONSEQUENCES = frozenset(
    {
        "attack-without-effect",
        "budget-unused",
        "discontinuous",
        "fresh-model-disagrees",
        "misleading-gradients",
        "no-gradients",
        "pgd-far-above-autoattack",
        "vanishing-gradients",
        "weaker-beats-stronger",
    }
)
"""Further flags that a planted model with an expected flag may raise."""


def _plant(
    group: str, name: str, source: str, build: Build, expected: str = "", also: str = "", slow: bool = False
) -> Plant:
    """``expected`` and ``also``: ids of flags, separated by spaces."""
    allowed = frozenset(also.split()) | (CONSEQUENCES if expected else frozenset())
    return Plant(group, name, source, build, frozenset(expected.split()), allowed, slow)


def _mean_sparse(network: nn.Module) -> nn.Module:
    return planted_features.MeanSparse(network, digit_images("train")[0][:200])


def _low_precision(dtype: torch.dtype) -> Build:
    return partial(planted_features.LowPrecision, dtype=dtype)


def _defenses() -> list[Plant]:
    transforms, features, purifiers = planted_transforms, planted_features, planted_purifiers
    defense = partial(_plant, DEFENSE)
    return [
        defense(
            "bit depth reduced to 16 levels", "Xu et al. 2018", planted_models.QuantisedInput, "no-gradients"
        ),
        defense(
            "bit depth, straight-through", "Xu et al. 2018", planted_models.StraightThroughQuantisedInput
        ),
        defense("median filter", "Xu et al. 2018", transforms.MedianFiltered),
        defense(
            "JPEG compression", "Guo et al. 2018", transforms.JpegCompressed, "discontinuous no-gradients"
        ),
        defense("total variation minimised", "Guo et al. 2018", transforms.VariationMinimised, "stopped"),
        defense("thermometer code", "Buckman et al. 2018", transforms.Thermometer, "stopped"),
        defense("thermometer code of sigmoids", "Buckman et al. 2018", transforms.SmoothThermometer),
        defense(
            "random resizing and padding", "Xie et al. 2018", transforms.RandomlyResized, "random-outputs"
        ),
        defense("random noise", "Liu et al. 2018", transforms.RandomNoise, "random-outputs"),
        defense("ME-Net", "Yang et al. 2019", transforms.PixelsReconstructed, "stopped"),
        defense(
            "mixup inference", "Pang et al. 2020", transforms.MixedWithNoise, "random-outputs", slow=True
        ),
        defense(
            "stochastic activation pruning",
            "Dhillon et al. 2018",
            features.stochastic_activation_pruning,
            "random-outputs",
        ),
        defense("k-WTA", "Xiao et al. 2020", features.k_winners_take_all, "discontinuous"),
        defense("MeanSparse", "Amini et al. 2024", _mean_sparse, "discontinuous"),
        defense(
            "8-bit weights and activations", "Lin et al. 2019", features.EightBitFeatures, "discontinuous"
        ),
        defense(
            "distillation, temperature 100",
            "Papernot et al. 2016",
            planted_outputs.Distilled,
            "saturated-logits",
        ),
        defense(
            "rejects unstable inputs", "Xu et al. 2018", planted_outputs.Rejecting, "vanishing-gradients"
        ),
        defense(
            "anti-adversary",
            "Alfarra et al. 2022",
            purifiers.AntiAdversary,
            "test-time-optimisation discontinuous",
        ),
        defense(
            "purification by backward",
            "Shi et al. 2021",
            purifiers.Purifier,
            "test-time-optimisation discontinuous",
            slow=True,
        ),
        defense(
            "purification by torch.func",
            "Shi et al. 2021",
            purifiers.FunctionalPurifier,
            "test-time-optimisation discontinuous",
            slow=True,
        ),
        defense(
            "purification in a thread",
            "Shi et al. 2021",
            purifiers.ThreadedPurifier,
            "discontinuous",
            slow=True,
        ),
        defense(
            "purification by differences",
            "Shi et al. 2021",
            purifiers.DifferencePurifier,
            "discontinuous",
            "search-copy-differs",
            slow=True,
        ),
        defense(
            "purification without gradient", "Shi et al. 2021", purifiers.BlindPurifier, "stopped", slow=True
        ),
        defense(
            "test-time normalisation",
            "Schneider et al. 2020",
            planted_batches.BatchStatistics,
            "batch-dependent fresh-model-disagrees",
        ),
    ]


def _deceptions() -> list[Plant]:
    gradients, memory, effects = planted_gradients, planted_memory, planted_side_effects
    batches, outputs, transforms = planted_batches, planted_outputs, planted_transforms
    deception = partial(_plant, DECEPTION)
    return [
        deception("remembers images", "-", memory.RemembersImages, "remembers-images fresh-model-disagrees"),
        deception(
            "remembers images on the 8-bit grid", "-", memory.RemembersGridImages, "fresh-model-disagrees"
        ),
        deception(
            "remembers images of large batches", "-", memory.RemembersLargeBatches, "fresh-model-disagrees"
        ),
        deception("remembers images in a global", "-", memory.RemembersInGlobal),
        deception("remembers images in a closure", "-", memory.RemembersInClosure),
        deception("remembers images in a file", "-", memory.RemembersInFile),
        deception("cache of logits", "-", memory.RemembersLogits, "stopped"),
        deception("running mean of inputs", "-", memory.RunningMeanSubtracted, "random-outputs"),
        deception("wrong gradient after 60 calls", "-", memory.CountsCalls, "weaker-beats-stronger"),
        deception("clips its input through x.data", "-", effects.WritesIntoData, "writes-into-input"),
        deception("rounds its input under no_grad", "-", effects.WritesWithoutGradient, "writes-into-input"),
        deception("rounds its input through numpy", "-", effects.WritesThroughNumpy, "writes-into-input"),
        deception("normalises in place", "-", effects.WritesByNormalising, "writes-into-input"),
        deception("in-place ReLU of the input", "-", effects.WritesByRelu, "writes-into-input"),
        deception("returns one tensor again and again", "-", effects.ReusesOutput),
        deception("seeds torch", "-", effects.SeedsTorch, "seeds-generators"),
        deception("seeds numpy", "-", effects.SeedsNumpy, "seeds-generators"),
        deception("seeds Python's random", "-", effects.SeedsPython, "seeds-generators"),
        deception("seeds torch for its noise", "-", effects.SeedsForNoise, "seeds-generators"),
        deception("noise of its own generator", "-", effects.DrawsFromOwnGenerator),
        deception(
            "batch statistics above 40 images", "-", batches.LargeBatchStatistics, "fresh-model-disagrees"
        ),
        deception(
            "offset by rank in the batch", "-", batches.SortsBatch, "batch-dependent fresh-model-disagrees"
        ),
        deception("offset from the 33rd image on", "-", batches.PositionOffset, "fresh-model-disagrees"),
        deception(
            "average with the nearest image",
            "-",
            batches.MajorityOfNeighbours,
            "batch-dependent fresh-model-disagrees",
        ),
        deception("gradient zero", "-", gradients.ZeroGradient, "no-gradients"),
        deception("gradient zero for half of the images", "-", gradients.HalfWithoutGradient, "no-gradients"),
        deception("gradient negated", "-", gradients.NegatedGradient, "misleading-gradients"),
        deception("gradient with noise", "-", gradients.NoisyGradient, "random-gradients"),
        deception("gradient of 5% of the pixels", "-", gradients.ConfinedGradient),
        deception("gradient without its largest half", "-", gradients.ClippedGradient),
        deception("gradient with wrong signs for a third", "-", gradients.SignErrors),
        deception("gradient rolled", "-", gradients.RolledGradient, "misleading-gradients"),
        deception("gradient of the blurred image", "-", gradients.BlurredGradient),
        deception(
            "gradient of another network", "-", gradients.OtherNetworksGradient, "misleading-gradients"
        ),
        deception("gradient wrong above 32 images", "-", gradients.LargeBatchGradient),
        deception("gradient right on the 8-bit grid", "-", gradients.GradientOnGrid, "weaker-beats-stronger"),
        deception(
            "gradient right near clean images", "-", gradients.GradientNearClean, "weaker-beats-stronger"
        ),
        deception(
            "another function with gradients", "-", outputs.ConfusesWithGradients, "misleading-gradients"
        ),
        deception("another function for attack libraries", "-", outputs.ConfusesAttacks),
        deception("probabilities minus 0.5", "-", outputs.ShiftedSoftmax, "vanishing-gradients"),
        deception("tanh of the logits", "-", outputs.SaturatedByTanh, "no-gradients"),
        deception("100 x softmax added", "-", outputs.Decoy, "saturated-logits"),
        deception("lead limited to 1", "-", outputs.FlatTop, "weaker-beats-stronger"),
        deception("steep sigmoid of the pixels", "-", transforms.BinarisedBySigmoid),
        deception("smooth staircase of the pixels", "-", transforms.SmoothStaircase),
        deception("resized to seven eighths and back", "-", transforms.Resized),
        deception("noise seeded by the input", "-", planted_models.InputSeededNoise, "discontinuous"),
        deception(
            "computes in float16",
            "-",
            _low_precision(torch.float16),
            "discontinuous",
            "saturated-logits",
            slow=True,
        ),
        deception("computes in bfloat16", "-", _low_precision(torch.bfloat16), "discontinuous", slow=True),
    ]
