"""The 2-D relative landscape abs(g(a, b) - g(0, 0)) over two directions (Wu, Xia and Wang 2020, App. B.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.landscape.awp.points import Displacement, WeightPoint, weight_point
from robust_eval.landscape.awp.scan import Losses, Scan, cost, model_record
from robust_eval.landscape.checkpoints import ComparedModel
from robust_eval.landscape.directions import cosine, filter_normalised, perturbable_weights

KIND = "landscape-2d"


@dataclass(frozen=True)
class Plane:
    """g(a, b) of one checkpoint over the first two directions."""

    label: str
    alphas: NDArray[np.float64]
    losses: NDArray[np.float64]
    """Shape (b, a), nats; NaN if not finite."""

    @property
    def at_w(self) -> float:
        """g(0, 0)."""
        middle = len(self.alphas) // 2
        return float(self.losses[middle, middle])

    @property
    def relative(self) -> NDArray[np.float64]:
        """abs(g(a, b) - g(0, 0)), shape (b, a)."""
        return np.abs(self.losses - self.at_w)

    @property
    def sharpness(self) -> float | None:
        """Mean of the relative landscape over the grid, in nats; None if a point is not finite."""
        return float(self.relative.mean()) if np.isfinite(self.relative).all() else None

    def not_finite(self) -> list[dict[str, float]]:
        """Coordinates of the points without a finite loss."""
        return [
            {"a": float(self.alphas[a]), "b": float(self.alphas[b])}
            for b, a in np.argwhere(~np.isfinite(self.losses))
        ]


def _at(a: float, b: float) -> WeightPoint:
    return weight_point(Displacement("filter", 0, a), Displacement("filter", 1, b))


def plan(alphas: Sequence[float]) -> list[WeightPoint]:
    """The points to measure, without duplicates, w first; those on the axes belong to the 1-D landscape."""
    return list(dict.fromkeys([weight_point(), *(_at(a, b) for b in alphas for a in alphas)]))


def planes(scan: Scan, alphas: Sequence[float], losses: Losses) -> list[Plane]:
    """One plane per checkpoint from measured points."""

    def plane(model: ComparedModel) -> Plane:
        values = [[losses[model.label, _at(a, b)].value for a in alphas] for b in alphas]
        return Plane(model.label, np.array(alphas), np.array(values))

    return [plane(model) for model in scan.comparison.models]


def to_data(scan: Scan, planes: Sequence[Plane], losses: Losses) -> dict[str, Any]:
    """The content of the JSON file."""
    entries = [
        {
            **model_record(model, losses),
            "loss_at_0": one.at_w,
            "cosine_of_directions": _cosine(scan, model),
            "sharpness": one.sharpness,
            "not_finite": one.not_finite(),
            "loss": one.losses,
            "relative": one.relative,
        }
        for model, one in zip(scan.comparison.models, planes, strict=True)
    ]
    return {
        "kind": KIND,
        **scan.record(),
        "normalisation": "by filter; parameters of one dimension do not move",
        "sharpness_unit": "mean abs(g(a, b) - g(0, 0)) over the grid, in nats",
        "order": "loss[row b][column a]; a along direction 0, b along direction 1",
        "alphas": planes[0].alphas,
        "checkpoints": entries,
        "cost": cost(losses),
    }


def _cosine(scan: Scan, model: ComparedModel) -> float:
    weights = {name: weight.cpu() for name, weight in perturbable_weights(model.model.network).items()}
    one, other = (filter_normalised(scan.directions.raw(number), weights) for number in (0, 1))
    return cosine(one, other)
