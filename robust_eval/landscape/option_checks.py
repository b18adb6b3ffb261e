"""Range checks of command-line options that several measurements share."""

from __future__ import annotations

from robust_eval.core.errors import UserError


def require_at_least(option: str, value: int, minimum: int = 1) -> None:
    """Raise a :class:`UserError` that names the option if ``value`` is below ``minimum``."""
    if value < minimum:
        bound = "0 or more" if minimum == 0 else f"at least {minimum}"
        raise UserError(f"{option} must be {bound}, got {value}.")
