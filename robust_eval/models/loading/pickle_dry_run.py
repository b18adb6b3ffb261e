"""Follow a pickle of ``torch.save`` without creating what it describes, to check it before it is read.

The weights-only reader of torch runs no code of a file, but does as it is told otherwise: it allocates what
a file of a few bytes declares, and hashes and returns values of any depth. The dry run knows the operations
of pickle protocols 2 to 5, with inert values in place of tensors and objects. Nothing is imported or called.
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
    StandIn,
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
    ordinary: bool
    """Whether the weights-only reader of torch reads it."""
    foreign: tuple[str, ...]
    """Names of other programs that it imports."""


def follow(stream: IO[bytes]) -> Described:
    """Follow one pickle, up to its end.

    Raises:
        RefusedPickleError: for everything but plain values, ordinary tensors and objects of other programs.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MOST_OPERATIONS:
            raise RefusedPickleError(f"consists of more than {MOST_OPERATIONS:,} parts")
        machine.run(opcode.name, argument)
    foreign = tuple(machine.foreign)
    return Described(machine.stack.pop(), machine.storages, machine.ordinary and not foreign, foreign)


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self.foreign: dict[str, None] = {}
        self.ordinary = True
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        self.ordinary &= name in _OF_TORCH
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name == "GLOBAL":
            self._import(*argument.split(" ", 1))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
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
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise RefusedPickleError(f"is written with another pickle protocol than 2 to 5 ({name})")

    def _import(self, module: Any, attribute: Any) -> None:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise RefusedPickleError("imports something without a name")
        # The name under Python 2, which protocol 2 writes.
        module = "builtins" if module == "__builtin__" else module
        found = Global(f"{module}.{attribute}")
        if found.is_foreign:
            self.foreign[found.name] = None
        self.stack.append(found)

    def _import_from_stack(self) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self._import(module, attribute)

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marks.pop()
        return items

    def _pop_to_mark(self) -> None:
        self._to_mark()

    def _tuple(self) -> None:
        items = self._to_mark()
        self.stack.append(tuple(items))

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self._to_mark())

    def _add_items(self) -> None:
        items = self._to_mark()
        self._extend([key_of(item) for item in items])

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list | StandIn):
            raise RefusedPickleError("appends to something other than a list")
        (target.items if isinstance(target, StandIn) else target).extend(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self._to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict | StandIn):
            raise RefusedPickleError("sets entries of something other than a dict")
        entries = target.entries if isinstance(target, StandIn) else target
        entries.update((key_of(items[i]), items[i + 1]) for i in range(0, len(items), 2))

    def _build(self) -> None:
        """Set the state of an object: only for those whose state does not matter, and stand-ins."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target.state.append(state)
        elif not isinstance(target, dict | Inert):
            raise RefusedPickleError("sets the state of an object that is neither a dict nor a tensor")

    def _persistent(self) -> None:
        found = stored_values(self.stack.pop())
        if isinstance(found, Storage) and self.storages.setdefault(found.key, found).bytes != found.bytes:
            raise RefusedPickleError("gives two sizes for the same values")
        self.stack.append(found)

    def _new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        self.stack.append(call(kind, arguments))

    def _new_object_of_names(self) -> None:
        names, arguments, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise RefusedPickleError("calls something in an unusual way")
        self.stack.append(call(kind, (*arguments, names)))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = call(self.stack[-1], arguments)

    def _pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._to_mark()


_PLAIN = frozenset(
    (
        *("NONE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
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
    "FROZENSET": _Machine._tuple,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "ADDITEMS": _Machine._add_items,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
    "NEWOBJ": _Machine._new_object,
    "NEWOBJ_EX": _Machine._new_object_of_names,
    "REDUCE": _Machine._reduce,
    "STACK_GLOBAL": _Machine._import_from_stack,
    "POP": _Machine._pop,
    "POP_MARK": _Machine._pop_to_mark,
}
_OF_TORCH = frozenset(
    (
        *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
        *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINSTRING", "BINUNICODE"),
        *("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_SET", "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
    )
)
"""The operations that the weights-only reader of torch knows."""
