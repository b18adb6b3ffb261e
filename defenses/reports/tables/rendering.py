"""Render a table as Markdown and as JSON data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from defenses.reports.tables.layout import Table
from defenses.reports.tables.published import TableValue

SOURCE = "Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization (NeurIPS 2020)"


def markdown(table: Table) -> str:
    """Render the table; each row has lines for our values, the published values and the released logs."""
    published = table.published
    heads = ["threat" if published.number == "1" else "data", "method", "", *map(_head, table.columns)]
    lines = [f"**Table {published.number}: {published.title}** ({published.metric}, percent)", ""]
    lines += [_line(heads), _line(["---"] * 3 + ["---:"] * len(table.columns))]
    for row in table.rows:
        names = [row.group, row.method]
        for source, figures in (("ours", row.ours), ("paper", row.paper), ("logs", row.logged)):
            if figures:
                lines.append(_line([*names, source, *(_cell(figures, c) for c in table.columns)]))
                names = ["", ""]
    return "\n".join([*lines, "", *_notes(table)]) + "\n"


def _head(column: str) -> str:
    return column.replace("/", " ")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(figures: Mapping[str, TableValue], column: str) -> str:
    found = figures.get(column)
    if found is None:
        return ""
    return f"{found.mean:.2f}" + (f" ± {found.sd:.2f}" if found.sd is not None else "")


def _notes(table: Table) -> list[str]:
    if table.published.number == "2":
        best = "as judged by robust-eval on the checkpoint named in each result"
    elif table.replicate:
        best = "best: each figure's maximum over epochs on the test set, as the paper took it"
    else:
        best = "best: the epoch chosen on held-out training images; natural accuracy is that epoch's"
    lines = [f"Ours: {best}; mean ± sample standard deviation over seeds."]
    lines += [f"- {text}" for text in table.sources]
    lines += [f"- left out: {text}" for text in table.left_out]
    lines += ["", f"Paper: {SOURCE}; {table.published.where.removeprefix('AWP paper, ')}."]
    lines += [f"- {text}" for text in table.published.notes]
    if any(row.logged for row in table.rows):
        lines.append("- Logs: natural accuracy at the most robust epoch, from the authors' released logs.")
    return lines


def data(table: Table) -> dict[str, Any]:
    """The content of the table as JSON data; values in percent."""
    found = asdict(table)
    published = found.pop("published")
    heading = {name: published[name] for name in ("number", "title", "metric", "where", "notes")}
    return {**heading, "source": SOURCE, "units": "percent", **found}
