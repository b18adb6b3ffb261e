"""Convert attack parameters between TOML tables and typed dataclasses, with range checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from robust_eval.core.errors import UserError, unknown
from robust_eval.core.threat import format_fraction, parse_fraction

P = TypeVar("P")


@dataclass(frozen=True)
class Between:
    """The range of a parameter, ends included: ``Annotated[int, Between(1, 100)]``."""

    low: int | Fraction
    high: int | Fraction

    def __str__(self) -> str:
        low, high = (end if isinstance(end, int) else format_fraction(end) for end in (self.low, self.high))
        return f"from {low} to {high}"


def parse_params(kind: type[P], family: str, table: Mapping[str, Any], source: str = "") -> P:
    """Build the dataclass ``kind`` from a table of plain values.

    Fields are ``Annotated[int | Fraction, Between(...)]`` or ``Literal``. Fractions are exact and may be
    written ``"1/4"``, ``0.25`` or ``1``. ``source`` (a file) is the prefix of error messages.

    Raises:
        UserError: for an unknown parameter, a wrong type or a value out of range.
    """
    prefix = f"{source}: " if source else ""
    hints = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in hints:
            raise UserError(prefix + str(unknown(f"{family} parameter", name, hints)))
        values[name] = _checked(hints[name], value, f"{prefix}{name} of {family}")
    return kind(**values)


def to_table(params: Any) -> dict[str, Any]:
    """Parameters as JSON values, fractions as text; the inverse of :func:`parse_params`."""
    values = {entry.name: getattr(params, entry.name) for entry in fields(params)}
    return {name: format_fraction(v) if isinstance(v, Fraction) else v for name, v in values.items()}


def _checked(hint: Any, value: Any, what: str) -> int | Fraction | str:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise UserError(f"{what} must be one of {', '.join(get_args(hint))}, got {value!r}.")
        return str(value)
    assert get_origin(hint) is Annotated
    kind, limits = get_args(hint)
    number = _fraction(value, what, limits) if kind is Fraction else _integer(value, what, limits)
    if not limits.low <= number <= limits.high:
        raise UserError(f"{what} must be {limits}, got {value}.")
    return number


def _integer(value: Any, what: str, limits: Between) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{what} must be a whole number {limits}, got {value!r}.")
    return value


def _fraction(value: Any, what: str, limits: Between) -> Fraction:
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise UserError(f"{what} must be a number {limits} such as 0.25 or '1/4', got {value!r}.")
    return parse_fraction(str(value), what)
