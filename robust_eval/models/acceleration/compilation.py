"""``torch.compile`` for attack copies: a few fixed batch sizes, CUDA graphs on a GPU."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError, unknown

Mode = Literal["auto", "on", "off"]
MODES = get_args(Mode)


class UncompilableError(UserError, RuntimeError):
    """``torch.compile`` failed on a network."""


def unavailable_reason(device: torch.device) -> str:
    """Why ``torch.compile`` cannot be used on this device, or ''."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "Triton is not installed"
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major >= 7 else f"compute capability {major}.{minor} is too old for Triton"
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++")):
        return "there is no C++ compiler (install g++, or set CXX)"
    return ""


def parse(mode: str, device: torch.device) -> Mode:
    """Check a compile mode (auto, on or off).

    Raises:
        UserError: for an unknown mode, and for ``on`` if compilation is not possible.
    """
    if mode not in MODES:
        raise unknown("compile mode", mode, MODES)
    problem = unavailable_reason(device) if mode == "on" else ""
    if problem:
        raise UserError(
            f"Compiling is not possible on this machine: {problem}. Use compile mode auto or off."
        )
    return cast(Mode, mode)


def compile_network(network: nn.Module) -> Callable[..., Tensor]:
    """Compile ``network``; it is compiled again for each new input shape.

    On a GPU a pass is one CUDA graph, whose output is copied because the next pass overwrites it. Weights
    are inputs of the graph: as constants (``freezing``) they were no faster on a CPU.

    Calls raise :class:`UncompilableError` if the compiler fails.
    """
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    # Suppresses a warning about a missing GPU, which CUDA builds of torch log.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    graphs = device.type == "cuda"
    compiled: Callable[..., Tensor] = torch.compile(
        network, dynamic=False, options={"triton.cudagraphs": graphs}
    )

    def call(*inputs: Tensor) -> Tensor:
        try:
            return compiled(*inputs).clone() if graphs else compiled(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            text = " ".join(str(error).split("\n\n")[0].split())
            raise UncompilableError(
                f"The model could not be compiled ({text}): use compile mode auto or off."
            ) from error

    return call
