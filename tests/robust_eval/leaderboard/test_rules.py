"""Rows that may not be on a board, and the message for each reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.synthetic_results import bits, full, result

from robust_eval.core import discovery
from robust_eval.core.errors import UserError
from robust_eval.leaderboard import rules
from robust_eval.leaderboard.board import Board, load_board
from robust_eval.leaderboard.row import Row
from robust_eval.results import EvalResult, verification_record
from robust_eval.results.verification_record import CheckRecord, Verification

OWN = """
title = "Ours"
data = ["digits"]
norm = "Linf"
eps = "0.1"
suite = "full"
minimum_n = 400
"""


@pytest.fixture
def board(tmp_path: Path) -> Board:
    (tmp_path / "board.toml").write_text(OWN)
    return load_board(tmp_path)


def problem_texts(board: Board, found: EvalResult) -> list[str]:
    return [problem.text for problem in rules.check_rows(board, [Row("results/a.json", found)])]


def column(found: EvalResult, name: str, **changes: Any) -> EvalResult:
    columns = {**found.columns, name: found.columns[name].model_copy(update=changes)}
    return found.model_copy(update={"columns": columns})


def test_a_correct_row_has_no_problems(board: Board) -> None:
    assert problem_texts(board, full(200)) == []


@pytest.mark.parametrize(
    ("columns", "flag"),
    [
        ({"fgsm": bits(400, 200), "pgd-20": bits(400, 230), "aa": bits(400, 190)}, "weaker-beats-stronger"),
        ({"fgsm": bits(400, 210), "pgd-20": bits(400, 200), "aa": bits(400, 250)}, "weaker-beats-stronger"),
        ({"fgsm": bits(400, 360), "pgd-20": bits(400, 2), "aa": bits(400, 1)}, "attack-without-effect"),
    ],
    ids=["PGD above FGSM", "AutoAttack above PGD", "FGSM equal to clean"],
)
def test_implausible_rows_are_reported(tmp_path: Path, columns: dict[str, str], flag: str) -> None:
    found = result({"clean": bits(400, 360), **columns})
    assert any(
        f"has implausible numbers: {flag} (" in text for text in problem_texts(Board(tmp_path, "open"), found)
    )


def test_noise_between_attacks_is_accepted(tmp_path: Path) -> None:
    """AutoAttack two images above PGD: random starts can cause that."""
    columns = {"clean": bits(400, 360), "pgd-20": bits(400, 200), "aa": bits(400, 202)}
    assert problem_texts(Board(tmp_path, "open"), result(columns)) == []


def test_accuracy_at_chance_is_reported(tmp_path: Path) -> None:
    found = result({"clean": bits(400, 40), "fgsm": bits(400, 40), "aa": bits(400, 40)})
    texts = problem_texts(Board(tmp_path, "open"), found)
    assert "is not above chance: 10.00% clean, chance 10.00%" in texts
    assert any("collapsed" in text for text in texts)


def test_contradictions_are_reported(tmp_path: Path) -> None:
    open_board = Board(tmp_path, "open")
    found = result({"clean": bits(400, 300), "fgsm": bits(400, 310)})
    assert problem_texts(open_board, found) == [
        "contradicts itself: fgsm: 10 images are robust but wrong without an attack"
    ]
    correct = full(200)
    raised = correct.model_copy(update={"worst_case": full(220).worst_case})
    assert problem_texts(open_board, raised) == [
        "contradicts itself: the worst case is not the AND of its columns, example by example"
    ]


def test_partial_and_blocked_rows_are_reported(board: Board) -> None:
    partial = result({"clean": bits(400, 360), "fgsm": bits(400, 300)}, suite="full", status="partial")
    assert "is partial: pgd-20, pgd-100, cw-inf, spsa, aa not finished" in problem_texts(board, partial)
    assert problem_texts(board, full(200, extra_flags=["train-mode"])) == [
        "has a flag that blocks ranking: train-mode (as planted)"
    ]


def test_a_removed_flag_is_reported(tmp_path: Path) -> None:
    columns = {"clean": bits(400, 50), "fgsm": bits(400, 30)}
    texts = problem_texts(Board(tmp_path, "open"), result(columns, own_flags=False))
    assert any(text.startswith("lacks a flag that its own numbers raise: collapsed") for text in texts)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (full(200, data="mnist"), "is on mnist (test); the board is for digits (test)"),
        (full(200, eps="8/255"), "is under Linf 8/255; the board is for Linf 0.1"),
        (full(200, norm="L2"), "is under L2 0.1; the board is for Linf 0.1"),
        (full(150, n=300, clean=290), "has 300 examples; the board requires at least 400"),
        (
            result(
                {"clean": bits(400, 360), "fgsm": bits(400, 200), "pgd-20": bits(400, 190)}, suite="quick"
            ),
            "was evaluated with suite quick (version 1); the board requires full (version 1)",
        ),
    ],
)
def test_rows_of_another_setting_are_reported(board: Board, found: EvalResult, text: str) -> None:
    assert problem_texts(board, found) == [text]


def test_attacks_must_have_the_parameters_of_the_suite(board: Board) -> None:
    """The name of the suite is not enough: version and parameters of every attack are compared."""
    row = full(200)
    attack = row.columns["pgd-20"].attacks[0]
    weak = attack.model_copy(update={"params": {**attack.params, "steps": 1}})
    assert problem_texts(board, column(row, "pgd-20", attacks=(weak,))) == [
        "is not of suite full: it has steps 1 instead of 20 in attack pgd-20 of column pgd-20"
    ]
    older = attack.model_copy(update={"version": 0})
    assert problem_texts(board, column(row, "pgd-20", attacks=(older,))) == [
        "has another version of attack pgd-20 than suite full"
    ]


def without_autoattack() -> EvalResult:
    row = full(200)
    remaining = {name: record for name, record in row.columns.items() if name != "aa"}
    names = tuple(remaining)
    suite = row.suite.model_copy(update={"columns": names})
    worst = result({name: record.robust_bits for name, record in remaining.items()}).worst_case
    return row.model_copy(update={"columns": remaining, "suite": suite, "worst_case": worst})


def test_missing_columns_are_reported(board: Board, tmp_path: Path) -> None:
    """Also on a board without rules: the row names a suite that it does not have."""
    assert problem_texts(board, without_autoattack()) == ["is not of suite full: it lacks column aa"]
    assert problem_texts(Board(tmp_path, "open"), without_autoattack()) == [
        "names suite full v1, but lacks column aa"
    ]


def test_the_suite_of_a_board_may_be_a_list_of_columns(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(OWN.replace('"full"', '"fgsm,pgd-20"'))
    board = load_board(tmp_path)
    row = result({"clean": bits(400, 360), "fgsm": bits(400, 200), "pgd-20": bits(400, 190)})
    assert problem_texts(board, row) == []
    attack = row.columns["pgd-20"].attacks[0].model_copy(update={"params": {"steps": 1}})
    assert problem_texts(board, column(row, "pgd-20", attacks=(attack,)))[0].startswith(
        "is not of suite clean,fgsm,pgd-20: it has step_l2 null instead of "
    )


def test_fingerprints_of_a_board(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(OWN + f'fingerprints = ["{"12" * 32}"]\n')
    pinned = load_board(tmp_path)
    assert problem_texts(pinned, full(200)) == [
        "is on different images than the board's (their fingerprints differ)"
    ]
    assert problem_texts(pinned, full(200, fingerprint="12" * 32)) == []


def test_two_rows_for_one_checkpoint_are_reported(board: Board) -> None:
    again = full(198)
    found = [Row("results/a.json", full(200)), Row("results/b.json", again)]
    assert rules.check_rows(board, found) == [
        ("results/b.json", "is a second row for the checkpoint of results/a.json")
    ]
    found[1] = Row("results/b.json", full(198, name="other.pt"))
    assert rules.check_rows(board, found) == []


def test_local_paths_are_reported(board: Board) -> None:
    for path in ("/home" + "/someone/net.pt", "C:\\Users\\someone", "see /tmp" + "/x"):
        found = full(200, trained_with={"provenance": {"from": path}})
        assert problem_texts(board, found) == ["contains a path of the machine on which it was made"]
    assert problem_texts(board, full(200, trained_with={"sources": "arxiv.org/abs/2004.05884, ~/data"})) == []


def test_failed_and_outdated_verifications_are_reported(board: Board) -> None:
    record = Verification(
        result="00" * 32,
        checks=(CheckRecord(name="still wrong", passed=False, detail="3 images"),),
        trusted=(),
        forwards=1,
        seconds=1,
        share=None,
        robust_eval="0.1.0",
        device="cpu",
        created="2026-01-01",
    )
    rows = [Row("results/a.json", full(200), verification=record)]
    assert [problem.text for problem in rules.check_rows(board, rows)] == ["failed its verification"]
    assert rows[0].standing == "failed verification"
    verification_outdated = Row("results/a.json", full(200), verification_outdated=True)
    assert (
        "of different content: run robust-eval verify again"
        in rules.check_rows(board, [verification_outdated])[0].text
    )
    assert verification_outdated.standing == "self-reported"
    assert verification_record.path_beside(Path("results/a.json")).name == "a.verification.json"


@pytest.mark.parametrize("name", discovery.config_ids("boards"))
def test_every_board_of_the_project_is_valid(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    board = load_board(folder)
    assert board.rules is not None
    assert board.suite() is not None
    assert board.threat() is not None
    assert board.title == board.rules.title


def test_an_open_board_and_rules_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert load_board(tmp_path / "mine").rules is None
    assert load_board(tmp_path / "mine", "Title").title == "Title"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "board.toml").write_text(OWN)
    (tmp_path / "mine" / "board.toml").write_text(OWN.replace("400", "1"))
    loose, strict = load_board(tmp_path / "mine"), load_board(tmp_path / "mine", None, tmp_path / "base")
    assert (loose.rules and loose.rules.minimum_n, strict.rules and strict.rules.minimum_n) == (1, 400)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("minimum_n = 400", "minimum_n = 0"), "board.toml: minimum_n: .* greater than or equal to 1"),
        (("minimum_n", "minimun_n"), "board.toml: minimum_n: Field required"),
        (('"full"', '"ful"'), "board.toml: .*Did you mean full"),
        (('eps = "0.1"', 'eps = "0"'), "board.toml: epsilon must be above 0"),
        (('suite = "full"', 'suite = "full"\nrank_by = "pdg-20"'), "board.toml: .*Did you mean pgd-20"),
        (('title = "Ours"', 'title = "Ours'), "is not valid TOML"),
    ],
)
def test_invalid_rules_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "board.toml").write_text(OWN.replace(*change))
    with pytest.raises(UserError, match=message):
        load_board(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        load_board(tmp_path / "none")
