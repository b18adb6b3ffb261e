"""Recompute the verdicts of a result with forward passes, on clean and on stored adversarial images.

Differences within float32 rounding between devices (a margin within 1e-4 of the logits' standard deviation)
are counted separately and do not fail a check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core import norms
from robust_eval.core.devices import full_precision
from robust_eval.core.logits import margin
from robust_eval.core.request import CLEAN
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.core.types import Bools, Ints
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.evaluation.judge import classify, is_correct
from robust_eval.results import EvalResult
from robust_eval.results.evidence import Evidence
from robust_eval.results.verification_record import CheckRecord

# The logits of one float32 network differ between devices by about 1e-5 of their standard deviation.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model on N images."""

    correct: Bools
    """(N,) predicted as labelled, with finite logits."""
    finite: Bools
    """(N,)"""
    margin: Tensor
    """(N,) true logit minus the largest other."""
    logit_std: float
    """Standard deviation of all finite logits."""

    def within_rounding(self, logit_std: float) -> Bools:
        """(N,) whether the margin is too small to decide between devices."""
        near: Bools = (self.margin.abs() <= ROUNDING * logit_std).cpu().numpy()
        return near


@torch.no_grad()
def predict(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, batch_size: int) -> Predictions:
    """Predictions under the judge's predicate, with margins. ``model``: [0, 1] pixels to logits, eval mode.

    :func:`robust_eval.evaluation.judge.judge` itself is not called: it returns no margins, and it counts an
    invalid image as robust, which verification reports as a failed check instead.
    """
    logits = torch.cat([model(x_NCHW[i : i + batch_size]) for i in range(0, len(x_NCHW), batch_size)])
    pred, finite = classify(logits)
    logit_std = float(logits[finite].std()) if finite.any() else 1.0
    correct = is_correct(pred, finite, y_N)
    return Predictions(correct.cpu().numpy(), finite.cpu().numpy(), margin(logits, y_N), logit_std)


def rejudge(
    result: EvalResult, evidence: Evidence, model: nn.Module, x_NCHW: Tensor, y_N: Tensor
) -> Iterator[CheckRecord]:
    """Checks of the predictions. ``model``: [0, 1] pixels to logits, eval mode, float32, on the device."""
    full_precision()
    threat, size = parse_threat(result.threat.norm, result.threat.eps), result.suite.batch_size
    clean = predict(model, x_NCHW, y_N, size)
    recorded = parse_bits(result.columns[CLEAN].robust_bits)
    differ = clean.correct != recorded
    rounding = differ & clean.within_rounding(clean.logit_std)
    yield _check(
        "clean predictions",
        int((differ & ~rounding).sum()),
        "{} of the clean verdicts differ from the model's predictions",
        f"{len(recorded)} recomputed, {int(clean.correct.sum())} correct{_rounding_note(rounding)}",
    )
    columns = [_ColumnEvidence(name, evidence, recorded, result) for name in result.columns if name != CLEAN]
    yield _unknown_columns(result, evidence)
    unusable = [column.name for column in columns if not column.fits(x_NCHW)]
    yield _complete(columns, unusable, result.evidence.images if result.evidence else 0)
    if unusable:
        return
    judged = [_judge_column(column, model, x_NCHW, y_N, threat, size, clean.logit_std) for column in columns]
    yield from _check_images(judged, threat)
    yield _worst_case(result, recorded, columns, judged)


class _ColumnEvidence:
    """The evidence of one column, and the examples that the result records as broken."""

    def __init__(self, name: str, evidence: Evidence, clean: Bools, result: EvalResult) -> None:
        self.name = name
        self.record = result.columns[name]
        self.indices, self.images = evidence.broken(name)
        self.recorded_broken: Ints = np.flatnonzero(clean & ~parse_bits(self.record.robust_bits))

    @property
    def missing_evidence(self) -> int:
        """Number of examples recorded as broken without an adversarial image."""
        return len(np.setdiff1d(self.recorded_broken, self.indices))

    @property
    def unlisted(self) -> int:
        """Number of images of examples recorded as robust, and of duplicates."""
        return len(self.indices) - len(np.intersect1d(self.recorded_broken, self.indices))

    def fits(self, x_NCHW: Tensor) -> bool:
        """Whether all indices are in range and the images have the shape of the clean ones."""
        known = not len(self.indices) or (self.indices.min() >= 0 and self.indices.max() < len(x_NCHW))
        return bool(known and (not len(self.indices) or self.images.shape[1:] == x_NCHW.shape[1:]))


def _unknown_columns(result: EvalResult, evidence: Evidence) -> CheckRecord:
    unknown = sorted(set(evidence.columns) - set(result.columns))
    detail = f"the evidence has columns that are missing from the result: {', '.join(unknown)}"
    return CheckRecord(
        name="columns", passed=not unknown, detail=detail if unknown else "the evidence has no other columns"
    )


def _complete(columns: Sequence[_ColumnEvidence], unusable: Sequence[str], recorded: int) -> CheckRecord:
    missing = {column.name: column.missing_evidence for column in columns if column.missing_evidence}
    unlisted = {column.name: column.unlisted for column in columns if column.unlisted}
    parts = [f"{name} records {n} broken examples without an image" for name, n in missing.items()]
    parts += [f"{name} has {n} images of examples not recorded as broken" for name, n in unlisted.items()]
    parts += [f"{name} has images of other examples or of another shape" for name in unusable]
    total = sum(len(column.indices) for column in columns)
    if not parts and total != recorded:
        parts.append(f"the file has {total} images, the record {recorded}")
    detail = "; ".join(parts) or f"one image for each of the {total} broken verdicts, and no other"
    return CheckRecord(name="evidence complete", passed=not parts, detail=detail)


@dataclass(frozen=True)
class _JudgedColumn:
    """The adversarial images of one column, judged again."""

    name: str
    indices: Ints
    outside: int
    """Number of images outside ball or box."""
    still_correct: Ints
    """Indices of examples that the model classifies correctly, by more than rounding."""
    rounding: Bools
    """(B,) classified correctly by no more than rounding."""
    nonfinite: int
    nonfinite_recorded: int


def _judge_column(
    column: _ColumnEvidence,
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel,
    size: int,
    logit_std: float,
) -> _JudgedColumn:
    """Judge every image of one column, in the batches of the run."""
    outside, correct, rounding, nonfinite = 0, [], [], 0
    for start in range(0, len(column.indices), size):
        batch = slice(start, start + size)
        chosen = torch.from_numpy(column.indices[batch]).to(x_NCHW.device)
        adv = torch.from_numpy(column.images[batch]).to(x_NCHW.device)
        inside = norms.in_ball(norms.distance(adv, x_NCHW[chosen], threat.norm), threat) & norms.in_box(adv)
        found = predict(model, adv, y_N[chosen], size)
        near = found.within_rounding(logit_std)
        outside += int((~inside).sum())
        nonfinite += int((~found.finite).sum())
        correct.append(column.indices[batch][found.correct & ~near])
        rounding.append(found.correct & near)
    return _JudgedColumn(
        column.name,
        column.indices,
        outside,
        np.concatenate(correct) if correct else np.empty(0, dtype=np.int64),
        np.concatenate(rounding) if rounding else np.empty(0, dtype=np.bool_),
        nonfinite,
        column.record.n_nonfinite,
    )


def _check_images(judged: Sequence[_JudgedColumn], threat: ThreatModel) -> Iterator[CheckRecord]:
    total = sum(len(column.indices) for column in judged)
    rounding = np.concatenate([column.rounding for column in judged] or [np.empty(0, dtype=np.bool_)])
    yield _check(
        "ball and box",
        sum(column.outside for column in judged),
        f"{{}} adversarial images are outside {threat}",
        f"{total} images within {threat} and [0, 1]",
    )
    yield _check(
        "still wrong",
        sum(len(column.still_correct) for column in judged),
        "{} adversarial images are classified correctly",
        f"the model misclassifies {total} of {total} images{_rounding_note(rounding)}",
    )
    yield _check(
        "finite outputs",
        sum(max(0, column.nonfinite - column.nonfinite_recorded) for column in judged),
        "{} images more than recorded have NaN or infinite logits",
        "no more NaN or infinite logits than recorded",
    )


def _worst_case(
    result: EvalResult, clean: Bools, columns: Sequence[_ColumnEvidence], judged: Sequence[_JudgedColumn]
) -> CheckRecord:
    worst = clean.copy()
    for column, found in zip(columns, judged, strict=True):
        worst[np.setdiff1d(column.indices, found.still_correct)] = False
    recorded = parse_bits(result.worst_case.robust_bits)
    return _check(
        "worst case",
        int((worst != recorded).sum()),
        "{} verdicts of the worst case differ from the evidence",
        f"{int(worst.sum())} of {len(worst)} robust against every attack, as recomputed from the images",
    )


def _check(name: str, wrong: int, failed: str, passed: str) -> CheckRecord:
    return CheckRecord(name=name, passed=not wrong, detail=failed.format(wrong) if wrong else passed)


def _rounding_note(rounding: Bools) -> str:
    count = int(rounding.sum())
    return f" ({count} decided by rounding alone)" if count else ""
