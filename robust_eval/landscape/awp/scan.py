"""A scan: which points, measured once each and stored at once, and the figures' data from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from robust_eval import attacks
from robust_eval.core.errors import UserError
from robust_eval.core.request import digest
from robust_eval.core.threat import parse_fraction
from robust_eval.core.types import FLOAT32
from robust_eval.evaluation.planning.settings import resolve_precision
from robust_eval.evaluation.store import exclusive
from robust_eval.landscape.awp import points
from robust_eval.landscape.awp.adversarial_loss import Meter
from robust_eval.landscape.awp.points import Measured, Point, PointStore, Setting, point
from robust_eval.landscape.checkpoints import Subject, Subjects
from robust_eval.landscape.directions import Directions, draw, load, save
from robust_eval.results.environment import environment

Values = Mapping[tuple[str, Point], Measured]
"""By checkpoint's label and point."""

# Beyond this, weights of ordinary size overflow float32 before any network is asked.
LARGEST_SPAN = 10**30


@dataclass(frozen=True)
class Scan:
    """Checkpoints, how they are measured, and where the points go."""

    subjects: Subjects
    setting: Setting
    directions: Directions

    def identity(self) -> dict[str, Any]:
        """What a folder holds points of. The grid is no part of it: another grid adds points."""
        models = [subject.ref.identity() for subject in self.subjects.each]
        return {**self.setting.identity(), "checkpoints": models}

    def default_folder(self) -> Path:
        """The same question finds the same folder again, and so continues."""
        names = "+".join(subject.label for subject in self.subjects.each)
        stem = "".join(c if c.isalnum() or c in "._+-" else "-" for c in names)[:60]
        return Path("runs") / f"landscape-{stem}-{digest(self.identity())[:8]}"

    def checks(self) -> list[Point]:
        """Points that tell what a precision below float32 costs: w once more, searched in float32."""
        return [] if self.setting.precision == FLOAT32 else [Point(checked=True)]

    def record(self) -> dict[str, Any]:
        """What every JSON file of a scan says about how it was made."""
        setting = self.setting
        return {
            "version": points.VERSION,
            "data": asdict(setting.data),
            "threat": {"norm": setting.threat.norm, "eps": setting.threat.eps_text},
            "attack": {
                **asdict(setting.attack),
                "library": setting.library,
                "start": "the same at every point",
            },
            "loss": "cross-entropy in nats, mean over the images; BatchNorm in eval mode",
            "precision": f"searched in {setting.precision}, losses in float32",
            "batch_size": setting.batch_size,
            "seed": setting.seed,
            "directions": {"count": self.directions.count, "origin": setting.directions},
            "environment": environment(self.subjects.x_NCHW.device).model_dump(),
        }


def subject_record(scan: Scan, subject: Subject, values: Values) -> dict[str, Any]:
    """What every JSON file says of a checkpoint; ``loss_at_w_in_float32`` only where another was used."""
    check = values.get((subject.label, Point(checked=True)))
    checks = {} if check is None else {"loss_at_w_in_float32": check.loss}
    return {
        "label": subject.label,
        "name": subject.ref.name,
        "sha256": subject.ref.sha256,
        "architecture": asdict(subject.ref.architecture),
        **checks,
    }


def make(
    subjects: Subjects,
    *,
    count: int,
    steps: int,
    batch_size: int,
    seed: int,
    file: Path | None = None,
    precision: str = FLOAT32,
) -> Scan:
    """A scan along ``count`` directions under PGD-``steps``; ``file`` holds the directions or gets them."""
    for what, value in (("--directions", count), ("--batch-size", batch_size)):
        if value < 1:
            raise UserError(f"{what} must be at least 1, got {value}.")
    if seed < 0:
        raise UserError(f"--seed must be 0 or more, got {seed}.")
    attack = attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps})
    directions = draw(subjects.shapes, count, seed)
    if file is not None:
        if not file.exists():
            save(file, directions)
        # Read back what was written: the same command then asks the same question the second time.
        directions = load(file, subjects.shapes, count, subjects.each[0].label)
    precision, _ = resolve_precision(precision, subjects.x_NCHW.device)
    setting = Setting(
        subjects.images, subjects.threat, attack, batch_size, seed, directions.origin, precision
    )
    return Scan(subjects, setting, directions)


def grid(span: str, count: int) -> tuple[float, ...]:
    """Alphas from what a user typed. A UserError for a span that is none or a grid without 0."""
    value = parse_fraction(span, "--span")
    if value <= 0:
        raise UserError(f"--span must be above 0, got {span}.")
    if value > LARGEST_SPAN:
        raise UserError(f"--span {span} is more than weights can be moved in float32. The usual span is 1.")
    if count < 3 or count % 2 == 0:
        raise UserError(f"--points must be odd and at least 3, so that alpha = 0 is among them; got {count}.")
    return points.alphas(value, count)


def gammas(text: str) -> tuple[float, ...]:
    """Relative sizes ``1e-3,5e-3,...`` in growing order, each once."""
    values = sorted({parse_fraction(part, "--gammas") for part in text.split(",")})
    if values[0] <= 0 or values[-1] > LARGEST_SPAN:
        raise UserError(f"--gammas must be above 0 and of ordinary size, got '{text}'.")
    return tuple(float(Fraction(value)) for value in values)


def run(
    scan: Scan,
    wanted: Sequence[Point],
    folder: Path,
    told: Callable[[Subject, Measured, bool], None] = lambda _subject, _measured, _stored: None,
) -> Values:
    """Measure what is not yet stored in ``folder``; ``told`` hears of every point, and whether it was there.

    Raises :class:`UserError` where the folder belongs to another scan or cannot be written. Interrupted, it
    leaves every finished point, and no checkpoint was changed.
    """
    with exclusive(folder):
        scan.subjects.open(folder, scan.identity())
        store, meters, found = PointStore(folder), {}, {}
        for place in wanted:
            for subject in scan.subjects.each:
                name = points.key(scan.setting, subject.ref, place)
                measured = store.get(name)
                stored = measured is not None
                if measured is None:
                    if subject.label not in meters:
                        meters[subject.label] = _meter(scan, subject)
                    measured = meters[subject.label].measure(place)
                    store.put(measured)
                found[subject.label, place] = measured
                told(subject, measured, stored)
    return found


def _meter(scan: Scan, subject: Subject) -> Meter:
    subjects = scan.subjects
    return Meter(subject.model, subject.ref, subjects.x_NCHW, subjects.y_N, scan.setting, scan.directions)


def forwards(values: Values) -> dict[str, float]:
    """The bill of all points, whenever they were measured."""
    each = list(values.values())
    return {
        "points": len(each),
        "forwards": sum(one.forwards for one in each),
        "backwards": sum(one.backwards for one in each),
        "seconds": sum(one.seconds for one in each),
    }


__all__ = ["Scan", "Values", "forwards", "gammas", "grid", "make", "point", "run"]
