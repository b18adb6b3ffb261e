"""Call a model so that it can reach neither the caller's tensors nor the caller's random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robust_eval.core.types import Ints
from robust_eval.models import out_of_memory


class RandomStream:
    """A stream of random numbers for a model, in place of torch's global generators while it is called.

    A model that seeds the global generators in its forward pass cannot influence the random numbers of an
    attack, and one that draws from them draws the same numbers whatever the attack draws.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Start again, with random numbers that depend on ``seed`` only."""
        self._own = [torch.Generator(device).manual_seed(seed).get_state() for device in self._devices()]

    def __enter__(self) -> None:
        self._outer = self._exchange(self._own)

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._own = self._exchange(self._outer)

    def _devices(self) -> list[str]:
        return ["cpu"] if self._device.type != "cuda" else ["cpu", str(self._device)]

    def _exchange(self, states: list[Tensor]) -> list[Tensor]:
        """Set the global generators, and return what their states were."""
        before = [torch.get_rng_state()]
        torch.set_rng_state(states[0])
        if len(states) > 1:
            before.append(torch.cuda.get_rng_state(self._device))
            torch.cuda.set_rng_state(states[1], self._device)
        return before


def copy_inputs(network: nn.Module) -> nn.Module:
    """Let ``network``, which may be the user's own code, receive copies of its inputs; returns it.

    Unlike :class:`Isolated` it leaves the module and the names of its tensors as they are.
    """
    network.register_forward_pre_hook(lambda _module, inputs: tuple(tensor.clone() for tensor in inputs))
    return network


class RecordedWrites(TorchFunctionMode):
    """Differentiates writes into an input that autograd would not record: through ``data``, or under no_grad.

    With it, gradients are those of the same function with a new tensor for each result.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func == _DATA and args[0].requires_grad:
            return args[0]
        if _is_in_place(func) and isinstance(args[0], Tensor) and args[0].grad_fn is not None:
            with torch.enable_grad():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


def _is_in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


class Isolated(nn.Module):
    """``model``, called with copies: it cannot change the caller's images, nor logits it returned earlier.

    The inputs are copied, and without gradients the outputs too. Operations in place on the input are
    differentiated like those on any other tensor, because the model receives a copy that is no leaf.
    """

    def __init__(self, model: nn.Module) -> None:
        """``model``: [0, 1] pixels (N, C, H, W) to logits (N, K)."""
        super().__init__()
        self.model: nn.Module = model.model if isinstance(model, Isolated) else model
        self.stream = RandomStream(device_of(model))
        self.writes = 0
        """Number of calls in which the model wrote into its input."""
        self.training = model.training

    def forward(self, x_NCHW: Tensor) -> Tensor:
        given = x_NCHW.clone()
        with self.stream, RecordedWrites() if self.writes else nullcontext():
            logits = self.model(given)
        self.writes += not same_bits(given, x_NCHW)
        if torch.is_grad_enabled() or not isinstance(logits, Tensor):
            return logits  # type: ignore[no-any-return]  # a Tensor for any model that is evaluated
        return logits.clone()


@torch.no_grad()
def writes_into_input(model: nn.Module, x_NCHW: Tensor) -> bool:
    """Whether a model changes the tensor that it is called with."""
    given = x_NCHW.clone()
    out_of_memory.logits(model, given)
    return not same_bits(given, x_NCHW)


@torch.no_grad()
def batched_logits(model: nn.Module, x_NCHW: Tensor, batches: Sequence[Ints]) -> Tensor:
    """Logits (sum of the batches' sizes, K) on the CPU, of batches of images given by their indices."""
    isolated, device = Isolated(model.eval()), device_of(model)
    found = [out_of_memory.logits(isolated, x_NCHW[torch.from_numpy(b)].to(device)) for b in batches]
    return torch.cat(found).float().cpu()


def device_of(model: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; the CPU if there is none."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two float32 tensors are equal, NaN included."""
    if a.dtype != torch.float32:
        return torch.equal(a, b)
    return torch.equal(a.detach().view(torch.int32), b.detach().view(torch.int32))
