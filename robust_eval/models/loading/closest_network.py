"""The error for a file whose tensors belong to no known architecture: the closest one, and what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from robust_eval.models.architectures import Shapes
from robust_eval.models.loading.state_dict_diff import StateDictDifference, name_some

_BY_NAME = 0.2
"""From this share of tensors with the same name and shape on, the differences by name are of use."""
_BY_SHAPE = 0.5
"""From this share of tensors with the same shape on, a network with other names is of use."""
_ADVICE = (
    "Name the architecture with --arch (also timm:NAME or torchvision:NAME), or give its code with --arch "
    "path.py:function."
)


@dataclass
class Closest:
    """The architecture with the largest share of agreeing tensors."""

    difference: StateDictDifference | None = None
    arch: str = ""

    def update(self, difference: StateDictDifference, arch: str) -> None:
        """Keep the architecture if more of its tensors agree."""
        if self.difference is None or difference.share > self.difference.share:
            self.difference, self.arch = difference, arch


Networks = Callable[[], Iterable[tuple[str, Shapes]]]
"""Ids and shapes of networks; a function, because most errors do not need them."""


def message(name: str, closest: Closest, shapes: Shapes, known: Networks) -> str:
    """The error for the file ``name`` with ``shapes``, whose names may be those of none of the ``known``."""
    start = f"{name} fits no known architecture."
    if closest.difference is not None and closest.difference.share >= _BY_NAME:
        return f"{start} {closest.arch} is the closest: {closest.difference}. {_ADVICE}"
    share, arch_id = max(((_common(shapes, other), arch_id) for arch_id, other in known()), default=(0.0, ""))
    like = (
        f"{arch_id} is the closest: {share:.0%} of the shapes agree, under other names"
        if share >= _BY_SHAPE
        else "None has similar tensors"
    )
    return f"{start} {like}. The file has {_contents(shapes)}. {_ADVICE}"


def _common(one: Shapes, other: Shapes) -> float:
    """Share of the shapes that two networks have in common; single numbers (counters) do not count."""
    mine, others = (Counter(shape for shape in shapes.values() if shape) for shapes in (one, other))
    return (mine & others).total() / max((mine | others).total(), 1)


def _contents(shapes: Shapes) -> str:
    """``20 convolutions (1x1, 3x3), 1 linear layers, 20 normalisation layers; names: conv1.0.weight``."""
    weights = {key: shape for key, shape in shapes.items() if key.endswith("weight")}
    kernels = sorted({shape[2:] for shape in weights.values() if len(shape) == 4})
    counts = {
        f"convolutions ({', '.join(f'{height}x{width}' for height, width in kernels)})": 4,
        "linear layers": 2,
        "normalisation layers": 1,
    }
    parts = [f"{n} {what}" for what, dims in counts.items() if (n := _count(weights.values(), dims))]
    return f"{', '.join(parts) or f'{len(shapes)} tensors'}; names: {name_some(_spread(list(shapes)))}"


def _count(shapes: Iterable[tuple[int, ...]], dimensions: int) -> int:
    return sum(len(shape) == dimensions for shape in shapes)


def _spread(names: list[str]) -> Iterator[str]:
    """The names with one from the start, the middle and the end first."""
    chosen = dict.fromkeys((names[0], names[len(names) // 2], names[-1])) if names else {}
    yield from chosen
    yield from (name for name in names if name not in chosen)
