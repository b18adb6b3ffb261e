from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.untrusted_files import short

from robust_eval.core import strict_toml
from robust_eval.core.errors import UserError


def test_a_file_is_read_and_an_error_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('a = [1, 0.5]\n[b]\nc = "d"\n')
    assert strict_toml.read(path) == {"a": [1, 0.5], "b": {"c": "d"}}
    path.write_text("a = [1,\nb")
    with pytest.raises(UserError, match=r"x\.toml is not valid TOML: .*line 2.*\."):
        strict_toml.read(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\na = 2", "x is not valid TOML: Cannot overwrite a value"),
        ("a = " + "[" * 1900, "x is nested more than 64 levels deep"),
        ("a = " + "[\n" * 30_000, "x is nested more than 64 levels deep"),
        ("a = " + "{a=" * 600, "x is nested more than 64 levels deep"),
        (".".join("a" * 900) + " = 1", "x is nested more than 64 levels deep"),
        ("[" + ".".join("a" * 70) + "]", "x is nested more than 64 levels deep"),
        (".".join("a" * 30_000) + " = 1", "x has a line of more than 2000 characters. Divide it."),
        (f"a = {'1' * 1900}", "x contains a whole number of more than 64 bits."),
        (f"a = 0x{'f' * 1900}", "x contains a whole number of more than 64 bits."),
        ("a = inf", "x contains infinity or NaN, which cannot be compared."),
        ("a = 1e999", "x contains infinity or NaN, which cannot be compared."),
        ("a = 2026-01-01", "x contains a value of type date, which is neither text nor a number."),
        ('a = "\\ud800"', "x is not valid TOML"),
    ],
    ids=short,
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        strict_toml.loads(text, "x")


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("#" * 70_000)
    with pytest.raises(UserError, match="is larger than 64 KiB, the limit for TOML files"):
        strict_toml.read(path)
