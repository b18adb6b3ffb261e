"""The 1-D landscape: g(alpha) along random directions (Wu, Xia and Wang 2020, Algorithm 1, Figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.landscape.awp.flatness import Flatness, flatness
from robust_eval.landscape.awp.points import Displacement, ImageSource, WeightPoint, weight_point
from robust_eval.landscape.awp.scan import Losses, Scan, cost, model_record
from robust_eval.landscape.checkpoints import ComparedModel

KIND = "landscape-1d"
MISLEADS = (
    "Adversarial images made once, at alpha = 0, grow weaker as the weights move away from them: this "
    "variant underestimates the loss and looks flatter than it is (Wu, Xia, Wang 2020, section 3)."
)


@dataclass(frozen=True)
class Curve:
    """g(alpha) of one checkpoint along all directions."""

    label: str
    alphas: NDArray[np.float64]
    losses: NDArray[np.float64]
    """Shape (directions, alphas), nats; NaN if not finite."""
    accuracies: NDArray[np.float64]
    """Shape (directions, alphas), fractions under attack."""

    @property
    def at_w(self) -> float:
        """g(0), equal for all directions."""
        return float(self.losses[0, len(self.alphas) // 2])

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the directions; NaN where one of them is."""
        mean: NDArray[np.float64] = self.losses.mean(0)
        return mean

    @property
    def low(self) -> NDArray[np.float64]:
        low: NDArray[np.float64] = self.losses.min(0)
        return low

    @property
    def high(self) -> NDArray[np.float64]:
        high: NDArray[np.float64] = self.losses.max(0)
        return high

    def flatness(self) -> Flatness:
        return flatness(self.alphas, self.losses)

    def not_finite(self) -> list[dict[str, float]]:
        """Direction and alpha of the points without a finite loss."""
        return [
            {"direction": int(number), "alpha": float(self.alphas[index])}
            for number, index in np.argwhere(~np.isfinite(self.losses))
        ]


def plan(alphas: Sequence[float], directions: int, *, pre_generated: bool = False) -> list[WeightPoint]:
    """The points to measure, without duplicates: w first, then direction by direction."""
    sources: tuple[ImageSource, ...] = ("anew", "at-w") if pre_generated else ("anew",)
    wanted = [weight_point()]
    for number in range(directions):
        for images in sources:
            wanted += [weight_point(Displacement("filter", number, alpha), images=images) for alpha in alphas]
    return list(dict.fromkeys(wanted))


def curves(scan: Scan, alphas: Sequence[float], losses: Losses, images: ImageSource = "anew") -> list[Curve]:
    """One curve per checkpoint from measured points."""
    numbers = range(scan.directions.count)

    def curve(model: ComparedModel) -> Curve:
        rows = [
            [
                losses[model.label, weight_point(Displacement("filter", number, alpha), images=images)]
                for alpha in alphas
            ]
            for number in numbers
        ]
        values = np.array([[measured.value for measured in row] for row in rows])
        accuracies = np.array([[measured.accuracy for measured in row] for row in rows])
        return Curve(model.label, np.array(alphas), values, accuracies)

    return [curve(model) for model in scan.comparison.models]


def to_data(
    scan: Scan, curves: Sequence[Curve], pre_generated: Sequence[Curve], losses: Losses
) -> dict[str, Any]:
    """The content of the JSON file; ``pre_generated``: curves on images made once at w, may be empty."""
    entries = []
    for index, (model, one) in enumerate(zip(scan.comparison.models, curves, strict=True)):
        entry: dict[str, Any] = {
            **model_record(model, losses),
            "loss_at_0": one.at_w,
            "accuracy_at_0": float(one.accuracies[0, len(one.alphas) // 2]),
            **_curve_data(one),
        }
        if pre_generated:
            entry["pre_generated"] = {"note": MISLEADS, **_curve_data(pre_generated[index])}
        entries.append(entry)
    return {
        "kind": KIND,
        **scan.record(),
        "normalisation": "by filter; parameters of one dimension do not move",
        "band": "lowest to highest of the directions",
        "flatness_units": "sharpness: mean abs(g - g(0)), nats; reach: least abs(alpha) with g - g(0) >= 1",
        "alphas": curves[0].alphas,
        "checkpoints": entries,
        "cost": cost(losses),
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
