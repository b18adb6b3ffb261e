"""Generate the tables of docs/reproduction.md and README.md from the boards.

Run: python -m scripts.tables.reproduction
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from robust_eval.leaderboard import page_extras
from robust_eval.leaderboard.board import load_board
from robust_eval.leaderboard.row import Row, order_rows, read_rows
from robust_eval.results import Count
from scripts.tables import pairs, regularisers
from scripts.tables.markdown_blocks import markdown_table, replace_block
from scripts.tables.pairs import Cells, order_by_recipe

ROOT = Path(__file__).resolve().parents[2]
BOARD_FOLDERS = ROOT / "leaderboards"
BOARDS = ("mnist-linf-0.3", "cifar10-jpeg-linf-8-255", "digits")
README_BOARD = "digits"
"""The only board whose table is in the README; the others are in docs/reproduction.md."""
PAGES = (ROOT / "docs" / "reproduction.md", ROOT / "README.md")


def row_table(rows: Sequence[Row], extras: Mapping[str, page_extras.PageExtras]) -> str:
    """Accuracy of each row, and the time that training and evaluation took."""
    numbers = ("clean", "AutoAttack", "worst case", "epochs", "training", "evaluation")
    headings = ["row", *numbers, "search", "flags"]
    return markdown_table(headings, [_row(row, extras[row.file]) for row in order_by_recipe(rows)])


def _row(row: Row, extras: page_extras.PageExtras) -> Cells:
    result = row.result
    curve = extras.curve or {}
    percent = [result.columns["clean"].accuracy, result.columns["aa"].accuracy, result.worst_case.accuracy]
    return [
        row.label,
        *(f"{100 * value:.2f}" for value in percent),
        f"{len(curve.get('epoch', ()))}",
        duration(sum(curve.get("seconds", ()))),
        duration(result.worst_case.seconds),
        result.suite.precision,
        flag_ids(row),
    ]


def machine(rows: Sequence[Row]) -> str:
    """Hardware and software with which the rows were trained and attacked."""
    found: dict[str, list[str]] = {}
    for row in order_by_recipe(rows):
        found.setdefault(_machine(row), []).append(row.label)
    names = [f" ({', '.join(labels)})" if len(found) > 1 else "" for labels in found.values()]
    sentences = [
        f"Attacked on {'; '.join(f'{setup}{rows_}' for setup, rows_ in zip(found, names, strict=True))}."
    ]
    near = [row.label for row in order_by_recipe(rows) if _small_steps(row)]
    if near:
        sentences.append(f"SPSA computed its small steps as differences in bfloat16 for: {', '.join(near)}.")
    before = [row.label for row in order_by_recipe(rows) if "data" not in row.training]
    if before:
        sentences.append(
            "Added before checkpoints recorded the fingerprints of their images and the hash of their "
            f"initial weights: {', '.join(before)}."
        )
    return " ".join(sentences)


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
    return search is not None and any(tuning.near_rows for tuning in search.tunings.values())


def _threads(n: int | None) -> str:
    if n is None:
        return "threads not recorded"
    return f"{n} thread{'s' * (n != 1)}"


def flag_ids(row: Row) -> str:
    """The flags of a row; a dash for none."""
    return ", ".join(sorted({flag.id for flag in row.flags})) or "-"


def duration(seconds: float) -> str:
    """Seconds as ``42 s``, ``5 min`` or ``2.0 h``; a dash if not recorded."""
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
    rankable, others = order_rows(list(rows))
    lines = [
        [
            row.label,
            *(f"{100 * row.result.columns[name].accuracy:.1f}" for name in titles),
            with_interval(row.result.worst_case),
            flag_ids(row),
        ]
        for row in (*rankable, *others)
    ]
    title = load_board(BOARD_FOLDERS / Path(link).name).title
    board = f"[{title}]({link}/README.md), {rows[0].result.data.n:,} images"
    return markdown_table([board, *titles.values(), "worst case (95%)", "flags"], lines)


def with_interval(count: Count) -> str:
    """``**81.9** (77.6 to 85.6)``: percent and 95% interval."""
    low, high = count.ci95
    return f"**{100 * count.accuracy:.1f}** ({100 * low:.1f} to {100 * high:.1f})"


def tables() -> Iterator[tuple[str, str]]:
    """(name of the block, table) of every board that has results."""
    for name in BOARDS:
        folder = BOARD_FOLDERS / name
        if any((folder / "results").glob("*.json")):
            rows = read_rows(folder)
            found = pairs.find_pairs(rows)
            yield f"pairs of {name}", pairs.pair_table(found)
            yield f"columns of {name}", pairs.column_table(found)
            yield f"summary of {name}", pairs.summary(found)
            yield f"regularisers of {name}", regularisers.table(rows)
            yield f"rows of {name}", row_table(rows, page_extras.read_extras(folder, rows))
            yield f"machine of {name}", machine(rows)
            link = f"leaderboards/{name}" if name == README_BOARD else f"../leaderboards/{name}"
            yield f"board {name}", overview(rows, link)


def page(text: str, made: Mapping[str, str]) -> str:
    """The page with its tables regenerated."""
    for name, table in made.items():
        text = replace_block(text, name, table)
    return text


def main() -> None:
    made = dict(tables())
    for path in PAGES:
        path.write_text(page(path.read_text(), made))


if __name__ == "__main__":
    main()
