"""Content of the Markdown table, and escaping of untrusted text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.known_models import linear_problem
from support.synthetic_results import full

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.leaderboard.page import markdown
from robust_eval.leaderboard.robustbench_import import PublishedEntry
from robust_eval.leaderboard.row import Row, read_rows
from robust_eval.results import EvalResult, trust


@pytest.fixture(scope="module")
def result() -> EvalResult:
    model, x, y = linear_problem(n=20)
    return evaluate(model, x, y, "Linf 0.02", suite="fgsm", name="linear.pt")


def renamed(result: EvalResult, name: str, **changes: object) -> EvalResult:
    checkpoint = result.checkpoint.model_copy(update={"name": name})
    return result.model_copy(update={"checkpoint": checkpoint, **changes})


def table(page: str) -> list[list[str]]:
    return [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]


def test_rows_are_sorted_by_worst_case_with_partial_rows_last() -> None:
    rows = [
        Row("results/a.json", full(100, name="weak.pt")),
        Row("results/b.json", full(200, name="strong.pt")),
        Row("results/c.json", full(199, name="near.pt")),
        Row("results/d.json", full(300, name="unfinished.pt", status="partial")),
    ]
    lines = table(markdown.render("b", rows))
    assert [line[0] for line in lines[2:]] == ["| 1=", "| 1=", "| 3", "| -"]
    assert [line[1] for line in lines[2:]] == ["strong.pt", "near.pt", "weak.pt", "unfinished.pt (partial)"]


def test_selection_and_standing_are_shown() -> None:
    recipe = {"name": "at-awp", "selection": {"validation": 1000}}
    rows = [
        Row("a.json", full(200, name="best.pt", trained_with={"recipe": recipe})),
        Row("b.json", full(180, name="x.pt", trained_with={"provenance": {"selected": "test"}})),
        Row("c.json", full(160, name="y.pt")),
    ]
    header, _, *lines = table(markdown.render("b", rows))
    at = header.index("selected")
    assert [line[at] for line in lines] == ["validation", "test", "unknown"]
    assert [line[header.index("standing")] for line in lines] == ["self-reported"] * 3
    assert [line[header.index("precision")] for line in lines] == ["float32"] * 3
    assert lines[0][1] == "at-awp"


def test_the_ranking_column_is_named() -> None:
    rows = [Row("a.json", full(200))]
    assert "Ranked by worst case;" in markdown.render("b", rows)
    assert "Ranked by column aa;" in markdown.render("b", rows, by="aa")


def test_published_entries_are_in_a_separate_marked_table() -> None:
    entry = PublishedEntry(
        id="Evil|<b>",
        paper="A [title](javascript:alert(1))",
        link="https://example.org",
        architecture="WideResNet-34-10",
        venue="NeurIPS 2020",
        clean=85.36,
        robust=56.17,
        source="RobustBench 1.1.1",
        unreliable=True,
    )
    page = markdown.render("b", [Row("a.json", full(200))], published=[entry])
    ours, theirs = page.split("## Published elsewhere: reported, not re-judged")
    assert "56.17" not in ours
    assert "| 85.36 | 56.17 | reported, not re-judged, marked as unreliable by RobustBench |" in theirs
    assert "From RobustBench 1.1.1" in theirs
    assert "<b>" not in theirs
    assert not re.search(r"(?<!\\)\]\(", theirs)


def test_a_row_shows_numbers_interval_n_and_link(result: EvalResult) -> None:
    page = markdown.render("digits", [Row("results/a b.json", result)])
    assert "| 90.00 (69.9–97.2) |" in page
    assert "[json](results/a%20b.json)" in page
    assert "| 20 |" in page


def test_each_threat_model_has_its_own_table(result: EvalResult) -> None:
    other = result.threat.model_copy(update={"eps": "0.031"})
    page = markdown.render(
        "b", [Row("a.json", result), Row("b.json", result.model_copy(update={"threat": other}))]
    )
    assert page.count("\n## digits") + page.count("\n## arrays") == 2


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
def test_hostile_names_are_escaped(result: EvalResult, name: str) -> None:
    page = markdown.render(name, [Row("a.json", renamed(result, name))])
    plain = markdown.render("t", [Row("a.json", renamed(result, "name"))])
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(page.splitlines()) == len(plain.splitlines())
    assert len(lines) == 3
    unescaped = lines[-1].replace("\\|", "")
    assert unescaped.count("|") == lines[0].count("|")
    for active in ("<script", "\u202e", "\u0007", "http://"):
        assert active not in page
    assert re.findall(r"(?<!\\)\]\(([^)]*)", page) == ["a.json"]


def test_folders_that_are_not_boards_are_refused(tmp_path: Path, result: EvalResult) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_rows(tmp_path / "none")
    with pytest.raises(UserError, match="contains no result files"):
        read_rows(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text(result.to_json())
    assert [row.file for row in read_rows(tmp_path)] == ["results/a.json"]
    (tmp_path / "results" / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"b\.json is not a robust-eval result"):
        read_rows(tmp_path)


def test_a_row_that_names_a_suite_falsely_is_custom() -> None:
    """Said in the heading of its own table and, with the difference, below it."""
    value = full(200, name="weak.pt").model_dump(mode="json")
    value["columns"]["pgd-20"]["attacks"][0]["params"]["steps"] = 1
    page = markdown.render("b", [Row("a.json", full(200)), Row("b.json", EvalResult.model_validate(value))])
    assert re.findall("^## digits.*", page, re.MULTILINE) == [
        "## digits (test), 400 images, Linf 0.1, suite full v1",
        "## digits (test), 400 images, Linf 0.1, suite custom (claims full v1)",
    ]
    assert "- weak.pt names suite full v1, but has steps 1 instead of 20 in attack pgd-20" in page


def test_what_verification_takes_on_trust_is_said_once() -> None:
    page = markdown.render("b", [Row("a.json", full(200)), Row("b.json", full(150, eps="8/255"))])
    assert page.count("## What verification takes on trust") == 1
    for sentence in trust.GENERAL:
        assert page.count(markdown.escape(sentence)) == 1
