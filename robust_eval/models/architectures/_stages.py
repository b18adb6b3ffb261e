"""The sizes of wide networks: from depth and width, or of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robust_eval.core.errors import UserError
from robust_eval.models.architectures import Shapes, count_children

STAGES = 3


def depth_and_width(arch_id: str, depth: int, width: int) -> dict[str, Any]:
    """The sizes in an id.

    Raises:
        UserError: if no Wide ResNet has this depth or width.
    """
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise UserError(
            f"{arch_id} does not exist: a Wide ResNet's depth is 6n + 4 (10, 16, 22, 28, 34, ...) "
            "and its width at least 1."
        )
    return {"depth": depth, "width": width}


def blocks_and_planes(
    depth: int, width: int, blocks: Sequence[int], planes: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Blocks and channels of the stages; ``blocks`` and ``planes`` replace ``depth`` and ``width``.

    Raises:
        UserError: for another number of stages than three.
    """
    found = (
        tuple(blocks) or STAGES * ((depth - 4) // 6,),
        tuple(planes) or (16 * width, 32 * width, 64 * width),
    )
    for name, values in zip(("blocks", "planes"), found, strict=True):
        if len(values) != STAGES or min(values) < 1:
            raise UserError(f"{name}={list(values)} must be {STAGES} positive numbers, one of each stage.")
    return found


def named_stages(name: str, blocks: Sequence[int], planes: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """The id ``NAME-DEPTH-WIDTH``, or ``NAME`` and the arguments of stages that it does not describe."""
    if min(blocks) < 1 or min(planes) < 1:
        raise ValueError("a stage without blocks or channels")
    depth, width = 6 * blocks[0] + 4, max(planes[0] // 16, 1)
    if blocks_and_planes(depth, width, (), ()) == (tuple(blocks), tuple(planes)):
        return f"{name}-{depth}-{width}", {}
    return name, {"blocks": list(blocks), "planes": list(planes)}


def stages_of(shapes: Shapes, prefixes: Sequence[str], conv: str) -> tuple[list[int], list[int]]:
    """Blocks and channels of stages whose blocks are ``PREFIX.0``, ``PREFIX.1`` and so on.

    Raises:
        KeyError: if a stage lacks ``PREFIX.0.CONV.weight``.
    """
    blocks = [count_children(shapes, prefix) for prefix in prefixes]
    return blocks, [shapes[f"{prefix}.0.{conv}.weight"][0] for prefix in prefixes]
