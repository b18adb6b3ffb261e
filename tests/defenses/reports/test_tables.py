"""The paper's tables filled with runs: arithmetic, rejected input, published values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.finished_runs import make_run
from support.synthetic_results import full
from typer.testing import CliRunner

from defenses.cli import main
from defenses.reports.tables import published
from defenses.reports.tables.published import NUMBERS, TableValue
from defenses.runs.reading import find_runs, read_run
from robust_eval.core.discovery import config_ids
from robust_eval.core.errors import UserError


def invoke(*words: str | Path) -> str:
    result = CliRunner().invoke(main.app, ["table", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def cells(text: str, *names: str) -> list[str]:
    """The remaining cells of the Markdown row whose first cells are ``names``."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    found = next(row for row in rows if tuple(row[: len(names)]) == names)
    return found[len(names) :]


def test_the_published_values() -> None:
    assert published.FILE in config_ids("published")
    counts = {n: (len(published.read(n).rows), len(published.read(n).columns)) for n in NUMBERS}
    assert counts == {"1": (4, 6), "2": (10, 7), "3": (12, 4), "4": (6, 4), "5": (6, 4)}
    for number in NUMBERS:
        for row in published.read(number).rows:
            assert set(row.values) == set(published.read(number).columns)
            assert published.method(row.method.lower().replace("+", "-").replace("pre-", "pre")) == row.method
    assert published.read("2").rows[3].values["AA"] == TableValue(56.17)
    assert published.read("3").rows[4].values["robust/best"] == TableValue(52.79, 0.21)
    assert published.read("3").rows[4].logged == {"natural/best": TableValue(81.7)}
    # Tables 1, 3 and 4 print the same runs.
    first, third = published.read("1").rows[0], published.read("3").rows[0]
    assert first.values["SVHN/last"].mean == third.values["robust/last"].mean


@pytest.mark.parametrize("number", config_ids("recipes"))
def test_a_recipe_with_a_published_name_is_in_a_table(number: str) -> None:
    method = published.method(number)
    rows = {row.method for n in NUMBERS for row in published.read(n).rows}
    assert method is None or method in rows


def test_mean_and_standard_deviation_over_seeds_next_to_the_published_values(tmp_path: Path) -> None:
    for seed, shift in enumerate((0.0, 0.02, 0.04)):
        make_run(tmp_path / f"s{seed}", "at-awp", seed, gamma=0.01, shift=shift)
    make_run(tmp_path / "at", "at")
    make_run(tmp_path / "other", "at-rwp")
    text = invoke("4", tmp_path, "--out", tmp_path / "table")
    # The second epoch is the best one on held-out images, although not on the test set.
    assert cells(text, "CIFAR-10 Linf", "AT-AWP", "ours") == [
        "51.00 ± 2.00",
        "52.00 ± 2.00",
        "76.00 ± 0.00",
        "82.00 ± 0.00",
    ]
    assert cells(text, "CIFAR-10 Linf", "AT", "ours") == ["49.00", "50.00", "76.00", "82.00"]
    assert cells(text, "CIFAR-10 Linf", "AT+L1", "paper")[0] == "51.95 ± 0.51"
    assert "seeds 0, 1, 2" in text
    assert "left out: other (at-rwp is not in table 4)" in text
    assert "NeurIPS 2020" in text
    written = json.loads((tmp_path / "table.json").read_text())
    row = next(r for r in written["rows"] if r["method"] == "AT-AWP")
    assert row["ours"]["robust/best"] == {"mean": pytest.approx(51), "sd": pytest.approx(2), "n": 3}
    assert row["paper"]["robust/best"]["mean"] == 55.39
    assert text.startswith((tmp_path / "table.md").read_text())


def test_table_1_gets_columns_for_data_sets_that_are_not_in_the_paper(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "at", data="mnist", norm="L2", test_measured=False)
    text = invoke("1", tmp_path / "a")
    assert "MNIST best | MNIST last" in text
    assert cells(text, "L2", "AT", "ours")[-2:] == ["50.00", "45.00"]
    assert "on held-out training images" in text


def test_replicate_takes_maxima_on_the_test_set(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    text = invoke("3", tmp_path, "--replicate")
    assert cells(text, "CIFAR-10 Linf", "AT", "ours") == ["50.00", "50.00", "82.00", "82.00"]
    assert "maximum over epochs on the test set, as the paper took it" in text
    make_run(tmp_path / "b", "at-awp", test_measured=False)
    with pytest.raises(
        UserError, match="--replicate takes maxima on the test set, which .*b did not measure"
    ):
        invoke("3", tmp_path, "--replicate")
    with pytest.raises(UserError, match="--replicate applies to learning curves"):
        invoke("2", tmp_path, "--replicate")


def test_table_2_comes_from_results(tmp_path: Path) -> None:
    for seed in (0, 1):
        trained = {
            "recipe": {"name": "trades-awp", "training": {"epochs": 200}},
            "provenance": {"seed": seed},
        }
        found = full(
            200 + 8 * seed, n=400, clean=360, name=f"{seed}.pt", data="cifar10", trained_with=trained
        )
        (tmp_path / f"{seed}").mkdir()
        (tmp_path / f"{seed}" / "result.json").write_text(found.to_json())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "result.json").write_text(full(200).to_json())
    text = invoke("2", tmp_path)
    assert cells(text, "CIFAR-10 Linf", "TRADES-AWP", "ours")[0] == "90.00 ± 0.00"
    assert cells(text, "CIFAR-10 Linf", "TRADES-AWP", "ours")[-1] == "51.00 ± 1.41"
    assert cells(text, "", "", "paper")[-1] == "56.17"
    assert "its checkpoint names no recipe" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 200, "clean": 180}, "differ in (images judged|what was measured)"),
        ({"eps": "16/255"}, "differ in what was measured .*judged at eps 8/255.*judged at eps 16/255"),
        ({"precision": "bf16"}, r"differ in precision \(32, bf16\)"),
        ({"train": "b"}, r"differ in train images \(a, b\)"),
    ],
)
def test_evaluations_that_differ_cannot_share_a_cell(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trained: list[dict[str, Any]] = [
        {"recipe": {"name": "at"}, "provenance": {"seed": seed, "precision": "32", "data": {"train": "a"}}}
        for seed in (0, 1)
    ]
    given = {"n": 400, "clean": 360, "eps": "8/255", **changes}
    trained[1]["provenance"]["precision"] = given.pop("precision", "32")
    trained[1]["provenance"]["data"] = {"train": given.pop("train", "a")}
    rows = [
        full(100, n=400, clean=360, eps="8/255", data="cifar10", trained_with=trained[0]),
        full(100, data="cifar10", trained_with=trained[1], **given),
    ]
    for seed, row in enumerate(rows):
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "result.json").write_text(row.to_json())
    with pytest.raises(UserError, match=message):
        invoke("2", tmp_path)


def test_runs_of_different_recipes_cannot_share_a_cell(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "at-awp", 0, gamma=0.01)
    make_run(tmp_path / "b", "at-awp", 1, gamma=0.005)
    with pytest.raises(
        UserError, match=r"would share a cell .* differ in perturbation.gamma \(0.01, 0.005\)"
    ):
        invoke("1", tmp_path)
    make_run(tmp_path / "c", "at-awp", 0, gamma=0.01)
    with pytest.raises(UserError, match=r"a and .*c both give AT-AWP, Linf, seed 0: name one of them"):
        invoke("1", tmp_path / "a", tmp_path / "c")
    # A folder that is named twice counts once.
    assert len(find_runs([tmp_path / "a", tmp_path / "a"])) == 1


def test_no_run_matches_the_table(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "at-rwp")
    with pytest.raises(
        UserError, match=r"No run named matches table 1, which has AT, AT-AWP\. Left out: a \(at-rwp"
    ):
        invoke("1", tmp_path)
    make_run(tmp_path / "b", "at", norm="L2")
    with pytest.raises(UserError, match="table 4 is for Linf"):
        invoke("4", tmp_path / "b")


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown table '6'. Known: 1, 2, 3, 4, 5"):
        invoke("6", tmp_path)
    with pytest.raises(UserError, match="is not a run folder of defenses train: it contains no run.json"):
        invoke("1", tmp_path)
    with pytest.raises(UserError, match="There is no folder .*nowhere"):
        invoke("1", tmp_path / "nowhere")
    with pytest.raises(UserError, match="There is no .*nowhere: name result.json files"):
        invoke("2", tmp_path / "nowhere")
    run = make_run(tmp_path / "a")
    with pytest.raises(
        UserError, match="a contains no result.json: table 2 is made from the results of robust-eval run"
    ):
        invoke("2", run)
    (run / "curve.csv").write_text("epoch,val_pgd\n1,0.5\n")
    with pytest.raises(UserError, match=r"Left out: a \(its curve has no accuracies\)"):
        invoke("1", run)
    (run / "curve.csv").write_text("epoch,val_pgd\n1,high\n")
    with pytest.raises(UserError, match="curve.csv is not a learning curve"):
        invoke("1", run)
    (run / "curve.csv").unlink()
    with pytest.raises(UserError, match="has no learning curve yet"):
        invoke("1", run)
    (run / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is not the record of a training run .it lacks 'recipe'"):
        read_run(run)


def test_an_unwritable_output_is_rejected(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write to .*file"):
        invoke("1", run, "--out", tmp_path / "file" / "table")
