"""A board as Markdown, in the shape of Table 2 of the AWP paper. Pure: rows in, text out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from robust_eval.core.text import printable
from robust_eval.leaderboard import robustbench_import
from robust_eval.leaderboard.ranking import Place, grouped, places
from robust_eval.leaderboard.robustbench_import import Reported
from robust_eval.leaderboard.row import WORST_CASE, Row
from robust_eval.results import Count, EvalResult

# Inside a table cell only inline markup can act. An underscore within a word is inert and common.
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})


def text(value: str) -> str:
    """Untrusted text as inert Markdown: no markup, HTML, links, line breaks, control or bidi characters."""
    escaped = _MARKUP.sub(r"\\\g<0>", printable(value).translate(_ENTITIES))
    return re.sub(r"(?i)www\.", "www&#46;", escaped.replace("://", ":&#47;/"))


def cell(count: Count | None) -> str:
    """``53.20 (50.1–56.3)``: percent, and the 95% Wilson interval, which is not symmetric and ends at 100."""
    if count is None:
        return "-"
    low, high = count.ci95
    return f"{100 * count.accuracy:.2f} ({100 * low:.1f}–{100 * high:.1f})"


def board(
    title: str,
    rows: Sequence[Row],
    by: str = WORST_CASE,
    reported: Sequence[Reported] = (),
    about: str = "",
) -> str:
    """The whole page. One table for each (images, threat model, suite): other rows do not compare.

    ``by``: the column that ranks. ``reported``: published entries, in a table of their own. ``about``: what a
    reader must know first.
    """
    parts = [f"# {text(title)}", *([f"**{text(about)}**"] if about else []), _preamble(by)]
    for members in grouped(rows):
        parts += [f"## {_group(members[0].result)}", _table(members, by)]
        notes = _notes(members)
        if notes:
            parts.append(notes)
    if reported:
        parts += [
            f"## Published elsewhere: {robustbench_import.MARK}",
            _reported_note(reported),
            _reported(reported),
        ]
    return "\n\n".join(parts) + "\n"


def _preamble(by: str) -> str:
    ranking = "worst case" if by == WORST_CASE else f"column {text(by)}"
    return (
        "Robust accuracy in percent (95% Wilson interval), on the same images for every column. "
        "*Worst case* counts an image as robust only if it withstood every attack of the row. "
        f"Ranked by {ranking}; rows that an exact paired test (McNemar, 5%) cannot tell from the best row of "
        "a rank share it (1=). *Selected* says how the checkpoint was chosen among its epochs, by its own "
        "record; *verified* rows were judged again from the stored adversarial images, the others are "
        "self-reported. Generated from the result files by `robust-eval leaderboard build`; do not edit."
    )


def _group(result: EvalResult) -> str:
    data = f"{text(result.data.name)} ({text(result.data.split)}), {result.data.n:,} images"
    return f"{data}, {result.threat.norm} {text(result.threat.eps)}, suite {text(result.suite.name)}"


def _table(rows: Sequence[Row], by: str) -> str:
    columns: dict[str, str] = {}
    for row in rows:
        columns |= {name: record.title for name, record in row.result.columns.items()}
    header = ["#", "model", "architecture", *(text(title) for title in columns.values()), "worst case", "n"]
    header += ["selected", "standing", "precision", "flags", "data"]
    lines = [_line(header), _line(["---"] * len(header))]
    lines += [_row(place, tuple(columns)) for place in places(rows, by)]
    return "\n".join(lines)


def _row(place: Place, columns: Sequence[str]) -> str:
    row, result = place.row, place.row.result
    name = text(row.label) + (" (partial)" if result.status == "partial" else "")
    cells = [place.text, name, text(result.checkpoint.architecture.id)]
    cells += [cell(result.columns.get(column)) for column in columns]
    cells += [f"**{cell(result.worst_case)}**", str(result.data.n)]
    cells += [row.selected, row.standing, text(result.suite.precision)]
    files = (("json", row.file), *row.files)
    cells += [", ".join(text(flag.id) for flag in result.flags) or "none"]
    cells += [", ".join(f"[{what}]({quote(file)})" for what, file in files)]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _notes(rows: Sequence[Row]) -> str:
    """What every flag that occurs means, once."""
    seen = {flag.id: flag for row in rows for flag in row.result.flags}
    return "\n".join(
        f"- {text(name)} ({flag.severity}): {text(flag.advice)}" for name, flag in sorted(seen.items())
    )


def _reported_note(entries: Sequence[Reported]) -> str:
    return (
        f"From {text(entries[0].source)}, in percent, as its authors published them. These models were not "
        "judged here: nothing says how they compare with the rows above image by image."
    )


def _reported(entries: Sequence[Reported]) -> str:
    header = ["model", "paper", "architecture", "venue", "clean", "AutoAttack or stronger", "standing"]
    lines = [_line(header), _line(["---"] * len(header))]
    for entry in entries:
        words = [text(value) for value in (entry.id, entry.paper, entry.architecture, entry.venue)]
        standing = robustbench_import.MARK + (
            ", unreliable by RobustBench's own mark" if entry.unreliable else ""
        )
        lines.append(_line([*words, f"{entry.clean:.2f}", f"{entry.robust:.2f}", standing]))
    return "\n".join(lines)
