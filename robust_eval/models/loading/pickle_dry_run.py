"""Follow a pickle of ``torch.save`` without creating what it describes, to check it before it is read.

The weights-only reader of torch runs no code of a file, but does as it is told otherwise: it allocates what
a file of a few bytes declares, and hashes and returns values of any depth. The dry run knows the same
operations, with inert values in place of tensors and objects.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from robust_eval.models.loading.pickle_calls import (
    Global,
    Inert,
    RefusedPickleError,
    Storage,
    call,
    key_of,
    stored_values,
)

MOST_OPERATIONS = 500_000


@dataclass(frozen=True)
class Described:
    """What a pickle describes."""

    value: Any
    """Dicts, lists, tuples and plain values, with inert values in place of everything else."""
    storages: Mapping[str, Storage]


def follow(stream: IO[bytes], harmless: frozenset[str] = frozenset()) -> Described:
    """Follow one pickle, up to its end. ``harmless``: names that stand for objects without effect.

    Raises:
        RefusedPickleError: for everything that is not plain values and ordinary tensors.
    """
    machine = _Machine(harmless)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MOST_OPERATIONS:
            raise RefusedPickleError(f"consists of more than {MOST_OPERATIONS:,} parts")
        machine.run(opcode.name, argument)
    return Described(machine.stack.pop(), machine.storages)


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, harmless: frozenset[str]) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._harmless = harmless

    def run(self, name: str, argument: Any) -> None:
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            # The name under Python 2, which protocol 2 writes.
            module = "builtins" if module == "__builtin__" else module
            self.stack.append(Global(f"{module}.{attribute}"))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self._memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name == "MARK":
            self._marks.append(self.stack)
            self.stack = []
        elif name in _OPERATIONS:
            _OPERATIONS[name](self)
        elif name not in ("PROTO", "STOP"):
            raise RefusedPickleError("is written with another pickle protocol than torch.save's own")

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marks.pop()
        return items

    def _tuple(self) -> None:
        items = self._to_mark()
        self.stack.append(tuple(items))

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self._to_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise RefusedPickleError("appends to something other than a list")
        self.stack[-1].extend(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self._to_mark())

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise RefusedPickleError("sets entries of something other than a dict")
        self.stack[-1].update((key_of(items[i]), items[i + 1]) for i in range(0, len(items), 2))

    def _build(self) -> None:
        """Set the state of an object: only for those whose state does not matter."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (dict, Inert)):
            raise RefusedPickleError("sets the state of an object that is neither a dict nor a tensor")

    def _persistent(self) -> None:
        storage = stored_values(self.stack.pop())
        if self.storages.setdefault(storage.key, storage).bytes != storage.bytes:
            raise RefusedPickleError("gives two sizes for the same values")
        self.stack.append(storage)

    def _new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.stack.append(call(kind, arguments, self._harmless))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], arguments, self._harmless)


_PLAIN = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "NONE")
)
_NEW: Mapping[str, Callable[[], Any]] = {
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
_OPERATIONS: Mapping[str, Callable[[_Machine], None]] = {
    "TUPLE": _Machine._tuple,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
    "NEWOBJ": _Machine._new_object,
    "REDUCE": _Machine._reduce,
}
