"""The common style of all figures, and saving them as PNG and SVG with their data as JSON.

Figures have the width of one column of a paper (3.3 in), so that 8 pt text is printed at 8 pt. The palette of
Okabe and Ito (2008) is distinguishable with colour blindness; lines also differ in dashes and markers, for
print without colour.

    with figure_style.style():
        figure, (axes,) = figure_style.panels()
        axes.plot(x, y, label="AT", **figure_style.line(0))
        axes.set_xlabel("gamma (relative size)")
    figure_style.save(figure, folder / "sweep", {"x": x, "y": y})
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from robust_eval.core import extras
from robust_eval.core.files import create_folder, report_write_errors, write_files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.3
"""Width of one column of a paper, in inches."""
TWO_COLUMNS = 2 * COLUMN + 0.3
"""Width of a figure over both columns of a page, in inches."""
DPI = 220

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#707070"
MAX_LEGEND_NAMES = 6
"""Names that fit into a legend inside a panel."""
_DASHES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.2, 1.2)))
_REFERENCE_DASHES = ((0, (4, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1, 1.5)))
_MARKERS = "osD^vPX"

_STYLE: Mapping[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    # A white background, so that no grid lines run through the text.
    "legend.frameon": True,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.handlelength": 2.4,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "text.color": "#1a1a1a",
    "axes.labelcolor": "#1a1a1a",
    "axes.edgecolor": "#4d4d4d",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.2,
    "svg.hashsalt": "robust-eval",  # makes SVG files reproducible
}


_MATPLOTLIB = ("plots", "matplotlib", "A figure")


def check_installed() -> None:
    """Raise :class:`UserError` if figures cannot be drawn; for commands that draw after long work."""
    extras.check(*_MATPLOTLIB)


@contextmanager
def style() -> Iterator[None]:
    """Apply the common style to everything drawn inside; the caller's matplotlib settings are restored.

    Raises :class:`UserError` if matplotlib is not installed.
    """
    matplotlib = extras.load(*_MATPLOTLIB)
    with matplotlib.rc_context(cast("Any", dict(_STYLE))):
        yield


def panels(
    columns: int = 1,
    rows: int = 1,
    *,
    width: float = COLUMN,
    height: float = 2.4,
    share_y: bool = False,
    three_d: Sequence[int] = (),
) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` x ``height`` inches and its panels, row by row; call inside :func:`style`.

    ``three_d``: indices of panels with three axes. Neither a display nor pyplot's global state is used.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = []
    for index in range(rows * columns):
        projection = "3d" if index in three_d else None
        shared = axes[0] if share_y and axes else None
        axes.append(figure.add_subplot(rows, columns, index + 1, projection=projection, sharey=shared))
    return figure, axes


def line(index: int, *, markers: bool = True) -> dict[str, Any]:
    """Colour, dashes and marker of line number ``index``: ``axes.plot(x, y, **line(0))``."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": _DASHES[index % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)] if markers else "None",
    }


def reference(index: int) -> dict[str, Any]:
    """Colour and dashes of reference line number ``index``; the first 21 differ."""
    return {
        "color": PALETTE[index % len(PALETTE)],
        "linestyle": _REFERENCE_DASHES[index // len(PALETTE) % len(_REFERENCE_DASHES)],
        "linewidth": 0.9,
    }


def legend(figure: Figure, axes: Axes, **legend_options: Any) -> None:
    """Draw the legend in the panel, or below an enlarged figure for more than MAX_LEGEND_NAMES names."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) <= MAX_LEGEND_NAMES:
        axes.legend(**legend_options)
        return
    width, height = figure.get_size_inches()
    # A letter of 7 pt is about 0.06 in wide, the line sample 0.5 in.
    columns = max(1, int(width / (0.5 + 0.06 * max(map(len, labels)))))
    figure.set_size_inches(width, height + 0.15 * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def save(figure: Figure, stem: Path, data: Mapping[str, Any]) -> tuple[Path, Path, Path]:
    """Write ``stem.json``, ``stem.png`` and ``stem.svg``, none before all are drawn, and return their paths.

    ``data``: everything that was drawn; values that are not finite become null. Raises :class:`UserError` if
    the folder cannot be written.
    """
    paths = (with_ending(stem, "json"), with_ending(stem, "png"), with_ending(stem, "svg"))
    contents = [json_text(data).encode()]
    with style():
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=ending, dpi=DPI, metadata=cast("dict[str, Any]", metadata))
            contents.append(drawn.getvalue())
    with report_write_errors(stem.parent):
        create_folder(stem.parent)
    write_files(dict(zip(paths, contents, strict=True)))
    return paths


def with_ending(stem: Path, ending: str) -> Path:
    """``runs/gamma-0.5`` becomes ``runs/gamma-0.5.png``: text after a dot in the stem is not replaced."""
    return stem.with_name(f"{stem.name}.{ending}")


def json_text(data: Any) -> str:
    """Indented standard JSON; arrays become lists, NaN and infinities null."""
    return json.dumps(_plain(data), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and torch
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
