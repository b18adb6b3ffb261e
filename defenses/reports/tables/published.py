"""Read the published values, in percent, from ``configs/published/awp-paper.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from robust_eval.core.discovery import config
from robust_eval.core.errors import unknown

FILE = "awp-paper"
NUMBERS = ("1", "2", "3", "4", "5")


@dataclass(frozen=True)
class TableValue:
    """A value of a table: percent, with its standard deviation."""

    mean: float
    sd: float | None = None
    """Sample standard deviation over seeds; None for one seed, or where it was not published."""
    n: int | None = None
    """Number of seeds; None for a published value."""


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table."""

    group: str
    """Threat model (Table 1), or dataset and norm (other tables)."""
    method: str
    values: Mapping[str, TableValue]
    """By column."""
    logged: Mapping[str, TableValue]
    """From the released training logs: the natural accuracy of the most robust epoch."""


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper."""

    number: str
    title: str
    metric: str
    where: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@cache
def _file() -> Mapping[str, Any]:
    return config("published", FILE)


def read(number: str) -> PublishedTable:
    """Read table 1, 2, 3, 4 or 5. Raises :class:`UserError` for another number."""
    if number not in NUMBERS:
        raise unknown("table", number, NUMBERS)
    found = _file()[f"table{number}"]
    logs = _file()["natural_at_robust_best"]["values"]
    rows = []
    for row in found["rows"]:
        values = {column: TableValue(*value) for column, value in row["values"].items()}
        known = logs.get(f"{row['group']} {row['method']}") if "natural/best" in found["columns"] else None
        rows.append(
            PublishedRow(
                row["group"], row["method"], values, {"natural/best": TableValue(known)} if known else {}
            )
        )
    return PublishedTable(
        number,
        found["title"],
        found["metric"],
        found["where"],
        tuple(found["notes"]),
        tuple(found["columns"]),
        tuple(rows),
    )


def method(recipe: str) -> str | None:
    """The paper's name of a recipe, such as AT-AWP for ``at-awp``; None if it is not in the tables."""
    found: str | None = _file()["methods"].get(recipe)
    return found


def dataset(name: str) -> str:
    """The paper's name of a dataset, such as CIFAR-10 for ``cifar10``; other names are unchanged."""
    return str(_file()["datasets"].get(name, name))
