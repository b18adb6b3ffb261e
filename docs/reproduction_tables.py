"""The tables of docs/reproduction.md and the README, made from the boards; a test holds both to them.

usage: python docs/reproduction_tables.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tables_in_pages import markdown, placed

from defenses.tables import published
from robust_eval.compare import Difference, compare
from robust_eval.leaderboard import boards, pairs, sidecars
from robust_eval.leaderboard.rows import Row, ranked, read_board
from robust_eval.schema import Count

ROOT = Path(__file__).resolve().parents[1]
BOARDS = ("mnist-linf-0.3", "cifar10-jpeg-linf-8-255", "digits")
PAGES = (ROOT / "docs" / "reproduction.md", ROOT / "README.md")
# Our column and the one of Table 2 of the AWP paper that it repeats.
PAPER = {
    "clean": "Natural",
    "fgsm": "FGSM",
    "pgd-20": "PGD-20",
    "pgd-100": "PGD-100",
    "cw-inf": "CW-inf",
    "spsa": "SPSA",
    "aa": "AA",
}
# Those that stand in the table of pairs with their intervals.
COLUMNS = {name: PAPER[name] for name in ("pgd-20", "aa")}
Cells = Sequence[str]


def paper() -> dict[str, dict[str, float]]:
    """Recipe to the gain of its ``-awp`` in the columns of Table 2, in points."""
    rows = {row.method: row.values for row in published.read("2").rows}
    names = {recipe: published.method(recipe) for recipe in ("at", "trades", "mart", "pretraining", "rst")}
    return {
        recipe: {
            column: rows[f"{method}-AWP"][column].mean - rows[method][column].mean
            for column in PAPER.values()
        }
        for recipe, method in names.items()
    }


def sign(ours: Difference, theirs: float) -> str:
    """Whether the two point the same way, where ours can be told from zero at all."""
    if not ours.significant:
        return "cannot tell"
    return "yes" if (ours.value > 0) == (theirs > 0) else "no"


def size(ours: Difference, theirs: float) -> str:
    """Whether the paper's difference lies in our 95% interval."""
    low, high = ours.interval
    return "yes" if 100 * low <= theirs <= 100 * high else "no"


def points(found: Difference) -> str:
    low, high = found.interval
    return f"{100 * found.value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def pair_table(rows: Sequence[Row]) -> str:
    """Each pair's difference, with minus without weight perturbation, beside the paper's."""
    headings = ["pair", "images"]
    for title in COLUMNS.values():
        headings += [f"{title}, ours", "paper's", "same sign", "same size"]
    found = [_pair(a, b) for a, b in pairs.find(in_order(rows))]
    return markdown(headings, found) if found else "No pair is complete yet."


def _pair(before: Row, after: Row) -> Cells:
    recipe = pairs.family(before.name)[0]
    found = {one.column: one for one in compare(after.result, before.result).differences}
    cells = [before.label, f"{before.result.data.n:,}"]
    theirs = paper().get(recipe, {})
    for column, title in COLUMNS.items():
        ours, other = found[column], theirs.get(title)
        cells += (
            [points(ours), "-", "-", "-"]
            if other is None
            else [
                points(ours),
                f"{other:+.2f}",
                sign(ours, other),
                size(ours, other),
            ]
        )
    return cells


def column_table(rows: Sequence[Row]) -> str:
    """Each pair's difference in every column over the paper's; in bold where it can be told from zero."""
    found = [line for pair in pairs.find(in_order(rows)) for line in _columns(*pair)]
    titles = {name: column.title for name, column in rows[0].result.columns.items()}
    return markdown(["pair", *titles.values()], found)


def _columns(before: Row, after: Row) -> Iterator[Cells]:
    ours = {one.column: one for one in compare(after.result, before.result).differences}
    cells = {name: f"{100 * ours[name].value:+.1f}" for name in before.result.columns}
    told = {name: f"**{cell}**" if ours[name].significant else cell for name, cell in cells.items()}
    yield [f"{before.label}, ours", *told.values()]
    theirs = paper().get(pairs.family(before.name)[0])
    if theirs is not None:
        yield [f"{before.label}, the paper's", *(f"{theirs[PAPER[name]]:+.2f}" for name in cells)]


def summary(rows: Sequence[Row], column: str = "aa") -> str:
    """In words: which pairs agree with the paper in sign."""
    found: dict[str, list[str]] = {"yes": [], "no": [], "cannot tell": []}
    for before, after in pairs.find(in_order(rows)):
        theirs = paper().get(pairs.family(before.name)[0])
        if theirs is not None:
            ours = {one.column: one for one in compare(after.result, before.result).differences}[column]
            found[sign(ours, theirs[COLUMNS[column]])].append(before.label)
    words = {
        "yes": "the paper's sign",
        "no": "the opposite sign",
        "cannot tell": "no difference that can be told",
    }
    said = [f"{words[kind]} for {', '.join(names)}" for kind, names in found.items() if names]
    return f"Under {rows[0].result.columns[column].title}: {'; '.join(said)}." if said else ""


def row_table(rows: Sequence[Row], beside: Mapping[str, sidecars.Sidecar]) -> str:
    """What it took to make each row."""
    numbers = ("clean", "AutoAttack", "worst case", "epochs", "training", "evaluation")
    headings = ["row", *numbers, "search", "flags"]
    return markdown(headings, [_row(row, beside[row.file]) for row in in_order(rows)])


def _row(row: Row, beside: sidecars.Sidecar) -> Cells:
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
    before = [row.label for row in in_order(rows) if "data" not in _provenance(row)]
    if before:
        said.append(
            "Filed before checkpoints named the fingerprints of their images and the hash of their initial "
            f"weights: {', '.join(before)}."
        )
    return " ".join(said)


def _provenance(row: Row) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row.result.checkpoint.trained_with["provenance"]
    return found


def _machine(row: Row) -> str:
    on = row.result.environment
    before = _provenance(row)
    precision = {"32": "float32", "bf16": "bfloat16"}.get(before["precision"], before["precision"])
    return (
        f"{on.device} with {_threads(on.threads)}, torch {on.libraries['torch']}, Python {on.python}, "
        f"after training on {before['device']} with {_threads(before.get('threads'))} in {precision}"
    )


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


def in_order(rows: Sequence[Row]) -> list[Row]:
    """By recipe, the one without perturbation first, then by seed."""
    order = ("natural", *paper())
    return sorted(rows, key=lambda row: _place(row, order))


def _place(row: Row, order: Sequence[str]) -> tuple[int, str, str, bool]:
    recipe, awp = pairs.family(row.name)
    return (order.index(recipe) if recipe in order else len(order)), recipe, str(row.seed), awp


def overview(rows: Sequence[Row], link: str) -> str:
    """The paper's columns of a board, best row first, for the README."""
    titles = {name: column.title for name, column in rows[0].result.columns.items()}
    able, unable = ranked(list(rows))
    lines = [
        [
            row.label,
            *(f"{100 * row.result.columns[name].accuracy:.1f}" for name in titles),
            with_interval(row.result.worst_case),
            flagged(row),
        ]
        for row in (*able, *unable)
    ]
    board = f"[{boards.load(ROOT / link).title}]({link}/README.md), {rows[0].result.data.n:,} images"
    return markdown([board, *titles.values(), "worst case (95%)", "flags"], lines)


def with_interval(count: Count) -> str:
    low, high = count.ci95
    return f"**{100 * count.accuracy:.1f}** ({100 * low:.1f} to {100 * high:.1f})"


def tables() -> Iterator[tuple[str, str]]:
    """(marker, table) for every board that is there."""
    for name in BOARDS:
        folder = ROOT / "leaderboards" / name
        if any((folder / "results").glob("*.json")):
            rows = read_board(folder)
            yield f"pairs of {name}", pair_table(rows)
            yield f"columns of {name}", column_table(rows)
            yield f"summary of {name}", summary(rows)
            yield f"rows of {name}", row_table(rows, sidecars.read(folder, rows))
            yield f"machine of {name}", machine(rows)
            yield f"board {name}", overview(rows, f"leaderboards/{name}")


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
