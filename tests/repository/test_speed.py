"""The tables of docs/speed.md are generated from docs/tables/speed.json."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.tables import speed

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "speed.md").read_text(encoding="utf-8")
FIGURES = json.loads((DOCS / "tables" / "speed.json").read_text(encoding="utf-8"))


def test_the_tables_are_generated_from_the_figures() -> None:
    assert speed.page(PAGE, FIGURES) == PAGE
    assert all(f"<!-- {name} -->\n| " in PAGE for name in FIGURES)


def test_counts_and_ratios_of_the_table() -> None:
    def side(bits: str, seconds: float) -> dict[str, object]:
        columns = {"clean": {"bits": "1111", "seconds": 0.1}, "aa": {"bits": bits, "seconds": seconds}}
        return {
            "seconds": 9.0,
            "processor_seconds": 9.0,
            "peak_mib": 1.0,
            "operations": {"float32": 45.0},
            "columns": columns,
        }

    one = {
        "work": {"name": "w", "examples": 4},
        "sides": {"ours": side("1100", 2.0), "plain": side("1010", 5.0)},
    }
    found = speed.extract_figures({"machine": {"matrix_rates": {"float32": 10.0}}, "works": [one]})
    first, second = speed.evaluation(found["works"]).splitlines()[2:]
    assert first == "| w, 4 images | ours | 2 | 2 | 2.0 | 2.50x | 9.0 | 9.0 | 1 | 50% |"
    assert second == "|  | plain | 2 | 0 | 5.0 | 1.00x | 9.0 | 9.0 | 1 | 50% |"
