"""The threat model: which norm, how far, inside which box."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from robust_eval.core.errors import UserError, unknown

Norm = Literal["Linf", "L2"]
NORMS: tuple[Norm, ...] = get_args(Norm)

# The largest budget that can be meant in [0, 1] pixels: beyond it the user typed pixel levels.
_LARGEST = {"Linf": Fraction(1), "L2": Fraction(20)}
_SMALLEST = Fraction(1, 1_000_000)


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
        """``eps`` as a float, for arithmetic."""
        return float(self.eps)

    @property
    def eps_text(self) -> str:
        return format_fraction(self.eps)

    def __str__(self) -> str:
        return f"{self.norm} {self.eps_text}"


def parse_norm(text: str) -> Norm:
    """``linf``, ``inf``, ``l2`` or ``2``, in any case."""
    key = text.strip().lower().removeprefix("l")
    table: dict[str, Norm] = {"inf": "Linf", "2": "L2"}
    if key not in table:
        raise unknown("norm", text, NORMS)
    return table[key]


def parse_fraction(text: str, what: str) -> Fraction:
    """``8/255``, ``0.3`` or ``1e-3`` as an exact rational."""
    try:
        return Fraction(text.strip().replace(" ", ""))
    except ZeroDivisionError:
        raise UserError(f"{what} '{text}' divides by zero. Write a fraction such as 8/255.") from None
    except ValueError:
        raise UserError(f"{what} '{text}' is not a number. Write a fraction such as 8/255, or 0.3.") from None


def parse_threat(norm: str, eps: str) -> ThreatModel:
    """A checked threat model from what a user typed."""
    parsed_norm = parse_norm(norm)
    value = parse_fraction(eps, "epsilon")
    if value <= 0:
        raise UserError(f"epsilon must be above 0, got {eps}. For clean accuracy alone use suite clean.")
    if value < _SMALLEST:
        raise UserError(f"epsilon {eps} is below 1e-6, less than float32 images can tell apart.")
    if value > _LARGEST[parsed_norm]:
        raise UserError(
            f"epsilon {eps} is larger than {parsed_norm} allows for pixels in [0, 1]. Did you mean {eps}/255?"
        )
    threat = ThreatModel(parsed_norm, value)
    if parsed_norm == "Linf":
        refuse_unbounded(threat, 1)
    return threat


def refuse_unbounded(threat: ThreatModel, pixels: int) -> None:
    """Refuse a ball that holds every image of so many pixels (channels counted): nothing is robust there."""
    if threat.eps >= 1 and (threat.norm == "Linf" or threat.eps**2 >= pixels):
        raise UserError(
            f"With {threat} every image may become any other, so that no model is robust. "
            f"Did you mean {float(threat.eps):g}/255?"
        )


def format_fraction(value: Fraction) -> str:
    """``8/255`` for pixel levels, a plain decimal where one is exact, else the ratio."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        return f"{float(value):g}" if Fraction(f"{float(value):g}") == value else str(value)
    if 255 % value.denominator == 0:
        return f"{value.numerator * (255 // value.denominator)}/255"
    return str(value)
