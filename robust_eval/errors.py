"""The one exception that reaches a user: a sentence, no traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right; the message says what to do."""

    exit_code = 2


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """``Unknown attack 'pdg-20'. Did you mean pgd-20?``, or the list of what exists."""
    names = sorted(known)
    close = get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(names)}."
    return UserError(f"Unknown {kind} '{name}'. {hint}")
