"""Figures of curves, planes and weight perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from robust_eval.core import figure_style
from robust_eval.landscape.awp.curve import Curve
from robust_eval.landscape.awp.plane import Plane
from robust_eval.landscape.awp.scan import Scan
from robust_eval.landscape.awp.weight_noise import PerturbationCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS = "adversarial loss (nats)"


def curve_figure(scan: Scan, curves: Sequence[Curve], pre_generated: Sequence[Curve]) -> Figure:
    """Mean and band of every checkpoint; a second panel for ``pre_generated`` curves, which may be empty."""
    with figure_style.style():
        width = figure_style.TWO_COLUMNS if pre_generated else figure_style.COLUMN
        canvas, panels = figure_style.panels(1 + bool(pre_generated), width=width, share_y=True)
        _curves(panels[0], curves)
        panels[0].set_ylabel(LOSS)
        if pre_generated:
            for one in curves:
                panels[1].plot(one.alphas, one.mean, color=figure_style.GREY, linewidth=0.8, linestyle=":")
            panels[1].plot([], [], color=figure_style.GREY, linewidth=0.8, linestyle=":", label="made anew")
            panels[1].legend()
            panels[0].set_title("x' made anew at every α: the landscape")
            panels[1].set_title("x' made once, at α = 0: misleads")
            _curves(panels[1], pre_generated, labels=False)
        canvas.suptitle(scan.caption(), fontsize=8)
        figure_style.legend(canvas, panels[0])
        _list_not_finite(
            canvas, [(one.label, "|α|", [row["alpha"] for row in one.not_finite()]) for one in curves]
        )
    return canvas


def _curves(axes: Axes, curves: Sequence[Curve], *, labels: bool = True) -> None:
    for index, one in enumerate(curves):
        line = figure_style.line(index, markers=len(one.alphas) <= 25)
        axes.plot(one.alphas, one.mean, label=one.label if labels else None, **line)
        axes.fill_between(one.alphas, one.low, one.high, color=line["color"], alpha=0.18, linewidth=0)
    # The full range of alpha, even if some losses are not finite.
    limit = 1.05 * float(curves[0].alphas[-1])
    axes.set_xlim(-limit, limit)
    axes.set_xlabel("α (in filter norms, random direction)")
    if not any(np.isfinite(one.losses).sum() > 1 for one in curves):
        axes.text(0.5, 0.7, "no finite loss beside α = 0", transform=axes.transAxes, ha="center")


def plane_figure(scan: Scan, planes: Sequence[Plane]) -> Figure:
    """A surface and a contour plot per checkpoint, all with one colour scale."""
    highest = max([float(np.nanmax(one.relative)) for one in planes if np.isfinite(one.at_w)] or [0.0])
    rows = len(planes)
    with figure_style.style():
        from matplotlib.ticker import MaxNLocator

        levels = MaxNLocator(10).tick_values(0, highest or 1.0)
        canvas, panels = figure_style.panels(
            2, rows, width=figure_style.TWO_COLUMNS, height=2.7 * rows, three_d=range(0, 2 * rows, 2)
        )
        for row, one in enumerate(planes):
            a, b = np.meshgrid(one.alphas, one.alphas)
            surface, contour = cast(Any, panels[2 * row]), panels[2 * row + 1]
            surface.plot_surface(
                a, b, one.relative, cmap="viridis", vmin=0, vmax=levels[-1], rstride=1, cstride=1
            )
            surface.set_zlim(0, levels[-1])
            surface.set_title(one.label)
            surface.set_zlabel("|g(a, b) − g(0, 0)| (nats)")
            filled = contour.contourf(a, b, np.ma.masked_invalid(one.relative), levels, cmap="viridis")
            contour.grid(visible=False)
            contour.set_aspect("equal")
            canvas.colorbar(filled, ax=contour, label="|g(a, b) − g(0, 0)| (nats)")
            for axes in (surface, contour):
                axes.set_xlabel("a (in filter norms)")
                axes.set_ylabel("b (in filter norms)")
                if not 1e-3 < one.alphas[-1] < 1e4:
                    # The common factor of the tick labels would overlap the axis labels.
                    axes.xaxis.set_major_formatter("{x:g}")
                    axes.yaxis.set_major_formatter("{x:g}")
            if np.isfinite(one.relative).sum() < 2:
                contour.text(
                    0.5, 0.7, "no finite loss beside (0, 0)", transform=contour.transAxes, ha="center"
                )
        canvas.suptitle(scan.caption(), fontsize=8)
        _list_not_finite(
            canvas,
            [
                (one.label, "max(|a|, |b|)", [max(abs(p["a"]), abs(p["b"])) for p in one.not_finite()])
                for one in planes
            ],
        )
    return canvas


def perturbation_figure(scan: Scan, curves: Sequence[PerturbationCurve]) -> Figure:
    """Loss against gamma on logarithmic axes, one panel per checkpoint."""
    labels = list(dict.fromkeys(one.label for one in curves))
    width = figure_style.COLUMN if len(labels) == 1 else figure_style.TWO_COLUMNS * max(1.0, len(labels) / 2)
    with figure_style.style():
        canvas, panels = figure_style.panels(len(labels), width=width, share_y=True)
        for axes, label in zip(panels, labels, strict=True):
            axes.set_xscale("log")
            axes.set_yscale("log")
            for one in (curve for curve in curves if curve.label == label):
                _perturbation_curve(axes, one)
            axes.set_title(label)
            axes.set_xlabel("γ (size of v relative to the layer's weights)")
        panels[0].set_ylabel(LOSS)
        panels[0].legend(fontsize=6.5)
        canvas.suptitle(scan.caption(), fontsize=8)
        _list_not_finite(
            canvas, [(f"{one.label} {one.kind.upper()}", "γ", one.not_finite()) for one in curves]
        )
    return canvas


def _perturbation_curve(axes: Axes, one: PerturbationCurve) -> None:
    line = figure_style.line(0 if one.kind == "awp" else 1)
    anew = one.images == "anew"
    line |= {"linestyle": "-" if anew else ":", "fillstyle": "full" if anew else "none"}
    made = "made anew at w+v" if anew else "made at w"
    axes.plot(one.gammas, one.mean, label=f"{one.kind.upper()}, x' {made}", **line)
    if len(one.losses) > 1 and anew:
        low, high = one.losses.min(0), one.losses.max(0)
        axes.fill_between(one.gammas, low, high, color=line["color"], alpha=0.18, linewidth=0)


def _list_not_finite(canvas: Figure, points: Sequence[tuple[str, str, Sequence[float]]]) -> None:
    """List below the figure the points that are not drawn because the loss overflowed.

    ``points``: (label, symbol of the distance from w, the distances of such points).
    """
    lines = [
        f"{label}: {len(distances)} points not finite (overflow), {symbol} ≥ {min(map(abs, distances)):g}"
        for label, symbol, distances in points
        if distances
    ]
    if lines:
        canvas.supxlabel("\n".join(dict.fromkeys(lines)), fontsize=7, color=figure_style.PALETTE[1])
