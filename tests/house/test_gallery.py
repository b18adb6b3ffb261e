"""The gallery shows commands that its script runs, and pictures that are there and small."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "docs" / "gallery.sh").read_text(encoding="utf-8")
LARGEST = 100 * 1000


def test_every_command_of_the_page_is_in_the_script() -> None:
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert commands
    assert [command for command in commands if command not in SCRIPT] == []


def test_every_picture_is_there_small_and_made_by_the_script() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\((images/[\w.-]+)\)", PAGE)
    assert len(pictures) == PAGE.count("![")
    for picture in pictures:
        assert (ROOT / "docs" / picture).stat().st_size < LARGEST, picture
        assert f" {Path(picture).stem}\n" in SCRIPT, picture
