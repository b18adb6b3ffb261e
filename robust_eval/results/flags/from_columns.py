"""Flags raised by the verdicts: relations that every correct evaluation satisfies (Carlini et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from robust_eval.core.statistics import sign_test
from robust_eval.core.threat import Norm
from robust_eval.core.types import Bools
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.results import ColumnRecord, FlagRecord
from robust_eval.results.flags.effects import net_share, share
from robust_eval.results.flags.rule import Finding
from robust_eval.results.flags.rules import records

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
# Sizes as shares of the examples; the lower end of an effect's 95% interval must be above.
STRONGER = 0.005
"""By how much an attack may exceed one that should be stronger: up to 0.6% on the boards of this project."""
GAP = 0.08
IDLE = 40
"""Number of examples of which at least one must be broken. The most robust network of the boards (MNIST, Linf
0.3) loses 7.4%, so that none of 40 is broken with a probability of 5%, of 50 with 2%."""
WEAKEST = 1 / 5
"""Share of the strongest attack's successes that the weakest has: FGSM at least 0.3 on the boards."""
HALF_WIDTH = 0.06
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
    if clean.ci95[1] < clean_accuracy_floor(classes):
        low, high = clean.ci95
        figure = f"clean accuracy {clean.accuracy:.1%}, 95% interval {low:.1%} to {high:.1%}"
        yield "collapsed", f"{figure}, chance {1 / classes:.1%}"
    if above := [name for name, found in bits.items() if (found & ~bits["clean"]).any()]:
        yield "robust-above-clean", f"in {', '.join(above)}"
    yield from _weaker_beats_stronger(bits)
    yield from _black_box_beats_white_box(columns, bits)
    yield from _far_above(bits)
    yield from _without_effect(bits)
    width, name = max(((c.ci95[1] - c.ci95[0]) / 2, name) for name, c in columns.items())
    if width > HALF_WIDTH:
        yield "too-few-examples", f"{name} is known to ±{100 * width:.1f} points from {clean.n} examples"


def clean_accuracy_floor(classes: int) -> float:
    """Clean accuracy below which a model counts as not trained: twice chance, or 10 points above chance."""
    return min(2 / classes, 1 / classes + 0.1)


def _weaker_beats_stronger(bits: Mapping[str, Bools]) -> Iterator[Finding]:
    """Report the pair with the largest net share of examples that only the weaker attack breaks."""
    worst: tuple[float, str] | None = None
    for weak, strong in ORDERED:
        if weak in bits and strong in bits:
            only_weak, only_strong = _only(bits[weak], bits[strong])
            net = net_share(only_weak, only_strong, len(bits[weak]))
            # Several pairs are compared, so that the interval alone would be exceeded by chance.
            if net.exceeds(STRONGER) and sign_test(only_weak, only_strong) < 0.01:
                figure = f"{weak} alone breaks {only_weak} examples, {strong} alone {only_strong} (net {net})"
                worst = max(worst or (0.0, ""), (net.value, figure))
    if worst is not None:
        yield "weaker-beats-stronger", worst[1]


def _only(a: Bools, b: Bools) -> tuple[int, int]:
    """Numbers of examples that only the first column, and only the second, breaks."""
    return int((~a & b).sum()), int((a & ~b).sum())


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
    effect = share(found, columns["clean"].n)
    if effect.exceeds(STRONGER):
        yield "black-box-beats-white-box", f"{found} of {columns['clean'].n} examples ({effect})"


def _far_above(bits: Mapping[str, Bools]) -> Iterator[Finding]:
    pgd = [name for name in PGD if name in bits]
    strong = [name for name in AUTOATTACK if name in bits]
    if pgd and strong:
        best, name = (min(names, key=lambda name: int(bits[name].sum())) for names in (pgd, strong))
        only_strong, only_pgd = _only(bits[name], bits[best])
        net = net_share(only_strong, only_pgd, len(bits[best]))
        if net.exceeds(GAP):
            left = f"{best} leaves {bits[best].mean():.1%}, {name} {bits[name].mean():.1%}"
            yield "pgd-far-above-autoattack", f"{left} (difference {net})"


def _without_effect(bits: Mapping[str, Bools]) -> Iterator[Finding]:
    """No gradient attack breaks anything, or one breaks nothing although others break many examples."""
    clean = bits["clean"]
    # Of attacks that are not of this release it is not known which of them use gradients.
    names = [name for name in (*WHITE_BOX, *AUTOATTACK) if name in bits]
    names = names or [name for name in bits if name not in ("clean", "spsa")]
    broken = {name: clean & ~bits[name] for name in names}
    idle = [name for name, found in broken.items() if not found.any()]
    n = int(clean.sum())
    if not idle:
        return
    others = share(int(np.logical_or.reduce(list(broken.values())).sum()), n)
    none = share(0, n)
    if len(idle) == len(broken) and n >= IDLE:
        yield "attack-without-effect", f"{', '.join(idle)}: none of {n} examples broken ({none})"
    elif none.high < WEAKEST * others.low:
        figure = f"none of {n} examples broken ({none}), other attacks break {others}"
        yield "attack-without-effect", f"{', '.join(idle)}: {figure}"
