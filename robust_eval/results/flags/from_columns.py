"""Flags raised by the verdicts: relations that every correct evaluation satisfies (Carlini et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from robust_eval.core.statistics import sign_test
from robust_eval.core.threat import Norm
from robust_eval.core.types import Bools
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.results import ColumnRecord, FlagRecord
from robust_eval.results.flags.rules import Finding, records

# Columns of gradient attacks that do not stop at the first success.
WHITE_BOX = ("fgsm", "pgd-10", "pgd-20", "pgd-100", "cw-inf")
PGD = ("pgd-10", "pgd-20", "pgd-100")
AUTOATTACK = ("aa", "apgd-ce-t", "union")
# The second column of each pair contains the first, or takes more steps.
ORDERED = (
    ("fgsm", "pgd-10"),
    ("fgsm", "pgd-20"),
    ("fgsm", "pgd-100"),
    ("pgd-20", "pgd-100"),
    *((weak, strong) for weak in WHITE_BOX for strong in AUTOATTACK),
)
GAP = 0.08
HALF_WIDTH = 0.06
_ENOUGH = 50
"""Smallest number of examples at which an attack without success, or a low accuracy, raises a flag."""
_MIN_PERTURBATION: Mapping[Norm, float] = {"Linf": 0.9, "L2": 0.5}
"""As a fraction of epsilon."""


def from_columns(columns: Mapping[str, ColumnRecord], classes: int) -> tuple[FlagRecord, ...]:
    """Flags raised by verdicts alone; they can be recomputed from a result file."""
    return records(_findings(columns, classes))


def from_perturbation_size(largest: Mapping[str, float], norm: Norm) -> tuple[FlagRecord, ...]:
    """Flags raised by the largest perturbation of each column, as a fraction of epsilon.

    In L2 the threshold is lower, because clipping to the box shortens perturbations.
    """
    limit = _MIN_PERTURBATION[norm]
    short = {name: value for name, value in largest.items() if name in WHITE_BOX and not value >= limit}
    if not short:
        return ()
    listed = ", ".join(f"{name} {value:.0%}" for name, value in short.items())
    return records([("budget-unused", f"at most, of epsilon: {listed}")])


def _findings(columns: Mapping[str, ColumnRecord], classes: int) -> Iterator[Finding]:
    bits = {name: parse_bits(column.robust_bits) for name, column in columns.items()}
    if invalid := sum(column.n_invalid for column in columns.values()):
        yield "outside-ball-or-box", f"{invalid} adversarial images"
    if nonfinite := sum(column.n_nonfinite for column in columns.values()):
        yield "non-finite-under-attack", f"{nonfinite} judged images"
    clean = columns["clean"]
    if clean.n >= _ENOUGH and clean.ci95[1] < clean_accuracy_floor(classes):
        yield "collapsed", f"clean accuracy {clean.accuracy:.1%}, chance {1 / classes:.1%}"
    if above := [name for name, found in bits.items() if (found & ~bits["clean"]).any()]:
        yield "robust-above-clean", f"in {', '.join(above)}"
    yield from _weaker_beats_stronger(bits)
    yield from _black_box_beats_white_box(columns, bits)
    yield from _far_above(columns)
    yield from _without_effect(columns)
    width, name = max(((c.ci95[1] - c.ci95[0]) / 2, name) for name, c in columns.items())
    if width > HALF_WIDTH:
        yield "too-few-examples", f"{name} is known to ±{100 * width:.1f} points from {clean.n} examples"


def clean_accuracy_floor(classes: int) -> float:
    """Clean accuracy below which a model counts as not trained: twice chance, or 10 points above chance."""
    return min(2 / classes, 1 / classes + 0.1)


def _weaker_beats_stronger(bits: Mapping[str, Bools]) -> Iterator[Finding]:
    """Report the pair with the most examples that only the weaker attack breaks."""
    worst: tuple[int, str] | None = None
    for weak, strong in ORDERED:
        if weak in bits and strong in bits:
            only_weak = int((~bits[weak] & bits[strong]).sum())
            only_strong = int((bits[weak] & ~bits[strong]).sum())
            if only_weak > 0.005 * len(bits[weak]) and sign_test(only_weak, only_strong) < 0.01:
                figure = f"{weak} alone breaks {only_weak} examples, {strong} alone {only_strong}"
                worst = max(worst or (0, ""), (only_weak, figure))
    if worst is not None:
        yield "weaker-beats-stronger", worst[1]


def _black_box_beats_white_box(
    columns: Mapping[str, ColumnRecord], bits: Mapping[str, Bools]
) -> Iterator[Finding]:
    """Compare SPSA with the gradient columns, and Square with the earlier stages of AutoAttack."""
    white = [bits[name] for name in WHITE_BOX if name in bits]
    found = 0
    if white and "spsa" in bits:
        found = int((np.logical_and.reduce(white) & ~bits["spsa"]).sum())
    for name in ("aa", "union"):
        if name in columns:
            square = [a.n_broken for a in columns[name].attacks if a.params.get("phase") == "square"]
            found = max(found, sum(square))
    n = columns["clean"].n
    if found >= max(2, 0.002 * n):
        yield "black-box-beats-white-box", f"{found} of {n} examples"


def _far_above(columns: Mapping[str, ColumnRecord]) -> Iterator[Finding]:
    pgd = [columns[name] for name in PGD if name in columns]
    strong = [(name, columns[name]) for name in AUTOATTACK if name in columns]
    if pgd and strong:
        best = min(column.accuracy for column in pgd)
        name, column = min(strong, key=lambda entry: entry[1].accuracy)
        if best - column.accuracy > GAP:
            yield "pgd-far-above-autoattack", f"PGD leaves {best:.1%}, {name} {column.accuracy:.1%}"


def _without_effect(columns: Mapping[str, ColumnRecord]) -> Iterator[Finding]:
    clean = columns["clean"].n_robust
    idle = [name for name in (*WHITE_BOX, *AUTOATTACK) if name in columns and columns[name].n_robust == clean]
    if clean >= _ENOUGH and idle:
        yield "attack-without-effect", f"{', '.join(idle)}: none of {clean} examples broken"
