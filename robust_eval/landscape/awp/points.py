"""What is measured where, as records: pure, so that a scan can be planned, stored and resumed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from robust_eval import attacks
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.files import write_text, writing
from robust_eval.core.request import digest
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import AttackSpec, CheckpointRef, Slice

VERSION = 1
"""Rises whenever the meaning of a stored point changes."""

Kind = Literal["filter", "rwp", "awp"]
Images = Literal["anew", "at-w"]


@dataclass(frozen=True)
class Move:
    """``size`` along a direction: random and filter-normalised, random and normalised by tensor (RWP), or the
    gradient's, normalised by tensor (AWP)."""

    kind: Kind
    number: int
    """Which random direction; 0 for AWP."""
    size: float


@dataclass(frozen=True)
class Point:
    """Where the weights are, and which adversarial images are shown there.

    ``anew``: made at the displaced weights (Algorithm 1); ``at-w``: made once at w. No moves: w itself.
    """

    moves: tuple[Move, ...] = ()
    images: Images = "anew"
    checked: bool = False
    """Searched in float32 whatever the scan's precision is, to tell what that precision costs."""


def point(*moves: Move, images: Images = "anew") -> Point:
    """Moves of size 0 are none: at w all directions, and both kinds of images, are one point."""
    real = tuple(move for move in moves if move.size != 0)
    return Point(real, images if real else "anew")


def alphas(span: Fraction, points: int) -> tuple[float, ...]:
    """``points`` (odd) equal steps from -span to span; 0 is exactly among them."""
    half = (points - 1) // 2
    return tuple(float(span * Fraction(step, half)) for step in range(-half, half + 1))


class Measured(ClosedModel):
    """The adversarial loss at one point.

    ``loss`` is the mean cross-entropy in nats, None where it is not finite; ``accuracy`` the share of
    images that the displaced model still gets right under the attack.
    """

    key: str
    loss: float | None
    accuracy: Annotated[float, Field(ge=0, le=1)]
    forwards: Annotated[int, Field(ge=0)]
    backwards: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]

    @property
    def value(self) -> float:
        """The loss; NaN where it is not finite."""
        return math.nan if self.loss is None else self.loss


@dataclass(frozen=True)
class Setting:
    """Everything but the point and the checkpoint that a measured loss depends on."""

    data: Slice
    threat: ThreatModel
    attack: AttackSpec
    batch_size: int
    """Images attacked at once; for AWP also the batch whose loss v raises."""
    seed: int
    directions: str
    """Where the random directions come from."""
    precision: str = "float32"
    """Of the attack's search; losses are always measured in float32."""
    library: str = field(default_factory=lambda: attacks.library("pgd"))

    def identity(self) -> dict[str, Any]:
        return {**asdict(self), "threat": str(self.threat), "version": VERSION}


def key(setting: Setting, ref: CheckpointRef, place: Point) -> str:
    """Names a measured point: equal for equal questions, and for no others."""
    if place.checked:
        setting, place = replace(setting, precision="float32"), replace(place, checked=False)
    return digest({"setting": setting.identity(), "model": ref.identity(), "point": asdict(place)})[:32]


class PointStore:
    """Measured points in ``units/<key>.json``, each whole or absent; a damaged one is measured again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "units"

    def get(self, name: str) -> Measured | None:
        try:
            found = Measured.model_validate_json((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return None
        return found if found.key == name else None

    def put(self, measured: Measured) -> None:
        with writing(self.folder.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{measured.key}.json", measured.model_dump_json() + "\n")
