"""The one exception that reaches a user: a sentence, no traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right; the message says what to do."""

    exit_code = 2


MOST_NAMES = 24
"""A longer list of what exists hides the sentence that it stands in."""
_FEW = 5


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """``Unknown attack 'pdg-20'. Did you mean pgd-20?``, or what exists; of many, the nearest."""
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
