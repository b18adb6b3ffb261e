"""Other people's checkpoints: finding the weights inside, and undoing what wrapped them.

Pure functions from what a file holds to a flat state dict with the network's own names. Every step
that was taken is a note.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Normalisation

State = dict[str, Tensor]

# Where weights are kept, the likeliest first. Averaged weights come last: they are chosen by name.
_PREFERRED = ("state_dict", "model_state_dict", "model_state", "net", "model", "network", "weights", "params")
_AVERAGED = re.compile(r"ema|swa|average|teacher", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|amp|sampler|loader|rng|criterion|momentum", re.IGNORECASE)
# Wrappers that add a component to every name: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Counters that other tools leave in a state dict: averaging, thop's operation counts.
_COUNTERS = ("n_averaged", "total_ops", "total_params")
_MEANS = {
    "mean": "std",
    "means": "stds",
    "mu": "sigma",
    "_mean": "_std",
    "new_mean": "new_std",
    "mean_tensor": "std_tensor",
    "image_mean": "image_std",
    "img_mean": "img_std",
    "pixel_mean": "pixel_std",
    "data_mean": "data_std",
}


@dataclass(frozen=True)
class Weights:
    """A state dict freed of its wrapping."""

    state: State
    stored: State
    """The same under the file's own names, with the buffers of a normalisation in it."""
    normalisation: Normalisation | None
    """What buffers in the state dict say the input goes through."""
    facts: Mapping[str, Any]
    """What the file says of itself: epoch, accuracy, ..."""
    notes: tuple[str, ...]


def weights(value: Any, name: str, choice: str | None = None) -> Weights:
    """The weights in what ``torch.save`` was given. ``choice`` names one of several (``FILE#choice``)."""
    place, found, notes = _find(value, name, choice)
    stored, dropped = _tensors(found, name)
    notes += [f"weights found under '{place}'"] if place else []
    notes += [f"left out {len(dropped)} entries that are no weights ({dropped[0]})"] if dropped else []
    stored = _plain(stored, name, notes)
    state, removed = _unwrap(stored)
    notes += [f"removed '{wrapper}.' from the names" for wrapper in removed]
    state, normalisation, taken = _take_normalisation(state)
    notes += [f"input normalisation read from {', '.join(taken)}"] if normalisation else []
    return Weights(state, stored, normalisation, _facts(value), tuple(notes))


def _find(value: Any, name: str, choice: str | None) -> tuple[str, Mapping[Any, Any], list[str]]:
    """Where the state dict is; '' for the top level."""
    found = dict(_state_dicts(value, ""))
    if isinstance(value, Tensor):
        raise UserError(f"{name} holds a single tensor, not a model's weights.")
    if choice is not None:
        return _choose(found, name, choice)
    if not found:
        raise UserError(f"{name} holds no weights: no named tensors were found in it.")
    if len(found) == 1:
        place = next(iter(found))
        return place, found[place], []
    for wanted in _PREFERRED:
        places = [place for place in found if place.split(".")[-1] == wanted and not _AVERAGED.search(place)]
        if places:
            others = ", ".join(place for place in found if place != places[0])
            return (
                places[0],
                found[places[0]],
                [f"the file also holds {others}: choose with '#', {name}#NAME"],
            )
    raise UserError(
        f"{name} holds several sets of weights: {', '.join(found)}. Choose one: {name}#{next(iter(found))}."
    )


def _choose(
    found: Mapping[str, Mapping[Any, Any]], name: str, choice: str
) -> tuple[str, Mapping[Any, Any], list[str]]:
    if choice in found:
        return choice, found[choice], []
    # A prefix inside a flat state dict: a model next to its teacher, an averaged copy.
    for place, entries in found.items():
        part = {key: value for key, value in entries.items() if str(key).startswith(f"{choice}.")}
        if part:
            return f"{place}.{choice}".lstrip("."), part, []
    prefixes = {str(key).split(".")[0] for entries in found.values() for key in entries}
    raise unknown(f"part of {name}:", choice, {*found, *prefixes} - {""})


def _state_dicts(value: Any, place: str, depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Dicts of named tensors, outermost first; optimiser state and the like is passed over."""
    if isinstance(value, (list, tuple)):
        value = {str(index): entry for index, entry in enumerate(value) if isinstance(entry, Mapping)}
    if not isinstance(value, Mapping) or depth > 3:
        return
    named = {key: entry for key, entry in value.items() if isinstance(entry, Tensor) and isinstance(key, str)}
    # Numbers such as best_acc1 and best_acc5 lie beside the weights, which are further down.
    weights = sum(entry.dim() > 0 or "." in key for key, entry in named.items())
    if weights >= 2 or (named and len(named) == len(value)):
        yield place, value
        return
    for key, entry in value.items():
        if isinstance(key, str) and not _NOT_WEIGHTS.search(key):
            yield from _state_dicts(entry, f"{place}.{key}" if place else key, depth + 1)


def _tensors(found: Mapping[Any, Any], name: str) -> tuple[State, list[str]]:
    """The tensors of a state dict; what else it holds is named."""
    state: State = {}
    dropped = []
    for key, value in found.items():
        if not isinstance(value, Tensor) or str(key).split(".")[-1] in _COUNTERS:
            dropped.append(str(key))
        elif value.is_sparse or value.is_quantized or value.is_complex():
            raise UserError(f"{name}: '{key}' is a sparse, quantised or complex tensor. Save it as float32.")
        else:
            state[str(key)] = value.detach()
    return state, dropped


def _unwrap(state: State) -> tuple[State, list[str]]:
    removed = []
    for wrapper in _WRAPPERS:
        renamed = {
            ".".join(part for part in key.split(".") if part != wrapper): value
            for key, value in state.items()
        }
        if renamed.keys() != state.keys() and len(renamed) == len(state):
            removed.append(wrapper)
            state = renamed
    return state, removed


def _take_normalisation(state: State) -> tuple[State, Normalisation | None, list[str]]:
    """Split off buffers such as ``normalize.mean`` and ``normalize.std``, of 1 to 4 values."""
    pairs = []
    for key in state:
        prefix, dot, last = key.rpartition(".")
        partner = prefix + dot + _MEANS.get(last, "")
        if last in _MEANS and partner in state and state[key].numel() <= 4 >= state[partner].numel():
            pairs.append((key, partner))
    read = {tuple(tuple(state[key].double().flatten().tolist()) for key in pair) for pair in pairs}
    if len(read) != 1:
        return state, None, []
    mean, std = read.pop()
    if max(std) > 2:
        # Statistics of pixels in 0..255.
        mean, std = tuple(m / 255 for m in mean), tuple(s / 255 for s in std)
    taken = {key for pair in pairs for key in pair}
    rest = {key: value for key, value in state.items() if key not in taken}
    rounded = [tuple(round(value, 6) for value in values) for values in (mean, std)]
    return rest, Normalisation("recorded", rounded[0], rounded[1]), list(pairs[0])


def _plain(state: State, name: str, notes: list[str]) -> State:
    """Floating tensors as finite float32; the dtypes that were converted become a note."""
    kinds: dict[str, int] = defaultdict(int)
    plain = {}
    for key, value in state.items():
        if value.is_floating_point():
            if value.dtype != torch.float32:
                kinds[str(value.dtype).removeprefix("torch.")] += 1
            value = value.float()
        plain[key] = value
    check_finite(plain, name)
    notes += [f"converted {count} {kind} tensors to float32" for kind, count in kinds.items()]
    return plain


def check_finite(state: Mapping[str, Tensor], name: str) -> None:
    """Refuse weights that hold NaN or infinity: the argmax of NaN is a class like any other."""
    for key, value in state.items():
        bad = value.numel() - int(value.isfinite().sum())
        if bad:
            kind = "NaN" if value.isnan().any() else "infinite"
            raise UserError(
                f"{name}: {bad} of {value.numel()} values of '{key}' are {kind}. The training diverged or "
                "the file is damaged; use another checkpoint."
            )


def _facts(value: Any) -> dict[str, Any]:
    """Numbers and short words at the top level; nothing that could be a path."""
    if not isinstance(value, Mapping):
        return {}
    facts = {}
    for key, entry in value.items():
        if isinstance(entry, Tensor) and entry.numel() == 1 and not _is_weight(key):
            entry = entry.item()
        number = isinstance(entry, (bool, int)) or (isinstance(entry, float) and math.isfinite(entry))
        word = isinstance(entry, str) and len(entry) <= 60 and not re.search(r"[/\\]", entry)
        if isinstance(key, str) and (number or word):
            facts[key[:60]] = entry
    return facts


def _is_weight(key: Any) -> bool:
    return "." in str(key)
