"""Which libraries a command imports, and what it does without some of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

EXTRAS = {
    "robustbench",
    "lightning_fabric",
    "tensorboard",
    "timm",
    "huggingface_hub",
    "datasets",
    "ray",
    "matplotlib",
}
"""Modules of packages that only extras install."""


def run_and_list(words: list[str], module: str, heavy: Iterable[str], blocked: Iterable[str] = ()) -> str:
    """Run a command in a process of its own; what it printed, and which of these libraries it imported.

    ``blocked``: libraries that are not installed for it.
    """
    code = (
        f"import sys; sys.argv = {words}\n"
        f"sys.modules.update(dict.fromkeys({list(blocked)}))\n"
        f"from {module} import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = {set(heavy)}\n"
        "print('heavy:', sorted(name for name in heavy if sys.modules.get(name)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout
