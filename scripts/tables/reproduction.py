"""The tables of docs/reproduction.md and the README, made from the boards; a test holds both to them.

usage: python -m scripts.tables.reproduction
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from robust_eval.leaderboard import page_extras
from robust_eval.leaderboard.board import load_board
from robust_eval.leaderboard.row import Row, order_rows, read_rows
from robust_eval.results import Count
from scripts.tables import pairs, regularisers
from scripts.tables.markdown_blocks import markdown, placed
from scripts.tables.pairs import Cells, in_order

ROOT = Path(__file__).resolve().parents[2]
BOARD_FOLDERS = ROOT / "leaderboards"
BOARDS = ("mnist-linf-0.3", "cifar10-jpeg-linf-8-255", "digits")
README_BOARD = "digits"
"""The only board whose table is in the README; the others are in docs/reproduction.md."""
PAGES = (ROOT / "docs" / "reproduction.md", ROOT / "README.md")


def row_table(rows: Sequence[Row], beside: Mapping[str, page_extras.PageExtras]) -> str:
    """What it took to make each row."""
    numbers = ("clean", "AutoAttack", "worst case", "epochs", "training", "evaluation")
    headings = ["row", *numbers, "search", "flags"]
    return markdown(headings, [_row(row, beside[row.file]) for row in in_order(rows)])


def _row(row: Row, beside: page_extras.PageExtras) -> Cells:
    result = row.result
    curve = beside.curve or {}
    percent = [result.columns["clean"].accuracy, result.columns["aa"].accuracy, result.worst_case.accuracy]
    return [
        row.label,
        *(f"{100 * value:.2f}" for value in percent),
        f"{len(curve.get('epoch', ()))}",
        duration(sum(curve.get("seconds", ()))),
        duration(result.worst_case.seconds),
        result.suite.precision,
        flagged(row),
    ]


def machine(rows: Sequence[Row]) -> str:
    """Where the rows were trained and attacked, and with what; every way that occurs."""
    found: dict[str, list[str]] = {}
    for row in in_order(rows):
        found.setdefault(_machine(row), []).append(row.label)
    names = [f" ({', '.join(labels)})" if len(found) > 1 else "" for labels in found.values()]
    said = [f"Attacked on {'; '.join(f'{way}{who}' for way, who in zip(found, names, strict=True))}."]
    near = [row.label for row in in_order(rows) if _small_steps(row)]
    if near:
        said.append(f"SPSA took its small steps as changes in bfloat16 for: {', '.join(near)}.")
    before = [row.label for row in in_order(rows) if "data" not in row.training]
    if before:
        said.append(
            "Filed before checkpoints named the fingerprints of their images and the hash of their initial "
            f"weights: {', '.join(before)}."
        )
    return " ".join(said)


def _machine(row: Row) -> str:
    on = row.result.environment
    before = row.training
    precision = {"32": "float32", "bf16": "bfloat16"}.get(before["precision"], before["precision"])
    return (
        f"{on.device} with {_threads(on.threads)}, torch {on.libraries['torch']}, Python {on.python}, "
        f"after training on {before['device']} with {_threads(before.get('threads'))} in {precision}"
    )


def _small_steps(row: Row) -> bool:
    search = row.result.search
    return search is not None and any(way.near_rows for way in search.tunings.values())


def _threads(n: int | None) -> str:
    if n is None:
        return "threads not recorded"
    return f"{n} thread{'s' * (n != 1)}"


def flagged(row: Row) -> str:
    """The red flags of a row, a dash for none."""
    return ", ".join(sorted({flag.id for flag in row.result.flags})) or "-"


def duration(seconds: float) -> str:
    """In the unit that reads best; a dash for nothing recorded."""
    if seconds <= 0:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def overview(rows: Sequence[Row], link: str) -> str:
    """Accuracy of every row in every column, best row first.

    ``link``: the board's folder relative to the page that shows the table.
    """
    titles = {name: column.title for name, column in rows[0].result.columns.items()}
    able, unable = order_rows(list(rows))
    lines = [
        [
            row.label,
            *(f"{100 * row.result.columns[name].accuracy:.1f}" for name in titles),
            with_interval(row.result.worst_case),
            flagged(row),
        ]
        for row in (*able, *unable)
    ]
    title = load_board(BOARD_FOLDERS / Path(link).name).title
    board = f"[{title}]({link}/README.md), {rows[0].result.data.n:,} images"
    return markdown([board, *titles.values(), "worst case (95%)", "flags"], lines)


def with_interval(count: Count) -> str:
    low, high = count.ci95
    return f"**{100 * count.accuracy:.1f}** ({100 * low:.1f} to {100 * high:.1f})"


def tables() -> Iterator[tuple[str, str]]:
    """(marker, table) for every board that is there."""
    for name in BOARDS:
        folder = BOARD_FOLDERS / name
        if any((folder / "results").glob("*.json")):
            rows = read_rows(folder)
            found = pairs.find(rows)
            yield f"pairs of {name}", pairs.pair_table(found)
            yield f"columns of {name}", pairs.column_table(found)
            yield f"summary of {name}", pairs.summary(found)
            yield f"regularisers of {name}", regularisers.table(rows)
            yield f"rows of {name}", row_table(rows, page_extras.read_extras(folder, rows))
            yield f"machine of {name}", machine(rows)
            link = f"leaderboards/{name}" if name == README_BOARD else f"../leaderboards/{name}"
            yield f"board {name}", overview(rows, link)


def page(text: str, made: Mapping[str, str]) -> str:
    """The page with its tables made anew."""
    for name, table in made.items():
        text = placed(text, name, table)
    return text


def main() -> None:
    made = dict(tables())
    for path in PAGES:
        path.write_text(page(path.read_text(), made))


if __name__ == "__main__":
    main()
