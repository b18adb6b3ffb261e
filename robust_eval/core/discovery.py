"""Find plug-in modules and TOML configuration files; the id of each is its file stem.

Installed packages add further ones by entry points, whose names are the ids. Ids of this package cannot be
replaced.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from robust_eval.core import strict_toml
from robust_eval.core.errors import UserError, unknown

_PACKAGE = Path(__file__).resolve().parents[1]
GROUPS = {
    "robust_eval.attacks": "robust_eval.attacks",
    "robust_eval.data": "robust_eval.datasets",
    "robust_eval.models.architectures": "robust_eval.architectures",
    "defenses.objectives": "defenses.objectives",
    "recipes": "defenses.recipes",
}
"""Group of the entry points that add to a package or to a kind of configuration files."""


def config_dir(kind: str) -> Path:
    """``configs/<kind>``: inside the package when installed from a wheel, else in the checkout."""
    installed = _PACKAGE / "configs"
    return (installed if installed.is_dir() else _PACKAGE.parent / "configs") / kind


@cache
def config_ids(kind: str) -> tuple[str, ...]:
    """Ids of the TOML files in ``configs/<kind>`` and of those that packages add, sorted."""
    own = (path.stem for path in config_dir(kind).glob("*.toml"))
    return tuple(sorted({*own, *entry_points(kind)}))


def config(kind: str, name: str) -> dict[str, Any]:
    """Read ``configs/<kind>/<name>.toml``, or the file of that name in the package of an entry point.

    Raises:
        UserError: for an unknown name, with a suggestion.
    """
    if name not in config_ids(kind):
        raise unknown(kind.removesuffix("s"), name, config_ids(kind))
    path = config_dir(kind) / f"{name}.toml"
    return strict_toml.read(path if path.is_file() else _added_config(entry_points(kind)[name]))


@cache
def module_ids(package: str) -> tuple[str, ...]:
    """Ids of a package's public modules and of those that packages add, sorted."""
    return tuple(sorted({*own_module_ids(package), *entry_points(package)}))


@cache
def own_module_ids(package: str) -> tuple[str, ...]:
    """Ids of a package's public modules, sorted: file stems with '_' replaced by '-'."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    stems = (path.stem for path in folder.glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_")))


def module(package: str, name: str) -> ModuleType:
    """Import ``package.<name>``, or the module of an entry point.

    The caller has checked the name against :func:`module_ids`.

    Raises:
        UserError: if a module of another package cannot be imported.
    """
    if name in own_module_ids(package):
        return importlib.import_module(f"{package}.{name.replace('-', '_')}")
    entry = entry_points(package)[name]
    try:
        found = entry.load()
    except Exception as error:
        raise UserError(
            f"{described(entry)} cannot be imported: {type(error).__name__}: {error}. Correct it, or "
            "uninstall its package."
        ) from error
    if not isinstance(found, ModuleType):
        raise UserError(f"{described(entry)} is not a module. Let the entry point name a module.")
    return found


@cache
def entry_points(kind: str) -> Mapping[str, metadata.EntryPoint]:
    """The entry points that add to a package or kind of configuration, by name."""
    return (
        {entry.name: entry for entry in metadata.entry_points(group=GROUPS[kind])} if kind in GROUPS else {}
    )


def described(entry: metadata.EntryPoint) -> str:
    """``mi-fgsm of my-package (entry point robust_eval.attacks)``."""
    package = entry.dist.name if entry.dist is not None else "an unknown package"
    return f"{entry.name} of {package} (entry point {entry.group})"


def _added_config(entry: metadata.EntryPoint) -> Path:
    """The file ``<name>.toml`` in the folder of the package that an entry point names."""
    try:
        spec = importlib.util.find_spec(entry.value)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise UserError(f"{described(entry)} names no package. Correct or uninstall it.")
    return Path(spec.origin).parent / f"{entry.name}.toml"
