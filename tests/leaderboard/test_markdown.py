from __future__ import annotations

import re
from pathlib import Path

import pytest
from known_models import linear_problem

from robust_eval import evaluate
from robust_eval.errors import UserError
from robust_eval.leaderboard import markdown
from robust_eval.leaderboard.rows import Row, ranked, read_board
from robust_eval.schema import EvalResult


@pytest.fixture(scope="module")
def result() -> EvalResult:
    model, x, y = linear_problem(n=20)
    return evaluate(model, x, y, "Linf 0.02", suite="fgsm", name="linear.pt")


def renamed(result: EvalResult, name: str, robust: int = 10, **changes: object) -> EvalResult:
    checkpoint = result.checkpoint.model_copy(update={"name": name})
    worst = result.worst_case.model_copy(update={"n_robust": robust, "accuracy": robust / 20})
    return result.model_copy(update={"checkpoint": checkpoint, "worst_case": worst, **changes})


def test_best_worst_case_first_and_partial_rows_last(result: EvalResult) -> None:
    rows = [
        Row("results/a.json", renamed(result, "weak.pt", 3)),
        Row("results/b.json", renamed(result, "strong.pt", 15)),
        Row("results/c.json", renamed(result, "unfinished.pt", 20, status="partial")),
    ]
    can_rank, cannot = ranked(rows)
    assert [row.name for row in can_rank] == ["strong.pt", "weak.pt"]
    assert [row.name for row in cannot] == ["unfinished.pt"]
    lines = [line for line in markdown.board("b", rows).splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 1", "| 2", "| -"]
    assert "unfinished.pt (partial)" in lines[-1]


def test_numbers_intervals_n_and_link(result: EvalResult) -> None:
    page = markdown.board("digits", [Row("results/a b.json", result)])
    assert "| 90.00 ± 13.7 |" in page
    assert "[json](results/a%20b.json)" in page
    assert "| 20 |" in page


def test_other_threat_models_get_a_table_of_their_own(result: EvalResult) -> None:
    other = result.threat.model_copy(update={"eps": "0.031"})
    page = markdown.board(
        "b", [Row("a.json", result), Row("b.json", result.model_copy(update={"threat": other}))]
    )
    assert page.count("## ") == 2


@pytest.mark.parametrize(
    "name",
    [
        "a|b|c",
        "<script>alert(1)</script>",
        "![x](http://evil.example/track.png)",
        "[click](javascript:alert(1))",
        "line\n\n# heading",
        "`code`",
        "\u202egnp.exe",
        "x\u0007y",
    ],
)
def test_hostile_names_stay_text(result: EvalResult, name: str) -> None:
    page = markdown.board(name, [Row("a.json", renamed(result, name))])
    plain = markdown.board("t", [Row("a.json", renamed(result, "name"))])
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(page.splitlines()) == len(plain.splitlines())
    assert len(lines) == 3
    unescaped = lines[-1].replace("\\|", "")
    assert unescaped.count("|") == lines[0].count("|")
    for active in ("<script", "\u202e", "\u0007", "http://"):
        assert active not in page
    assert re.findall(r"(?<!\\)\]\(([^)]*)", page) == ["a.json"]


def test_folders_that_are_no_boards(tmp_path: Path, result: EvalResult) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_board(tmp_path / "none")
    with pytest.raises(UserError, match="holds no result files"):
        read_board(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text(result.to_json())
    assert [row.file for row in read_board(tmp_path)] == ["results/a.json"]
    (tmp_path / "results" / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"b\.json is not a robust-eval result"):
        read_board(tmp_path)
