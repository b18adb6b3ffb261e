"""The package robustbench: the only module that imports it, so that one place knows its peculiarities.

The release and the newest version of its repository are supported. Both import two modules that may not be
installed: ``autoattack``, which is only in a repository, and ``pkg_resources``, which setuptools 81 removed.
While robustbench is in use, others take their place.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import ssl
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from robust_eval.core import extras
from robust_eval.core.download import download_timeout
from robust_eval.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

_AUTOATTACK = ("", ".autopgd_base", ".fab_pt", ".square", ".state", ".other_utils", ".checks", ".autoattack")
# Overrides the weights-only default of torch, on which robustbench relies.
_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Undo the side effects of the imports and downloads of robustbench on this process.

    The functions below import robustbench, and need this around them.
    """
    context, unsafe = ssl._create_default_https_context, os.environ.pop(_UNSAFE, None)
    try:
        with _stand_ins(), download_timeout(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ssl._create_default_https_context = context
        if unsafe is not None:
            os.environ[_UNSAFE] = unsafe


def module(name: str = "") -> Any:
    """Import a module of the package: ``module("model_zoo.architectures.resnet")``. Takes seconds.

    Raises:
        UserError: if robustbench, or a package that it needs, is not installed or does not fit.
    """
    full = f"robustbench.{name}".rstrip(".")
    try:
        return extras.load("zoo", full, "RobustBench")
    except ImportError as error:
        raise UserError(
            f"robustbench cannot be imported ({error}). Install its newest version: "
            "pip install git+https://github.com/RobustBench/robustbench."
        ) from error


def models() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """The entries of the zoo by dataset, threat model and model id; each has a function ``model``."""
    return {
        dataset.value: {threat.value: entries for threat, entries in table.items()}
        for dataset, table in module("model_zoo").model_dicts.items()
    }


def load_model(model_id: str, folder: Path, dataset: str, threat: str) -> nn.Module:
    """A model of the zoo, from its file in ``folder``, where it is downloaded on first use."""
    network: nn.Module = module("utils").load_model(model_id, str(folder), dataset, threat)
    return network


def readme() -> tuple[str, str]:
    """The version of the installed distribution, and its description, which contains the tables of entries.

    Does not import it. Raises :class:`UserError` if it is not installed.
    """
    extras.check("zoo", "robustbench", "A board with RobustBench's entries")
    try:
        distribution = metadata.distribution("robustbench")
    except metadata.PackageNotFoundError:
        raise UserError("The installed robustbench has no description: give a model_info folder.") from None
    return distribution.version, str(distribution.metadata.get_payload())  # type: ignore[attr-defined]


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Let pyautoattack take the place of autoattack, and a small module that of pkg_resources, if missing."""
    added: dict[str, ModuleType] = {}
    if not _is_installed("autoattack"):
        for part in _AUTOATTACK:
            with contextlib.suppress(ImportError):
                added[f"autoattack{part}"] = importlib.import_module(f"pyautoattack{part}")
    if not _is_installed("pkg_resources"):
        added["pkg_resources"] = _pkg_resources()
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)


def _is_installed(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _pkg_resources() -> ModuleType:
    """A module with the one function that robustbench calls: the path of a file beside a module."""

    def resource_filename(module_name: str, relative: str) -> str:
        return str(Path(str(sys.modules[module_name].__file__)).parent / relative)

    replacement: Any = ModuleType("pkg_resources")
    replacement.resource_filename = resource_filename
    return replacement  # type: ignore[no-any-return]
