"""Sweeps: parsing of --over, points that resume, points that cannot be trained, the figure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.small_jobs import SMALL, StopAfter
from typer.testing import CliRunner

from defenses.cli import main
from defenses.recipes.choices import Choices
from defenses.reports.figures.sweep import axis_positions, draw_sweep, sweep_series
from defenses.sweeps import axes, training
from defenses.sweeps.axes import Axis, GridPoint
from defenses.sweeps.training import SweepRun
from defenses.training.display import SilentTrainingDisplay
from defenses.training.options import TrainOptions
from defenses.training.runtime import start_runtime
from defenses.training.signals import InterruptHandler, TrainingInterrupted
from robust_eval.core.errors import UserError

FAST = ["inner.steps=1", "selection.validation=40", "selection.train_images=40", "training.batch_size=512"]


def base(*sets: str, epochs: int = 2) -> TrainOptions:
    choices = Choices(data="digits", epochs=epochs, sets=(*SMALL, *FAST, *sets))
    return TrainOptions(recipe="at-awp", choices=choices, tensorboard=False)


def run(
    options: TrainOptions, over: str, out: Path, reported: list[bool] | None = None, **others: Any
) -> list[SweepRun]:
    """Run a sweep of AT-AWP; ``reported`` receives, for each run, whether it was already stored."""
    points = axes.grid(["at-awp"], [axes.parse_axis(over)])
    settings: dict[str, Any] = {"display": SilentTrainingDisplay(), "stopper": InterruptHandler(), **others}
    if reported is not None:
        settings["on_run"] = lambda _run, stored: reported.append(stored)
    return training.train_sweep(options, points, [0], out, start_runtime("cpu", "32", 1), **settings)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("perturbation.gamma", "perturbation.gamma"),
        ("awp.gamma", "perturbation.gamma"),
        ("rwp.gamma", "perturbation.gamma"),
        ("gamma", "perturbation.gamma"),
        ("A", "perturbation.alternations"),
        ("awp.K2", "perturbation.steps"),
        ("K1", "inner.steps"),
        ("awp.norm", "perturbation.size"),
        ("lr", "optimiser.lr"),
        ("architecture_arguments.width", "architecture_arguments.width"),
    ],
)
def test_a_field_can_be_given_by_its_full_name_last_part_or_symbol(name: str, field: str) -> None:
    assert axes.parse_axis(f"{name}=1,2") == Axis(field, ("1", "2"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("perturbation.gama=0,1", "Unknown field 'perturbation.gama'. Did you mean perturbation.gamma?"),
        ("awp.gama=0,1", "Unknown field 'perturbation.gama'. Did you mean perturbation.gamma?"),
        ("steps=1,2", "could be inner.steps, perturbation.steps or selection.steps: write one"),
        ("gamma", "is not FIELD=VALUE,VALUE: write for example"),
        ("gamma=0,,1", "is not FIELD=VALUE,VALUE: write for example"),
        ("gamma=1,1", "names a value twice"),
    ],
)
def test_unknown_or_ambiguous_fields_are_rejected(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        axes.parse_axis(text)


def test_the_grid_is_every_combination() -> None:
    two = [axes.parse_axis("gamma=0,0.01"), axes.parse_axis("awp.norm=L1,L2")]
    points = axes.grid(["at-awp", "at-rwp", "at-awp"], two)
    assert len(points) == 8
    assert points[1].sets == ("perturbation.gamma=0", "perturbation.size=L2")
    assert points[1].folder(3) == "at-awp-gamma-0-size-L2-s3"
    assert len({point.folder(0) for point in points}) == 8
    with pytest.raises(UserError, match=r"--over names perturbation.gamma twice"):
        axes.grid(["at-awp"], [axes.parse_axis("gamma=1"), axes.parse_axis("awp.gamma=2")])


def test_a_wrong_value_is_reported_before_any_training(tmp_path: Path) -> None:
    words = ["sweep", "at-awp", "--data", "digits", "--out", str(tmp_path / "s"), "--over"]
    for over, sentence in (
        ("gamma=0,much", "perturbation.gamma = much: input should be a valid number"),
        ("awp.norm=L2,L7", "perturbation.size = L7: input should be 'L1', 'L2' or 'global'"),
        ("A=1,0", "perturbation.alternations = 0: input should be greater than or equal to 1"),
    ):
        result = CliRunner().invoke(main.app, [*words, over])
        assert isinstance(result.exception, UserError)
        assert sentence in str(result.exception)
    assert not (tmp_path / "s").exists()


def test_a_field_that_the_recipe_does_not_use_is_rejected(tmp_path: Path) -> None:
    words = ["sweep", "at", "--over", "awp.gamma=0,0.01", "--data", "digits", "--out", str(tmp_path / "s")]
    result = CliRunner().invoke(main.app, words)
    assert isinstance(result.exception, UserError)
    assert "at perturbs no weights, so perturbation.gamma changes nothing: sweep" in str(result.exception)
    training.check(replace(base(), recipe="at"), axes.grid(["at"], [axes.parse_axis("awp.kind=none,awp")]))


def test_a_sweep_from_the_command_line(tmp_path: Path) -> None:
    words = ["sweep", "at-awp", "at-rwp", "--over", "gamma=0,0.01", "--data", "digits", "--epochs", "1"]
    for text in (*SMALL, *FAST):
        words += ["--set", text]
    words += ["--seeds", "0,1", "--out", str(tmp_path / "s")]
    result = CliRunner().invoke(main.app, words)
    assert result.exit_code == 0, result.output
    assert "8 runs in" in result.output
    found = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert (tmp_path / "s" / "sweep.png").exists()
    assert [line["name"] for line in found["series"]] == ["at-awp", "at-rwp"]
    assert [mark["value"] for mark in found["series"][0]["marks"]] == ["0", "0.01"]
    assert len(found["runs"]) == 8
    one = found["runs"][0]
    assert json.loads((tmp_path / "s" / one["folder"] / "run.json").read_text())["seed"] == 0
    mark = found["series"][0]["marks"][0]["unseen"]
    each = [
        100 * r["best"]["val_pgd"]
        for r in found["runs"]
        if r["recipe"] == "at-awp" and r["values"]["perturbation.gamma"] == "0"
    ]
    assert mark["mean"] == pytest.approx(sum(each) / 2)
    again = CliRunner().invoke(main.app, words)
    assert again.output.count("(already there)") == 8


def test_an_interrupted_sweep_continues_where_it_stopped(tmp_path: Path) -> None:
    options = base()
    uninterrupted = run(options, "gamma=0,0.01", tmp_path / "uninterrupted")
    stopper, reported = InterruptHandler(), []
    with pytest.raises(TrainingInterrupted):
        # Three updates an epoch, two epochs: in the middle of the second point.
        run(
            options,
            "gamma=0,0.01",
            tmp_path / "cut",
            stopper=stopper,
            display=StopAfter(stopper, 9),
            reported=reported,
        )
    assert reported == [False]
    rest = run(options, "gamma=0,0.01", tmp_path / "cut", reported=reported)
    assert reported == [False, True, False]
    for one, other in zip(uninterrupted, rest, strict=True):
        assert timeless(one.last) == timeless(other.last)
        assert timeless(one.best) == timeless(other.best)
    # Another value adds one run; the others are not repeated.
    more = run(options, "gamma=0,0.01,0.02", tmp_path / "cut", reported=reported)
    assert reported[3:] == [True, True, False]
    assert more[:2] == rest


def timeless(row: Any) -> dict[str, float]:
    return {name: value for name, value in row.items() if not name.startswith(("seconds", "images_per"))}


def test_a_point_that_cannot_be_trained_is_recorded_and_not_repeated(tmp_path: Path) -> None:
    reported: list[bool] = []
    found = run(base(), "lr=0.01,1e6", tmp_path / "s", reported=reported)
    assert found[0].failed is None
    assert "The loss became" in str(found[1].failed)
    assert run(base(), "lr=0.01,1e6", tmp_path / "s", reported=reported) == found
    assert reported == [False, False, True, True]
    lines, part = sweep_series(found, [axes.parse_axis("lr=0.01,1e6")], "last")
    assert lines[0].marks[1].failed == 1
    assert lines[0].marks[1].unseen is None
    canvas = draw_sweep(lines, axes.parse_axis("lr=0.01,1e6"), part)
    assert "did not train" in [t.get_text() for t in canvas.axes[0].get_legend().get_texts()]


def test_a_folder_of_another_sweep_is_rejected(tmp_path: Path) -> None:
    run(base(epochs=1), "gamma=0", tmp_path / "s")
    with pytest.raises(UserError, match="contains a run of another sweep"):
        run(base("optimiser.lr=0.05", epochs=1), "gamma=0", tmp_path / "s")
    # A damaged outcome file is rebuilt from the run.
    outcome = tmp_path / "s" / "at-awp-gamma-0-s0" / "outcome.json"
    outcome.write_text("{")
    assert run(base(epochs=1), "gamma=0", tmp_path / "s")[0].failed is None


def test_an_unwritable_output_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written .* choose another one with --out"):
        run(base(), "gamma=0", tmp_path / "file" / "s")


def made(recipe: str, gamma: str, pgd: float, **others: str) -> SweepRun:
    row = {"epoch": 1.0, "val_pgd": pgd, "train_pgd": pgd + 0.1, "val_clean": 0.9}
    return SweepRun(recipe, {"perturbation.gamma": gamma, **others}, 0, "x", None, row, row)


def test_there_is_one_line_per_recipe_and_value_of_the_other_axes() -> None:
    over = [axes.parse_axis("gamma=0,0.01"), axes.parse_axis("awp.norm=L1,L2")]
    found = [
        made("at-awp", gamma, pgd, **{"perturbation.size": size})
        for gamma, size, pgd in (("0", "L1", 0.4), ("0", "L2", 0.5), ("0.01", "L1", 0.6), ("0.01", "L2", 0.7))
    ]
    lines, part = sweep_series(found, over, "best")
    assert part == "val"
    assert [line.name for line in lines] == ["size L1", "size L2"]
    assert [mark.unseen.mean for mark in lines[1].marks if mark.unseen] == pytest.approx([50, 70])
    two = [replace(one, recipe="at-rwp") for one in found]
    assert sweep_series([*found, *two], over, "best")[0][3].name == "at-rwp, size L2"


def test_zero_is_drawn_left_of_the_smallest_value_on_a_logarithmic_axis() -> None:
    points = axis_positions(("0", "1e-3", "1e-2", "1"))
    assert points["1"] == 0
    assert points["1e-3"] == pytest.approx(-3)
    assert points["0"] < -3
    assert axis_positions(("1", "5", "10")) == {"1": 1, "5": 5, "10": 10}
    assert axis_positions(("L1", "L2")) == {"L1": 0, "L2": 1}
    assert GridPoint("my/recipe.toml", (("optimiser.lr", "0.1"),)).folder(0) == "recipe-lr-0.1-s0"
