"""Evaluate a model that is already in memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.logits import median_difference, output_problem
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.core.torch_state import standard_state
from robust_eval.core.types import Architecture, CheckpointRef, Ints, Normalisation, Slice, Suite
from robust_eval.data import fingerprint
from robust_eval.evaluation import arguments, run
from robust_eval.evaluation.attack_copy import check_precision
from robust_eval.evaluation.executors.display import Display
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.options import SearchOptions
from robust_eval.evaluation.planning.request import make_request
from robust_eval.evaluation.planning.settings import check_options
from robust_eval.evaluation.progress import displays
from robust_eval.models import out_of_memory, outputs
from robust_eval.models.acceleration.deep_copy import copy_model
from robust_eval.models.acceleration.tuning import flops
from robust_eval.models.isolation import Isolated, batched_logits
from robust_eval.results import EvalResult, flags

Attack = Callable[..., Tensor]
_COMPARED = 8
"""Images on which a model is compared with its copy."""


# More than eight parameters: this is the public interface, whose options are keyword arguments; those of
# SearchOptions have its names and defaults.
def evaluate(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel | str,
    suite: str | Suite | Sequence[str | Attack] = "full",
    *,
    name: str = "model",
    data: str = "arrays",
    out: str | os.PathLike[str] | None = None,
    display: Display | bool = True,
    diagnose: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    compile: str = "auto",
) -> EvalResult:
    """Attack and judge a model that is already in memory, on the device of its parameters.

    Args:
        model: maps float32 pixels in [0, 1], shape (N, C, H, W), to logits (N, K), or to an object with
            them as ``logits`` or first entry; normalisation is part of the model. Copies of
            it are evaluated, in eval mode; it is itself called on a few images only, to compare it with them.
        x_NCHW: images, float, in [0, 1].
        y_N: labels, integers in 0..K-1.
        threat: a ThreatModel, or text such as ``"Linf 8/255"``.
        suite: a Suite, anything that ``robust-eval run --suite`` accepts, or a list of names and of attacks:
            functions ``(model, x_NCHW, y_N, threat)`` that return images, with the optional parameters
            ``classes`` and ``seed``.
        name: name of the model in the result.
        data: name of the images in the result, such as ``mnist``. Images of 8 bits per channel have the same
            fingerprint as on the command line, so that both results can be compared.
        out: run folder, which the same call continues; None: the run is held in memory.
        display: show progress, on a terminal or in a notebook; or an object that receives it, with the
            methods of :class:`robust_eval.evaluation.executors.display.Display`.
        diagnose: also check whether the attacks converge (:mod:`robust_eval.evaluation.checks.diagnosis`).
        batch_size: examples per unit; None: chosen by image size.
        seed: random seed of all attacks, 0 or more.
        precision: of the attacks: float32, bfloat16 or auto. Verdicts are always computed in float32.
        compile: torch.compile for the attacks: auto, on or off.

    Raises:
        UserError: for inputs outside these shapes and ranges, or if the model fails.
    """
    arguments.check_model_and_images(model, x_NCHW, y_N, threat, suite)
    options = SearchOptions(batch_size=batch_size, seed=seed, precision=precision, compile=compile)
    arguments.check_options(
        name=name, data=data, out=out, display=display, diagnose=diagnose, options=options
    )
    with standard_state():
        job = make_job(model, x_NCHW, y_N, threat, suite, name, options, data)
        folder = Path(out) if out is not None else None
        if not isinstance(display, bool):
            return run.execute(job, folder, display, diagnose=diagnose)
        with displays.of_session() if display else nullcontext() as shown:
            return run.execute(job, folder, shown, diagnose=diagnose)


def make_job(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel | str,
    suite: str | Suite | Sequence[str | Attack],
    name: str = "model",
    options: SearchOptions | None = None,
    data: str = "arrays",
) -> Job:
    """The job that :func:`evaluate` runs, with copies of the model and of the images."""
    threat = threat if isinstance(threat, ThreatModel) else _threat_from_text(threat)
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    if device.type == "meta" or x_NCHW.is_meta:
        raise UserError("The model or the images are on the meta device, without values: load the values.")
    if isinstance(suite, Suite):
        chosen = suites.refuse_taken_name(suite)
    else:
        chosen = suites.load(suite) if isinstance(suite, str) else suites.of_attacks(suite)
    settings = check_options(options or SearchOptions(), chosen, device)
    x, y = arguments.checked_images(x_NCHW.detach().clone().to(device), y_N.clone().to(device))
    # Copied before the first call: a model with a memory must not have seen the images.
    unused, judged = copy_model(model).eval(), copy_model(model).eval()
    measured: nn.Module = Isolated(copy_model(unused))
    output = _first_output(measured, x[:1])
    if place := outputs.place_of_logits(output):
        each = (model, unused, judged, measured)
        model, unused, judged, measured = (outputs.TakesLogits(one, place) for one in each)
        output = outputs.take(output, place)
    classes, operations = _classes(output), flops(measured, x)
    _check_copy(model, unused, x[:_COMPARED])
    precision, note = check_precision(settings, model, x)
    if int(y.max()) >= classes:
        raise UserError(f"Label {int(y.max())} has no logit: the model has {classes} outputs.")
    reference, slice_ = _reference(model, name, classes), _slice(x, y, classes, data)
    request = make_request(settings, reference, slice_, threat, tuple(x.shape[1:]), precision, operations)
    notes = tuple(filter(None, (note, outputs.note(place) if place else "")))
    fresh = partial(_logits_of_copy, unused)
    return Job(request, judged, x, y, fresh, compile=settings.compile, notes=notes)


def _logits_of_copy(model: nn.Module, x_NCHW: Tensor, batches: Sequence[Ints]) -> Tensor:
    """Logits of batches of images, by a new copy of a model that has not been called."""
    return batched_logits(copy_model(model), x_NCHW, batches)


@torch.no_grad()
def _first_output(model: nn.Module, x_1CHW: Tensor) -> Any:
    """What the model returns; :class:`UserError` if it fails."""
    shape = tuple(x_1CHW.shape)
    try:
        return model(x_1CHW)
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else "no message"
        raise UserError(
            f"The model fails on a batch of shape {shape}: {type(error).__name__}: {what}. "
            "Images are passed as (N, C, H, W)."
        ) from error


def _classes(logits: Any) -> int:
    """The number of logits of one image; :class:`UserError` if they are no logits."""
    if problem := output_problem(logits, 1):
        raise UserError(
            f"The model must return logits of shape (N, classes), not {problem}. "
            "Wrap it in a module that does."
        )
    classes: int = logits.shape[1]
    if classes == 1:
        raise UserError(
            "The model returns one logit per image. If that is one logit for two classes, evaluate "
            "robust_eval.models.outputs.TwoLogits(model)."
        )
    return classes


@torch.no_grad()
def _check_copy(model: nn.Module, unused: nn.Module, x_NCHW: Tensor) -> None:
    """Raise :class:`UserError` if a copy computes another function; ``unused`` is not called."""
    modes = {module: module.training for module in model.modules()}
    copies = Isolated(copy_model(unused)), Isolated(copy_model(unused))
    try:
        own = out_of_memory.logits(Isolated(model.eval()), x_NCHW)
    finally:
        for module, training in modes.items():
            module.training = training
    first, second = (out_of_memory.logits(copy, x_NCHW) for copy in copies)
    if median_difference(second, first) < flags.COPY_DIFFERENCE < median_difference(own, first):
        raise UserError(
            "A copy of the model (copy.deepcopy) computes other logits than the model. Remove its "
            "__deepcopy__ method, or state outside its parameters, buffers and attributes."
        )


def _threat_from_text(text: str) -> ThreatModel:
    norm, _, eps = text.strip().partition(" ")
    if not eps:
        raise UserError(f"Threat model '{text}' needs a norm and an epsilon, for example 'Linf 8/255'.")
    return parse_threat(norm, eps)


def _reference(model: nn.Module, name: str, classes: int) -> CheckpointRef:
    """Identify a model without a file by a hash of its modules, parameters and buffers.

    An edited forward method does not change the hash; with ``out``, the logits of the first images are
    compared too (:mod:`robust_eval.evaluation.checks.same_model`).
    """
    # Memory addresses differ from process to process.
    content = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(model)).encode())
    # Not the state dict: it lacks buffers that are not persistent, such as an input normalisation.
    for key, value in sorted([*model.named_parameters(), *model.named_buffers()]):
        content.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    architecture = Architecture(f"python:{type(model).__name__}")
    normalisation = Normalisation("inside the model")
    return CheckpointRef(name, content.hexdigest(), architecture, classes, normalisation, "python")


def _slice(x: Tensor, y: Tensor, classes: int, data: str) -> Slice:
    """Images of 8 bits per channel have the fingerprint that they have as a dataset of the command line."""
    names = tuple(str(k) for k in range(classes))
    labels, pixels = y.cpu().numpy().astype(np.int64), (255 * x).round().to(torch.uint8)
    if torch.equal(pixels.float() / 255, x):
        found = fingerprint(pixels.permute(0, 2, 3, 1).cpu().numpy(), labels)
    else:
        content = hashlib.sha256(str(tuple(x.shape)).encode())
        content.update(x.cpu().contiguous().numpy().tobytes())
        content.update(labels.tobytes())
        found = content.hexdigest()
    return Slice(data, "given", len(x), found, names, "stored")
