"""Is this the checkpoint, are these the images, does the evidence belong to this row?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from robust_eval.core.types import CheckpointRef, Slice
from robust_eval.results import CheckpointRecord, EvalResult, consistency, summary
from robust_eval.results.evidence import Evidence
from robust_eval.results.request_records import request_of
from robust_eval.results.verification_record import CheckRecord


@dataclass(frozen=True)
class Claimed:
    """What a verifier has in hand: the files as they are here."""

    ref: CheckpointRef
    images: Slice
    model: nn.Module
    """[0, 1] pixels to logits, in eval mode."""
    x_NCHW: Tensor
    y_N: Tensor


def verdict(name: str, failed: str, passed: str) -> CheckRecord:
    return CheckRecord(name=name, passed=not failed, detail=failed or passed)


def checks(result: EvalResult, proof: Evidence, claimed: Claimed) -> Iterator[CheckRecord]:
    """Is this the checkpoint, are these the images, does the evidence belong to this row?"""
    found = consistency.contradictions(result)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    yield verdict("record", found[0] + more if found else "", "its numbers agree with each other")
    yield verdict(
        "checkpoint", _checkpoint(result, claimed.ref), f"sha256 {claimed.ref.sha256[:12]}, built alike"
    )
    yield verdict(
        "data", _data(result, claimed), f"{claimed.images.n} images, {claimed.images.fingerprint[:12]}"
    )
    if not found:
        asked = request_of(result).key
        what = "its settings (suite, attacks, eps, seed, ...) are not those that were asked for"
        yield verdict("settings", "" if asked == result.request else what, f"request {asked[:12]}")
    yield verdict("evidence", _evidence(result, proof), f"sha256 {proof.sha256[:12]}, of this run")


def _checkpoint(result: EvalResult, ref: CheckpointRef) -> str:
    recorded = result.checkpoint
    if recorded.sha256 != ref.sha256:
        return f"the file has sha256 {ref.sha256[:12]}, the record {recorded.sha256[:12]}: another checkpoint"
    here: Mapping[str, Any] = json.loads(CheckpointRecord.model_validate(asdict(ref)).model_dump_json())
    there: Mapping[str, Any] = json.loads(recorded.model_dump_json())
    parts = ("architecture", "normalisation", "classes", "dataset", "trained_with")
    differing = [part for part in parts if here[part] != there[part]]
    if not differing:
        return ""
    if differing == ["architecture"] and here["architecture"]["id"] == there["architecture"]["id"]:
        ours, its = (str(one["architecture"]["arguments"].get("code_sha256", "")) for one in (here, there))
        if ours != its:
            return f"the network's code has sha256 {ours[:12]}, the record {its[:12] or 'none'}: other code"
    hint = ""
    if set(differing) <= {"architecture", "normalisation"}:
        hint = "; if the run was given --arch or --normalisation, give them here too"
    return f"the file gives another {' and '.join(differing)} than the record{hint}"


def _data(result: EvalResult, claimed: Claimed) -> str:
    if claimed.images.fingerprint != result.data.fingerprint:
        return (
            f"these are other images: {claimed.images.n} with fingerprint {claimed.images.fingerprint[:12]}, "
            f"the record has {result.data.n} with {result.data.fingerprint[:12]}"
        )
    labels = claimed.y_N.cpu().numpy()
    return "" if summary.labels_digest(labels) == result.labels_sha256 else "the labels are others"


def _evidence(result: EvalResult, proof: Evidence) -> str:
    if result.evidence is None:
        return "the record names no evidence"
    threat = f"{result.threat.norm} {result.threat.eps}"
    wanted = {
        "request": result.request,
        "checkpoint": result.checkpoint.sha256,
        "data": result.data.fingerprint,
        "threat": threat,
    }
    for what, value in wanted.items():
        if proof.about.get(what) != value:
            said = str(proof.about.get(what))
            return f"it belongs to another run: its {what} is {said[:12]}, the result's {value[:12]}"
    if summary.labels_digest(proof.labels) != result.labels_sha256:
        return "its labels are others"
    if proof.sha256 != result.evidence.sha256:
        return f"the file has sha256 {proof.sha256[:12]}, the record {result.evidence.sha256[:12]}"
    return ""
