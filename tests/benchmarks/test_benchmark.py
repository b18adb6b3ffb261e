"""The evaluation benchmark: options, arithmetic, and equal verdicts of both sides on a few digits."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from support.known_models import linear_problem

from benchmarks import options
from benchmarks.__main__ import TRAINED, main, parse, training_words, works
from benchmarks.evaluation import cost_growth, spsa_queries
from benchmarks.evaluation.case import SIDES, WORKS, Work
from benchmarks.evaluation.matrix_rate import rate
from benchmarks.evaluation.side import Measured, Report, Stopwatch, peak_mib
from benchmarks.evaluation.side_robust_eval import operations
from benchmarks.evaluation.tables import table
from benchmarks.training import step
from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.results import TuningRecord


def test_the_training_benchmark_uses_the_settings_of_the_papers(tmp_path: Path) -> None:
    for arch in TRAINED:
        given = step.parse(training_words(arch, "cpu", tmp_path))
        assert (given.arch, given.batch_size, given.repeats) == (arch, 128, 20)
        assert given.out.parent == tmp_path


def test_a_report_is_read_back_unchanged(tmp_path: Path) -> None:
    columns = {"clean": Measured("1101", 0.5)}
    stopwatch = Stopwatch()
    sum(range(200_000))
    stopwatch.write(tmp_path / "side.json", columns)
    report = Report.read(tmp_path / "side.json")
    assert 0 < report.seconds < 60
    assert 0 < report.processor_seconds < 60
    assert report.columns == columns
    assert report.columns["clean"].accuracy == 0.75
    assert 1 < report.peak_mib <= peak_mib()


def shown(work: Work, reports: dict[str, Report], rates: dict[str, float]) -> list[list[str]]:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table(work, reports, rates))
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in capture.get().splitlines()]


def test_the_table_counts_differing_verdicts() -> None:
    columns = {"clean": Measured("1111", 0.5), "fgsm": Measured("1110", 0.5), "aa": Measured("1100", 1.0)}
    plain = {"clean": Measured("1111", 0.5), "fgsm": Measured("1110", 0.5), "aa": Measured("1010", 4.0)}
    ours = Report(2.0, 4.0, 100.0, columns, {"float32": 5e9, "bfloat16": 1e10})
    rows = shown(
        Work("digits", "full", "digits", "0.1", 4),
        {"ours": ours, "plain": Report(5.0, 6.0, 300.0, plain)},
        {"float32": 1e10, "bfloat16": 2e10},
    )
    assert ["aa", "ours", "50.0", "2", "1.0", "4.00", "", "", "", ""] in rows
    # 0.5 s at each of two rates, of 2 s.
    assert ["total", "ours", "", "", "2.0", "2.50", "4.0", "1.50", "100", "50%"] in rows
    assert ["total", "plain", "", "", "5.0", "1.00", "6.0", "1.00", "300", ""] in rows


def test_the_table_has_only_the_columns_of_all_sides() -> None:
    peer = Report(3.0, 3.0, 100.0, {"pgd-20": Measured("01", 2.0)})
    plain = Report(6.0, 9.0, 100.0, {"clean": Measured("11", 1.0), "pgd-20": Measured("11", 5.0)})
    rows = shown(Work("x", "pgd-20", "digits", "0.1", 2), {"plain": plain, "foolbox": peer}, {})
    assert ["pgd-20", "foolbox", "50.0", "1", "2.0", "2.50", "", "", "", ""] in rows
    assert ["total", "foolbox", "", "", "3.0", "2.00", "3.0", "3.00", "100", ""] in rows
    assert not any(row[:1] == ["clean"] for row in rows)
    rows = shown(Work("x", "pgd-20", "digits", "0.1", 2), {"foolbox": peer}, {})
    assert ["total", "foolbox", "", "", "3.0", "", "3.0", "", "100", ""] in rows


def test_works_sides_and_examples_can_be_chosen() -> None:
    assert [work.name for work in works(parse(["--device", "cpu"]))] == [w.name for w in WORKS if not w.gpu]
    on_gpu = argparse.Namespace(**vars(parse(["--device", "cpu"])) | {"device": "cuda"})
    assert [work.name for work in works(on_gpu)] == [work.name for work in WORKS]
    (long,) = works(parse(["--device", "cpu", "--work", "resnet-18 full"]))
    assert (long.suite, long.examples) == ("full", 1000)
    (work,) = works(parse(["--work", "mnist full", "--examples", "7", "--sides", "ours,plain"]))
    assert (work.data, work.examples, work.sides) == ("mnist", 7, ("ours", "plain"))
    assert all(set(work.sides) <= set(SIDES) for work in WORKS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", __file__], "--checkpoint needs --data and --eps"),
        (["--checkpoint", "none.pt"], "there is no file none.pt"),
        (["--sides", "ours,mine"], "unknown side 'mine': choose from ours, ours bf16"),
        (["--sides", ","], "unknown side ''"),
        (["--sides", "foolbox", "--work", "mnist autoattack"], "foolbox cannot run these cases"),
        (["--examples", "0"], "'0' is not a whole number of at least 1"),
        (["--threads", "-2"], "'-2' is not a whole number of at least 1"),
        (["--device", "tpu"], "Unknown device 'tpu'"),
        (["--eps", "5"], "Did you mean 5/255?"),
        (["--suite", "quick"], "invalid choice: 'quick'"),
    ],
)
def test_bad_options_are_rejected(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_peers_run_only_the_suites_that_they_support() -> None:
    found = works(parse(["--sides", "plain,foolbox"]))
    assert {work.name: work.sides for work in found}["mnist autoattack"] == ("plain",)
    assert {work.name: work.sides for work in found}["resnet-18 pgd-20"] == ("plain", "foolbox")


def test_an_error_of_a_child_process_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: list[str], *_: object, **__: object) -> subprocess.CompletedProcess[str]:
        code = 2 if module == ["benchmarks.evaluation.inputs"] else 1
        return subprocess.CompletedProcess([], code, stdout="", stderr="a warning\nError: No such data.\n")

    monkeypatch.setattr("benchmarks.__main__.child", fail)
    words = ["--checkpoint", __file__, "--data", "x", "--eps", "0.1", "--out", str(tmp_path)]
    with pytest.raises(UserError, match=r"^No such data.$"):
        main(words)


def test_a_user_error_is_printed_on_one_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise UserError("Choose another folder.")

    with pytest.raises(SystemExit) as stop:
        options.guarded(work)
    assert stop.value.code == 2
    assert capsys.readouterr().err == "Error: Choose another folder.\n"


def test_unwritable_outputs_and_unknown_suites_are_rejected_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to"):
        main(["--out", str(tmp_path / "file")])
    with pytest.raises(UserError, match="Cannot write to"):
        cost_growth.main(["--out", str(tmp_path / "file" / "cost_growth.json")])
    with pytest.raises(UserError, match="Unknown suite or column 'nosuch'"):
        cost_growth.main(["--suite", "nosuch", "--out", str(tmp_path / "cost_growth.json")])


@pytest.mark.parametrize(
    "module", sorted(Path(options.__file__).parent.rglob("*.py")), ids=lambda path: path.stem
)
def test_every_command_prints_user_errors_on_one_line(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    if "__main__" in text and module.stem not in ("inputs", "matrix_rate"):
        assert "guarded(main)" in text


def test_a_case_without_data_is_skipped_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_data(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, stderr="mnist is not in DIR and could not be downloaded.\n")

    monkeypatch.setattr("benchmarks.__main__.child", no_data)
    main(["--work", "mnist full", "--out", str(tmp_path)])
    assert "mnist full: skipped. mnist is not in DIR" in capsys.readouterr().out
    main(["--work", "resnet-18 pgd-20", "--out", str(tmp_path)])
    assert "resnet-18 pgd-20: skipped. This case needs --cifar IMAGES." in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark.json").read_text())["works"] == []


def test_a_matrix_rate_is_operations_per_second() -> None:
    found = rate(torch.float32, torch.device("cpu"), side=64, seconds=0.01)
    assert 1e6 < found < 1e14


def test_operations_are_counted_by_precision() -> None:
    model, x, y = linear_problem(n=6)
    result = evaluate(model, x, y, "Linf 0.04", suite="fgsm,spsa", precision="bfloat16")
    fgsm, spsa = result.columns["fgsm"], result.columns["spsa"]
    passes = fgsm.forwards + fgsm.backwards
    assert operations(result, 10) == {"bfloat16": 10 * passes, "float32": 10 * spsa.forwards}
    assert result.search is not None
    tuning = TuningRecord(rows=7, gradient_rows=7, compiled=True, gradient_compiled=True, near_rows=64)
    search = result.search.model_copy(update={"tunings": {"float32": tuning}})
    changes = result.model_copy(update={"search": search})
    assert operations(changes, 10) == {"bfloat16": 10 * (passes + spsa.forwards)}


@pytest.mark.slow
def test_both_sides_agree_on_a_few_digits(tmp_path: Path) -> None:
    words = ["--work", "digits full", "--examples", "10", "--out", str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "benchmarks", *words]
    subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    (work,) = json.loads((tmp_path / "benchmark.json").read_text())["works"]
    plain = work["sides"]["plain"]["columns"]
    for side in ("ours", "ours bf16"):
        mine = work["sides"][side]["columns"]
        assert list(mine) == list(plain)
        assert mine["clean"]["bits"] == plain["clean"]["bits"]
        for name in mine:
            differ = sum(a != b for a, b in zip(mine[name]["bits"], plain[name]["bits"], strict=True))
            assert differ <= 1, name


@pytest.mark.slow
def test_spsa_queries_are_timed_and_compared_with_float64(tmp_path: Path) -> None:
    out = tmp_path / "steps.json"
    words = ["--arch", "digits-cnn", "--images", "1", "--rows", "64", "--repeats", "1", "--threads", "1"]
    spsa_queries.main([*words, "--out", str(out)])
    ways = json.loads(out.read_text())["ways"]
    assert list(ways) == ["float32", "float32, compiled", "changes in bfloat16, compiled"]
    assert all(one["rate"] > 0 for one in ways.values())
    assert ways["float32"]["error"] < 0.005 < 0.05 > ways["changes in bfloat16, compiled"]["error"]
