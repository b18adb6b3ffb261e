"""Check that checkpoint, data and evidence are those of a result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from robust_eval.core.float_images import Images
from robust_eval.core.types import CheckpointRef, Slice
from robust_eval.evaluation.planning.recorded_suite import RecordedSuite, identify
from robust_eval.results import CheckpointRecord, EvalResult, FlagRecord, consistency, summary
from robust_eval.results.evidence import Evidence
from robust_eval.results.request_records import request_of
from robust_eval.results.verification_record import CheckRecord


@dataclass(frozen=True)
class LoadedInputs:
    """The checkpoint and the images that a result is verified with."""

    ref: CheckpointRef
    images: Slice
    model: nn.Module
    """[0, 1] pixels to logits, in eval mode."""
    x_NCHW: Images
    y_N: Tensor
    flags: tuple[FlagRecord, ...] = ()
    """Raised by loading the checkpoint again."""
    contradiction: str = ""
    """An option of verification that hides such flags."""


def check_record(name: str, problem: str, passed: str) -> CheckRecord:
    """A failed check with ``problem`` as its detail, or a passed one if ``problem`` is empty."""
    return CheckRecord(name=name, passed=not problem, detail=problem or passed)


def check_inputs(result: EvalResult, evidence: Evidence, inputs: LoadedInputs) -> Iterator[CheckRecord]:
    """Checks of the record, the checkpoint, the data, the settings and the evidence file."""
    found = consistency.contradictions(result)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    yield check_record("record", found[0] + more if found else "", "its numbers agree with each other")
    suite = identify(result)
    yield check_record("suite", suite.problem, _suite_detail(suite))
    yield check_record(
        "checkpoint",
        _checkpoint_problem(result, inputs.ref),
        f"sha256 {inputs.ref.sha256[:12]}, same architecture and normalisation",
    )
    yield check_record(
        "data",
        _data_problem(result, inputs),
        f"{inputs.images.n} images, {inputs.images.fingerprint[:12]}",
    )
    if not found:
        key = request_of(result).key
        problem = "its settings (suite, attacks, eps, seed, ...) are not those of the recorded request"
        yield check_record("settings", "" if key == result.request else problem, f"request {key[:12]}")
    yield check_record(
        "evidence", _evidence_problem(result, evidence), f"sha256 {evidence.sha256[:12]}, of this run"
    )


def _suite_detail(suite: RecordedSuite) -> str:
    if not suite.claim:
        return f"{suite.label}: it names no suite of this release"
    if suite.unknown:
        return f"{suite.label}: not compared"
    return f"{suite.label}: columns, attacks and parameters are those of this release"


def _checkpoint_problem(result: EvalResult, ref: CheckpointRef) -> str:
    recorded = result.checkpoint
    if recorded.sha256 != ref.sha256:
        return f"the file has sha256 {ref.sha256[:12]}, the record {recorded.sha256[:12]}: another checkpoint"
    ours: Mapping[str, Any] = json.loads(CheckpointRecord.model_validate(asdict(ref)).model_dump_json())
    theirs: Mapping[str, Any] = json.loads(recorded.model_dump_json())
    # The format decides which options of a verification hide flags of loading.
    fields = ("architecture", "normalisation", "classes", "dataset", "trained_with", "format")
    differing = [field for field in fields if ours[field] != theirs[field]]
    if not differing:
        return ""
    if differing == ["architecture"] and ours["architecture"]["id"] == theirs["architecture"]["id"]:
        code, recorded_code = (
            str(value["architecture"]["arguments"].get("code_sha256", "")) for value in (ours, theirs)
        )
        if code != recorded_code:
            return (
                f"the network's code has sha256 {code[:12]}, the record {recorded_code[:12] or 'none'}: "
                "other code"
            )
    hint = ""
    if set(differing) <= {"architecture", "normalisation"}:
        hint = "; if the run was given --arch or --normalisation, give the same options to verify"
    return f"the file's {' and '.join(differing)} differs from the record{hint}"


def _data_problem(result: EvalResult, inputs: LoadedInputs) -> str:
    if inputs.images.fingerprint != result.data.fingerprint:
        return (
            f"these are other images: {inputs.images.n} with fingerprint {inputs.images.fingerprint[:12]}, "
            f"the record has {result.data.n} with {result.data.fingerprint[:12]}"
        )
    labels = inputs.y_N.cpu().numpy()
    return "" if summary.labels_digest(labels) == result.labels_sha256 else "the labels differ"


def _evidence_problem(result: EvalResult, evidence: Evidence) -> str:
    if result.evidence is None:
        return "the record names no evidence"
    threat = f"{result.threat.norm} {result.threat.eps}"
    expected = {
        "request": result.request,
        "checkpoint": result.checkpoint.sha256,
        "data": result.data.fingerprint,
        "threat": threat,
    }
    for field, value in expected.items():
        if evidence.metadata.get(field) != value:
            other = str(evidence.metadata.get(field))
            return f"it belongs to another run: its {field} is {other[:12]}, the result's {value[:12]}"
    if summary.labels_digest(evidence.labels) != result.labels_sha256:
        return "its labels differ"
    if evidence.sha256 != result.evidence.sha256:
        return f"the file has sha256 {evidence.sha256[:12]}, the record {result.evidence.sha256[:12]}"
    return ""
