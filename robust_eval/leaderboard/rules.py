"""Check rows against a board's rules and for consistency. No I/O: rows in, problems out.

Some published tables contain impossible rows (FGSM accuracy equal to clean accuracy, both at chance).
Therefore every row must also satisfy the relations between its own columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from robust_eval.core.types import part_name
from robust_eval.evaluation.planning import recorded_suite
from robust_eval.leaderboard.board import Board
from robust_eval.leaderboard.row import Row
from robust_eval.results import EvalResult, flags
from robust_eval.results.consistency import contradictions

# Flags that follow from the numbers alone and mean that they cannot be right, or are very unlikely to be.
IMPOSSIBLE = ("weaker-beats-stronger", "attack-without-effect", "robust-above-clean", "collapsed")
_PATH = re.compile(r"(?<![\w.~$}-])(?:/(?:home|Users|root|mnt|tmp|var|data|work|scratch)/|[A-Za-z]:\\)\S")


class Problem(NamedTuple):
    """What is wrong with a file of a board; ``file`` is relative to the board's folder."""

    file: str
    text: str


def check_rows(board: Board, rows: Sequence[Row]) -> list[Problem]:
    """All reasons why rows may not be on the board."""
    found = [Problem(row.file, text) for row in rows for text in check_row(board, row)]
    return found + list(_duplicates(rows))


def check_row(board: Board, row: Row) -> Iterator[str]:
    """What is wrong with one row, independent of the other rows."""
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
    yield from _off_suite(board, row)
    if row.verification is not None and not row.verification.passed:
        yield "failed its verification"
    if row.verification_outdated:
        yield "has a verification of different content: run robust-eval verify again"
    if _PATH.search(result.model_dump_json()):
        yield "contains a path of the machine on which it was made"


def _blocked(result: EvalResult) -> Iterator[str]:
    """Flags that block ranking, and flags that are missing although the numbers raise them."""
    for flag in result.flags:
        if flag.severity == flags.BLOCKS:
            yield f"has a flag that blocks ranking: {flag.id} ({flag.figure})"
    for name in flags.not_recorded(result, flags.from_result(result)):
        yield f"lacks a flag that its own numbers raise: {name}"


def _impossible(result: EvalResult) -> Iterator[str]:
    for flag in flags.from_columns(result.columns, result.checkpoint.classes):
        if flag.id in IMPOSSIBLE:
            yield f"has implausible numbers: {flag.id} ({flag.figure})"
    clean, chance = result.columns["clean"], 1 / result.checkpoint.classes
    if clean.ci95[0] <= chance:
        yield f"is not above chance: {100 * clean.accuracy:.2f}% clean, chance {100 * chance:.2f}%"


def _off_board(board: Board, result: EvalResult) -> Iterator[str]:
    rules, threat = board.rules, board.threat()
    if rules is None or threat is None:
        return
    data = result.data
    if data.name not in rules.data or data.split != rules.split:
        yield f"is on {data.name} ({data.split}); the board is for {rules.data[0]} ({rules.split})"
    elif rules.fingerprints and data.fingerprint not in rules.fingerprints:
        yield "is on different images than the board's (their fingerprints differ)"
    if (result.threat.norm, result.threat.eps) != (threat.norm, threat.eps_text):
        yield f"is under {result.threat.norm} {result.threat.eps}; the board is for {threat}"
    if data.n < rules.minimum_n:
        yield f"has {data.n} examples; the board requires at least {rules.minimum_n}"


def _off_suite(board: Board, row: Row) -> Iterator[str]:
    """How a row differs from the board's suite, or without rules from the suite that it names."""
    suite, result = board.suite(), row.result
    if suite is None:
        if row.suite.problem:
            yield row.suite.problem
        return
    if (result.suite.name, result.suite.version) != (suite.name, suite.version):
        used = f"{result.suite.name} (version {result.suite.version})"
        yield f"was evaluated with suite {used}; the board requires {suite.name} (version {suite.version})"
        return
    for difference in recorded_suite.differences(result, suite):
        yield f"is not of suite {suite.name}: it {difference}"
    for attack in recorded_suite.other_versions(result, suite):
        yield f"has another version of attack {attack} than suite {suite.name}"


def same_checkpoint(a: EvalResult, b: EvalResult) -> bool:
    """Whether two rows are for the same checkpoint (and the same part of it) under the same setting."""
    return _weights(a) == _weights(b) and _setting(a) == _setting(b)


def _weights(result: EvalResult) -> tuple[str, str]:
    return result.checkpoint.sha256, part_name(result.checkpoint.name)


def same_training(a: EvalResult, b: EvalResult) -> bool:
    """Whether two rows under the same setting are for the same checkpoint, or for a repeated training.

    A training is repeated if the checkpoints claim the same recipe, seed, precision and architecture. The
    hashes of the weights may differ, because training on another machine rounds differently.
    """
    one, other = _training(a), _training(b)
    return same_checkpoint(a, b) or (one is not None and one == other and _setting(a) == _setting(b))


def _training(result: EvalResult) -> tuple[object, ...] | None:
    claims = result.checkpoint.trained_with or {}
    recipe, provenance = claims.get("recipe"), claims.get("provenance")
    if not isinstance(recipe, dict) or not isinstance(provenance, dict):
        return None
    return recipe, provenance.get("seed"), provenance.get("precision"), result.checkpoint.architecture


def _setting(result: EvalResult) -> tuple[object, ...]:
    return result.data.fingerprint, result.threat, result.suite.name, result.suite.precision


def _duplicates(rows: Sequence[Row]) -> Iterator[Problem]:
    for position, row in enumerate(rows):
        first = next((other for other in rows[:position] if same_checkpoint(other.result, row.result)), None)
        if first is not None:
            yield Problem(row.file, f"is a second row for the checkpoint of {first.file}")
