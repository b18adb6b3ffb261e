"""A board and its rules, read from ``board.toml`` in its folder or from ``configs/boards`` by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from robust_eval.core import discovery, strict_toml
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.files import sweep
from robust_eval.core.folders import WAIT_SECONDS, has_change, lock_folder
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.core.types import Suite
from robust_eval.evaluation.planning import suites
from robust_eval.leaderboard.row import RESULTS, WORST_CASE
from robust_eval.results import Sha256, first_error

RULES_FILE = "board.toml"


class Rules(ClosedModel):
    """Which rows a board accepts and how it ranks them. ``configs/boards`` has examples."""

    title: str
    about: str = ""
    """Note shown above the table: limits on what the rows can be compared with."""
    data: tuple[str, ...] = Field(min_length=1)
    """Accepted names of the dataset; all must refer to the same images."""
    split: str = "test"
    fingerprints: tuple[Sha256, ...] = ()
    """Fingerprints of the accepted sets of images; empty: any."""
    norm: str
    eps: str
    suite: str
    minimum_n: Annotated[int, Field(ge=1)]
    rank_by: str = WORST_CASE
    """A column of the suite, or ``worst-case``."""
    robustbench: bool | str = False
    """Whether to show RobustBench's published entries in a separate table. True: those of the installed
    release; a path relative to the board's folder: those of RobustBench's ``model_info`` there."""


@dataclass(frozen=True)
class Board:
    """A folder with ``results/``. A board without rules accepts any row and shows one table per setting."""

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


def load_board(
    folder: Path, title: str | None = None, rules_from: Path | None = None, *, must_exist: bool = True
) -> Board:
    """The board of a folder.

    Its rules are in the folder's ``board.toml``, else in ``configs/boards/<folder name>.toml``; with neither,
    it has none. ``title`` replaces the title of the rules. ``rules_from``: another copy of the folder, whose
    ``board.toml`` is used instead. Raises :class:`UserError` for invalid rules and, if ``must_exist``, for a
    missing folder.
    """
    if must_exist and not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the board's folder, which contains results/.")
    name = folder.resolve().name
    own = (rules_from or folder) / RULES_FILE
    if own.exists():  # whatever it is: other rules must not take its place
        rules = _read(own)
    elif name in discovery.config_ids("boards"):
        rules = _read(discovery.config_dir("boards") / f"{name}.toml")
    else:
        return Board(folder, title or name)
    return Board(folder, title or rules.title, rules)


@contextmanager
def lock_board(folder: Path) -> Iterator[None]:
    """Lock a board to change it, waiting for other commands; create its folder if necessary.

    An interrupted change is completed. Raises :class:`UserError` like
    :func:`robust_eval.core.folders.lock_folder`.
    """
    with lock_folder(folder, WAIT_SECONDS):
        sweep(folder / RESULTS)
        yield


@contextmanager
def lock_to_read(folder: Path) -> Iterator[None]:
    """Lock a board while it is read; without permission to write, it is read without a lock."""
    with ExitStack() as locked:
        try:
            locked.enter_context(lock_board(folder))
        except UserError as error:
            if not isinstance(error.__cause__, OSError) or has_change(folder):
                raise
        yield


def _read(path: Path) -> Rules:
    try:
        rules = Rules.model_validate(strict_toml.read(path))
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
