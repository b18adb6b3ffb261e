"""Read RobustBench's published entries, which a board shows in a separate table.

The entries of the installed release come from the tables in its package description. A folder with the
``model_info`` of RobustBench's repository also marks the entries that its authors consider unreliable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.threat import ThreatModel, parse_fraction
from robust_eval.leaderboard.board import Board
from robust_eval.models import robustbench_package
from robust_eval.results import first_error

NOT_REEVALUATED = "reported, not re-judged"
_DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
_CELL = re.compile(r"</?su[bp]>|\*|<br/?>")
_LINK = re.compile(r"\[(.*)\]\((.*)\)")


class RobustBenchEntry(BaseModel):
    """A ``model_info`` file of RobustBench; accuracies in percent, as text."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)

    name: str
    link: str = ""
    authors: str = ""
    venue: str = ""
    architecture: str
    dataset: str
    eps: str | None = None
    clean_acc: str = Field(pattern=r"^\d{1,3}(\.\d+)?$")
    autoattack_acc: str = Field(pattern=r"^\d{1,3}(\.\d+)?$")
    external: str | None = Field(default=None, pattern=r"^\d{1,3}(\.\d+)?$")
    """Accuracy under a stronger evaluation than AutoAttack, if there is one."""
    unreliable: bool = False


@dataclass(frozen=True)
class PublishedEntry:
    """A result published by RobustBench. Accuracies in percent; without verdicts for single images."""

    id: str
    paper: str
    link: str
    architecture: str
    venue: str
    clean: float
    robust: float
    """Under AutoAttack, or under a stronger evaluation if RobustBench has one."""
    source: str
    unreliable: bool = False
    """RobustBench marks AutoAttack's evaluation of this model as unreliable."""


def published_entries(board: Board) -> list[PublishedEntry]:
    """The entries for a board's dataset and threat model, best first; empty if the rules do not ask for them.

    Raises :class:`UserError` if RobustBench has no such table.
    """
    rules, threat = board.rules, board.threat()
    if rules is None or threat is None or not rules.robustbench:
        return []
    dataset = next((name for name in rules.data if name in _DATASETS), None)
    if dataset is None:
        raise UserError(
            f"RobustBench has no entries for {rules.data[0]}. Remove robustbench from board.toml."
        )
    if isinstance(rules.robustbench, str):
        found = _from_folder(board.folder / rules.robustbench, dataset, threat)
    else:
        found = _from_description(dataset, threat)
    return sorted(found, key=lambda entry: (-entry.robust, entry.id))


def _from_folder(root: Path, dataset: str, threat: ThreatModel) -> list[PublishedEntry]:
    folder = root / dataset / threat.norm
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} contains no entries of RobustBench (*.json). Give its model_info folder.")
    found = []
    for path in files:
        try:
            entry = RobustBenchEntry.model_validate(strict_json.read(path))
        except ValidationError as error:
            raise UserError(f"{path} is not an entry of RobustBench: {first_error(error)}.") from None
        if _same_eps(entry.eps, threat):
            found.append(_from_entry(path.stem, entry))
    return found


def _from_entry(name: str, entry: RobustBenchEntry) -> PublishedEntry:
    return PublishedEntry(
        id=name,
        paper=entry.name,
        link=entry.link,
        architecture=entry.architecture,
        venue=entry.venue or "Unpublished",
        clean=float(entry.clean_acc),
        robust=float(entry.external or entry.autoattack_acc),
        source="RobustBench model_info",
        unreliable=entry.unreliable,
    )


def _same_eps(text: str | None, threat: ThreatModel) -> bool:
    """Whether ``text`` equals the threat model's epsilon; exact, so 0.031 does not match 8/255."""
    try:
        return text is not None and parse_fraction(text, "eps") == threat.eps
    except UserError:
        return False


def _from_description(dataset: str, threat: ThreatModel) -> list[PublishedEntry]:
    """Entries from the tables in the metadata of the installed distribution."""
    version, description = robustbench_package.readme()
    source = f"RobustBench {version}"
    found = parse_tables(description, dataset, threat, source)
    if not found:
        raise UserError(f"{source} has no {_DATASETS[dataset]} models under {threat}.")
    return found


def parse_tables(description: str, dataset: str, threat: ThreatModel, source: str) -> list[PublishedEntry]:
    """Entries of the table under ``### DATASET`` and ``#### NORM, eps=EPS`` of RobustBench's README."""
    found, section, table = [], "", ""
    for line in description.splitlines():
        if heading := re.match(r"(#{1,4}) (.+)", line.strip()):
            section, table = (heading[2], "") if len(heading[1]) < 4 else (section, heading[2])
        elif section.strip() == _DATASETS[dataset] and _is_table(table, threat) and line.startswith("|"):
            entry = _row(line, source)
            found += [] if entry is None else [entry]
    return found


def _is_table(heading: str, threat: ThreatModel) -> bool:
    norm, _, eps = heading.partition(", eps=")
    return norm.strip() == threat.norm and _same_eps(eps.strip(), threat)


def _row(line: str, source: str) -> PublishedEntry | None:
    cells = [_CELL.sub("", cell).strip() for cell in line.strip().strip("|").split("|")]
    if len(cells) != 7 or not cells[0].isdigit():
        return None
    paper = _LINK.fullmatch(cells[2])
    try:
        clean, robust = (float(cell.removesuffix("%")) for cell in cells[3:5])
    except ValueError:
        return None
    return PublishedEntry(
        id=cells[1],
        paper=paper[1] if paper else cells[2],
        link=paper[2] if paper else "",
        architecture=cells[5],
        venue=cells[6],
        clean=clean,
        robust=robust,
        source=source,
    )
