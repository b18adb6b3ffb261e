"""Import a Python file that the user names. Its code runs with the rights of the user.

Local files that it imports are found as for a script, or as for a module of the package around it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from robust_eval.core import local_sources, regular_file
from robust_eval.core.errors import UserError

_LARGEST = 2**24


def digest(path: Path) -> str:
    """SHA-256 of a file and of the local files that it imports.

    Raises:
        UserError: if it cannot be read.
    """
    regular_file.sha256(path, "code files", _LARGEST)
    return local_sources.digest(path)


def import_file(path: Path) -> ModuleType:
    """The module of a file, imported again at each call.

    Raises:
        UserError: if the file cannot be imported.
    """
    base = local_sources.root(path)
    _forget([file for file in local_sources.sources(path) if file != path.resolve()], base)
    # Makes modules in the same folder importable, as for a script; a file in a package may import relatively.
    sys.path.insert(0, str(base))
    try:
        return _import(path.resolve(), base)
    except Exception as error:
        raise UserError(f"{path} cannot be imported: {type(error).__name__}: {error}.") from error
    finally:
        sys.path.remove(str(base))


def _import(path: Path, base: Path) -> ModuleType:
    """Import a file of a package under its own name, so that it may import relatively; else under another."""
    if path.parent != base:
        return importlib.import_module(".".join(path.relative_to(base).with_suffix("").parts))
    spec = importlib.util.spec_from_file_location(f"_robust_eval_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _forget(sources: Sequence[Path], base: Path) -> None:
    """Forget modules of the same names, which may be of other files or have been edited since."""
    for source in sources:
        parts = source.relative_to(base).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
