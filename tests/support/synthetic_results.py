"""Results made from verdict bits without a model; everything derived from them is as in a real run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robust_eval import attacks
from robust_eval.core.statistics import wilson
from robust_eval.core.threat import parse_threat
from robust_eval.core.verdict_bits import bits_text, parse_bits
from robust_eval.evaluation.planning import suites
from robust_eval.results import AttackRecord, ColumnRecord, Environment, EvalResult, flags, summary


def bits(n: int, robust: int, start: int = 0) -> str:
    """Verdict bits of ``n`` examples, of which ``robust`` from position ``start`` on are ones."""
    found = np.zeros(n, dtype=np.bool_)
    found[start : start + robust] = True
    return bits_text(found)


def _count(text: str) -> dict[str, Any]:
    robust = text.count("1")
    low, high = wilson(robust, len(text))
    return {
        "accuracy": robust / len(text),
        "n": len(text),
        "n_robust": robust,
        "ci95": (low, high),
        "robust_bits": text,
    }


# More than eight parameters: tests set single fields of a result and keep the defaults of the others.
def result(
    columns: Mapping[str, str],
    *,
    suite: str | None = None,
    name: str = "net.pt",
    sha256: str | None = None,
    data: str = "digits",
    fingerprint: str = "ab" * 32,
    norm: str = "Linf",
    eps: str = "0.1",
    status: str = "complete",
    trained_with: dict[str, Any] | None = None,
    extra_flags: Sequence[str] = (),
    own_flags: bool = True,
) -> EvalResult:
    """``columns``: id to verdict bits, clean first. The flags are those that the numbers raise."""
    threat = parse_threat(norm, eps)
    wanted = suites.load(suite or ",".join(columns))
    clean = columns["clean"].count("1")
    records: dict[str, ColumnRecord] = {}
    for column in wanted.columns:
        if column.id not in columns:
            continue
        text = columns[column.id]
        broken, left, recorded = max(0, clean - text.count("1")), clean, []
        for attack in column.attacks:
            # The first attack of a cascade breaks all broken examples.
            recorded.append(
                AttackRecord(
                    id=attack.id,
                    family=attack.family,
                    version=attack.version,
                    library=attacks.library(attack.family),
                    citation="somebody",
                    params=dict(attack.params),
                    n_attacked=left,
                    n_broken=broken,
                    n_invalid=0,
                    forwards=left,
                    backwards=left,
                    seconds=1.0,
                )
            )
            left, broken = left - broken, 0
        passes = sum(attack.forwards for attack in recorded)
        records[column.id] = ColumnRecord(
            **_count(text),
            forwards=passes if recorded else len(text),
            backwards=passes,
            seconds=float(len(recorded)),
            title=column.title,
            n_invalid=0,
            n_nonfinite=0,
            attacks=tuple(recorded),
        )
    value = {
        "status": status,
        "checkpoint": {
            "name": name,
            "sha256": sha256 or hashlib.sha256(name.encode()).hexdigest(),
            "architecture": {"id": "digits-cnn"},
            "classes": 10,
            "normalisation": {"name": "none", "mean": (0.0,), "std": (1.0,)},
            "format": "robust-eval",
            "dataset": data,
            "trained_with": trained_with,
            "notes": (),
        },
        "data": {
            "name": data,
            "split": "test",
            "n": len(columns["clean"]),
            "fingerprint": fingerprint,
            "class_names": tuple(str(k) for k in range(10)),
            "order": "stored",
        },
        "threat": {"norm": threat.norm, "eps": threat.eps_text, "eps_value": threat.radius},
        "suite": {
            "name": wanted.name,
            "version": wanted.version,
            "columns": tuple(column.id for column in wanted.columns),
            "batch_size": 100,
            "seed": 0,
            "precision": "float32",
        },
        "columns": {key: column.model_dump() for key, column in records.items()},
        "missing": tuple(column.id for column in wanted.columns if column.id not in columns),
        "worst_case": summary.worst_case(records).model_dump(),
        "flags": (),
        "environment": Environment(
            robust_eval="0.1.0",
            python="3.11",
            platform="Linux",
            libraries={},
            device="cpu",
            threads=1,
            tf32=False,
        ).model_dump(),
        "labels_sha256": "cd" * 32,
        "request": "ef" * 32,
        "created": "2026-01-01T00:00:00+00:00",
    }
    found = EvalResult.model_validate(value)
    raised = flags.from_result(found) if own_flags else ()
    raised += flags.records([(flag, "as planted") for flag in extra_flags])
    return found.model_copy(update={"flags": raised})


def full(robust: int, *, n: int = 400, clean: int = 360, start: int = 0, **changes: Any) -> EvalResult:
    """A plausible result of the full suite: FGSM above PGD above AutoAttack, which leaves ``robust``."""
    above = {"fgsm": 8, "pgd-20": 4, "pgd-100": 4, "cw-inf": 2, "spsa": 8, "aa": 0}
    columns = {"clean": bits(n, clean)}
    columns |= {name: bits(n, min(clean - 1, robust + extra), start) for name, extra in above.items()}
    return result(columns, suite="full", **changes)


__all__ = ["bits", "full", "parse_bits", "result"]
