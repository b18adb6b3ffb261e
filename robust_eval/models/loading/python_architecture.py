"""``--arch path.py:function`` or ``package.module:function``: build the network with code of the user.

The code is executed at the user's request.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from robust_eval.core import user_code
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.logits import output_problem
from robust_eval.models import outputs
from robust_eval.models.loading.state_dict_diff import NoFitError, State, compare, completed, shapes_of

DIGEST = "code_sha256"
"""Argument of a recorded architecture: the SHA-256 of its code."""


def is_python_file(arch: str) -> bool:
    """Whether ``arch`` has the form ``path.py:function``."""
    path, colon, function = arch.rpartition(":")
    return bool(colon and function) and path.endswith(".py")


def portable(arch: str) -> str:
    """``path.py:function`` without folders, so that results contain no paths; other ids unchanged."""
    if not is_python_file(arch):
        return arch
    file, _, function = arch.rpartition(":")
    return f"{Path(file).name}:{function}"


def sha256(arch: str) -> str:
    """SHA-256 of the code file and of the local files that it imports: other code is another model."""
    return user_code.digest(_source(arch.rpartition(":")[0]))


def _source(code: str) -> Path:
    """The file of ``path.py`` or ``package.module``; importing finds a module, but only its packages run."""
    if code.endswith(".py"):
        path = Path(code).expanduser()
        if not path.is_file():
            raise UserError(f"{path} does not exist. --arch takes path.py:function or an architecture id.")
        return path
    try:
        with _working_folder():
            spec = importlib.util.find_spec(code) if code else None
    except (ImportError, ValueError) as error:
        raise UserError(f"{code} cannot be imported: {type(error).__name__}: {error}.") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UserError(
            f"There is no module {code!r}. --arch takes path.py:function, package.module:function, "
            "timm:NAME, torchvision:NAME, robustbench:MODEL_ID or an architecture id."
        )
    return Path(spec.origin)


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """Let packages in the working folder be imported, as ``python -m`` does."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.remove(str(Path.cwd()))


def build(arch: str, shape: Mapping[str, Any], arguments: Mapping[str, Any]) -> nn.Module:
    """Call the function of ``path.py:function`` or ``package.module:function`` and return its network.

    It receives those of ``shape`` (``classes``, ``num_classes``, ``channels``, ``image_size``) that it has
    parameters for, and all ``arguments``.

    Raises:
        UserError: if the code cannot be imported, fails, or returns no module.
    """
    code, _, name = arch.rpartition(":")
    function = _function(code, name)
    parameters = inspect.signature(function).parameters
    for argument in arguments:
        if argument not in parameters and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            raise unknown(f"argument of {portable(arch)}:", argument, parameters)
    try:
        fitting = {key: value for key, value in shape.items() if key in parameters}
        network = function(**{**fitting, **arguments})
    except Exception as error:
        raise UserError(f"{arch} failed: {type(error).__name__}: {error}. Correct the function.") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{arch} returned a {type(network).__name__}, not a torch.nn.Module.")
    return network


def _function(code: str, name: str) -> Callable[..., Any]:
    path = _source(code)
    module = user_code.import_file(path) if code.endswith(".py") else _import_module(code)
    function = getattr(module, name, None)
    if not callable(function):
        names = (key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise unknown(f"function in {path.name}:", name, names)
    return function  # type: ignore[no-any-return]  # checked callable


def _import_module(code: str) -> ModuleType:
    try:
        with _working_folder():
            return importlib.import_module(code)
    except Exception as error:
        raise UserError(f"{code} cannot be imported: {type(error).__name__}: {error}.") from error


def load_into(network: nn.Module, states: Sequence[State], name: str, arch: str) -> tuple[int, str]:
    """Load the first of several state dicts that fits the network; return its index and the removed prefix.

    All names must agree, except for a prefix common to all of them.

    Raises:
        NoFitError: if none fits.
    """
    expected: dict[str, Tensor] = network.state_dict()
    differences = []
    for index, state in enumerate(states):
        for prefix in _shared_prefixes(state):
            view = {key.removeprefix(prefix): value for key, value in state.items()}
            difference = compare(shapes_of(expected), shapes_of(view))
            if difference.exact:
                network.load_state_dict(completed(view, expected, name), strict=True)
                return index, prefix
            differences.append(difference)
    closest = max(differences, key=lambda difference: difference.share)
    raise NoFitError(f"{name} does not fit the network of {portable(arch)}: {closest}.")


def _shared_prefixes(state: State) -> list[str]:
    parts = next(iter(state)).split(".")
    prefixes = [".".join(parts[:depth]) + "." for depth in range(1, len(parts))]
    return ["", *(prefix for prefix in prefixes if all(key.startswith(prefix) for key in state))]


def returning_logits(network: nn.Module, x_1CHW: torch.Tensor, arch: str) -> tuple[nn.Module, int, str]:
    """(network that returns logits, their number, note '' if it does so by itself), from one image.

    Raises:
        UserError: if the forward pass of the user code fails or does not return logits.
    """
    try:
        with torch.no_grad():
            output = network(x_1CHW)
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else "no message"
        raise UserError(
            f"{arch} fails on a batch of shape {tuple(x_1CHW.shape)}: {type(error).__name__}: {what}."
        ) from error
    note = ""
    if place := outputs.place_of_logits(output):
        network, note = outputs.TakesLogits(network, place), outputs.note(place)
        output = outputs.take(output, place)
    if problem := output_problem(output, len(x_1CHW)):
        raise UserError(f"{arch} must return logits of shape (N, classes), not {problem}.")
    return network, output.shape[1], note
