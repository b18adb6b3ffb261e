"""Measure the adversarial loss at points in weight space; each point is stored when it is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robust_eval import attacks
from robust_eval.core.errors import UserError
from robust_eval.core.threat import parse_fraction
from robust_eval.core.types import FLOAT32
from robust_eval.evaluation.planning.settings import resolve_precision
from robust_eval.evaluation.planning.units import auto_batch_size
from robust_eval.evaluation.store import lock_run_folder
from robust_eval.landscape.awp import points
from robust_eval.landscape.awp.adversarial_loss import AdversarialLoss
from robust_eval.landscape.awp.points import MeasuredLoss, PointStore, ScanSetting, WeightPoint
from robust_eval.landscape.checkpoints import ComparedModel, ModelComparison
from robust_eval.landscape.directions import (
    Directions,
    load_directions,
    random_directions,
    save_directions,
)
from robust_eval.landscape.option_checks import require_at_least
from robust_eval.results.environment import environment

Losses = Mapping[tuple[str, WeightPoint], MeasuredLoss]
"""Measured losses by checkpoint label and point."""

# Larger displacements overflow float32 for weights of ordinary size.
MAX_SIZE = 10**30

FLOAT32_CHECK = WeightPoint(float32_attack=True)
"""w attacked in float32, measured in addition when a scan attacks in lower precision."""


@dataclass(frozen=True)
class Scan:
    """Checkpoints, directions and everything else that the measured losses depend on."""

    comparison: ModelComparison
    setting: ScanSetting
    directions: Directions

    def identity(self) -> dict[str, Any]:
        """What a run folder contains points of. The grid is not included: other grids add points to it."""
        models = [one.ref.identity() for one in self.comparison.models]
        return {**self.setting.identity(), "checkpoints": models}

    def default_folder(self) -> Path:
        """``runs/landscape-LABELS-HASH``."""
        return self.comparison.default_folder("landscape", self.identity())

    def caption(self) -> str:
        """``digits (train, n = 1000), PGD-10, Linf 0.1``."""
        return self.comparison.caption(self.setting.attack.id)

    def precision_checks(self) -> list[WeightPoint]:
        """Points that measure the effect of a precision below float32."""
        return [] if self.setting.precision == FLOAT32 else [FLOAT32_CHECK]

    def record(self) -> dict[str, Any]:
        """How the losses were measured, for JSON files."""
        setting = self.setting
        return {
            "version": points.VERSION,
            "data": asdict(setting.data),
            "threat": {"norm": setting.threat.norm, "eps": setting.threat.eps_text},
            "attack": {
                **asdict(setting.attack),
                "library": setting.library,
                "start": "the same at every point",
            },
            "loss": "cross-entropy in nats, mean over the images; BatchNorm in eval mode",
            "precision": f"searched in {setting.precision}, losses in float32",
            "batch_size": setting.batch_size,
            "seed": setting.seed,
            "directions": {"count": self.directions.count, "origin": setting.directions},
            "environment": environment(self.comparison.x_NCHW.device).model_dump(),
        }


def model_record(model: ComparedModel, losses: Losses) -> dict[str, Any]:
    """A checkpoint for JSON files; ``loss_at_w_in_float32`` only if the attack used a lower precision."""
    check = losses.get((model.label, FLOAT32_CHECK))
    return {
        **model.record(),
        "architecture": asdict(model.ref.architecture),
        **({} if check is None else {"loss_at_w_in_float32": check.loss}),
    }


def make_scan(
    comparison: ModelComparison,
    *,
    directions: int,
    steps: int,
    batch_size: int | None,
    seed: int,
    direction_file: Path | None = None,
    precision: str = FLOAT32,
) -> Scan:
    """A scan along ``directions`` random directions, attacked by PGD with ``steps`` steps.

    ``batch_size`` None: chosen by image size. ``direction_file``: read if it exists, written otherwise.
    Raises :class:`UserError` for values out of range and for a direction file that does not fit.
    """
    require_at_least("--directions", directions)
    require_at_least("--seed", seed, 0)
    x_NCHW = comparison.x_NCHW
    if batch_size is None:
        batch_size = auto_batch_size(tuple(x_NCHW.shape[1:]), x_NCHW.device.type)
    require_at_least("--batch-size", batch_size)
    attack = attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps})
    drawn = random_directions(comparison.shapes, directions, seed)
    if direction_file is not None:
        if not direction_file.exists():
            save_directions(direction_file, drawn)
        # Always read back: the file's hash is part of the identity, on the first run and on later ones.
        drawn = load_directions(direction_file, comparison.shapes, directions, comparison.models[0].label)
    precision, _ = resolve_precision(precision, x_NCHW.device)
    setting = ScanSetting(
        comparison.data, comparison.threat, attack, batch_size, seed, drawn.origin, precision
    )
    return Scan(comparison, setting, drawn)


def parse_alphas(span: str, count: int) -> tuple[float, ...]:
    """``count`` alphas from -span to span. Raises :class:`UserError` for an invalid span or an even count."""
    value = parse_fraction(span, "--span")
    if value <= 0:
        raise UserError(f"--span must be above 0, got {span}.")
    if value > MAX_SIZE:
        raise UserError(f"--span {span} exceeds what float32 weights can represent. The usual span is 1.")
    if count < 3 or count % 2 == 0:
        raise UserError(f"--points must be odd and at least 3, so that alpha = 0 is among them; got {count}.")
    return points.symmetric_grid(value, count)


def parse_gammas(text: str) -> tuple[float, ...]:
    """Relative sizes ``1e-3,5e-3,...`` in increasing order without duplicates."""
    values = sorted({parse_fraction(part, "--gammas") for part in text.split(",")})
    if values[0] <= 0 or values[-1] > MAX_SIZE:
        raise UserError(f"--gammas must be above 0 and at most 1e30, got '{text}'.")
    return tuple(float(value) for value in values)


OnPoint = Callable[[ComparedModel, MeasuredLoss, bool], None]
"""Called after every point with the checkpoint, the loss, and whether it was already stored."""


def run_scan(
    scan: Scan,
    wanted: Sequence[WeightPoint],
    folder: Path,
    on_point: OnPoint = lambda _model, _measured, _stored: None,
) -> Losses:
    """The losses of all checkpoints at the ``wanted`` points; those stored in ``folder`` are read from there.

    After an interruption the folder contains every finished point. Raises :class:`UserError` if the folder
    belongs to another scan or cannot be written.
    """
    with lock_run_folder(folder):
        scan.comparison.open_folder(folder, scan.identity())
        store, losses = PointStore(folder), {}
        adversarial_losses: dict[str, AdversarialLoss] = {}
        for point in wanted:
            for model in scan.comparison.models:
                measured = store.get(points.point_key(scan.setting, model.ref, point))
                stored = measured is not None
                if measured is None:
                    if model.label not in adversarial_losses:
                        adversarial_losses[model.label] = adversarial_loss(scan, model)
                    measured = adversarial_losses[model.label].measure(point)
                    store.put(measured)
                losses[model.label, point] = measured
                on_point(model, measured, stored)
    return losses


def adversarial_loss(scan: Scan, model: ComparedModel) -> AdversarialLoss:
    """The adversarial loss of one checkpoint under the scan's setting."""
    comparison = scan.comparison
    return AdversarialLoss(
        model.model, model.ref, comparison.x_NCHW, comparison.y_N, scan.setting, scan.directions
    )


def cost(losses: Losses) -> dict[str, float]:
    """Passes and seconds of all points, including those measured in earlier runs."""
    each = list(losses.values())
    return {
        "points": len(each),
        "forwards": sum(one.forwards for one in each),
        "backwards": sum(one.backwards for one in each),
        "seconds": sum(one.seconds for one in each),
    }
