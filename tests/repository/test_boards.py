"""The published boards have no problems, rows can be verified, and the documentation shows their numbers."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robust_eval.cli.main import app
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard import attachments, build, page_extras
from robust_eval.leaderboard.board import load_board
from robust_eval.leaderboard.row import Row, read_rows
from robust_eval.results import read_result
from robust_eval.results.comparison import Difference, compare
from robust_eval.verification.options import VerifyOptions
from robust_eval.verification.verify import verify_result
from scripts.tables import pairs, pipelines, regularisers, reproduction

ROOT = Path(__file__).resolve().parents[2]
BOARDS = sorted(path.parent for path in ROOT.glob("leaderboards/*/results"))
# Rows of the published board whose images are installed with scikit-learn.
ROWS = [
    row
    for row in sorted(ROOT.glob("leaderboards/digits/results/*.json"))
    if attachments.attached_checkpoint(row)
]


@pytest.mark.parametrize("folder", BOARDS, ids=lambda folder: folder.name)
def test_a_published_board_has_no_problems(folder: Path) -> None:
    board = load_board(folder)
    assert board.rules is not None, "a published board must have rules"
    rows, problems = build.check_board(board)
    assert problems == []
    assert all(row.standing.startswith("verified") for row in rows)
    assert all(row.selected in ("validation", "last") for row in rows), (
        "checkpoints must not be selected on test images"
    )


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_is_verified_from_its_attachments(path: Path) -> None:
    options = VerifyOptions(
        checkpoint=str(attachments.attached_checkpoint(path)),
        evidence=attachments.attached_evidence(path),
        device="cpu",
    )
    found = verify_result(path, options)
    assert found.passed, [check for check in found.checks if not check.passed]


@pytest.mark.parametrize("suffix", [".curve.csv", ".images.json"])
def test_page_extras_of_another_row_are_reported(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "leaderboards" / "digits", folder)
    one, other = (next((folder / "results").glob(f"{name}-????????{suffix}")) for name in ("at", "rst"))
    one.write_bytes(other.read_bytes())
    build.write_pages(load_board(folder), read_rows(folder))
    _, problems = build.check_board(load_board(folder))
    assert [(problem.file, problem.text) for problem in problems] == [
        (f"results/{one.name}", "does not belong to the row it is stored with")
    ]


def test_an_edited_curve_is_reported(tmp_path: Path) -> None:
    """The edit is at the checkpoint's epoch, whose metrics it records; other epochs cannot be checked."""
    folder = tmp_path / "digits"
    shutil.copytree(ROOT / "leaderboards" / "digits", folder)
    row = next(row for row in read_rows(folder) if row.name == "at")
    curve = (folder / row.file).with_suffix(".curve.csv")
    metrics = row.result.checkpoint.trained_with["metrics"]
    lines = [line.split(",") for line in curve.read_text().splitlines()]
    column = lines[0].index("val_pgd")
    chosen = next(line for line in lines[1:] if line[0] == str(metrics["epoch"]))
    chosen[column] = "0.99"
    curve.write_text("\n".join(",".join(line) for line in lines) + "\n")
    build.write_pages(load_board(folder), read_rows(folder))
    assert [problem.text for problem in build.check_board(load_board(folder))[1]] == [
        "does not belong to the row it is stored with"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", ROWS[:1], ids=lambda path: path.stem)
def test_the_recorded_command_reproduces_the_row(path: Path, tmp_path: Path) -> None:
    """Runs every attack again, which takes minutes. Few verdicts may differ on another processor."""
    before = read_result(path)
    assert before.command is not None
    words = shlex.split(before.command)
    words[words.index(before.checkpoint.name)] = str(attachments.attached_checkpoint(path))
    assert CliRunner().invoke(app, [*words[1:], "--out", str(tmp_path / "again")]).exit_code == 0
    after = read_result(tmp_path / "again" / "result.json")
    for name, column in before.columns.items():
        differ = parse_bits(column.robust_bits) != parse_bits(after.columns[name].robust_bits)
        assert differ.sum() <= 0.01 * column.n, name


def test_the_tables_of_the_pages_are_up_to_date() -> None:
    made = dict(reproduction.tables())
    for path in reproduction.PAGES:
        text = path.read_text(encoding="utf-8")
        assert reproduction.page(text, made) == text, "run python -m scripts.tables.reproduction"
    page, readme = (path.read_text(encoding="utf-8") for path in reproduction.PAGES)
    for folder in BOARDS:
        table = f"<!-- board {folder.name} -->\n| ["
        assert (table in readme) == (folder.name == "digits")
        assert (table in page) == (folder.name != "digits")
        assert f"<!-- pairs of {folder.name} -->\n<!-- end" not in page
        assert f"<!-- rows of {folder.name} -->\n| " in page


@pytest.mark.parametrize(("board", "points"), [("mnist-linf-0.3", 2), ("cifar10-jpeg-linf-8-255", 5)])
def test_the_stated_bound_on_the_robust_gap_holds(board: str, points: int) -> None:
    folder = ROOT / "leaderboards" / board
    rows = read_rows(folder)
    gaps = [
        extras.curve["robust_gap"][-1]
        for extras in page_extras.read_extras(folder, rows).values()
        if extras.curve
    ]
    assert len(gaps) == len(rows)
    assert max(abs(gap) for gap in gaps) <= points / 100
    assert f"within {points} points of zero" in " ".join(
        reproduction.PAGES[0].read_text(encoding="utf-8").split()
    )


def test_the_conclusions_about_mnist_pairs_hold() -> None:
    """The paper's sign under AutoAttack, no gain under gradient attacks, none significant; no flag."""
    rows = read_rows(ROOT / "leaderboards" / "mnist-linf-0.3")
    found = pairs.find_pairs(rows)
    assert [pair.before.name for pair in found] == ["at", "trades", "mart"]
    for pair in found:
        assert pair.ours["aa"].value > 0
        assert not pair.ours["aa"].significant
        for name in ("fgsm", "pgd-20", "pgd-100", "cw-inf"):
            assert pair.ours[name].value <= 0 or not pair.ours[name].significant
    assert {reproduction.flag_ids(row) for row in rows} == {"-"}
    square = [a.n_broken for row in rows for a in row.result.columns["aa"].attacks if a.id == "square"]
    assert sorted({*square}) == [2, 3, 4, 6]
    at, rwp = (next(row.result for row in rows if row.name == name) for name in ("at", "at-rwp"))
    assert not any(found.significant for found in compare(rwp, at).differences)
    text = " ".join(reproduction.PAGES[0].read_text(encoding="utf-8").split())
    assert "under AutoAttack all three differences have its sign, and none can be told from zero" in text


def test_the_tables_of_the_pipelines_are_up_to_date() -> None:
    for path in pipelines.PAGES:
        text = path.read_text(encoding="utf-8")
        assert "<!-- end of pipelines" in text
        assert pipelines.page(text) == text, "run python -m scripts.tables.pipelines"


def test_the_reproduced_row_is_on_the_board() -> None:
    row = next(row for row in read_rows(ROOT / "leaderboards" / "digits") if row.name == "trades")
    assert row.result.evidence is not None
    text = reproduction.PAGES[0].read_text(encoding="utf-8")
    assert f"{row.result.checkpoint.sha256[:12]}..." in text
    assert f"{row.result.evidence.sha256[:12]}..." in text


def test_the_conclusions_about_five_seeds_hold() -> None:
    """AT and TRADES gain on average, RST loses with every seed, MART's sign changes."""
    found = json.loads(pipelines.FIGURES.read_text(encoding="utf-8"))
    lines = [line.split("|")[1:-1] for line in pipelines.seed_table(found["accuracy"]).splitlines()[2:]]
    gains = {name.strip(): [float(cell) for cell in cells] for name, *cells in lines}
    assert gains["at"][-1] > 0
    assert gains["trades"][-1] > 0
    assert all(gain < 0 for gain in gains["rst"])
    assert min(gains["mart"]) < 0 < max(gains["mart"])
    assert all(share < 0.5 for share in found["pseudo_labels_right"].values())


def test_means_and_differences_over_seeds() -> None:
    found = {
        "at": {"0": {"pgd-20": 0.80}, "1": {"pgd-20": 0.84}},
        "at-awp": {"0": {"pgd-20": 0.85}, "1": {"pgd-20": 0.83}},
    }
    columns = {name: dict.fromkeys(("clean", "fgsm"), 0.9) for name in ("0", "1")}
    complete = {recipe: {s: {**columns[s], **one[s]} for s in one} for recipe, one in found.items()}
    assert "| at | 90.0 ± 0.0 | 90.0 ± 0.0 | 82.0 ± 2.8 |" in pipelines.accuracy_table(complete)
    assert pipelines.seed_table(complete).splitlines()[-1] == "| at | +5.0 | -1.0 | +2.0 |"


def test_the_pairs_of_the_paper() -> None:
    gains = [-0.5, 1.14, 2.04, 2.15, 1.77, 1.25, 1.44]  # Table 2, AT-AWP minus AT
    assert list(pairs.paper()["at"].values()) == [pytest.approx(gain) for gain in gains]
    assert set(pairs.paper()) == {"at", "trades", "mart", "pretraining", "rst"}


def renamed(row: Row, recipe: str) -> Row:
    found = copy.deepcopy(row)
    found.result.checkpoint.trained_with["recipe"]["name"] = recipe
    return found


def test_a_regulariser_is_compared_with_at_of_the_same_seed() -> None:
    """And with Table 4 of the paper: PGD-20 at the best epoch, minus AT."""
    gains = {"at-l1": -0.84, "at-l2": -1.19, "at-cutout": -0.01, "at-mixup": 0.08, "at-awp": 2.6}
    assert regularisers.paper() == pytest.approx(gains)
    digits = read_rows(ROOT / "leaderboards" / "digits")
    assert regularisers.table(digits) == "", "the board has only the paper's pairs"
    at, rst = (next(row for row in digits if row.name == name) for name in ("at", "rst"))
    cutout, mixup, other = renamed(rst, "at-cutout"), renamed(rst, "at-mixup"), renamed(at, "at")
    other.training["seed"] = 7
    head, _, *lines = regularisers.table([other, cutout, mixup, at]).splitlines()
    ours = 100 * (rst.result.columns["aa"].accuracy - at.result.columns["aa"].accuracy)
    assert head.startswith("| minus AT |")
    assert [line.split(" | ")[0] for line in lines] == ["| at-cutout", "| at-mixup"]
    assert all(f"| {ours:+.1f} (" in line for line in lines)
    assert "| -0.01 | yes |" in lines[0]
    assert "| +0.08 | no |" in lines[1]
    assert len(regularisers.table([other, cutout]).splitlines()) == 2, "only the heading"


@pytest.mark.parametrize(
    ("only_ours", "only_theirs", "interval", "paper", "sign", "size"),
    [
        (40, 10, (0.01, 0.05), 2.0, "yes", "yes"),
        (10, 40, (-0.05, -0.01), 2.0, "no", "no"),
        (40, 10, (0.01, 0.05), 7.0, "yes", "no"),
        (12, 10, (-0.02, 0.03), 2.0, "cannot tell", "yes"),
    ],
)
def test_agreement_with_the_paper_requires_significance(
    only_ours: int, only_theirs: int, interval: tuple[float, float], paper: float, sign: str, size: str
) -> None:
    n = 1000
    p = 0.001 if sign != "cannot tell" else 0.8
    found = Difference("aa", n, 0.5, 0.5 - (only_ours - only_theirs) / n, only_ours, only_theirs, p, interval)
    assert pairs.sign(found, paper) == sign
    assert pairs.size(found, paper) == size


def test_durations() -> None:
    assert [reproduction.duration(s) for s in (0, 42, 90, 5399, 7200)] == [
        "-",
        "42 s",
        "2 min",
        "90 min",
        "2.0 h",
    ]
