"""Planted models that deceive an evaluator, on purpose or by mistake."""

from __future__ import annotations

from functools import partial

import torch

from robust_eval.verification.selftest import (
    planted_batches,
    planted_features,
    planted_gradients,
    planted_memory,
    planted_models,
    planted_outputs,
    planted_side_effects,
    planted_transforms,
)
from robust_eval.verification.selftest.plant import DECEPTION, Build, Plant, make_plant


def deceptive_models() -> list[Plant]:
    """Models with a memory, side effects, dependence on the batch, or a wrong gradient."""
    gradients, memory, effects = planted_gradients, planted_memory, planted_side_effects
    batches, outputs, transforms = planted_batches, planted_outputs, planted_transforms
    deception = partial(make_plant, DECEPTION)
    return [
        deception("remembers images", "-", memory.RemembersImages, "remembers-images fresh-model-disagrees"),
        deception(
            "remembers images on the 8-bit grid", "-", memory.RemembersGridImages, "fresh-model-disagrees"
        ),
        deception(
            "remembers images of large batches", "-", memory.RemembersLargeBatches, "fresh-model-disagrees"
        ),
        deception("remembers images in a global", "-", memory.RemembersInGlobal, "remembers-images"),
        deception(
            "remembers clean images in a global", "-", memory.RemembersWithGradient, "remembers-images"
        ),
        deception(
            "remembers images for the judge",
            "-",
            memory.RemembersForTheJudge,
            "remembers-images changed-during-run",
        ),
        deception("remembers images in a closure", "-", memory.RemembersInClosure, "remembers-images"),
        deception("remembers images in a file", "-", memory.RemembersInFile, "remembers-images opens-files"),
        deception("cache of logits", "-", memory.RemembersLogits, "no-gradients"),
        deception(
            "running mean of inputs",
            "-",
            memory.RunningMeanSubtracted,
            "fresh-model-disagrees",
            "random-outputs random-gradients search-copy-differs",
        ),
        deception("wrong gradient from the twelfth call on", "-", memory.CountsCalls, "misleading-gradients"),
        deception(
            "wrong gradient from the third call near an image",
            "-",
            gradients.WrongFromThirdCall,
            "misleading-gradients",
            "random-gradients",
        ),
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
        deception("batch statistics above 40 images", "-", batches.LargeBatchStatistics, "batch-dependent"),
        deception(
            "offset by rank in the batch", "-", batches.SortsBatch, "batch-dependent fresh-model-disagrees"
        ),
        deception("offset from the 33rd image on", "-", batches.PositionOffset, "fresh-model-disagrees"),
        deception(
            "average with the nearest image",
            "-",
            batches.MajorityOfNeighbours,
            "batch-dependent",
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
        deception(
            "another function for attack libraries", "-", outputs.ConfusesAttacks, "changed-during-run"
        ),
        deception("probabilities minus 0.5", "-", outputs.ShiftedSoftmax, "vanishing-gradients"),
        deception("tanh of the logits", "-", outputs.SaturatedByTanh, "no-gradients"),
        deception("100 x softmax added", "-", outputs.Decoy, "saturated-logits"),
        deception("outputs without a class", "-", outputs.OutputsWithoutClass, "decoy-outputs"),
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


def _low_precision(dtype: torch.dtype) -> Build:
    return partial(planted_features.LowPrecision, dtype=dtype)
