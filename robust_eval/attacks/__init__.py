"""Attacks, one file per family; files are found by name and imported on demand.

Further families are files and functions of the user, and modules of installed packages (docs/plugins.md).

A family is a module with ``VERSION``, ``CITATION``, ``LIBRARY``, a frozen dataclass ``Params``, and

- ``cost(params, classes) -> Cost``: passes per image if the image stays robust;
- ``search(model, x_NCHW, y_N, threat, params, *, classes, seed) -> adv_NCHW``: float32 images in [0, 1].
  The model maps [0, 1] pixels to logits_NK, is in eval mode and has frozen parameters; it classifies
  every x correctly. The judge, not the attack, decides whether an image is broken.

Optional are ``note(params, classes) -> str`` (how few classes change the attack),
``needs_float32(params) -> bool`` (whether lower precision weakens it) and
``problem(params, threat, image_size) -> str`` (why it cannot run on such images).

Attacks may import ``core`` and ``models``. This module imports no torch, so that listing and planning
are fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from robust_eval.attacks import _foreign
from robust_eval.core import discovery
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.parameters import parse_params, to_table
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import AttackSpec, Cost

FILES = (".py", ".npz", ".safetensors")
"""Endings of files with an attack of the user (code), or with the images that one has made."""

if TYPE_CHECKING:
    from torch import Tensor, nn


class Family(Protocol):
    """The interface of an attack module. ``params`` is an instance of its ``Params``."""

    VERSION: int
    """Increased whenever the behaviour of the attack changes."""
    CITATION: str
    LIBRARY: str
    """The distribution that implements the attack."""
    Params: type

    def cost(self, params: Any, classes: int) -> Cost:
        """Passes per image if the image stays robust."""

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
        """Adversarial images (N, C, H, W), float32 in [0, 1]; they have not been judged."""


def families() -> tuple[str, ...]:
    """The ids of all families, those of installed packages included, such as ``cw-linf`` and ``fgsm``."""
    return discovery.module_ids(__name__)


def is_own(name: str) -> bool:
    """Whether a family is part of this package."""
    return name in discovery.own_module_ids(__name__)


def add(attack: Path | Callable[..., Tensor]) -> str:
    """Make a family of a file (code, or images of an attack) or of a function; its name.

    :func:`family` knows it from then on.

    Raises:
        UserError: if the file is not an attack.
    """
    return _foreign.add_file(attack) if isinstance(attack, Path) else _foreign.add_function(attack)


def family(name: str) -> Family:
    """The module of a family.

    Raises:
        UserError: for an unknown name, with a suggestion.
    """
    if is_own(name):
        return cast(Family, discovery.module(__name__, name))
    if (found := _foreign.find(name)) is not None:
        return cast(Family, found.family)
    if name.startswith("python:"):
        raise UserError(f"{name} was a function given to evaluate(). Call evaluate() again to repeat it.")
    if name.endswith(FILES):
        raise UserError(
            f"The attack {name} is a file of the user. Give the suite file that names it: run --suite "
            "FILE.toml, merge --suite FILE.toml, verify --audit-suite FILE.toml."
        )
    raise unknown("attack family", name, families())


def refuse_other_code(name: str, recorded: str) -> None:
    """Raise :class:`UserError` if a family that is not this package's has other code than ``recorded``."""
    if not is_own(name) and library(name) != recorded:
        raise UserError(
            f"The code of {name} is {library(name)} here and {recorded} in the result. Give the code of the "
            "result."
        )


def parse(name: str, table: Mapping[str, Any], source: str = "") -> Any:
    """The ``Params`` of a family from a table of plain values; ``source``: a file, for error messages."""
    return parse_params(family(name).Params, name, table, source)


def spec(attack_id: str, name: str, table: Mapping[str, Any], source: str = "") -> AttackSpec:
    """A checked attack with all parameters, defaults included."""
    return AttackSpec(attack_id, name, family(name).VERSION, to_table(parse(name, table, source)))


def cost(attack: AttackSpec, classes: int) -> Cost:
    """Passes per image, without those of the judge."""
    return family(attack.family).cost(parse(attack.family, attack.params), classes)


def note(attack: AttackSpec, classes: int) -> str:
    """How few classes change the attack; '' if they do not."""
    describe = getattr(family(attack.family), "note", None)
    return "" if describe is None else str(describe(parse(attack.family, attack.params), classes))


def refuse_impossible(attack: AttackSpec, threat: ThreatModel, image_size: tuple[int, int]) -> None:
    """Raise :class:`UserError` for an attack that cannot run on images of this height and width."""
    describe = getattr(family(attack.family), "problem", None)
    problem = (
        "" if describe is None else str(describe(parse(attack.family, attack.params), threat, image_size))
    )
    if problem:
        raise UserError(f"{problem} Choose a suite without {attack.id}.")


def precision(attack: AttackSpec, requested: str) -> str:
    """The precision of an attack: as requested, or float32 for attacks that need it."""
    needs_float32 = getattr(family(attack.family), "needs_float32", None)
    if needs_float32 is not None and needs_float32(parse(attack.family, attack.params)):
        return "float32"
    return requested


def library(name: str) -> str:
    """Distribution and version that implement a family, e.g. ``pyautoattack 0.2.0``.

    For a family that is not part of this package also the SHA-256 of its code.
    """
    own = family(name)
    if not is_own(name) and (found := _foreign.find(name)) is not None:
        return found.library
    distribution = own.LIBRARY
    return f"{distribution} {metadata.version(distribution)}"
