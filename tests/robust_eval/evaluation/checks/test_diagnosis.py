"""The diagnosis of a model: deterministic, with a known cost, and stored in the run folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.known_models import linear_problem

from robust_eval import evaluate
from robust_eval.core.threat import parse_threat
from robust_eval.evaluation.checks import diagnosis
from robust_eval.evaluation.checks.probes import probe_job
from robust_eval.evaluation.result_writer import DIAGNOSIS_FILE
from robust_eval.evaluation.worker import Worker
from robust_eval.results import DiagnosisRecord, read_result
from robust_eval.verification.selftest import cases_unmodified, planted_attacks


def worker(norm: str, eps: str) -> Worker:
    model, x, y = linear_problem(n=30)
    return Worker(model, x, y, parse_threat(norm, eps), 4)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "0.04"), ("L2", "0.15")])
def test_same_seed_same_counts(norm: str, eps: str) -> None:
    first = diagnosis.diagnose(worker(norm, eps), seed=3)
    assert diagnosis.diagnose(worker(norm, eps), seed=3) == first
    assert 0 < first.broken < first.images == 27
    assert first.unbounded_left == first.not_rising == first.noise_alone == 0


def test_only_correctly_classified_examples_are_used_up_to_the_limit() -> None:
    assert diagnosis.diagnose(worker("Linf", "0.04"), examples=10).images == 10
    assert diagnosis.diagnose(worker("Linf", "0.04"), examples=100).images == 27


class NoEmptyBatches(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        # Many networks contain this line; torch cannot infer the -1 for an empty batch.
        x_NCHW.view(x_NCHW.size(0), -1)
        logits: torch.Tensor = self.inner(x_NCHW)
        return logits


def test_a_model_without_a_correct_prediction() -> None:
    model, x, _ = linear_problem(n=10)
    with torch.no_grad():
        wrong = (model(x).argmax(1) + 1) % 4
    model = NoEmptyBatches(model)
    found = diagnosis.diagnose(Worker(model, x, wrong, parse_threat("Linf", "0.04"), 4))
    assert found.images == found.broken == found.forwards == 0


def test_the_cost_is_an_upper_bound_and_equals_the_help_text() -> None:
    from robust_eval.cli import options

    cost = diagnosis.cost()
    idle = planted_attacks.PlantedJob(
        cases_unmodified.trained_job().request,
        cases_unmodified.trained_job().model,
        cases_unmodified.trained_job().x_NCHW,
        cases_unmodified.trained_job().y_N,
        defect=planted_attacks.smaller_epsilon,
    )
    found = diagnosis.diagnose(idle.worker(), examples=20)
    assert 0.9 * cost.backwards * 20 < found.backwards <= cost.backwards * 20
    assert found.forwards <= cost.forwards * 20
    help_text = " ".join(str(vars(options.Diagnose.__metadata__[0])["help"]).split())
    assert f"each of {diagnosis.EXAMPLES} examples" in help_text
    assert f"{cost.forwards} forward and {cost.backwards} backward passes" in help_text


def test_a_stored_diagnosis_is_reused(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=30)
    threat, suite = "Linf 0.04", "fgsm"
    first = evaluate(model, x, y, threat, suite, out=tmp_path, diagnose=True)
    assert isinstance(first.diagnosis, DiagnosisRecord)
    assert read_result(tmp_path / "result.json").diagnosis == first.diagnosis

    changed = DiagnosisRecord.model_validate({**first.diagnosis.model_dump(), "unbounded_left": 20})
    (tmp_path / DIAGNOSIS_FILE).write_text(changed.model_dump_json())
    for diagnose in (False, True):
        again = evaluate(model, x, y, threat, suite, out=tmp_path, diagnose=diagnose)
        assert again.diagnosis == changed
        assert "unbounded-attack-fails" in {flag.id for flag in again.flags}
        assert not again.rankable


def test_a_damaged_diagnosis_is_computed_again(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=30)
    evaluate(model, x, y, "Linf 0.04", "fgsm", out=tmp_path)
    (tmp_path / DIAGNOSIS_FILE).write_text('{"images": ')
    assert evaluate(model, x, y, "Linf 0.04", "fgsm", out=tmp_path).diagnosis is None
    assert evaluate(model, x, y, "Linf 0.04", "fgsm", out=tmp_path, diagnose=True).diagnosis is not None


def test_the_diagnosis_is_optional() -> None:
    model, x, y = linear_problem(n=30)
    assert evaluate(model, x, y, "Linf 0.04", "fgsm").diagnosis is None


def test_probes_run_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounding of TF32 would be mistaken for logits that depend on the batch."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    probe_job(cases_unmodified.trained_job())
    assert not torch.backends.cudnn.allow_tf32


class WithoutGradients(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x_NCHW).detach()
        return logits


def test_a_model_without_gradients_is_diagnosed() -> None:
    model, x, y = linear_problem(n=30)
    result = evaluate(WithoutGradients(model), x, y, "Linf 0.04", suite="fgsm", diagnose=True)
    assert {"no-gradients", "unbounded-attack-fails"} <= {flag.id for flag in result.flags}
