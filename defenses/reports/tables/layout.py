"""Combine table entries into rows: mean and standard deviation over seeds, next to the published values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from defenses.recipes.recipe import DESCRIPTIVE_FIELDS
from defenses.recipes.resolve import flatten
from defenses.reports.tables.entries import TableEntry
from defenses.reports.tables.published import PublishedTable, TableValue
from defenses.training.seeds import seed_statistics
from robust_eval.core.errors import UserError


@dataclass(frozen=True)
class TableRow:
    """One row of a table: our values, the published ones and those of the released logs, by column."""

    group: str
    method: str
    ours: Mapping[str, TableValue]
    paper: Mapping[str, TableValue]
    logged: Mapping[str, TableValue]
    """From the released logs: natural accuracy at the most robust epoch, comparable with ``ours``."""


@dataclass(frozen=True)
class Table:
    """A table of the paper with our values."""

    published: PublishedTable
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    sources: tuple[str, ...]
    """How our values of each row were obtained."""
    left_out: tuple[str, ...]
    replicate: bool


def lay_out(
    table: PublishedTable,
    entries: Sequence[TableEntry],
    left_out: Sequence[str] = (),
    *,
    replicate: bool = False,
) -> Table:
    """Fill a table of the paper with entries; rows and columns that the paper does not have come last.

    Raises :class:`UserError` if no entry matches, or if the runs of a cell are not seeds of one recipe.
    """
    if not entries:
        named = f" Left out: {'; '.join(left_out)}." if left_out else ""
        methods = ", ".join(dict.fromkeys(row.method for row in table.rows))
        raise UserError(f"No run named matches table {table.number}, which has {methods}.{named}")
    cells: dict[tuple[str, str, str], list[TableEntry]] = {}
    for entry in entries:
        for column in entry.values:
            cells.setdefault((entry.group, entry.method, column), []).append(entry)
    for (group, method, _), members in cells.items():
        _check_seeds(f"{method}, {group}", members)
    columns = tuple(dict.fromkeys([*table.columns, *(column for _, _, column in cells)]))
    keys = [(row.group, row.method) for row in table.rows]
    keys += _new_rows(keys, [entry.method for entry in entries], entries)
    known = {(row.group, row.method): row for row in table.rows}
    rows = []
    for group, method in keys:
        paper = known.get((group, method))
        ours = {c: _figure(cells[group, method, c], c) for c in columns if (group, method, c) in cells}
        # The logs give natural accuracy at the most robust epoch, which is not comparable with maxima.
        logged = paper.logged if paper and not replicate else {}
        rows.append(TableRow(group, method, ours, paper.values if paper else {}, logged))
    return Table(table, columns, tuple(rows), _sources(entries), tuple(left_out), replicate)


def _new_rows(
    known: Sequence[tuple[str, str]], methods: Sequence[str], entries: Sequence[TableEntry]
) -> list[tuple[str, str]]:
    """Rows that the paper does not have, by group; methods in the order of the paper."""
    order = list(dict.fromkeys([method for _, method in known] + list(methods)))
    groups = dict.fromkeys(entry.group for entry in entries)
    ours = {(entry.group, entry.method) for entry in entries}
    return [(g, m) for g in groups for m in order if (g, m) in ours and (g, m) not in known]


def _figure(entries: Sequence[TableEntry], column: str) -> TableValue:
    found = seed_statistics([entry.values[column] for entry in entries])
    return TableValue(found.mean, found.sd if len(entries) > 1 else None, len(entries))


def _check_seeds(cell: str, members: Sequence[TableEntry]) -> None:
    first = members[0]
    theirs = _settings(first)
    for other in members[1:]:
        ours = _settings(other)
        different = [k for k in sorted(theirs.keys() | ours.keys()) if theirs.get(k) != ours.get(k)]
        if different:
            name = different[0]
            raise UserError(
                f"{first.source} and {other.source} would share a cell ({cell}) but differ in {name} "
                f"({theirs.get(name)}, {ours.get(name)}): name one of them."
            )
    seeds = [entry.seed for entry in members]
    for entry in members:
        if seeds.count(entry.seed) > 1:
            twice = [other.source for other in members if other.seed == entry.seed]
            raise UserError(
                f"{twice[0]} and {twice[1]} both give {cell}, seed {entry.seed}: name one of them."
            )


def _settings(entry: TableEntry) -> dict[str, object]:
    recipe = {name: value for name, value in flatten(entry.recipe) if name not in DESCRIPTIVE_FIELDS}
    return {**recipe, **entry.terms, "what was measured": entry.how}


def _sources(entries: Sequence[TableEntry]) -> tuple[str, ...]:
    seeds: dict[str, list[int]] = {}
    for entry in entries:
        seeds.setdefault(f"{entry.method}, {entry.group}: {entry.how}", []).append(entry.seed)
    return tuple(
        f"{text}; seed{'s' if len(found) > 1 else ''} {', '.join(map(str, sorted(found)))}"
        for text, found in seeds.items()
    )
