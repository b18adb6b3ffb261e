"""Generate the tables of planted and of honest models in docs/flags.md from docs/tables/planted_models.json.

Run: python -m scripts.tables.planted_models [--plants] [--honest] [--data-root DIR] [WORD ...]
With ``--plants`` or ``--honest`` the models are measured first, which takes up to a minute each. Their
figures replace those in docs/tables/planted_models.json; WORDs choose the models whose name contains one of
them. DIR contains mnist/ and cifar10-jpeg/; models for data that are not there are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from robust_eval.data import default_root
from robust_eval.results import flags
from robust_eval.verification import selftest
from robust_eval.verification.selftest.cases_plants import plants
from robust_eval.verification.selftest.plant import DECEPTION, DEFENSE
from scripts.tables.honest_models import honest_models
from scripts.tables.markdown_blocks import markdown_table, replace_block
from scripts.tables.model_figures import EXAMPLES, NOT_COUNTED, Figures, measure_honest, measure_plant

DOCS = Path(__file__).resolve().parents[2] / "docs"
FIGURES, PAGE = DOCS / "tables" / "planted_models.json", DOCS / "flags.md"
MISSED = 0.05
"""A suite whose accuracy exceeds that of the adaptive attack by more is wrong."""


def plant_table(found: Mapping[str, Figures], group: str) -> str:
    """Flags, and robust accuracy according to the suite and to the adaptive attack."""
    headings = ("planted model", "source", "flags", "clean", "suite", "adaptive")
    rows = [_plant(name, one) for name, one in found.items() if one["group"] == group]
    return markdown_table(headings, rows)


def _plant(name: str, one: Figures) -> Sequence[str]:
    listed = [f"**{flag}**" if level == flags.BLOCKS else flag for flag, level in one["flags"].items()]
    if "stopped" in one:
        return name, one["source"], "stops with a message", "-", "-", _percent(one["adaptive"], EXAMPLES)
    numbers = (_percent(one[key], one["n"]) for key in ("clean", "robust", "adaptive"))
    return name, one["source"], ", ".join(listed) or ("not detected" if is_missed(one) else "-"), *numbers


def is_missed(one: Figures) -> bool:
    """Whether the suite reports too much without any flag."""
    return not one["flags"] and "stopped" not in one and one["robust"] - one["adaptive"] > MISSED * one["n"]


def _percent(count: int, n: int) -> str:
    return f"{100 * count / n:.0f}"


def honest_table(found: Mapping[str, Figures]) -> str:
    """Honest models with their threat models and worst case."""
    headings = ("honest model", "threat", "images", "clean", "suite", "flags")
    rows = [
        (
            name.rpartition(" @ ")[0],
            one["threat"],
            str(one["n"]),
            _percent(one["clean"], one["n"]),
            _percent(one["robust"], one["n"]),
            ", ".join(one["flags"]) or "none",
        )
        for name, one in found.items()
    ]
    return markdown_table(headings, rows)


def flag_table(found: Mapping[str, Mapping[str, Figures]]) -> str:
    """Each flag with the planted models that raised it, and the honest models that did."""
    planted, honest = found["plants"].values(), found["honest"].values()
    cases = selftest.cases()
    rows = [
        (
            f"`{name}`",
            "blocks" if rule.severity == flags.BLOCKS else "warns",
            str(sum(name in one["flags"] for one in planted)),
            str(sum(name in case.expected for case in cases)),
            str(len(honest)),
            str(sum(name in one["flags"] for one in honest)),
        )
        for name, rule in flags.RULES.items()
        if name != NOT_COUNTED
    ]
    headings = ("flag", "", "planted models", "cases of selftest", "honest models tried", "false alarms")
    return markdown_table(headings, rows)


def summary(found: Mapping[str, Figures]) -> str:
    """How many planted models were detected."""
    missed = [name for name, one in found.items() if is_missed(one)]
    right = sum(not (one["flags"] or "stopped" in one or name in missed) for name, one in found.items())
    listed = f" Not detected: {'; '.join(missed)}." if missed else ""
    return (
        f"Of {len(found)} planted models {len(found) - right - len(missed)} are flagged or refused; of "
        f"{right} others the accuracy is right within {100 * MISSED:.0f} points.{listed}"
    )


def tables() -> Iterator[tuple[str, str]]:
    """(name of the block, table) of every table."""
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    yield "planted defenses", plant_table(found["plants"], DEFENSE)
    yield "planted deceptions", plant_table(found["plants"], DECEPTION)
    yield "planted summary", summary(found["plants"])
    yield "honest models", honest_table(found["honest"])
    yield "flags and models", flag_table(found)


def page(text: str) -> str:
    """The page with its tables regenerated."""
    for name, table in tables():
        text = replace_block(text, name, table)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind in ("plants", "honest"):
        parser.add_argument(f"--{kind}", action="store_true", help=f"measure {kind} models")
    parser.add_argument("--data-root", type=Path, default=default_root())
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    # The networks are so small that several threads are slower than one.
    torch.set_num_threads(1)

    def chosen(name: str) -> bool:
        return not options.words or any(word in name for word in options.words)

    if options.plants:
        names = [plant.name for plant in plants()]
        for plant in plants():
            if chosen(plant.name):
                store("plants", plant.name, measure_plant(plant), names)
    if options.honest:
        models = {model.key: model for model in honest_models(options.data_root)}
        for key, model in models.items():
            if chosen(key):
                store("honest", key, measure_honest(model), list(models))
    if FIGURES.exists():
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def store(kind: str, name: str, figures: Figures, order: Sequence[str]) -> None:
    """Replace a model's figures in the file; models that are not in ``order`` are kept at the end."""
    found = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    every = {**found.get(kind, {}), name: figures}
    known = [key for key in order if key in every]
    found[kind] = {key: every[key] for key in dict.fromkeys([*known, *every])}
    FIGURES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
