"""The tables of docs/speed.md, from docs/tables/speed.json; a test holds the page to them.

usage: python -m scripts.tables.speed [BENCHMARK.json ...]
       files that ``python -m benchmarks``, ``benchmarks.training_step``, ``benchmarks.growth`` or
       ``benchmarks.precision_training`` wrote replace the figures of the same work, then the page is made
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.tables.markdown_blocks import markdown, placed

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES, PAGE = DOCS / "tables" / "speed.json", DOCS / "speed.md"
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


def evaluation(works: Mapping[str, Figures]) -> str:
    headings = ("work", "side", "robust", "differ", "attack s", "speed", "all s", "CPU s", "MiB", "of limit")
    return markdown(headings, [row for one in works.values() for row in _evaluation(one)])


def _evaluation(one: Figures) -> Iterator[Row]:
    reference = one["measured"].get(REFERENCE)
    for number, (name, side) in enumerate(one["measured"].items()):
        columns = [value for key, value in side["columns"].items() if key != "clean"]
        attack = _attack_seconds(side, one["measured"]["ours"])
        theirs = reference and _attack_seconds(reference, one["measured"]["ours"])
        yield (
            f"{one['name']}, {one['examples']} images" if number == 0 else "",
            name,
            ", ".join(str(column["robust"]) for column in columns),
            str(sum(column["differ"] for column in columns)),
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


def columns(works: Mapping[str, Figures]) -> str:
    """Where the time goes: seconds of each attack in the works that have several."""
    several = [one for one in works.values() if len(one["measured"]["ours"]["columns"]) > 2]
    names = [name for name in several[0]["measured"]["ours"]["columns"] if name != "clean"]
    rows = [
        (one["name"], side, *(f"{measured['columns'][name]['seconds']:.1f}" for name in names))
        for one in several
        for side, measured in one["measured"].items()
    ]
    return markdown(("work", "side", *names), rows)


# (work, beside whom, aim in float32, aim in bfloat16)
AIMS = (
    ("resnet-18 pgd-20", "plain", 2.0, 8.0),
    ("resnet-18 pgd-20", "torchattacks", 1.3, 5.0),
    ("resnet-18 pgd-20", "foolbox", 1.3, 5.0),
    ("resnet-18 autoattack", "plain", 1.5, 4.0),
    ("mnist autoattack", "plain", 1.5, 4.0),
    ("mnist full", "plain", 2.0, 5.0),
    ("digits full", "plain", 2.0, 5.0),
)


def aims(works: Mapping[str, Figures]) -> str:
    """What was reached beside what was aimed for, and what the machine would allow in bfloat16."""
    headings = ("work", "beside", "float32", "aim", "bfloat16", "aim", "at the limit")
    return markdown(
        headings,
        [
            _aim(works[name], peer, float32, bfloat16)
            for name, peer, float32, bfloat16 in AIMS
            if name in works
        ],
    )


def _aim(one: Figures, peer: str, float32: float, bfloat16: float) -> Row:
    measured, rates = one["measured"], one["matrix_rates"]
    theirs = _attack_seconds(measured[peer], measured["ours"])
    speeds = [theirs / _attack_seconds(measured[side], measured["ours"]) for side in ("ours", "ours bf16")]
    operations = measured["ours bf16"]["operations"]
    limit = theirs / sum(count / rates[name] for name, count in operations.items())
    cells = f"{speeds[0]:.2f}x", f"{float32:g}x", f"{speeds[1]:.2f}x", f"{bfloat16:g}x", f"{limit:.1f}x"
    return (one["name"], peer, *cells)


def _attack_seconds(side: Figures, like: Figures) -> float:
    """Of the columns that ``like`` has too, without the clean one: sides time that differently."""
    shared = side["columns"].keys() & like["columns"].keys() - {"clean"}
    seconds: list[float] = [side["columns"][name]["seconds"] for name in sorted(shared)]
    return sum(seconds)


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
    headings = ("", "value", "examples", "CPU s", "CPU ms per example", "passes per example")
    rows = [
        (
            one["what"],
            str(one["value"]),
            str(one["examples"]),
            f"{one['processor_seconds']:.1f}",
            f"{1000 * one['processor_seconds'] / one['examples']:.1f}",
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


# Marker in the page: (key of the figures, table)
TABLES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "works": ("works", evaluation),
    "aims": ("works", aims),
    "columns": ("works", columns),
    "training": ("training", training),
    "growth": ("growth", growth),
    "precision": ("precision", precision),
}


def page(text: str, figures: Figures) -> str:
    """The page with its tables made anew."""
    for name, (key, table) in TABLES.items():
        if key in figures:
            text = placed(text, name, table(figures[key]))
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
