"""How flat is a curve? Two numbers of this project; the AWP paper gives none, it shows pictures.

- ``sharpness``: the mean over the grid of abs(g(alpha) - g(0)), in nats; smaller is flatter.
- ``reach``: the smallest abs(alpha) at which g has risen by 1 nat, linear between grid points; larger is
  flatter, None where the curve does not rise that far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RISE = 1.0


@dataclass(frozen=True)
class Flatness:
    """Of one checkpoint over several directions; standard deviations need two."""

    sharpness: float | None
    """Mean over the directions; None where a point of the grid is not finite."""
    sharpness_std: float | None
    reach: float | None
    """Mean over the directions that reach; None where none does."""
    reached: int
    """In how many directions the loss rises by 1 nat."""
    sharpness_each: tuple[float | None, ...]
    reach_each: tuple[float | None, ...]


def flatness(alphas: Floats, curves: Floats) -> Flatness:
    """``alphas`` (P,) with a 0 among them, ``curves`` (directions, P) in nats; NaN: not finite."""
    sharp = tuple(sharpness(alphas, curve) for curve in curves)
    reaches = tuple(reach(alphas, curve) for curve in curves)
    known = [value for value in sharp if value is not None]
    far = [value for value in reaches if value is not None]
    whole = len(known) == len(sharp)
    return Flatness(
        float(np.mean(known)) if whole else None,
        float(np.std(known, ddof=1)) if whole and len(known) > 1 else None,
        float(np.mean(far)) if far else None,
        len(far),
        sharp,
        reaches,
    )


def sharpness(alphas: Floats, curve: Floats) -> float | None:
    """Mean of abs(g - g(0)) over the grid; None where g is not finite somewhere."""
    rise = np.abs(curve - curve[_centre(alphas)])
    return float(rise.mean()) if np.isfinite(rise).all() else None


def reach(alphas: Floats, curve: Floats) -> float | None:
    """The smallest abs(alpha) with g(alpha) - g(0) >= 1 nat; what is not finite has risen."""
    centre = _centre(alphas)
    rise = np.where(np.isfinite(curve), curve, np.inf) - curve[centre]
    if not np.isfinite(curve[centre]):
        return None
    sides = (
        _crossing(alphas[centre:], rise[centre:]),
        _crossing(-alphas[centre::-1], rise[centre::-1]),
    )
    found = [value for value in sides if value is not None]
    return min(found) if found else None


def _crossing(distances: Floats, rise: Floats) -> float | None:
    """Where ``rise``, from 0 at distance 0 on, first passes 1."""
    above = np.flatnonzero(rise >= RISE)
    if not len(above):
        return None
    last = int(above[0])
    low, high = rise[last - 1], rise[last]
    share = (RISE - low) / (high - low) if np.isfinite(high) else 1.0
    return float(distances[last - 1] + share * (distances[last] - distances[last - 1]))


def _centre(alphas: Floats) -> int:
    return int(np.flatnonzero(alphas == 0)[0])
