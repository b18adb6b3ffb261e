"""Scans (resuming, extending, refusals), and curves, planes and weight perturbations from their points."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from support import small_scans

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError
from robust_eval.landscape.awp import curve, figures, plane, weight_noise
from robust_eval.landscape.awp.points import (
    Displacement,
    MeasuredLoss,
    PointStore,
    WeightPoint,
    point_key,
    symmetric_grid,
    weight_point,
)
from robust_eval.landscape.awp.scan import Scan, parse_alphas, parse_gammas, run_scan

ALPHAS = symmetric_grid(Fraction(1), 5)


class Recorder:
    """Counts measured and stored points; interrupts after some measured ones."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.measured, self.stored, self.interrupt_after = 0, 0, interrupt_after

    def __call__(self, _model: Any, _measured: Any, stored: bool) -> None:
        self.stored += stored
        self.measured += not stored
        if self.measured == self.interrupt_after:
            raise KeyboardInterrupt


def two_model_scan(tmp_path: Path, **changes: Any) -> Scan:
    paths = [small_scans.write(tmp_path / f"{name}.pt", seed=seed) for seed, name in enumerate(("a", "b"))]
    return small_scans.scan(*paths, **changes)


def test_alphas_are_exact_and_contain_zero() -> None:
    assert symmetric_grid(Fraction("0.3"), 7) == (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)


def test_w_is_one_point_for_all_displacements_of_size_zero() -> None:
    assert (
        weight_point(Displacement("filter", 3, 0.0), images="at-w")
        == weight_point()
        == weight_point(Displacement("awp", 0, 0.0))
    )
    wanted = curve.plan(ALPHAS, 3, pre_generated=True)
    assert len(wanted) == len(set(wanted)) == 1 + 2 * 3 * 4
    assert len(plane.plan(ALPHAS)) == 25
    assert set(curve.plan(ALPHAS, 2)) < set(plane.plan(ALPHAS)), (
        "the axes of a plane are points of the curves"
    )


def test_a_resumed_scan_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    scan, wanted = two_model_scan(tmp_path), curve.plan(ALPHAS, 2)
    uninterrupted = run_scan(scan, wanted, tmp_path / "uninterrupted")
    with pytest.raises(KeyboardInterrupt):
        run_scan(scan, wanted, tmp_path / "resumed", Recorder(interrupt_after=5))
    # A damaged file counts as missing.
    store = PointStore(tmp_path / "resumed")
    damaged = next(iter(store.folder.glob("*.json")))
    damaged.write_text(damaged.read_text()[:40])
    recorder = Recorder()
    resumed = run_scan(two_model_scan(tmp_path), wanted, tmp_path / "resumed", recorder)
    assert (recorder.stored, recorder.measured) == (4, 2 * len(wanted) - 4)
    varying = {"cost", "environment"}
    data = [
        curve.to_data(scan, curve.curves(scan, ALPHAS, losses), [], losses)
        for losses in (uninterrupted, resumed)
    ]
    texts = [figure_style.json_text({k: v for k, v in entry.items() if k not in varying}) for entry in data]
    assert texts[0] == texts[1]


def test_a_finer_grid_adds_points_to_stored_ones(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    run_scan(scan, curve.plan(ALPHAS, 1), tmp_path / "scan")
    recorder = Recorder()
    run_scan(scan, curve.plan(symmetric_grid(Fraction(1), 9), 1), tmp_path / "scan", recorder)
    assert (recorder.stored, recorder.measured) == (2 * 5, 2 * 4)


def test_another_request_is_refused_and_has_another_default_folder(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    run_scan(scan, [weight_point()], tmp_path / "scan")
    other = two_model_scan(tmp_path, steps=4)
    with pytest.raises(UserError, match=r"contains a run of another request \(it differs in: attack\)"):
        run_scan(other, [weight_point()], tmp_path / "scan")
    assert other.default_folder() != scan.default_folder()
    assert scan.default_folder() == two_model_scan(tmp_path).default_folder()


def test_a_changed_model_of_the_same_checkpoint_is_refused(tmp_path: Path) -> None:
    """As when the code of a network has changed: the stored points belong to the old function."""
    scan = two_model_scan(tmp_path)
    run_scan(scan, [weight_point()], tmp_path / "scan")
    with torch.no_grad():
        for compared in scan.comparison.models:
            next(iter(compared.model.parameters())).mul_(2)
    with pytest.raises(UserError, match="is not the one that began"):
        run_scan(scan, [weight_point()], tmp_path / "scan")


def test_keys_differ_by_setting_checkpoint_and_point(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    refs = [model.ref for model in scan.comparison.models]
    wanted = [
        weight_point(),
        weight_point(Displacement("filter", 0, 1.0)),
        weight_point(Displacement("filter", 1, 1.0)),
        weight_point(Displacement("rwp", 0, 1.0)),
    ]
    wanted += [weight_point(Displacement("filter", 0, 1.0), images="at-w")]
    keys = {point_key(scan.setting, ref, point) for ref in refs for point in wanted}
    assert len(keys) == 2 * len(wanted)
    assert point_key(two_model_scan(tmp_path, batch_size=4).setting, refs[0], weight_point()) not in keys


def test_lower_precision_is_recorded_and_checked(tmp_path: Path) -> None:
    scan, plain = two_model_scan(tmp_path, precision="bfloat16"), two_model_scan(tmp_path)
    wanted = [*curve.plan(ALPHAS, 2), *scan.precision_checks()]
    values = run_scan(scan, wanted, tmp_path / "scan")
    at_w = run_scan(plain, [weight_point()], tmp_path / "plain")["a", weight_point()]
    data = curve.to_data(scan, curve.curves(scan, ALPHAS, values), [], values)
    assert data["precision"] == "searched in bfloat16, losses in float32"
    entry = data["checkpoints"][0]
    assert entry["loss_at_w_in_float32"] == at_w.loss
    assert entry["loss_at_0"] == pytest.approx(at_w.value, rel=0.05)
    assert plain.precision_checks() == []


def test_a_direction_file_is_written_once_and_then_read(tmp_path: Path) -> None:
    file = tmp_path / "shared" / "d.safetensors"
    first, second = (
        two_model_scan(tmp_path, direction_file=file),
        two_model_scan(tmp_path, direction_file=file),
    )
    assert first.default_folder() == second.default_folder()
    drawn = two_model_scan(tmp_path)
    for name, value in drawn.directions.raw(1).items():
        assert np.array_equal(second.directions.raw(1)[name], value)


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(UserError, match="Cannot write to"):
        run_scan(two_model_scan(tmp_path), [weight_point()], tmp_path / "file" / "scan")


@pytest.mark.parametrize(
    ("span", "count", "message"),
    [
        ("0", 5, "--span must be above 0, got 0"),
        ("1e31", 5, "--span 1e31 exceeds what float32 weights can represent"),
        ("wide", 5, "--span 'wide' is not a number"),
        ("1", 4, "--points must be odd and at least 3, so that alpha = 0 is among them; got 4"),
        ("1", 1, "--points must be odd and at least 3"),
    ],
)
def test_invalid_grids_are_refused(span: str, count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_alphas(span, count)


def test_gammas_are_sorted_and_invalid_ones_refused() -> None:
    assert parse_gammas("5e-3,1e-3,5e-3") == (0.001, 0.005)
    for text in ("0,1", "-1", "1e40"):
        with pytest.raises(UserError, match="--gammas must be above 0 and at most 1e30, got"):
            parse_gammas(text)


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"directions": 0}, "--directions must be at least 1, got 0"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(UserError, match=message):
            two_model_scan(tmp_path, **change)


def synthetic_losses(losses: dict[float, float | None]) -> Any:
    """Losses by alpha; direction k adds 0.1 k."""

    class Losses(dict[Any, MeasuredLoss]):
        def __missing__(self, key: tuple[str, WeightPoint]) -> MeasuredLoss:
            label, point = key
            size = point.displacements[0].size if point.displacements else 0.0
            loss = losses[size]
            shift = 0.1 * point.displacements[0].number if point.displacements and loss is not None else 0.0
            return MeasuredLoss(
                key=label,
                loss=None if loss is None else loss + shift,
                accuracy=0.5,
                forwards=0,
                backwards=0,
                seconds=0.0,
            )

    return Losses()


def test_a_curve_has_mean_and_band(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    values = synthetic_losses({-1.0: 4.0, -0.5: 2.0, 0.0: 1.0, 0.5: 1.5, 1.0: 2.5})
    one = curve.curves(scan, ALPHAS, values)[0]
    np.testing.assert_allclose(one.mean, [4.05, 2.05, 1.0, 1.55, 2.55])
    np.testing.assert_allclose(one.low, [4.0, 2.0, 1.0, 1.5, 2.5])
    np.testing.assert_allclose(one.high, [4.1, 2.1, 1.0, 1.6, 2.6])
    flat = one.flatness()
    assert flat.sharpness_each == pytest.approx(((3 + 1 + 0 + 0.5 + 1.5) / 5, (3.1 + 1.1 + 0.6 + 1.6) / 5))
    assert flat.sharpness == pytest.approx(1.24)
    assert flat.sharpness_std == pytest.approx(0.08 / math.sqrt(2))
    # Direction 0 rises by 1 exactly at -0.5, direction 1 before it, on the line from 1 to 2.1.
    assert flat.reach_each == pytest.approx((0.5, 0.5 / 1.1))


def test_points_that_overflow_are_listed_and_not_drawn(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    values = synthetic_losses({-1.0: None, -0.5: 1.2, 0.0: 1.0, 0.5: 1.1, 1.0: None})
    found = curve.curves(scan, ALPHAS, values)
    data = json.loads(figure_style.json_text(curve.to_data(scan, found, [], values)))
    entry = data["checkpoints"][0]
    assert {"direction": 0, "alpha": -1.0} in entry["not_finite"]
    assert len(entry["not_finite"]) == 4
    assert entry["loss_mean"][0] is None
    assert entry["flatness"]["sharpness"] is None
    assert entry["flatness"]["reach"] == 1.0, "points that are not finite count as risen"
    drawn = figures.curve_figure(scan, found, [])
    assert "a: 4 points not finite (overflow), |α| ≥ 1" in texts(drawn)
    lines = [line for line in drawn.axes[0].lines if len(line.get_xdata()) == 5]  # type: ignore[arg-type]
    assert np.isfinite(np.asarray(lines[0].get_ydata())).sum() == 3


def test_an_overflow_of_a_plane_is_listed_in_the_figure(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    alphas = symmetric_grid(Fraction(10) ** 20, 3)
    found = plane.planes(scan, alphas, run_scan(scan, plane.plan(alphas), tmp_path / "scan"))
    text = texts(figures.plane_figure(scan, found))
    assert "8 points not finite (overflow), max(|a|, |b|) ≥ 1e+20" in text
    assert "|max(" not in text
    assert "no finite loss beside (0, 0)" in text


def texts(drawn: Any) -> str:
    return "\n".join(text.get_text() for text in drawn.findobj(Text))


def test_a_flat_curve_has_no_reach(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    found = curve.curves(scan, ALPHAS, synthetic_losses({-1.0: 0.2, -0.5: 0.1, 0.0: 0.3, 0.5: 0.1, 1.0: 1.0}))
    assert found[0].flatness().reach is None
    assert found[0].flatness().reached == 0


@pytest.mark.slow
def test_a_plane_is_relative_to_its_centre(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    alphas = symmetric_grid(Fraction(1), 3)
    values = run_scan(scan, plane.plan(alphas), tmp_path / "scan")
    found = plane.planes(scan, alphas, values)
    assert found[0].relative.shape == (3, 3)
    assert found[0].relative[1, 1] == 0
    assert (found[0].relative >= 0).all()
    corner = values["a", weight_point(Displacement("filter", 0, 1.0), Displacement("filter", 1, -1.0))].value
    assert found[0].losses[0, 2] == corner, "rows are b, columns are a"
    data = json.loads(figure_style.json_text(plane.to_data(scan, found, values)))
    assert data["kind"] == "landscape-2d"
    assert abs(data["checkpoints"][0]["cosine_of_directions"]) < 0.5
    drawn = figures.plane_figure(scan, found)
    assert "|g(a, b) − g(0, 0)| (nats)" in texts(drawn)
    figure_style.save(drawn, tmp_path / "plane", data)


def test_curves_under_both_perturbations(tmp_path: Path) -> None:
    scan = two_model_scan(tmp_path)
    kinds, gammas = weight_noise.parse_kinds("rwp, AWP"), (1e-2, 0.5)
    assert kinds == ("awp", "rwp")
    wanted = weight_noise.plan(kinds, gammas, scan.directions.count)
    assert len(wanted) == 1 + 2 * 2 * (1 + scan.directions.count)
    values = run_scan(scan, wanted, tmp_path / "scan")
    found = weight_noise.perturbation_curves(scan, kinds, gammas, values)
    assert len(found) == 2 * 2 * 2
    assert {one.losses.shape for one in found} == {(1, 2), (2, 2)}
    means = {(one.label, one.kind, one.images): one.mean for one in found}
    assert means["a", "awp", "anew"][0] > values["a", weight_point()].value
    assert means["a", "awp", "anew"][1] > means["a", "rwp", "anew"][1]
    data = json.loads(figure_style.json_text(weight_noise.to_data(scan, found, values)))
    assert len(data["checkpoints"][1]["responses"]) == 4
    figure_style.save(figures.perturbation_figure(scan, found), tmp_path / "perturbation", data)


def test_unknown_and_repeated_perturbations_are_refused() -> None:
    with pytest.raises(UserError, match="Unknown weight perturbation 'awq'. Did you mean awp?"):
        weight_noise.parse_kinds("awq")
    with pytest.raises(UserError, match="--kinds names a perturbation twice: 'awp,awp'"):
        weight_noise.parse_kinds("awp,awp")
