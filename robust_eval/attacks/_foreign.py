"""Attacks that are not part of this package: files and functions of the user, and of installed packages.

Their code is part of their identity: its SHA-256 takes the place of the version of a library.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from robust_eval.core import discovery, local_sources, regular_file, user_code
from robust_eval.core.errors import UserError
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Cost

if TYPE_CHECKING:
    from torch import Tensor, nn

_NEEDED = ("VERSION", "CITATION", "Params", "cost", "search")
_LARGEST = 16 * 2**30
"""Of a file of images, in bytes."""
_SHORT = 16
"""Digits of the digest of an installed package's code, whose version is recorded too."""


@dataclass(frozen=True)
class AddedAttack:
    """An attack of the user or of a package, and the library that a result records for it."""

    family: Any
    library: str


_named: dict[str, AddedAttack] = {}
"""Attacks that were named in this process, by the name of their family."""


def add_file(path: Path) -> str:
    """Read the attack, or the images of an attack, in a file; the name of its family, that of the file.

    Raises:
        UserError: if it cannot be used or lacks a part of an attack, or if another file of this name was
            read before.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist. Give the file of the attack, relative to the suite.")
    is_code = path.suffix == ".py"
    digest = user_code.digest(path) if is_code else regular_file.sha256(path, "images", _LARGEST)
    library = f"{path.name} sha256:{digest}"
    known = _named.get(path.name)
    if known is None:
        family = _checked(user_code.import_file(path), str(path)) if is_code else _given_images(path)
        _named[path.name] = AddedAttack(family, library)
    elif known.library != library:
        raise UserError(f"Two different attack files are called {path.name}. Rename one of them.")
    return path.name


def _given_images(path: Path) -> Any:
    from robust_eval.attacks._given_images import GivenImages  # imports torch

    return GivenImages(path)


def add_function(function: Callable[..., Tensor]) -> str:
    """Make an attack of ``function(model, x_NCHW, y_N, threat)``; the name of its family.

    The function also receives ``classes`` and ``seed`` if it has parameters of these names.
    """
    inner = function.func if isinstance(function, functools.partial) else function
    inner = inner if isinstance(inner, FunctionType | type) else type(inner)
    name = f"python:{getattr(inner, '__name__', 'attack')}"
    _named[name] = AddedAttack(_Function(function, name), f"python sha256:{_code_digest(inner)}")
    return name


def find(name: str) -> AddedAttack | None:
    """The attack of a family that is not this package's; None for an unknown one."""
    if name not in _named and name in discovery.entry_points("robust_eval.attacks"):
        _named[name] = _installed(name)
    return _named.get(name)


def _installed(name: str) -> AddedAttack:
    entry = discovery.entry_points("robust_eval.attacks")[name]
    module = _checked(discovery.module("robust_eval.attacks", name), discovery.described(entry))
    digest = local_sources.digest(Path(str(module.__file__)))[:_SHORT]
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown 0"
    return AddedAttack(module, f"{package}+sha256.{digest}")


def _checked(module: Any, where: str) -> Any:
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise UserError(f"{where} is not an attack: it lacks {', '.join(missing)}. See docs/plugins.md.")
    version, citation = module.VERSION, module.CITATION
    if type(version) is not int or version < 1 or not isinstance(citation, str) or not citation:
        raise UserError(f"{where}: VERSION must be a whole number from 1, and CITATION text.")
    return module


@dataclass(frozen=True)
class _NoParams:
    """A function has no parameters."""


class _Function:
    """The family of a function."""

    VERSION = 1
    LIBRARY = "python"
    Params = _NoParams

    def __init__(self, function: Callable[..., Tensor], name: str) -> None:
        self._function = function
        self.CITATION = f"{name}, a function that was given to evaluate()"

    def cost(self, params: Any, classes: int) -> Cost:
        """Unknown: the smallest cost."""
        return Cost(1, 1)

    def search(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        threat: ThreatModel,
        params: Any,
        *,
        classes: int,
        seed: int,
    ) -> Tensor:
        """What the function returns."""
        try:
            accepted = inspect.signature(self._function).parameters
        except (TypeError, ValueError):
            accepted = {}  # type: ignore[assignment]  # nothing is known about a builtin
        named = {"classes": classes, "seed": seed}
        more = {key: value for key, value in named.items() if key in accepted}
        return self._function(model, x_NCHW, y_N, threat, **more)


def _code_digest(code: Any) -> str:
    """SHA-256 of the file that defines a function or class, or of its text or byte code if there is none."""
    try:
        file = inspect.getsourcefile(code)
        if file is not None and Path(file).is_file():
            return local_sources.digest(Path(file))
        return hashlib.sha256(inspect.getsource(code).encode()).hexdigest()
    except (OSError, TypeError):
        own = getattr(code, "__code__", None)
        content = repr(code).encode() if own is None else own.co_code + repr(own.co_consts).encode()
        return hashlib.sha256(content).hexdigest()
