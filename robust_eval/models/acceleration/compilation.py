"""``torch.compile`` for a frozen network: code for a few batch sizes, CUDA graphs on a GPU."""

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
    """The compiler failed on a network."""


def unavailable_reason(device: torch.device) -> str:
    """Why nothing can be compiled for this device, or ''."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "Triton is not installed"
        major, minor = torch.cuda.get_device_capability(device)
        return "" if major >= 7 else f"compute capability {major}.{minor} is too old for Triton"
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++")):
        return "there is no C++ compiler (install g++, or set CXX)"
    return ""


def parse(asked: str, device: torch.device) -> Mode:
    """``--compile auto | on | off``, refused where it cannot be had."""
    if asked not in MODES:
        raise unknown("compile mode", asked, MODES)
    problem = unavailable_reason(device) if asked == "on" else ""
    if problem:
        raise UserError(f"Compiling is not possible here: {problem}. Use compile mode auto or off.")
    return cast(Mode, asked)


def compile_network(network: nn.Module) -> Callable[..., Tensor]:
    """``network`` compiled anew for each batch size it meets.

    On a GPU the kernels of a pass are launched as one graph, whose output is copied: the next pass
    overwrites it. Weights stay inputs: as constants (``freezing``) they were no faster on a CPU.
    """
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    # Torch's CUDA build warns of a missing GPU here, which nobody asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    graphs = device.type == "cuda"
    quick: Callable[..., Tensor] = torch.compile(
        network, dynamic=False, options={"triton.cudagraphs": graphs}
    )

    def call(*inputs: Tensor) -> Tensor:
        try:
            return quick(*inputs).clone() if graphs else quick(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            text = " ".join(str(error).split("\n\n")[0].split())
            raise UncompilableError(
                f"The model could not be compiled ({text}): use compile mode auto or off."
            ) from error

    return call
