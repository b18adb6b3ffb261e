"""A limit on the number of layers of a network whose description comes from a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules.module import register_module_module_registration_hook

MOST_LAYERS = 2500


@contextmanager
def limited_layers() -> Iterator[None]:
    """Within the block, raise ValueError when more than MOST_LAYERS layers are added to networks."""
    left = MOST_LAYERS

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"it has more than {MOST_LAYERS:,} layers")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
