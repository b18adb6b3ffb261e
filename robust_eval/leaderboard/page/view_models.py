"""Rows as the page shows them: text, percent, anchors and colours. Pure, and free of markup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from robust_eval.core.text import count_of, printable
from robust_eval.leaderboard import awp_pairs as pairs
from robust_eval.leaderboard.page_extras import NOTHING, Sidecar
from robust_eval.leaderboard.ranking import Place, grouped, places
from robust_eval.leaderboard.row import WORST_CASE, Row
from robust_eval.results import Count, EvalResult

# Families of the palette; the rest share its grey.
COLOURS = 7


@dataclass(frozen=True)
class Cell:
    """A count in percent, with the 95% Wilson interval ``low``..``high``."""

    value: float
    low: float
    high: float
    n_robust: int
    n: int


def cell(count: Count) -> Cell:
    low, high = count.ci95
    return Cell(100 * count.accuracy, 100 * low, 100 * high, count.n_robust, count.n)


@dataclass(frozen=True)
class RowView:
    place: Place
    id: str
    """Anchor of the detail view, ``#row-...``: letters, digits, ``._-``."""
    colour: int
    cells: Mapping[str, Cell]
    worst: Cell
    sidecar: Sidecar = NOTHING

    @property
    def row(self) -> Row:
        return self.place.row

    @property
    def result(self) -> EvalResult:
        return self.row.result

    @property
    def ranked(self) -> bool:
        return self.place.rank is not None

    @property
    def name(self) -> str:
        return printable(self.row.label, 80)

    @property
    def with_awp(self) -> bool:
        return pairs.family(self.row.name)[1]

    @property
    def href(self) -> str:
        """The result file, relative to the page. Quoting leaves no scheme, host or query in it."""
        return "./" + quote(self.row.file)

    @property
    def kept(self) -> list[tuple[str, str]]:
        """(what, address) of the checkpoint and the evidence, where the board keeps them."""
        return [(what, "./" + quote(file)) for what, file in self.row.files]

    @property
    def blocked(self) -> bool:
        return any(flag.severity == "blocks ranking" for flag in self.result.flags)


@dataclass(frozen=True)
class GroupView:
    """Rows that compare: the same images, threat model and suite."""

    id: str
    data: str
    images: str
    threat: str
    suite: str
    by: str
    """The column that ranks."""
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
        """The first member of every pair, drawn hollow."""
        return tuple(before for before, _ in self.pairs)


def groups(
    rows: Sequence[Row], sidecars: Mapping[str, Sidecar] | None = None, by: str = WORST_CASE
) -> list[GroupView]:
    """One for each (data, images, threat model, suite), as in the Markdown table; ranked ``by`` a column."""
    ids, colours, beside = _ids(rows), _colours(rows), sidecars or {}
    return [
        _group(f"group-{number}", [_view(place, ids, colours, beside) for place in places(members, by)], by)
        for number, members in enumerate(grouped(rows), start=1)
    ]


def _view(
    place: Place, ids: Mapping[str, str], colours: Mapping[str, int], sidecars: Mapping[str, Sidecar]
) -> RowView:
    row = place.row
    return RowView(
        place=place,
        id=ids[row.file],
        colour=colours[pairs.family(row.name)[0]],
        cells={name: cell(column) for name, column in row.result.columns.items()},
        worst=cell(row.result.worst_case),
        sidecar=sidecars.get(row.file, NOTHING),
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
        suite=first.suite.name,
        by=by,
        columns={name: titles[name] for name in planned if name in titles},
        rows=tuple(rows),
        pairs=tuple((by_file[a.file], by_file[b.file]) for a, b in pairs.find([row.row for row in rows])),
    )


def _ids(rows: Sequence[Row]) -> dict[str, str]:
    """File to anchor: its stem, so that a link to a row outlives a rebuild."""
    ids: dict[str, str] = {}
    for row in rows:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePosixPath(row.file).stem)[:80]
        wanted, number = f"row-{stem}", 2
        while wanted in ids.values():
            wanted, number = f"row-{stem}-{number}", number + 1
        ids[row.file] = wanted
    return ids


def _colours(rows: Sequence[Row]) -> dict[str, int]:
    """Both members of a pair have one colour, wherever they appear."""
    families = sorted({pairs.family(row.name)[0] for row in rows})
    return {family: min(number, COLOURS) for number, family in enumerate(families)}


def link(value: object) -> str | None:
    """An http(s) address with a host, as given; None for anything else, which is then shown as text."""
    if not isinstance(value, str) or value != printable(value, len(value)):
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    return value if parts.scheme in ("http", "https") and parts.hostname else None
