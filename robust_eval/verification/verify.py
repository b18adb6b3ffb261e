"""``robust-eval verify``: load what a row speaks of, judge it again, say what was checked and what not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor, nn

from robust_eval import data
from robust_eval.core import strict_json
from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError
from robust_eval.core.types import FLOAT32
from robust_eval.data import ImageSet
from robust_eval.evaluation.checks.probes import probe_job
from robust_eval.evaluation.job import Job
from robust_eval.models import normalisation as normalised
from robust_eval.models.loading import checkpoint, python_architecture
from robust_eval.results import EvalResult, content_digest, evidence, flags, parse_result
from robust_eval.results.environment import library_version
from robust_eval.results.evidence import Evidence
from robust_eval.results.request_records import request_of
from robust_eval.results.verification_record import CheckRecord, Verification
from robust_eval.verification import audit, inputs, rejudge
from robust_eval.verification.inputs import Claimed, verdict

# In this order; a failed one makes those after it pointless where they build on it.
JUDGED = ("clean predictions", "evidence complete", "ball and box", "still wrong", "worst case", "flags")


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """``robust-eval verify`` as typed; None where the user left the choice to us."""

    result: Path
    checkpoint: str
    evidence: Path | None = None
    data: str | None = None
    data_root: Path | None = None
    arch: str | None = None
    normalisation: str | None = None
    device: str = "auto"
    audit: int = 0
    audit_suite: str | None = None
    audit_seed: int = 0


def verify(options: VerifyOptions) -> Verification:
    """Everything loaded and checked. A UserError for files that cannot be checked at all."""
    value = strict_json.read(options.result)
    result = parse_result(value, options.result)
    if result.status == "partial":
        raise UserError(f"{options.result} is partial. Finish the run, then verify it.")
    beside = options.result.parent
    path = options.evidence or (beside / result.evidence.file if result.evidence else None)
    if path is None:
        raise UserError(f"{options.result} has no evidence: it was made without a run folder (out=...).")
    if options.evidence is None and not path.is_file():
        raise UserError(
            f"No evidence lies beside {options.result}: name it with --evidence FILE. Where a board leaves "
            "it out, the row's command makes it again."
        )
    proof = evidence.read(path)
    claimed = load(options, result)
    return check(result, content_digest(value), proof, claimed, options)


def load(options: VerifyOptions, result: EvalResult) -> Claimed:
    """The checkpoint and the images, built by the same code as in a run."""
    whole = _images(options, result)
    images = whole.take(min(whole.n, result.data.n))
    recorded = result.checkpoint
    if python_architecture.is_python_file(recorded.architecture.id) and options.arch is None:
        raise UserError(
            f"{recorded.name} was built by {recorded.architecture.id}: name that file with "
            f"--arch PATH/{recorded.architecture.id}."
        )
    # Taking the recorded normalisation spares a foreign file's detection; if it is a lie, the clean
    # predictions differ.
    known = recorded.normalisation.name in normalised.NORMALISATIONS and recorded.format in (
        "foreign",
        "python",
    )
    loaded = checkpoint.load(
        options.checkpoint,
        images=whole,
        arch=options.arch,
        normalisation=options.normalisation or (recorded.normalisation.name if known else None),
        device=pick_device(options.device),
    )
    x, y = images.tensors()
    device = pick_device(options.device)
    return Claimed(loaded.ref, images.slice(), loaded.model, x.to(device), y.to(device))


def _images(options: VerifyOptions, result: EvalResult) -> ImageSet:
    spec = options.data or result.data.name
    if options.data is None and (":" in spec or spec == "arrays"):
        raise UserError(
            f"Which images? The result's are {spec}, {result.data.n} of them: name them with --data, for "
            "example --data npz:PATH."
        )
    return data.load(spec, root=options.data_root, split="train" if result.data.split == "train" else "test")


def check(
    result: EvalResult, digest: str, proof: Evidence, claimed: Claimed, options: VerifyOptions
) -> Verification:
    """All checks in order. ``digest``: of the result file's content."""
    start, passes = time.perf_counter(), _Passes(claimed.model)
    with passes:
        checks = [*inputs.checks(result, proof, claimed)]
        not_reached: tuple[str, ...] = JUDGED
        if all(
            found.passed for found in checks if found.name in ("record", "checkpoint", "data", "evidence")
        ):
            not_reached = ()
            checks += rejudge.rejudge(result, proof, claimed.model, claimed.x_NCHW, claimed.y_N)
            checks.append(_flags(result, claimed))
    seconds = time.perf_counter() - start
    audited = None
    if options.audit and all(found.passed for found in checks):
        job = Job(request_of(result), claimed.model, claimed.x_NCHW, claimed.y_N)
        audited = audit.audit(job, result, options.audit, options.audit_seed, options.audit_suite)
    spent = result.worst_case.seconds
    return Verification(
        result=digest,
        checks=tuple(checks),
        not_reached=not_reached,
        trusted=tuple(trusted(result, 0 if audited is None else audited.n)),
        audit=audited,
        forwards=passes.forwards,
        seconds=round(seconds, 3),
        share=seconds / spent if spent > 0 else None,
        robust_eval=library_version("robust-eval"),
        device=claimed.x_NCHW.device.type,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _flags(result: EvalResult, claimed: Claimed) -> CheckRecord:
    """Flags found here must be in the record, with their severity."""
    job = Job(request_of(result), claimed.model, claimed.x_NCHW, claimed.y_N)
    here = flags.distinct((*flags.from_probe(probe_job(job)), *flags.from_result(result)))
    missing = flags.not_recorded(result, here)
    failed = f"raised here, but not in the record: {', '.join(missing)}" if missing else ""
    raised = {flag.id for flag in here}
    others = sorted({flag.id for flag in result.flags if flag.id not in raised})
    trust = f"; on trust: {', '.join(others)}" if others else ""
    return verdict("flags", failed, f"{len(here)} raised here, all in the record{trust}")


def trusted(result: EvalResult, audited: int) -> Iterator[str]:
    """What no check above speaks of."""
    survivors = result.worst_case.n_robust - audited
    if survivors:
        yield f"{survivors:,} images are said to have survived: nobody attacked them again (--audit N does)"
    if invalid := sum(column.n_invalid for column in result.columns.values()):
        yield f"{invalid} images outside ball or box are not in the evidence"
    searched = "" if result.suite.precision == FLOAT32 else f", searching in {result.suite.precision}"
    yield f"that the attacks ran with the recorded settings{searched}, library versions, seconds and passes"
    yield "the checkpoint's name, environment, command and date"
    if result.checkpoint.trained_with:
        yield "what the checkpoint says of its own training"


class _Passes:
    """Counts the images that go through a model."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.forwards = model, 0

    def __enter__(self) -> None:
        self._hook = self.model.register_forward_pre_hook(self._count)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _count(self, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.forwards += len(arguments[0])
