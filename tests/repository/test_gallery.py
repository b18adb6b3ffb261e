"""docs/gallery.md: its commands are in the script, its images exist and are small, its numbers agree."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
SCRIPT = (ROOT / "scripts" / "gallery" / "gallery.sh").read_text(encoding="utf-8")
NUMBERS = json.loads((ROOT / "docs" / "tables" / "gallery.json").read_text(encoding="utf-8"))
MAX_BYTES = 100 * 1000


def test_every_command_of_the_page_is_in_the_script() -> None:
    blocks = re.findall(r"^```\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert commands
    assert [command for command in commands if command not in SCRIPT] == []


def test_every_image_exists_is_small_and_is_made_by_the_script() -> None:
    images = re.findall(r"!\[[^\]]+\]\((images/[\w.-]+)\)", PAGE)
    assert len(images) == PAGE.count("![")
    for image in images:
        assert (ROOT / "docs" / image).stat().st_size < MAX_BYTES, image
        assert f" {Path(image).stem}\n" in SCRIPT, image


def test_the_numbers_in_the_text_equal_those_of_the_files() -> None:
    text, numbers = " ".join(PAGE.split()), NUMBERS
    flat, gap, top = numbers["sharpness"], numbers["last_gap"], numbers["largest_eigenvalue"]
    ours, plain = (f"{flat[name][0]:.2f} ± {flat[name][1]:.2f}" for name in ("AT-AWP", "AT"))
    for sentence in (
        f"Here AT-AWP is flatter than AT: sharpness {ours} against {plain} nats",
        f"the gap is {gap['AT'][0]} and {gap['AT'][1]} points with AT (seeds 0 and 1), "
        f"{gap['AT-AWP'][0]} and {gap['AT-AWP'][1]} with AT-AWP",
        f"The command prints the rank correlation, {numbers['spearman']} here",
        f"The largest is {top['AT']} for AT and {top['AT-AWP']} for AT-AWP",
        f"the barrier above the line between the ends, here {numbers['barrier']} nats",
        f"The dotted line is that prediction, {numbers['threshold']} here",
    ):
        assert sentence in text
    # The conclusions in the text.
    assert flat["AT-AWP"][0] < flat["AT"][0]
    seed_difference = abs(gap["AT-AWP"][0] - gap["AT-AWP"][1])
    assert seed_difference > abs(gap["AT"][1] - gap["AT-AWP"][1])
    assert all(ours < plain for ours, plain in zip(gap["AT-AWP"], gap["AT"], strict=True))
