"""Put a board's table into the README, so that no number in it is typed by hand.

usage: python docs/update_readme.py BOARD      (the demo's is runs/demo/leaderboard)
"""

from __future__ import annotations

import sys
from pathlib import Path

COLUMNS = ("#", "model", "Clean", "FGSM", "PGD-20", "PGD-100", "CW-inf", "SPSA", "AutoAttack", "worst case")
START, END = "<!-- demo table -->", "<!-- end of demo table -->"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def table(page: str) -> str:
    """The columns of Table 2 of the AWP paper from a board's Markdown."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    keep = [cells(lines[0]).index(name) for name in COLUMNS]
    return "\n".join("| " + " | ".join(cells(line)[k] for k in keep) + " |" for line in lines)


def main(board: str) -> None:
    readme = Path(__file__).resolve().parents[1] / "README.md"
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    new = table((Path(board) / "README.md").read_text())
    readme.write_text(f"{before}{START}\n{new}\n{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1])
