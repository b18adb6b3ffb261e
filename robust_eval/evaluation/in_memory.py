"""A model that is already in memory: checked, given a name, and judged like any checkpoint."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.core.types import Architecture, CheckpointRef, Normalisation, Slice, Suite
from robust_eval.evaluation import display, run
from robust_eval.evaluation.attack_copy import check_precision, resolve_precision
from robust_eval.evaluation.checks import diagnosed_result
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.request import make_request
from robust_eval.models.acceleration import compilation
from robust_eval.results import EvalResult


def evaluate(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel | str,
    suite: str | Suite = "full",
    *,
    name: str = "model",
    batch_size: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    display: display.Display | None = None,
    diagnose: bool = False,
    precision: str = "float32",
    compile: str = "auto",
) -> EvalResult:
    """Attack and judge a model that is already in memory.

    ``model`` maps float32 pixels in [0, 1], shape (N, C, H, W), to logits (N, K), with any
    normalisation inside; it is put into eval mode for the run and given back as it was. ``y_N``
    holds int64 labels in 0..K-1. ``threat`` is a :class:`ThreatModel` or text such as
    ``"Linf 8/255"``. ``suite`` is a :class:`Suite` or anything that ``robust-eval run --suite`` takes. With
    ``out`` the run is kept in that folder and can be continued; without, it lives in memory. ``diagnose``
    also asks whether the attacks converged (:mod:`robust_eval.evaluation.checks.diagnosis`). ``precision`` (float32, bfloat16,
    auto) and ``compile`` (auto, on, off) are of the search alone; the judge is the model as it is.

    Runs on the device of the model's parameters. Raises :class:`UserError` for inputs outside
    these shapes and ranges.
    """
    _check_types(model, x_NCHW, y_N, threat, suite)
    modes = {module: module.training for module in model.modules()}
    try:
        job = make_job(
            model,
            x_NCHW,
            y_N,
            threat,
            suite,
            name=name,
            batch_size=batch_size,
            seed=seed,
            precision=precision,
            compile=compile,
        )
        folder = Path(out) if out is not None else None
        result = run.execute(job, folder, display)
        return diagnosed_result.diagnosed(job, result, folder) if diagnose else result
    finally:
        for module, training in modes.items():
            module.training = training


def make_job(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel | str,
    suite: str | Suite,
    *,
    name: str = "model",
    batch_size: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    compile: str = "auto",
) -> Job:
    """The job that :func:`evaluate` does; the model is left in eval mode."""
    threat = threat if isinstance(threat, ThreatModel) else _threat_from_text(threat)
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    x, y = _checked(x_NCHW.to(device), y_N.to(device))
    arithmetic, note = resolve_precision(precision, device)
    classes = _classes(model.eval(), x[:1])
    arithmetic, note = check_precision(precision, arithmetic, note, model, x)
    if int(y.max()) >= classes:
        raise UserError(f"Label {int(y.max())} has no logit: the model has {classes} outputs.")
    request = make_request(
        _reference(model, name, classes),
        _slice(x, y, classes),
        threat,
        suites.load(suite) if isinstance(suite, str) else suite,
        shape_CHW=tuple(x.shape[1:]),
        device=device,
        batch_size=batch_size,
        seed=seed,
        precision=arithmetic,
    )
    notes = (note,) if note else ()
    return Job(request, model, x, y, compile=compilation.parse(compile, device), notes=notes)


def _check_types(model: object, x_NCHW: object, y_N: object, threat: object, suite: object) -> None:
    """What a type checker would say, for those who have none running."""
    if not isinstance(model, nn.Module):
        raise UserError(
            f"evaluate() takes a torch.nn.Module, not a {type(model).__name__}. "
            "For a file use robust-eval run."
        )
    for name, value in (("x_NCHW", x_NCHW), ("y_N", y_N)):
        if not isinstance(value, Tensor):
            raise UserError(
                f"{name} must be a torch.Tensor, not a {type(value).__name__}; torch.from_numpy helps."
            )
    if not isinstance(threat, ThreatModel | str):
        raise UserError("The threat model must be a ThreatModel or text such as 'Linf 8/255'.")
    if not isinstance(suite, str | Suite):
        raise UserError("The suite must be a Suite or text such as 'full' or 'fgsm,pgd-20'.")


def _classes(model: nn.Module, x_1CHW: Tensor) -> int:
    """The number of logits; the model may fail in any way, or return anything."""
    shape = tuple(x_1CHW.shape)
    try:
        with torch.no_grad():
            logits = model(x_1CHW)
    except Exception as error:
        what = str(error).splitlines()[0] if str(error) else "no message"
        raise UserError(
            f"The model fails on a batch of shape {shape}: {type(error).__name__}: {what}. "
            "Images go in as (N, C, H, W)."
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"The model must return logits of shape (N, classes), not {found}. Wrap it if need be."
        )
    return logits.shape[1]


def _threat_from_text(text: str) -> ThreatModel:
    norm, _, eps = text.strip().partition(" ")
    if not eps:
        raise UserError(f"Threat model '{text}' needs a norm and an epsilon, for example 'Linf 8/255'.")
    return parse_threat(norm, eps)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() != 4 or not x.is_floating_point():
        raise UserError(
            f"Images must be float (N, C, H, W) in [0, 1], got {x.dtype} of shape {tuple(x.shape)}."
        )
    if y.shape != (len(x),) or y.is_floating_point():
        raise UserError(
            f"Labels must be integers of shape ({len(x)},), got {y.dtype} of shape {tuple(y.shape)}."
        )
    if len(x) == 0:
        raise UserError("There are no images to evaluate.")
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError(f"Images must lie in [0, 1], got {float(x.min()):.3g} to {float(x.max()):.3g}.")
    if int(y.min()) < 0:
        raise UserError(f"Labels must be 0 or more, got {int(y.min())}.")
    return x.float(), y.long()


def _reference(model: nn.Module, name: str, classes: int) -> CheckpointRef:
    """A model without a file is known by its modules, and by the hash of them, its parameters and buffers.

    A forward pass that was edited is not seen in either: with ``out`` :mod:`robust_eval.evaluation.checks.same_model` tells.
    """
    # Without the addresses of what is no module.
    content = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(model)).encode())
    # Buffers that are not persistent, such as an input normalisation, are in no state_dict.
    for key, value in sorted([*model.named_parameters(), *model.named_buffers()]):
        content.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    architecture = Architecture(f"python:{type(model).__name__}")
    normalisation = Normalisation("inside the model")
    return CheckpointRef(name, content.hexdigest(), architecture, classes, normalisation, "python")


def _slice(x: Tensor, y: Tensor, classes: int) -> Slice:
    content = hashlib.sha256(str(tuple(x.shape)).encode())
    content.update(x.cpu().contiguous().numpy().tobytes())
    content.update(y.cpu().numpy().astype(np.int64).tobytes())
    names = tuple(str(k) for k in range(classes))
    return Slice("arrays", "given", len(x), content.hexdigest(), names, "stored")
