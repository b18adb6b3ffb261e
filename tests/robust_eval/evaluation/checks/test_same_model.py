"""A run is not taken up by another model: other code around the same weights, in a file or in memory."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.fake_workers import Quiet, local, work
from torch import nn

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.evaluation import run as evaluation
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.executors.merge import merge_shards
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.models.loading import python_architecture
from robust_eval.models.normalisation import NONE, Normalised, parse_normalisation
from robust_eval.results import EvalResult

HELPER = "the_helper_of_a_network"
CODE = f"""
from torch import nn

def make():
    from {HELPER} import middle
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), middle(), nn.Linear(20, 10))
"""
Edit = Callable[[str], None]


@pytest.fixture
def options(tmp_path: Path) -> EvaluationOptions:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    (tmp_path / "net.py").write_text(CODE)
    return EvaluationOptions(
        checkpoint=str(tmp_path / "w.pt"),
        arch=f"{tmp_path / 'net.py'}:make",
        normalisation="none",
        data="digits",
        examples=40,
        eps="0.1",
        suite="fgsm",
        device="cpu",
    )


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Edits the file that the network's file imports, as between two commands."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def edit(middle: str) -> None:
        (tmp_path / f"{HELPER}.py").write_text(f"from torch.nn import {middle} as middle\n")
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        sys.modules.pop(HELPER, None)

    edit("ReLU")
    yield edit
    sys.modules.pop(HELPER, None)


def run(options: EvaluationOptions, folder: Path) -> EvalResult:
    return evaluation.execute(prepare(options), folder)


def test_edited_code_is_another_model(options: EvaluationOptions, helper: Edit, tmp_path: Path) -> None:
    """Its file belongs to the request, so that the usual run folder and every unit are others."""
    run(options, tmp_path / "run")
    before = prepare(options).request
    assert before.checkpoint.architecture.arguments == {
        "code_sha256": python_architecture.sha256(str(options.arch))
    }
    (tmp_path / "net.py").write_text(CODE.replace("middle()", "nn.Sigmoid()"))
    assert prepare(options).request.key != before.key
    with pytest.raises(UserError, match=r"another request \(it differs in: checkpoint\)"):
        run(options, tmp_path / "run")


def test_what_the_code_imports_shows_in_the_answers(
    options: EvaluationOptions, helper: Edit, tmp_path: Path
) -> None:
    first = run(options, tmp_path / "run")
    assert run(options, tmp_path / "run").columns == first.columns
    helper("Sigmoid")
    with pytest.raises(UserError, match="than the one that began .*Choose another run folder"):
        run(options, tmp_path / "run")
    assert run(options, tmp_path / "anew").columns["clean"] != first.columns["clean"]


def test_the_same_over_a_pool(options: EvaluationOptions, helper: Edit, tmp_path: Path) -> None:
    (first,) = work([options], local(), tmp_path / "pool")
    assert first.result is not None
    helper("Sigmoid")
    display = Quiet()
    (again,) = work([options], local(), tmp_path / "pool", display)
    assert again.result is None
    assert "answers otherwise than the one that began" in again.failures[0]


def test_shards_of_two_models_are_not_merged(
    options: EvaluationOptions, helper: Edit, tmp_path: Path
) -> None:
    places = []
    for number, middle in enumerate(("ReLU", "Sigmoid")):
        helper(middle)
        (part,) = work([replace(options, shards=2)], None, tmp_path, shard=number)
        assert part.folder is not None
        places.append(part.folder)
    with pytest.raises(UserError, match="were run with models that answer differently"):
        merge_shards(places, tmp_path / "merged")


def two(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), middle, nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (two(nn.ReLU()), two(nn.Sigmoid())),
        (Normalised(two(nn.ReLU()), NONE), Normalised(two(nn.ReLU()), parse_normalisation("2x-1", 3))),
    ],
)
def test_models_in_memory_are_known_by_more_than_their_weights(
    one: nn.Module, other: nn.Module, tmp_path: Path
) -> None:
    """Activations and buffers that are not persistent are in no state_dict."""
    x, y = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    assert one.state_dict().keys() == other.state_dict().keys()
    first = evaluate(one, x, y, "Linf 0.01", "fgsm", out=tmp_path)
    assert evaluate(one, x, y, "Linf 0.01", "fgsm", out=tmp_path).checkpoint == first.checkpoint
    with pytest.raises(UserError, match="another request"):
        evaluate(other, x, y, "Linf 0.01", "fgsm", out=tmp_path)


class Sloped(nn.Module):
    """Its forward pass changes and nothing else does; what it keeps besides weights is no tensor."""

    margin_grad = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.inner = two(nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x) * torch.tensor([1.0, self.margin_grad, 1.0])
        return logits

    def get_extra_state(self) -> dict[str, float]:
        return {"kept": 1.0}

    def set_extra_state(self, state: object) -> None:
        pass


def test_an_edited_forward_pass_shows_in_the_answers(tmp_path: Path) -> None:
    x, y = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    model = Sloped()
    evaluate(model, x, y, "Linf 0.01", "fgsm", out=tmp_path)
    model.margin_grad = 1.5
    with pytest.raises(UserError, match="answers otherwise"):
        evaluate(model, x, y, "Linf 0.01", "fgsm", out=tmp_path)


def test_rounding_is_no_difference_and_a_few_steps_inside_are_none(tmp_path: Path) -> None:
    logits = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    same_model.check(tmp_path, logits)
    same_model.check(tmp_path, logits + 1e-5 * torch.randn(32, 10))
    jumped = logits.clone()
    jumped[:5] += 3
    same_model.check(tmp_path, jumped)
    same_model.check(tmp_path, logits[:8])
    same_model.check(tmp_path, None)
    with pytest.raises(UserError, match="differ by 0.*of their spread"):
        same_model.check(tmp_path, logits * 1.5)
    with pytest.raises(UserError, match="differ by inf"):
        same_model.check(tmp_path, logits[:, :9])
    (tmp_path / same_model.FILE).write_bytes(b"damaged")
    same_model.check(tmp_path, logits)
    same_model.check(tmp_path, logits)
