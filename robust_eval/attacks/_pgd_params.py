"""Parameters that the projected gradient attacks share."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from robust_eval.core.parameters import Between
from robust_eval.core.threat import Norm


@dataclass(frozen=True, kw_only=True)
class PGDParams:
    """Number of steps and step sizes; step sizes are fractions of epsilon.

    The defaults are 2/255 at epsilon 8/255 in Linf and 15/255 at 128/255 in L2 (Wu et al. 2020).
    """

    steps: Annotated[int, Between(1, 100_000)] = 20
    step_linf: Annotated[Fraction, Between(Fraction(1, 1000), Fraction(10))] = Fraction(1, 4)
    step_l2: Annotated[Fraction, Between(Fraction(1, 1000), Fraction(10))] = Fraction(15, 128)

    def step(self, norm: Norm) -> Fraction:
        """The step size for a norm, as a fraction of epsilon."""
        return self.step_linf if norm == "Linf" else self.step_l2
