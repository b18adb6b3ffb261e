"""Learning curves of several runs: robust accuracy on training and unseen images, gap, natural accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from defenses.reports.figures.references import Reference
from defenses.runs.reading import FinishedRun
from robust_eval.core import figure_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "train_robust": "robust accuracy,\ntraining images (%)",
    "robust": "robust accuracy,\nunseen images (%)",
    "gap": "robust generalisation\ngap (points)",
    "natural": "natural accuracy,\nunseen images (%)",
}
MAX_MARKERS = 28
"""Lines with more points are drawn without markers."""


@dataclass(frozen=True)
class CurveLine:
    """One run in the figure: (epoch, percent) pairs by panel; empty if not measured."""

    name: str
    panels: Mapping[str, Sequence[tuple[float, float]]]
    epochs: float
    """Length of the run in epochs."""
    reference: bool


def lines(
    runs: Sequence[FinishedRun], names: Sequence[str], references: Sequence[Reference]
) -> tuple[list[CurveLine], str]:
    """The lines of the figure, and its unseen images: ``test`` if every run measured them, else ``val``."""
    part = "test" if all(run.test_measured for run in runs) else "val"
    found = [_of_run(run, name, part) for run, name in zip(runs, names, strict=True)]
    return found + [_of_reference(reference) for reference in references], part


def _of_run(run: FinishedRun, name: str, part: str) -> CurveLine:
    gap = [
        (row["epoch"], row["train_pgd"] - row[f"{part}_pgd"])
        for row in run.rows
        if "train_pgd" in row and f"{part}_pgd" in row
    ]
    panels = {
        "train_robust": run.measured("train_pgd"),
        "robust": run.measured(f"{part}_pgd"),
        "gap": gap,
        "natural": run.measured(f"{part}_clean"),
    }
    return CurveLine(name, _percent(panels), float(run.recipe["training"]["epochs"]), False)


def _of_reference(log: Reference) -> CurveLine:
    train = log.train_robust or ()
    panels = {
        "train_robust": list(zip(log.epochs, train, strict=False)),
        "robust": list(zip(log.epochs, log.robust, strict=True)),
        "gap": [(e, a - b) for e, a, b in zip(log.epochs, train, log.robust, strict=False)],
        "natural": list(zip(log.epochs, log.natural, strict=True)),
    }
    return CurveLine(log.name, _percent(panels), log.epochs[-1], True)


def _percent(panels: Mapping[str, list[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    return {name: [(epoch, 100 * value) for epoch, value in pairs] for name, pairs in panels.items()}


def draw(found: Sequence[CurveLine]) -> Figure:
    """Draw four panels over epochs, or over the fraction of the run if the runs differ in length."""
    same = len({line.epochs for line in found}) == 1
    with figure_style.style():
        canvas, axes = figure_style.panels(2, 2, width=figure_style.TWO_COLUMNS, height=4.2)
        for axis, (panel, title) in zip(axes, PANELS.items(), strict=True):
            for index, line in enumerate(found):
                pairs = line.panels[panel]
                axis.plot(
                    [epoch if same else 100 * epoch / line.epochs for epoch, _ in pairs],
                    [value for _, value in pairs],
                    **_style(index, line, len(pairs)),
                    label=line.name,
                )
            axis.set_ylabel(title)
            axis.set_xlabel("epoch" if same else "share of training (%)")
        handles, labels = axes[1].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 3))
    return canvas


def _style(index: int, line: CurveLine, count: int) -> dict[str, Any]:
    """Runs solid, references dashed; markers on lines with few points."""
    if line.reference:
        return figure_style.reference(index)
    return figure_style.line(index, markers=count <= MAX_MARKERS) | {"linestyle": "-"}


def data(found: Sequence[CurveLine], part: str, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """The content of the figure's JSON file."""
    recipes = {
        line.name: {
            "folder": str(run.folder),
            "method": run.method,
            "dataset": run.dataset,
            "seed": run.seed,
            "best_epoch": run.best["epoch"],
            "attack": f"PGD-{run.recipe['selection']['steps']} at w, eval mode",
            "threat": f"{run.norm} {run.recipe['threat']['eps']}",
        }
        for line, run in zip(found, runs, strict=False)
    }
    return {
        "kind": "learning-curves",
        "units": "percent (gap: points); epochs count from 1",
        "unseen_images": "test" if part == "test" else "held out from the training set",
        "references": "dashed; their training figures are of the updates: train mode, augmented images",
        "runs": recipes,
        "lines": [asdict(line) for line in found],
    }
