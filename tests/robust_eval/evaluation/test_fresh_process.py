"""A fresh process: the same options, the same logits; and what is said when it fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from robust_eval.core.errors import UserError
from robust_eval.evaluation import fresh_process
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.verification.selftest.cases_unmodified import CHECKPOINT, trained_job


def test_options_survive_the_journey() -> None:
    options = EvaluationOptions(checkpoint="a.pt", data_root=Path("data"), examples=3, eps="8/255")
    assert fresh_process.from_json(fresh_process.to_json(options)) == options
    assert fresh_process.from_json(
        fresh_process.to_json(EvaluationOptions(checkpoint="a.pt"))
    ) == EvaluationOptions(checkpoint="a.pt")


def test_the_other_side_gives_the_file_s_logits(tmp_path: Path) -> None:
    import numpy as np
    import torch

    options = EvaluationOptions(checkpoint=str(CHECKPOINT), suite="clean", device="cpu")
    out = tmp_path / "logits.npy"
    fresh_process.answer({"options": fresh_process.to_json(options), "n": 5, "out": str(out)})
    job = trained_job()
    with torch.no_grad():
        assert np.allclose(np.load(out, allow_pickle=False), job.model(job.x_NCHW[:5]).numpy(), atol=1e-5)


def test_a_file_that_is_gone_is_a_sentence_without_a_path(tmp_path: Path) -> None:
    options = EvaluationOptions(checkpoint=str(tmp_path / "gone.pt"), data="digits", suite="clean", eps="0.1")
    with pytest.raises(UserError, match="could not be used in a fresh process") as caught:
        fresh_process.logits(options, 3)
    assert "gone.pt" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_no_process_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(UserError, match=r"no fresh process could be run \(OSError\)"):
        fresh_process.logits(EvaluationOptions(checkpoint="a.pt"), 3)
