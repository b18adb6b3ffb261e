from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.untrusted_files import short

from robust_eval.core import strict_image
from robust_eval.core.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def encoded(kind: str, size: tuple[int, int] = (7, 5), **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, before: bytes = b"", content: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", content or zlib.compress(bytes((width + 1) * height)))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    return encoded(kind, save_all=True, append_images=[Image.new("RGB", (7, 5), (9, 9, 9))])


def comments(after: bool) -> bytes:
    """A GIF with a comment of 8 MB in parts of 255 bytes, before or after its image."""
    content = encoded("GIF")
    start = len(content) - 1 if after else 13 + 3 * 2 ** ((content[10] & 7) + 1)
    comment = b"\x21\xfe" + (b"\xff" + b"c" * 255) * 30_000 + b"\0"
    return content[:start] + comment + content[start:]


def many_scans() -> bytes:
    content = encoded("JPEG", (256, 256), progressive=True)
    last = content.rfind(b"\xff\xda")
    return content[:-2] + content[last:-2] * 1000 + content[-2:]


@pytest.mark.parametrize("kind", strict_image.FORMATS)
def test_the_named_formats_are_read(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "x", kind)
    found = strict_image.read(tmp_path / "x", "x")
    assert found.shape == (5, 7, 3)
    if kind not in ("JPEG", "WEBP", "GIF"):
        assert np.array_equal(found, PIXELS)


@pytest.mark.parametrize("kind", ["ICO", "PCX", "TGA", "SGI", "EPS", "PDF", "JPEG2000", "DDS"])
def test_other_formats_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "x.png").write_bytes(encoded(kind))
    with pytest.raises(UserError, match=r"x.png is not an image in one of the formats BMP, GIF, .*, WEBP\."):
        strict_image.read(tmp_path / "x.png", "x.png")


@pytest.mark.timeout(20)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            png(13_000, 13_000, content=b"x"),
            "x has 13000x13000 pixels, more than the 16,777,216 that are read.",
        ),
        (png(65_500, 65_500, content=b"x"), "x cannot be read as an image (Image size (4290250000 pixels)"),
        (png(4, 4, chunk(b"tEXt", b"a\0b") * 500_000), "(it consists of too many parts)."),
        (png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))), "Decompressed data too large"),
        (png(4, 4, content=zlib.compress(bytes(9))), "x cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n", "x is not an image in one of the formats"),
        (b"", "x is not an image in one of the formats"),
        (animated("GIF"), "x has several frames. Save one of them."),
        (animated("PNG"), "x has several frames."),
        (animated("TIFF"), "x has several frames."),
        (animated("WEBP"), "x has several frames."),
        (comments(after=False), "(it consists of too many parts)."),
        (comments(after=True), "(it consists of too many parts)."),
        (encoded("JPEG")[:2] + b"\xff\xfe\x00\x02" * 10**6 + encoded("JPEG")[2:], "too many parts"),
        (many_scans(), "x has more than 100 scans. Save it again."),
        (b"P6" + b" " * 10**7 + b"1 1 255 abc", "(it consists of too many parts)."),
        (b"P3 1 1 255 1 2 3", "x is in a rare variant of PPM (ppm_plain). Save it as PNG."),
        (b"P6 1 1 100 abc", "x is in a rare variant of PPM (ppm). Save it as PNG."),
        (b"P6 1 1 65535 abcdef", "x is in a rare variant of PPM (ppm)"),
        (b"P5 1 1 65535 ab", "x has more than 8 bits per channel (mode I)."),
        (bytes(17 * 2**20), "is larger than 16 MiB, the limit for images. Is it the right file?"),
    ],
    ids=short,
)
def test_files_that_take_long_or_much_memory_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError) as caught:
        strict_image.read(tmp_path / "x", "x")
    # Older versions of Pillow write its messages with other capitals.
    assert message.lower() in str(caught.value).lower()


def test_an_image_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(png(4, 3, content=b"no pixels"))
    assert strict_image.read(tmp_path / "x", "x", (5, 3)).shape == (3, 4, 0)
