"""The measurements of a case as a terminal table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.table import Table

from benchmarks.evaluation.case import REFERENCE, Work
from benchmarks.evaluation.side import Measured, Report

HEADINGS = ("", "side", "robust %", "differ", "seconds", "x", "CPU s", "CPU x", "peak MiB", "of limit")


def table(work: Work, reports: Mapping[str, Report], rates: Mapping[str, float]) -> Table:
    """One row per column and side: accuracy, verdicts that differ from the reference, seconds and speed-up.

    The seconds of a column include its attack and verdicts. Totals include all work of a side: for ours
    also the probes, the attack copies and, in bfloat16, the float32 sample. The last rows also give peak
    memory and the speed as a fraction of the machine's matrix rate.
    """
    shown = Table(title=f"{work.name}: {work.examples} examples, Linf {work.eps}, batch {work.batch_size}")
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading in ("", "side") else "right", no_wrap=True)
    plain = reports.get(REFERENCE)
    names = min((list(report.columns) for report in reports.values()), key=len)
    for name in names:
        for side, report in reports.items():
            mine, other = report.columns[name], plain.columns[name] if plain else None
            seconds = _ratio(mine.seconds, other.seconds if other else None)
            shown.add_row(name, side, *_verdicts(mine, other), *seconds)
        shown.add_section()
    for side, report in reports.items():
        shown.add_row(
            "total",
            side,
            "",
            "",
            *_ratio(report.seconds, plain.seconds if plain else None),
            *_ratio(report.processor_seconds, plain.processor_seconds if plain else None),
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
    """Time of the counted operations at the matrix rates, as a fraction of the measured time."""
    if not report.operations or not set(report.operations) <= set(rates):
        return ""
    ideal = sum(count / rates[name] for name, count in report.operations.items())
    return f"{ideal / report.seconds:.0%}"
