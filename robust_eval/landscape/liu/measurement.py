"""What Liu et al.'s measurements share: the comparison, the attack, and finished pieces on disk."""

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
from robust_eval.core import seeds
from robust_eval.core.devices import full_precision
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text, writing
from robust_eval.core.request import digest
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import AttackSpec
from robust_eval.evaluation.planning.units import auto_batch_size
from robust_eval.landscape.checkpoints import Subjects
from robust_eval.models.acceleration.frozen_copy import AttackCopy, make_attack_copy
from robust_eval.results.environment import environment

T = TypeVar("T")

# Images on which a search copy is checked.
SAMPLE = 16


@dataclass(frozen=True)
class Setup:
    """Checkpoints, images and attack of one measurement."""

    kind: str
    """``hessian``, ``scattering`` or ``connectivity``."""
    version: int
    """Rises whenever the meaning of a stored piece changes."""
    subjects: Subjects
    attack: AttackSpec
    batch_size: int
    seed: int

    def identity(self) -> dict[str, Any]:
        """Everything that the figures depend on; a folder holds pieces of one identity."""
        subjects = self.subjects
        return {
            "kind": self.kind,
            "version": self.version,
            "checkpoints": [subject.ref.identity() for subject in subjects.each],
            "data": asdict(subjects.images),
            "threat": str(subjects.threat),
            "attack": asdict(self.attack),
            "library": attacks.library(self.attack.family),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }

    def default_folder(self) -> Path:
        """The same question finds the same folder again, and so continues."""
        names = "+".join(subject.label for subject in self.subjects.each)
        stem = "".join(c if c.isalnum() or c in "._+-" else "-" for c in names)[:60]
        return Path("runs") / f"{self.kind}-{stem}-{digest(self.identity())[:8]}"

    def record(self) -> dict[str, Any]:
        """How it was made, for the JSON beside the figure."""
        subjects = self.subjects
        return {
            "kind": self.kind,
            "version": self.version,
            "data": asdict(subjects.images),
            "threat": {"norm": subjects.threat.norm, "eps": subjects.threat.eps_text},
            "attack": {**asdict(self.attack), "library": attacks.library(self.attack.family)},
            "loss": "cross-entropy in nats, mean over the images; BatchNorm in eval mode",
            "batch_size": self.batch_size,
            "seed": self.seed,
            "environment": environment(subjects.x_NCHW.device).model_dump(),
        }

    def caption(self) -> str:
        """``digits (train, n = 500), PGD-10, Linf 0.1``."""
        images = self.subjects.images
        shown = f"{images.name} ({images.split}, n = {images.n})"
        return f"{shown}, {self.attack.id.upper()}, {self.subjects.threat}"

    def attack_copy(self, model: nn.Module) -> AttackCopy:
        """The copy of a model, as it stands, that attacks search on."""
        return make_attack_copy(model, sample=self.subjects.x_NCHW[:SAMPLE])

    def attacked(self, search: AttackCopy, threat: ThreatModel | None = None) -> Tensor:
        """Adversarial images for the whole slice; every image's random start is the same on every call."""
        subjects, family = self.subjects, attacks.family(self.attack.family)
        params = attacks.parse(self.attack.family, self.attack.params)
        found = []
        for first in range(0, len(subjects.y_N), self.batch_size):
            chosen = slice(first, first + self.batch_size)
            adv = family.search(
                search,
                subjects.x_NCHW[chosen],
                subjects.y_N[chosen],
                threat or subjects.threat,
                params,
                classes=subjects.each[0].ref.classes,
                seed=seeds.derive(self.seed, self.kind, str(first)),
            )
            found.append(adv.detach().float())
        return torch.cat(found)


def make(
    kind: str, version: int, subjects: Subjects, *, steps: int, batch_size: int | None, seed: int
) -> Setup:
    """Checked: PGD-``steps`` on at most ``batch_size`` images at once."""
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {batch_size}.")
    if seed < 0:
        raise UserError(f"--seed must be 0 or more, got {seed}.")
    full_precision()
    x = subjects.x_NCHW
    usual = min(auto_batch_size(tuple(x.shape[1:]), x.device.type), len(x))
    attack = attacks.spec(f"pgd-{steps}", "pgd", {"steps": steps})
    return Setup(kind, version, subjects, attack, batch_size or usual, seed)


class Pieces:
    """Finished pieces of a measurement in ``units/<name>.json``, each whole or absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "units"

    def get(self, name: str, kind: type[T]) -> T | None:
        """The stored piece of dataclass ``kind``; None where there is none, or a damaged one."""
        try:
            text = (self.folder / f"{name}.json").read_text(encoding="utf-8")
            return TypeAdapter(kind).validate_json(text)
        except (OSError, UnicodeDecodeError, ValidationError):
            return None

    def put(self, name: str, piece: object) -> None:
        """Write a piece. A UserError where that is not possible."""
        value = TypeAdapter(type(piece)).dump_python(piece, mode="json")
        with writing(self.folder.parent):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{name}.json", json.dumps(value) + "\n")

    def once(self, name: str, kind: type[T], measure: Callable[[], T]) -> T:
        """The stored piece, or a new one, stored."""
        found = self.get(name, kind)
        if found is None:
            found = measure()
            self.put(name, found)
        return found


def name(**facts: object) -> str:
    """A file name for a piece, from what tells it from others of its folder."""
    return digest(facts)[:32]


def parts(tensor: Tensor, size: int) -> list[Tensor]:
    """Consecutive slices of at most ``size`` along the first dimension."""
    return [tensor[first : first + size] for first in range(0, len(tensor), size)]


def checked_count(option: str, value: int, least: int = 1) -> int:
    if value < least:
        raise UserError(f"{option} must be at least {least}, got {value}.")
    return value
