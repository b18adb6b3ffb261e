"""Table entries: the values that one run or one result contributes to a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defenses.reports.tables import published
from defenses.runs.reading import FinishedRun, Row, terms
from robust_eval.core.errors import UserError
from robust_eval.core.threat import format_fraction, parse_fraction
from robust_eval.results import EvalResult, read_result

# Columns of Table 2, by column id of robust-eval.
TABLE_2 = {
    "clean": "Natural",
    "fgsm": "FGSM",
    "pgd-20": "PGD-20",
    "pgd-100": "PGD-100",
    "cw-inf": "CW-inf",
    "spsa": "SPSA",
    "aa": "AA",
}
NORM_OF = {"4": "Linf", "5": "L2"}


@dataclass(frozen=True)
class TableEntry:
    """Values of one seed for one row of a table."""

    source: str
    group: str
    method: str
    seed: int
    values: Mapping[str, float]
    """Percent, by column."""
    recipe: Mapping[str, Any]
    how: str
    """How the model was trained and measured; the same for all seeds of a row."""
    terms: Mapping[str, object] = field(default_factory=dict)
    """Other settings that are the same for all seeds of a row."""


def from_run(number: str, run: FinishedRun, *, replicate: bool) -> TableEntry | str:
    """The entry of a training run from its learning curve, or the reason why it is not in the table.

    ``replicate``: "best" is the maximum of each value over epochs on the test set, as in the paper.
    """
    method = published.method(run.method)
    if method is None or not _has(number, method):
        return f"{run.name} ({run.method} is not in table {number})"
    if run.norm != NORM_OF.get(number, run.norm):
        return f"{run.name} ({run.norm}; table {number} is for {NORM_OF[number]})"
    part = "test" if run.test_measured else "val"
    if replicate and part == "val":
        raise UserError(
            f"--replicate takes maxima on the test set, which {run.folder} did not measure: leave it out, or "
            "train with --set selection.test_images=10000."
        )
    if any(f"{part}_{kind}" not in row for kind in ("pgd", "clean") for row in (run.best, run.last)):
        return f"{run.name} (its curve has no accuracies)"
    best = _maxima(run) if replicate else run.best
    data = published.dataset(run.dataset)
    figures = {
        "robust/best": best[f"{part}_pgd"],
        "robust/last": run.last[f"{part}_pgd"],
        "natural/best": best[f"{part}_clean"],
        "natural/last": run.last[f"{part}_clean"],
    }
    if number == "1":
        figures = {f"{data}/{when}": figures[f"robust/{when}"] for when in ("best", "last")}
    group = run.norm if number == "1" else f"{data} {run.norm}"
    values = {column: 100 * value for column, value in figures.items()}
    how = _training(run.recipe) + _measuring(run, part)
    return TableEntry(
        str(run.folder),
        group,
        method,
        run.seed,
        values,
        run.recipe,
        f"{data}, {how}" if number == "1" else how,
        run.terms,
    )


def _has(number: str, method: str) -> bool:
    return any(row.method == method for row in published.read(number).rows)


def _maxima(run: FinishedRun) -> Row:
    return {name: max(value for _, value in run.measured(name)) for name in ("test_pgd", "test_clean")}


def _training(recipe: Mapping[str, Any]) -> str:
    eps = format_fraction(parse_fraction(str(recipe["threat"]["eps"]), "eps"))
    return f"{recipe['architecture']}, {recipe['training']['epochs']} epochs, eps {eps}"


def _measuring(run: FinishedRun, part: str) -> str:
    selection = run.recipe["selection"]
    images = f"{selection['test_images']} test" if part == "test" else "held-out training"
    return f"; PGD-{selection['steps']} on {images} images"


def from_result(path: Path) -> TableEntry | str:
    """The entry of an evaluation for Table 2, or the reason why it is not in the table."""
    result = read_result(path)
    trained = result.checkpoint.trained_with or {}
    recipe = trained.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("name"), str):
        return f"{path} (its checkpoint names no recipe)"
    method = published.method(recipe["name"])
    if method is None or not _has("2", method):
        return f"{path} ({recipe['name']} is not in table 2)"
    values = {
        TABLE_2[name]: 100 * column.accuracy for name, column in result.columns.items() if name in TABLE_2
    }
    group = f"{published.dataset(result.data.name)} {result.threat.norm}"
    provenance = trained.get("provenance") or {}
    seed = provenance.get("seed")
    return TableEntry(
        str(path),
        group,
        method,
        seed if isinstance(seed, int) else 0,
        values,
        recipe,
        _judging(result, recipe),
        {**terms(provenance), "images judged": result.data.fingerprint},
    )


def _judging(result: EvalResult, recipe: Mapping[str, Any]) -> str:
    data = result.data
    return (
        f"{result.checkpoint.architecture.id}, {recipe.get('training', {}).get('epochs', '?')} epochs; "
        f"judged at eps {result.threat.eps} on {data.n} {data.split} images"
    )


def results_below(paths: Sequence[Path]) -> list[Path]:
    """The named result.json files and all those below the named folders; each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no {path}: name result.json files, or folders that contain some.")
        for file in sorted(path.rglob("result.json")) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    if not found:
        raise UserError(
            f"{', '.join(map(str, paths))} contains no result.json: table 2 is made from the results of "
            "robust-eval run CHECKPOINT --suite full."
        )
    return list(found.values())
