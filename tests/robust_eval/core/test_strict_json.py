from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.untrusted_files import short

from robust_eval.core import plain_values, strict_json
from robust_eval.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x is not readable as JSON (Expecting value: line 1 column 1 (char 0)). Is it truncated?"),
        ('{"a": NaN}', "x contains NaN, which is not a number that can be compared."),
        ("[-Infinity]", "x contains -Infinity, which is not a number that can be compared."),
        ("[1e999]", "x contains 1e999, which is beyond the range of numbers."),
        ("[-1e400]", "x contains -1e400, which is beyond the range of numbers."),
        ("[1e-999999999]", "x contains 1e-999999999, which is beyond the range of numbers."),
        (f"[{'1' * 5000}]", "x contains a number of more than 100 characters."),
        (f"[0.{'1' * 5000}]", "x contains a number of more than 100 characters."),
        (f"[{2**64}]", "x contains a whole number of more than 64 bits."),
        (f"[{-(2**63) - 1}]", "x contains a whole number of more than 64 bits."),
        ('["\\ud800"]', "x contains half of a surrogate pair, which is not valid text."),
        ('{"\\udfff": 1}', "x contains half of a surrogate pair, which is not valid text."),
        ('{"a": 1, "b": 2, "a": 1}', "x has the key 'a' twice in one object."),
        ('{"\\ud800": 1, "\\ud800": 1}', "x has the key '\\ud800' twice in one object."),
        ("[" * 65 + "]" * 65, "x is nested more than 64 levels deep (or contains itself)."),
        ('{"a":' * 65 + "1" + "}" * 65, "x is nested more than 64 levels deep"),
        ("[" * 500_000, "x is nested more than 64 levels deep"),
        ('{"a":' * 200_000, "x is nested more than 64 levels deep"),
        (f"[{'0,' * 500_001}0]", "x holds more than 500,000 values."),
        ("\ufeff{}", "x is not readable as JSON"),
    ],
    ids=short,
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        strict_json.loads(text, "x")
    str(caught.value).encode()


def test_values_at_the_limits_are_read() -> None:
    texts = [
        "[" * 64 + "]" * 64,
        f"[{2**64 - 1}, {-(2**63)}]",
        "[1e-300, 0e-999999999, 1.5e300]",
        '["\\ud83d\\ude00"]',
    ]
    for text in texts:
        assert strict_json.loads(text, "x") == json.loads(text)


@pytest.mark.timeout(20)
def test_many_keys_take_time_in_proportion() -> None:
    pairs = [f'"k{number}": 0' for number in range(100_000)]
    assert len(strict_json.loads("{" + ",".join(pairs) + "}", "x")) == 100_000
    with pytest.raises(UserError, match="has the key 'k99999' twice"):
        strict_json.loads("{" + ",".join([*pairs, pairs[-1]]) + "}", "x")


@pytest.mark.timeout(20)
def test_values_that_contain_themselves_are_refused() -> None:
    wide: dict[str, Any] = {}
    wide.update({f"k{number}": wide for number in range(400)})
    deep: list[Any] = []
    deep.append(deep)
    doubled: list[Any] = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    long: list[Any] = [0] * 400_000
    long[0] = long
    for value in (wide, deep, doubled, long):
        problem = plain_values.problem(value)
        assert problem is not None
        assert re.match(r"is nested more than 64 levels|holds more than 500,000 values", problem)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({1: 2}, "has a key that is not text (int)"),
        ([b"x"], "contains a value of type bytes, which is neither text nor a number"),
        ([float("nan")], "contains infinity or NaN, which cannot be compared"),
        (("a", None, True, 1, 0.5, [], {}), None),
    ],
)
def test_values_of_other_types(value: object, problem: str | None) -> None:
    assert plain_values.problem(value) == problem
