"""Logits computed in a fresh process from the same options, and the messages if this fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from robust_eval.core.errors import UserError
from robust_eval.evaluation import fresh_process
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.verification.selftest.cases_unmodified import CHECKPOINT, trained_job


def test_options_are_unchanged_by_serialisation() -> None:
    options = EvaluationOptions(checkpoint="a.pt", data_root=Path("data"), examples=3, eps="8/255")
    assert fresh_process.from_json(fresh_process.to_json(options)) == options
    assert fresh_process.from_json(
        fresh_process.to_json(EvaluationOptions(checkpoint="a.pt"))
    ) == EvaluationOptions(checkpoint="a.pt")


def test_the_fresh_process_computes_the_logits_of_the_file(tmp_path: Path) -> None:
    import numpy as np
    import torch

    options = EvaluationOptions(checkpoint=str(CHECKPOINT), suite="clean", device="cpu")
    out = tmp_path / "logits.npy"
    fresh_process.answer({"options": fresh_process.to_json(options), "n": 5, "out": str(out)})
    job = trained_job()
    with torch.no_grad():
        assert np.allclose(np.load(out, allow_pickle=False), job.model(job.x_NCHW[:5]).numpy(), atol=1e-5)


def test_a_missing_file_is_reported_without_its_path(tmp_path: Path) -> None:
    options = EvaluationOptions(checkpoint=str(tmp_path / "gone.pt"), data="digits", suite="clean", eps="0.1")
    with pytest.raises(UserError, match="could not be used in a fresh process") as caught:
        fresh_process.logits(options, 3)
    assert "gone.pt" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_process_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(UserError, match=r"no fresh process could be run \(OSError\)"):
        fresh_process.logits(EvaluationOptions(checkpoint="a.pt"), 3)
