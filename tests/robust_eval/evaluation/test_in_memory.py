"""``robust_eval.evaluate`` on models in memory whose robust accuracy is known exactly."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich import jupyter
from rich.console import Console
from safetensors.numpy import load_file
from support.known_models import Linear, linear_margin, linear_problem
from torch import Tensor, nn

from robust_eval import data, evaluate
from robust_eval.core import norms, terminal
from robust_eval.core.errors import UserError
from robust_eval.evaluation.in_memory import make_job
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.options import EvaluationOptions, SearchOptions
from robust_eval.evaluation.progress import displays
from robust_eval.verification.selftest.plain_network import plain_network
from robust_eval.verification.selftest.planted_outputs import called_by_attack


@pytest.mark.parametrize(
    ("threat", "norm", "eps"),
    [("Linf 0.04", "Linf", 0.04), pytest.param("L2 0.15", "L2", 0.15, marks=pytest.mark.slow)],
)
def test_robust_accuracy_equals_the_closed_form(threat: str, norm: str, eps: float) -> None:
    model, x, y = linear_problem(n=60)
    result = evaluate(model, x, y, threat, suite="fgsm,pgd-20,cw-inf,apgd-ce-t")
    expected = int((linear_margin(model, x, y, norm) > eps).sum())
    assert 0 < expected < 54
    assert result.columns["clean"].n_robust == 54
    assert result.worst_case.n_robust == expected
    assert result.columns["cw-inf"].n_robust == expected
    assert result.status == "complete"


def test_units_and_evidence_are_stored_in_the_run_folder(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=30)
    first = evaluate(model, x, y, "Linf 0.02", suite="pgd-20", out=tmp_path, batch_size=8)
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "units").iterdir())
    again = evaluate(model, x, y, "Linf 0.02", suite="pgd-20", out=tmp_path, batch_size=8)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "units").iterdir()) == before
    assert again.columns == first.columns
    evidence = load_file(tmp_path / "evidence.safetensors")
    indices, images = torch.from_numpy(evidence["pgd-20.indices"]), evidence["pgd-20.images"]
    adv = torch.from_numpy(images)
    assert len(indices) == first.columns["clean"].n_robust - first.columns["pgd-20"].n_robust > 0
    assert (norms.distance(adv, x[indices], "Linf") <= 0.02 + 1e-6).all()
    assert (model(adv).argmax(1) != y[indices]).all()


def test_a_folder_of_another_request_is_refused(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=10)
    evaluate(model, x, y, "Linf 0.02", suite="fgsm", out=tmp_path)
    with pytest.raises(UserError, match=r"another request \(it differs in: threat\)"):
        evaluate(model, x, y, "Linf 0.03", suite="fgsm", out=tmp_path)


def test_results_are_determined_by_the_seed(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=30)
    runs = [
        evaluate(model, x, y, "L2 0.3", "pgd-10", seed=s, out=tmp_path / str(i))
        for i, s in enumerate((0, 0, 1))
    ]
    assert runs[0].columns["pgd-10"].robust_bits == runs[1].columns["pgd-10"].robust_bits
    images = [load_file(tmp_path / str(i) / "evidence.safetensors")["pgd-10.images"] for i in range(3)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_the_mode_and_gradients_of_the_model_are_restored() -> None:
    model, x, y = linear_problem(n=10)
    model.train()
    evaluate(model, x, y, "Linf 0.02", suite="fgsm")
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


class NaNUnderAttack(Linear):
    def forward(self, x: Tensor) -> Tensor:
        grey = (x - 0.5).flatten(1).abs().amax(1) < 0.1
        return torch.where(grey[:, None], super().forward(x), torch.tensor(float("nan")))


def test_nan_logits_under_attack_count_as_broken_and_are_flagged() -> None:
    _, x, y = linear_problem(n=20)
    result = evaluate(NaNUnderAttack(), x, y, "Linf 0.1", suite="fgsm")
    assert result.columns["clean"].n_robust > 0
    assert result.columns["fgsm"].n_robust == 0
    assert "non-finite-under-attack" in {flag.id for flag in result.flags}
    assert not result.rankable


def test_a_model_that_is_always_wrong_is_flagged() -> None:
    model, x, y = linear_problem(n=60)
    with torch.no_grad():
        y = (model(x).argmax(1) + 1) % 4
    result = evaluate(model, x, y, "Linf 0.02", suite="fgsm,aa")
    assert result.worst_case.n_robust == 0
    assert "collapsed" in {flag.id for flag in result.flags}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x * 255, y), r"Images must lie in \[0, 1\], got .* to"),
        (lambda x, y: ((x * 255).byte(), y), "Images must be float"),
        (lambda x, y: (x[0], y), "Images must be float"),
        (lambda x, y: (x, y[:3]), "Labels must be integers of shape"),
        (lambda x, y: (x, y.float()), "Labels must be integers"),
        (lambda x, y: (x, y > 1), "Labels must be integers"),
        (lambda x, y: (x.to("meta"), y), "on the meta device"),
        (lambda x, y: (x, y + 4), "Label 7 has no logit: the model has 4 outputs"),
        (lambda x, y: (x, y - 4), "Labels must be 0 or more"),
        (lambda x, y: (x[:0], y[:0]), "There are no images"),
        (lambda x, y: (x * float("nan"), y), r"Images must lie in \[0, 1\]"),
    ],
)
def test_invalid_arrays_are_refused(change: object, message: str) -> None:
    model, x, y = linear_problem(n=20)
    x, y = change(x, y)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        evaluate(model, x, y, "Linf 0.02", suite="fgsm")


@pytest.mark.parametrize(
    ("threat", "suite", "message"),
    [
        ("Linf", "quick", "needs a norm and an epsilon"),
        ("Linf 8", "quick", "Did you mean 8/255"),
        ("Linf 8/255", "pdg-20", "Did you mean pgd-20"),
    ],
)
def test_invalid_requests_are_refused(threat: str, suite: str, message: str) -> None:
    model, x, y = linear_problem(n=20)
    with pytest.raises(UserError, match=message):
        evaluate(model, x, y, threat, suite=suite)


def test_an_exception_in_the_model_is_an_error() -> None:
    class Breaks(Linear):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise ValueError("no gradients today")
            return super().forward(x)

    _, x, y = linear_problem(n=20)
    with pytest.raises(UserError, match="no gradients today"):
        evaluate(Breaks(), x, y, "Linf 0.02", suite="fgsm")


class Exits(Linear):
    """Ends the program when an attack differentiates it on a batch of the run's size."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and called_by_attack():
            raise SystemExit(0)
        logits: Tensor = super().forward(x)
        return logits


def test_a_model_that_ends_the_program_is_an_error() -> None:
    _, x, y = linear_problem(n=20)
    with pytest.raises(UserError, match=r"ended the program \(SystemExit\)"):
        evaluate(Exits(), x, y, "Linf 0.02", "fgsm")


def test_modules_without_parameters_can_be_evaluated() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack(
                [x.flatten(1).mean(1), 1 - x.flatten(1).mean(1), x.flatten(1).mean(1) * 0 - 1], 1
            )

    x = torch.full((4, 1, 2, 2), 0.6)
    result = evaluate(Fixed(), x, torch.zeros(4, dtype=torch.int64), "Linf 0.05", suite="pgd-20")
    assert result.worst_case.n_robust == 4


@pytest.mark.parametrize("compiled", [False, True])
def test_torchscript_modules_have_the_same_verdicts(compiled: bool) -> None:
    model, x, y = linear_problem(n=20)
    script = torch.jit.script(model) if compiled else torch.jit.trace(model, x[:2])
    ours, theirs = (evaluate(one, x, y, "Linf 0.02", suite="pgd-20") for one in (model, script))
    assert theirs.worst_case.robust_bits == ours.worst_case.robust_bits


def test_a_model_on_the_meta_device_is_refused() -> None:
    model, x, y = linear_problem(n=20)
    with pytest.raises(UserError, match="on the meta device"):
        evaluate(copy.deepcopy(model).to("meta"), x, y, "Linf 0.02", suite="fgsm")


def test_a_suite_may_be_given_as_an_object() -> None:
    model, x, y = linear_problem(n=20)
    named = evaluate(model, x, y, "Linf 0.04", suite="fgsm,pgd-20")
    given = evaluate(model, x, y, "Linf 0.04", suite=suites.load("fgsm,pgd-20"))
    assert given.suite == named.suite
    assert given.worst_case.robust_bits == named.worst_case.robust_bits


class ReturnsMore(Linear):
    """Logits as key, attribute or first entry of the output."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(super().forward(x))  # type: ignore[return-value]  # not of a tensor


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda z: {"logits": z, "features": z}, "['logits']"),
        (lambda z: SimpleNamespace(logits=z), ".logits"),
        (lambda z: (z, None), "[0]"),
    ],
)
def test_logits_inside_an_output_have_the_same_verdicts(
    change: Callable[[Tensor], object], place: str
) -> None:
    model, x, y = linear_problem(n=20)
    more = ReturnsMore(change)
    more.load_state_dict(model.state_dict())
    plain, found = (evaluate(one, x, y, "Linf 0.04", suite="fgsm,pgd-20") for one in (model, more))
    assert found.worst_case.robust_bits == plain.worst_case.robust_bits
    assert found.flags == plain.flags
    assert found.search is not None
    assert f"the logits are {place} of the model's output" in found.search.notes


class ReturnsTuple(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x, super().forward(x)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda m, x, y: (m, x.numpy(), y, "Linf 0.1"), "x_NCHW must be a torch.Tensor, not a ndarray"),
        (lambda m, x, y: (m, x, y.numpy(), "Linf 0.1"), "y_N must be a torch.Tensor"),
        (lambda m, x, y: ("ckpt.pt", x, y, "Linf 0.1"), "not a str. For a file use robust-eval run"),
        (lambda m, x, y: (lambda z: z, x, y, "Linf 0.1"), "takes a torch.nn.Module, not a function. Build"),
        (lambda m, x, y: (nn.ReLU, x, y, "Linf 0.1"), "not the class ReLU. Create an instance of it"),
        (
            lambda m, x, y: (m, x, y.tolist(), "Linf 0.1"),
            "y_N must be a torch.Tensor, not a list; use torch.tens",
        ),
        (lambda m, x, y: (m, x, y, ("Linf", 0.1)), "must be a ThreatModel or text"),
        (
            lambda m, x, y: (ReturnsTuple(), x, y, "Linf 0.1"),
            r"must return logits of shape \(N, classes\), not tuple",
        ),
        (lambda m, x, y: (m, x, y, "L2 4"), "With L2 4 every image may become any other"),
        (lambda m, x, y: (m, x[:, :, :2], y, "Linf 0.1"), r"fails on a batch of shape \(1, 1, 2, 4\)"),
    ],
)
def test_arguments_of_other_types_are_refused(arguments: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(*arguments(*linear_problem(n=20)), suite="fgsm")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"seed": -1}, "The seed must be 0 or more, got -1"),
        ({"batch_size": 0}, "The batch size must be at least 1, got 0"),
        ({"suite": ("fgsm", 20)}, "must be a Suite, text such as 'full' or 'fgsm,pgd-20', or a list of"),
        ({"threat": "Linf 0"}, "For clean accuracy alone use suite clean"),
        ({"out": Path(__file__).parents[3]}, "Choose a new or empty run folder"),
        ({"out": Path(__file__) / "below"}, r"Cannot write to .*Choose another folder\.$"),
    ],
)
def test_messages_do_not_name_options_of_the_command_line(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        evaluate(*linear_problem(n=20), **{"threat": "Linf 0.02", "suite": "fgsm", **keywords})
    assert "--" not in str(refused.value)


def test_keywords_and_defaults_are_those_of_the_options() -> None:
    """The command line and evaluate() must not differ in what they call an option, or in its default."""
    keywords = inspect.signature(evaluate).parameters
    options = {one.name: one.default for one in fields(SearchOptions)}
    assert {name: keywords[name].default for name in options} == options
    assert keywords["suite"].default == EvaluationOptions().suite


def test_a_display_must_have_its_methods() -> None:
    model, x, y = linear_problem(n=4)
    with pytest.raises(UserError, match="or an object with the methods update, opened and log"):
        evaluate(model, x, y, "Linf 0.04", suite="fgsm", display=None)  # type: ignore[arg-type]


def test_progress_is_shown_on_a_terminal_and_in_a_notebook_unless_switched_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, x, y = linear_problem(n=4)

    def shown(display: bool = True) -> str:
        evaluate(model, x, y, "Linf 0.04", suite="fgsm", display=display)
        return capsys.readouterr().out

    assert shown() == "", "output that a file or pipe receives"
    monkeypatch.setattr(Console, "is_terminal", True)
    assert "fgsm" in shown()
    assert shown(display=False) == ""
    monkeypatch.setattr(Console, "is_terminal", False)
    monkeypatch.setattr(displays, "find_spec", lambda name: None)
    monkeypatch.setattr(terminal, "console", lambda: Console(force_jupyter=True))
    printed: list[str] = []
    monkeypatch.setattr(jupyter, "display", lambda segments, text: printed.append(text))
    assert shown() == ""
    assert any("fgsm: 4/4 done" in text for text in printed)


def test_a_notebook_shows_a_result_as_a_table() -> None:
    model, x, y = linear_problem(n=4)
    html = evaluate(model, x, y, "Linf 0.04", suite="fgsm", name="<b>mine</b>")._repr_html_()
    assert "<caption>&lt;b&gt;mine&lt;/b&gt; on arrays, Linf 0.04, n = 4</caption>" in html
    assert "<th>worst case</th>" in html
    assert all(event not in html for event in ("<b>", "<script"))


def test_images_of_8_bits_have_the_fingerprint_of_the_command_line() -> None:
    images = data.load("digits").take(20)
    x, y = images.tensors()
    request = make_job(plain_network(), x, y, "Linf 0.1", "fgsm", data="digits").request
    assert request.data.fingerprint == images.slice().fingerprint
    assert request.data.name == "digits"
    x[0, 0, 0, 0] += 1e-4
    other = make_job(plain_network(), x.clamp(0, 1), y, "Linf 0.1", "fgsm").request
    assert other.data.fingerprint != images.slice().fingerprint
    assert other.data.name == "arrays"


def test_a_result_is_shown_in_one_line() -> None:
    model, x, y = linear_problem(n=20)
    shown = repr(evaluate(model, x, y, "Linf 0.04", suite="fgsm"))
    assert shown.startswith("<EvalResult model on arrays, Linf 0.04, n = 20: Clean 90.00%, FGSM ")
    assert "worst case " in shown
    assert shown.endswith("; flags: too-few-examples>")
    assert len(shown) < 200
