"""Generate the tables of docs/speed.md from docs/tables/speed.json.

Run: python -m scripts.tables.speed [BENCHMARK.json ...]
Files written by ``python -m benchmarks``, ``benchmarks.training_step``, ``benchmarks.growth`` or
``benchmarks.precision_training`` first replace the figures of the same work in docs/tables/speed.json.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.tables.markdown_blocks import markdown_table, replace_block

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES, PAGE = DOCS / "tables" / "speed.json", DOCS / "speed.md"
REFERENCE = "plain"
Row = Sequence[str]
Figures = dict[str, Any]


def extract_figures(found: Any) -> Figures:
    """The figures of one benchmark file; verdicts are replaced by counts."""
    if isinstance(found, list):
        return {"growth": found}
    if "works" in found:
        return {"works": {one["work"]["name"]: work(one, found["machine"]) for one in found["works"]}}
    return {"training" if isinstance(found["figures"], list) else "precision": found}


def work(one: Figures, machine: Figures) -> Figures:
    """One evaluated work: robust examples, differing verdicts and seconds by side and column."""
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
        keys = ("seconds", "processor_seconds", "peak_mib", "operations")
        sides[name] = {key: side[key] for key in keys} | {"columns": columns}
    return {**one["work"], "matrix_rates": machine["matrix_rates"], "measured": sides}


def evaluation(works: Mapping[str, Figures]) -> str:
    """Robust examples, time and memory of each work by side."""
    headings = ("work", "side", "robust", "differ", "attack s", "speed", "all s", "CPU s", "MiB", "of limit")
    return markdown_table(headings, [row for one in works.values() for row in _evaluation(one)])


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
    """Seconds of each attack, for works with several attacks."""
    multiple = [one for one in works.values() if len(one["measured"]["ours"]["columns"]) > 2]
    names = [name for name in multiple[0]["measured"]["ours"]["columns"] if name != "clean"]
    rows = [
        (one["name"], side, *(f"{measured['columns'][name]['seconds']:.1f}" for name in names))
        for one in multiple
        for side, measured in one["measured"].items()
    ]
    return markdown_table(("work", "side", *names), rows)


# (work, compared with, target in float32, target in bfloat16)
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
    """Measured speed-up, its target, and the limit of the machine in bfloat16."""
    headings = ("work", "beside", "float32", "aim", "bfloat16", "aim", "at the limit")
    return markdown_table(
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
    """Seconds of the columns that both sides have, without the clean column, which they time differently."""
    shared = side["columns"].keys() & like["columns"].keys() - {"clean"}
    seconds: list[float] = [side["columns"][name]["seconds"] for name in sorted(shared)]
    return sum(seconds)


def training(found: Figures) -> str:
    """Time of training steps by side, precision and method."""
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
    return markdown_table(headings, rows)


def growth(found: Sequence[Figures]) -> str:
    """Cost as a function of the work's size."""
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
    return markdown_table(headings, rows)


def precision(found: Figures) -> str:
    """Robust accuracy and time of training by precision."""
    rows = []
    for name, runs in found["figures"].items():
        robust = [100 * run["pgd"] for run in runs]
        deviation = statistics.stdev(robust) if len(robust) > 1 else 0.0
        seeds = ", ".join(f"{value:.1f}" for value in robust)
        seconds = statistics.fmean(run["seconds"] for run in runs)
        shown = {"32": "float32", "bf16": "bfloat16"}[name]
        rows.append((shown, f"{statistics.fmean(robust):.1f} ± {deviation:.1f}", seeds, f"{seconds:.0f}"))
    return markdown_table(("precision", "PGD robust %", "seeds", "training s"), rows)


# Name of the block in the page: (key of the figures, table)
TABLES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "works": ("works", evaluation),
    "aims": ("works", aims),
    "columns": ("works", columns),
    "training": ("training", training),
    "growth": ("growth", growth),
    "precision": ("precision", precision),
}


def page(text: str, figures: Figures) -> str:
    """The page with its tables regenerated."""
    for name, (key, table) in TABLES.items():
        if key in figures:
            text = replace_block(text, name, table(figures[key]))
    return text


def main(files: Sequence[str]) -> None:
    figures: Figures = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    for file in files:
        new = extract_figures(json.loads(Path(file).read_text()))
        figures |= new | {"works": figures.get("works", {}) | new.get("works", {})}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), figures))


if __name__ == "__main__":
    main(sys.argv[1:])
