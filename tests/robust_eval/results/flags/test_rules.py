"""Each rule has complete texts, and docs/flags.md has the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robust_eval.results import flags
from robust_eval.results.flags.rules import distinct, records

PAGE = Path(__file__).resolve().parents[4] / "docs" / "flags.md"


@pytest.mark.parametrize("name", flags.RULES)
def test_every_flag_has_a_severity_a_threshold_and_one_sentence_of_advice(name: str) -> None:
    rule = flags.RULES[name]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert rule.severity in (flags.BLOCKS, flags.WARNS)
    assert rule.threshold
    assert rule.advice.endswith(".")
    assert rule.advice.count(". ") <= 1


@pytest.mark.parametrize("name", flags.RULES)
def test_every_flag_is_documented_in_the_same_words(name: str) -> None:
    rule = flags.RULES[name]
    entry = rf"^### `{name}` \({rule.severity}\)$.+?^Threshold: {re.escape(rule.threshold)}\.$\s+(.+)$"
    found = re.search(entry, PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"{PAGE.name} lacks {name}, or has another text for it"
    assert found[1].startswith(rule.advice)


def test_documentation_lists_no_other_flag() -> None:
    named = re.findall(r"^### `(.+?)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert named == list(flags.RULES)


def test_a_flag_raised_twice_is_reported_once() -> None:
    found = records([("collapsed", "first"), ("train-mode", "x"), ("collapsed", "second")])
    assert [(flag.id, flag.figure) for flag in distinct(found)] == [
        ("collapsed", "first"),
        ("train-mode", "x"),
    ]
