"""Optional packages: an extra of robust-eval installs them, and the message for a missing one names it."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from robust_eval.core.errors import UserError


def load(extra: str, module: str, purpose: str) -> ModuleType:
    """Import a module that an extra of pyproject.toml installs.

    ``purpose``: what needs it, the start of the message if it is missing.

    Raises:
        UserError: if its package, or one that it imports, is not installed.
        ImportError: if an installed package is not as expected.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        check(extra, (error.name or module).partition(".")[0], purpose)
        raise


def check(extra: str, package: str, purpose: str) -> None:
    """Raise the error of :func:`load` for a package without importing it, before work that would be lost."""
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(
            f'{purpose} needs {package}, which is not installed: pip install "robust-eval[{extra}]".'
        )


def file(extra: str, package: str, name: str, purpose: str) -> Path:
    """The path of a file in a package that an extra installs, which is not imported.

    Raises:
        UserError: if the package is not installed, or lacks the file.
    """
    check(extra, package, purpose)
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if Path(folder, name).is_file():
            return Path(folder, name)
    raise UserError(f"{purpose} needs {name} of {package}, which is missing. Install {package} again.")
