"""Attacks of the user: files and functions; their code is part of the identity, and cannot claim success."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.command_line import command_runner, refused
from support.known_models import linear_margin, linear_problem
from support.published_runs import IMAGES, X_NCHW, make_checkpoint, run, verified
from torch import Tensor, nn

import robust_eval
from robust_eval import attacks, evaluate
from robust_eval.attacks import _foreign
from robust_eval.core.errors import UserError
from robust_eval.evaluation import attack_contract
from robust_eval.evaluation.in_memory import make_job
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.recorded_suite import identify
from robust_eval.verification.audit_plan import plan_audit

HEAD = """
from dataclasses import dataclass
import torch
from robust_eval.core.types import Cost

VERSION = 1
CITATION = "A test of attacks in files"

@dataclass(frozen=True, kw_only=True)
class Params:
    pass

def cost(params, classes):
    return Cost(1, 1)

def search(model, x_NCHW, y_N, threat, params, *, classes, seed):
"""
SIGN = """
    with torch.enable_grad():
        x = x_NCHW.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(x), y_N, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return (x_NCHW + threat.radius * gradient.sign()).clamp(0, 1)
"""
CHECKPOINT = Path(robust_eval.__file__).parent / "verification/selftest/digits-at.safetensors"
COLUMN = 'title = "Mine"\n[[attacks]]\nfamily = "mine.py"\n'


@pytest.fixture(autouse=True)
def _nothing_named_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_foreign, "_named", {})


def write(folder: Path, body: str = SIGN, **more: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(HEAD + body)
    (folder / "column.toml").write_text(COLUMN)
    for name, text in more.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "column.toml"


def test_a_column_file_is_a_suite(tmp_path: Path) -> None:
    suite = suites.load(str(write(tmp_path)))
    assert (suite.name, [column.id for column in suite.columns]) == ("column", ["clean", "column"])
    assert suite.columns[1].attacks[0].family == "mine.py"
    (tmp_path / "all.toml").write_text('columns = ["column.toml", "fgsm"]')
    # A file alone is a column with the default parameters.
    alone = suites.load(str(tmp_path / "mine.py"))
    assert (alone.name, alone.columns[1].attacks[0].family) == ("clean,mine", "mine.py")
    both = suites.load(str(tmp_path / "all.toml")).columns
    assert [column.id for column in both] == ["clean", "column", "fgsm"]
    assert suites.load(f"{tmp_path / 'column.toml'},fgsm").columns == both


def test_a_file_finds_what_fgsm_finds_and_its_code_is_in_the_result(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=60)
    result = evaluate(model, x, y, "Linf 0.04", str(write(tmp_path)))
    mine = result.columns["column"]
    assert mine.n_robust == int((linear_margin(model, x, y, "Linf") > 0.04).sum())
    (record,) = mine.attacks
    assert (record.family, record.version, record.citation) == ("mine.py", 1, "A test of attacks in files")
    assert record.library == f"mine.py sha256:{_digest(tmp_path / 'mine.py')}"
    assert identify(result).label == "custom"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_code_of_a_file_and_of_its_imports_is_part_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = linear_problem(n=8)
    monkeypatch.setattr(sys.modules[__name__], "HEAD", "from scale import SIZE\n" + HEAD)
    body = "    return (x_NCHW + SIZE).clamp(0, 1)\n"
    keys, groups = [], []
    for number, size in enumerate(("0.01", "0.02", "0.01")):
        monkeypatch.setattr(_foreign, "_named", {})
        suite = str(write(tmp_path / str(number), body, scale=f"SIZE = {size}\n"))
        keys.append(make_job(model, x, y, "Linf 0.04", suite).request.key)
        groups.append(identify(evaluate(model, x, y, "Linf 0.04", suite)).computed)
    assert keys[0] == keys[2] != keys[1]
    assert groups[0] == groups[2] != groups[1]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    suites.load(str(write(tmp_path / "a")))
    suites.load(str(write(tmp_path / "b")))
    with pytest.raises(UserError, match=r"Two different attack files are called mine\.py\. Rename one"):
        suites.load(str(write(tmp_path / "c", SIGN + "\n# other\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"mine\.py is not an attack: it lacks VERSION, CITATION, Params, cost, search\."),
        ("def (\n", r"mine\.py cannot be imported: SyntaxError"),
        ("import nowhere_to_be_found\n", r"mine\.py cannot be imported: ModuleNotFoundError"),
        (HEAD.replace("VERSION = 1", "VERSION = True") + SIGN, "VERSION must be a whole number from 1"),
        (HEAD.replace('"A test of attacks in files"', "3") + SIGN, "and CITATION text"),
    ],
)
def test_files_that_are_no_attack_are_refused(text: str, message: str, tmp_path: Path) -> None:
    column = write(tmp_path)
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        suites.load(str(column))


def test_a_missing_file_and_parameters_it_does_not_have_are_refused(tmp_path: Path) -> None:
    column = write(tmp_path)
    column.write_text(COLUMN + "steps = 3\n")
    with pytest.raises(UserError, match=r"column\.toml: .*Unknown mine\.py parameter.*steps"):
        suites.load(str(column))
    (tmp_path / "mine.py").unlink()
    with pytest.raises(UserError, match=r"mine\.py does not exist\. Give the file of the attack, rela"):
        suites.load(str(column))


# Functions.


def corners(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: Any, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.rand(x_NCHW.shape, generator=generator).round() * 2 - 1
    return (x_NCHW + threat.radius * signs).clamp(0, 1)


def test_functions_are_columns(tmp_path: Path) -> None:
    model, x, y = linear_problem(n=20)
    suite = [corners, "fgsm", partial(corners, seed=3)]
    with pytest.raises(UserError, match=r"Two attacks are called python:corners\. Give the"):
        evaluate(model, x, y, "Linf 0.04", suite)
    result = evaluate(model, x, y, "Linf 0.04", suite[:2], out=tmp_path / "run")
    assert [*result.columns] == ["clean", "corners", "fgsm"]
    assert result.columns["corners"].attacks[0].library.startswith("python sha256:")
    assert result.columns["fgsm"].n_robust <= result.columns["corners"].n_robust
    again = evaluate(model, x, y, "Linf 0.04", suite[:2], out=tmp_path / "run")
    assert again.columns == result.columns


@pytest.mark.parametrize("suite", [[], [3], [None, "fgsm"], (), {"fgsm"}])
def test_other_suites_are_refused(suite: Any) -> None:
    model, x, y = linear_problem(n=4)
    with pytest.raises(UserError, match=r"The suite (must be a Suite, text such as|is empty)"):
        evaluate(model, x, y, "Linf 0.04", suite)


def wrong(kind: str, x: Tensor, y: Tensor, radius: float) -> Any:
    if kind == "labels":
        y.add_(1).remainder_(2)
        return x
    if kind == "images":
        x.copy_(1 - x)
        return x
    return {
        "far": lambda: 1 - x,
        "box": lambda: x + 1.5,
        "nan": lambda: x * float("nan"),
        "double": lambda: x.double() + 2 * radius,
    }[kind]()


@pytest.mark.parametrize("kind", ["labels", "images", "far", "box", "nan", "double"])
def test_an_attack_cannot_claim_success(kind: str) -> None:
    """It changes its inputs, or returns images that are none: nothing counts as broken."""
    model, x, y = linear_problem(n=30)

    def attack(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: Any) -> Any:
        return wrong(kind, x_NCHW, y_N, threat.radius)

    result = evaluate(model, x, y, "Linf 0.001", [attack])
    column = result.columns["attack"]
    assert column.n_robust == result.columns["clean"].n_robust
    assert column.attacks[0].n_broken == 0
    if kind not in ("labels", "images"):
        assert column.attacks[0].n_invalid > 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: None, r"attack returned NoneType for images of shape \(\d+, "),
        (lambda x: x[:1], r"attack returned \(1, .*\) for images of shape"),
        (lambda x: x.numpy(), r"attack returned ndarray for images"),
        (lambda x: 1 / 0, r"attack failed on a batch of \d+: ZeroDivisionError"),
    ],
)
def test_an_attack_that_returns_something_else_stops_the_run(
    returned: Callable[[Tensor], Any], message: str
) -> None:
    model, x, y = linear_problem(n=10)

    def attack(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: Any) -> Any:
        return returned(x_NCHW)

    with pytest.raises(UserError, match=message):
        evaluate(model, x, y, "Linf 0.04", [attack])


# Verification.


NEEDS_CODE = r"The attack mine\.py is a file of the user\. Give the suite .* verify --audit-suite FILE\.toml"
OTHER_CODE = r"The code of mine\.py is mine\.py sha256:.* in the result\. Give the code of the"


def test_an_audit_needs_the_code_of_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, y = linear_problem(n=20)
    suite = str(write(tmp_path / "code"))
    result = evaluate(model, x, y, "Linf 0.04", suite)
    monkeypatch.setattr(_foreign, "_named", {})
    with pytest.raises(UserError, match=NEEDS_CODE):
        plan_audit(result, 1, 0)
    own = result.columns["column"].attacks[0].library
    assert plan_audit(result, 1, 0, suite).request.library("mine.py") == own
    monkeypatch.setattr(_foreign, "_named", {})
    with pytest.raises(UserError, match=OTHER_CODE):
        plan_audit(result, 1, 0, str(write(tmp_path / "other", SIGN + "\n# edited\n")))
    function = evaluate(model, x, y, "Linf 0.04", [corners])
    monkeypatch.setattr(_foreign, "_named", {})
    with pytest.raises(UserError, match=r"python:corners was a function given to evaluate\(\)\. Call"):
        plan_audit(function, 1, 0)


@pytest.mark.slow
def test_evidence_is_judged_without_the_code_and_an_audit_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_checkpoint(tmp_path / "net.pt")
    with torch.no_grad():
        y = network(X_NCHW).argmax(1).numpy()
    np.savez(tmp_path / "images.npz", x=IMAGES, y=y, class_names=np.array([str(k) for k in range(10)]))
    suite = str(write(tmp_path / "code"))
    run(tmp_path, suite=suite)
    monkeypatch.setattr(_foreign, "_named", {})
    assert verified(tmp_path).passed
    with pytest.raises(UserError, match=NEEDS_CODE):
        verified(tmp_path, audit=10)
    assert verified(tmp_path, audit=10, audit_suite=suite).passed
    other = str(write(tmp_path / "other", SIGN + "\n# edited\n"))
    monkeypatch.setattr(_foreign, "_named", {})
    with pytest.raises(UserError, match=OTHER_CODE):
        verified(tmp_path, audit=10, audit_suite=other)


# Contract and command line.


@pytest.mark.slow
def test_shards_are_merged_with_the_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = str(write(tmp_path / "code"))
    call = command_runner(capsys, monkeypatch, tmp_path)
    words = ("run", str(CHECKPOINT), "--suite", suite, "--examples", "20", "--out", "run")
    for number in (1, 2):
        assert call(*words, "--shard", f"{number}/2")[0] == 0
    monkeypatch.setattr(_foreign, "_named", {})
    folders = [str(path) for path in tmp_path.glob("run.shard-*")]
    refused(call("merge", *folders), NEEDS_CODE)
    other = str(write(tmp_path / "other", SIGN + "\n# edited\n"))
    refused(call("merge", *folders, "--suite", other), OTHER_CODE)
    monkeypatch.setattr(_foreign, "_named", {})
    assert call("merge", *folders, "--suite", suite)[0] == 0


def test_the_contract_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "    return x_NCHW.clone()\n")
    call = command_runner(capsys, monkeypatch, tmp_path)
    code, out, _ = call("contract", "mine.py")
    assert code == 1
    assert "interface          passed\n" in out
    assert "images, Linf       failed: It breaks none of 4 images at epsilon 0.2.\n" in out
    assert re.search(r"^mine\.py sha256:\w{64}: 5 of 9 checks passed\.$", out, re.MULTILINE)
    code, out, _ = call("contract", "fgsm")
    assert (code, out.splitlines()[-1][-21:]) == (0, "9 of 9 checks passed.")
    refused(call("contract", "none.py"), r"none\.py does not exist")
    refused(call("contract", "column.toml"), r"column\.toml is a column, suite or recipe\. Give the attack")
    refused(call("contract", "fgms"), r"Unknown attack family 'fgms'\. Did you mean fgsm\?")


BROKEN = {
    "images outside the ball": ("return x_NCHW.mul(0.5)", "farther than epsilon"),
    "pixels outside the box": ("return x_NCHW + threat.radius", r"outside \[0, 1\]"),
    "no numbers": ("return x_NCHW * float('nan')", "returns NaN or infinity"),
    "other type": ("return x_NCHW.double()", "must return a float32 tensor of shape"),
    "gradient": ("return x_NCHW.clone().requires_grad_()", "must not require a gradient"),
    "input": ("x_NCHW.zero_(); return x_NCHW", "changes the images|farther than"),
    "labels": ("y_N.zero_(); return x_NCHW", "changes the images or labels that it receives"),
    "training": ("model.train(); return x_NCHW.clone()", "buffers of the model|training mode"),
    "nothing": ("model(x_NCHW); return x_NCHW.clone()", "breaks none of 4 images"),
    "randomness": (
        "return (x_NCHW + threat.radius * torch.rand_like(x_NCHW)).clamp(0, 1)",
        "the seed only",
    ),
    "cost": ("[model(x_NCHW) for _ in range(3)]; return x_NCHW.clone()", "it made 3 and 0"),
    "one image": ("return x_NCHW.squeeze(0)", "must return 1 images for 1 images"),
    "failure": ("raise ValueError('no')", "It failed: ValueError: no"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_breach_of_the_contract_is_named(name: str, tmp_path: Path) -> None:
    body, message = BROKEN[name]
    write(tmp_path, f"    {body}\n")
    problems = [outcome.problem for outcome in attack_contract.outcomes(attacks.add(tmp_path / "mine.py"))]
    assert any(re.search(message, problem) for problem in problems), problems
    model, *_ = attack_contract.problem()
    model.eval()


def test_an_attack_that_keeps_the_contract(tmp_path: Path) -> None:
    step = "threat.radius * gradient.sign()"
    body = "    from robust_eval.core.norms import project\n" + SIGN
    write(tmp_path, body.replace(step, f"project({step}, threat.norm, threat.radius)"))
    outcomes = [*attack_contract.outcomes(attacks.add(tmp_path / "mine.py"))]
    assert [outcome for outcome in outcomes if outcome.problem] == []
    assert len(outcomes) == 9


def test_what_an_attack_of_the_user_does_wrong_is_named() -> None:
    model, x, y = linear_problem(n=60)

    def returns_nan(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: Any) -> Tensor:
        return x_NCHW * float("nan")

    def raises(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: Any) -> Tensor:
        raise KeyError("k")

    def does_nothing(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, threat: Any) -> Tensor:
        return x_NCHW

    found = {flag.id for flag in evaluate(model, x, y, "Linf 0.04", suite=[returns_nan]).flags}
    assert "outside-ball-or-box" in found
    assert "non-finite-under-attack" not in found, "the model is finite"
    with pytest.raises(
        UserError, match=r"KeyError: 'k'\. Correct the attack: test_foreign_attacks\.py, line"
    ):
        evaluate(model, x, y, "Linf 0.04", suite=[raises])
    idle = evaluate(model, x, y, "Linf 0.04", suite=[does_nothing])
    assert "attack-without-effect" in {flag.id for flag in idle.flags}
    assert not idle.rankable
