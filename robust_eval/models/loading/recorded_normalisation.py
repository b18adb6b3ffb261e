"""Read the input normalisation that a file records beside, above or among the weights of a network.

Names are dotted paths from the top of the file, through nested dicts and the names of a state dict: thus
``{"model": {"0.mean": ...}}`` and ``{"model.0.mean": ...}`` are read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robust_eval.core.text import count_of
from robust_eval.core.types import Normalisation

_CENTRES, _SPREADS = ("mean", "means", "mu"), ("std", "stds", "stddev", "sigma")
# Words beside mean and std in names such as image_mean. Others, as in feature_mean, are not of the input.
_OF_THE_INPUT = re.compile(
    r"|new|tensor|images?|img|pixels?|data|dataset|inputs?|norm|normali[sz](e|er|ation)|rgb|channels?|x",
    re.IGNORECASE,
)
_MOST_VALUES = 4
_DEEPEST = 4
# Single values that describe training. Others may be learned, such as a scale of the logits.
_DESCRIPTION = re.compile(
    r"(.*_)?(eps|epsilon|epochs?|steps?|iter(ation)?s?|(n|num)_?(class|classes)|acc(uracy)?\d*|prec\d*|loss|lr"
    r"|seed|version)",
    re.IGNORECASE,
)
_BATCH_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Recorded:
    """What a file says about the input normalisation of one of its networks."""

    normalisation: Normalisation | None
    names: tuple[str, ...] = ()
    """Mean and standard deviation; more if they contradict each other, and none is then used."""

    @property
    def notes(self) -> tuple[str, ...]:
        """For the result."""
        if self.normalisation is not None:
            return (f"input normalisation read from {', '.join(self.names)}",)
        if self.names:
            return (f"none of several input normalisations in the file was used: {', '.join(self.names)}",)
        return ()


def flattened(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(name, entry) of all tensors, and of all short lists of numbers."""
    if isinstance(value, Tensor) or _is_short_list(value):
        yield path, value
    elif isinstance(value, Mapping) and depth < _DEEPEST:
        for key, entry in value.items():
            if isinstance(key, str):
                yield from flattened(entry, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < _DEEPEST:
        for index, entry in enumerate(value):
            if isinstance(entry, Mapping):
                yield from flattened(entry, f"{path}.{index}" if path else str(index), depth + 1)


def pairs(entries: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The names of mean and standard deviation, such as ``normalize.mean`` and ``normalize.std``."""
    found = []
    for key, entry in entries.items():
        if (partner := _partner(key, entries)) and _is_small(entry) and _is_small(entries[partner]):
            found.append((key, partner))
    return found


def without_descriptions(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights, and the names of single values that are none, such as ``n_classes``.

    A value of a layer is not left out, nor one that may be learned: without it the network is another one.
    """
    layers = {_parent(key) for key, value in state.items() if value.numel() > 1}
    left_out = [
        key
        for key, value in state.items()
        if is_description(key, value) and _parent(key) not in layers and not key.endswith(_BATCH_COUNTER)
    ]
    return {key: value for key, value in state.items() if key not in left_out}, left_out


def description_notes(left_out: Sequence[str]) -> tuple[str, ...]:
    """For the result, about the names that :func:`without_descriptions` leaves out."""
    shown = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
    return (
        (f"left out {count_of(len(left_out), 'value')} that no training changes: {shown}",)
        if left_out
        else ()
    )


def is_description(key: str, value: Tensor) -> bool:
    """Whether a tensor is a single value that no training changes."""
    named = _DESCRIPTION.fullmatch(key.rpartition(".")[2])
    return value.numel() == 1 and bool(named or not value.is_floating_point())


def among(state: Mapping[str, Tensor]) -> Recorded:
    """The normalisation in a state dict."""
    return _read(state, pairs(state))


def around(entries: Mapping[str, Any], part: str) -> Recorded:
    """The normalisation recorded nearest to the network whose names start with ``part.``.

    ``entries``: as :func:`flattened`. Those of other networks do not count: beside their mean and standard
    deviation there are weights.
    """
    levels = part.split(".") if part else []
    # Single numbers at the top may be the mean and standard deviation of an accuracy.
    found = [pair for pair in pairs(entries) if "." in pair[0] or not _is_scalar(entries[pair[0]])]
    known = {key for pair in found for key in pair}
    weights = [
        key
        for key, entry in entries.items()
        if isinstance(entry, Tensor) and key not in known and not is_description(key, entry)
    ]
    for depth in range(len(levels) - 1, -1, -1):
        level = "".join(f"{name}." for name in levels[:depth])
        near = [pair for pair in found if pair[0].startswith(level) and not _owned(pair[0], level, weights)]
        if near:
            return _read(entries, near)
    return Recorded(None)


def _owned(key: str, level: str, weights: Sequence[str]) -> bool:
    """Whether a name is within a network below ``level``."""
    first, dot, _ = key.removeprefix(level).partition(".")
    return bool(dot) and any(weight.startswith(f"{level}{first}.") for weight in weights)


def _read(entries: Mapping[str, Any], found: Sequence[tuple[str, str]]) -> Recorded:
    read = {tuple(tuple(_values(entries[key])) for key in pair) for pair in found}
    if len(read) > 1:
        return Recorded(None, tuple(mean for mean, _ in found))
    if not read:
        return Recorded(None)
    mean, std = read.pop()
    if max(std) > 2:
        # Statistics of pixels in 0 to 255.
        mean, std = tuple(m / 255 for m in mean), tuple(s / 255 for s in std)
    rounded = [tuple(round(value, 6) for value in values) for values in (mean, std)]
    return Recorded(Normalisation("recorded", rounded[0], rounded[1]), found[0])


def _partner(key: str, entries: Mapping[str, Any]) -> str:
    """The name of the standard deviation that belongs to a mean; '' if there is none."""
    prefix, dot, last = key.rpartition(".")
    words = last.split("_")
    for index, word in enumerate(words):
        others = words[:index] + words[index + 1 :]
        if word.lower() in _CENTRES and all(map(_OF_THE_INPUT.fullmatch, others)):
            for spread in _SPREADS:
                written = spread.upper() if word.isupper() else spread
                partner = prefix + dot + "_".join([*words[:index], written, *words[index + 1 :]])
                if partner in entries:
                    return partner
    return ""


def _parent(key: str) -> str:
    return key.rpartition(".")[0]


def _is_short_list(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= _MOST_VALUES
        and all(isinstance(entry, (int, float)) and not isinstance(entry, bool) for entry in value)
    )


def _is_small(entry: Any) -> bool:
    return 0 < entry.numel() <= _MOST_VALUES if isinstance(entry, Tensor) else _is_short_list(entry)


def _is_scalar(entry: Any) -> bool:
    return isinstance(entry, Tensor) and entry.dim() == 0


def _values(entry: Any) -> list[float]:
    values: list[float] = entry.detach().double().flatten().tolist() if isinstance(entry, Tensor) else entry
    return [float(value) for value in values]
