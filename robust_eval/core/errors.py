"""The exception that commands print as one message, without a traceback (exit code 2)."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can fix; the message states what is wrong and what to do."""

    exit_code = 2


MOST_NAMES = 24
"""Longest list of known names that an error message shows in full."""
_FEW = 5


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error such as ``Unknown attack 'pdg-20'. Did you mean pgd-20?``

    Without a close match it lists the known names, or the closest five of more than MOST_NAMES.
    """
    names = sorted(known)
    lowered = {one.lower(): one for one in names}
    close = get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    if close:
        hint = f"Did you mean {lowered[close[0]]}?"
    elif len(names) <= MOST_NAMES:
        hint = f"Known: {', '.join(names)}."
    else:
        near = get_close_matches(name.lower(), lowered, n=_FEW, cutoff=0.0)
        hint = f"{len(names)} are known; the nearest are {', '.join(lowered[one] for one in near)}."
    return UserError(f"Unknown {kind} '{name}'. {hint}")
