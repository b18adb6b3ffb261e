"""Judging again finds models that remember images, write into them, or depend on the batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.published_runs import EPS, IMAGES, make_checkpoint, options_of
from torch import Tensor, nn

from robust_eval import evaluate
from robust_eval.results import EvalResult, evidence, read_result
from robust_eval.results.verification_record import CheckRecord
from robust_eval.verification import verify
from robust_eval.verification.predictions import predict, predict_twice
from robust_eval.verification.rejudge import rejudge


class Remembering(nn.Module):
    """Answers near an image that it has seen as it did then, for the first 30 images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        rows = []
        for image, found in zip(x, logits, strict=True):
            known = next(
                (old for key, old in self.seen if (key - image).abs().max() <= float(EPS) + 1e-6), None
            )
            if known is None and len(self.seen) < 30:
                self.seen.append((image.detach().clone(), found.detach()))
            rows.append(found if known is None else known + 0.01 * (found - known))
        return torch.stack(rows)


class Writing(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.clone())
        x.data.zero_()
        return logits


class BatchDependent(Writing):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits - logits.mean(0)


class Reusing(Writing):
    """Returns the same tensor from every call."""

    def forward(self, x: Tensor) -> Tensor:
        self.buffer = getattr(self, "buffer", torch.zeros(100, 10))
        self.buffer[: len(x)] = self.network(x)
        return self.buffer[: len(x)]


@pytest.fixture(scope="module")
def inputs(original: Path) -> tuple[EvalResult, evidence.Evidence, verify.LoadedInputs]:
    result = read_result(original / "result.json")
    loaded = verify.load_inputs(result, options_of(original))
    return result, evidence.read_evidence(original / "evidence.safetensors"), loaded


def failed(checks: Iterator[CheckRecord]) -> dict[str, str]:
    return {check.name: check.detail for check in checks if not check.passed}


def test_a_model_that_remembers_images_is_found(tmp_path: Path) -> None:
    """Its own result passes if it sees the clean images first, as in the run; the stored ones come first."""
    network = make_checkpoint(tmp_path / "net.pt")
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    y = network(x).argmax(1)
    result = evaluate(Remembering(network), x, y, f"Linf {EPS}", "fgsm,pgd-10", out=tmp_path / "out")
    assert result.worst_case.n_robust >= 30, "it is robust where it remembers the clean image"
    stored = evidence.read_evidence(tmp_path / "out" / "evidence.safetensors")
    informed = Remembering(network)
    informed(x)
    assert failed(rejudge(result, stored, informed, x, y)) == {}
    assert "clean predictions" in failed(rejudge(result, stored, Remembering(network), x, y))


def test_a_model_that_writes_into_its_input_is_found(
    inputs: tuple[EvalResult, evidence.Evidence, verify.LoadedInputs],
) -> None:
    result, stored, loaded = inputs
    x = loaded.x_NCHW.clone()
    found = failed(rejudge(result, stored, Writing(loaded.model), x, loaded.y_N))
    assert set(found) == {"stable predictions"}
    assert "the model changed" in found["stable predictions"]
    assert torch.equal(x, loaded.x_NCHW), "the images that are compared are not the ones it was given"


def test_predictions_must_not_depend_on_the_batch(
    inputs: tuple[EvalResult, evidence.Evidence, verify.LoadedInputs],
) -> None:
    result, stored, loaded = inputs
    found = failed(rejudge(result, stored, BatchDependent(loaded.model), loaded.x_NCHW, loaded.y_N))
    assert "depend on the other images of the batch" in found["stable predictions"]


def test_predictions_do_not_depend_on_how_they_are_computed(
    inputs: tuple[EvalResult, evidence.Evidence, verify.LoadedInputs],
) -> None:
    """Orders, sizes, and a model that returns the same tensor from every call."""
    _, _, loaded = inputs
    plain = predict(loaded.model, loaded.x_NCHW, loaded.y_N, 60)
    for model in (loaded.model, Reusing(loaded.model)):
        twice = predict_twice(model, loaded.x_NCHW, loaded.y_N, 32)
        for found in (twice.first, twice.second):
            assert torch.allclose(found.margin, plain.margin, atol=1e-5)
            assert (found.correct == plain.correct).all()
        assert (twice.writes, twice.unstable(plain.logit_std)) == (0, 0)


def test_a_result_without_broken_examples(
    inputs: tuple[EvalResult, evidence.Evidence, verify.LoadedInputs],
) -> None:
    _, _, loaded = inputs
    none = predict_twice(loaded.model, loaded.x_NCHW[:0], loaded.y_N[:0], 32)
    assert len(none.correct()) == len(none.first.margin) == 0
