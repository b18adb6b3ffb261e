"""A result as an HTML table, as notebooks show it."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from robust_eval.core.text import duration

if TYPE_CHECKING:
    from robust_eval.results.schema import Count, EvalResult


def html_table(result: EvalResult) -> str:
    """A line per column, the worst case last, then the flags. In percent, with 95% Wilson intervals."""
    threat = f"{result.threat.norm} {result.threat.eps}"
    title = f"{result.checkpoint.name} on {result.data.name}, {threat}, n = {result.data.n}"
    counted: list[tuple[str, Count]] = [(column.title, column) for column in result.columns.values()]
    rows = [_row(_cells(name, count)) for name, count in counted]
    rows += [_row((name, "not finished", "", "", "")) for name in result.missing]
    rows.append(_row(_cells("worst case", result.worst_case), "th"))
    head = _row(("attack", "accuracy %", "95% interval", "robust", "time"), "th")
    flags = [f"{flag.severity}: {flag.id}. {flag.figure}. {flag.advice}" for flag in result.flags]
    items = "".join(f"<li>{escape(text)}</li>" for text in flags or ["No flags."])
    return (
        f"<table><caption>{escape(title)}</caption><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
        f"<ul>{items}</ul>"
    )


def _cells(name: str, count: Count) -> tuple[str, ...]:
    low, high = (100 * bound for bound in count.ci95)
    accuracy, interval = f"{100 * count.accuracy:.2f}", f"{low:.1f} - {high:.1f}"
    return name, accuracy, interval, f"{count.n_robust}/{count.n}", duration(count.seconds)


def _row(texts: Iterable[str], tag: str = "td") -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"
