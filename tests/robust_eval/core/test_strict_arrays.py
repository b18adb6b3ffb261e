from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.untrusted_files import short

from robust_eval.core import strict_arrays
from robust_eval.core.errors import UserError


def npy(descr: str = "'<i8'", shape: str = "(2,)", order: str = "False", content: bytes = bytes(16)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + content


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return file.getvalue()


def read(content: bytes, name: str = "x", most: int = 2**30) -> Any:
    with strict_arrays.opened_npz(content, most, "file") as found:
        return found.read(name)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(3, dtype=">i4"),
        np.array([True, False]),
        np.array(3.5),
        np.zeros((2, 0, 10**6), np.uint8),
        np.array(["a", "\u00e4\U0001f600"], dtype=">U3"),
        np.array(""),
    ],
)
def test_plain_arrays_are_read_as_numpy_reads_them(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", x=array, y=array)
    alone = strict_arrays.read_npy(tmp_path / "x.npy", 10_000)
    for found in (alone, read((tmp_path / "x.npz").read_bytes())):
        assert np.array_equal(found, array)
        assert found.shape == array.shape
        assert found.dtype == array.dtype.newbyteorder("=")
        assert found.flags.writeable


def test_large_headers_and_files_of_python_2_are_read() -> None:
    assert read(archive(x=npy(shape="(2L,)"))).tolist() == [0, 0]
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }" + b" " * 100
    for version in (2, 3):
        content = b"\x93NUMPY" + bytes((version, 0)) + struct.pack("<I", len(header)) + header + bytes(16)
        assert read(archive(x=content)).tolist() == [0, 0]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not numpy", "file (x) is damaged: it does not begin as an array of NumPy."),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "its description of the array cannot be read."),
        (b"\x93NUMPY\x01\x00", "it does not begin as an array"),
        (npy("'|O'"), "file (x) holds Python objects, which could run code. Save plain arrays of numbers."),
        (npy("[('a', '|O')]"), "holds Python objects"),
        (npy("[('a', '<i8')]"), "is an array of the type [('a', '<i8')], which is not read."),
        (npy("'<M8[s]'"), "is an array of the type '<M8[s]'"),
        (npy("'<c16'"), "is an array of the type '<c16'"),
        (npy("'<U999999'"), "is an array of the type"),
        (npy("'<U0'", "(99999999999999999,)", content=b""), "is an array of the type '<U0'"),
        (npy("'|V8'"), "is an array of the type '|V8'"),
        (npy("'<i3'"), "is an array of the type '<i3'"),
        (npy(shape="(True, 2)"), "its description of the array cannot be read"),
        (npy(shape="(-1, -2)"), "its description of the array cannot be read"),
        (npy(shape="(" + "9" * 5000 + ",)"), "its description of the array cannot be read"),
        (npy(shape="(" * 4000 + ")" * 4000), "its description of the array cannot be read"),
        (npy(shape="(" + "1, " * 3000 + "2)"), "it declares the shape"),
        (
            npy(shape="(4294967296, 4294967296, 4)"),
            "it declares the shape (4294967296, 4294967296, 4) of int64",
        ),
        (npy(shape="(3,)"), "file (x) is damaged: it declares the shape (3,) of int64 for 16 bytes."),
        (npy(shape="(1,)"), "it declares the shape (1,) of int64 for 16 bytes."),
        (npy(order="__import__('os')"), "its description of the array cannot be read"),
        (npy("'|b1'", "(16,)", content=bytes(range(16))), "it holds bytes that are neither true nor false."),
        (npy("'<U2'", content=b"\x00\xd8\0\0" * 4), "holds text with characters that do not exist."),
        (npy("'<U2'", content=b"\xff" * 16), "holds text with characters that do not exist."),
    ],
    ids=short,
)
def test_other_arrays_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read(archive(x=content))


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def many_members() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for number in range(200):
            made.writestr(f"{number:0>60000}", b"")
    return file.getvalue()


GOOD = archive(x=npy())


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file is not an .npz archive. Write one with numpy.savez(file, x=images, y=labels)."),
        (npy(), "file is not an .npz archive."),
        (GOOD[:-30], "file is truncated, or other data follow the archive."),
        (GOOD + b"\0", "file is truncated, or other data follow the archive."),
        (b"PK\x05\x06", "file is truncated"),
        (b"PK\x05\x06" + bytes(18), "file lacks the array x."),
        (archive(x=npy(content=bytes(2**27))), "file unpacks to more than 50 times its size."),
        (many_members(), "file has a directory of more than 8 MiB."),
        (patched(archive(x=npy(), z=npy()), b"z.npy", b"x.npy"), "file has two members of one name."),
        (patched(GOOD, b"\x14\0\0\0\x08\0", b"\x14\0\0\0\x63\0"), "compressed by an unknown method"),
        (patched(GOOD, b"\x14\0\0\0\x08\0", b"\x14\0\x01\0\x08\0"), "file is encrypted ('x.npy')."),
        (GOOD[:60] + b"\xff\xff\xff" + GOOD[63:], "file is damaged"),
    ],
    ids=short,
)
def test_other_archives_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read(content)


def test_arrays_beyond_the_limit_of_the_caller_are_refused() -> None:
    with pytest.raises(UserError, match="file holds larger arrays than are read of such a file. Divide it."):
        read(GOOD, most=80)
