"""Command-line options declared once, as the fields of a dataclass.

:func:`option` declares a field, :func:`expand_options` turns a command's dataclass parameters into options,
:func:`as_arguments` writes a dataclass back as the words of a command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import Field, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Result = TypeVar("Result")


Recorded = Literal["if changed", "always", "never"]


def option(
    default: Any,
    help: str,
    *,
    flags: tuple[str, ...] = (),
    panel: str | None = None,
    recorded: Recorded = "if changed",
    path: bool = False,
) -> Any:
    """A dataclass field that is also a command-line option.

    ``flags``: the option's names, if not the field's; ``panel``: its heading in ``--help``. ``recorded``:
    whether the command in a result repeats it; ``path``: recorded without the folders of its value.
    """
    metadata = {"help": help, "flags": flags, "panel": panel, "recorded": recorded, "path": path}
    return field(default=default, metadata=metadata)


def expand_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """A command for typer: each parameter annotated with a dataclass becomes one option per declared field.

    Fields that :func:`option` did not declare are not options; they keep their default.
    """
    import typer

    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if not (isinstance(hints[name], type) and is_dataclass(hints[name])):
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        cls, types = hints[name], get_type_hints(hints[name])
        declared = [one for one in fields(cls) if "help" in one.metadata]
        groups[name] = (cls, [one.name for one in declared])
        for one in declared:
            annotation: Any = Annotated[
                _readable(types[one.name]),
                typer.Option(*_flags(one), help=one.metadata["help"], rich_help_panel=one.metadata["panel"]),
            ]
            parameters.append(
                inspect.Parameter(
                    one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=annotation
                )
            )

    def call(**values: Any) -> Result:
        built = {name: cls(**{key: values.pop(key) for key in keys}) for name, (cls, keys) in groups.items()}
        return command(**values, **built)

    call.__name__, call.__doc__ = command.__name__, command.__doc__
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    return call


def _readable(hint: Any) -> Any:
    """The type passed to typer, which supports lists for repeatable options, but not Sequence."""
    return list[get_args(hint)] if get_origin(hint) is Sequence else hint  # type: ignore[misc]


def as_arguments(options: object) -> Iterator[str]:
    """The recorded options as command-line words, in the order of the fields, e.g. ``--eps``, ``8/255``."""
    for one in fields(options):  # type: ignore[arg-type]
        value, recorded = getattr(options, one.name), one.metadata.get("recorded", "never")
        if recorded == "always" or (recorded == "if changed" and value != one.default):
            yield _flags(one)[0]
            yield without_folders(value) if one.metadata["path"] else str(value)


def without_folders(text: str) -> str:
    """``npz:folder/a.npz`` as ``npz:a.npz``; the same for file names and ``folder/a.py:function``."""
    kind, colon, rest = text.partition(":")
    if colon and kind in ("npz", "folder"):
        return f"{kind}:{Path(rest).name}"
    if colon and kind.endswith(".py"):
        return f"{Path(kind).name}:{rest}"
    return text if colon or "/" not in text else Path(text).name


def _flags(one: Field[Any]) -> tuple[str, ...]:
    flags: tuple[str, ...] = one.metadata["flags"]
    return flags or (f"--{one.name.replace('_', '-')}",)
