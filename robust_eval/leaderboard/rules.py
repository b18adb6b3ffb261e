"""What may stand on a board. Pure: rows in, sentences out; none where nothing is wrong.

Published tables elsewhere hold rows that cannot be (FGSM equal to clean, both at chance): here every
row must satisfy the relations of its own columns before anybody reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from robust_eval.core.types import part_name
from robust_eval.leaderboard.board import Board
from robust_eval.leaderboard.row import Row
from robust_eval.results import ColumnRecord, EvalResult, flags
from robust_eval.results.consistency import contradictions

# Flags of the numbers alone that make a row impossible, or so unlikely that it must not be shown as fact.
IMPOSSIBLE = ("weaker-beats-stronger", "attack-without-effect", "robust-above-clean", "collapsed")
_PATH = re.compile(r"(?<![\w.~$}-])(?:/(?:home|Users|root|mnt|tmp|var|data|work|scratch)/|[A-Za-z]:\\)\S")


class Problem(NamedTuple):
    file: str
    text: str


def problems(board: Board, rows: Sequence[Row]) -> list[Problem]:
    """Everything that keeps the rows off the board."""
    found = [Problem(row.file, text) for row in rows for text in of_row(board, row)]
    return found + list(_duplicates(rows))


def of_row(board: Board, row: Row) -> Iterator[str]:
    """What is wrong with one row, whatever else is on the board."""
    result = row.result
    inner = contradictions(result)
    if inner:
        yield f"contradicts itself: {inner[0]}"
        return
    if result.status == "partial":
        yield f"is partial: {', '.join(result.missing)} not finished"
    yield from _blocked(result)
    yield from _impossible(result)
    yield from _off_board(board, result)
    if row.verification is not None and not row.verification.passed:
        yield "failed its verification"
    if row.lapsed:
        yield "has a verification of another content: verify it again"
    if _PATH.search(result.model_dump_json()):
        yield "names a path of the machine it was made on"


def _blocked(result: EvalResult) -> Iterator[str]:
    """Flags that block, and flags of the numbers that somebody took out."""
    for flag in result.flags:
        if flag.severity == flags.BLOCKS:
            yield f"has a flag that blocks ranking: {flag.id} ({flag.figure})"
    for name in flags.missing(result, flags.from_result(result)):
        yield f"lacks a flag that its own numbers raise: {name}"


def _impossible(result: EvalResult) -> Iterator[str]:
    for flag in flags.from_columns(result.columns, result.checkpoint.classes):
        if flag.id in IMPOSSIBLE:
            yield f"is not to be believed: {flag.id} ({flag.figure})"
    clean, chance = result.columns["clean"], 1 / result.checkpoint.classes
    if clean.ci95[0] <= chance:
        yield f"is no better than guessing: {100 * clean.accuracy:.2f}% clean, chance {100 * chance:.2f}%"


def _off_board(board: Board, result: EvalResult) -> Iterator[str]:
    rules, threat, suite = board.rules, board.threat(), board.suite()
    if rules is None or threat is None or suite is None:
        return
    data = result.data
    if data.name not in rules.data or data.split != rules.split:
        yield f"is on {data.name} ({data.split}), the board on {rules.data[0]} ({rules.split})"
    elif rules.fingerprints and data.fingerprint not in rules.fingerprints:
        yield "is on other images than the board's, by their fingerprint"
    if (result.threat.norm, result.threat.eps) != (threat.norm, threat.eps_text):
        yield f"is under {result.threat.norm} {result.threat.eps}, the board under {threat}"
    if data.n < rules.minimum_n:
        yield f"has {data.n} examples, the board asks for at least {rules.minimum_n}"
    if (result.suite.name, result.suite.version) != (suite.name, suite.version):
        here = f"{result.suite.name} (version {result.suite.version})"
        yield f"is of suite {here}, the board of {suite.name} (version {suite.version})"
        return
    if extra := set(result.columns) - {column.id for column in suite.columns}:
        yield f"has columns that suite {suite.name} lacks: {', '.join(sorted(extra))}"
    for column in suite.columns:
        record = result.columns.get(column.id)
        wanted = [(attack.family, attack.version, dict(attack.params)) for attack in column.attacks]
        if record is None:
            yield f"lacks column {column.id} of suite {suite.name}"
        elif _attacks(record) != wanted:
            yield f"column {column.id} is not the {column.id} of suite {suite.name}: its attacks differ"


def _attacks(record: ColumnRecord) -> list[tuple[str, int, dict[str, Any]]]:
    return [(attack.family, attack.version, attack.params) for attack in record.attacks]


def same_claim(a: EvalResult, b: EvalResult) -> bool:
    """Two rows for one checkpoint, or one part of it, under one setting."""
    return _weights(a) == _weights(b) and _setting(a) == _setting(b)


def _weights(result: EvalResult) -> tuple[str, str]:
    return result.checkpoint.sha256, part_name(result.checkpoint.name)


def same_network(a: EvalResult, b: EvalResult) -> bool:
    """Two rows for one checkpoint, or for two that were trained alike, by what they say, under one setting.

    One recipe, seed and precision: trained again on another machine, the weights and the hash differ.
    """
    ours, theirs = _training(a), _training(b)
    return same_claim(a, b) or (ours is not None and ours == theirs and _setting(a) == _setting(b))


def _training(result: EvalResult) -> tuple[object, ...] | None:
    said = result.checkpoint.trained_with or {}
    recipe, provenance = said.get("recipe"), said.get("provenance")
    if not isinstance(recipe, dict) or not isinstance(provenance, dict):
        return None
    return recipe, provenance.get("seed"), provenance.get("precision"), result.checkpoint.architecture


def _setting(result: EvalResult) -> tuple[object, ...]:
    return result.data.fingerprint, result.threat, result.suite.name, result.suite.precision


def _duplicates(rows: Sequence[Row]) -> Iterator[Problem]:
    for position, row in enumerate(rows):
        first = next((other for other in rows[:position] if same_claim(other.result, row.result)), None)
        if first is not None:
            yield Problem(row.file, f"is a second row for the checkpoint of {first.file}")
