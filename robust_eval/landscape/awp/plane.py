"""The 2-D relative landscape abs(g(a, b) - g(0, 0)) over two directions (Wu, Xia, Wang 2020, App. B.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.landscape.awp.points import Move, Point, point
from robust_eval.landscape.awp.scan import Scan, Values, forwards, subject_record
from robust_eval.landscape.checkpoints import Subject
from robust_eval.landscape.directions import cosine, filter_normalised, movable

KIND = "landscape-2d"


@dataclass(frozen=True)
class Plane:
    """One checkpoint over the first two directions."""

    label: str
    alphas: NDArray[np.float64]
    losses: NDArray[np.float64]
    """(b, a), nats; NaN where not finite."""

    @property
    def at_w(self) -> float:
        middle = len(self.alphas) // 2
        return float(self.losses[middle, middle])

    @property
    def relative(self) -> NDArray[np.float64]:
        """abs(g(a, b) - g(0, 0)), shape (b, a)."""
        return np.abs(self.losses - self.at_w)

    @property
    def sharpness(self) -> float | None:
        """Mean of the relative landscape over the grid, in nats; None where a point is not finite."""
        return float(self.relative.mean()) if np.isfinite(self.relative).all() else None

    def not_finite(self) -> list[dict[str, float]]:
        return [
            {"a": float(self.alphas[a]), "b": float(self.alphas[b])}
            for b, a in np.argwhere(~np.isfinite(self.losses))
        ]


def _at(a: float, b: float) -> Point:
    return point(Move("filter", 0, a), Move("filter", 1, b))


def plan(alphas: Sequence[float]) -> list[Point]:
    """Every point once; w first. On the axes they are the points of the 1-D landscape."""
    return list(dict.fromkeys([point(), *(_at(a, b) for b in alphas for a in alphas)]))


def planes(scan: Scan, alphas: Sequence[float], values: Values) -> list[Plane]:
    """One plane per checkpoint from measured points."""

    def one(subject: Subject) -> Plane:
        losses = [[values[subject.label, _at(a, b)].value for a in alphas] for b in alphas]
        return Plane(subject.label, np.array(alphas), np.array(losses))

    return [one(subject) for subject in scan.subjects.each]


def to_data(scan: Scan, found: Sequence[Plane], values: Values) -> dict[str, Any]:
    """Everything the figure shows and how it was made."""
    entries = [
        {
            **subject_record(scan, subject, values),
            "loss_at_0": one.at_w,
            "cosine_of_directions": _cosine(scan, subject),
            "sharpness": one.sharpness,
            "not_finite": one.not_finite(),
            "loss": one.losses,
            "relative": one.relative,
        }
        for subject, one in zip(scan.subjects.each, found, strict=True)
    ]
    return {
        "kind": KIND,
        **scan.record(),
        "normalisation": "by filter; parameters of one dimension do not move",
        "sharpness_unit": "mean abs(g(a, b) - g(0, 0)) over the grid, in nats",
        "order": "loss[row b][column a]; a along direction 0, b along direction 1",
        "alphas": found[0].alphas,
        "checkpoints": entries,
        "cost": forwards(values),
    }


def _cosine(scan: Scan, subject: Subject) -> float:
    weights = {name: weight.cpu() for name, weight in movable(subject.model.network).items()}
    one, other = (filter_normalised(scan.directions.raw(number), weights) for number in (0, 1))
    return cosine(one, other)
