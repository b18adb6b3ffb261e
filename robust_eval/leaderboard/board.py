"""What a board is: what belongs on it and how it ranks, from ``board.toml`` in its folder or by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from robust_eval.core import discovery
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.core.types import Suite
from robust_eval.evaluation.planning import suites
from robust_eval.leaderboard.row import WORST_CASE
from robust_eval.results import Sha256, first_error

FILE = "board.toml"


class Rules(ClosedModel):
    """What belongs on a board. ``configs/boards`` has examples."""

    title: str
    about: str = ""
    """What a reader must know before comparing, in a sentence or two."""
    data: tuple[str, ...] = Field(min_length=1)
    """Names that the same images go by."""
    split: str = "test"
    fingerprints: tuple[Sha256, ...] = ()
    """Where given, only these slices belong."""
    norm: str
    eps: str
    suite: str
    minimum_n: Annotated[int, Field(ge=1)]
    rank_by: str = WORST_CASE
    """A column of the suite, or ``worst-case``."""
    robustbench: bool | str = False
    """Show RobustBench's published entries beside the rows: those of the installed release, or of a folder
    with its ``model_info`` (a path relative to the board's folder)."""


@dataclass(frozen=True)
class Board:
    """A folder with ``results/``. Without rules it is open: anything may stand there, in tables apart."""

    folder: Path
    title: str
    rules: Rules | None = None

    @property
    def rank_by(self) -> str:
        return WORST_CASE if self.rules is None else self.rules.rank_by

    @property
    def about(self) -> str:
        return "" if self.rules is None else self.rules.about

    def threat(self) -> ThreatModel | None:
        return None if self.rules is None else parse_threat(self.rules.norm, self.rules.eps)

    def suite(self) -> Suite | None:
        return None if self.rules is None else suites.load(self.rules.suite)


def load(folder: Path, title: str | None = None, rules_from: Path | None = None) -> Board:
    """The board of a folder: ``board.toml`` in it, else ``configs/boards/<its name>.toml``, else open.

    ``rules_from``: another copy of the board's folder, whose rules count instead.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the board's folder, the one that holds results/.")
    return described(folder, title, rules_from)


def described(folder: Path, title: str | None = None, rules_from: Path | None = None) -> Board:
    """The same for a folder that need not be there yet."""
    name = folder.resolve().name
    own = (rules_from or folder) / FILE
    if own.is_file():
        rules = _read(own)
    elif name in discovery.config_ids("boards"):
        rules = _read(discovery.config_dir("boards") / f"{name}.toml")
    else:
        return Board(folder, title or name)
    return Board(folder, title or rules.title, rules)


def _read(path: Path) -> Rules:
    try:
        rules = Rules.model_validate(discovery.read_toml(path))
    except ValidationError as error:
        raise UserError(f"{path.name}: {first_error(error)}.") from None
    try:
        parse_threat(rules.norm, rules.eps)
        columns = [column.id for column in suites.load(rules.suite).columns]
    except UserError as error:
        raise UserError(f"{path.name}: {error}") from None
    if rules.rank_by not in (*columns, WORST_CASE):
        raise UserError(f"{path.name}: {unknown('column', rules.rank_by, [*columns, WORST_CASE])}")
    return rules
