"""The local source files that a Python file imports, found in its text without running it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path


def sources(file: Path) -> tuple[Path, ...]:
    """``file`` and every local file that it imports, directly or through another, in order of their names.

    Local are files under :func:`root`. Imports inside functions count; modules named only at run time
    (``importlib``) are not found.
    """
    start = file.resolve()
    found, waiting = {start}, [start]
    while waiting:
        for path in _imported(waiting.pop(), root(start)):
            if path not in found:
                found.add(path)
                waiting.append(path)
    return tuple(sorted(found))


def root(file: Path) -> Path:
    """The folder that imports start from: that of the file, or of the outermost package around it."""
    folder = file.resolve().parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def digest(file: Path) -> str:
    """SHA-256 of a file that imports no other local file; else of the names and digests of all of them."""
    files = sources(file)
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if len(files) == 1:
        return digests[files[0]]
    base = root(file)
    lines = "".join(f"{path.relative_to(base).as_posix()} {digests[path]}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _imported(file: Path, base: Path) -> Iterator[Path]:
    # Importing a file of a package runs the packages around it.
    for folder in file.parents:
        if folder == base:
            break
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        # Importing the file reports it.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _files(base, name.name)
        elif isinstance(node, ast.ImportFrom):
            folder = base
            if node.level:
                folder = file.parents[min(node.level, len(file.parents)) - 1]
            module = node.module or ""
            for name in node.names:
                yield from _files(folder, f"{module}.{name.name}".strip("."))
            yield from _files(folder, module)


def _files(folder: Path, module: str) -> Iterator[Path]:
    """The files of a dotted module name and of the packages around it."""
    path = folder
    for part in filter(None, module.split(".")):
        path = path / part
        for candidate in (path.with_name(f"{part}.py"), path / "__init__.py"):
            if candidate.is_file():
                yield candidate.resolve()
