"""A work's figures as a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table

from benchmarks.side import Measured, Report
from benchmarks.work import REFERENCE, Work

HEADINGS = ("", "side", "robust %", "differ", "seconds", "x", "CPU s", "CPU x", "peak MiB", "of limit")


def table(work: Work, reports: Mapping[str, Report], rates: Mapping[str, float]) -> Table:
    """A row per column and side: accuracy, verdicts that differ from the reference's, seconds and ratio.

    The last rows hold totals, peak memory, and the share of what the machine's matrix rates would allow.
    """
    shown = Table(title=f"{work.name}: {work.examples} examples, Linf {work.eps}, batch {work.batch_size}")
    for heading in (
        "",
        "side",
        "robust %",
        "differ",
        "seconds",
        "x",
        "CPU s",
        "CPU x",
        "peak MiB",
        "of limit",
    ):
        shown.add_column(heading, justify="left" if heading in ("", "side") else "right", no_wrap=True)
    plain = reports.get(REFERENCE)
    names = list(next(iter(reports.values())).columns)
    for name in names if len(names) > 2 else []:
        for side, report in reports.items():
            mine, other = report.columns.get(name), plain.columns.get(name) if plain else None
            if mine is not None:
                shown.add_row(
                    name, side, *_verdicts(mine, other), *_ratio(mine.seconds, other and other.seconds)
                )
        shown.add_section()
    for side, report in reports.items():
        last = names[-1]
        mine, other = report.columns[last], plain.columns[last] if plain else None
        shown.add_row(
            "total" if len(names) > 2 else last,
            side,
            *(("", "") if len(names) > 2 else _verdicts(mine, other)),
            *_ratio(report.seconds, plain and plain.seconds),
            *_ratio(report.processor_seconds, plain and plain.processor_seconds),
            f"{report.peak_mib:.0f}",
            _share(report, rates),
        )
    return shown


def _verdicts(mine: Measured, other: Measured | None) -> Iterable[str]:
    differ = "" if other is None else str(sum(a != b for a, b in zip(mine.bits, other.bits, strict=True)))
    return f"{100 * mine.accuracy:.1f}", differ


def _ratio(mine: float, other: float | None) -> Iterable[str]:
    return f"{mine:.1f}", f"{other / mine:.2f}" if other and mine else ""


def _share(report: Report, rates: Mapping[str, float]) -> str:
    """Seconds that the counted operations would take at the matrix rates, over those they took."""
    if not report.operations or not set(report.operations) <= set(rates):
        return ""
    ideal = sum(count / rates[name] for name, count in report.operations.items())
    return f"{ideal / report.seconds:.0%}"
