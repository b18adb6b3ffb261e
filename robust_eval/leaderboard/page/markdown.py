"""Render a board as a Markdown table with the columns of Table 2 of the AWP paper."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from robust_eval.core.text import printable
from robust_eval.leaderboard import robustbench_import
from robust_eval.leaderboard.ranking import RankedRow, group_rows, rank_rows
from robust_eval.leaderboard.robustbench_import import PublishedEntry
from robust_eval.leaderboard.row import WORST_CASE, Row
from robust_eval.results import Count, trust

# Only inline markup has an effect inside a table cell. An underscore within a word has none.
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})


def escape(value: str) -> str:
    """Untrusted text without Markdown, HTML, links, line breaks, control or bidirectional characters."""
    escaped = _MARKUP.sub(r"\\\g<0>", printable(value).translate(_ENTITIES))
    return re.sub(r"(?i)www\.", "www&#46;", escaped.replace("://", ":&#47;/"))


def percent_with_interval(count: Count | None) -> str:
    """``53.20 (50.1–56.3)``: percent and its 95% Wilson interval, which is not symmetric."""
    if count is None:
        return "-"
    low, high = count.ci95
    return f"{100 * count.accuracy:.2f} ({100 * low:.1f}–{100 * high:.1f})"


def render(
    title: str,
    rows: Sequence[Row],
    by: str = WORST_CASE,
    published: Sequence[PublishedEntry] = (),
    about: str = "",
) -> str:
    """The README of a board: one table for each (images, threat model, suite).

    ``by``: the ranking column. ``published``: RobustBench's entries, shown in a separate table. ``about``: a
    note above the table.
    """
    parts = [f"# {escape(title)}", *([f"**{escape(about)}**"] if about else []), _preamble(by)]
    for members in group_rows(rows):
        parts += [f"## {_group(members[0])}", _table(members, by)]
        notes = _notes(members)
        if notes:
            parts.append(notes)
    if published:
        parts += [
            f"## Published elsewhere: {robustbench_import.NOT_REEVALUATED}",
            _published_note(published),
            _published_table(published),
        ]
    parts += [
        "## What verification takes on trust",
        "\n".join(f"- {escape(sentence)}" for sentence in trust.GENERAL),
    ]
    return "\n\n".join(parts) + "\n"


def _preamble(by: str) -> str:
    ranking = "worst case" if by == WORST_CASE else f"column {escape(by)}"
    return (
        "Accuracy in percent (95% Wilson interval); all columns use the same images. "
        "*Worst case*: an image counts as robust only if it is robust to every attack of the row. "
        f"Ranked by {ranking}; a row shares a rank (1=) if an exact paired test (McNemar, 5%) finds no "
        "significant difference from the best row of that rank. *Selected*: how the checkpoint was "
        "selected among its training epochs, as recorded in the checkpoint. *Standing*: *verified* rows "
        "were re-judged from the stored adversarial images, and of *audited* rows robust images were also "
        "attacked again; the others are self-reported. Generated from the "
        "result files by `robust-eval leaderboard build`; do not edit."
    )


def _group(row: Row) -> str:
    result = row.result
    data = f"{escape(result.data.name)} ({escape(result.data.split)}), {result.data.n:,} images"
    return f"{data}, {result.threat.norm} {escape(result.threat.eps)}, suite {row.suite.label}"


def _table(rows: Sequence[Row], by: str) -> str:
    columns: dict[str, str] = {}
    for row in rows:
        columns |= {name: record.title for name, record in row.result.columns.items()}
    header = ["#", "model", "architecture", *(escape(title) for title in columns.values()), "worst case", "n"]
    header += ["selected", "standing", "precision", "flags", "data"]
    lines = [_line(header), _line(["---"] * len(header))]
    lines += [_row(ranked_row, tuple(columns)) for ranked_row in rank_rows(rows, by)]
    return "\n".join(lines)


def _row(ranked_row: RankedRow, columns: Sequence[str]) -> str:
    row, result = ranked_row.row, ranked_row.row.result
    name = escape(row.label) + (" (partial)" if result.status == "partial" else "")
    cells = [ranked_row.text, name, escape(result.checkpoint.architecture.id)]
    cells += [percent_with_interval(result.columns.get(column)) for column in columns]
    cells += [f"**{percent_with_interval(result.worst_case)}**", str(result.data.n)]
    cells += [row.selected, row.standing, escape(result.suite.precision)]
    files = (("json", row.file), *row.attachment_files)
    cells += [", ".join(escape(flag.id) for flag in row.flags) or "none"]
    cells += [", ".join(f"[{what}]({quote(file)})" for what, file in files)]
    return _line(cells)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _notes(rows: Sequence[Row]) -> str:
    """Why rows are of a custom suite although they name another; the meaning of every flag, once."""
    lines = [f"- {escape(row.label)} {escape(row.suite.problem)}" for row in rows if row.suite.problem]
    seen = {flag.id: flag for row in rows for flag in row.flags}
    lines += [
        f"- {escape(name)} ({flag.severity}): {escape(flag.advice)}" for name, flag in sorted(seen.items())
    ]
    return "\n".join(lines)


def _published_note(entries: Sequence[PublishedEntry]) -> str:
    return (
        f"From {escape(entries[0].source)}, in percent, as published. These models were not evaluated here, "
        "so they cannot be compared with the rows above image by image."
    )


def _published_table(entries: Sequence[PublishedEntry]) -> str:
    header = ["model", "paper", "architecture", "venue", "clean", "AutoAttack or stronger", "standing"]
    lines = [_line(header), _line(["---"] * len(header))]
    for entry in entries:
        words = [escape(value) for value in (entry.id, entry.paper, entry.architecture, entry.venue)]
        standing = robustbench_import.NOT_REEVALUATED + (
            ", marked as unreliable by RobustBench" if entry.unreliable else ""
        )
        lines.append(_line([*words, f"{entry.clean:.2f}", f"{entry.robust:.2f}", standing]))
    return "\n".join(lines)
