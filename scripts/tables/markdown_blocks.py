"""Markdown tables, and their places in pages: between ``<!-- NAME -->`` and ``<!-- end of NAME -->``."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    lines = [headings, ["---"] + ["--:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def placed(text: str, name: str, table: str) -> str:
    """The page with the table in its place; as it was where it has none."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if start not in text:
        return text
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
