"""The paper's pairs: one recipe with and without adversarial weight perturbation, on the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from robust_eval.leaderboard.ranking import group_key
from robust_eval.leaderboard.row import Row

AWP = "-awp"
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors")


def family(name: str) -> tuple[str, bool]:
    """A row's name without file ending and ``-awp``, and whether it had the latter."""
    stem = PurePath(name).stem if PurePath(name).suffix in _WEIGHTS else name
    return (stem.removesuffix(AWP), True) if stem.endswith(AWP) and stem != AWP else (stem, False)


def find(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """(without, with AWP): one recipe, architecture, seed, kind of checkpoint, and the same images.

    A row is in one pair at most; the first that fits is taken, so give the best rows first.
    """
    free = [row for row in rows if family(row.name)[1]]
    for before in (row for row in rows if not family(row.name)[1]):
        after = next((row for row in free if _kind(before) == _kind(row)), None)
        if after is not None:
            free.remove(after)
            yield before, after


def _kind(row: Row) -> tuple[object, ...]:
    result = row.result
    return (
        family(row.name)[0],
        result.checkpoint.architecture,
        row.seed,
        row.selected,
        result.labels_sha256,
        group_key(result),
    )
