"""Threat models: norm and epsilon, for pixels in [0, 1]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from robust_eval.core.errors import UserError, unknown

Norm = Literal["Linf", "L2"]
NORMS: tuple[Norm, ...] = get_args(Norm)

# A larger epsilon is a mistake for pixels in [0, 1]: probably pixel levels (0 to 255) were typed.
_LARGEST = {"Linf": Fraction(1), "L2": Fraction(20)}
_SMALLEST = Fraction(1, 1_000_000)
# Of a number in text: Fraction computes 10 to the power of the exponent.
_MOST_CHARACTERS = 40
_LARGEST_EXPONENT = 99


@dataclass(frozen=True)
class ThreatModel:
    """All x' with ``norm(x' - x) <= eps`` and every pixel of x' in [0, 1].

    ``eps`` is an exact rational in units of the [0, 1] pixel range, so 8/255 and 0.031 stay
    different threat models.
    """

    norm: Norm
    eps: Fraction

    @property
    def radius(self) -> float:
        """``eps`` as a float."""
        return float(self.eps)

    @property
    def eps_text(self) -> str:
        """``eps`` as :func:`format_fraction` writes it, e.g. ``8/255``."""
        return format_fraction(self.eps)

    def __str__(self) -> str:
        return f"{self.norm} {self.eps_text}"


def parse_norm(text: str) -> Norm:
    """Parse ``linf``, ``inf``, ``l2`` or ``2``, ignoring case."""
    key = text.strip().lower().removeprefix("l")
    table: dict[str, Norm] = {"inf": "Linf", "2": "L2"}
    if key not in table:
        raise unknown("norm", text, NORMS)
    return table[key]


def parse_fraction(text: str, what: str) -> Fraction:
    """Parse ``8/255``, ``0.3`` or ``1e-3`` exactly; ``what`` names the value in error messages.

    Raises:
        UserError: for other text, more than 40 characters, and exponents of more than two digits.
    """
    text = text.strip()
    exponent = re.search(r"e[+-]?0*(\d+)$", text, re.IGNORECASE)
    if len(text) > _MOST_CHARACTERS or (exponent and int(exponent[1]) > _LARGEST_EXPONENT):
        raise UserError(
            f"{what} '{text[:_MOST_CHARACTERS]}' has too many digits or too large an exponent. "
            "Write a fraction such as 8/255, or 0.3."
        )
    try:
        return Fraction(text.replace(" ", ""))
    except ZeroDivisionError:
        raise UserError(f"{what} '{text}' divides by zero. Write a fraction such as 8/255.") from None
    except ValueError:
        raise UserError(f"{what} '{text}' is not a number. Write a fraction such as 8/255, or 0.3.") from None


def parse_threat(norm: str, eps: str) -> ThreatModel:
    """Parse a threat model.

    Raises:
        UserError: for an unknown norm, and for an epsilon that is no number or out of range.
    """
    parsed_norm = parse_norm(norm)
    value = parse_fraction(eps, "epsilon")
    if value <= 0:
        raise UserError(f"epsilon must be above 0, got {eps}. For clean accuracy alone use suite clean.")
    if value < _SMALLEST:
        raise UserError(f"epsilon {eps} is below 1e-6, which is not meaningful for float32 images.")
    if value > _LARGEST[parsed_norm]:
        raise UserError(
            f"epsilon {eps} is larger than {parsed_norm} allows for pixels in [0, 1]. Did you mean {eps}/255?"
        )
    threat = ThreatModel(parsed_norm, value)
    if parsed_norm == "Linf":
        refuse_unbounded(threat, 1)
    return threat


def refuse_unbounded(threat: ThreatModel, pixels: int) -> None:
    """Raise :class:`UserError` if the ball contains every image of ``pixels`` values (C H W)."""
    if threat.eps >= 1 and (threat.norm == "Linf" or threat.eps**2 >= pixels):
        raise UserError(
            f"With {threat} every image may become any other, so that no model is robust. "
            f"Did you mean {float(threat.eps):g}/255?"
        )


def format_fraction(value: Fraction) -> str:
    """An exact decimal such as ``0.3`` if there is one, else ``8/255`` for pixel levels, else the ratio."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        return f"{float(value):g}" if Fraction(f"{float(value):g}") == value else str(value)
    if 255 % value.denominator == 0:
        return f"{value.numerator * (255 // value.denominator)}/255"
    return str(value)
