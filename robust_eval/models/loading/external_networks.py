"""Load weights into a network that is built outside this package (:mod:`network_sources`)."""

from __future__ import annotations

from dataclasses import replace

import torch

from robust_eval.core.errors import UserError
from robust_eval.models import outputs
from robust_eval.models.architectures import Arguments
from robust_eval.models.loading import (
    foreign_weights,
    native_format,
    network_sources,
    one_logit,
    python_architecture,
    unrecorded,
)
from robust_eval.models.loading.assembly import foreign_result, native_result, question_for
from robust_eval.models.loading.load_task import Doubts, LoadedModel, LoadTask
from robust_eval.models.loading.recorded_normalisation import description_notes, without_descriptions


def load(
    task: LoadTask, arch: str, weights: foreign_weights.Weights, header: native_format.Header | None = None
) -> LoadedModel:
    """Load weights into a network that is built elsewhere; names are tried as stored, then unwrapped."""
    images, known = task.images, header or task.images
    if known is None:
        raise UserError(f"{task.name} does not record what it was trained on: add --data.")
    # A network of a library takes as many classes as the last layer in the file, code of the user may not.
    last = next(reversed(weights.state.values()))
    counted = header is None and network_sources.is_library(arch) and last.dim() > 0
    classes = len(last) if counted else known.classes
    shape = network_sources.Shape(classes, known.channels, known.image_size)
    network = network_sources.build(arch, shape, header.architecture.arguments if header else None)
    plain, left_out = without_descriptions(weights.state)
    states = (weights.stored, weights.state, plain)
    unwrapped, prefix = python_architecture.load_into(network, states, task.name, arch)
    notes = weights.notes if unwrapped else ()
    notes += description_notes(left_out) if states[unwrapped] is plain else ()
    notes += (f"removed '{prefix}' from the names",) if prefix else ()
    architecture = network_sources.identity(arch)
    x_1CHW = torch.zeros(1, known.channels, *known.image_size, device=task.device)
    network, count, note = python_architecture.returning_logits(
        network.float().to(task.device).eval(), x_1CHW, arch
    )
    notes += (note,) if note else ()
    if header is not None:
        loaded = native_result(task, header, architecture, network, notes)
        doubts = _other_code(header.architecture.arguments, architecture.arguments)
        return replace(loaded, doubts=doubts) if doubts.findings else loaded
    assert images is not None  # as there is no header
    recorded_arguments = {} if task.known is None else task.known.architecture.arguments
    if count == 1 and one_logit.asked(arch, recorded_arguments):
        network, count = outputs.TwoLogits(network), 2
    one_logit.refuse_single(count, task.name, arch)
    if not images.fits(count):
        raise UserError(f"{arch} gives {count} outputs, but {images.name} has {images.classes} classes.")
    # If the names fit as stored, the network has the tensors of the normalisation and applies it itself.
    recorded = weights.normalisation if unwrapped or weights.outside else None
    answer = unrecorded.choose(question_for(task, lambda _: network, {}, images.channels, recorded))
    notes = (*notes, *answer.notes)
    return foreign_result(task, architecture, answer, count, weights.facts, notes)


def _other_code(recorded: Arguments, given: Arguments) -> Doubts:
    """Doubts about a checkpoint that was trained with other code than it is evaluated with."""
    digests = [str(arguments.get(python_architecture.DIGEST, "")) for arguments in (recorded, given)]
    if not all(digests) or digests[0] == digests[1]:
        return Doubts()
    figure = f"trained with code of sha256 {digests[0][:12]}, evaluated with {digests[1][:12]}"
    return Doubts(findings=((unrecorded.UNCERTAIN, figure),))
