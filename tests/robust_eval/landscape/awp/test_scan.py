"""Scans: resumed, extended, refused; and what the curves, planes and responses say of their points."""

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
from robust_eval.landscape.awp import curve, figures, plane, points, weight_noise
from robust_eval.landscape.awp import scan as scanning
from robust_eval.landscape.awp.points import Measured, Move, PointStore, point

ALPHAS = points.alphas(Fraction(1), 5)


class Recorder:
    """Hears of points; interrupts after some."""

    def __init__(self, after: int | None = None) -> None:
        self.new, self.old, self.after = 0, 0, after

    def __call__(self, _subject: Any, _measured: Any, stored: bool) -> None:
        self.old += stored
        self.new += not stored
        if self.new == self.after:
            raise KeyboardInterrupt


def two(tmp_path: Path, **changes: Any) -> scanning.Scan:
    paths = [small_scans.write(tmp_path / f"{name}.pt", seed=seed) for seed, name in enumerate(("a", "b"))]
    return small_scans.scan(*paths, **changes)


def test_alphas_are_exact_and_hold_zero() -> None:
    assert points.alphas(Fraction("0.3"), 7) == (-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3)


def test_w_is_one_point_whatever_leads_there() -> None:
    assert point(Move("filter", 3, 0.0), images="at-w") == point() == point(Move("awp", 0, 0.0))
    wanted = curve.plan(ALPHAS, 3, pre_generated=True)
    assert len(wanted) == len(set(wanted)) == 1 + 2 * 3 * 4
    assert len(plane.plan(ALPHAS)) == 25
    assert set(curve.plan(ALPHAS, 2)) < set(plane.plan(ALPHAS)), "the axes of a plane are curves"


def test_a_resumed_scan_equals_an_undisturbed_one(tmp_path: Path) -> None:
    scan, wanted = two(tmp_path), curve.plan(ALPHAS, 2)
    whole = scanning.run(scan, wanted, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        scanning.run(scan, wanted, tmp_path / "cut", Recorder(after=5))
    # A file that a power cut damaged counts as absent.
    store = PointStore(tmp_path / "cut")
    damaged = next(iter(store.folder.glob("*.json")))
    damaged.write_text(damaged.read_text()[:40])
    told = Recorder()
    resumed = scanning.run(two(tmp_path), wanted, tmp_path / "cut", told)
    assert (told.old, told.new) == (4, 2 * len(wanted) - 4)
    drop = {"cost", "environment"}
    data = [curve.to_data(scan, curve.curves(scan, ALPHAS, found), [], found) for found in (whole, resumed)]
    texts = [figure_style.json_text({k: v for k, v in entry.items() if k not in drop}) for entry in data]
    assert texts[0] == texts[1]


def test_more_points_are_added_to_those_that_exist(tmp_path: Path) -> None:
    scan = two(tmp_path)
    scanning.run(scan, curve.plan(ALPHAS, 1), tmp_path / "scan")
    told = Recorder()
    scanning.run(scan, curve.plan(points.alphas(Fraction(1), 9), 1), tmp_path / "scan", told)
    assert (told.old, told.new) == (2 * 5, 2 * 4)


def test_another_request_is_refused_and_finds_another_folder(tmp_path: Path) -> None:
    scan = two(tmp_path)
    scanning.run(scan, [point()], tmp_path / "scan")
    other = two(tmp_path, steps=4)
    with pytest.raises(UserError, match=r"holds a run of another request \(it differs in: attack\)"):
        scanning.run(other, [point()], tmp_path / "scan")
    assert other.default_folder() != scan.default_folder()
    assert scan.default_folder() == two(tmp_path).default_folder()


def test_another_model_under_the_same_names_is_refused(tmp_path: Path) -> None:
    """As when the code of a network has changed: the points that are there would be another's."""
    scan = two(tmp_path)
    scanning.run(scan, [point()], tmp_path / "scan")
    with torch.no_grad():
        for subject in scan.subjects.each:
            next(iter(subject.model.parameters())).mul_(2)
    with pytest.raises(UserError, match="answers otherwise than the one that began"):
        scanning.run(scan, [point()], tmp_path / "scan")


def test_keys_name_the_question(tmp_path: Path) -> None:
    scan = two(tmp_path)
    refs = [subject.ref for subject in scan.subjects.each]
    places = [
        point(),
        point(Move("filter", 0, 1.0)),
        point(Move("filter", 1, 1.0)),
        point(Move("rwp", 0, 1.0)),
    ]
    places += [point(Move("filter", 0, 1.0), images="at-w")]
    keys = {points.key(scan.setting, ref, place) for ref in refs for place in places}
    assert len(keys) == 2 * len(places)
    assert points.key(two(tmp_path, batch_size=4).setting, refs[0], point()) not in keys


def test_lower_precision_is_said_and_checked(tmp_path: Path) -> None:
    scan, plain = two(tmp_path, precision="bfloat16"), two(tmp_path)
    wanted = [*curve.plan(ALPHAS, 2), *scan.checks()]
    values = scanning.run(scan, wanted, tmp_path / "scan")
    at_w = scanning.run(plain, [point()], tmp_path / "plain")["a", point()]
    data = curve.to_data(scan, curve.curves(scan, ALPHAS, values), [], values)
    assert data["precision"] == "searched in bfloat16, losses in float32"
    entry = data["checkpoints"][0]
    assert entry["loss_at_w_in_float32"] == at_w.loss
    assert entry["loss_at_0"] == pytest.approx(at_w.value, rel=0.05)
    assert plain.checks() == []


def test_a_direction_file_is_written_once_and_then_read(tmp_path: Path) -> None:
    file = tmp_path / "shared" / "d.safetensors"
    first, second = two(tmp_path, file=file), two(tmp_path, file=file)
    assert first.default_folder() == second.default_folder()
    drawn = two(tmp_path)
    for name, value in drawn.directions.raw(1).items():
        assert np.array_equal(second.directions.raw(1)[name], value)


def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="Cannot write to"):
        scanning.run(two(tmp_path), [point()], tmp_path / "file" / "scan")


@pytest.mark.parametrize(
    ("span", "count", "sentence"),
    [
        ("0", 5, "--span must be above 0, got 0"),
        ("1e31", 5, "--span 1e31 is more than weights can be moved in float32"),
        ("wide", 5, "--span 'wide' is not a number"),
        ("1", 4, "--points must be odd and at least 3, so that alpha = 0 is among them; got 4"),
        ("1", 1, "--points must be odd and at least 3"),
    ],
)
def test_grids_that_are_none(span: str, count: int, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        scanning.grid(span, count)


def test_gammas_that_are_none() -> None:
    assert scanning.gammas("5e-3,1e-3,5e-3") == (0.001, 0.005)
    for text in ("0,1", "-1", "1e40"):
        with pytest.raises(UserError, match="--gammas must be above 0 and of ordinary size, got"):
            scanning.gammas(text)


def test_settings_that_are_none(tmp_path: Path) -> None:
    for change, sentence in (
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"count": 0}, "--directions must be at least 1, got 0"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(UserError, match=sentence):
            two(tmp_path, **change)


def fake(losses: dict[float, float | None]) -> Any:
    """Values as if measured, the same for every direction."""

    class Values(dict[Any, Measured]):
        def __missing__(self, key: tuple[str, points.Point]) -> Measured:
            label, place = key
            size = place.moves[0].size if place.moves else 0.0
            loss = losses[size]
            shift = 0.1 * place.moves[0].number if place.moves and loss is not None else 0.0
            return Measured(
                key=label,
                loss=None if loss is None else loss + shift,
                accuracy=0.5,
                forwards=0,
                backwards=0,
                seconds=0.0,
            )

    return Values()


def test_a_curve_has_mean_and_band(tmp_path: Path) -> None:
    scan = two(tmp_path)
    values = fake({-1.0: 4.0, -0.5: 2.0, 0.0: 1.0, 0.5: 1.5, 1.0: 2.5})
    one = curve.curves(scan, ALPHAS, values)[0]
    np.testing.assert_allclose(one.mean, [4.05, 2.05, 1.0, 1.55, 2.55])
    np.testing.assert_allclose(one.low, [4.0, 2.0, 1.0, 1.5, 2.5])
    np.testing.assert_allclose(one.high, [4.1, 2.1, 1.0, 1.6, 2.6])
    flat = one.flatness()
    assert flat.sharpness_each == pytest.approx(((3 + 1 + 0 + 0.5 + 1.5) / 5, (3.1 + 1.1 + 0.6 + 1.6) / 5))
    assert flat.sharpness == pytest.approx(1.24)
    assert flat.sharpness_std == pytest.approx(0.08 / math.sqrt(2))
    # Direction 0 reaches +1 at -0.5 exactly, direction 1 before it, on the line from 1 to 2.1.
    assert flat.reach_each == pytest.approx((0.5, 0.5 / 1.1))


def test_points_that_overflow_are_named_not_drawn(tmp_path: Path) -> None:
    scan = two(tmp_path)
    values = fake({-1.0: None, -0.5: 1.2, 0.0: 1.0, 0.5: 1.1, 1.0: None})
    found = curve.curves(scan, ALPHAS, values)
    data = json.loads(figure_style.json_text(curve.to_data(scan, found, [], values)))
    entry = data["checkpoints"][0]
    assert {"direction": 0, "alpha": -1.0} in entry["not_finite"]
    assert len(entry["not_finite"]) == 4
    assert entry["loss_mean"][0] is None
    assert entry["flatness"]["sharpness"] is None
    assert entry["flatness"]["reach"] == 1.0, "what is not finite has risen"
    drawn = figures.curve_figure(scan, found, [])
    assert "a: 4 points not finite (overflow), |α| ≥ 1" in texts(drawn)
    lines = [line for line in drawn.axes[0].lines if len(line.get_xdata()) == 5]  # type: ignore[arg-type]
    assert np.isfinite(np.asarray(lines[0].get_ydata())).sum() == 3


def test_a_plane_that_overflows_says_so(tmp_path: Path) -> None:
    scan = two(tmp_path)
    alphas = points.alphas(Fraction(10) ** 20, 3)
    found = plane.planes(scan, alphas, scanning.run(scan, plane.plan(alphas), tmp_path / "scan"))
    text = texts(figures.plane_figure(scan, found))
    assert "8 points not finite (overflow), max(|a|, |b|) ≥ 1e+20" in text
    assert "|max(" not in text
    assert "no finite loss beside (0, 0)" in text


def texts(drawn: Any) -> str:
    return "\n".join(text.get_text() for text in drawn.findobj(Text))


def test_a_flat_curve_does_not_reach(tmp_path: Path) -> None:
    scan = two(tmp_path)
    found = curve.curves(scan, ALPHAS, fake({-1.0: 0.2, -0.5: 0.1, 0.0: 0.3, 0.5: 0.1, 1.0: 1.0}))
    assert found[0].flatness().reach is None
    assert found[0].flatness().reached == 0


def test_a_plane_is_relative_to_its_centre(tmp_path: Path) -> None:
    scan = two(tmp_path)
    alphas = points.alphas(Fraction(1), 3)
    values = scanning.run(scan, plane.plan(alphas), tmp_path / "scan")
    found = plane.planes(scan, alphas, values)
    assert found[0].relative.shape == (3, 3)
    assert found[0].relative[1, 1] == 0
    assert (found[0].relative >= 0).all()
    corner = values["a", point(Move("filter", 0, 1.0), Move("filter", 1, -1.0))].value
    assert found[0].losses[0, 2] == corner, "rows are b, columns a"
    data = json.loads(figure_style.json_text(plane.to_data(scan, found, values)))
    assert data["kind"] == "landscape-2d"
    assert abs(data["checkpoints"][0]["cosine_of_directions"]) < 0.5
    drawn = figures.plane_figure(scan, found)
    assert "|g(a, b) − g(0, 0)| (nats)" in texts(drawn)
    figure_style.save(drawn, tmp_path / "plane", data)


def test_responses_to_both_perturbations(tmp_path: Path) -> None:
    scan = two(tmp_path)
    kinds, gammas = weight_noise.kinds("rwp, AWP"), (1e-2, 0.5)
    assert kinds == ("awp", "rwp")
    wanted = weight_noise.plan(kinds, gammas, scan.directions.count)
    assert len(wanted) == 1 + 2 * 2 * (1 + scan.directions.count)
    values = scanning.run(scan, wanted, tmp_path / "scan")
    found = weight_noise.responses(scan, kinds, gammas, values)
    assert len(found) == 2 * 2 * 2
    assert {one.losses.shape for one in found} == {(1, 2), (2, 2)}
    means = {(one.label, one.kind, one.images): one.mean for one in found}
    assert means["a", "awp", "anew"][0] > values["a", point()].value
    assert means["a", "awp", "anew"][1] > means["a", "rwp", "anew"][1]
    data = json.loads(figure_style.json_text(weight_noise.to_data(scan, found, values)))
    assert len(data["checkpoints"][1]["responses"]) == 4
    figure_style.save(figures.response_figure(scan, found), tmp_path / "response", data)


def test_unknown_perturbations() -> None:
    with pytest.raises(UserError, match="Unknown weight perturbation 'awq'. Did you mean awp?"):
        weight_noise.kinds("awq")
    with pytest.raises(UserError, match="--perturbation names something twice: 'awp,awp'"):
        weight_noise.kinds("awp,awp")
