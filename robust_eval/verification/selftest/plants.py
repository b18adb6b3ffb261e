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


def _plant(
    group: str, name: str, source: str, build: Build, expected: str = "", also: str = "", slow: bool = False
) -> Plant:
    """``expected`` and ``also``: ids of flags, separated by spaces."""
    return Plant(group, name, source, build, frozenset(expected.split()), frozenset(also.split()), slow)


def _mean_sparse(network: nn.Module) -> nn.Module:
    return planted_features.MeanSparse(network, digit_images("train")[0][:200])


def _low_precision(dtype: torch.dtype) -> Build:
    return partial(planted_features.LowPrecision, dtype=dtype)


def _defenses() -> list[Plant]:
    transforms, features, purifiers = planted_transforms, planted_features, planted_purifiers
    defense = partial(_plant, DEFENSE)
    return [
        defense("bit depth reduced to 16 levels", "Xu et al. 2018", planted_models.QuantisedInput),
        defense("the same, straight-through", "Xu et al. 2018", planted_models.StraightThroughQuantisedInput),
        defense("median filter", "Xu et al. 2018", transforms.MedianFiltered),
        defense("JPEG compression", "Guo et al. 2018", transforms.JpegCompressed),
        defense("total variation minimised", "Guo et al. 2018", transforms.VariationMinimised),
        defense("thermometer code", "Buckman et al. 2018", transforms.Thermometer),
        defense("thermometer code of sigmoids", "Buckman et al. 2018", transforms.SmoothThermometer),
        defense("random resizing and padding", "Xie et al. 2018", transforms.RandomlyResized),
        defense("random noise", "Liu et al. 2018", transforms.RandomNoise),
        defense("ME-Net", "Yang et al. 2019", transforms.PixelsReconstructed),
        defense("mixup inference", "Pang et al. 2020", transforms.MixedWithNoise),
        defense(
            "stochastic activation pruning", "Dhillon et al. 2018", features.stochastic_activation_pruning
        ),
        defense("k-WTA", "Xiao et al. 2020", features.k_winners_take_all),
        defense("MeanSparse", "Amini et al. 2024", _mean_sparse),
        defense("8-bit weights and activations", "Lin et al. 2019", features.EightBitFeatures),
        defense("distillation, temperature 100", "Papernot et al. 2016", planted_outputs.Distilled),
        defense("rejects unstable inputs", "Xu et al. 2018", planted_outputs.Rejecting),
        defense("anti-adversary", "Alfarra et al. 2022", purifiers.AntiAdversary),
        defense("purification by backward", "Shi et al. 2021", purifiers.Purifier),
        defense("purification by torch.func", "Shi et al. 2021", purifiers.FunctionalPurifier),
        defense("purification in a thread", "Shi et al. 2021", purifiers.ThreadedPurifier),
        defense("purification by differences", "Shi et al. 2021", purifiers.DifferencePurifier),
        defense("the same, without gradient", "Shi et al. 2021", purifiers.BlindPurifier),
        defense("test-time normalisation", "Schneider et al. 2020", planted_batches.BatchStatistics),
    ]


def _deceptions() -> list[Plant]:
    gradients, memory, effects = planted_gradients, planted_memory, planted_side_effects
    batches, outputs, transforms = planted_batches, planted_outputs, planted_transforms
    deception = partial(_plant, DECEPTION)
    return [
        deception("remembers images", "-", memory.RemembersImages),
        deception("remembers images on the 8-bit grid", "-", memory.RemembersGridImages),
        deception("remembers images of large batches", "-", memory.RemembersLargeBatches),
        deception("remembers images in a global", "-", memory.RemembersInGlobal),
        deception("remembers images in a closure", "-", memory.RemembersInClosure),
        deception("remembers images in a file", "-", memory.RemembersInFile),
        deception("cache of logits", "-", memory.RemembersLogits),
        deception("running mean of inputs", "-", memory.RunningMeanSubtracted),
        deception("wrong gradient after 60 calls", "-", memory.CountsCalls),
        deception("clips its input through x.data", "-", effects.WritesIntoData),
        deception("rounds its input under no_grad", "-", effects.WritesWithoutGradient),
        deception("rounds its input through numpy", "-", effects.WritesThroughNumpy),
        deception("normalises in place", "-", effects.WritesByNormalising),
        deception("in-place ReLU of the input", "-", effects.WritesByRelu),
        deception("returns one tensor again and again", "-", effects.ReusesOutput),
        deception("seeds torch", "-", effects.SeedsTorch),
        deception("seeds numpy", "-", effects.SeedsNumpy),
        deception("seeds Python's random", "-", effects.SeedsPython),
        deception("seeds torch for its noise", "-", effects.SeedsForNoise),
        deception("noise of its own generator", "-", effects.DrawsFromOwnGenerator),
        deception("batch statistics above 40 images", "-", batches.LargeBatchStatistics),
        deception("offset by rank in the batch", "-", batches.SortsBatch),
        deception("offset from the 33rd image on", "-", batches.PositionOffset),
        deception("average with the nearest image", "-", batches.MajorityOfNeighbours),
        deception("gradient zero", "-", gradients.ZeroGradient),
        deception("gradient zero for half of the images", "-", gradients.HalfWithoutGradient),
        deception("gradient negated", "-", gradients.NegatedGradient),
        deception("gradient with noise", "-", gradients.NoisyGradient),
        deception("gradient of 5% of the pixels", "-", gradients.ConfinedGradient),
        deception("gradient without its largest half", "-", gradients.ClippedGradient),
        deception("gradient with wrong signs for a third", "-", gradients.SignErrors),
        deception("gradient rolled", "-", gradients.RolledGradient),
        deception("gradient of the blurred image", "-", gradients.BlurredGradient),
        deception("gradient of another network", "-", gradients.OtherNetworksGradient),
        deception("gradient wrong above 32 images", "-", gradients.LargeBatchGradient),
        deception("gradient right on the 8-bit grid", "-", gradients.GradientOnGrid),
        deception("gradient right near clean images", "-", gradients.GradientNearClean),
        deception("another function with gradients", "-", outputs.ConfusesWithGradients),
        deception("another function for attack libraries", "-", outputs.ConfusesAttacks),
        deception("probabilities minus 0.5", "-", outputs.ShiftedSoftmax),
        deception("tanh of the logits", "-", outputs.SaturatedByTanh),
        deception("100 x softmax added", "-", outputs.Decoy),
        deception("lead limited to 1", "-", outputs.FlatTop),
        deception("steep sigmoid of the pixels", "-", transforms.BinarisedBySigmoid),
        deception("smooth staircase of the pixels", "-", transforms.SmoothStaircase),
        deception("resized to seven eighths and back", "-", transforms.Resized),
        deception("noise seeded by the input", "-", planted_models.InputSeededNoise),
        deception("computes in float16", "-", _low_precision(torch.float16)),
        deception("computes in bfloat16", "-", _low_precision(torch.bfloat16)),
    ]
