"""The benchmark's own arithmetic, and that both sides agree on a handful of digits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import Case, cases, main, parse, table
from benchmarks.side import Measured, Report, Stopwatch, peak_mib


def test_a_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
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


def test_the_table_counts_examples_judged_differently() -> None:
    ours = Report(2.0, 4.0, 100.0, {"aa": Measured("1100", 2.0)})
    plain = Report(5.0, 6.0, 300.0, {"aa": Measured("1010", 5.0)})
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(table(Case("digits", "digits", "0.1", 4), ours, plain))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.get().splitlines()]
    assert ["aa", "50.0", "50.0", "2", "2.0", "5.0", "2.50"] in rows
    assert ["total", "", "", "", "2.0", "5.0", "2.50"] in rows
    assert ["processor s", "", "", "", "4.0", "6.0", "1.50"] in rows
    assert ["peak MiB", "", "", "", "100", "300", "3.00"] in rows


def test_examples_and_case_can_be_chosen() -> None:
    assert [case.name for case in cases(parse([]))] == ["digits", "mnist"]
    (case,) = cases(parse(["--case", "mnist", "--examples", "7"]))
    assert (case.data, case.examples) == ("mnist", 7)


def test_a_checkpoint_needs_its_images_and_radius(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--checkpoint", "model.pt"])
    assert "--checkpoint needs --data and --eps" in capsys.readouterr().err


def test_a_case_without_its_data_is_skipped_in_sight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_data(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 1, stderr="mnist is not in DIR and could not be downloaded.\n")

    monkeypatch.setattr("benchmarks.__main__.child", no_data)
    main(["--case", "mnist", "--out", str(tmp_path)])
    assert "mnist: skipped. mnist is not in DIR" in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark.json").read_text())["cases"] == []


@pytest.mark.slow
def test_both_sides_agree_on_a_few_digits(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--case",
        "digits",
        "--examples",
        "10",
        "--out",
        str(tmp_path),
    ]
    root = Path(__file__).resolve().parents[2]
    subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    (case,) = json.loads((tmp_path / "benchmark.json").read_text())["cases"]
    ours, plain = (case["sides"][side]["columns"] for side in ("robust-eval", "plain"))
    assert list(ours) == list(plain)
    assert ours["clean"]["bits"] == plain["clean"]["bits"]
    for name in ours:
        differ = sum(a != b for a, b in zip(ours[name]["bits"], plain[name]["bits"], strict=True))
        assert differ <= 1, name
