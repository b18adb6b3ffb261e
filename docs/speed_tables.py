"""The tables of docs/speed.md, from docs/tables/speed.json; a test holds the page to them.

usage: python docs/speed_tables.py [BENCHMARK.json ...]
       files that ``python -m benchmarks``, ``benchmarks.training_step``, ``benchmarks.growth`` or
       ``benchmarks.precision_training`` wrote replace the figures of the same work, then the page is made
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
FIGURES, PAGE = ROOT / "tables" / "speed.json", ROOT / "speed.md"
REFERENCE = "plain"
Row = Sequence[str]
Figures = dict[str, Any]


def taken(found: Any) -> Figures:
    """What one benchmark file adds to the figures; verdicts become counts."""
    if isinstance(found, list):
        return {"growth": found}
    if "works" in found:
        return {"works": {one["work"]["name"]: work(one, found["machine"]) for one in found["works"]}}
    return {"training" if isinstance(found["figures"], list) else "precision": found}


def work(one: Figures, machine: Figures) -> Figures:
    sides = {}
    for name, side in one["sides"].items():
        peer = one["sides"].get(REFERENCE, side)["columns"]
        columns = {
            column: {
                "robust": measured["bits"].count("1"),
                "differ": sum(
                    a != b for a, b in zip(measured["bits"], peer.get(column, measured)["bits"], strict=True)
                ),
                "seconds": measured["seconds"],
            }
            for column, measured in side["columns"].items()
        }
        kept = ("seconds", "processor_seconds", "peak_mib", "operations")
        sides[name] = {key: side[key] for key in kept} | {"columns": columns}
    return {**one["work"], "matrix_rates": machine["matrix_rates"], "measured": sides}


def markdown(headings: Row, rows: Sequence[Row]) -> str:
    lines = [headings, ["---"] + ["--:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def evaluation(works: Mapping[str, Figures]) -> str:
    headings = ("work", "side", "robust", "differ", "attack s", "speed", "all s", "CPU s", "MiB", "of limit")
    return markdown(headings, [row for one in works.values() for row in _evaluation(one)])


def _evaluation(one: Figures) -> Iterator[Row]:
    reference = one["measured"].get(REFERENCE)
    for number, (name, side) in enumerate(one["measured"].items()):
        columns = {key: value for key, value in side["columns"].items() if key != "clean"}
        attack = sum(column["seconds"] for column in columns.values())
        theirs = reference and sum(c["seconds"] for key, c in reference["columns"].items() if key in columns)
        yield (
            f"{one['name']}, {one['examples']} images" if number == 0 else "",
            name,
            ", ".join(str(column["robust"]) for column in columns.values()),
            str(sum(column["differ"] for column in columns.values())),
            f"{attack:.1f}",
            f"{theirs / attack:.2f}x" if theirs else "",
            f"{side['seconds']:.1f}",
            f"{side['processor_seconds']:.1f}",
            f"{side['peak_mib']:.0f}",
            _share(side, one["matrix_rates"]),
        )


def _share(side: Figures, rates: Mapping[str, float]) -> str:
    ideal = sum(count / rates[name] for name, count in side["operations"].items())
    return f"{ideal / side['seconds']:.0%}" if ideal else ""


def training(found: Figures) -> str:
    headings = ("side", "precision", "method", "s", "CPU s", "speed", "of limit", "MiB")
    figures = found["figures"]
    peer = {f["awp"]: f for f in figures if (f["side"], f["precision"]) == ("two-networks", "32")}
    rows = [
        (
            f["side"].replace("-", " "),
            {"32": "float32", "bf16": "bfloat16"}[f["precision"]],
            "AT-AWP" if f["awp"] else "AT",
            f"{f['seconds']:.2f}",
            f"{f['cpu_seconds']:.2f}",
            f"{peer[f['awp']]['seconds'] / f['seconds']:.2f}x",
            f"{f['share']:.0%}",
            f"{f['peak_mib']:.0f}",
        )
        for f in figures
    ]
    return markdown(headings, rows)


def growth(found: Sequence[Figures]) -> str:
    headings = ("", "value", "examples", "CPU s", "CPU s per example", "passes per example")
    rows = [
        (
            one["what"],
            str(one["value"]),
            str(one["examples"]),
            f"{one['processor_seconds']:.0f}",
            f"{one['processor_seconds'] / one['examples']:.3f}",
            f"{one['passes'] / one['examples']:,.0f}",
        )
        for one in found
    ]
    return markdown(headings, rows)


def precision(found: Figures) -> str:
    rows = []
    for name, runs in found["figures"].items():
        robust = [100 * run["pgd"] for run in runs]
        deviation = statistics.stdev(robust) if len(robust) > 1 else 0.0
        seeds = ", ".join(f"{value:.1f}" for value in robust)
        seconds = statistics.fmean(run["seconds"] for run in runs)
        shown = {"32": "float32", "bf16": "bfloat16"}[name]
        rows.append((shown, f"{statistics.fmean(robust):.1f} ± {deviation:.1f}", seeds, f"{seconds:.0f}"))
    return markdown(("precision", "PGD robust %", "seeds", "training s"), rows)


TABLES = {"works": evaluation, "training": training, "growth": growth, "precision": precision}


def page(text: str, figures: Figures) -> str:
    """The page with its tables made anew."""
    for name, table in TABLES.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if name in figures and start in text:
            before, _, rest = text.partition(start)
            text = f"{before}{start}\n{table(figures[name])}\n{end}{rest.partition(end)[2]}"
    return text


def main(files: Sequence[str]) -> None:
    figures: Figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for file in files:
        new = taken(json.loads(Path(file).read_text()))
        figures |= new | {"works": figures.get("works", {}) | new.get("works", {})}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), figures))


if __name__ == "__main__":
    main(sys.argv[1:])
