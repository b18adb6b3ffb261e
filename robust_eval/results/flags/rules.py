"""Severity, threshold with its source, and advice of each flag; explained in ``docs/flags.md``.

"Calibrated" thresholds separate this project's trained checkpoints from its planted models; the figures of
both are in ``docs/flags.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from robust_eval.results import FlagRecord
from robust_eval.results.flags.model_rules import LOADING, MODEL
from robust_eval.results.flags.rule import BLOCKS, WARNS, Finding, Rule

NUMBERS: Mapping[str, Rule] = {
    "collapsed": Rule(
        BLOCKS,
        "clean accuracy twice chance, or 10 points above it; more than one class predicted",
        "Accuracy is close to chance: check normalisation, class order and training.",
    ),
    "outside-ball-or-box": Rule(
        BLOCKS,
        "no image (1e-6 in the norm)",
        "An attack returned invalid images, which were not counted as broken: correct it (robust-eval "
        "contract), or report it if it is one of this release.",
    ),
    "non-finite-under-attack": Rule(
        BLOCKS,
        "no image",
        "The model returns NaN or infinity under attack; those images count as broken.",
    ),
    "robust-above-clean": Rule(
        BLOCKS,
        "no image that is robust but wrong without an attack (Carlini et al. 2019)",
        "An evaluation cannot produce this: the file was edited, or its columns are of different images.",
    ),
    "weaker-beats-stronger": Rule(
        WARNS,
        "95% interval of the net share above 0.5%, and p < 0.01 in an exact paired test (relation: "
        "Carlini et al. 2019)",
        "A weaker attack breaks more examples: gradients are masked, or attack steps are wrong.",
    ),
    "black-box-beats-white-box": Rule(
        WARNS,
        "95% interval of the share above 0.5% (AutoAttack checks.py: 0.2% without an interval)",
        "Attacks without gradients succeed where gradient attacks fail: a sign of gradient masking.",
    ),
    "pgd-far-above-autoattack": Rule(
        WARNS,
        "95% interval of the difference above 8 points (PGD-100 in Table 2 of the AWP paper: 1.5 to 6.8)",
        "PGD alone overestimates robustness: report AutoAttack; check for label smoothing, large logits.",
    ),
    "attack-without-effect": Rule(
        BLOCKS,
        "one broken example of 40, and a fifth of the share that all gradient attacks break "
        "(Carlini et al. 2019)",
        "Gradient attacks broke no example: gradients are masked, or epsilon is too small. Try --diagnose.",
    ),
    "budget-unused": Rule(
        WARNS,
        "a largest perturbation of 90% of epsilon (Linf) or 50% (L2)",
        "A gradient attack stayed well inside the ball: it had no gradient, or used another epsilon.",
    ),
    "too-few-examples": Rule(
        WARNS,
        "95% interval of ±6 points (AWP gains at most 3.1 points in Table 2 of its paper)",
        "The interval is wider than typical differences between defenses: evaluate more examples.",
    ),
}

RECORD: Mapping[str, Rule] = {
    "changed-during-run": Rule(
        BLOCKS,
        "1e-4 of the logits' standard deviation, and a cosine of 0.9 between gradients, between start and "
        "end; 1e-3, and 0.9, between calls inside an attack and outside; 0.5 with finite differences at the "
        "end",
        "The model's answers to the same images changed: it has internal state, or recognises attacks.",
    ),
    "fresh-model-disagrees": Rule(
        BLOCKS,
        "no verdict, by more than rounding; 1e-4 of the logits' standard deviation on clean images",
        "A model loaded again gives other verdicts: the model remembers images, depends on the batch, or "
        "differs from its file.",
    ),
    "search-copy-differs": Rule(
        BLOCKS,
        "1e-3 of the logits' standard deviation",
        "The attack copy differs from the judged model: check for state outside its modules.",
    ),
    "reduced-precision": Rule(
        WARNS,
        "95% interval of the net share of verdicts that are broken only with attacks in float32 above 0.5%",
        "Attacks in reduced precision are weaker on this model: evaluate with --precision float32.",
    ),
    "clean-accuracy-differs": Rule(
        WARNS,
        "0.3 points on the test set, 5 on other images, beyond the sampling error at p = 0.001",
        "Clean accuracy differs from the checkpoint's own record: check normalisation, data and file.",
    ),
    "selected-on-test": Rule(
        WARNS,
        "selection on held-out training images or none (Rice et al. 2020)",
        "The epoch was selected on the test set, which is optimistic: report the last epoch too.",
    ),
    "judged-on-training-images": Rule(
        BLOCKS,
        "1% of the images that can be compared",
        "The model was trained on these images: evaluate it on others.",
    ),
}

DIAGNOSIS: Mapping[str, Rule] = {
    "more-steps-help": Rule(
        WARNS,
        "95% interval of the gain of PGD-40 over PGD-20 above 2% (calibrated)",
        "PGD has not converged: use more steps before relying on its column.",
    ),
    "more-restarts-help": Rule(
        WARNS,
        "95% interval of the gain of four further starts of PGD-20 above 2% (calibrated)",
        "The result of PGD depends on its random start: use restarts, and AutoAttack rather than PGD.",
    ),
    "step-size-sensitive": Rule(
        WARNS,
        "95% interval of the gain of a quarter or four times the step above 2% (calibrated)",
        "PGD's step size is unsuitable for this model: rely on AutoAttack's adaptive steps.",
    ),
    "loss-not-rising": Rule(
        WARNS,
        "95% interval of the share above 5% (calibrated)",
        "20 steps of PGD do not reduce the margin: gradients are not informative.",
    ),
    "unbounded-attack-fails": Rule(
        BLOCKS,
        "95% interval of the share above 0.5% when any image is allowed (Carlini et al. 2019: none)",
        "An unbounded attack must break every example: gradients are masked, or the attack is faulty.",
    ),
    "noise-beats-gradients": Rule(
        WARNS,
        "95% interval of the share above 0.5% (Carlini et al. 2019: none)",
        "Random noise breaks examples that gradient attacks did not: gradients are masked.",
    ),
}

RULES: Mapping[str, Rule] = {**LOADING, **MODEL, **NUMBERS, **RECORD, **DIAGNOSIS}


def records(findings: Iterable[Finding]) -> tuple[FlagRecord, ...]:
    """The flag records of findings, with the texts of their rules."""
    return tuple(FlagRecord(id=name, figure=figure, **RULES[name]._asdict()) for name, figure in findings)


def distinct(found: Iterable[FlagRecord]) -> tuple[FlagRecord, ...]:
    """The first flag of each id; several rules may raise the same flag."""
    first: dict[str, FlagRecord] = {}
    for flag in found:
        first.setdefault(flag.id, flag)
    return tuple(first.values())
