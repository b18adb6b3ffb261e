"""Adversarial loss under weight perturbations of growing size (Wu, Xia and Wang 2020, Figure 3a).

RWP is a random direction, AWP the direction of the gradient; both have norm(v_l) = gamma norm(w_l) in every
layer l, so that equal gamma means equal size. The paper does not state on which images the loss is measured.
Both choices are reported: images made at w, and images made anew at w+v, which give rho(w+v) as defined in
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from robust_eval.core.errors import UserError, unknown
from robust_eval.landscape.awp.points import (
    DirectionKind,
    Displacement,
    ImageSource,
    WeightPoint,
    weight_point,
)
from robust_eval.landscape.awp.scan import Losses, Scan, cost, model_record
from robust_eval.landscape.checkpoints import ComparedModel

KIND = "weight-perturbation"
KINDS: tuple[DirectionKind, ...] = ("awp", "rwp")


@dataclass(frozen=True)
class PerturbationCurve:
    """Loss of one checkpoint against gamma, for one kind of perturbation and one image source."""

    label: str
    kind: DirectionKind
    images: ImageSource
    gammas: NDArray[np.float64]
    losses: NDArray[np.float64]
    """Shape (draws, gammas), nats; one draw for AWP; NaN if not finite."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the draws."""
        mean: NDArray[np.float64] = self.losses.mean(0)
        return mean

    def not_finite(self) -> list[float]:
        """Gammas at which a draw has no finite loss."""
        return [float(gamma) for gamma in self.gammas[~np.isfinite(self.losses).all(0)]]


def parse_kinds(text: str) -> tuple[DirectionKind, ...]:
    """``awp,rwp`` in any order. Raises :class:`UserError` for unknown and repeated kinds."""
    names = [part.strip().lower() for part in text.split(",")]
    for name in names:
        if name not in KINDS:
            raise unknown("weight perturbation", name, KINDS)
    if len(set(names)) != len(names):
        raise UserError(f"--kinds names a perturbation twice: '{text}'.")
    return tuple(kind for kind in KINDS if kind in names)


def _displacements(kind: DirectionKind, draws: int, gamma: float) -> list[Displacement]:
    return [Displacement(kind, number, gamma) for number in range(1 if kind == "awp" else draws)]


def plan(kinds: Sequence[DirectionKind], gammas: Sequence[float], draws: int) -> list[WeightPoint]:
    """The points to measure: w, then kind by kind and gamma by gamma."""
    wanted = [weight_point()]
    for kind in kinds:
        for gamma in gammas:
            for displacement in _displacements(kind, draws, gamma):
                wanted += [weight_point(displacement, images=images) for images in get_args(ImageSource)]
    return wanted


def perturbation_curves(
    scan: Scan, kinds: Sequence[DirectionKind], gammas: Sequence[float], losses: Losses
) -> list[PerturbationCurve]:
    """One curve per checkpoint, kind of perturbation and image source, from measured points."""

    def curve(model: ComparedModel, kind: DirectionKind, images: ImageSource) -> PerturbationCurve:
        columns = [
            [
                losses[model.label, weight_point(displacement, images=images)].value
                for displacement in _displacements(kind, scan.directions.count, gamma)
            ]
            for gamma in gammas
        ]
        return PerturbationCurve(model.label, kind, images, np.array(gammas), np.array(columns).T)

    return [
        curve(model, kind, images)
        for model in scan.comparison.models
        for kind in kinds
        for images in get_args(ImageSource)
    ]


def to_data(scan: Scan, curves: Sequence[PerturbationCurve], losses: Losses) -> dict[str, Any]:
    """The content of the JSON file."""
    entries = []
    for model in scan.comparison.models:
        entries.append(
            {
                **model_record(model, losses),
                "loss_at_w": losses[model.label, weight_point()].loss,
                "responses": [
                    {
                        "perturbation": one.kind,
                        "images": one.images,
                        "loss_mean": one.mean,
                        "loss": one.losses,
                        "not_finite": one.not_finite(),
                    }
                    for one in curves
                    if one.label == model.label
                ],
            }
        )
    return {
        "kind": KIND,
        **scan.record(),
        "size": "norm(v_l) = gamma norm(w_l) for every weight of more than one dimension",
        "awp": "one step along the gradient of each batch's mean loss at w, on images made at w, eval mode",
        "images": "at-w: made at w; anew: made at w+v",
        "gammas": curves[0].gammas,
        "checkpoints": entries,
        "cost": cost(losses),
    }
