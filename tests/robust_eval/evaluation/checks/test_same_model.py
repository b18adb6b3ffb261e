"""A run is not continued with another model that has the same weights but other code."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.fake_workers import RecordingDisplay, local_executor, run_options
from torch import nn

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.evaluation.checks import same_model
from robust_eval.evaluation.executors.merge import merge_shards
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute
from robust_eval.models.loading import python_architecture
from robust_eval.models.normalisation import NONE, Normalised, parse_normalisation
from robust_eval.results import EvalResult

HELPER = "imported_by_the_network"
CODE = f"""
from torch import nn

def make():
    from {HELPER} import middle
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), middle(), nn.Linear(20, 10))
"""
VARIABLE = "ROBUST_EVAL_TEST_MIDDLE"
OUTSIDE = {
    "environment variable": f"import os\n\nNAME = os.environ['{VARIABLE}']\n",
    "data file": "from pathlib import Path\n\nNAME = Path(__file__).with_name('middle.txt').read_text()\n",
}
"""Code whose function depends on something that is no local source file."""
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
    """Edit the file that the network's file imports, as if between two commands."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def edit(middle: str) -> None:
        (tmp_path / f"{HELPER}.py").write_text(f"from torch.nn import {middle} as middle\n")
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        sys.modules.pop(HELPER, None)

    edit("ReLU")
    yield edit
    sys.modules.pop(HELPER, None)


@pytest.fixture(params=OUTSIDE)
def outside(
    helper: Edit, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Edit:
    """Change the model without a change of the weights or of any source file."""
    code = OUTSIDE[request.param]
    (tmp_path / f"{HELPER}.py").write_text(f"{code}from torch import nn\nmiddle = getattr(nn, NAME)\n")

    def edit(middle: str) -> None:
        monkeypatch.setenv(VARIABLE, middle)
        (tmp_path / "middle.txt").write_text(middle)

    edit("ReLU")
    return edit


def run(options: EvaluationOptions, folder: Path) -> EvalResult:
    return execute(prepare(options), folder)


def test_edited_code_is_refused_as_another_model(
    options: EvaluationOptions, helper: Edit, tmp_path: Path
) -> None:
    """The hash of the file is part of the request, and so of the default run folder and every unit key."""
    run(options, tmp_path / "run")
    before = prepare(options).request
    assert before.checkpoint.architecture.arguments == {
        "code_sha256": python_architecture.sha256(str(options.arch))
    }
    (tmp_path / "net.py").write_text(CODE.replace("middle()", "nn.Sigmoid()"))
    assert prepare(options).request.key != before.key
    with pytest.raises(UserError, match=r"another request \(it differs in: checkpoint\)"):
        run(options, tmp_path / "run")


def test_edits_of_imported_code_are_refused_as_another_model(
    options: EvaluationOptions, helper: Edit, tmp_path: Path
) -> None:
    first = run(options, tmp_path / "run")
    before = prepare(options).request.key
    assert run(options, tmp_path / "run").columns == first.columns
    helper("Sigmoid")
    assert prepare(options).request.key != before
    with pytest.raises(UserError, match=r"another request \(it differs in: checkpoint\)"):
        run(options, tmp_path / "run")
    assert run(options, tmp_path / "new").columns["clean"] != first.columns["clean"]


def test_the_scheduler_does_not_continue_a_run_after_an_edit_of_imported_code(
    options: EvaluationOptions, helper: Edit, tmp_path: Path
) -> None:
    (first,) = run_options([options], local_executor(), tmp_path / "runs")
    helper("Sigmoid")
    (again,) = run_options([options], local_executor(), tmp_path / "runs")
    assert first.result is not None
    assert again.result is not None
    assert again.folder != first.folder
    assert again.result.columns["clean"] != first.result.columns["clean"]


def test_shards_before_and_after_an_edit_of_imported_code_are_not_merged(
    options: EvaluationOptions, helper: Edit, tmp_path: Path
) -> None:
    folders = run_two_shards(options, helper, tmp_path)
    with pytest.raises(UserError, match=r"different requests \(they differ in: checkpoint\)"):
        merge_shards(folders, tmp_path / "merged")


def test_a_model_that_depends_on_something_outside_is_detected_by_the_logits(
    options: EvaluationOptions, outside: Edit, tmp_path: Path
) -> None:
    first = run(options, tmp_path / "run")
    before = prepare(options).request.key
    assert run(options, tmp_path / "run").columns == first.columns
    outside("Sigmoid")
    assert prepare(options).request.key == before, "the identity is that of the code and the weights"
    with pytest.raises(UserError, match="is not the one that began .*Choose another run folder"):
        run(options, tmp_path / "run")
    assert run(options, tmp_path / "new").columns["clean"] != first.columns["clean"]


def test_a_model_that_depends_on_something_outside_is_detected_by_the_scheduler(
    options: EvaluationOptions, outside: Edit, tmp_path: Path
) -> None:
    (first,) = run_options([options], local_executor(), tmp_path / "runs")
    assert first.result is not None
    outside("Sigmoid")
    display = RecordingDisplay()
    (again,) = run_options([options], local_executor(), tmp_path / "runs", display)
    assert again.result is None
    assert "is not the one that began" in again.failures[0]


def test_shards_of_two_models_are_not_merged(
    options: EvaluationOptions, outside: Edit, tmp_path: Path
) -> None:
    folders = run_two_shards(options, outside, tmp_path)
    with pytest.raises(UserError, match="were run with models whose logits differ"):
        merge_shards(folders, tmp_path / "merged")


def run_two_shards(options: EvaluationOptions, edit: Edit, folder: Path) -> list[Path]:
    """The folders of two shards; the model of the second was edited."""
    folders = []
    for number, middle in enumerate(("ReLU", "Sigmoid")):
        edit(middle)
        (shard,) = run_options([replace(options, shards=2)], None, folder, shard=number)
        assert shard.folder is not None
        folders.append(shard.folder)
    return folders


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), middle, nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (network(nn.ReLU()), network(nn.Sigmoid())),
        (
            Normalised(network(nn.ReLU()), NONE),
            Normalised(network(nn.ReLU()), parse_normalisation("2x-1", 3)),
        ),
    ],
)
def test_models_in_memory_with_the_same_weights_are_distinguished(
    one: nn.Module, other: nn.Module, tmp_path: Path
) -> None:
    """Activations and non-persistent buffers are not in a state_dict."""
    x, y = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    assert one.state_dict().keys() == other.state_dict().keys()
    first = evaluate(one, x, y, "Linf 0.01", "fgsm", out=tmp_path)
    assert evaluate(one, x, y, "Linf 0.01", "fgsm", out=tmp_path).checkpoint == first.checkpoint
    with pytest.raises(UserError, match="another request"):
        evaluate(other, x, y, "Linf 0.01", "fgsm", out=tmp_path)


class Sloped(nn.Module):
    """A network whose forward pass depends on an attribute, with an extra state that is not a tensor."""

    margin_grad = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x) * torch.tensor([1.0, self.margin_grad, 1.0])
        return logits

    def get_extra_state(self) -> dict[str, float]:
        return {"extra": 1.0}

    def set_extra_state(self, state: object) -> None:
        pass


def test_a_changed_forward_pass_is_detected_by_the_logits(tmp_path: Path) -> None:
    x, y = torch.rand(20, 3, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 3
    model = Sloped()
    evaluate(model, x, y, "Linf 0.01", "fgsm", out=tmp_path)
    model.margin_grad = 1.5
    with pytest.raises(UserError, match="is not the one that began"):
        evaluate(model, x, y, "Linf 0.01", "fgsm", out=tmp_path)


def test_rounding_and_large_changes_of_a_few_logits_are_tolerated(tmp_path: Path) -> None:
    logits = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    same_model.check(tmp_path, logits)
    same_model.check(tmp_path, logits + 1e-5 * torch.randn(32, 10))
    jumped = logits.clone()
    jumped[:5] += 3
    same_model.check(tmp_path, jumped)
    same_model.check(tmp_path, logits[:8])
    same_model.check(tmp_path, None)
    with pytest.raises(UserError, match="logits differ by 0.* standard deviations"):
        same_model.check(tmp_path, logits * 1.5)
    with pytest.raises(UserError, match="differ by inf"):
        same_model.check(tmp_path, logits[:, :9])
    (tmp_path / same_model.FILE).write_bytes(b"damaged")
    same_model.check(tmp_path, logits)
    same_model.check(tmp_path, logits)
