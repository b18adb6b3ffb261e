"""Two measures of the flatness of a curve, defined by this project; the AWP paper only shows figures.

- ``sharpness``: mean over the grid of abs(g(alpha) - g(0)), in nats; smaller is flatter.
- ``reach``: smallest abs(alpha) at which g has risen by 1 nat, interpolated linearly; larger is flatter; None
  if the curve does not rise by 1 nat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RISE = 1.0


@dataclass(frozen=True)
class Flatness:
    """Flatness of one checkpoint over its directions; the standard deviation needs at least two."""

    sharpness: float | None
    """Mean over the directions; None if a point of the grid is not finite."""
    sharpness_std: float | None
    reach: float | None
    """Mean over the directions in which the loss rises by 1 nat; None if there is none."""
    reached: int
    """Number of directions in which the loss rises by 1 nat."""
    sharpness_each: tuple[float | None, ...]
    reach_each: tuple[float | None, ...]


def flatness(alphas: Floats, curves: Floats) -> Flatness:
    """``alphas``: shape (P,), containing 0; ``curves``: shape (directions, P) in nats, NaN if not finite."""
    sharpnesses = tuple(sharpness(alphas, curve) for curve in curves)
    reaches = tuple(reach(alphas, curve) for curve in curves)
    finite = [value for value in sharpnesses if value is not None]
    reached = [value for value in reaches if value is not None]
    all_finite = len(finite) == len(sharpnesses)
    return Flatness(
        float(np.mean(finite)) if all_finite else None,
        float(np.std(finite, ddof=1)) if all_finite and len(finite) > 1 else None,
        float(np.mean(reached)) if reached else None,
        len(reached),
        sharpnesses,
        reaches,
    )


def sharpness(alphas: Floats, curve: Floats) -> float | None:
    """Mean of abs(g - g(0)) over the grid; None if a point is not finite."""
    rise = np.abs(curve - curve[_centre(alphas)])
    return float(rise.mean()) if np.isfinite(rise).all() else None


def reach(alphas: Floats, curve: Floats) -> float | None:
    """The smallest abs(alpha) with g(alpha) - g(0) >= 1 nat; points that are not finite count as risen."""
    centre = _centre(alphas)
    rise = np.where(np.isfinite(curve), curve, np.inf) - curve[centre]
    if not np.isfinite(curve[centre]):
        return None
    sides = (
        _crossing(alphas[centre:], rise[centre:]),
        _crossing(-alphas[centre::-1], rise[centre::-1]),
    )
    crossings = [value for value in sides if value is not None]
    return min(crossings) if crossings else None


def _crossing(distances: Floats, rise: Floats) -> float | None:
    """The distance at which ``rise``, which starts with 0 at distance 0, first reaches 1."""
    above = np.flatnonzero(rise >= RISE)
    if not len(above):
        return None
    index = int(above[0])
    low, high = rise[index - 1], rise[index]
    fraction = (RISE - low) / (high - low) if np.isfinite(high) else 1.0
    return float(distances[index - 1] + fraction * (distances[index] - distances[index - 1]))


def _centre(alphas: Floats) -> int:
    return int(np.flatnonzero(alphas == 0)[0])
