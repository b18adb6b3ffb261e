"""The robust generalisation gap against the flatness of the weight loss landscape (AWP paper, Figure 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defenses.runs.reading import FinishedRun
from robust_eval.core import figure_style, strict_json
from robust_eval.core.errors import UserError
from robust_eval.models.loading import checkpoint, file_head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTING = ("data", "threat", "attack", "seed", "batch_size", "precision", "directions", "alphas")


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """Sharpness and robust generalisation gap of one checkpoint of one run."""

    run: str
    checkpoint: str
    epoch: float
    sharpness: float
    """Mean of |g(alpha) - g(0)| over the landscape, in nats; smaller is flatter."""
    gap: float
    """Robust accuracy on training images minus that on unseen images, in percentage points."""


@dataclass(frozen=True)
class Correlation:
    """Correlation over all checkpoints; None for fewer than three, or if one quantity is constant."""

    spearman: float | None
    pearson: float | None
    n: int


def read_flatness(paths: Sequence[Path]) -> dict[str, float]:
    """Read the sharpness of checkpoints, by sha256, from JSON files of ``robust-eval landscape curve``.

    Raises :class:`UserError` for other files, and if two files were measured with different settings.
    """
    found: dict[str, float] = {}
    setting: Mapping[str, Any] | None = None
    for path in paths:
        value = strict_json.read(path)
        if not isinstance(value, dict) or value.get("kind") != "landscape-1d":
            raise UserError(
                f"{path} is not a landscape: name the .json file that robust-eval landscape curve CKPT wrote."
            )
        this = {name: value.get(name) for name in SETTING}
        if setting is not None and this != setting:
            name = next(name for name in SETTING if this[name] != setting[name])
            raise UserError(
                f"{path} and {paths[0]} were measured with different {name}, so their flatness cannot be "
                "compared: measure all checkpoints in one robust-eval landscape curve command."
            )
        setting = this
        try:
            entries = {entry["sha256"]: entry["flatness"]["sharpness"] for entry in value["checkpoints"]}
            found |= {str(name): float(one) for name, one in entries.items() if one is not None}
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"{path} is a damaged landscape ({error!r}): measure it again.") from None
    return found


def match(
    runs: Sequence[FinishedRun], names: Sequence[str], flatness: Mapping[str, float]
) -> list[MeasuredCheckpoint]:
    """Find the checkpoints with known sharpness in the run folders, ordered by run and epoch.

    The gap uses the accuracies stored in the checkpoint: on test images if every run measured them, else on
    held-out images. The same weights under two names (best.pt, epoch-0100.pt) count once. Raises
    :class:`UserError` if no checkpoint matches.
    """
    part = "test" if all(run.test_measured for run in runs) else "val"
    checkpoints = [
        one for run, name in zip(runs, names, strict=True) for one in _measured(run, name, flatness, part)
    ]
    if not checkpoints:
        raise UserError(
            "No checkpoint of the landscape is in these run folders with a measured gap: run robust-eval "
            "landscape curve on checkpoints of these runs."
        )
    return checkpoints


def _measured(
    run: FinishedRun, name: str, flatness: Mapping[str, float], part: str
) -> Iterator[MeasuredCheckpoint]:
    found: dict[float, MeasuredCheckpoint] = {}
    for path in sorted(run.folder.glob("*.pt")):
        digest = file_head.sha256(path)
        if digest not in flatness:
            continue
        metrics = (checkpoint.load(str(path), images=None).ref.trained_with or {}).get("metrics") or {}
        names = ("epoch", "train_pgd", f"{part}_pgd")
        if all(isinstance(metrics.get(each), int | float) for each in names):
            epoch, train, unseen = (float(metrics[each]) for each in names)
            gap = 100 * (train - unseen)
            found.setdefault(epoch, MeasuredCheckpoint(name, path.name, epoch, flatness[digest], gap))
    return iter([found[epoch] for epoch in sorted(found)])


def correlation(checkpoints: Sequence[MeasuredCheckpoint]) -> Correlation:
    """Spearman's and Pearson's correlation of gap and sharpness."""
    from scipy.stats import pearsonr, spearmanr

    sharp, gap = [one.sharpness for one in checkpoints], [one.gap for one in checkpoints]
    if len(checkpoints) < 3 or len(set(sharp)) == 1 or len(set(gap)) == 1:
        return Correlation(None, None, len(checkpoints))
    return Correlation(float(spearmanr(sharp, gap)[0]), float(pearsonr(sharp, gap)[0]), len(checkpoints))


def draw(checkpoints: Sequence[MeasuredCheckpoint]) -> Figure:
    """One marker per checkpoint, larger for later epochs, joined by lines within a run."""
    found = correlation(checkpoints)
    last = max(one.epoch for one in checkpoints)
    with figure_style.style():
        canvas, (axis,) = figure_style.panels(height=2.8)
        for index, name in enumerate(dict.fromkeys(one.run for one in checkpoints)):
            own = [one for one in checkpoints if one.run == name]
            style = figure_style.line(index)
            x, y = [one.sharpness for one in own], [one.gap for one in own]
            axis.plot(x, y, color=style["color"], linewidth=0.7, alpha=0.5)
            sizes = [8 + 28 * one.epoch / last for one in own]
            axis.scatter(x, y, s=sizes, color=style["color"], marker=style["marker"], label=name)
        axis.set_xlabel("sharpness: mean |g(α) - g(0)| (nats)")
        axis.set_ylabel("robust generalisation gap (points)")
        if found.spearman is not None:
            axis.set_title(f"Spearman {found.spearman:.2f}, Pearson {found.pearson:.2f} (n = {found.n})")
        axis.legend(title="larger: later epoch", title_fontsize=7)
    return canvas


def data(checkpoints: Sequence[MeasuredCheckpoint]) -> dict[str, Any]:
    """The content of the figure's JSON file."""
    return {
        "kind": "gap-against-flatness",
        "units": "gap in points, sharpness in nats",
        "correlation": asdict(correlation(checkpoints)),
        "checkpoints": [asdict(one) for one in checkpoints],
    }
