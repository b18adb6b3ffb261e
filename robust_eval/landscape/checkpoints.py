"""The checkpoints of one comparison: one architecture, one set of images, one threat model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robust_eval.core.devices import full_precision, pick_device
from robust_eval.core.errors import UserError
from robust_eval.core.text import printable
from robust_eval.core.threat import ThreatModel, refuse_unbounded
from robust_eval.core.types import CheckpointRef, Slice
from robust_eval.data import ImageSet
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.checks.probes import PROBED
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import load_whole, resolve_threat
from robust_eval.evaluation.store import open_run
from robust_eval.landscape.directions import movable
from robust_eval.models import out_of_memory
from robust_eval.models.architectures import Shapes
from robust_eval.models.loading import checkpoint
from robust_eval.models.loading.checkpoint import LoadedModel
from robust_eval.models.loading.state_dict_diff import shapes_of
from robust_eval.models.normalisation import Normalised

EXAMPLES = 1000


@dataclass(frozen=True)
class Subject:
    label: str
    model: Normalised
    """[0, 1] pixels to logits; read, never written."""
    ref: CheckpointRef


@dataclass(frozen=True)
class Subjects:
    """Checkpoints that can be compared, with what they are compared on."""

    each: tuple[Subject, ...]
    images: Slice
    x_NCHW: Tensor
    y_N: Tensor
    threat: ThreatModel

    @property
    def shapes(self) -> Shapes:
        """Of the weights that move, by name; the same for all."""
        return shapes_of(movable(self.each[0].model.network))

    def open(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Take up the folder of a question about them, which this process alone holds.

        Raises :class:`UserError` where it holds another question's figures, or other models'.
        """
        open_run(folder, identity)
        full_precision()
        x_NCHW = self.x_NCHW[:PROBED]
        first, again = (
            torch.stack([out_of_memory.logits(one.model, x_NCHW) for one in self.each]) for _ in range(2)
        )
        same_model.check(folder, first if torch.equal(first, again) else None)


def prepare(sources: Sequence[str], options: EvaluationOptions, names: str | None = None) -> Subjects:
    """Load checkpoints for one comparison, on the first ``options.examples`` (default 1,000) images.

    ``options.checkpoint`` is not read; ``names`` are labels, separated by commas. Raises :class:`UserError`
    where checkpoints have different architectures or were trained against different threats.
    """
    if options.split not in ("train", "test"):
        raise UserError(f"Unknown split '{options.split}'. Use test or train.")
    labels = labelled(sources, names)
    dataset = None if options.data is not None else _load(sources[0], options, None).ref.dataset
    whole = load_whole(options, dataset)
    images = _slice(options, whole)
    loaded = [_load(source, options, whole) for source in sources]
    same_architecture(labels, loaded)
    images = images.for_outputs(loaded[0].ref.classes)
    threats = [resolve_threat(options, model.ref, images) for model in loaded]
    for label, threat in zip(labels, threats, strict=True):
        if threat != threats[0]:
            raise UserError(
                f"{labels[0]} was trained for {threats[0]} and {label} for {threat}. Say which to compare "
                "under, with --norm and --eps."
            )
    x, y = images.tensors()
    refuse_unbounded(threats[0], x[0].numel())
    device = pick_device(options.device)
    each = tuple(Subject(label, model.model, model.ref) for label, model in zip(labels, loaded, strict=True))
    return Subjects(each, images.slice(), x.to(device), y.to(device), threats[0])


def _slice(options: EvaluationOptions, whole: ImageSet) -> ImageSet:
    return whole.take(min(EXAMPLES, whole.n) if options.examples is None else options.examples)


def _load(source: str, options: EvaluationOptions, images: ImageSet | None) -> LoadedModel:
    return checkpoint.load(
        source,
        images=images,
        arch=options.arch,
        normalisation=options.normalisation,
        device=pick_device(options.device),
    )


def same_architecture(labels: Sequence[str], loaded: Sequence[LoadedModel]) -> None:
    """A UserError where weights of two checkpoints have other names or shapes."""
    first = shapes_of(movable(loaded[0].network))
    for label, model in zip(labels, loaded, strict=True):
        same_id = model.ref.architecture.id == loaded[0].ref.architecture.id
        if not same_id or shapes_of(movable(model.network)) != first:
            raise UserError(
                f"{labels[0]} is a {_full_name(loaded[0].ref)} and {label} a {_full_name(model.ref)}: their "
                "weights cannot be compared. Give checkpoints of one architecture."
            )


def _full_name(ref: CheckpointRef) -> str:
    given = {**ref.architecture.arguments, "classes": ref.classes}
    return f"{ref.architecture.id} ({', '.join(f'{name}={value}' for name, value in given.items())})"


def labelled(sources: Sequence[str], names: str | None = None) -> tuple[str, ...]:
    """What tells checkpoints apart: the names given, else what differs in their paths, else A, B, ..."""
    if names is not None:
        found = tuple(printable(name, 40) for name in names.split(","))
        if len(found) != len(sources) or len(set(found)) != len(found) or not all(found):
            raise UserError(
                f"--names needs {len(sources)} different names, separated by commas; got '{names}'."
            )
        return found
    paths = [Path(source.rpartition(":")[2]) for source in sources]
    parts = [(*path.parent.parts, path.stem) for path in paths]
    for depth in range(1, min(map(len, parts)) + 1):
        ends = [part[len(part) - depth :] for part in parts]
        differs = [len({end[place] for end in ends}) > 1 for place in range(depth)]
        shown = ["/".join(name for name, keep in zip(end, differs, strict=True) if keep) for end in ends]
        candidates = tuple(printable(one or end[-1], 40) for one, end in zip(shown, ends, strict=True))
        if len(set(candidates)) == len(paths):
            return candidates
    return tuple(f"{chr(ord('A') + place % 26)}{place // 26 or ''}" for place in range(len(paths)))
