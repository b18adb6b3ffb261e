"""Choose what a foreign file does not record: the input normalisation, and arguments without tensors.

As requested; else as recorded; else by what the BatchNorm layers remember; without BatchNorm by accuracy,
which is a guess. What remains uncertain becomes a flag.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import CheckpointRef, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.architectures import Arguments
from robust_eval.models.loading import batchnorm_choice, normalisation_probe
from robust_eval.models.loading.batchnorm_choice import Build, FirstLayer, Variant
from robust_eval.models.loading.batchnorm_statistics import has_statistics
from robust_eval.models.loading.load_task import Doubts
from robust_eval.models.loading.training_views import BORDERS, VIEWS
from robust_eval.models.normalisation import check_normalisation, parse_normalisation

MISMATCH, UNCERTAIN = "batchnorm-mismatch", "architecture-uncertain"
"""Flags; the third, ``normalisation-uncertain``, is raised from :attr:`Doubts.rivals`."""
_REQUESTED = re.compile(r"input normalisation '.*' as requested")


@dataclass(frozen=True)
class Question:
    """What is to be chosen for one file."""

    name: str
    build: Build
    default: Arguments
    """Arguments of the default variant."""
    variants: Sequence[Arguments]
    """Others with the same tensors; empty if the user named one, or for code of the user."""
    channels: int
    recorded: Normalisation | None
    """The normalisation in the file."""
    requested: str | None
    """The normalisation that the user named."""
    images: ImageSet | None
    device: torch.device
    known: CheckpointRef | None = None
    """How the file was read before; nothing is chosen then."""

    @property
    def wanted(self) -> Normalisation | None:
        """The requested normalisation.

        Raises:
            UserError: if it is unknown or does not fit the images.
        """
        return None if self.requested is None else parse_normalisation(self.requested, self.channels)

    def check_recorded(self) -> None:
        """Raise :class:`UserError` if the recorded normalisation is needed and cannot be applied."""
        if self.recorded is not None and self.requested is None:
            try:
                check_normalisation(self.recorded, self.channels)
            except UserError as error:
                raise UserError(f"{self.name}: {error} Choose another one with --normalisation.") from None


@dataclass(frozen=True)
class Answer:
    """The chosen function of the file's tensors."""

    arguments: Arguments
    network: nn.Module
    """Normalised input to logits; in eval mode, on the device."""
    normalisation: Normalisation
    notes: tuple[str, ...] = ()
    doubts: Doubts = field(default_factory=Doubts)

    def with_finding(self, flag: str, figure: str) -> Answer:
        """The same with another flag."""
        findings = (*self.doubts.findings, (flag, figure))
        return replace(self, doubts=replace(self.doubts, findings=findings))


def choose(question: Question) -> Answer:
    """Choose normalisation and variant.

    Raises:
        UserError: if the normalisation cannot be determined.
    """
    if question.known is not None:
        arguments = question.known.architecture.arguments
        return Answer(arguments, question.build(arguments), question.known.normalisation)
    images, wanted = question.images, question.wanted
    question.check_recorded()
    network = question.build(question.default)
    if images is None:
        return _without_images(question, network, wanted)
    x, y = (tensor.to(question.device) for tensor in _some(images).tensors())
    known = [wanted] if wanted is not None else None
    normalisations = known or normalisation_probe.candidate_normalisations(
        question.channels, images.name, question.recorded, images.classes
    )
    if has_statistics(network) and len(x) >= batchnorm_choice.LEAST:
        ranked = batchnorm_choice.first_layers(network, normalisations, x)
        if ranked:
            return _by_batchnorm(question, network, ranked, x, y)
    return _by_accuracy(question, network, normalisations, x, y)


def was_requested(notes: Iterable[str]) -> bool:
    """Whether the user named the input normalisation, according to the notes of a loaded checkpoint."""
    return any(_REQUESTED.match(note) for note in notes)


def _some(images: ImageSet) -> ImageSet:
    return images.take(min(images.n, batchnorm_choice.MOST_IMAGES))


def _without_images(question: Question, network: nn.Module, wanted: Normalisation | None) -> Answer:
    known = wanted or question.recorded
    if known is None:
        raise UserError(
            f"{question.name} does not record its input normalisation. Add --data, so that it can be "
            "determined, or --normalisation."
        )
    notes = () if wanted is None else (f"input normalisation '{wanted.name}' as requested",)
    return Answer(question.default, network, known, notes)


def _by_accuracy(
    question: Question, network: nn.Module, normalisations: Sequence[Normalisation], x: Tensor, y: Tensor
) -> Answer:
    assert question.images is not None
    is_open = question.variants and "activation" not in question.default
    unknown = ("no BatchNorm layer confirms the activation: default assumed",) if is_open else ()
    if question.requested is not None:
        note = f"input normalisation '{normalisations[0].name}' as requested"
        return Answer(question.default, network, normalisations[0], (note, *unknown))
    chosen, rivals, note = normalisation_probe.probe(
        network, normalisations, x, y, question.images.classes, question.name, recorded=question.recorded
    )
    return Answer(question.default, network, chosen, (note, *unknown), Doubts(rivals=rivals))


def _by_batchnorm(
    question: Question, network: nn.Module, ranked: Sequence[FirstLayer], x: Tensor, y: Tensor
) -> Answer:
    assert question.images is not None
    fixed = question.wanted or question.recorded
    first = ranked[0] if fixed is None else _of(ranked, fixed)
    variant, shown = _variant(question, first, x)
    likely = [first] if fixed is not None else batchnorm_choice.plausible(ranked, len(x))
    rivals = normalisation_probe.measured(variant.network, [one.normalisation for one in likely], x, y)
    if question.requested is None:
        normalisation_probe.refuse_chance(rivals[0], len(x), question.images.classes, question.name)
    why = "as requested" if question.requested else "as recorded" if fixed else "by the first BatchNorm layer"
    table = ", ".join(map(str, [first, *(one for one in ranked if one is not first)]))
    notes = [
        f"input normalisation '{first.normalisation.name}' {why} (deviation of its statistics: {table}); "
        f"clean accuracy: {', '.join(map(str, rivals))}"
    ]
    findings = []
    if shown:
        notes.append(f"BatchNorm statistics are those of images {shown}, as augmentation shows them")
    if question.variants:
        notes += _variant_notes(variant, question.default)
    if variant.doubted:
        findings.append((UNCERTAIN, f"{'; '.join(variant.doubted)}: BatchNorm statistics lie in between"))
    if variant.worst.mismatch > batchnorm_choice.tolerance(variant.images):
        findings.append((MISMATCH, mismatch_figure(variant)))
    return Answer(
        variant.arguments,
        variant.network,
        first.normalisation,
        tuple(notes),
        Doubts(tuple(findings), tuple(rivals) if len(rivals) > 1 else ()),
    )


def _variant(question: Question, first: FirstLayer, x: Tensor) -> tuple[Variant, str]:
    """The variant, and how images are shown so that it fits; '' if it fits the images as they are, or never.

    The first layer alone may prefer a view that the other layers contradict.
    """

    def seen(one: FirstLayer) -> Variant:
        return batchnorm_choice.choose_variant(question.build, question.default, question.variants, one, x)

    plain = seen(first)
    if plain.fits:
        return plain, ""
    others = [replace(first, view=view) for view in VIEWS if view != first.view]
    others = [one for one in others if batchnorm_choice.explains(plain.network, one, x)]
    fitting = [(variant, one.view) for one in others if (variant := seen(one)).fits]
    for variant, view in fitting:
        if view in BORDERS:
            return variant, ""
    return min(fitting, key=lambda pair: pair[0].worst.mismatch, default=(plain, ""))


def mismatch_figure(variant: Variant) -> str:
    """``0.81 at layer1.0.bn1, the largest of 20 layers (512 images shown as they are)``."""
    name = variant.worst.name.removeprefix("network.")
    return (
        f"{variant.worst.mismatch:.2g} at {name}, the largest of {len(variant.layers)} layers on "
        f"{variant.images} images (limit {batchnorm_choice.tolerance(variant.images):.2g})"
    )


def _of(ranked: Sequence[FirstLayer], normalisation: Normalisation) -> FirstLayer:
    return next(one for one in ranked if one.normalisation == normalisation)


def _variant_notes(variant: Variant, default: Arguments) -> list[str]:
    changed = batchnorm_choice.label(variant.arguments, default)
    notes = [f"{changed} by the statistics of the BatchNorm layers"] if changed else []
    if variant.untold:
        notes.append(
            f"too similar for {variant.images} images to tell apart by BatchNorm statistics: "
            f"{', '.join(variant.untold)}"
        )
    return notes
