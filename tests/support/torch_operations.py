"""Record the operations that torch executes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Records the name of every torch operation, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.weight_gradients = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.names.append(func.overloadpacket.__name__)
        if self.names[-1] == "convolution_backward":
            self.weight_gradients += bool(args[-1][1])
        return func(*args, **(kwargs or {}))
