"""The robust generalisation gap against the flatness of the weight loss landscape (AWP paper, Figure 1)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.runs.reading import FinishedRun
from robust_eval.core import figure_style, strict_json
from robust_eval.core.errors import UserError
from robust_eval.models.loading import checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTING = ("data", "threat", "attack", "seed", "batch_size", "precision", "directions", "alphas")


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """One checkpoint of one run."""

    run: str
    checkpoint: str
    epoch: float
    sharpness: float
    """Mean of abs(g(alpha) - g(0)) over the landscape, in nats; smaller is flatter."""
    gap: float
    """Training minus unseen robust accuracy, in points; test images where all runs measured them."""


@dataclass(frozen=True)
class Correlation:
    """Over all checkpoints; None where fewer than three, or one side does not vary."""

    spearman: float | None
    pearson: float | None
    n: int


def read_flatness(paths: Sequence[Path]) -> dict[str, float]:
    """sha256 of a checkpoint -> sharpness, from the JSON files of ``robust-eval landscape``.

    Raises :class:`UserError` for other files, and where two were measured in different ways.
    """
    found: dict[str, float] = {}
    setting: Mapping[str, Any] | None = None
    for path in paths:
        value = strict_json.read(path)
        if not isinstance(value, dict) or value.get("kind") != "landscape-1d":
            raise UserError(
                f"{path} is no landscape: name the .json that robust-eval landscape CKPT... wrote."
            )
        this = {name: value.get(name) for name in SETTING}
        if setting is not None and this != setting:
            name = next(name for name in SETTING if this[name] != setting[name])
            raise UserError(
                f"{path} and {paths[0]} were measured with different {name}, so their flatness cannot be "
                "compared: measure all checkpoints in one robust-eval landscape command."
            )
        setting = this
        for entry in value["checkpoints"]:
            sharpness = entry["flatness"]["sharpness"]
            if sharpness is not None:
                found[entry["sha256"]] = float(sharpness)
    return found


def match(
    runs: Sequence[FinishedRun], names: Sequence[str], flatness: Mapping[str, float]
) -> list[MeasuredCheckpoint]:
    """The measured checkpoints that lie in the runs' folders, by epoch; a UserError where there is none.

    The gap is that of the accuracies the checkpoint recorded when it was saved, on test images where every
    run measured those, else on held-out ones. The same weights under two names (best.pt, epoch-0100.pt)
    count once.
    """
    part = "test" if all(run.test_measured for run in runs) else "val"
    spots = [
        spot for run, name in zip(runs, names, strict=True) for spot in _spots(run, name, flatness, part)
    ]
    if not spots:
        raise UserError(
            "None of the landscape's checkpoints lies in these run folders with a measured gap: run "
            "robust-eval landscape on checkpoints of these runs."
        )
    return spots


def _spots(
    run: FinishedRun, name: str, flatness: Mapping[str, float], part: str
) -> Iterator[MeasuredCheckpoint]:
    found: dict[float, MeasuredCheckpoint] = {}
    for path in sorted(run.folder.glob("*.pt")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest not in flatness:
            continue
        metrics = (checkpoint.load(str(path), images=None).ref.trained_with or {}).get("metrics") or {}
        if "train_pgd" in metrics and f"{part}_pgd" in metrics:
            epoch = float(metrics["epoch"])
            gap = 100 * (float(metrics["train_pgd"]) - float(metrics[f"{part}_pgd"]))
            found.setdefault(epoch, MeasuredCheckpoint(name, path.name, epoch, flatness[digest], gap))
    return iter([found[epoch] for epoch in sorted(found)])


def correlation(spots: Sequence[MeasuredCheckpoint]) -> Correlation:
    """Spearman's rank correlation (order alone) and Pearson's of gap and sharpness."""
    from scipy.stats import pearsonr, spearmanr

    sharp, gap = [spot.sharpness for spot in spots], [spot.gap for spot in spots]
    if len(spots) < 3 or len(set(sharp)) == 1 or len(set(gap)) == 1:
        return Correlation(None, None, len(spots))
    return Correlation(float(spearmanr(sharp, gap)[0]), float(pearsonr(sharp, gap)[0]), len(spots))


def draw(spots: Sequence[MeasuredCheckpoint]) -> Figure:
    """A marker per checkpoint, larger for later epochs, joined within a run."""
    found = correlation(spots)
    last = max(spot.epoch for spot in spots)
    with figure_style.style():
        canvas, (axis,) = figure_style.panels(height=2.8)
        for place, name in enumerate(dict.fromkeys(spot.run for spot in spots)):
            own = [spot for spot in spots if spot.run == name]
            look = figure_style.line(place)
            x, y = [spot.sharpness for spot in own], [spot.gap for spot in own]
            axis.plot(x, y, color=look["color"], linewidth=0.7, alpha=0.5)
            sizes = [8 + 28 * spot.epoch / last for spot in own]
            axis.scatter(x, y, s=sizes, color=look["color"], marker=look["marker"], label=name)
        axis.set_xlabel("sharpness: mean |g(α) - g(0)| (nats)")
        axis.set_ylabel("robust generalisation gap (points)")
        if found.spearman is not None:
            axis.set_title(f"Spearman {found.spearman:.2f}, Pearson {found.pearson:.2f} (n = {found.n})")
        axis.legend(title="larger: later epoch", title_fontsize=7)
    return canvas


def data(spots: Sequence[MeasuredCheckpoint]) -> dict[str, Any]:
    """Everything the figure shows."""
    return {
        "kind": "gap-against-flatness",
        "units": "gap in points, sharpness in nats",
        "correlation": asdict(correlation(spots)),
        "checkpoints": [asdict(spot) for spot in spots],
    }
