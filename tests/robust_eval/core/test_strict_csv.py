"""Tables from unknown sources: limits, and files that are refused because they are not tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from robust_eval.core import strict_csv
from robust_eval.core.errors import UserError


def read(folder: Path, content: bytes, most_rows: int = 3) -> tuple[tuple[str, ...], strict_csv.Rows]:
    (folder / "table.csv").write_bytes(content)
    return strict_csv.read(folder / "table.csv", most_rows)


def test_a_table_is_read_by_column_name(tmp_path: Path) -> None:
    names, rows = read(tmp_path, b'a,b\r\n1,"2,\r\n3"\r\n')
    assert names == ("a", "b")
    assert rows == [{"a": "1", "b": "2,\r\n3"}]


def test_rows_with_missing_and_further_cells(tmp_path: Path) -> None:
    assert read(tmp_path, b"a,b\n1\n1,2,3\n")[1] == [{"a": "1", "b": None}, {"a": "1", "b": "2", None: ["3"]}]


@pytest.mark.parametrize("content", [b"", b"a\n", b"\n\n"])
def test_a_file_without_rows(content: bytes, tmp_path: Path) -> None:
    assert read(tmp_path, content)[1] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,a\n1,2\n", "is not a table: it has too many columns, or names one twice"),
        (b"x," * 1000 + b"y\n", "is not a table: it has too many columns"),
        (b"a\n1\n2\n3\n4\n", "has more than 3 lines. Remove some"),
        (b'a\n"1\n', "is not a table"),
        (b'a\n"1"2\n', "is not a table"),
        (b"a\n" + b"1" * 200_000 + b"\n", r"is not a table \(field larger than"),
        (b"a\n\xff\n", "is not UTF-8 text"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"table\.csv {message}"):
        read(tmp_path, content)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("wb") as file:
        file.truncate(strict_csv.LARGEST + 1)
    with pytest.raises(UserError, match="is larger than 16 MiB, the limit for tables"):
        strict_csv.read(tmp_path / "table.csv")
