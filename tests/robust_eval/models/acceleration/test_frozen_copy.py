"""The attack copy: counts, independence from the original, and limited memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.models import architectures
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.normalisation import NONE, Normalised


def network() -> nn.Module:
    torch.manual_seed(0)
    return Normalised(
        architectures.build("wrn-10-1", classes=4, channels=3, image_size=(16, 16)), NONE
    ).eval()


class Greedy(nn.Module):
    """Runs out of memory on more than ``room`` images, in forward or in backward."""

    def __init__(self, room: int, *, where: str, message: str = "CUDA out of memory.") -> None:
        super().__init__()
        self.inner = network()
        self.room, self.where, self.message = room, where, message
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        if self.where == "forward" and len(x) > self.room:
            raise RuntimeError(self.message)
        out: Tensor = self.inner(x)
        if self.where == "backward" and out.requires_grad and len(x) > self.room:
            out.register_hook(self._fail)
        return out

    def _fail(self, _: Tensor) -> None:
        raise torch.OutOfMemoryError(self.message)


def gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    return logits.detach(), torch.autograd.grad(logits[:, 1].sum(), x)[0]


def test_logits_and_gradients_equal_those_of_the_original() -> None:
    model, x = network(), torch.rand(5, 3, 16, 16)
    logits, input_grad = gradient(make_attack_copy(model), x)
    expected_logits, expected_grad = gradient(model, x)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(input_grad, expected_grad)


def test_the_original_is_not_modified() -> None:
    model = network().train()
    search = make_attack_copy(model)
    assert all(p.requires_grad for p in model.parameters())
    assert model.training
    assert not any(p.requires_grad for p in search.parameters())
    assert not any(m.training for m in search.train().modules()), "libraries call train() as a side effect"
    kernel = next(p for p in search.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        for p in search.parameters():
            p.zero_()
    assert any(p.any() for p in model.parameters())


def test_images_are_counted_instead_of_calls() -> None:
    search, x = make_attack_copy(network()), torch.rand(5, 3, 16, 16)
    search(x)
    with torch.no_grad():
        search(x.requires_grad_())
    assert (search.forwards, search.backwards) == (10, 0)
    gradient(search, x.detach())
    assert (search.forwards, search.backwards) == (15, 5)
    search(x).sum().backward()
    assert (search.forwards, search.backwards) == (20, 10)
    search(x)
    assert (search.forwards, search.backwards) == (25, 10), "without backward pass"
    search.reset_counts()
    assert (search.forwards, search.backwards) == (0, 0)


def test_a_retained_graph_can_be_used_twice() -> None:
    search, x = make_attack_copy(network()), torch.rand(3, 3, 16, 16, requires_grad=True)
    logits = search(x)
    one = torch.autograd.grad(logits[:, 0].sum(), x, retain_graph=True)[0]
    two = torch.autograd.grad(logits[:, 1].sum(), x)[0]
    torch.testing.assert_close(one, torch.autograd.grad(search(x)[:, 0].sum(), x)[0])
    torch.testing.assert_close(two, torch.autograd.grad(search(x)[:, 1].sum(), x)[0])
    assert search.backwards == 12


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_running_out_of_memory_halves_the_batch_and_changes_no_result(where: str) -> None:
    x = torch.rand(11, 3, 16, 16)
    expected = gradient(Greedy(99, where=where), x)
    search = make_attack_copy(Greedy(3, where=where))
    for _ in range(2):
        found = gradient(search, x)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
    assert search.batch == 2, "11 to 5 to 2"
    assert (search.forwards, search.backwards) == (22, 22), "repeated passes are not counted"


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
        "MPS backend out of memory",
    ],
)
def test_memory_errors_are_recognised_on_every_device(message: str) -> None:
    search = make_attack_copy(Greedy(4, where="forward", message=message))
    with torch.no_grad():
        assert search(torch.rand(9, 3, 16, 16)).shape == (9, 4)


def test_a_given_batch_limit_is_kept() -> None:
    greedy = Greedy(99, where="forward")
    search = make_attack_copy(greedy, batch=4)
    gradient(search, torch.rand(10, 3, 16, 16))
    assert isinstance(search.network, Greedy)
    assert max(search.network.calls) == 4


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(UserError, match="Out of memory on a single image"):
        make_attack_copy(Greedy(0, where="forward"))(torch.rand(3, 3, 16, 16))


def test_other_errors_pass_through() -> None:
    with pytest.raises(RuntimeError, match="another matter"):
        make_attack_copy(Greedy(0, where="forward", message="another matter"))(torch.rand(3, 3, 16, 16))


def test_the_gradient_of_a_model_without_one_is_zero() -> None:
    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().flatten(1)

    search, x = make_attack_copy(Detached()), torch.rand(2, 3, 4, 4, requires_grad=True)
    for search.batch in (None, 1):
        (gradient,) = torch.autograd.grad(search(x).sum(), x)
        assert gradient.shape == x.shape
        assert not gradient.any()


def test_an_empty_batch_gives_empty_logits() -> None:
    assert make_attack_copy(network())(torch.rand(0, 3, 16, 16)).shape == (0, 4)
