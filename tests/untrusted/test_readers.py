"""Property tests of every reader: what was written is read, and changed or cut files are read or refused.

A refusal is a UserError of one line that names the file. Everything else, a hang included, is a defect.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.file_readers import READERS, FileReader

from robust_eval.core.errors import UserError
from robust_eval.core.text import printable

QUICK, LONG = 20, 300
INTERESTING = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"[",
    b"{",
    b'"',
    b"9" * 20,
    b"\\ud800",
)

each_reader = pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)


def repeatable(test: Callable[..., None], examples: int) -> Callable[..., None]:
    """The same examples on every run, without a limit that depends on the speed of the machine."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks
    )(test)


def accepted_or_refused(reader: FileReader, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / reader.name
        path.write_bytes(content)
        try:
            reader.read(path)
        except UserError as error:
            text = str(error)
            text.encode()
            assert reader.name.partition(".")[0] in text
            assert printable(text, 10_000)


def changed(data: Any, content: bytes) -> bytes:
    """The content with one to four bytes or pieces changed, removed, inserted or repeated."""
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, max(len(content) - 1, 0)))
        end = min(position + data.draw(st.integers(0, 8)), len(content))
        kind = data.draw(st.sampled_from(["flip", "replace", "remove", "repeat"]))
        if kind == "flip" and content:
            flipped = content[position] ^ 1 << data.draw(st.integers(0, 7))
            content = content[:position] + bytes([flipped]) + content[position + 1 :]
        elif kind == "replace":
            piece = data.draw(st.sampled_from(INTERESTING) | st.binary(max_size=4))
            content = content[:position] + piece + content[end:]
        elif kind == "remove":
            content = content[:position] + content[end:]
        else:
            content = content[:end] + content[position:]
    return content


def check_round_trip(reader: FileReader, data: Any) -> None:
    value = data.draw(reader.values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / reader.name
        path.write_bytes(reader.write(value))
        assert reader.same(value, reader.read(path))


def check_changes(reader: FileReader, data: Any) -> None:
    accepted_or_refused(reader, changed(data, reader.write(data.draw(reader.values))))


def check_truncation(reader: FileReader, data: Any) -> None:
    content = reader.write(data.draw(reader.values))
    accepted_or_refused(reader, content[: data.draw(st.integers(0, len(content)))])


CHECKS = (check_round_trip, check_changes, check_truncation)
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))


def run(reader: FileReader, check: Callable[[FileReader, Any], None], examples: int) -> None:
    @given(data=st.data())
    def test(data: Any) -> None:
        check(reader, data)

    repeatable(test, examples)()


@pytest.mark.filterwarnings("ignore")
@each_check
@each_reader
def test_files_are_read_or_refused(reader: FileReader, check: Callable[[FileReader, Any], None]) -> None:
    run(reader, check, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@each_check
@each_reader
def test_many_files_are_read_or_refused(reader: FileReader, check: Callable[[FileReader, Any], None]) -> None:
    run(reader, check, LONG)
