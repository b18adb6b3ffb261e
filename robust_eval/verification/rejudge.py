"""A result judged again with forward passes: clean predictions, and every image of the evidence.

A check never asks the record for what it can find out itself. What differs by no more than arithmetic
on another device explains (a margin within 1e-4 of the logits' spread) is counted apart, not failed.
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
from robust_eval.results import EvalResult
from robust_eval.results.evidence import Evidence
from robust_eval.results.verification_record import CheckRecord

# The devices that run one float32 network differ by about 1e-5 of its logits' spread.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Judged:
    """What the model says to some images, (N,) each."""

    right: Bools
    finite: Bools
    margin: torch.Tensor
    """True logit minus the largest other."""
    spread: float
    """Standard deviation of all finite logits."""

    def close(self, spread: float) -> Bools:
        """Decided by less than rounding."""
        near: Bools = (self.margin.abs() <= ROUNDING * spread).cpu().numpy()
        return near


@torch.no_grad()
def judge(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, batch_size: int) -> Judged:
    logits = torch.cat([model(x_NCHW[i : i + batch_size]) for i in range(0, len(x_NCHW), batch_size)])
    finite = logits.isfinite().all(1)
    right = (logits.argmax(1) == y_N) & finite
    spread = float(logits[finite].std()) if finite.any() else 1.0
    return Judged(right.cpu().numpy(), finite.cpu().numpy(), margin(logits, y_N), spread)


def rejudge(
    result: EvalResult, evidence: Evidence, model: nn.Module, x_NCHW: Tensor, y_N: Tensor
) -> Iterator[CheckRecord]:
    """Checks of the predictions. ``model``: [0, 1] pixels to logits, eval mode, float32, on the device."""
    full_precision()
    threat, size = parse_threat(result.threat.norm, result.threat.eps), result.suite.batch_size
    clean = judge(model, x_NCHW, y_N, size)
    recorded = parse_bits(result.columns[CLEAN].robust_bits)
    differ = clean.right != recorded
    close = differ & clean.close(clean.spread)
    yield _check(
        "clean predictions",
        int((differ & ~close).sum()),
        "{} of the clean verdicts are not what the model says",
        f"{len(recorded)} recomputed, {int(clean.right.sum())} right{_rounding(close)}",
    )
    columns = [_Column(name, evidence, recorded, result) for name in result.columns if name != CLEAN]
    yield _unknown_columns(result, evidence)
    strange = [column.name for column in columns if not column.fits(x_NCHW)]
    yield _complete(columns, strange, result.evidence.images if result.evidence else 0)
    if strange:
        return
    found = [_images(column, model, x_NCHW, y_N, threat, size, clean.spread) for column in columns]
    yield from _on_images(found, threat)
    yield _worst_case(result, recorded, columns, found)


class _Column:
    """One column's evidence beside what the record claims of it."""

    def __init__(self, name: str, evidence: Evidence, clean: Bools, result: EvalResult) -> None:
        self.name = name
        self.record = result.columns[name]
        self.indices, self.images = evidence.broken(name)
        self.claimed: Ints = np.flatnonzero(clean & ~parse_bits(self.record.robust_bits))

    @property
    def unproven(self) -> int:
        """Examples said to be broken without an image that shows it."""
        return len(np.setdiff1d(self.claimed, self.indices))

    @property
    def hidden(self) -> int:
        """Images of examples that the record calls robust, or images that come twice."""
        return len(self.indices) - len(np.intersect1d(self.claimed, self.indices))

    def fits(self, x_NCHW: Tensor) -> bool:
        known = not len(self.indices) or (self.indices.min() >= 0 and self.indices.max() < len(x_NCHW))
        return bool(known and (not len(self.indices) or self.images.shape[1:] == x_NCHW.shape[1:]))


def _unknown_columns(result: EvalResult, evidence: Evidence) -> CheckRecord:
    unknown = sorted(set(evidence.columns) - set(result.columns))
    detail = f"the evidence has columns that the result leaves out: {', '.join(unknown)}"
    return CheckRecord(
        name="columns", passed=not unknown, detail=detail if unknown else "the evidence knows no others"
    )


def _complete(columns: Sequence[_Column], strange: Sequence[str], recorded: int) -> CheckRecord:
    unproven = {column.name: column.unproven for column in columns if column.unproven}
    hidden = {column.name: column.hidden for column in columns if column.hidden}
    parts = [f"{name} claims {n} broken without an image" for name, n in unproven.items()]
    parts += [f"{name} hides {n} broken images" for name, n in hidden.items()]
    parts += [f"{name} has images of other examples or another shape" for name in strange]
    total = sum(len(column.indices) for column in columns)
    if not parts and total != recorded:
        parts.append(f"the file has {total} images, the record {recorded}")
    detail = "; ".join(parts) or f"an image for each of the {total} verdicts that say broken, and no other"
    return CheckRecord(name="evidence complete", passed=not parts, detail=detail)


@dataclass(frozen=True)
class _Found:
    name: str
    indices: Ints
    outside: int
    still_right: Ints
    """Indices of examples that the model gets right."""
    close: Bools
    nonfinite: int
    nonfinite_recorded: int


def _images(
    column: _Column,
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel,
    size: int,
    spread: float,
) -> _Found:
    """Every image of one column, in the batches of the run."""
    outside, right, close, nonfinite = 0, [], [], 0
    for start in range(0, len(column.indices), size):
        batch = slice(start, start + size)
        chosen = torch.from_numpy(column.indices[batch]).to(x_NCHW.device)
        adv = torch.from_numpy(column.images[batch]).to(x_NCHW.device)
        inside = norms.in_ball(norms.distance(adv, x_NCHW[chosen], threat.norm), threat) & norms.in_box(adv)
        judged = judge(model, adv, y_N[chosen], size)
        outside += int((~inside).sum())
        nonfinite += int((~judged.finite).sum())
        right.append(column.indices[batch][judged.right & ~judged.close(spread)])
        close.append(judged.right & judged.close(spread))
    return _Found(
        column.name,
        column.indices,
        outside,
        np.concatenate(right) if right else np.empty(0, dtype=np.int64),
        np.concatenate(close) if close else np.empty(0, dtype=np.bool_),
        nonfinite,
        column.record.n_nonfinite,
    )


def _on_images(found: Sequence[_Found], threat: ThreatModel) -> Iterator[CheckRecord]:
    total = sum(len(column.indices) for column in found)
    close = np.concatenate([column.close for column in found] or [np.empty(0, dtype=np.bool_)])
    yield _check(
        "ball and box",
        sum(column.outside for column in found),
        f"{{}} adversarial images are outside {threat}",
        f"{total} images within {threat} and [0, 1]",
    )
    yield _check(
        "still wrong",
        sum(len(column.still_right) for column in found),
        "{} adversarial images are classified correctly",
        f"the model is wrong on {total} of {total} images{_rounding(close)}",
    )
    yield _check(
        "finite outputs",
        sum(max(0, column.nonfinite - column.nonfinite_recorded) for column in found),
        "{} images more than recorded give NaN or infinity",
        "no more NaN or infinity than recorded",
    )


def _worst_case(
    result: EvalResult, clean: Bools, columns: Sequence[_Column], found: Sequence[_Found]
) -> CheckRecord:
    worst = clean.copy()
    for column, seen in zip(columns, found, strict=True):
        worst[np.setdiff1d(column.indices, seen.still_right)] = False
    recorded = parse_bits(result.worst_case.robust_bits)
    return _check(
        "worst case",
        int((worst != recorded).sum()),
        "{} verdicts of the worst case are not what the evidence shows",
        f"{int(worst.sum())} of {len(worst)} withstood every attack, as recomputed from the images",
    )


def _check(name: str, wrong: int, failed: str, passed: str) -> CheckRecord:
    return CheckRecord(name=name, passed=not wrong, detail=failed.format(wrong) if wrong else passed)


def _rounding(close: Bools) -> str:
    count = int(close.sum())
    return f" ({count} decided by rounding alone)" if count else ""
