"""The second judgement of a run's images by a model that was loaded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.known_models import linear_problem
from torch import Tensor

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.core.types import Ints, UnitResult, Verdicts
from robust_eval.evaluation.checks import second_judgement
from robust_eval.evaluation.checks.second_judgement import JudgedImages, batch_sizes, collect, judge_again
from robust_eval.evaluation.in_memory import make_job
from robust_eval.evaluation.job import Job
from robust_eval.results import SecondJudgementRecord, read_result


def job() -> Job:
    model, x, y = linear_problem(n=30)
    return make_job(model, x, y, "Linf 0.04", "fgsm")


def judged(job: Job) -> JudgedImages:
    """The clean images, with the model's own verdicts."""
    with torch.no_grad():
        broken = (job.model(job.x_NCHW).argmax(1) != job.y_N).numpy()
    return JudgedImages(job.x_NCHW.numpy(), np.arange(len(broken)), broken)


def first_logits(job: Job) -> Tensor:
    with torch.no_grad():
        logits: Tensor = job.model(job.x_NCHW[:8])
    return logits


def test_an_unchanged_model_agrees() -> None:
    one = job()
    found = judge_again(one, judged(one), first_logits(one))
    assert found is not None
    assert (found.images, found.broken_differ, found.survivors_differ) == (30, 0, 0)
    assert found.clean_logits is not None
    assert found.clean_logits < 1e-5


def test_every_image_is_judged_twice_in_batches_of_two_sizes_before_the_clean_ones() -> None:
    calls: list[Ints] = []

    def fresh(x: Tensor, batches: Sequence[Ints]) -> Tensor:
        calls.extend(batches)
        return torch.zeros(sum(map(len, batches)), 4)

    one = replace(job(), fresh_logits=fresh)
    judge_again(one, judged(one), first_logits(one))
    assert calls[-1].tolist() == list(range(30, 38))
    sizes = [len(batch) for batch in calls[:-1]]
    assert sizes == [30, 11, 11, 8]
    assert sorted(np.concatenate(calls[1:-1])) == list(range(30))
    assert calls[0].tolist() != sorted(calls[0])


def test_each_difference_is_counted() -> None:
    one = job()
    found = judged(one)
    wrong = JudgedImages(found.images, found.indices, ~found.broken)
    record = judge_again(one, wrong, first_logits(one))
    assert record is not None
    assert record.survivors_differ == record.survivors == int(found.broken.sum())
    assert record.broken_differ == 30 - record.survivors


def test_a_model_that_cannot_be_loaded_again_is_reported() -> None:
    def fail(_x: Tensor, _batches: object) -> Tensor:
        raise UserError("no fresh process could be run (OSError)")

    one = replace(job(), fresh_logits=fail)
    found = judge_again(one, judged(one), first_logits(one))
    assert found is not None
    assert found.problem == "no fresh process could be run (OSError)"
    shape = replace(one, fresh_logits=lambda x, b: torch.zeros(sum(map(len, b)), 3))
    other = judge_again(shape, judged(one), first_logits(one))
    assert other is not None
    assert "shape" in other.problem
    assert judge_again(replace(one, fresh_logits=None), judged(one), first_logits(one)) is None


@pytest.mark.parametrize(
    ("size", "images", "expected"), [(100, 0, ()), (100, 7, (7, 3)), (8, 90, (8, 3)), (100, 90, (90, 31))]
)
def test_batch_sizes(size: int, images: int, expected: tuple[int, ...]) -> None:
    assert batch_sizes(size, images) == expected


def unit(n: int, robust: int) -> UnitResult:
    ones = np.ones(n, dtype=np.bool_)
    bits = np.arange(n) < robust
    numbers = np.arange(n)
    verdicts = Verdicts(numbers, numbers, numbers, np.zeros(n), ones, ones, ones, bits)
    pixels = np.arange(n, dtype=np.float32).reshape(n, 1, 1, 1)
    return UnitResult(verdicts, pixels[~bits], 1, 1, 0.1, numbers[:2], pixels[:2])


def test_images_of_broken_and_robust_examples_are_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    found = collect([unit(6, 4), unit(3, 3)], 2, seed=0)
    assert sorted(found.indices.tolist()) == [0, 0, 1, 1, 4, 5]
    assert set(found.indices[found.broken].tolist()) == {4, 5}
    assert found.images.flatten().tolist() == found.indices.tolist()
    monkeypatch.setattr(second_judgement, "MAX_VALUES", 4)
    assert len(collect([unit(6, 4), unit(3, 3)], 2, seed=0).indices) == 4
    assert len(collect([], 0, seed=0).indices) == 0


def test_the_record_is_part_of_the_result(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=30)
    found = evaluate(model, x, y, "Linf 0.04", "fgsm,pgd-20", out=tmp_path).second_judgement
    assert isinstance(found, SecondJudgementRecord)
    assert 0 < found.survivors < found.images
    assert found.broken_differ == found.survivors_differ == 0
    assert read_result(tmp_path / "result.json").second_judgement == found
