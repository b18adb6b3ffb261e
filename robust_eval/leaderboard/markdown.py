"""A board as Markdown, in the shape of Table 2 of the AWP paper. Pure: rows in, text out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import quote

from robust_eval.leaderboard.rows import Row, ranked
from robust_eval.schema import Count, EvalResult

# Inside a table cell only inline markup can act. An underscore within a word is inert and common.
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})


def text(value: str) -> str:
    """Untrusted text as inert Markdown: no markup, HTML, links, line breaks, control or bidi characters."""
    visible = "".join(c for c in value if unicodedata.category(c)[0] != "C" or c.isspace())
    escaped = _MARKUP.sub(r"\\\g<0>", " ".join(visible.split()).translate(_ENTITIES))
    return re.sub(r"(?i)www\.", "www&#46;", escaped.replace("://", ":&#47;/"))


def cell(count: Count | None) -> str:
    """``53.20 ± 3.1``: percent, and half the width of the 95% Wilson interval."""
    if count is None:
        return "-"
    low, high = count.ci95
    return f"{100 * count.accuracy:.2f} ± {50 * (high - low):.1f}"


def board(title: str, rows: Sequence[Row]) -> str:
    """The whole page. One table for each (data, threat model, suite): other rows do not compare."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_group(row.result), []).append(row)
    parts = [f"# {text(title)}", _PREAMBLE]
    for name, members in sorted(groups.items()):
        parts += [f"## {name}", _table(members)]
        notes = _notes(members)
        if notes:
            parts.append(notes)
    return "\n\n".join(parts) + "\n"


_PREAMBLE = (
    "Robust accuracy in percent ± half the 95% Wilson interval, on the same images for every column. "
    "*Worst case* counts an image as robust only if it withstood every attack of the row. "
    "Generated from the result files by `robust-eval leaderboard build`; do not edit."
)


def _group(result: EvalResult) -> str:
    data = f"{text(result.data.name)} ({text(result.data.split)})"
    return f"{data}, {result.threat.norm} {text(result.threat.eps)}, suite {text(result.suite.name)}"


def _table(rows: Sequence[Row]) -> str:
    columns: dict[str, str] = {}
    for row in rows:
        columns |= {name: record.title for name, record in row.result.columns.items()}
    header = [
        "#",
        "model",
        "architecture",
        *columns.values(),
        "worst case",
        "n",
        "precision",
        "flags",
        "data",
    ]
    can_rank, cannot = ranked(list(rows))
    lines = [_line(header), _line(["---"] * len(header))]
    for position, row in enumerate(can_rank, start=1):
        lines.append(_row(str(position), row, tuple(columns)))
    lines += [_row("-", row, tuple(columns)) for row in cannot]
    return "\n".join(lines)


def _row(position: str, row: Row, columns: Sequence[str]) -> str:
    result = row.result
    name = text(row.name) + (" (partial)" if result.status == "partial" else "")
    cells = [position, name, text(result.checkpoint.architecture.id)]
    cells += [cell(result.columns.get(column)) for column in columns]
    cells += [f"**{cell(result.worst_case)}**", str(result.data.n), result.suite.precision]
    cells += [", ".join(text(flag.id) for flag in result.flags) or "none", f"[json]({quote(row.file)})"]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _notes(rows: Sequence[Row]) -> str:
    """What every flag that occurs means, once."""
    seen = {flag.id: flag for row in rows for flag in row.result.flags}
    return "\n".join(
        f"- `{name}` ({flag.severity}): {text(flag.advice)}" for name, flag in sorted(seen.items())
    )
