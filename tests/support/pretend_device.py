"""A pretend accelerator for tests: ``pretend:0`` computes on the CPU and refuses tensors of the CPU.

Importing it registers the device in this process for good, so tests use it in a process of their own
(``support.on_pretend_device``). It finds what otherwise only a GPU would find: a tensor that was left on the
host, a constant that is made there at every step, a result that is moved back too early. ``transfers`` counts
copies between host and device, and reads of single numbers, for which a real device has to be waited for.
Needs torch 2.10 or newer; has no autocast. Slow: every operation goes through Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

NAME = "pretend"
_aten = torch.ops.aten
_counts: Counter[str] = Counter()
TO_HOST, TO_DEVICE = "to host", "to device"
# As on a GPU: copies cross, and indices may be on the host.
_MAY_MIX = {
    _aten._to_copy.default,
    _aten.copy_.default,
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}


class PretendTensor(torch.Tensor):
    """A tensor on the pretend device; ``raw`` contains its values, on the CPU."""

    raw: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> PretendTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    def __init__(self, raw: torch.Tensor) -> None: ...

    def __repr__(self) -> str:
        return f"PretendTensor({self.raw!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        _counts[TO_HOST] += 1
        return self.raw.tolist()

    def item(self) -> Any:
        _counts[TO_HOST] += 1
        return self.raw.item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())


def transfers() -> dict[str, int]:
    """Transfers in each direction since the last call."""
    found = {name: _counts[name] for name in (TO_HOST, TO_DEVICE)}
    _counts.clear()
    return found


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the values; its results are on the pretend device, except for copies to the host."""
    device = kwargs.get("device")
    to_host = func is _aten._to_copy.default and device is not None and torch.device(device).type == "cpu"
    _count(func, args, to_host)
    plain_args, plain_kwargs = tree_map(lambda value: _unwrap(func, value), (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if to_host:
        return result
    if func is _aten.copy_.default:
        return args[0]
    return tree_map(lambda value: _wrap(value, args), result)


def _count(func: Any, args: Any, to_host: bool) -> None:
    if to_host:
        _counts[TO_HOST] += 1
    elif func is _aten._to_copy.default and args and not isinstance(args[0], PretendTensor):
        _counts[TO_DEVICE] += 1
    elif func is _aten.copy_.default:
        target, source = (isinstance(arg, PretendTensor) for arg in args[:2])
        if target != source:
            _counts[TO_DEVICE if target else TO_HOST] += 1


def _unwrap(func: Any, value: Any) -> Any:
    if isinstance(value, PretendTensor):
        return value.raw
    # As on a GPU, tensors without dimensions and empty ones may be on the host.
    if isinstance(value, torch.Tensor) and value.dim() and value.numel() and func not in _MAY_MIX:
        raise RuntimeError(f"{func}: a tensor of shape {tuple(value.shape)} is on the CPU")
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _wrap(value: Any, args: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    same = [one for one in args if isinstance(one, PretendTensor) and one.raw is value]
    return same[0] if same else PretendTensor(value)


def _made_by(made: Callable[..., torch.Tensor], moved: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Makes a tensor as ``made`` does; for the pretend device on the CPU, then ``moved``."""

    @wraps(made)
    def make(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
        if device is not None and torch.device(device).type == NAME:
            return moved(made(*args, **kwargs))
        return made(*args, device=device, **kwargs)

    return make


def _register() -> torch.library.Library:
    backend_registration._setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    module = type(getattr(torch, NAME))
    module.get_rng_state = staticmethod(lambda device=0: torch.get_rng_state())
    module.set_rng_state = staticmethod(lambda state, device=0: None)
    torch.tensor = _made_by(torch.tensor, lambda tensor: tensor.to(NAME))
    # These resize their result, which a wrapper cannot.
    for name in ("arange", "linspace", "randperm"):
        setattr(torch, name, _made_by(getattr(torch, name), PretendTensor))
    return library


_LIBRARY = _register()
