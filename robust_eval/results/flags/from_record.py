"""Flags raised by the checkpoint's claims, and by changes of the model during the evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from robust_eval.core.image_sketch import Overlap
from robust_eval.core.types import CallDifference
from robust_eval.results import (
    CheckpointRecord,
    ColumnRecord,
    DataRecord,
    FlagRecord,
    SearchRecord,
    SecondJudgementRecord,
    checkpoint_claims,
)
from robust_eval.results.flags.effects import net_share
from robust_eval.results.flags.from_model import COSINE, JUMPING_COSINE
from robust_eval.results.flags.rule import Finding
from robust_eval.results.flags.rules import records

CHANGED = 1e-4
COPY_DIFFERENCE = 1e-3
"""Folding, another memory layout and other kernels change float32 logits by about 1e-6."""
_TEST_SET, _HELD_OUT = 0.003, 0.05
"""Tolerances: the test set decoded by another library; images held out from the training set."""
_SAME = CallDifference()
_Z = 3.29
"""Two-sided normal quantile at p = 0.001."""
WEAKER = 0.005
"""Net share of the sample's verdicts."""
OVERLAP = 0.01
"""Test sets contain some training images, for example CIFAR-10 (Barz and Denzler 2020)."""


def from_record(
    checkpoint: CheckpointRecord, data: DataRecord, clean: ColumnRecord
) -> tuple[FlagRecord, ...]:
    """Flags raised by the checkpoint's claims; they can be recomputed from a result file."""
    return records(_findings(checkpoint, data, clean))


def from_changes(
    after: float,
    search: float | None,
    writes: int = 0,
    attack: CallDifference = _SAME,
    cosine: float = 1.0,
    slopes: float = 1.0,
) -> tuple[FlagRecord, ...]:
    """Flags raised by differences between logits, in units of their standard deviation.

    ``after``: between the model before and after the attacks; ``search``: between the judged model and the
    attack copy in float32, None if it was not compared. ``writes``: calls in which the model wrote into its
    input. ``attack``: between the model inside attacks and outside. ``cosine``: between gradients before and
    after the attacks; ``slopes``: between gradients and finite differences after them.
    """
    found = [("writes-into-input", f"in {writes} forward passes")] if writes else []
    if not after <= CHANGED:
        found.append(("changed-during-run", f"by {after:.1e}"))
    elif not cosine >= COSINE:
        found.append(("changed-during-run", f"gradients, cosine {cosine:.2f} before and after"))
    elif not slopes >= JUMPING_COSINE:
        found.append(
            ("changed-during-run", f"gradients, cosine {slopes:.2f} with finite differences after it")
        )
    elif not attack.logits <= COPY_DIFFERENCE:
        found.append(("changed-during-run", f"by {attack.logits:.1e} inside an attack"))
    elif not attack.cosine >= COSINE:
        found.append(("changed-during-run", f"gradients, cosine {attack.cosine:.2f} inside an attack"))
    elif not attack.slopes >= JUMPING_COSINE:
        figure = f"cosine {attack.slopes:.2f} with finite differences inside an attack"
        found.append(("misleading-gradients", figure))
    if search is not None and not search <= COPY_DIFFERENCE:
        found.append(("search-copy-differs", f"by {search:.1e}"))
    return records(found)


def from_search(search: SearchRecord) -> tuple[FlagRecord, ...]:
    """Flag raised if attacks in reduced precision break fewer examples than in float32."""
    found = search.disagreement
    if found is None:
        return ()
    effect = net_share(found.weaker, found.stronger, found.verdicts)
    if not effect.exceeds(WEAKER):
        return ()
    figure = (
        f"of {found.verdicts} verdicts, {found.weaker} broken only in float32 and {found.stronger} only in "
        f"reduced precision (net {effect})"
    )
    return records([("reduced-precision", figure)])


def from_second_judgement(found: SecondJudgementRecord | None) -> tuple[FlagRecord, ...]:
    """Flag raised if a model that was loaded again gives other verdicts or logits. None: not compared."""
    if found is None:
        return ()
    broken = found.images - found.survivors
    figure = found.problem or (
        f"other verdicts on {found.survivors_differ} of {found.survivors} stored images of robust examples "
        f"and {found.broken_differ} of {broken} of broken ones; logits of clean images differ by "
        f"{found.clean_logits or 0:.1e}"
    )
    differs = found.broken_differ or found.survivors_differ or (found.clean_logits or 0) > CHANGED
    return records([("fresh-model-disagrees", figure)] if found.problem or differs else [])


def from_overlap(found: Overlap | None) -> tuple[FlagRecord, ...]:
    """Flag raised if the model was trained on the evaluated images. None: its training images are unknown."""
    if found is None or found.seen <= OVERLAP * found.compared:
        return ()
    figure = f"{found.seen} of the {found.compared} that can be compared with its training set"
    return records([("judged-on-training-images", figure)])


def _findings(checkpoint: CheckpointRecord, data: DataRecord, clean: ColumnRecord) -> Iterator[Finding]:
    claim = checkpoint_claims.clean_claim(checkpoint.trained_with)
    # A claim is about the test set of its own dataset.
    if claim is not None and data.split == "test" and checkpoint.dataset in (None, data.name):
        m = claim.n or clean.n
        pooled = (clean.n_robust + m * claim.accuracy) / (clean.n + m)
        deviation = sqrt(pooled * (1 - pooled) * (1 / clean.n + 1 / m))
        tolerance = _TEST_SET if claim.on_test_set else _HELD_OUT
        if abs(clean.accuracy - claim.accuracy) > tolerance + _Z * deviation:
            yield (
                "clean-accuracy-differs",
                f"{clean.accuracy:.1%} measured, {claim.accuracy:.1%} in its own record",
            )
    if checkpoint_claims.selected(checkpoint.trained_with, checkpoint.name) == "test":
        yield "selected-on-test", "according to the checkpoint's own record"
