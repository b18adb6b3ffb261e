"""Rows as the page shows them: text, percentages, anchors and colours, without markup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from robust_eval.core.text import count_of, printable
from robust_eval.leaderboard.awp_pairs import find_pairs, split_awp
from robust_eval.leaderboard.page_extras import NO_EXTRAS, PageExtras
from robust_eval.leaderboard.ranking import RankedRow, group_rows, rank_rows
from robust_eval.leaderboard.row import WORST_CASE, Row
from robust_eval.results import Count, EvalResult

# Number of colours in the palette; recipes beyond it are grey.
COLOURS = 7


@dataclass(frozen=True)
class Cell:
    """An accuracy in percent, with its 95% Wilson interval ``low``..``high``."""

    value: float
    low: float
    high: float
    n_robust: int
    n: int


def make_cell(count: Count) -> Cell:
    """A count as a cell of a table."""
    low, high = count.ci95
    return Cell(100 * count.accuracy, 100 * low, 100 * high, count.n_robust, count.n)


@dataclass(frozen=True)
class RowView:
    """A row with everything that the page shows of it."""

    ranked_row: RankedRow
    id: str
    """Anchor of the detail view, ``#row-...``: letters, digits, ``._-``."""
    colour: int
    cells: Mapping[str, Cell]
    worst: Cell
    extras: PageExtras = NO_EXTRAS

    @property
    def row(self) -> Row:
        return self.ranked_row.row

    @property
    def result(self) -> EvalResult:
        return self.row.result

    @property
    def rank(self) -> int | None:
        return self.ranked_row.rank

    @property
    def rank_text(self) -> str:
        return self.ranked_row.text

    @property
    def ranked(self) -> bool:
        return self.rank is not None

    @property
    def name(self) -> str:
        return printable(self.row.label, 80)

    @property
    def with_awp(self) -> bool:
        return split_awp(self.row.name)[1]

    @property
    def href(self) -> str:
        """Address of the result file, relative to the page; quoted, so without scheme, host or query."""
        return "./" + quote(self.row.file)

    @property
    def attachments(self) -> list[tuple[str, str]]:
        """(kind, address) of the attached checkpoint and evidence."""
        return [(what, "./" + quote(file)) for what, file in self.row.attachment_files]

    @property
    def blocked(self) -> bool:
        return any(flag.severity == "blocks ranking" for flag in self.row.flags)


@dataclass(frozen=True)
class GroupView:
    """Comparable rows: the same images, threat model and suite."""

    id: str
    data: str
    images: str
    threat: str
    suite: str
    """The label of ``Row.suite``."""
    by: str
    """The ranking column."""
    columns: Mapping[str, str]
    """Column id to title, in the order of the suite."""
    rows: tuple[RowView, ...]
    """Ranked rows first, best first."""
    pairs: tuple[tuple[RowView, RowView], ...]

    @property
    def total(self) -> str:
        return count_of(len(self.rows), "row")

    @property
    def ranked(self) -> tuple[RowView, ...]:
        return tuple(row for row in self.rows if row.ranked)

    @property
    def by_title(self) -> str:
        return "worst case" if self.by == WORST_CASE else self.columns.get(self.by, self.by)

    @property
    def without_awp(self) -> tuple[RowView, ...]:
        """The row without AWP of every pair; charts draw it hollow."""
        return tuple(before for before, _ in self.pairs)


def group_views(
    rows: Sequence[Row], extras: Mapping[str, PageExtras] | None = None, by: str = WORST_CASE
) -> list[GroupView]:
    """One group for each (images, threat model, suite), ranked by the column ``by``."""
    ids, colours = _ids(rows), _colours(rows)
    return [
        _group(
            f"group-{number}", [_view(one, ids, colours, extras or {}) for one in rank_rows(members, by)], by
        )
        for number, members in enumerate(group_rows(rows), start=1)
    ]


def _view(
    ranked_row: RankedRow,
    ids: Mapping[str, str],
    colours: Mapping[str, int],
    extras: Mapping[str, PageExtras],
) -> RowView:
    row = ranked_row.row
    return RowView(
        ranked_row=ranked_row,
        id=ids[row.file],
        colour=colours[split_awp(row.name)[0]],
        cells={name: make_cell(column) for name, column in row.result.columns.items()},
        worst=make_cell(row.result.worst_case),
        extras=extras.get(row.file, NO_EXTRAS),
    )


def _group(name: str, rows: Sequence[RowView], by: str) -> GroupView:
    first = rows[0].result
    titles = {name: column.title for row in rows for name, column in row.result.columns.items()}
    planned = dict.fromkeys(name for row in rows for name in (*row.result.suite.columns, *titles))
    by_file = {row.row.file: row for row in rows}
    return GroupView(
        id=name,
        data=f"{first.data.name} ({first.data.split})",
        images=count_of(first.data.n, "image"),
        threat=f"{first.threat.norm} {first.threat.eps}",
        suite=rows[0].row.suite.label,
        by=by,
        columns={name: titles[name] for name in planned if name in titles},
        rows=tuple(rows),
        pairs=tuple((by_file[a.file], by_file[b.file]) for a, b in find_pairs([row.row for row in rows])),
    )


def _ids(rows: Sequence[Row]) -> dict[str, str]:
    """``Row.file`` to anchor: made from the stem, so that links to a row survive a rebuild."""
    ids: dict[str, str] = {}
    for row in rows:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePosixPath(row.file).stem)[:80]
        anchor, number = f"row-{stem}", 2
        while anchor in ids.values():
            anchor, number = f"row-{stem}-{number}", number + 1
        ids[row.file] = anchor
    return ids


def _colours(rows: Sequence[Row]) -> dict[str, int]:
    """Recipe without ``-awp`` to colour number: both rows of a pair share a colour."""
    families = sorted({split_awp(row.name)[0] for row in rows})
    return {family: min(number, COLOURS) for number, family in enumerate(families)}


def safe_link(value: object) -> str | None:
    """The value if it is an http or https address with a host, else None."""
    if not isinstance(value, str) or value != printable(value, len(value)):
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    return value if parts.scheme in ("http", "https") and parts.hostname else None
