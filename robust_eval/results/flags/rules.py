"""What each flag means: severity, threshold with its source, and what to do. ``docs/flags.md`` says more.

"Calibrated" thresholds lie between this project's trained checkpoints and its planted models; the
figures of both are in ``docs/flags.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from robust_eval.results import FlagRecord

BLOCKS: Literal["blocks ranking"] = "blocks ranking"
WARNS: Literal["warns"] = "warns"


class Rule(NamedTuple):
    severity: Literal["blocks ranking", "warns"]
    threshold: str
    advice: str


Finding = tuple[str, str]
"""The id of a flag and the measured figure."""

MODEL: Mapping[str, Rule] = {
    "non-finite-outputs": Rule(
        BLOCKS,
        "no image",
        "The model returns NaN or infinity: look for half precision or a division by zero.",
    ),
    "train-mode": Rule(
        BLOCKS,
        "no module",
        "Parts of the model stay in training mode after eval(): evaluate the deployed model.",
    ),
    "probabilities": Rule(
        WARNS,
        "constant sum of non-negative outputs (after AutoAttack checks.py)",
        "The model returns probabilities: remove the final softmax, or gradients vanish.",
    ),
    "random-outputs": Rule(
        BLOCKS,
        "1e-4 of the logits' spread (AutoAttack checks.py)",
        "The model is randomised and one draw errs both ways: average attacks over draws (EoT).",
    ),
    "batch-dependent": Rule(
        BLOCKS,
        "1e-4 of the logits' spread (calibrated)",
        "A prediction depends on the rest of its batch: BatchNorm may be using batch statistics.",
    ),
    "discontinuous": Rule(
        WARNS,
        "a bend above 1e-4 of the logits' spread and above half the change, for noise of 1e-5 or 1e-4 "
        "(calibrated)",
        "The model jumps (rounding, sparsification, k-winners): use BPDA and more Square restarts.",
    ),
    "test-time-optimisation": Rule(
        WARNS,
        "no call into autograd (after AutoAttack checks.py)",
        "The forward pass differentiates: generic attacks are weak here, attack this defence adaptively.",
    ),
    "no-gradients": Rule(
        BLOCKS,
        "10% of images under the margin loss",
        "White-box attacks are blind here: attack a differentiable stand-in (BPDA) first.",
    ),
    "vanishing-gradients": Rule(
        WARNS,
        "10% of images whose margin could move by 0.1% of the logits' spread (calibrated)",
        "Gradients are next to nothing: look for a squashing layer, and trust Square and SPSA more.",
    ),
    "saturated-logits": Rule(
        WARNS,
        "cross-entropy gradient zero in float32 on 10% of images",
        "Logits are so large that cross-entropy underflows: trust CW-inf and AutoAttack, not PGD.",
    ),
    "random-gradients": Rule(
        WARNS,
        "1% of the largest entry (calibrated)",
        "The same input has two gradients: average attacks over gradients (EoT), or turn the noise off.",
    ),
    "misleading-gradients": Rule(
        WARNS,
        "25% of images (calibrated; random steps fail on half)",
        "A small step along the gradient does not lower the margin: attack a stand-in (BPDA), or by queries.",
    ),
}

NUMBERS: Mapping[str, Rule] = {
    "collapsed": Rule(
        BLOCKS,
        "clean accuracy twice chance, or 10 points above it; more than one class predicted",
        "Hardly better than guessing: wrong normalisation or class order, or a failed training.",
    ),
    "outside-ball-or-box": Rule(
        BLOCKS,
        "no image (1e-6 in the norm)",
        "An attack left its threat model and those images were not counted: report this bug.",
    ),
    "non-finite-under-attack": Rule(
        BLOCKS,
        "no image",
        "The model returns NaN or infinity under attack; those images count as broken.",
    ),
    "robust-above-clean": Rule(
        BLOCKS,
        "no image that is robust but wrong without an attack (Carlini et al. 2019)",
        "This cannot come from judging: the file was edited, or its columns are from different slices.",
    ),
    "weaker-beats-stronger": Rule(
        WARNS,
        "0.5% of examples and p < 0.01 in an exact paired test (relation: Carlini et al. 2019)",
        "A stronger attack must not be the weaker one: gradients are masked or steps are wrong.",
    ),
    "black-box-beats-white-box": Rule(
        WARNS,
        "2 examples and 0.2% (AutoAttack checks.py)",
        "Attacks without gradients succeed where gradients fail: a sign of gradient masking.",
    ),
    "pgd-far-above-autoattack": Rule(
        WARNS,
        "8 points (PGD-100 against AutoAttack in Table 2 of the AWP paper: 1.5 to 6.8)",
        "PGD alone flatters this model: quote AutoAttack, and look for label smoothing or large logits.",
    ),
    "attack-without-effect": Rule(
        WARNS,
        "at least one example of 50 (Carlini et al. 2019)",
        "An attack broke nothing: gradients are masked, or epsilon is too small to matter. Try --diagnose.",
    ),
    "budget-unused": Rule(
        WARNS,
        "a perturbation of 90% of epsilon somewhere (Linf), 50% (L2)",
        "A gradient attack stayed far inside its ball: it had no gradients, or clipped to another epsilon.",
    ),
    "too-few-examples": Rule(
        WARNS,
        "6 points on either side at 95% (AWP gains at most 3.1 in Table 2 of its paper)",
        "Differences between defenses drown in this interval: judge more examples.",
    ),
}

RECORD: Mapping[str, Rule] = {
    "changed-during-run": Rule(
        BLOCKS,
        "1e-4 of the logits' spread",
        "The same images get other logits after the attacks than before: the model keeps a state.",
    ),
    "search-copy-differs": Rule(
        BLOCKS,
        "1e-3 of the logits' spread",
        "Attacks searched on a copy that is not the judged model: look for state outside its modules.",
    ),
    "reduced-precision": Rule(
        WARNS,
        "2 verdicts and 1% of a sample, net, that only a float32 search breaks",
        "The search in reduced precision is weaker on this model: evaluate with --precision float32.",
    ),
    "clean-accuracy-differs": Rule(
        WARNS,
        "0.3 points on the test set, 5 on other images, beyond the sampling error at p = 0.001",
        "Not the accuracy that the checkpoint records of itself: check normalisation, data and file.",
    ),
    "selected-on-test": Rule(
        WARNS,
        "selection on held-out training images or none (Rice et al. 2020)",
        "The checkpoint is the best epoch on the test set, which flatters it: quote the last epoch too.",
    ),
    "judged-on-training-images": Rule(
        BLOCKS,
        "1% of the images that can be compared",
        "The model was trained on these images: judge it on others.",
    ),
}

DIAGNOSIS: Mapping[str, Rule] = {
    "more-steps-help": Rule(
        WARNS,
        "2 examples and 6% more by PGD-40 than by PGD-20 (calibrated)",
        "PGD has not converged: give it more steps before believing its column.",
    ),
    "more-restarts-help": Rule(
        WARNS,
        "2 examples and 6% more by four further starts of PGD-20 (calibrated)",
        "Where PGD starts decides what it finds: use restarts, and AutoAttack rather than PGD.",
    ),
    "step-size-sensitive": Rule(
        WARNS,
        "2 examples and 6% more by a quarter or four times the step (calibrated)",
        "PGD's step does not suit this model: its column is too kind, use AutoAttack's adaptive steps.",
    ),
    "loss-not-rising": Rule(
        WARNS,
        "5% of examples (calibrated)",
        "After 20 steps of PGD the margin is no smaller than without: gradients point nowhere.",
    ),
    "unbounded-attack-fails": Rule(
        BLOCKS,
        "2% of examples left when any image is allowed (Carlini et al. 2019: none)",
        "No model is right on every image: gradients are masked, or the attack is broken.",
    ),
    "noise-beats-gradients": Rule(
        WARNS,
        "2 examples (Carlini et al. 2019)",
        "Random noise breaks examples that gradients did not: gradients are masked.",
    ),
    "fresh-process-disagrees": Rule(
        BLOCKS,
        "1e-4 of the logits' spread on up to 100 images",
        "The same file gives other logits in a fresh process: what was attacked is not what is deployed.",
    ),
}

RULES: Mapping[str, Rule] = {**MODEL, **NUMBERS, **RECORD, **DIAGNOSIS}


def records(findings: Iterable[Finding]) -> tuple[FlagRecord, ...]:
    return tuple(FlagRecord(id=name, figure=figure, **RULES[name]._asdict()) for name, figure in findings)


def distinct(found: Iterable[FlagRecord]) -> tuple[FlagRecord, ...]:
    """The first flag of each id: one lie may be seen in two ways."""
    first: dict[str, FlagRecord] = {}
    for flag in found:
        first.setdefault(flag.id, flag)
    return tuple(first.values())
