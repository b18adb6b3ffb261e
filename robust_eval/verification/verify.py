"""Verify a published result with forward passes only; record what was checked and what was not."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor, nn

from robust_eval import data
from robust_eval.core import strict_json
from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError
from robust_eval.core.text import count_of, duration
from robust_eval.core.versions import library_version
from robust_eval.data import ImageSet, Split
from robust_eval.evaluation.attack_copy import Log, no_log
from robust_eval.evaluation.checks.probes import probe_job
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.cost import measure_speed
from robust_eval.evaluation.planning.recorded_suite import identify
from robust_eval.results import EvalResult, content_digest, evidence, flags, parse_result
from robust_eval.results.consistency import contradictions
from robust_eval.results.evidence import Evidence
from robust_eval.results.request_records import request_of
from robust_eval.results.trust import taken_on_trust
from robust_eval.results.verification_record import CheckRecord, Verification
from robust_eval.verification.audit import audit
from robust_eval.verification.audit_plan import AuditPlan, plan_audit
from robust_eval.verification.inputs import LoadedInputs, check_inputs, check_record
from robust_eval.verification.options import VerifyOptions
from robust_eval.verification.rejudge import rejudge
from robust_eval.verification.reload import contradiction, flags_of, reload

PREDICTION_CHECKS = (
    "clean predictions",
    "stable predictions",
    "evidence complete",
    "ball and box",
    "still wrong",
    "worst case",
    "flags",
)
"""Checks that need the right checkpoint, data and evidence; not reached if one of these is wrong."""
_PREREQUISITES = ("record", "checkpoint", "data", "evidence")


def verify_result(path: Path, options: VerifyOptions, log: Log = no_log) -> Verification:
    """Load everything that the result at ``path`` refers to, and run all checks.

    ``log`` receives the cost of an audit, in one line, before it starts. Raises :class:`UserError` if the
    result is partial or has no evidence, if a file cannot be read, or if the audit is impossible.
    """
    if not options.audit and options.audit_suite is not None:
        raise UserError("--audit-suite chooses the columns of an audit: add --audit N.")
    value = strict_json.read(path)
    result = parse_result(value, path)
    if result.status == "partial":
        raise UserError(f"{path} is partial. Finish the run, then verify it.")
    file = options.evidence or (path.parent / result.evidence.file if result.evidence else None)
    if file is None:
        raise UserError(f"{path} has no evidence: it was made without a run folder (out=...).")
    if options.evidence is None and not file.is_file():
        raise UserError(
            f"There is no evidence beside {path}: give it with --evidence FILE. If the board does not store "
            "the evidence, the command of the row creates it again."
        )
    stored = evidence.read_evidence(file)
    return run_checks(result, content_digest(value), stored, load_inputs(result, options), options, log)


def load_inputs(result: EvalResult, options: VerifyOptions) -> LoadedInputs:
    """The checkpoint and the images, loaded by the same code as in a run."""
    if options.checkpoint is None:
        raise UserError("No checkpoint to verify with: give it with --checkpoint FILE.")
    all_images = _images(result, options)
    images = all_images.take(min(all_images.n, result.data.n))
    device = pick_device(options.device)
    loaded = reload(options.checkpoint, result.checkpoint, options, all_images, device)
    x, y = images.held().images()
    return LoadedInputs(
        loaded.ref,
        images.slice(),
        loaded.model,
        x.to(device),
        y.to(device),
        flags=flags_of(loaded),
        contradiction=contradiction(result.checkpoint, options),
    )


def _images(result: EvalResult, options: VerifyOptions) -> ImageSet:
    spec = options.data or result.data.name
    if options.data is None and (":" in spec or spec == "arrays"):
        raise UserError(
            f"Which images? The result was evaluated on {result.data.n} images of {spec}: give them with "
            "--data, for example --data npz:PATH."
        )
    return data.load(spec, root=options.data_root, split=_split(result.data.split))


def _split(recorded: str) -> Split:
    return "train" if recorded == "train" else "val" if recorded == "val" else "test"


def run_checks(
    result: EvalResult,
    digest: str,
    stored: Evidence,
    inputs: LoadedInputs,
    options: VerifyOptions,
    log: Log = no_log,
) -> Verification:
    """Run all checks in order, then the audit. ``digest``: of the result file's content."""
    plan = None
    if options.audit and not contradictions(result):
        plan = plan_audit(result, options.audit, options.audit_seed or 0, options.audit_suite)
    start, passes = time.perf_counter(), _ForwardCounter(inputs.model)
    with passes:
        checks = [*check_inputs(result, stored, inputs)]
        not_reached: tuple[str, ...] = PREDICTION_CHECKS
        if all(check.passed for check in checks if check.name in _PREREQUISITES):
            not_reached = ()
            checks += rejudge(result, stored, inputs.model, inputs.x_NCHW, inputs.y_N)
            checks.append(_check_flags(result, inputs))
    seconds, audited = time.perf_counter() - start, None
    if plan is not None and all(check.passed for check in checks):
        job = Job(plan.request, inputs.model, inputs.x_NCHW, inputs.y_N)
        log(_announcement(plan, job))
        audited = audit(plan, job, result, stored)
    elif options.audit:
        not_reached += ("audit",)
    evaluation_seconds, suite = result.worst_case.seconds, identify(result)
    return Verification(
        result=digest,
        checks=tuple(checks),
        not_reached=not_reached,
        trusted=tuple(taken_on_trust(result, audited, "" if suite.label == suite.claim else suite.label)),
        audit=audited,
        forwards=passes.forwards,
        seconds=round(seconds, 3),
        share=seconds / evaluation_seconds if evaluation_seconds > 0 else None,
        robust_eval=library_version("robust-eval"),
        device=inputs.x_NCHW.device.type,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _announcement(plan: AuditPlan, job: Job) -> str:
    """The cost of an audit, from a few timed batches."""
    cost, batch = plan.cost, job.x_NCHW[:64]
    seconds = measure_speed(job.model, batch, precision=plan.request.precision).seconds(cost, 1)
    return (
        f"Audit: {count_of(plan.robust, 'robust example')}, in whole units, with the row's own seed and one "
        f"or two fresh ones. At most {cost.forwards:,} forward and {cost.backwards:,} backward passes, about "
        f"{duration(seconds)}."
    )


def _job(result: EvalResult, inputs: LoadedInputs) -> Job:
    return Job(request_of(result), inputs.model, inputs.x_NCHW, inputs.y_N)


def _check_flags(result: EvalResult, inputs: LoadedInputs) -> CheckRecord:
    """Every flag raised by this verification must be in the record, with the same severity."""
    probed = flags.from_probe(probe_job(_job(result, inputs)))
    raised = flags.distinct((*inputs.flags, *probed, *flags.from_result(result)))
    missing = flags.not_recorded(result, raised)
    problem = f"raised now, but not in the record: {', '.join(missing)}" if missing else inputs.contradiction
    ids = {flag.id for flag in raised}
    outdated = flags.outdated(result)
    others = sorted({flag.id for flag in result.flags} - ids - {*outdated})
    note = f"; not checked: {', '.join(others)}" if others else ""
    note += f"; no longer raised: {', '.join(outdated)}" if outdated else ""
    return check_record("flags", problem, f"{len(raised)} raised, all in the record{note}")


class _ForwardCounter:
    """Counts the images that pass through a model while the context is open."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.forwards = model, 0

    def __enter__(self) -> None:
        self._hook = self.model.register_forward_pre_hook(self._count)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _count(self, _module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.forwards += len(arguments[0])
