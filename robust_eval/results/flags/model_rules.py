"""Rules of the flags that are raised by loading and probing a model; see :mod:`.rules`."""

from __future__ import annotations

from collections.abc import Mapping

from robust_eval.results.flags.rule import BLOCKS, WARNS, Rule

LOADING: Mapping[str, Rule] = {
    "normalisation-uncertain": Rule(
        BLOCKS,
        "several normalisations with 75% of the best one's accuracy above chance; with BatchNorm, with 1.5 "
        "times the smallest deviation of its first layer (calibrated)",
        "The file does not record its input normalisation: name it with --normalisation.",
    ),
    "batchnorm-mismatch": Rule(
        BLOCKS,
        "a deviation of 0.02 + 0.3/n on n images in one layer (calibrated)",
        "Network or data differ from training: give activation, normalisation or code of the network.",
    ),
    "architecture-uncertain": Rule(
        BLOCKS,
        "one network that explains the file",
        "The tensors belong to several networks: name the right one with --arch ID?NAME=VALUE.",
    ),
}

MODEL: Mapping[str, Rule] = {
    "non-finite-outputs": Rule(
        BLOCKS,
        "no image",
        "The model returns NaN or infinity: check for half precision or a division by zero.",
    ),
    "train-mode": Rule(
        BLOCKS,
        "no module",
        "Parts of the model stay in training mode after eval(): evaluate the deployed model.",
    ),
    "probabilities": Rule(
        WARNS,
        "constant sum of non-negative outputs (after AutoAttack checks.py)",
        "The model returns probabilities, which weakens gradients: remove the final softmax.",
    ),
    "random-outputs": Rule(
        BLOCKS,
        "1e-4 of the logits' standard deviation (AutoAttack checks.py)",
        "The model is randomised: average the gradients of attacks over several draws (EoT).",
    ),
    "batch-dependent": Rule(
        BLOCKS,
        "1e-4 of the logits' standard deviation (calibrated)",
        "Predictions depend on the rest of the batch: BatchNorm uses batch statistics, or the model computes "
        "in half precision.",
    ),
    "discontinuous": Rule(
        WARNS,
        "a second difference above 1e-4 of the logits' standard deviation and above half the change, for "
        "noise of 1e-5 or 1e-4 (calibrated)",
        "The model is discontinuous (rounding, sparsification, k-winners): use BPDA and restart Square.",
    ),
    "test-time-optimisation": Rule(
        BLOCKS,
        "no call of autograd (after AutoAttack checks.py and the rules of RobustBench, Croce et al. 2021)",
        "The forward pass calls autograd: generic attacks are weak on this defense, use an adaptive attack.",
    ),
    "no-gradients": Rule(
        BLOCKS,
        "10% of images for the margin loss",
        "White-box attacks have no gradient: attack a differentiable approximation first (BPDA).",
    ),
    "vanishing-gradients": Rule(
        WARNS,
        "10% of images whose margin can change by 0.1% of the logits' standard deviation (calibrated)",
        "Gradients are close to zero: check for a saturating layer, and rely on Square and SPSA.",
    ),
    "saturated-logits": Rule(
        WARNS,
        "cross-entropy gradient zero in float32, or in L2 its norm, on 10% of images",
        "Logits are so large that cross-entropy underflows: rely on CW-inf and AutoAttack, not PGD.",
    ),
    "random-gradients": Rule(
        WARNS,
        "1% of the largest entry (calibrated)",
        "Gradients of the same input differ: average them over several draws (EoT), or disable the noise.",
    ),
    "misleading-gradients": Rule(
        BLOCKS,
        "a cosine of 0.9 with finite differences, and a reduced margin after a step of 1/255 against the "
        "sign on 75% of images (calibrated)",
        "Attacks follow gradients that are not those of the model: correct them, or rely on query attacks.",
    ),
    "decoy-outputs": Rule(
        BLOCKS,
        "10% of points",
        "Attacks follow outputs that are never predicted: remove the outputs that have no class.",
    ),
    "writes-into-input": Rule(
        BLOCKS,
        "no call",
        "The model writes into its input, which loses the image for its caller: let it write into a copy.",
    ),
    "seeds-generators": Rule(
        WARNS,
        "no global generator in the same state after every call",
        "The model seeds a global generator when it is called, which makes other random numbers repeat: "
        "remove the seeding, or use a generator of its own.",
    ),
    "opens-files": Rule(
        BLOCKS,
        "nothing opened after the first call",
        "The model opens files, connections or processes when it is called, so that its answers may depend "
        "on what was stored before: load everything when the model is built.",
    ),
    "remembers-images": Rule(
        BLOCKS,
        "1e-4 of the logits' standard deviation; a quarter of the change in the next call (calibrated)",
        "The logits of an image depend on images shown before: remove the memory, and judge again.",
    ),
}
