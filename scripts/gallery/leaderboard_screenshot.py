"""Screenshot of a leaderboard page for the README, made with Chromium.

usage: python -m scripts.gallery.leaderboard_screenshot BOARD [PNG]      (docs/images/leaderboard.png)
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "leaderboard.png"
EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def draw(board: Path, png: Path = PICTURE) -> None:
    """Save the top of the board's page as a PNG of 1360 x 1760 pixels."""
    executable = next((path for name in EXECUTABLES if (path := shutil.which(name))), None)
    if executable is None:
        sys.exit("Chromium was not found. Install it with the system's package manager.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 1760}, color_scheme="light")
        page.goto((board / "index.html").resolve().as_uri())
        page.screenshot(path=str(png))
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), *map(Path, sys.argv[2:]))
