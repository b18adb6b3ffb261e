"""What the page shows of a pair of rows and of a single row, in addition to the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard.page import charts
from robust_eval.leaderboard.page.chart_geometry import Chart
from robust_eval.leaderboard.page.view_models import Cell, GroupView, RowView, make_cell
from robust_eval.results import EvalResult
from robust_eval.results.comparison import WORST, Difference, compare, difference

NEIGHBOURS = 3
"""Number of rows above and of rows below in rank that a row is compared with."""
MOST_SETTINGS = 400
Settings = list[tuple[str, str]]


@dataclass(frozen=True)
class ColumnDifference:
    """A column of two rows; ``difference`` is ``after`` minus ``before``."""

    title: str
    before: Cell
    after: Cell
    difference: Difference


@dataclass(frozen=True)
class PairView:
    """A row without AWP (``before``) and the same recipe with AWP (``after``)."""

    before: RowView
    after: RowView
    columns: tuple[ColumnDifference, ...]
    """The shared columns, then the worst case."""

    @property
    def worst(self) -> Difference:
        return self.columns[-1].difference

    @property
    def span(self) -> tuple[float, float]:
        return _span([column.difference for column in self.columns])


@dataclass(frozen=True)
class RowDetails:
    """What the detail view of a row shows in addition to the table."""

    previous: str | None
    next: str | None
    neighbours: tuple[tuple[RowView, Difference], ...]
    """Rows adjacent in rank; the difference is this row minus the other in the ranking column."""
    curve: Chart | None
    settings: tuple[tuple[str, Settings], ...]

    @property
    def span(self) -> tuple[float, float]:
        return _span([found for _, found in self.neighbours])


def _span(differences: Sequence[Difference]) -> tuple[float, float]:
    """Common scale (low, high) that contains zero and every interval, as fractions."""
    low = min((found.interval[0] for found in differences), default=0.0)
    high = max((found.interval[1] for found in differences), default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def compare_pair(before: RowView, after: RowView) -> PairView:
    """Compare two rows column by column on the same images, as ``robust-eval compare`` does."""
    old, new = before.result, after.result
    columns = []
    for found in compare(new, old).differences:
        a = old.worst_case if found.column == WORST else old.columns[found.column]
        b = new.worst_case if found.column == WORST else new.columns[found.column]
        title = "Worst case" if found.column == WORST else new.columns[found.column].title
        columns.append(ColumnDifference(title, make_cell(a), make_cell(b), found))
    return PairView(before, after, tuple(columns))


def row_details(group: GroupView) -> dict[str, RowDetails]:
    """Row id to the details of the row."""
    found = {}
    for number, row in enumerate(group.rows):
        curve = row.extras.curve
        found[row.id] = RowDetails(
            previous=group.rows[number - 1].id if number else None,
            next=group.rows[number + 1].id if number + 1 < len(group.rows) else None,
            neighbours=tuple(_neighbours(row, group)),
            curve=None if curve is None else charts.curve(curve),
            settings=tuple(_settings(row)),
        )
    return found


def _neighbours(row: RowView, group: GroupView) -> Iterator[tuple[RowView, Difference]]:
    if not row.ranked:
        return
    at = group.ranked.index(row)
    for other in group.ranked[max(at - NEIGHBOURS, 0) : at + NEIGHBOURS + 1]:
        one, two = row.row.count(group.by), other.row.count(group.by)
        if other is not row and one is not None and two is not None:
            bits = parse_bits(one.robust_bits), parse_bits(two.robust_bits)
            yield other, difference(group.by_title, *bits)


def _settings(row: RowView) -> list[tuple[str, Settings]]:
    """(heading, settings) of everything in the result that the page shows nowhere else."""
    r = row.result
    checkpoint = r.checkpoint
    about: Settings = [
        ("file", checkpoint.name),
        ("sha256", checkpoint.sha256),
        ("format", checkpoint.format),
        ("architecture", checkpoint.architecture.id),
        *flatten(checkpoint.architecture.arguments),
        ("normalisation", checkpoint.normalisation.name),
        ("mean", ", ".join(f"{value:g}" for value in checkpoint.normalisation.mean)),
        ("std", ", ".join(f"{value:g}" for value in checkpoint.normalisation.std)),
        ("classes", str(checkpoint.classes)),
        ("trained on", checkpoint.dataset or "unknown"),
        *((f"note {number}", note) for number, note in enumerate(checkpoint.notes, start=1)),
    ]
    run: Settings = [
        ("images", f"{r.data.n} of {r.data.name}, {r.data.split} split, order {r.data.order}"),
        ("images' fingerprint", r.data.fingerprint),
        ("suite", row.row.suite.label),
        ("suite as recorded", f"{r.suite.name}, version {r.suite.version}"),
        ("precision", r.suite.precision),
        *_search(r),
        ("batch size", str(r.suite.batch_size)),
        ("seed", str(r.suite.seed)),
        ("passes", f"{r.worst_case.forwards:,} forward, {r.worst_case.backwards:,} backward"),
        ("seconds", f"{r.worst_case.seconds:,.1f}"),
        (
            "evidence",
            f"{r.evidence.images} images, sha256 {r.evidence.sha256}" if r.evidence else "none",
        ),
        ("created", r.created),
    ]
    found = [
        ("Checkpoint", about),
        ("Trained with", flatten(checkpoint.trained_with or {})[:MOST_SETTINGS]),
        ("Evaluation", run),
        ("Environment", flatten(r.environment.model_dump())),
        ("Verification", _verification(row)),
    ]
    return [(heading, entries) for heading, entries in found if entries]


def _search(result: EvalResult) -> Settings:
    """Changes made to the attack copy, and verdicts that a reduced precision changed."""
    if result.search is None:
        return []
    lost = result.search.disagreement
    notes: Settings = [("search", note) for note in result.search.notes]
    if lost is None:
        return notes
    figure = f"{lost.weaker} broken by float32 alone, {lost.stronger} by {result.suite.precision} alone"
    return [*notes, (f"disagreement in {lost.verdicts} verdicts", f"{figure} ({', '.join(lost.attacks)})")]


def _verification(row: RowView) -> Settings:
    record = row.row.verification
    if record is None:
        return (
            [("outdated", "made for different content of this result")]
            if row.row.verification_outdated
            else []
        )
    outcome = {True: "passed", False: "failed"}
    return [
        *((check.name, f"{outcome[check.passed]}: {check.detail}") for check in record.checks),
        *(("not reached", name) for name in record.not_reached),
        *(("audit", f"{outcome[one.passed]}: {one.text}") for one in (record.audit,) if one is not None),
        *(("taken on trust", text) for text in record.trusted),
        ("cost", record.cost),
        ("created", record.created),
    ]


def flatten(value: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested settings as a list of (dotted name, text)."""
    found: Settings = []
    for name, content in value.items():
        if isinstance(content, Mapping):
            found += flatten(content, f"{prefix}{name}.")
        elif isinstance(content, list | tuple):
            found.append((f"{prefix}{name}", ", ".join(str(part) for part in content)))
        else:
            found.append((f"{prefix}{name}", "–" if content is None else str(content)))
    return found
