"""The points of a scan in weight space, the losses measured there, and their storage in files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from robust_eval import attacks
from robust_eval.core import strict_json
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError
from robust_eval.core.files import create_folder, report_write_errors, write_text
from robust_eval.core.request import digest
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import FLOAT32, AttackSpec, CheckpointRef, Slice

VERSION = 1
"""Must be increased whenever the meaning of a stored point changes."""

DirectionKind = Literal["filter", "rwp", "awp"]
ImageSource = Literal["anew", "at-w"]


@dataclass(frozen=True)
class Displacement:
    """A displacement of the weights by ``size`` along one direction.

    ``filter``: random, normalised by filter; ``rwp``: random, normalised by tensor; ``awp``: the gradient of
    the loss, normalised by tensor.
    """

    kind: DirectionKind
    number: int
    """Index of the random direction; 0 for ``awp``."""
    size: float


@dataclass(frozen=True)
class WeightPoint:
    """A point in weight space and the adversarial images the loss is measured on.

    ``anew``: generated at the displaced weights (Algorithm 1 of Wu et al. 2020); ``at-w``: generated once at
    w. No displacements: w itself.
    """

    displacements: tuple[Displacement, ...] = ()
    images: ImageSource = "anew"
    float32_attack: bool = False
    """Attack in float32 whatever the scan's precision is, to measure the effect of that precision."""


def weight_point(*displacements: Displacement, images: ImageSource = "anew") -> WeightPoint:
    """A point with displacements of size 0 removed: w is one point for all directions and image sources."""
    nonzero = tuple(one for one in displacements if one.size != 0)
    return WeightPoint(nonzero, images if nonzero else "anew")


def symmetric_grid(span: Fraction, count: int) -> tuple[float, ...]:
    """``count`` (odd) equidistant values from -span to span, with an exact 0 in the middle."""
    half = (count - 1) // 2
    return tuple(float(span * Fraction(step, half)) for step in range(-half, half + 1))


class MeasuredLoss(ClosedModel):
    """The adversarial loss at one point, as stored in the scan's folder.

    ``loss``: mean cross-entropy in nats, None if not finite; ``accuracy``: fraction of images that the
    displaced model classifies correctly under the attack.
    """

    key: str
    loss: float | None
    accuracy: Annotated[float, Field(ge=0, le=1)]
    forwards: Annotated[int, Field(ge=0)]
    backwards: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]

    @property
    def value(self) -> float:
        """The loss; NaN if not finite."""
        return math.nan if self.loss is None else self.loss


@dataclass(frozen=True)
class ScanSetting:
    """Everything that a measured loss depends on besides the checkpoint and the point."""

    data: Slice
    threat: ThreatModel
    attack: AttackSpec
    batch_size: int
    """Images attacked at once; for AWP also the batch whose loss v increases."""
    seed: int
    directions: str
    """Text that identifies the random directions."""
    precision: str = FLOAT32
    """Precision of the attack; losses are always measured in float32."""
    library: str = field(default_factory=lambda: attacks.library("pgd"))

    def identity(self) -> dict[str, Any]:
        """JSON-able values that must be equal for stored points to be reused."""
        return {**asdict(self), "threat": str(self.threat), "version": VERSION}


def point_key(setting: ScanSetting, ref: CheckpointRef, point: WeightPoint) -> str:
    """File name of a measured point; equal exactly if setting, checkpoint and point are equal."""
    if point.float32_attack:
        setting = replace(setting, precision=FLOAT32)
    # The names are part of the keys of stored points; "checked" is always False.
    position = {
        "moves": [asdict(one) for one in point.displacements],
        "images": point.images,
        "checked": False,
    }
    return digest({"setting": setting.identity(), "model": ref.identity(), "point": position})[:32]


class PointStore:
    """Measured points in ``units/<key>.json``, written atomically; damaged files are measured again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "units"

    def get(self, key: str) -> MeasuredLoss | None:
        try:
            measured = MeasuredLoss.model_validate(strict_json.read(self.folder / f"{key}.json"))
        except (UserError, ValidationError):
            return None
        return measured if measured.key == key else None

    def put(self, measured: MeasuredLoss) -> None:
        with report_write_errors(self.folder.parent):
            create_folder(self.folder)
        write_text(self.folder / f"{measured.key}.json", measured.model_dump_json() + "\n")
