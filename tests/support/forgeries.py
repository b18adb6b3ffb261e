"""Forge a stored result consistently: record, evidence and digests agree with each other afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import safe_open

from robust_eval.core.statistics import wilson
from robust_eval.results import read_result
from robust_eval.results.request_records import request_of

Tensors = dict[str, NDArray[Any]]
EVIDENCE = "evidence.safetensors"


def edit(folder: Path, change: Callable[[dict[str, Any]], object], name: str = "result.json") -> None:
    """Edit the JSON value of a result."""
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def recount(count: dict[str, Any], bits: str) -> None:
    """Replace the bits of a column or worst case, with count, accuracy and interval."""
    robust = bits.count("1")
    count |= {"robust_bits": bits, "n_robust": robust, "accuracy": robust / len(bits)}
    count["ci95"] = list(wilson(robust, len(bits)))


def flipped(bits: str, at: int) -> str:
    """Bits with the one at ``at`` changed."""
    return bits[:at] + ("0" if bits[at] == "1" else "1") + bits[at + 1 :]


def reset_column(value: dict[str, Any], name: str, bits: str) -> None:
    """Replace a column's bits and every number that depends on them.

    The attacks break fewer or more examples, the last one first; later attacks run on what is left.
    """
    columns = value["columns"]
    recount(columns[name], bits)
    left, attacks = columns["clean"]["n_robust"], columns[name]["attacks"]
    surplus = sum(attack["n_broken"] for attack in attacks) - (left - bits.count("1"))
    for attack in reversed(attacks):
        change = min(surplus, attack["n_broken"]) if surplus > 0 else surplus
        attack["n_broken"] -= change
        surplus -= change
    for attack in attacks:
        attack["n_attacked"] = left
        left -= attack["n_broken"]
    every = [column["robust_bits"] for column in columns.values()]
    recount(value["worst_case"], "".join("1" if set(at) == {"1"} else "0" for at in zip(*every, strict=True)))


def rewrite_evidence(
    folder: Path,
    change: Callable[[Tensors, dict[str, str]], object],
    name: str = "result.json",
    evidence: str = EVIDENCE,
) -> None:
    """Edit the evidence and put its new digest into the record."""
    path = folder / evidence
    with safe_open(path, "numpy") as file:
        metadata = json.loads(file.metadata()["robust_eval"])
        tensors: Tensors = {key: file.get_tensor(key).copy() for key in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    payload = safetensors.numpy.save(tensors, metadata={"robust_eval": json.dumps(metadata)})
    path.write_bytes(payload)
    images = sum(len(tensor) for key, tensor in tensors.items() if key.endswith(".indices"))
    digest = {"sha256": hashlib.sha256(payload).hexdigest(), "images": images}
    edit(folder, lambda value: value["evidence"].update(digest), name)


def forge_request(folder: Path, name: str = "result.json", evidence: str = EVIDENCE) -> None:
    """Recompute the request digest in the record and in the evidence."""
    key = request_of(read_result(folder / name)).key
    edit(folder, lambda value: value.update(request=key), name)
    rewrite_evidence(folder, lambda _, metadata: metadata.update(request=key), name, evidence)


def remove_column(folder: Path, column: str, name: str = "result.json", evidence: str = EVIDENCE) -> None:
    """Remove a column from record, suite, worst case and evidence, with a new request digest."""

    def change(value: dict[str, Any]) -> None:
        del value["columns"][column]
        kept = value["columns"]
        value["suite"]["columns"] = list(kept)
        worst = value["worst_case"]
        worst["columns"] = list(kept)
        every = [one["robust_bits"] for one in kept.values()]
        recount(worst, "".join("1" if set(at) == {"1"} else "0" for at in zip(*every, strict=True)))
        for what in ("forwards", "backwards", "seconds"):
            worst[what] = sum(one[what] for one in kept.values())

    edit(folder, change, name)
    rewrite_evidence(
        folder,
        lambda tensors, _: [tensors.pop(f"{column}.{kind}") for kind in ("indices", "images")],
        name,
        evidence,
    )
    forge_request(folder, name, evidence)


def broken_everywhere(folder: Path, name: str = "result.json") -> list[int]:
    """Examples that every attack column of a result records as broken, and that are correct without one."""
    result = read_result(folder / name)
    clean = result.columns["clean"].robust_bits
    columns = [column.robust_bits for key, column in result.columns.items() if key != "clean"]
    return [i for i in range(len(clean)) if clean[i] == "1" and all(bits[i] == "0" for bits in columns)]


def relabel(
    folder: Path, examples: Sequence[int], name: str = "result.json", evidence: str = EVIDENCE
) -> None:
    """Record broken examples as robust in every column and in the worst case, and remove their images."""

    def change(value: dict[str, Any]) -> None:
        for column in [key for key in value["columns"] if key != "clean"]:
            bits = value["columns"][column]["robust_bits"]
            reset_column(value, column, "".join("1" if i in examples else bit for i, bit in enumerate(bits)))

    def prune(tensors: Tensors, _: dict[str, str]) -> None:
        for key in [key.removesuffix(".indices") for key in tensors if key.endswith(".indices")]:
            kept = ~np.isin(tensors[f"{key}.indices"], examples)
            for kind in ("indices", "images"):
                tensors[f"{key}.{kind}"] = tensors[f"{key}.{kind}"][kept]

    edit(folder, change, name)
    rewrite_evidence(folder, prune, name, evidence)
