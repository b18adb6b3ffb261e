"""What the measurements of Liu et al. share: checkpoints, the attack, and partial results on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from robust_eval import attacks
from robust_eval.core import seeds, strict_json
from robust_eval.core.devices import full_precision
from robust_eval.core.errors import UserError
from robust_eval.core.files import create_folder, report_write_errors, write_text
from robust_eval.core.request import digest
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import AttackSpec
from robust_eval.evaluation.planning.units import auto_batch_size
from robust_eval.landscape.checkpoints import ModelComparison
from robust_eval.landscape.option_checks import require_at_least
from robust_eval.models.acceleration.frozen_copy import AttackCopy, make_attack_copy
from robust_eval.results.environment import environment

T = TypeVar("T")

# Images on which an attack copy is checked.
SAMPLE = 16


@dataclass(frozen=True)
class Measurement:
    """One measurement: what is measured, on which checkpoints and images, under which attack."""

    kind: str
    """``hessian``, ``scattering`` or ``connectivity``."""
    version: int
    """Must be increased whenever the meaning of a stored partial result changes."""
    comparison: ModelComparison
    attack: AttackSpec
    batch_size: int
    seed: int

    def identity(self) -> dict[str, Any]:
        """Everything that the measured values depend on; a run folder belongs to one identity."""
        comparison = self.comparison
        return {
            "kind": self.kind,
            "version": self.version,
            "checkpoints": [one.ref.identity() for one in comparison.models],
            "data": asdict(comparison.data),
            "threat": str(comparison.threat),
            "attack": asdict(self.attack),
            "library": attacks.library(self.attack.family),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def default_folder(self) -> Path:
        """``runs/KIND-LABELS-HASH``."""
        return self.comparison.default_folder(self.kind, self.identity())

    def caption(self) -> str:
        """``digits (train, n = 500), PGD-10, Linf 0.1``."""
        return self.comparison.caption(self.attack.id)

    def record(self) -> dict[str, Any]:
        """How the values were measured, for JSON files."""
        comparison = self.comparison
        return {
            "kind": self.kind,
            "version": self.version,
            "data": asdict(comparison.data),
            "threat": {"norm": comparison.threat.norm, "eps": comparison.threat.eps_text},
            "attack": {**asdict(self.attack), "library": attacks.library(self.attack.family)},
            "loss": "cross-entropy in nats, mean over the images; BatchNorm in eval mode",
            "batch_size": self.batch_size,
            "seed": self.seed,
            "environment": environment(comparison.x_NCHW.device).model_dump(),
        }

    def attack_copy(self, model: nn.Module) -> AttackCopy:
        """The accelerated copy of a model, at its current weights, that attacks differentiate."""
        return make_attack_copy(model, sample=self.comparison.x_NCHW[:SAMPLE])

    def adversarial_images(self, attack_copy: AttackCopy, threat: ThreatModel | None = None) -> Tensor:
        """Adversarial images (float32 NCHW) for all images; random starts are equal on every call.

        ``threat``: instead of the comparison's threat model.
        """
        comparison, family = self.comparison, attacks.family(self.attack.family)
        params = attacks.parse(self.attack.family, self.attack.params)
        batches = []
        for first in range(0, len(comparison.y_N), self.batch_size):
            batch = slice(first, first + self.batch_size)
            x_adv_NCHW = family.search(
                attack_copy,
                comparison.x_NCHW[batch],
                comparison.y_N[batch],
                threat or comparison.threat,
                params,
                classes=comparison.models[0].ref.classes,
                seed=seeds.derive(self.seed, self.kind, str(first)),
            )
            batches.append(x_adv_NCHW.detach().float())
        return torch.cat(batches)


def make_measurement(
    kind: str, version: int, comparison: ModelComparison, *, steps: int, batch_size: int | None, seed: int
) -> Measurement:
    """A measurement under PGD with ``steps`` steps, with the options checked.

    ``batch_size`` None: chosen by image size. Raises :class:`UserError` for values out of range.
    """
    require_at_least("--seed", seed, 0)
    x_NCHW = comparison.x_NCHW
    if batch_size is None:
        batch_size = min(auto_batch_size(tuple(x_NCHW.shape[1:]), x_NCHW.device.type), len(x_NCHW))
    require_at_least("--batch-size", batch_size)
    full_precision()
    attack = attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps})
    return Measurement(kind, version, comparison, attack, batch_size, seed)


class PartialResults:
    """Finished parts of a measurement in ``units/<name>.json``, written atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "units"

    def get(self, name: str, kind: type[T]) -> T | None:
        """The stored value of dataclass ``kind``; None if it is missing or damaged."""
        try:
            return TypeAdapter(kind).validate_python(strict_json.read(self.folder / f"{name}.json"))
        except (UserError, ValidationError):
            return None

    def put(self, name: str, value: object) -> None:
        """Store a dataclass. Raises :class:`UserError` if it cannot be written."""
        plain = TypeAdapter(type(value)).dump_python(value, mode="json")
        with report_write_errors(self.folder.parent):
            create_folder(self.folder)
        write_text(self.folder / f"{name}.json", json.dumps(plain) + "\n")

    def get_or_measure(self, name: str, kind: type[T], measure: Callable[[], T]) -> T:
        """The stored value, else a new measurement, which is stored."""
        stored = self.get(name, kind)
        if stored is not None:
            return stored
        measured = measure()
        self.put(name, measured)
        return measured


def partial_name(**parts: object) -> str:
    """File name of a partial result, from what distinguishes it within its folder."""
    return digest(parts)[:32]


def batches(tensor: Tensor, size: int) -> list[Tensor]:
    """Consecutive slices of at most ``size`` along the first dimension."""
    return [tensor[first : first + size] for first in range(0, len(tensor), size)]
