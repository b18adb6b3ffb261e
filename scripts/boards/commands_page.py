"""docs/board_commands.md: the commands behind the boards' rows, as their scripts run them with nothing stored.

usage: python -m scripts.boards.commands_page
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from robust_eval.leaderboard.row import read_rows
from scripts.tables.pairs import in_order

ROOT = Path(__file__).resolve().parents[2]
BOARDS = ROOT / "leaderboards"
PAGE = ROOT / "docs" / "board_commands.md"
# Stands where a command should be: writes down what it is asked. A training leaves an empty checkpoint.
RECORDER = """#!/bin/sh
[ "$1" = - ] && { cat > /dev/null; exit; }
echo "$(basename "$0") $*" >> "$RECORDED"
[ "$1" = train ] || exit 0
while [ "$1" != --out ]; do shift; done
mkdir -p "$2" && touch "$2/best.pt"
"""
# Board, script, its arguments and its environment: as the rows that are there were made.
MADE: tuple[tuple[str, str, tuple[str, ...], dict[str, str]], ...] = (
    (
        "mnist-linf-0.3",
        "mnist.sh",
        ("DATA_ROOT",),
        {"RECIPES": "at at-awp trades trades-awp mart mart-awp at-rwp"},
    ),
    (
        "cifar10-jpeg-linf-8-255",
        "cifar10_jpeg.sh",
        ("cifar10-jpeg", "500"),
        {"NET": "small", "MNIST": "DATA_ROOT"},
    ),
    ("digits", "digits.sh", ("DATA_ROOT",), {}),
)
ABOUT = """# How the rows of the boards are made

Three scripts train and judge every row: [mnist.sh](../scripts/boards/mnist.sh),
[cifar10_jpeg.sh](../scripts/boards/cifar10_jpeg.sh) and [digits.sh](../scripts/boards/digits.sh), whose comments list
their arguments. These are the commands that each of them runs,
written down by `python -m scripts.boards.commands_page`; a test holds the page to the scripts. DATA_ROOT holds MNIST's
four files, or receives them; `cifar10-jpeg` holds the folders train and test; the archives under `runs` are
made by the scripts. What came out stands in [reproduction.md](reproduction.md).

After each evaluation the scripts also run `robust-eval verify` on the result and
`robust-eval leaderboard add`; at the end `robust-eval leaderboard build` and `check`. They set
OMP_NUM_THREADS=1 where it is not set: on a processor the number of threads decides how sums round, and so
the bits of the weights.
"""


def stage(top: Path) -> Path:
    """A checkout whose commands only say what they were asked."""
    (top / "docs").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts" / "boards", top / "scripts" / "boards")
    shutil.copytree(ROOT / "scripts" / "pipelines", top / "scripts" / "pipelines")
    (top / ".venv" / "bin").mkdir(parents=True)
    for name in ("defenses", "robust-eval", "python"):
        command = top / ".venv" / "bin" / name
        command.write_text(RECORDER, encoding="utf-8")
        command.chmod(0o755)
    return top


def asked(checkout: Path, script: str, *words: object, **environment: str) -> list[str]:
    """The commands that a script of scripts/boards runs in a staged checkout, in order."""
    recorded = checkout / "recorded"
    recorded.unlink(missing_ok=True)
    subprocess.run(
        ["sh", f"scripts/boards/{script}", *map(str, words)],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "RECORDED": str(recorded), **environment},
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    return recorded.read_text(encoding="utf-8").splitlines()


def page() -> str:
    """The page, made anew."""
    return "\n".join([ABOUT, *_sections()])


def _sections() -> Iterator[str]:
    with TemporaryDirectory() as folder:
        checkout = stage(Path(folder) / "checkout")
        for name in ("DATA_ROOT", "cifar10-jpeg/train", "cifar10-jpeg/test"):
            (checkout / name).mkdir(parents=True)
        for board, script, words, environment in MADE:
            call = " ".join(
                [
                    *(f"{k}={shlex.quote(v)}" for k, v in environment.items()),
                    "sh",
                    f"scripts/boards/{script}",
                    *words,
                ]
            )
            lines = [line for line in asked(checkout, script, *words, **environment) if _makes(line)]
            yield f"## [{board}](../leaderboards/{board}/README.md)\n\n`{call}`\n"
            yield f"On the board: {', '.join(row.label for row in in_order(read_rows(BOARDS / board)))}.\n"
            yield "\n".join(["```", *dict.fromkeys(lines), "```\n"])


def _makes(line: str) -> bool:
    """Whether a network or a row comes out of it."""
    verb = line.split()[1]
    return verb in ("train", "pseudo-label") or (verb == "run" and "--suite quick" not in line)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
