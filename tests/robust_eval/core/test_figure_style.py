"""The common figure style, and saving figures."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError


def drawn() -> Figure:
    with figure_style.style():
        canvas, (axes,) = figure_style.panels()
        axes.plot([0, 1], [0, 1], label="AT", **figure_style.line(0))
        axes.set_xlabel("alpha")
        axes.legend()
    return canvas


def test_save_writes_png_svg_and_the_data(tmp_path: Path) -> None:
    paths = figure_style.save(
        drawn(), tmp_path / "new" / "gamma-0.5", {"loss": np.array([1.0, np.nan]), "n": 2}
    )
    assert [path.name for path in paths] == ["gamma-0.5.json", "gamma-0.5.png", "gamma-0.5.svg"]
    assert json.loads(paths[0].read_text()) == {"loss": [1.0, None], "n": 2}
    assert paths[1].read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in paths[2].read_bytes()
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)


def test_the_same_figure_gives_the_same_files(tmp_path: Path) -> None:
    one, other = (figure_style.save(drawn(), tmp_path / name, {}) for name in ("a", "b"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


def test_style_restores_the_users_settings() -> None:
    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before


def test_lines_differ_without_colour() -> None:
    styles = [(str(line["linestyle"]), line["marker"]) for line in map(figure_style.line, range(7))]
    assert len(set(styles)) == 7


def test_the_first_21_reference_lines_differ() -> None:
    lines = list(map(figure_style.reference, range(21)))
    assert len({(line["color"], str(line["linestyle"])) for line in lines}) == 21
    assert "-" not in {line["linestyle"] for line in lines}


def test_a_legend_has_a_background() -> None:
    legend = drawn().axes[0].get_legend()
    assert legend is not None
    assert legend.get_frame_on()
    assert legend.get_frame().get_alpha() == 0.9


def test_a_legend_of_many_names_is_below_an_enlarged_figure() -> None:
    with figure_style.style():
        canvas, (axes,) = figure_style.panels()
        for index in range(20):
            axes.plot([0, 1], [0, index], label=f"at-awp/epoch-{index:04d}", **figure_style.line(index))
        figure_style.legend(canvas, axes)
        canvas.draw_without_rendering()
    assert axes.get_legend() is None
    (below,) = canvas.legends
    assert below.get_window_extent().y1 < axes.get_window_extent().y0
    assert below.get_window_extent().x0 >= 0
    assert axes.get_window_extent().height > 1.2 * canvas.dpi, "the panel keeps its height"


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(UserError, match="Cannot write to .*file.* Choose another folder"):
        figure_style.save(drawn(), tmp_path / "file" / "figure", {})
