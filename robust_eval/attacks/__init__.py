"""Attacks: one file each, found on disk and loaded on demand.

A family is a module with ``VERSION``, ``CITATION``, ``LIBRARY``, a frozen dataclass ``Params``, and

- ``cost(params, classes) -> Cost``: passes per image when nothing breaks it early;
- ``search(model, x_NCHW, y_N, threat, params, *, classes, seed) -> adv_NCHW``: float32 candidates in
  [0, 1]. The model maps [0, 1] pixels to logits_NK, is frozen and in eval mode; every x is classified
  correctly. Whether an image is broken is for the judge alone to say.

It may have ``note(params, classes) -> str`` (what few classes change), ``needs_float32(params) -> bool``
(true where a search in lower precision would find less) and ``problem(params, threat, image_size) -> str``
(why it cannot be made on such images).

Nothing here imports torch: listing and planning stay quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

from robust_eval.core import discovery
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.parameters import parse_params, to_table
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import AttackSpec, Cost

if TYPE_CHECKING:
    from torch import Tensor, nn


class Family(Protocol):
    """What an attack's module offers. ``params`` is an instance of the module's own ``Params``."""

    VERSION: int
    """Rises whenever the attack's meaning changes."""
    CITATION: str
    LIBRARY: str
    """The distribution that does the work."""
    Params: type

    def cost(self, params: Any, classes: int) -> Cost: ...

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
    ) -> Tensor: ...


def families() -> tuple[str, ...]:
    """Every family id: ``autoattack``, ``cw-linf``, ``fgsm``, ..."""
    return discovery.module_ids(__name__)


def family(name: str) -> Family:
    """The module of a family; an unknown name gets a suggestion."""
    if name not in families():
        raise unknown("attack family", name, families())
    return cast(Family, discovery.module(__name__, name))


def parse(name: str, table: Mapping[str, Any], where: str = "") -> Any:
    """A family's ``Params`` from a table of plain values; ``where`` (a file) opens every complaint."""
    return parse_params(family(name).Params, name, table, where)


def spec(attack_id: str, name: str, table: Mapping[str, Any], where: str = "") -> AttackSpec:
    """A checked attack with all parameters spelled out, defaults included."""
    return AttackSpec(attack_id, name, family(name).VERSION, to_table(parse(name, table, where)))


def cost(attack: AttackSpec, classes: int) -> Cost:
    """Passes per image, the judge's own not counted."""
    return family(attack.family).cost(parse(attack.family, attack.params), classes)


def note(attack: AttackSpec, classes: int) -> str:
    """How few classes change the attack ('' when they do not), for the result and the reader."""
    describe = getattr(family(attack.family), "note", None)
    return "" if describe is None else str(describe(parse(attack.family, attack.params), classes))


def refuse_impossible(attack: AttackSpec, threat: ThreatModel, image_size: tuple[int, int]) -> None:
    """Raise :class:`UserError` for an attack that cannot be made on images of this height and width."""
    ask = getattr(family(attack.family), "problem", None)
    problem = "" if ask is None else str(ask(parse(attack.family, attack.params), threat, image_size))
    if problem:
        raise UserError(f"{problem} Choose a suite without {attack.id}.")


def precision(attack: AttackSpec, asked: str) -> str:
    """In what arithmetic an attack searches: as asked, or float32 where less would blunt it."""
    fine = getattr(family(attack.family), "needs_float32", None)
    return "float32" if fine is not None and fine(parse(attack.family, attack.params)) else asked


def library(name: str) -> str:
    """The distribution behind a family and its version: ``pyautoattack 0.2.0``."""
    distribution = family(name).LIBRARY
    return f"{distribution} {metadata.version(distribution)}"
