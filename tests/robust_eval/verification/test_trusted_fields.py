"""Every field of a result is checked by ``verify``, or belongs to what is listed as taken on trust."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.published_runs import failed, make_checkpoint, run, verified

from robust_eval.core.errors import UserError
from robust_eval.evaluation.job import Job
from robust_eval.results.trust import GENERAL
from robust_eval.verification import verify

TRUSTED = {
    r"checkpoint\.name|environment\..*|command|created": "checkpoint's name, the environment, the command",
    r"(columns|seconds)\..*seconds|seconds\.\w+": "took the recorded seconds",
    r"columns\..*\.(note|citation)|(checkpoint|search)\.notes|flags\..*": "Texts: the notes",
    r"second_judgement\..*|diagnosis|search\..*": "What only a run measures",
}
"""Paths of fields, and the sentence of the list that names them."""


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """All values that are neither objects nor lists with content; of lists the first two elements."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, list) and value:
        for number, one in enumerate(value[:2]):
            yield from leaves(one, (*path, number))
    else:
        yield path, value


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return ["forged"] if isinstance(value, list) else "forged"


def replaced(value: Any, path: tuple[str | int, ...]) -> Any:
    copied = json.loads(json.dumps(value))
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = other(place[path[-1]])
    return copied


def is_verified(folder: Path, value: Any) -> bool:
    (folder / "result.json").write_text(json.dumps(value))
    try:
        return verified(folder).passed
    except UserError:
        return False


@pytest.mark.slow
def test_every_field_is_checked_or_listed_as_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = json.loads((folder / "result.json").read_text())
    probe = verify.probe_job
    found: list[Any] = []

    def once(job: Job) -> Any:
        found[:] = found or [probe(job)]
        return found[0]

    monkeypatch.setattr(verify, "probe_job", once)
    assert is_verified(folder, genuine)
    changed = [path for path, _ in leaves(genuine) if is_verified(folder, replaced(genuine, path))]
    # The file name of the evidence only finds it: its digest is compared.
    names = {".".join(map(str, path)) for path in changed} - {"evidence.file"}
    assert not {name for name in names if not any(re.fullmatch(pattern, name) for pattern in TRUSTED)}
    text = "\n".join(GENERAL)
    assert all(sentence in text for sentence in TRUSTED.values())


def test_notes_are_taken_on_trust_and_the_format_is_not(original: Path, tmp_path: Path) -> None:
    """The format decides which options of a verification hide flags of loading."""
    shutil.copytree(original, tmp_path / "run")
    genuine = json.loads((original / "result.json").read_text())
    assert is_verified(tmp_path / "run", replaced(genuine, ("checkpoint", "notes")))
    assert any("notes" in phrase for phrase in verified(tmp_path / "run").trusted)
    assert not is_verified(tmp_path / "run", replaced(genuine, ("checkpoint", "format")))
    assert "format differs from the record" in failed(tmp_path / "run")["checkpoint"]


def test_a_forged_format_does_not_hide_a_guessed_normalisation(original: Path, tmp_path: Path) -> None:
    shutil.copy(original / "images.npz", tmp_path)
    torch.save(make_checkpoint(tmp_path / "own.pt").state_dict(), tmp_path / "net.pt")
    assert run(tmp_path, suite="fgsm").checkpoint.format == "foreign"
    named = {"normalisation": "none"}
    assert "had no --normalisation" in failed(tmp_path, **named)["flags"]
    value = json.loads((tmp_path / "result.json").read_text())
    value["checkpoint"]["format"] = "robust-eval"
    (tmp_path / "result.json").write_text(json.dumps(value))
    assert "checkpoint" in failed(tmp_path, **named)
