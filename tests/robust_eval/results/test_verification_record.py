"""The record of a verification: versions, what covers what, standing on a board, what is taken on trust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.synthetic_results import bits, full, result

from robust_eval.leaderboard.row import Row
from robust_eval.results import verification_record
from robust_eval.results.trust import taken_on_trust
from robust_eval.results.verification_record import AuditRecord, CheckRecord, Verification

ATTACKS = ("fgsm", "pgd-20", "pgd-100", "cw-inf", "spsa", "aa")


def audit_record(**changes: Any) -> AuditRecord:
    values: dict[str, Any] = {
        "columns": ATTACKS,
        "seed": 1,
        "n": 200,
        "of": 200,
        "broken_own": (),
        "broken_fresh": (),
        "contradicted": (),
        "images": 30,
        "images_equal": 30,
        "robust_alone": (0, 0, 0),
        "p": 1.0,
        "passed": True,
        "forwards": 1,
        "backwards": 1,
        "seconds": 1.0,
    }
    return AuditRecord(**(values | changes))


def verification(audit: AuditRecord | None = None, *, passed: bool = True) -> Verification:
    return Verification(
        result="00" * 32,
        checks=(CheckRecord(name="record", passed=passed, detail=""),),
        trusted=(),
        audit=audit,
        forwards=1,
        seconds=1,
        share=None,
        robust_eval="0.1.0",
        device="cpu",
        created="2026-01-01",
    )


@pytest.mark.parametrize(
    ("record", "standing"),
    [
        (None, "self-reported"),
        (verification(), "verified"),
        (verification(passed=False), "failed verification"),
        (verification(audit_record(passed=False)), "failed verification"),
        (verification(audit_record()), "verified, audited 200 of 200"),
        (verification(audit_record(n=50)), "verified, audited 50 of 200"),
        (verification(audit_record(columns=("fgsm",))), "verified, audited in 1 of 6 columns"),
    ],
)
def test_standing(record: Verification | None, standing: str) -> None:
    assert Row("a.json", full(200), record).standing == standing


def test_records_of_version_1_are_read_without_their_audit(tmp_path: Path) -> None:
    """Such an audit passed if 8 of 303 robust examples were broken. Its record does not cover a new one."""
    path = tmp_path / "a.verification.json"
    verification_record.write(path, verification())
    assert verification_record.is_covered(path, verification())
    value = json.loads(path.read_text()) | {"verification_version": 1}
    value["audit"] = {"suite": "full", "seed": 7, "n": 303, "fell": [1], "limit": 0.02, "passed": True}
    path.write_text(json.dumps(value))
    found = verification_record.read(path)
    assert (found.passed, found.audit) == (True, None)
    assert not verification_record.is_covered(path, verification())


@pytest.mark.parametrize(
    ("audit", "expected", "unexpected"),
    [
        (
            None,
            ["200 images are recorded as robust and were not", "with the recorded settings"],
            ["audit did"],
        ),
        (audit_record(), [], ["recorded as robust", "recorded settings", "the audit did not"]),
        (audit_record(images_equal=29), ["with the recorded settings"], ["recorded as robust"]),
        (audit_record(n=150), ["50 images are recorded as robust and", "recorded settings"], []),
        (audit_record(columns=("fgsm", "aa")), ["did not repeat pgd-20, pgd-100, cw-inf, spsa"], []),
    ],
)
def test_what_is_taken_on_trust(
    audit: AuditRecord | None, expected: list[str], unexpected: list[str]
) -> None:
    text = "\n".join(taken_on_trust(full(200), audit, ""))
    assert all(phrase in text for phrase in (*expected, "library versions", "environment, command and date"))
    assert not any(phrase in text for phrase in (*unexpected, "suite"))


def test_a_custom_suite_is_taken_on_trust() -> None:
    custom = result({"clean": bits(100, 90), "fgsm": bits(100, 60)})
    assert "whether the attacks of suite custom are strong" in list(taken_on_trust(custom, None, "custom"))
