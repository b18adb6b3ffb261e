"""Tell checkpoints apart whose files are all called best.pt."""

from __future__ import annotations

import re
from pathlib import Path

_USUAL = re.compile(
    r"(best|last|final|latest|model|net|network|weights|checkpoint|ckpt|state_dict|pytorch_model|"
    r"(model|checkpoint|ckpt|epoch|snapshot)?[-_]?(best|last|final|epoch)?[-_]?\d*)",
    re.IGNORECASE,
)
_STORES = {"checkpoints", "checkpoint", "ckpts", "ckpt", "weights", "models", "snapshots"}


def is_usual(name: str) -> bool:
    """Whether many training runs write a file of this name, such as ``best.pt`` or ``epoch-10.pth``."""
    return bool(_USUAL.fullmatch(Path(name).stem))


def distinct(path: str) -> str:
    """The file's name, after the name of its folder if many runs write a file of this name.

    ``runs/at-awp/best.pt`` is ``at-awp/best.pt``, as is ``runs/at-awp/checkpoints/best.pt``.
    """
    name = Path(path).name
    if not is_usual(name):
        return name
    folders = (folder.name for folder in Path(path).expanduser().absolute().parents)
    chosen = next((folder for folder in folders if folder.lower() not in _STORES), "")
    return f"{chosen}/{name}" if chosen else name


def with_recipe(name: str, recipe: str) -> str:
    """``best.pt (at-awp)`` for a usual name, if a recipe is recorded; otherwise the name."""
    return f"{name} ({recipe})" if recipe and is_usual(name) else name
