"""Adversarial loss under weight perturbations of growing size (Wu, Xia, Wang 2020, Figure 3a).

RWP is a random direction, AWP the gradient's; both have norm(v_l) = gamma norm(w_l) in every layer l, so that
one gamma is one size. The paper does not say which images it shows; both kinds are measured: those made at w
(what the perturbed model has never seen is not held against it) and those made anew at w+v, which is the
adversarial loss rho(w+v) itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from robust_eval.core.errors import UserError, unknown
from robust_eval.landscape.awp.points import Images, Kind, Move, Point, point
from robust_eval.landscape.awp.scan import Scan, Values, forwards, subject_record
from robust_eval.landscape.checkpoints import Subject

KIND = "weight-perturbation"
KINDS: tuple[Kind, ...] = ("awp", "rwp")
# From the size at which AWP begins to act (Figure 2b) to the size at which RWP does (Figure 3c).
GAMMAS = "1e-4,1e-3,2.5e-3,5e-3,1e-2,2e-2,1e-1,3e-1,6e-1,1,2"
BATCH = 128
DRAWS = 5


@dataclass(frozen=True)
class Response:
    """One checkpoint under one kind of perturbation, shown one kind of images."""

    label: str
    kind: Kind
    images: Images
    gammas: NDArray[np.float64]
    losses: NDArray[np.float64]
    """(draws, gammas), nats; one draw for AWP; NaN where not finite."""

    @property
    def mean(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.losses.mean(0)
        return found

    def not_finite(self) -> list[float]:
        """Gammas at which a draw has no finite loss."""
        return [float(gamma) for gamma in self.gammas[~np.isfinite(self.losses).all(0)]]


def kinds(text: str) -> tuple[Kind, ...]:
    """``awp,rwp`` in any order."""
    found = [part.strip().lower() for part in text.split(",")]
    for name in found:
        if name not in KINDS:
            raise unknown("weight perturbation", name, KINDS)
    if len(set(found)) != len(found):
        raise UserError(f"--perturbation names something twice: '{text}'.")
    return tuple(kind for kind in KINDS if kind in found)


def _moves(kind: Kind, draws: int, gamma: float) -> list[Move]:
    return [Move(kind, number, gamma) for number in range(1 if kind == "awp" else draws)]


def plan(chosen: Sequence[Kind], gammas: Sequence[float], draws: int) -> list[Point]:
    """w, then kind by kind and gamma by gamma."""
    wanted = [point()]
    for kind in chosen:
        for gamma in gammas:
            for move in _moves(kind, draws, gamma):
                wanted += [point(move, images=images) for images in get_args(Images)]
    return wanted


def responses(scan: Scan, chosen: Sequence[Kind], gammas: Sequence[float], values: Values) -> list[Response]:
    """Every checkpoint under every kind, with images of both kinds."""

    def one(subject: Subject, kind: Kind, images: Images) -> Response:
        columns = [
            [
                values[subject.label, point(move, images=images)].value
                for move in _moves(kind, scan.directions.count, gamma)
            ]
            for gamma in gammas
        ]
        return Response(subject.label, kind, images, np.array(gammas), np.array(columns).T)

    return [
        one(subject, kind, images)
        for subject in scan.subjects.each
        for kind in chosen
        for images in get_args(Images)
    ]


def to_data(scan: Scan, found: Sequence[Response], values: Values) -> dict[str, Any]:
    """Everything the figure shows and how it was made."""
    entries = []
    for subject in scan.subjects.each:
        entries.append(
            {
                **subject_record(scan, subject, values),
                "loss_at_w": values[subject.label, point()].loss,
                "responses": [
                    {
                        "perturbation": one.kind,
                        "images": one.images,
                        "loss_mean": one.mean,
                        "loss": one.losses,
                        "not_finite": one.not_finite(),
                    }
                    for one in found
                    if one.label == subject.label
                ],
            }
        )
    return {
        "kind": KIND,
        **scan.record(),
        "size": "norm(v_l) = gamma norm(w_l) for every weight of more than one dimension",
        "awp": "one step along the gradient of each batch's mean loss at w, on images made at w, eval mode",
        "images": "at-w: made at w; anew: made at w+v",
        "gammas": found[0].gammas,
        "checkpoints": entries,
        "cost": forwards(values),
    }
