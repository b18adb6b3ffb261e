"""Tables of a board's pairs, with and without weight perturbation, and of the paper's Table 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from defenses.reports.tables import published
from defenses.reports.tables.entries import TABLE_2
from robust_eval.leaderboard import awp_pairs
from robust_eval.leaderboard.row import Row
from robust_eval.results.comparison import Difference, compare
from scripts.tables.markdown_blocks import markdown_table

# Columns that the table of pairs shows with intervals.
COLUMNS = {name: TABLE_2[name] for name in ("pgd-20", "aa")}
Cells = Sequence[str]


@cache
def paper() -> dict[str, dict[str, float]]:
    """Recipe to the gain by AWP in each column of Table 2, in percentage points."""
    rows = {row.method: row.values for row in published.read("2").rows}
    recipes = ("at", "trades", "mart", "pretraining", "rst")
    return {
        recipe: {
            column: rows[f"{method}-AWP"][column].mean - rows[method][column].mean
            for column in TABLE_2.values()
        }
        for recipe in recipes
        if (method := published.method(recipe))
    }


def sign(ours: Difference, theirs: float) -> str:
    """Whether the two have the same sign; "cannot tell" unless ours is significant."""
    if not ours.significant:
        return "cannot tell"
    return "yes" if (ours.value > 0) == (theirs > 0) else "no"


def size(ours: Difference, theirs: float) -> str:
    """Whether the paper's difference lies within our 95% interval."""
    low, high = ours.interval
    return "yes" if 100 * low <= theirs <= 100 * high else "no"


def points(found: Difference) -> str:
    """A difference and its 95% interval in percentage points."""
    low, high = found.interval
    return f"{100 * found.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


@dataclass(frozen=True)
class Pair:
    """A recipe's rows without and with weight perturbation."""

    before: Row
    after: Row
    ours: Mapping[str, Difference]
    """Column to difference, with minus without weight perturbation."""

    @property
    def theirs(self) -> Mapping[str, float]:
        """The paper's differences by its column title, in percentage points; empty if it has no such pair."""
        return paper().get(awp_pairs.split_awp(self.before.name)[0], {})


def find_pairs(rows: Sequence[Row]) -> list[Pair]:
    """The pairs of a board in the paper's order, with their differences."""
    return [
        Pair(before, after, {one.column: one for one in compare(after.result, before.result).differences})
        for before, after in awp_pairs.find_pairs(order_by_recipe(rows))
    ]


def pair_table(found: Sequence[Pair]) -> str:
    """Difference of each pair, with minus without weight perturbation, and the paper's."""
    headings = ["pair", "images"]
    for title in COLUMNS.values():
        headings += [f"{title}, ours", "paper's", "same sign", "same size"]
    return markdown_table(headings, [_pair(one) for one in found]) if found else "No pair is complete yet."


def _pair(pair: Pair) -> Cells:
    cells = [pair.before.label, f"{pair.before.result.data.n:,}"]
    for column, title in COLUMNS.items():
        ours, other = pair.ours[column], pair.theirs.get(title)
        cells += (
            [points(ours), "-", "-", "-"]
            if other is None
            else [
                points(ours),
                f"{other:+.2f}",
                sign(ours, other),
                size(ours, other),
            ]
        )
    return cells


def column_table(found: Sequence[Pair]) -> str:
    """Difference of each pair in every column, and the paper's; significant differences in bold."""
    if not found:
        return "No pair is complete yet."
    titles = [column.title for column in found[0].before.result.columns.values()]
    return markdown_table(["pair", *titles], [line for pair in found for line in _columns(pair)])


def _columns(pair: Pair) -> Iterator[Cells]:
    label, names = pair.before.label, list(pair.before.result.columns)
    cells = {name: f"{100 * pair.ours[name].value:+.1f}" for name in names}
    yield [f"{label}, ours", *(f"**{c}**" if pair.ours[n].significant else c for n, c in cells.items())]
    if pair.theirs:
        yield [f"{label}, the paper's", *(f"{pair.theirs[TABLE_2[name]]:+.2f}" for name in names)]


def summary(found: Sequence[Pair], column: str = "aa") -> str:
    """A sentence that lists the pairs by agreement with the paper's sign."""
    labels: dict[str, list[str]] = {"yes": [], "no": [], "cannot tell": []}
    for pair in found:
        if pair.theirs:
            labels[sign(pair.ours[column], pair.theirs[TABLE_2[column]])].append(pair.before.label)
    words = {
        "yes": "the paper's sign",
        "no": "the opposite sign",
        "cannot tell": "no significant difference",
    }
    parts = [f"{words[kind]} for {', '.join(names)}" for kind, names in labels.items() if names]
    return f"Under {found[0].before.result.columns[column].title}: {'; '.join(parts)}." if parts else ""


def order_by_recipe(rows: Sequence[Row]) -> list[Row]:
    """Rows ordered by recipe, then seed; without weight perturbation first."""
    order = ("natural", *paper())
    return sorted(rows, key=lambda row: _position(row, order))


def _position(row: Row, order: Sequence[str]) -> tuple[int, str, str, bool]:
    recipe, awp = awp_pairs.split_awp(row.name)
    return (order.index(recipe) if recipe in order else len(order)), recipe, str(row.seed), awp
