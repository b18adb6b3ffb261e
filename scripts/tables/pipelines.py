"""Generate the tables of pipeline results in docs/training.md and docs/reproduction.md.

Run: python -m scripts.tables.pipelines [PIPELINES_JSON]
PIPELINES_JSON: written by scripts/pipelines/pipelines.sh; replaces docs/tables/pipelines.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scripts.tables.markdown_blocks import markdown_table, replace_block

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES = DOCS / "tables" / "pipelines.json"
PAGES = (DOCS / "training.md", DOCS / "reproduction.md")
TITLES = {"clean": "clean", "fgsm": "FGSM", "pgd-20": "PGD-20"}
# Recipe, seed and column to accuracy.
Accuracy = Mapping[str, Mapping[str, Mapping[str, float]]]


def accuracy_table(found: Accuracy) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    rows = [[recipe, *(_mean_and_std(seeds, column) for column in TITLES)] for recipe, seeds in found.items()]
    return markdown_table(["recipe", *TITLES.values()], rows)


def _mean_and_std(seeds: Mapping[str, Mapping[str, float]], column: str) -> str:
    values = [100 * one[column] for one in seeds.values()]
    return f"{fmean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")


def seed_table(found: Accuracy, column: str = "pgd-20") -> str:
    """Difference of each pair, with minus without weight perturbation, by seed in percentage points."""
    seeds = list(next(iter(found.values())))
    rows = [_by_seed(found, recipe, seeds, column) for recipe in found if f"{recipe}-awp" in found]
    return markdown_table([f"pair, {TITLES[column]}", *(f"seed {s}" for s in seeds), "mean"], rows)


def _by_seed(found: Accuracy, recipe: str, seeds: list[str], column: str) -> list[str]:
    gains = [100 * (found[f"{recipe}-awp"][s][column] - found[recipe][s][column]) for s in seeds]
    return [recipe, *(f"{gain:+.1f}" for gain in gains), f"{fmean(gains):+.1f}"]


def labels(right: Mapping[str, float]) -> str:
    """The share of correct pseudo-labels by seed."""
    shares = ", ".join(f"{share:.0%} (seed {s})" for s, share in right.items())
    return f"Correct pseudo-labels: {shares}."


def tables() -> Iterator[tuple[str, str]]:
    """(name of the block, table) of every table."""
    found: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    yield "pipelines", accuracy_table(found["accuracy"])
    yield "pipelines by seed", seed_table(found["accuracy"])
    yield "pseudo-labels", labels(found["pseudo_labels_right"])


def page(text: str) -> str:
    """The page with its tables regenerated."""
    for name, table in tables():
        text = replace_block(text, name, table)
    return text


def main() -> None:
    if len(sys.argv) > 1:
        shutil.copyfile(sys.argv[1], FIGURES)
    for path in PAGES:
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
