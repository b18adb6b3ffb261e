"""What the page shows of a pair and of a single row beyond the table. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard.page import charts
from robust_eval.leaderboard.page.chart_geometry import Chart
from robust_eval.leaderboard.page.view_models import Cell, GroupView, RowView, cell
from robust_eval.results import EvalResult
from robust_eval.results.comparison import WORST, Difference, compare, difference

NEIGHBOURS = 3
"""Rows above and below, in rank, that a row is compared with."""
MOST_SETTINGS = 400
Settings = list[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    title: str
    before: Cell
    after: Cell
    difference: Difference


@dataclass(frozen=True)
class PairView:
    """Differences are with minus without AWP."""

    before: RowView
    after: RowView
    lines: tuple[Line, ...]
    """Shared columns, then the worst case."""

    @property
    def worst(self) -> Difference:
        return self.lines[-1].difference

    @property
    def span(self) -> tuple[float, float]:
        return _span([line.difference for line in self.lines])


@dataclass(frozen=True)
class Detail:
    previous: str | None
    next: str | None
    neighbours: tuple[tuple[RowView, Difference], ...]
    """This row minus the other, in the column that ranks."""
    curve: Chart | None
    settings: tuple[tuple[str, Settings], ...]

    @property
    def span(self) -> tuple[float, float]:
        return _span([found for _, found in self.neighbours])


def _span(differences: Sequence[Difference]) -> tuple[float, float]:
    """The common scale of their drawings, with zero and every interval inside. As fractions."""
    low = min((found.interval[0] for found in differences), default=0.0)
    high = max((found.interval[1] for found in differences), default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    margin = 0.06 * (high - low) or 0.01
    return low - margin, high + margin


def pair(before: RowView, after: RowView) -> PairView:
    """Column by column on the same images, as ``robust-eval compare`` does it."""
    old, new = before.result, after.result
    lines = []
    for found in compare(new, old).differences:
        a = old.worst_case if found.column == WORST else old.columns[found.column]
        b = new.worst_case if found.column == WORST else new.columns[found.column]
        title = "Worst case" if found.column == WORST else new.columns[found.column].title
        lines.append(Line(title, cell(a), cell(b), found))
    return PairView(before, after, tuple(lines))


def details(group: GroupView) -> dict[str, Detail]:
    """Row id to what its view adds."""
    found = {}
    for number, row in enumerate(group.rows):
        curve = row.sidecar.curve
        found[row.id] = Detail(
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
    """Headed lists of everything the result records that is not shown elsewhere."""
    r = row.result
    checkpoint = r.checkpoint
    about: Settings = [
        ("file", checkpoint.name),
        ("sha256", checkpoint.sha256),
        ("format", checkpoint.format),
        ("architecture", checkpoint.architecture.id),
        *flat(checkpoint.architecture.arguments),
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
        ("suite", f"{r.suite.name}, version {r.suite.version}"),
        ("precision", r.suite.precision),
        *_search(r),
        ("batch size", str(r.suite.batch_size)),
        ("seed", str(r.suite.seed)),
        ("passes", f"{r.worst_case.forwards:,} forward, {r.worst_case.backwards:,} backward"),
        ("seconds", f"{r.worst_case.seconds:,.1f}"),
        (
            "evidence",
            f"{r.evidence.images} images, sha256 {r.evidence.sha256}" if r.evidence else "none kept",
        ),
        ("created", r.created),
    ]
    found = [
        ("Checkpoint", about),
        ("Trained with", flat(checkpoint.trained_with or {})[:MOST_SETTINGS]),
        ("Evaluation", run),
        ("Environment", flat(r.environment.model_dump())),
        ("Verification", _verification(row)),
    ]
    return [(heading, entries) for heading, entries in found if entries]


def _search(result: EvalResult) -> Settings:
    """What was done to the copy that attacks searched on, and what a reduced precision missed."""
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
        return [("lapsed", "it speaks of another content of this result")] if row.row.lapsed else []
    outcome = {True: "passed", False: "failed"}
    return [
        *((check.name, f"{outcome[check.passed]}: {check.detail}") for check in record.checks),
        *(("not reached", name) for name in record.not_reached),
        *(("audit", f"{outcome[one.passed]}: {one.text}") for one in (record.audit,) if one is not None),
        *(("on trust", text) for text in record.trusted),
        ("cost", record.cost),
        ("created", record.created),
    ]


def flat(value: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested settings as (dotted name, text)."""
    found: Settings = []
    for name, content in value.items():
        if isinstance(content, Mapping):
            found += flat(content, f"{prefix}{name}.")
        elif isinstance(content, list | tuple):
            found.append((f"{prefix}{name}", ", ".join(str(part) for part in content)))
        else:
            found.append((f"{prefix}{name}", "–" if content is None else str(content)))
    return found
