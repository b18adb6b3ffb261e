"""Put the pieces together: a loaded model and a slice go in, an :class:`EvalResult` comes out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval import attacks, evidence, flags, runner, suites, summary
from robust_eval.core.files import write_text
from robust_eval.core.records import Architecture, CheckpointRef, Normalisation, Slice, Suite
from robust_eval.core.threat import ThreatModel, parse_threat
from robust_eval.environment import environment
from robust_eval.errors import UserError
from robust_eval.estimate import Estimate, estimates, measure
from robust_eval.plan import Request, auto_batch_size
from robust_eval.probes import Probe, probe
from robust_eval.progress import Silent
from robust_eval.schema import RESULT_FILE, EvalResult, FlagRecord
from robust_eval.store import MemoryStore, Store, exclusive, open_run
from robust_eval.worker import Worker

PROBED = 32


@dataclass(frozen=True)
class Job:
    """A request with the model and data it speaks of, on one device."""

    request: Request
    model: nn.Module
    """[0, 1] pixels to logits."""
    x_NCHW: Tensor
    y_N: Tensor

    def worker(self) -> Worker:
        return Worker(self.model, self.x_NCHW, self.y_N, self.request.threat, self.request.checkpoint.classes)

    def probe(self) -> Probe:
        """Look at the first images; a model that cannot even answer these is refused."""
        try:
            return probe(self.model.eval(), self.x_NCHW[:PROBED], self.y_N[:PROBED])
        except Exception as error:
            shape = tuple(self.x_NCHW[:PROBED].shape)
            raise UserError(
                f"The model fails on a batch of shape {shape}: {type(error).__name__}: {error}."
            ) from error


def estimate(job: Job) -> list[Estimate]:
    """What the job will cost at most, from a few timed batches."""
    request = job.request
    batch = job.x_NCHW[: min(request.batch_size, 64)]
    speed = measure(job.model, batch)
    return estimates(request.suite, request.data.n, request.batch_size, request.checkpoint.classes, speed)


def make_request(
    checkpoint: CheckpointRef,
    data: Slice,
    threat: ThreatModel,
    suite: Suite,
    *,
    shape_CHW: tuple[int, ...],
    device: torch.device,
    batch_size: int | None,
    seed: int,
) -> Request:
    families = sorted({attack.family for column in suite.columns for attack in column.attacks})
    return Request(
        checkpoint=checkpoint,
        data=data,
        threat=threat,
        suite=suite,
        batch_size=batch_size or auto_batch_size(shape_CHW, device.type),
        seed=seed,
        libraries=tuple((name, attacks.library(name)) for name in families),
    )


def execute(
    job: Job,
    folder: Path | None = None,
    display: runner.Display | None = None,
    command: str | None = None,
) -> EvalResult:
    """Run, or continue, a job. With a folder every finished unit is on disk at once.

    Interrupted (Ctrl-C), it writes what is there as a partial result and raises KeyboardInterrupt.
    """
    if folder is None:
        return _execute(job, MemoryStore(), None, display or Silent(), command)
    with exclusive(folder):
        store = open_run(folder, job.request.identity())
        return _execute(job, store, folder, display or Silent(), command)


def _execute(
    job: Job, store: Store, folder: Path | None, display: runner.Display, command: str | None
) -> EvalResult:
    finished: dict[str, runner.Finished] = {}
    model_flags = flags.from_probe(job.probe())
    try:
        for name, column in runner.run(job.request, job.worker(), store, display):
            finished[name] = column
    except (KeyboardInterrupt, UserError):
        if finished and folder is not None:
            _write(job, finished, model_flags, None, command, folder)
        raise
    return _write(job, finished, model_flags, folder, command, folder)


def _write(
    job: Job,
    finished: Mapping[str, runner.Finished],
    model_flags: tuple[FlagRecord, ...],
    evidence_folder: Path | None,
    command: str | None,
    folder: Path | None,
) -> EvalResult:
    request = job.request
    checkpoint, data, threat, suite = summary.request_records(request)
    columns = {name: column.record for name, column in finished.items()}
    missing = tuple(column.id for column in request.suite.columns if column.id not in columns)
    labels = runner.labels(finished["clean"], request.data.n)
    record = None
    if evidence_folder is not None:
        record = evidence.write(
            evidence_folder,
            {name: column.stages for name, column in finished.items() if column.stages},
            labels,
            {
                "checkpoint": checkpoint.sha256,
                "data": data.fingerprint,
                "threat": str(request.threat),
                "request": request.key,
            },
        )
    result = EvalResult(
        status="partial" if missing else "complete",
        checkpoint=checkpoint,
        data=data,
        threat=threat,
        suite=suite,
        columns=columns,
        missing=missing,
        worst_case=summary.worst_case(columns),
        flags=(*model_flags, *flags.from_columns(columns, checkpoint.classes)),
        environment=environment(job.x_NCHW.device),
        labels_sha256=summary.labels_digest(labels),
        request=request.key,
        evidence=record,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if folder is not None:
        write_text(folder / RESULT_FILE, result.to_json())
    return result


def evaluate(
    model: nn.Module,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel | str,
    suite: str = "full",
    *,
    name: str = "model",
    batch_size: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    display: runner.Display | None = None,
) -> EvalResult:
    """Attack and judge a model that is already in memory.

    ``model`` maps float32 pixels in [0, 1], shape (N, C, H, W), to logits (N, K), with any
    normalisation inside; it is put into eval mode for the run and given back as it was. ``y_N``
    holds int64 labels in 0..K-1. ``threat`` is a :class:`ThreatModel` or text such as
    ``"Linf 8/255"``. ``suite`` is anything that ``robust-eval run --suite`` takes. With ``out`` the
    run is kept in that folder and can be continued; without, it lives in memory.

    Runs on the device of the model's parameters. Raises :class:`UserError` for inputs outside
    these shapes and ranges.
    """
    threat = threat if isinstance(threat, ThreatModel) else _threat_from_text(threat)
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        x, y = _checked(model, x_NCHW.to(device), y_N.to(device))
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if int(y.max()) >= classes:
            raise UserError(f"Label {int(y.max())} has no logit: the model has {classes} outputs.")
        request = make_request(
            _reference(model, name, classes),
            _slice(x, y, classes),
            threat,
            suites.load(suite),
            shape_CHW=tuple(x.shape[1:]),
            device=device,
            batch_size=batch_size,
            seed=seed,
        )
        return execute(Job(request, model, x, y), Path(out) if out is not None else None, display)
    finally:
        for module, training in modes.items():
            module.training = training


def _threat_from_text(text: str) -> ThreatModel:
    norm, _, eps = text.strip().partition(" ")
    if not eps:
        raise UserError(f"Threat model '{text}' needs a norm and an epsilon, for example 'Linf 8/255'.")
    return parse_threat(norm, eps)


def _checked(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
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
    """A model without a file is known by its class and the hash of its parameters and buffers."""
    content = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        content.update(
            key.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    architecture = Architecture(f"python:{type(model).__name__}")
    normalisation = Normalisation("inside the model")
    return CheckpointRef(name, content.hexdigest(), architecture, classes, normalisation, "python")


def _slice(x: Tensor, y: Tensor, classes: int) -> Slice:
    content = hashlib.sha256(str(tuple(x.shape)).encode())
    content.update(x.cpu().contiguous().numpy().tobytes())
    content.update(y.cpu().numpy().astype(np.int64).tobytes())
    names = tuple(str(k) for k in range(classes))
    return Slice("arrays", "given", len(x), content.hexdigest(), names, "stored")
