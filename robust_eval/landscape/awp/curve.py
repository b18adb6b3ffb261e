"""The 1-D landscape: g(alpha) along several random directions (Wu, Xia, Wang 2020, Algorithm 1, Figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.landscape.awp.flatness import Flatness, flatness
from robust_eval.landscape.awp.points import Images, Move, Point, point
from robust_eval.landscape.awp.scan import Scan, Values, forwards, subject_record
from robust_eval.landscape.checkpoints import Subject

KIND = "landscape-1d"
MISLEADS = (
    "Adversarial images made once, at alpha = 0, grow weaker as the weights move away from them: this "
    "variant underestimates the loss and looks flatter than it is (Wu, Xia, Wang 2020, section 3)."
)


@dataclass(frozen=True)
class Curve:
    """One checkpoint along all directions."""

    label: str
    alphas: NDArray[np.float64]
    losses: NDArray[np.float64]
    """(directions, alphas), nats; NaN where not finite."""
    accuracies: NDArray[np.float64]
    """(directions, alphas), fractions under the attack."""

    @property
    def at_w(self) -> float:
        """g(0); the same along every direction."""
        return float(self.losses[0, len(self.alphas) // 2])

    @property
    def mean(self) -> NDArray[np.float64]:
        """Over the directions; NaN where one of them is."""
        found: NDArray[np.float64] = self.losses.mean(0)
        return found

    @property
    def low(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.losses.min(0)
        return found

    @property
    def high(self) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.losses.max(0)
        return found

    def flatness(self) -> Flatness:
        return flatness(self.alphas, self.losses)

    def not_finite(self) -> list[dict[str, float]]:
        """Which points have no loss to draw."""
        return [
            {"direction": int(number), "alpha": float(self.alphas[place])}
            for number, place in np.argwhere(~np.isfinite(self.losses))
        ]


def plan(alphas: Sequence[float], directions: int, *, pre_generated: bool = False) -> list[Point]:
    """Every point once; w first, then direction by direction."""
    kinds: tuple[Images, ...] = ("anew", "at-w") if pre_generated else ("anew",)
    wanted = [point()]
    for number in range(directions):
        for images in kinds:
            wanted += [point(Move("filter", number, alpha), images=images) for alpha in alphas]
    return list(dict.fromkeys(wanted))


def curves(scan: Scan, alphas: Sequence[float], values: Values, images: Images = "anew") -> list[Curve]:
    """One curve per checkpoint from measured points."""
    numbers = range(scan.directions.count)

    def one(subject: Subject) -> Curve:
        found = [
            [values[subject.label, point(Move("filter", number, alpha), images=images)] for alpha in alphas]
            for number in numbers
        ]
        losses = np.array([[measured.value for measured in row] for row in found])
        accuracies = np.array([[measured.accuracy for measured in row] for row in found])
        return Curve(subject.label, np.array(alphas), losses, accuracies)

    return [one(subject) for subject in scan.subjects.each]


def to_data(scan: Scan, found: Sequence[Curve], fixed: Sequence[Curve], values: Values) -> dict[str, Any]:
    """Everything the figure shows and how it was made; ``fixed``: the pre-generated variant, or none."""
    entries = []
    for place, (subject, one) in enumerate(zip(scan.subjects.each, found, strict=True)):
        entry: dict[str, Any] = {
            **subject_record(scan, subject, values),
            "loss_at_0": one.at_w,
            "accuracy_at_0": float(one.accuracies[0, len(one.alphas) // 2]),
            **_curve_data(one),
        }
        if fixed:
            entry["pre_generated"] = {"note": MISLEADS, **_curve_data(fixed[place])}
        entries.append(entry)
    return {
        "kind": KIND,
        **scan.record(),
        "normalisation": "by filter; parameters of one dimension do not move",
        "band": "lowest to highest of the directions",
        "flatness_units": "sharpness: mean abs(g - g(0)), nats; reach: least abs(alpha) with g - g(0) >= 1",
        "alphas": found[0].alphas,
        "checkpoints": entries,
        "cost": forwards(values),
    }


def _curve_data(one: Curve) -> dict[str, Any]:
    return {
        "flatness": asdict(one.flatness()),
        "not_finite": one.not_finite(),
        "loss_mean": one.mean,
        "loss_low": one.low,
        "loss_high": one.high,
        "loss": one.losses,
        "accuracy": one.accuracies,
    }
