"""Optional packages: an extra of robust-eval installs them, and the message for a missing one names it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from robust_eval.core.errors import UserError


def load(extra: str, module: str, purpose: str) -> ModuleType:
    """Import a module that an extra of pyproject.toml installs.

    ``purpose``: what needs it, the start of the message if it is missing.

    Raises:
        UserError: if it, or a module that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(extra, error.name or module, purpose) from None


def check(extra: str, module: str, purpose: str) -> None:
    """Raise the error of :func:`load` without importing, before work that would be lost."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise _missing(extra, module, purpose)


def _missing(extra: str, module: str, purpose: str) -> UserError:
    return UserError(f'{purpose} needs {module}, which is not installed: pip install "robust-eval[{extra}]".')
