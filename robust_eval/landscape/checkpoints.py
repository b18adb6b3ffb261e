"""Load the checkpoints of one comparison: one architecture, one set of images, one threat model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_eval.core.devices import full_precision, pick_device
from robust_eval.core.errors import UserError
from robust_eval.core.request import digest
from robust_eval.core.text import parse_names, printable
from robust_eval.core.threat import ThreatModel, refuse_unbounded
from robust_eval.core.types import CheckpointRef, Slice
from robust_eval.data import ImageSet
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.checks.probes import PROBED
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import check_split, load_images, load_model, resolve_threat
from robust_eval.evaluation.store import open_run
from robust_eval.landscape.directions import perturbable_weights
from robust_eval.models import out_of_memory
from robust_eval.models.architectures import Shapes
from robust_eval.models.isolation import copy_inputs
from robust_eval.models.loading.checkpoint import LoadedModel
from robust_eval.models.loading.state_dict_diff import shapes_of
from robust_eval.models.normalisation import Normalised

DEFAULT_EXAMPLES = 1000


@dataclass(frozen=True)
class ComparedModel:
    """One checkpoint of a comparison and its label in tables and figures."""

    label: str
    model: Normalised
    """Pixels in [0, 1] to logits; never modified."""
    ref: CheckpointRef

    def record(self) -> dict[str, Any]:
        """Label and identity of the checkpoint for JSON files."""
        return {"label": self.label, "name": self.ref.name, "sha256": self.ref.sha256}


@dataclass(frozen=True)
class ModelComparison:
    """Checkpoints of one architecture with the images and the threat model they are compared on."""

    models: tuple[ComparedModel, ...]
    data: Slice
    x_NCHW: Tensor
    """float32 in [0, 1], on the models' device."""
    y_N: Tensor
    threat: ThreatModel

    @property
    def shapes(self) -> Shapes:
        """Shapes of the perturbable weights by name; equal for all checkpoints."""
        return shapes_of(perturbable_weights(self.models[0].model.network))

    def open_folder(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Create a run folder for this comparison or continue in an existing one.

        The caller must hold the folder's lock. Raises :class:`UserError` if the folder belongs to a request
        of another identity or was started with models that give other logits.
        """
        open_run(folder, identity)
        full_precision()
        x_NCHW = self.x_NCHW[:PROBED]
        first, again = (
            torch.stack([out_of_memory.logits(one.model, x_NCHW) for one in self.models]) for _ in range(2)
        )
        same_model.check(folder, first if torch.equal(first, again) else None)

    def default_folder(self, kind: str, identity: Mapping[str, Any]) -> Path:
        """The run folder if the user names none, see :func:`default_folder`."""
        return default_folder(kind, [one.label for one in self.models], identity)

    def caption(self, attack_id: str) -> str:
        """``digits (train, n = 1000), PGD-10, Linf 0.1``."""
        data = self.data
        return f"{data.name} ({data.split}, n = {data.n}), {attack_id.upper()}, {self.threat}"


def default_folder(kind: str, labels: Sequence[str], identity: Mapping[str, Any]) -> Path:
    """``runs/KIND-LABELS-HASH``; the same identity gives the same folder, so that a rerun continues."""
    stem = "".join(c if c.isalnum() or c in "._+-" else "-" for c in "+".join(labels))[:60]
    return Path("runs") / f"{kind}-{stem}-{digest(identity)[:8]}"


def load_comparison(
    sources: Sequence[str], options: EvaluationOptions, names: str | None = None
) -> ModelComparison:
    """Load checkpoints for one comparison, on the first ``options.examples`` (default 1,000) images.

    ``options.checkpoint`` is ignored; ``names`` are labels, separated by commas. Raises :class:`UserError`
    for checkpoints of different architectures or trained for different threat models.
    """
    check_split(options)
    labels = checkpoint_labels(sources, names)
    device = pick_device(options.device)
    dataset = None if options.data is not None else load_model(sources[0], options, device, None).ref.dataset
    all_images = load_images(options, dataset)
    images = _first_images(options, all_images)
    loaded = [load_model(source, options, device, all_images) for source in sources]
    check_same_architecture(labels, loaded)
    images = images.for_outputs(loaded[0].ref.classes)
    threats = [resolve_threat(options, model.ref, images) for model in loaded]
    for label, threat in zip(labels, threats, strict=True):
        if threat != threats[0]:
            raise UserError(
                f"{labels[0]} was trained for {threats[0]} and {label} for {threat}. Choose one threat model "
                "with --norm and --eps."
            )
    for model in loaded:
        copy_inputs(model.network)
    x, y = images.tensors()
    refuse_unbounded(threats[0], x[0].numel())
    models = tuple(
        ComparedModel(label, model.model, model.ref) for label, model in zip(labels, loaded, strict=True)
    )
    return ModelComparison(models, images.slice(), x.to(device), y.to(device), threats[0])


def _first_images(options: EvaluationOptions, images: ImageSet) -> ImageSet:
    return images.take(min(DEFAULT_EXAMPLES, images.n) if options.examples is None else options.examples)


def check_same_architecture(labels: Sequence[str], loaded: Sequence[LoadedModel]) -> None:
    """Raise a :class:`UserError` if weights of two checkpoints differ in names or shapes."""
    first = shapes_of(perturbable_weights(loaded[0].network))
    for label, model in zip(labels, loaded, strict=True):
        same_id = model.ref.architecture.id == loaded[0].ref.architecture.id
        if not same_id or shapes_of(perturbable_weights(model.network)) != first:
            raise UserError(
                f"{labels[0]} is a {_architecture_text(loaded[0].ref)} and {label} a "
                f"{_architecture_text(model.ref)}: their weights cannot be compared. Give checkpoints of one "
                "architecture."
            )


def _architecture_text(ref: CheckpointRef) -> str:
    """``digits-cnn (width=2, hidden=6, classes=10)``."""
    arguments = {**ref.architecture.arguments, "classes": ref.classes}
    return f"{ref.architecture.id} ({', '.join(f'{name}={value}' for name, value in arguments.items())})"


def checkpoint_labels(sources: Sequence[str], names: str | None = None) -> tuple[str, ...]:
    """One distinct label per checkpoint: the given names, else the differing parts of the paths, else A, B.

    Raises :class:`UserError` if the number of names differs or a name is empty or repeated.
    """
    if names is not None:
        return tuple(parse_names(names, len(sources)))
    paths = [Path(source.rpartition(":")[2]) for source in sources]
    parts = [(*path.parent.parts, path.stem) for path in paths]
    for depth in range(1, min(map(len, parts)) + 1):
        ends = [part[len(part) - depth :] for part in parts]
        differs = [len({end[index] for end in ends}) > 1 for index in range(depth)]
        shown = ["/".join(name for name, keep in zip(end, differs, strict=True) if keep) for end in ends]
        candidates = tuple(printable(one or end[-1], 40) for one, end in zip(shown, ends, strict=True))
        if len(set(candidates)) == len(paths):
            return candidates
    return tuple(f"{chr(ord('A') + index % 26)}{index // 26 or ''}" for index in range(len(paths)))
