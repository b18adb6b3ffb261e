"""What verification takes on trust: the one list that ``verify`` prints and records, and that boards show."""

from __future__ import annotations

from collections.abc import Iterator

from robust_eval.core.text import count_of
from robust_eval.core.types import FLOAT32
from robust_eval.results import EvalResult
from robust_eval.results.verification_record import AuditRecord

GENERAL = (
    "Images recorded as robust: forward passes show that an image was broken, not that an attack failed. "
    "Only an audit attacks such images again.",
    "Images that an attack moved outside the ball or the box: they count as robust and are not stored.",
    "Settings: whether the attacks ran with the recorded parameters, precision and library versions, and "
    "took the recorded seconds and passes. An audit that repeats the stored images bit for bit shows the "
    "parameters.",
    "What only a run measures: the model's answers before, during and after the attacks, the second "
    "judgement and the diagnosis, and with them the absence of their flags.",
    "Texts: the notes of checkpoint and attacks, citations, and the figures and sentences of flags.",
    "The strength of a custom suite, and of versions that the release does not have.",
    "The checkpoint's name, the environment, the command and the date.",
    "What a checkpoint records about its own training, such as the images it was selected on.",
    "The word verified: whoever maintains the board states it. Run verify on a row to check it.",
)
"""For any row, in sentences: shown once on every board."""


def taken_on_trust(result: EvalResult, audit: AuditRecord | None, suite: str) -> Iterator[str]:
    """What one verification does not cover, as phrases with the row's figures.

    ``suite``: the label of the suite if it could not be compared with one of this release, else empty.
    """
    robust = result.worst_case.n_robust if audit is None else audit.of - audit.n
    if robust:
        yield f"{robust:,} images are recorded as robust and were not attacked again (--audit N does)"
    columns = [name for name, column in result.columns.items() if column.attacks]
    rest = [] if audit is None else [name for name in columns if name not in audit.columns]
    if rest:
        yield f"the audit did not repeat {', '.join(rest)}"
    if invalid := sum(column.n_invalid for column in result.columns.values()):
        yield f"{count_of(invalid, 'image')} outside ball or box: not in the evidence"
    if audit is None or rest or robust or not audit.exact:
        precision = "" if result.suite.precision == FLOAT32 else f", with attacks in {result.suite.precision}"
        yield f"whether the attacks ran with the recorded settings{precision}"
    if suite:
        yield f"whether the attacks of suite {suite} are strong"
    if result.second_judgement is None:
        yield "that a model loaded again after the attacks gives the same verdicts: it is not recorded"
    yield "what only a run measures: the model's answers around the attacks, second judgement, diagnosis"
    yield "notes, citations, and the figures and sentences of flags"
    yield "library versions, seconds and passes"
    yield "the checkpoint's name, environment, command and date"
    if result.checkpoint.trained_with:
        yield "what the checkpoint records about its own training"
