"""Global states of torch, numpy and Python are set for an evaluation and restored after it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import numpy as np
import pytest
import torch

from robust_eval.core.devices import float32_precision
from robust_eval.core.torch_state import standard_state


def switches() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.empty(0).device,
        torch.is_autocast_enabled("cpu"),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        float32_precision(),
    )


STANDARD = (torch.float32, torch.device("cpu"), False, True, False, False, False)


@contextmanager
def changed(change: Callable[..., object], value: object, reset: object, **options: object) -> Iterator[None]:
    change(value, **options)
    try:
        yield
    finally:
        change(reset)


AMBIENT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "device block": lambda: torch.device("meta"),
    "default device": lambda: changed(torch.set_default_device, "meta", None),
    "default dtype": lambda: changed(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16 products": lambda: changed(torch.set_float32_matmul_precision, "medium", "highest"),
    "deterministic": lambda: changed(torch.use_deterministic_algorithms, True, False, warn_only=True),
}


@pytest.mark.parametrize("name", [*AMBIENT, "all"])
def test_the_state_inside_is_known_and_the_state_outside_is_restored(name: str) -> None:
    with ExitStack() as stack:
        # torch refuses a default device inside a block with a device.
        chosen = [key for key in AMBIENT if key != "device block"] if name == "all" else [name]
        for key in chosen:
            stack.enter_context(AMBIENT[key]())
        before = switches()
        with standard_state():
            assert switches()[:-1] == STANDARD
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.ones(1).device.type == "cpu"
        assert switches() == before


def test_the_state_is_restored_after_an_exception() -> None:
    before = switches()

    @standard_state()
    def fail() -> None:
        torch.set_default_dtype(torch.float64)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert switches() == before


def test_generators_continue_as_if_nothing_had_been_drawn() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(1).item(), np.random.rand(), random.random()

    def reseed() -> None:
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    reseed()
    expected = [draw(), draw()]
    reseed()
    found = [draw()]
    with standard_state():
        reseed()
        draw()
    assert [*found, draw()] == expected


def test_hooks_on_all_modules_are_not_called_inside() -> None:
    linear, x, calls = torch.nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True), list[str]()
    module = torch.nn.modules.module
    handles = [
        module.register_module_forward_pre_hook(lambda *_: calls.append("before")),
        module.register_module_forward_hook(lambda *_: calls.append("after")),
        module.register_module_full_backward_hook(lambda *_: calls.append("backward")),
    ]
    try:
        with standard_state():
            linear(x).sum().backward()
        assert calls == []
        linear(x).sum().backward()
        assert calls == ["before", "after", "backward"]
    finally:
        for handle in handles:
            handle.remove()
    linear(x)
    assert calls == ["before", "after", "backward"]
