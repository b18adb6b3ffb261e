"""Find the weights in checkpoints of other projects and remove wrappers from the tensor names.

Pure functions from the contents of a file to a flat state dict. Every change is recorded as a note.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robust_eval.core import plain_values
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Normalisation
from robust_eval.models.loading import recorded_normalisation, weight_norm
from robust_eval.models.loading.recorded_normalisation import flattened
from robust_eval.models.loading.state_dict_diff import name_some

State = dict[str, Tensor]

# The most likely first. Averaged weights are only used if chosen by name.
_PREFERRED = ("state_dict", "model_state_dict", "model_state", "net", "model", "network", "weights", "params")
_AVERAGED = re.compile(r"ema|swa|average|teacher", re.IGNORECASE)
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|amp|sampler|loader|rng|criterion|momentum", re.IGNORECASE)
# In files of Lightning, whose modules contain losses and metrics beside the network.
_LIGHTNING = "pytorch-lightning_version"
_MEASURE = re.compile(
    r"([a-z]+_)?(acc|accuracy|metrics?|loss|criterion|auroc|f1|confmat|precision|recall)(_[a-z0-9]+)?\.",
    re.IGNORECASE,
)
# Wrappers that add a component to every name: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Counters that other tools add to state dicts: weight averaging, operation counts of thop.
_COUNTERS = ("n_averaged", "total_ops", "total_params")


@dataclass(frozen=True)
class Weights:
    """A state dict without wrappers."""

    state: State
    stored: State
    """The same with the names in the file, including the buffers of a normalisation."""
    normalisation: Normalisation | None
    """Input normalisation that the file records."""
    outside: bool
    """Whether it is recorded outside ``stored``: no network with the tensors of ``stored`` applies it."""
    facts: Mapping[str, Any]
    """Further entries of the file, such as epoch and accuracy (unverified)."""
    notes: tuple[str, ...]


def weights(value: Any, name: str, choice: str | None = None) -> Weights:
    """Find the weights in the object that was saved; ``choice`` names one of several (``FILE#choice``).

    Raises:
        UserError: if there are no weights, or several without a clear choice.
    """
    path, found, notes = _find(value, name, choice)
    stored, dropped = _tensors(found, name)
    notes += [f"weights found under '{path}'"] if path else []
    notes += [f"left out {len(dropped)} entries that are not weights ({dropped[0]})"] if dropped else []
    stored = _plain(stored, name, notes)
    state, removed = _unwrap(stored)
    notes += [f"removed '{wrapper}.' from the names" for wrapper in removed]
    if isinstance(value, Mapping) and _LIGHTNING in value:
        measures = [key for key in state if _MEASURE.match(key)]
        state = {key: entry for key, entry in state.items() if key not in measures}
        notes += [f"left out tensors of losses and metrics: {name_some(measures)}"] if measures else []
    state, folded = weight_norm.folded(state)
    notes += folded
    recorded, outside = recorded_normalisation.among(state), False
    if recorded.normalisation is not None:
        taken = {key for pair in recorded_normalisation.pairs(state) for key in pair}
        state = {key: entry for key, entry in state.items() if key not in taken}
    elif not recorded.names:
        entries = {unwrapped(key): entry for key, entry in flattened(value)}
        recorded, outside = recorded_normalisation.around(entries, unwrapped(path)), True
    notes += recorded.notes
    return Weights(state, stored, recorded.normalisation, outside, _facts(value), tuple(notes))


def _find(value: Any, name: str, choice: str | None) -> tuple[str, Mapping[Any, Any], list[str]]:
    """(path, state dict, notes) of the weights; the path is '' for the top level."""
    found = _with_buffers(dict(_state_dicts(value, "")))
    if isinstance(value, Tensor):
        raise UserError(f"{name} contains a single tensor, not the weights of a model.")
    if choice is not None:
        return _choose(found, name, choice)
    if not found:
        raise UserError(f"{name} contains no weights: no named tensors were found in it.")
    likely = _likely(found)
    if len(found) == 1:
        return likely, found[likely], []
    if likely:
        others = ", ".join(path for path in found if path != likely)
        return likely, found[likely], [f"the file also contains {others}: choose with '#', {name}#NAME"]
    raise UserError(
        f"{name} contains several sets of weights: {', '.join(found)}. "
        f"Choose one: {name}#{next(iter(found))}."
    )


def _with_buffers(found: dict[str, Mapping[Any, Any]]) -> dict[str, Mapping[Any, Any]]:
    """Join parameters and buffers that are stored side by side, as scripts with torch.func do."""
    for path in list(found):
        parent, _, last = path.rpartition(".")
        buffers = f"{parent}.buffers".lstrip(".")
        if last in ("params", "parameters") and found.get(buffers, found[path]).keys().isdisjoint(
            found[path]
        ):
            found[path] = {**found[path], **found.pop(buffers)}
    return found


def _likely(found: Iterable[str]) -> str:
    """The path of the only one or of that with a usual name; '' if there is none, or for the top level."""
    paths = list(found)
    usual = [
        path
        for wanted in _PREFERRED
        for path in paths
        if path.split(".")[-1] == wanted and not _AVERAGED.search(path)
    ]
    return paths[0] if len(paths) == 1 else next(iter(usual), "")


def _choose(
    found: Mapping[str, Mapping[Any, Any]], name: str, choice: str
) -> tuple[str, Mapping[Any, Any], list[str]]:
    if choice in found:
        return choice, found[choice], []
    # A prefix in a flat state dict, e.g. of a teacher or an averaged copy; with or without the path of the
    # dict and the wrappers, which messages omit.
    likely = _likely(found)
    for path in sorted(found, key=lambda path: path != likely):
        for wanted in (choice, choice.removeprefix(f"{path}.")):
            part = {
                key: value
                for key, value in found[path].items()
                if str(key).startswith(f"{wanted}.") or unwrapped(str(key)).startswith(f"{wanted}.")
            }
            if part:
                return f"{path}.{wanted}".lstrip("."), part, []
    prefixes = {str(key).split(".")[0] for entries in found.values() for key in entries}
    raise unknown(f"part of {name}:", choice, {*found, *prefixes} - {""})


def _state_dicts(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """(path, dict) of dicts of named tensors, outermost first; optimiser state etc. is skipped."""
    if isinstance(value, (list, tuple)):
        value = {str(index): entry for index, entry in enumerate(value) if isinstance(entry, Mapping)}
    if not isinstance(value, Mapping) or depth > 3:
        return
    named = {key: entry for key, entry in value.items() if isinstance(entry, Tensor) and isinstance(key, str)}
    known = {key for pair in recorded_normalisation.pairs(named) for key in pair}
    weights = sum((entry.dim() > 0 or "." in key) and key not in known for key, entry in named.items())
    within = [
        found
        for key, entry in value.items()
        if isinstance(key, str) and not _NOT_WEIGHTS.search(key)
        for found in _state_dicts(entry, f"{path}.{key}" if path else key, depth + 1)
    ]
    # A few tensors beside a dict with many are results or a normalisation, not weights.
    inner = max(
        (sum(isinstance(entry, Tensor) for entry in found.values()) for _, found in within), default=0
    )
    if 2 * weights >= inner and (weights >= 2 or (weights and len(named) == len(value))):
        yield path, value
    else:
        yield from within


def _tensors(found: Mapping[Any, Any], name: str) -> tuple[State, list[str]]:
    """The tensors of a state dict, and the names of all other entries."""
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


def unwrapped(key: str, wrappers: Collection[str] = _WRAPPERS) -> str:
    """A name without the components that wrappers add."""
    return ".".join(part for part in key.split(".") if part not in wrappers)


def _unwrap(state: State) -> tuple[State, list[str]]:
    removed: list[str] = []
    for wrapper in _WRAPPERS:
        renamed = {unwrapped(key, (wrapper,)): value for key, value in state.items()}
        if renamed.keys() != state.keys() and len(renamed) == len(state):
            removed, state = [*removed, wrapper], renamed
    return state, removed


def _plain(state: State, name: str, notes: list[str]) -> State:
    """Convert floating-point tensors to float32 (with a note), and check that they are finite."""
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
    """Raise :class:`UserError` for NaN or infinite weights: the argmax of NaN would count as a prediction."""
    for key, value in state.items():
        bad = value.numel() - int(value.isfinite().sum())
        if bad:
            kind = "NaN" if value.isnan().any() else "infinite"
            raise UserError(
                f"{name}: {bad} of {value.numel()} values of '{key}' are {kind}. The training diverged or "
                "the file is damaged; use another checkpoint."
            )


def _facts(value: Any) -> dict[str, Any]:
    """Numbers and short strings at the top level, except paths."""
    if not isinstance(value, Mapping):
        return {}
    facts = {}
    for key, entry in value.items():
        if isinstance(entry, Tensor) and entry.numel() == 1 and not _is_weight(key):
            entry = entry.item()
        number = isinstance(entry, (bool, int, float))
        word = isinstance(entry, str) and len(entry) <= 60 and not re.search(r"[/\\]", entry)
        if isinstance(key, str) and (number or word) and plain_values.problem(entry) is None:
            facts[key[:60]] = entry
    return facts


def _is_weight(key: Any) -> bool:
    return "." in str(key)
