"""Find plugin modules and TOML configuration files; the id of each is its file stem."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from robust_eval.core import strict_toml
from robust_eval.core.errors import unknown

_PACKAGE = Path(__file__).resolve().parents[1]


def config_dir(kind: str) -> Path:
    """``configs/<kind>``: inside the package when installed from a wheel, else in the checkout."""
    installed = _PACKAGE / "configs"
    return (installed if installed.is_dir() else _PACKAGE.parent / "configs") / kind


@cache
def config_ids(kind: str) -> tuple[str, ...]:
    """Ids of the TOML files in ``configs/<kind>``, sorted."""
    return tuple(sorted(path.stem for path in config_dir(kind).glob("*.toml")))


def config(kind: str, name: str) -> dict[str, Any]:
    """Read ``configs/<kind>/<name>.toml``.

    Raises:
        UserError: for an unknown name, with a suggestion.
    """
    if name not in config_ids(kind):
        raise unknown(kind.removesuffix("s"), name, config_ids(kind))
    return strict_toml.read(config_dir(kind) / f"{name}.toml")


@cache
def module_ids(package: str) -> tuple[str, ...]:
    """Ids of a package's public modules, sorted: file stems with '_' replaced by '-'."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    stems = (path.stem for path in folder.glob("*.py"))
    return tuple(sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_")))


def module(package: str, name: str) -> ModuleType:
    """Import ``package.<name>``; the caller has checked the name against :func:`module_ids`."""
    return importlib.import_module(f"{package}.{name.replace('-', '_')}")
