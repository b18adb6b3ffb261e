"""When not to believe a row: pure rules over figures that were measured elsewhere.

A rule yields the id of a flag and the measured figure; :data:`RULES` says what the flag means.
Thresholds carry their source; "calibrated" ones lie between this project's trained checkpoints and
its planted ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np

from robust_eval.core.intervals import sign_test
from robust_eval.core.records import Bools
from robust_eval.probes import Probe
from robust_eval.schema import ColumnRecord, FlagRecord
from robust_eval.summary import parse_bits

BLOCKS: Literal["blocks ranking"] = "blocks ranking"
WARNS: Literal["warns"] = "warns"


class Rule(NamedTuple):
    severity: Literal["blocks ranking", "warns"]
    threshold: str
    advice: str


RULES: Mapping[str, Rule] = {
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
        "1e-3 of the logits' spread (calibrated)",
        "A prediction depends on the rest of its batch: BatchNorm may be using batch statistics.",
    ),
    "discontinuous": Rule(
        WARNS,
        "1e-4 for noise of 1e-6, 1e-2 for noise of 1e-4, of the logits' spread (calibrated)",
        "The model jumps (rounding, sparsification, k-winners): use BPDA and more Square restarts.",
    ),
    "no-gradients": Rule(
        BLOCKS,
        "10% of images under the margin loss",
        "White-box attacks are blind here: attack a differentiable stand-in (BPDA) first.",
    ),
    "saturated-logits": Rule(
        WARNS,
        "cross-entropy gradient exactly zero on 10% of images",
        "Logits are so large that cross-entropy underflows: trust CW-inf and AutoAttack, not PGD.",
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
    "collapsed": Rule(
        BLOCKS,
        "clean accuracy twice chance",
        "Hardly better than guessing: wrong normalisation or class order, or a failed training.",
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
}

# Columns that follow gradients; the second of each pair has the larger budget of steps.
WHITE_BOX = ("fgsm", "pgd-10", "pgd-20", "pgd-100", "cw-inf")
ORDERED = (("fgsm", "pgd-20"), ("pgd-20", "pgd-100"))

Finding = tuple[str, str]


def records(findings: Iterable[Finding]) -> tuple[FlagRecord, ...]:
    return tuple(FlagRecord(id=name, figure=figure, **RULES[name]._asdict()) for name, figure in findings)


def from_probe(probe: Probe) -> tuple[FlagRecord, ...]:
    """Flags of the model itself, before any attack."""
    return records(_probe_findings(probe))


def from_columns(columns: Mapping[str, ColumnRecord], classes: int) -> tuple[FlagRecord, ...]:
    """Flags of the numbers: relations that every correct evaluation satisfies."""
    return records(_column_findings(columns, classes))


def _probe_findings(probe: Probe) -> Iterator[Finding]:
    if probe.nonfinite > 0:
        yield "non-finite-outputs", f"{probe.nonfinite:.1%} of {probe.n} images"
    if probe.training_modules:
        yield "train-mode", f"{probe.training_modules} modules"
    if probe.probabilities:
        yield "probabilities", "non-negative outputs with one sum for all images"
    if probe.repeat > 1e-4:
        yield "random-outputs", f"two passes differ by {probe.repeat:.1e}"
    elif probe.batch > 1e-3:
        yield "batch-dependent", f"batch and single image differ by {probe.batch:.1e}"
    elif probe.jump_fine > 1e-4 or probe.jump_coarse > 1e-2:
        yield "discontinuous", f"{probe.jump_fine:.1e} for noise of 1e-6, {probe.jump_coarse:.1e} for 1e-4"
    if probe.no_gradient:
        yield "no-gradients", "no gradient reaches the input"
    elif probe.zero_margin > 0.1:
        yield "no-gradients", f"zero on {probe.zero_margin:.0%} of {probe.n} images"
    elif probe.zero_ce > 0.1:
        yield "saturated-logits", f"zero on {probe.zero_ce:.0%} of {probe.n} images"


def _column_findings(columns: Mapping[str, ColumnRecord], classes: int) -> Iterator[Finding]:
    bits = {name: parse_bits(column.robust_bits) for name, column in columns.items()}
    if invalid := sum(column.n_invalid for column in columns.values()):
        yield "outside-ball-or-box", f"{invalid} adversarial images"
    if nonfinite := sum(column.n_nonfinite for column in columns.values()):
        yield "non-finite-under-attack", f"{nonfinite} judged images"
    clean = columns["clean"]
    if clean.n >= 50 and clean.ci95[1] < min(1.0, 2 / classes):
        yield "collapsed", f"clean accuracy {clean.accuracy:.1%}, chance {1 / classes:.1%}"
    yield from _weaker_beats_stronger(bits)
    yield from _black_box_beats_white_box(columns, bits)


def _weaker_beats_stronger(bits: Mapping[str, Bools]) -> Iterator[Finding]:
    for weak, strong in ORDERED:
        if weak in bits and strong in bits:
            only_weak = int((~bits[weak] & bits[strong]).sum())
            only_strong = int((bits[weak] & ~bits[strong]).sum())
            if only_weak > 0.005 * len(bits[weak]) and sign_test(only_weak, only_strong) < 0.01:
                yield (
                    "weaker-beats-stronger",
                    f"{weak} alone breaks {only_weak} examples, {strong} alone {only_strong}",
                )


def _black_box_beats_white_box(
    columns: Mapping[str, ColumnRecord], bits: Mapping[str, Bools]
) -> Iterator[Finding]:
    """SPSA against every gradient column; Square against the phases before it in AutoAttack."""
    white = [bits[name] for name in WHITE_BOX if name in bits]
    found = 0
    if white and "spsa" in bits:
        found = int((np.logical_and.reduce(white) & ~bits["spsa"]).sum())
    if "aa" in columns:
        square = [a.n_broken for a in columns["aa"].attacks if a.params.get("phase") == "square"]
        found = max(found, sum(square))
    n = columns["clean"].n
    if found >= max(2, 0.002 * n):
        yield "black-box-beats-white-box", f"{found} of {n} examples"
