"""Recompute the verdicts of a result with forward passes, on stored adversarial and on clean images.

The adversarial images come first, all columns mixed, before the model has seen a clean image: a model that
remembers images has nothing to recognise them by. Every image is judged in two orders and batch sizes, which
must agree. Differences within float32 rounding between devices (a margin within 1e-4 of the logits' standard
deviation) are counted separately and do not fail a check.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core import norms
from robust_eval.core.devices import full_precision
from robust_eval.core.float_images import Images
from robust_eval.core.request import CLEAN
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.core.types import Bools, Ints
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.results import EvalResult
from robust_eval.results.evidence import Evidence
from robust_eval.results.verification_record import CheckRecord
from robust_eval.verification.predictions import TwoPredictions, predict_twice


def rejudge(
    result: EvalResult, evidence: Evidence, model: nn.Module, x_NCHW: Images, y_N: Tensor
) -> Iterator[CheckRecord]:
    """Checks of the predictions. ``model``: [0, 1] pixels to logits, eval mode, float32, on the device."""
    full_precision()
    threat, size = parse_threat(result.threat.norm, result.threat.eps), result.suite.batch_size
    recorded = parse_bits(result.columns[CLEAN].robust_bits)
    columns = [_ColumnEvidence(name, evidence, recorded, result) for name in result.columns if name != CLEAN]
    unusable = [column.name for column in columns if not column.fits(x_NCHW)]
    images = _StoredImages([] if unusable else columns, x_NCHW)
    stored = predict_twice(model, images, y_N[images.examples], size)
    clean = predict_twice(model, x_NCHW, y_N, size)
    logit_std = clean.first.logit_std
    yield _clean(clean, recorded)
    yield _stable(stored, clean, size)
    yield _unknown_columns(result, evidence)
    yield _complete(columns, unusable, result.evidence.images if result.evidence else 0)
    if unusable:
        return
    yield _inside(images, threat)
    yield _still_wrong(stored, logit_std)
    yield _finite(stored, columns)
    wrong = images.examples[~torch.from_numpy(_still_correct(stored, logit_std))]
    yield _worst_case(result, recorded, wrong)


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

    def fits(self, x_NCHW: Images) -> bool:
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


class _StoredImages:
    """The adversarial images of all columns, one column after the other."""

    def __init__(self, columns: Sequence[_ColumnEvidence], x_NCHW: Images) -> None:
        self.columns, self.x = columns, x_NCHW
        self.starts = np.cumsum([0, *(len(column.indices) for column in columns)])
        indices = np.concatenate([np.empty(0, dtype=np.int64), *(column.indices for column in columns)])
        self.examples = torch.from_numpy(indices)
        """(N,) the example of each image."""

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, rows: Tensor) -> Tensor:
        numbers = rows.cpu().numpy()
        which = np.searchsorted(self.starts, numbers, side="right") - 1
        images = [self.columns[c].images[row - self.starts[c]] for c, row in zip(which, numbers, strict=True)]
        return torch.from_numpy(np.stack(images)).to(self.x.device)


def _clean(clean: TwoPredictions, recorded: Bools) -> CheckRecord:
    differ = clean.correct() != recorded
    rounding = differ & clean.within_rounding(clean.first.logit_std)
    return _check(
        "clean predictions",
        int((differ & ~rounding).sum()),
        "{} of the clean verdicts differ from the model's predictions",
        f"{len(recorded)} recomputed, {int(clean.correct().sum())} correct{_rounding_note(rounding)}",
    )


def _stable(stored: TwoPredictions, clean: TwoPredictions, size: int) -> CheckRecord:
    passed = f"the same in two orders, in batches of {size} and smaller ones"
    if writes := stored.writes + clean.writes:
        detail = f"the model changed {writes} of the batches that it was given"
        return CheckRecord(name="stable predictions", passed=False, detail=detail)
    return _check(
        "stable predictions",
        stored.unstable(clean.first.logit_std) + clean.unstable(clean.first.logit_std),
        "{} predictions depend on the other images of the batch, or on those before it",
        passed,
    )


def _inside(images: _StoredImages, threat: ThreatModel) -> CheckRecord:
    outside = 0
    for rows in torch.split(torch.arange(len(images)), 500) if len(images) else ():
        adv, x = images[rows], images.x[images.examples[rows]]
        inside = norms.in_ball(norms.distance(adv, x, threat.norm), threat) & norms.in_box(adv)
        outside += int((~inside).sum())
    return _check(
        "ball and box",
        outside,
        f"{{}} adversarial images are outside {threat}",
        f"{len(images)} images within {threat} and [0, 1]",
    )


def _still_correct(stored: TwoPredictions, logit_std: float) -> Bools:
    """(N,) whether the model classifies an adversarial image correctly, by more than rounding."""
    correct: Bools = stored.ever_correct() & ~stored.within_rounding(logit_std)
    return correct


def _still_wrong(stored: TwoPredictions, logit_std: float) -> CheckRecord:
    correct = _still_correct(stored, logit_std)
    rounding = stored.ever_correct() & ~correct
    return _check(
        "still wrong",
        int(correct.sum()),
        "{} adversarial images are classified correctly",
        f"the model misclassifies {len(correct)} of {len(correct)} images{_rounding_note(rounding)}",
    )


def _finite(stored: TwoPredictions, columns: Sequence[_ColumnEvidence]) -> CheckRecord:
    finite, start, more = stored.first.finite & stored.second.finite, 0, 0
    for column in columns:
        end = start + len(column.indices)
        more += max(0, int((~finite[start:end]).sum()) - column.record.n_nonfinite)
        start = end
    return _check(
        "finite outputs",
        more,
        "{} images more than recorded have NaN or infinite logits",
        "no more NaN or infinite logits than recorded",
    )


def _worst_case(result: EvalResult, clean: Bools, wrong: Tensor) -> CheckRecord:
    """``wrong``: examples of the images that the model misclassifies."""
    worst = clean.copy()
    worst[wrong.numpy()] = False
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
