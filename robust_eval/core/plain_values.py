"""Limits on nested plain values, as JSON, TOML and the description in a checkpoint hold them.

A value within these limits can be traversed recursively, written as JSON, and printed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

MOST_LEVELS = 64
MOST_VALUES = 500_000
_INTEGERS = range(-(2**63), 2**64)


class UnboundedError(Exception):
    """A value is beyond the limits; the text is the predicate of a sentence about it."""


def items(value: Any) -> Iterator[Any]:
    """A value and everything in it: lists, tuples and dicts, their entries (without keys), and so on.

    Time and memory are bounded, also for a value that contains itself.

    Raises:
        UnboundedError: beyond MOST_LEVELS levels or MOST_VALUES values; what occurs twice is counted twice.
    """
    left, count = [(value, 1)], 1
    while left:
        item, level = left.pop()
        yield item
        if isinstance(item, (dict, list, tuple)):
            if level > MOST_LEVELS:
                raise UnboundedError(f"is nested more than {MOST_LEVELS} levels deep (or contains itself)")
            count += len(item)
            if count > MOST_VALUES:
                raise UnboundedError(f"holds more than {MOST_VALUES:,} values")
            entries = item.values() if isinstance(item, dict) else item
            left += [(entry, level + 1) for entry in entries]


def problem(value: Any) -> str | None:
    """What makes a value unusable, as the predicate of a sentence; None if it is usable.

    Usable are text, integers of 64 bits, finite numbers, booleans and None, in lists, tuples and dicts with
    text as keys, within the limits of :func:`items`.
    """
    try:
        return next((wrong for item in items(value) if (wrong := _problem_of_one(item)) is not None), None)
    except UnboundedError as error:
        return str(error)


def _problem_of_one(item: Any) -> str | None:
    if isinstance(item, dict):
        for key in item:
            if not isinstance(key, str):
                return f"has a key that is not text ({type(key).__name__})"
            if (wrong := _text_problem(key)) is not None:
                return wrong
    return _scalar_problem(item)


def _scalar_problem(item: Any) -> str | None:
    if isinstance(item, str):
        return _text_problem(item)
    if item is None or isinstance(item, (bool, dict, list, tuple)):
        return None
    if isinstance(item, int):
        return None if item in _INTEGERS else "contains a whole number of more than 64 bits"
    if isinstance(item, float):
        return None if math.isfinite(item) else "contains infinity or NaN, which cannot be compared"
    return f"contains a value of type {type(item).__name__}, which is neither text nor a number"


def _text_problem(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half of a surrogate pair, which is not valid text"
    return None
