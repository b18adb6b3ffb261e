"""Render a board as one self-contained HTML page, which loads nothing from the network.

All values are untrusted and escaped by Jinja. The content security policy in the page's head allows only the
page's own style and scripts, by their hashes, and inlined images.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from robust_eval.core.request import CLEAN
from robust_eval.core.text import printable
from robust_eval.leaderboard.page import charts
from robust_eval.leaderboard.page.row_details import compare_pair, row_details
from robust_eval.leaderboard.page.view_models import GroupView, group_views, safe_link
from robust_eval.leaderboard.page_extras import PageExtras
from robust_eval.leaderboard.row import WORST_CASE, Row
from robust_eval.results import trust

if TYPE_CHECKING:
    from robust_eval.leaderboard.robustbench_import import PublishedEntry

FILE = "index.html"
_TEMPLATES = Path(__file__).parent / "templates"
# Longest string that is shown; chart paths and inlined images are long.
_MAX_LENGTH = 100_000


def render(
    title: str,
    rows: Sequence[Row],
    extras: Mapping[str, PageExtras] | None = None,
    by: str = WORST_CASE,
    published: Sequence[PublishedEntry] = (),
    about: str = "",
) -> str:
    """The page of a board.

    ``extras``: page extras by ``Row.file``. ``by``: the ranking column. ``published``: RobustBench's entries,
    shown in a separate table. ``about``: a note above the table.
    """
    found = group_views(rows, extras, by)
    css, early_js, js = (_asset(name) for name in ("page.css", "early.js", "page.js"))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            about=about,
            groups=found,
            charts={
                group.id: SimpleNamespace(scatter=charts.scatter(group), attacks=charts.attacks(group))
                for group in found
            },
            eps_charts=charts.epsilons(found),
            pairs={group.id: [compare_pair(*members) for members in group.pairs] for group in found},
            details={row: detail for group in found for row, detail in row_details(group).items()},
            architectures=sorted({row.result.checkpoint.architecture.id for row in rows}),
            meanings=_meanings(rows),
            trust=trust.GENERAL,
            max_lines=charts.MAX_LINES,
            published=published,
            data={"title": title, "groups": [_data(group) for group in found]},
            css=css,
            early_js=early_js,
            js=js,
            csp=_policy(css, early_js, js),
        )
    )


def _policy(css: str, *scripts: str) -> str:
    allowed = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(css)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> Markup:
    """A style sheet or script of the package, the only text that is not escaped."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _meanings(rows: Sequence[Row]) -> list[object]:
    """Every flag that occurs in a row, once."""
    seen = {flag.id: flag for row in rows for flag in row.flags}
    return [seen[name] for name in sorted(seen)]


def _data(group: GroupView) -> dict[str, Any]:
    """The table as JSON data, for the CSV download and for other programs."""
    rows = [
        {
            "id": row.id,
            "rank": row.rank,
            "name": row.name,
            "checkpoint": row.result.checkpoint.name,
            "sha256": row.result.checkpoint.sha256,
            "architecture": row.result.checkpoint.architecture.id,
            "columns": {
                name: {"value": found.value, "low": found.low, "high": found.high}
                for name, found in {**row.cells, "worst case": row.worst}.items()
            },
            "n": row.result.data.n,
            "precision": row.result.suite.precision,
            "selection": row.row.selected,
            "standing": row.row.standing,
            "flags": [flag.id for flag in row.row.flags],
        }
        for row in group.rows
    ]
    return {"id": group.id, "data": group.data, "threat": group.threat, "suite": group.suite, "rows": rows}


def _shown(value: object) -> object:
    """Remove control and bidirectional characters from strings; Jinja escapes the rest."""
    return (
        printable(value, _MAX_LENGTH) if isinstance(value, str) and not isinstance(value, Markup) else value
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fixed": lambda value, digits: f"{value:.{digits}f}",
        "signed": lambda value, digits: f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}"),
        "pvalue": lambda p: "< 0.001" if p < 0.001 else f"= {p:.2g}",
        "link": safe_link,
    }
    environment.globals["CLEAN"] = CLEAN
    return environment
