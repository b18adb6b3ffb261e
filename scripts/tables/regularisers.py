"""Table of a board's rows with the regularisers of the AWP paper's section 5.3, and of its Table 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from defenses.reports.tables import published
from robust_eval.leaderboard import ranking
from robust_eval.leaderboard.row import Row
from robust_eval.results.comparison import compare
from scripts.tables.markdown_blocks import markdown_table
from scripts.tables.pairs import Cells, points, sign

PLAIN = "at"
# In the paper's order; then random perturbation, which is only in the paper's figures, and AWP.
REGULARISED = ("at-l1", "at-l2", "at-cutout", "at-mixup", "at-rwp", "at-awp")


@cache
def paper() -> dict[str, float]:
    """Recipe to its gain over AT under PGD-20 in Table 4, at the best epoch, in percentage points."""
    robust = {
        row.method: row.values["robust/best"].mean
        for row in published.read("4").rows
        if row.group == "CIFAR-10 Linf"
    }
    methods = {recipe: published.method(recipe) for recipe in REGULARISED}
    return {
        recipe: robust[method] - robust["AT"]
        for recipe, method in methods.items()
        if method is not None and method in robust
    }


def table(rows: Sequence[Row]) -> str:
    """Each regulariser minus AT with the same seed and images; empty for a board without regularisers."""
    if not any(row.name in REGULARISED[:-1] for row in rows):
        return ""
    headings = ("minus AT", "Clean", "PGD-20, ours", "the paper's", "same sign", "AA, ours")
    return markdown_table(headings, list(_lines(rows)))


def _lines(rows: Sequence[Row]) -> Iterator[Cells]:
    for recipe in REGULARISED:
        for row in (row for row in rows if row.name == recipe):
            plain = next((one for one in rows if one.name == PLAIN and _key(one) == _key(row)), None)
            if plain is None:
                continue
            ours = {one.column: one for one in compare(row.result, plain.result).differences}
            theirs = paper().get(recipe)
            yield [
                row.label,
                points(ours["clean"]),
                points(ours["pgd-20"]),
                "-" if theirs is None else f"{theirs:+.2f}",
                "-" if theirs is None else sign(ours["pgd-20"], theirs),
                points(ours["aa"]),
            ]


def _key(row: Row) -> tuple[object, ...]:
    """What a row must share with AT's row to be compared with it."""
    return row.seed, row.selected, row.result.checkpoint.architecture, ranking.group_key(row)
