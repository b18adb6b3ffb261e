"""Columns and suites from TOML files: the meaning of ``--suite``.

A column file has a ``title`` and ``[[attacks]]`` tables, which form a cascade. Each table names a ``family``
(of this release, of an installed package, or a file relative to this one: Python code, or images) and its
parameters, with an optional ``id`` (default: the column's) and ``restarts = r``: r attacks, each on the
survivors of the one before and each judged separately. A table ``column = "..."`` stands for all attacks of
another column. A suite file has a ``version`` and ``columns``: ids, or paths of column files relative to
it. A column file in its place is a suite of this column.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robust_eval import attacks
from robust_eval.core import discovery, strict_toml
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.request import CLEAN
from robust_eval.core.types import AttackSpec, Column, Suite

_MOST_ATTACKS = 1000
_MOST_COLUMNS = 100
_MOST_LEVELS = 16


def load(text: str) -> Suite:
    """A suite from a name, a list of column or suite names, or a path of a column, suite or attack file.

    The clean column always comes first, and no column comes twice. A name that is both a suite and a
    column (``union``) is the suite.
    """
    names = [part for part in (part.strip() for part in text.split(",")) if part]
    if not names:
        raise UserError("The suite is empty. Name a suite such as full, or columns such as pgd-20,aa.")
    if len(names) == 1 and (names[0] in discovery.config_ids("suites") or names[0].endswith(".toml")):
        return _suite(names[0])
    columns = _unique([column(CLEAN), *(found for name in names for found in _expand(name))])
    return Suite(",".join(column.id for column in columns), 1, columns)


def of_attacks(items: Sequence[str | Callable[..., Any]]) -> Suite:
    """A suite of functions ``(model, x_NCHW, y_N, threat)``, a column each, and of names as in :func:`load`.

    Raises:
        UserError: for an unknown name, and for two functions of one name.
    """
    if not items:
        raise UserError("The suite is empty. Give functions, or names of columns.")
    columns: list[Column] = [column(CLEAN)]
    families: set[str] = set()
    for item in items:
        if isinstance(item, str):
            columns += load(item).columns
            continue
        family = attacks.add(item)
        if family in families:
            raise UserError(f"Two attacks are called {family}. Give the functions different names.")
        families.add(family)
        columns.append(_of_family(family))
    found = _unique(columns)
    return Suite(",".join(one.id for one in found), 1, found)


def _of_family(family: str) -> Column:
    """A column of one attack with its default parameters."""
    name = family.removeprefix("python:").lower()
    name = Path(name).stem if name.endswith(attacks.FILES) else name
    own_id = re.sub(r"[^a-z0-9]+", "-", name).strip("-") or "attack"
    return Column(own_id, own_id, (attacks.spec(own_id, family, {}),))


def column(name: str, base: Path = Path(), enclosing: tuple[str, ...] = ()) -> Column:
    """A column from its id, or from a path ending in .toml relative to ``base``."""
    path = base / name if name.endswith(".toml") else discovery.config_dir("columns") / f"{name}.toml"
    table = strict_toml.read(path) if name.endswith(".toml") else discovery.config("columns", name)
    where, own_id = _shown(path), path.stem
    _only(table, ("title", "attacks"), where)
    if own_id in enclosing:
        raise UserError(f"{where}: column {own_id} contains itself.")
    if len(enclosing) > _MOST_LEVELS:
        raise UserError(f"{where}: columns are nested more than {_MOST_LEVELS} levels deep.")
    tables = table.get("attacks", [])
    if not isinstance(tables, list) or not all(isinstance(entry, dict) for entry in tables):
        raise UserError(f"{where}: attacks must be written as [[attacks]] tables.")
    if not tables and own_id != CLEAN:
        raise UserError(f"{where}: a column needs at least one [[attacks]] table.")
    specs: list[AttackSpec] = []
    for entry in tables:
        specs += _attacks(own_id, entry, where, path.parent, (*enclosing, own_id))
        if len(specs) > _MOST_ATTACKS:
            raise UserError(f"{where}: a column has at most {_MOST_ATTACKS} attacks, restarts included.")
    for repeated in sorted(name for name, times in Counter(spec.id for spec in specs).items() if times > 1):
        raise UserError(f"{where}: two attacks are called {repeated}. Give each its own id.")
    return Column(own_id, _text(table, "title", own_id, where), tuple(specs))


def _suite(name: str) -> Suite:
    own = name.endswith(".toml")
    path = Path(name) if own else discovery.config_dir("suites") / f"{name}.toml"
    table = strict_toml.read(path)
    where = _shown(path)
    if "attacks" in table:
        only = column(name)
        return refuse_taken_name(Suite(only.id, 1, _unique([column(CLEAN), only])))
    _only(table, ("version", "columns"), where)
    version, columns = table.get("version", 1), table.get("columns")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UserError(f"{where}: version must be a whole number from 1, got {version!r}.")
    if not isinstance(columns, list) or not columns or not all(isinstance(entry, str) for entry in columns):
        raise UserError(f'{where}: columns must be a list of column names, such as ["clean", "pgd-20"].')
    if len(columns) > _MOST_COLUMNS:
        raise UserError(f"{where}: a suite has at most {_MOST_COLUMNS} columns.")
    found = _unique([column(CLEAN), *(column(entry, path.parent) for entry in columns)])
    return refuse_taken_name(Suite(path.stem, version, found)) if own else Suite(path.stem, version, found)


def refuse_taken_name(suite: Suite) -> Suite:
    """The suite; a :class:`UserError` if another suite of this release has its name.

    A result records the name of its suite, and would claim to be of that other suite.
    """
    if suite.name in discovery.config_ids("suites") and suite != _suite(suite.name):
        raise UserError(
            f"There is another suite {suite.name} in this release. "
            "Give your suite, or its file, another name."
        )
    return suite


def _expand(name: str) -> Iterable[Column]:
    """The columns that one item of a list names; a column id takes precedence over a suite name."""
    columns, suites = discovery.config_ids("columns"), discovery.config_ids("suites")
    if name.endswith(".toml") or name in columns:
        return (column(name),)
    if name.endswith(attacks.FILES):
        return (_of_family(attacks.add(Path(name))),)
    if name in suites:
        return _suite(name).columns
    raise unknown("suite or column", name, {*columns, *suites})


def _unique(columns: Iterable[Column]) -> tuple[Column, ...]:
    found: dict[str, Column] = {}
    for entry in columns:
        if found.setdefault(entry.id, entry) != entry:
            raise UserError(f"Two different columns are called {entry.id}. Rename the file of one of them.")
    return tuple(found.values())


def _attacks(
    column_id: str, entry: Mapping[str, Any], where: str, base: Path, enclosing: tuple[str, ...]
) -> tuple[AttackSpec, ...]:
    """The attacks that one [[attacks]] table describes."""
    params = dict(entry)
    if "column" in params:
        _only(params, ("column",), f"{where}: an attack taken from another column")
        return column(_text(params, "column", "", where), base, enclosing).attacks
    if "family" not in params:
        raise UserError(f"{where}: every [[attacks]] table needs a family ({', '.join(attacks.families())}).")
    family = _text(params, "family", "", where)
    if family.endswith(attacks.FILES):
        family = attacks.add(base / family)
    attack_id = _text(params, "id", column_id, where)
    restarts = params.get("restarts", 1)
    if not isinstance(restarts, int) or isinstance(restarts, bool) or not 1 <= restarts <= 1000:
        raise UserError(f"{where}: restarts must be a whole number from 1 to 1000, got {restarts!r}.")
    table = {key: value for key, value in params.items() if key not in ("family", "id", "restarts")}
    ids = [attack_id] if restarts == 1 else [f"{attack_id}.r{number}" for number in range(1, restarts + 1)]
    return tuple(attacks.spec(one, family, table, where) for one in ids)


def _text(table: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or not value:
        raise UserError(f"{where}: {key} must be text in quotes, got {value!r}.")
    return value


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in known:
            raise UserError(f"{where}: {unknown('key', key, known)}")


def _shown(path: Path) -> str:
    """A file name for messages; bundled files without the path of the installation."""
    bundled = discovery.config_dir("columns").parent
    return f"configs/{path.relative_to(bundled)}" if path.is_relative_to(bundled) else str(path)
