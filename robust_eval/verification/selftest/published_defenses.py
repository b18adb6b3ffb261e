"""Planted models that were published as defenses, in a simplified form."""

from __future__ import annotations

from functools import partial

from torch import nn

from robust_eval.verification.selftest import (
    planted_batches,
    planted_features,
    planted_models,
    planted_outputs,
    planted_purifiers,
    planted_transforms,
)
from robust_eval.verification.selftest.plain_network import digit_images
from robust_eval.verification.selftest.plant import DEFENSE, Plant, make_plant


def published_defenses() -> list[Plant]:
    """Input transformations, changed activations, purification: adaptive attacks broke all of them."""
    transforms, features, purifiers = planted_transforms, planted_features, planted_purifiers
    defense = partial(make_plant, DEFENSE)
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
        defense(
            "total variation minimised", "Guo et al. 2018", transforms.VariationMinimised, "no-gradients"
        ),
        defense("thermometer code", "Buckman et al. 2018", transforms.Thermometer, "no-gradients"),
        defense("thermometer code of sigmoids", "Buckman et al. 2018", transforms.SmoothThermometer),
        defense(
            "random resizing and padding", "Xie et al. 2018", transforms.RandomlyResized, "random-outputs"
        ),
        defense("random noise", "Liu et al. 2018", transforms.RandomNoise, "random-outputs"),
        defense(
            "ME-Net", "Yang et al. 2019", transforms.PixelsReconstructed, "no-gradients", "random-outputs"
        ),
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
            "test-time-optimisation discontinuous",
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
            "purification without gradient",
            "Shi et al. 2021",
            purifiers.BlindPurifier,
            "no-gradients",
            slow=True,
        ),
        defense(
            "test-time normalisation",
            "Schneider et al. 2020",
            planted_batches.BatchStatistics,
            "batch-dependent",
        ),
    ]


def _mean_sparse(network: nn.Module) -> nn.Module:
    return planted_features.MeanSparse(network, digit_images("train")[0][:200])
