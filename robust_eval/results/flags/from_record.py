"""Flags of the circumstances: what the checkpoint says of itself, and what changed while it was judged."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from robust_eval.core.image_sketch import Overlap
from robust_eval.results import (
    CheckpointRecord,
    ColumnRecord,
    DataRecord,
    FlagRecord,
    SearchRecord,
    checkpoint_claims,
)
from robust_eval.results.flags.rules import Finding, records

CHANGED = 1e-4
COPY = 1e-3
"""Folding, another memory layout and other kernels move float32 logits by some 1e-6."""
_SAME, _OTHER = 0.003, 0.05
"""Slack for the same images in another library, and for images of the training set's distribution."""
_Z = 3.29
WEAKER, WEAKER_COUNT = 0.01, 1
"""Of the verdicts on the sample, net."""
SEEN = 0.01
"""Real test sets hold a few copies of training images: CIFAR-10 has some (Barz and Denzler 2020)."""


def from_record(
    checkpoint: CheckpointRecord, data: DataRecord, clean: ColumnRecord
) -> tuple[FlagRecord, ...]:
    """Flags that follow from the checkpoint's own record; they can be raised again from a result file."""
    return records(_findings(checkpoint, data, clean))


def from_changes(after: float, search: float | None) -> tuple[FlagRecord, ...]:
    """``after``: largest difference between a model's logits before and after the attacks; ``search``:
    between the judged model and the copy that attacks searched on. In units of the logits' spread.
    """
    found = []
    if not after <= CHANGED:
        found.append(("changed-during-run", f"by {after:.1e}"))
    if search is not None and not search <= COPY:
        found.append(("search-copy-differs", f"by {search:.1e}"))
    return records(found)


def from_search(search: SearchRecord) -> tuple[FlagRecord, ...]:
    """Did the reduced precision of a search cost it successes?"""
    found = search.disagreement
    if found is None or found.weaker - found.stronger <= max(WEAKER_COUNT, WEAKER * found.verdicts):
        return ()
    figure = (
        f"of {found.verdicts} verdicts {found.weaker} broken by float32 alone, {found.stronger} the other way"
    )
    return records([("reduced-precision", figure)])


def from_overlap(found: Overlap | None) -> tuple[FlagRecord, ...]:
    """Was the model trained on the images it is judged on? None: its checkpoint does not say."""
    if found is None or found.seen <= SEEN * found.compared:
        return ()
    figure = f"{found.seen} of the {found.compared} that can be compared with its training set"
    return records([("judged-on-training-images", figure)])


def _findings(checkpoint: CheckpointRecord, data: DataRecord, clean: ColumnRecord) -> Iterator[Finding]:
    said = checkpoint.trained_with
    claim = checkpoint_claims.clean_claim(said)
    # Of other data, or of training images, the record says nothing.
    if claim is not None and data.split == "test" and checkpoint.dataset in (None, data.name):
        m = claim.n or clean.n
        pooled = (clean.n_robust + m * claim.accuracy) / (clean.n + m)
        spread = sqrt(pooled * (1 - pooled) * (1 / clean.n + 1 / m))
        slack = _SAME if claim.same else _OTHER
        if abs(clean.accuracy - claim.accuracy) > slack + _Z * spread:
            yield (
                "clean-accuracy-differs",
                f"{clean.accuracy:.1%} here, {claim.accuracy:.1%} by its own record",
            )
    if checkpoint_claims.selected(said, checkpoint.name) == "test":
        yield "selected-on-test", "by the checkpoint's own record"
