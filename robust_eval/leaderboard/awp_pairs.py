"""Find pairs of rows: the same recipe with and without adversarial weight perturbation (AWP)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePath

from robust_eval.leaderboard.ranking import group_key
from robust_eval.leaderboard.row import Row

AWP_SUFFIX = "-awp"
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors")


def split_awp(name: str) -> tuple[str, bool]:
    """(name without file ending and ``-awp``, whether it ended in ``-awp``)."""
    stem = PurePath(name).stem if PurePath(name).suffix in _WEIGHTS else name
    return (
        (stem.removesuffix(AWP_SUFFIX), True)
        if stem.endswith(AWP_SUFFIX) and stem != AWP_SUFFIX
        else (stem, False)
    )


def find_pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """(row without AWP, row with AWP) of equal recipe, architecture, seed, selection, images and columns.

    Each row is in at most one pair. The first match is taken, so pass the best rows first.
    """
    unpaired = [(_kind(row), row) for row in rows if split_awp(row.name)[1]]
    for before in (row for row in rows if not split_awp(row.name)[1]):
        kind = _kind(before)
        match = next((pair for pair in unpaired if pair[0] == kind), None)
        if match is not None:
            unpaired.remove(match)
            yield before, match[1]


def _kind(row: Row) -> tuple[object, ...]:
    result = row.result
    return (
        split_awp(row.name)[0],
        result.checkpoint.architecture,
        row.seed,
        row.selected,
        result.labels_sha256,
        group_key(row),
        tuple(result.columns),  # Fewer in an unfinished row: its worst case is over fewer attacks.
    )
