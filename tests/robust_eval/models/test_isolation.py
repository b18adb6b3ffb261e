"""Models receive copies of images and a stream of random numbers of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from robust_eval.models.acceleration.deep_copy import copy_model
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.isolation import Isolated, RandomStream, batched_logits


class Plain(nn.Module):
    """Logits of a linear layer, after a change of the input."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 3)

    def change(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.change(x).flatten(1))
        return logits


class Clamped(Plain):
    def change(self, x: Tensor) -> Tensor:
        return x.clamp(0.2, 0.8)


class ClampedData(Plain):
    def change(self, x: Tensor) -> Tensor:
        x.data.clamp_(0.2, 0.8)
        return x


class Scaled(Plain):
    def change(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.3


class ScaledInPlace(Plain):
    def change(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(0.3)


class Rounded(Plain):
    def change(self, x: Tensor) -> Tensor:
        return (x * 15).round() / 15


class RoundedUnderNoGrad(Plain):
    def change(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x.mul_(15).round_().div_(15)
        return x


class Masked(Plain):
    def change(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[..., :1] = 0.5
        return x


class MaskedInPlace(Plain):
    def change(self, x: Tensor) -> Tensor:
        x[..., :1] = 0.5
        return x


PAIRS = [
    (ClampedData, Clamped),
    (ScaledInPlace, Scaled),
    (RoundedUnderNoGrad, Rounded),
    (MaskedInPlace, Masked),
]


def images(n: int = 6) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def logits_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    return logits.detach(), torch.autograd.grad(logits[:, 0].sum(), leaf)[0]


@pytest.mark.parametrize(("writer", "reference"), PAIRS)
@pytest.mark.parametrize("attack", [False, True])
def test_writing_into_the_input_has_no_effect(
    writer: type[Plain], reference: type[Plain], attack: bool
) -> None:
    x = images()
    model = make_attack_copy(writer(), sample=x) if attack else Isolated(writer())
    with torch.no_grad():
        expected = reference()(x)
        assert torch.equal(model(x), expected)
    assert torch.equal(x, images())
    found = logits_and_gradient(model, x)
    for one, other in zip(found, logits_and_gradient(reference(), x), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert torch.equal(x, images())


def test_writes_are_counted() -> None:
    x = images()
    for model, expected in ((Isolated(Clamped()), 0), (Isolated(ClampedData()), 2)):
        for _ in range(2):
            model(x)
        assert model.writes == expected
    nan = torch.full_like(x, float("nan"))
    model = Isolated(Clamped())
    model(nan)
    assert model.writes == 0


class OneBuffer(Plain):
    """Returns the same tensor from every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("out", torch.zeros(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.out.copy_(super().forward(x))
        return self.out


@pytest.mark.parametrize("attack", [False, True])
def test_logits_are_not_overwritten_by_the_next_call(attack: bool) -> None:
    x = images()
    model = make_attack_copy(OneBuffer()) if attack else Isolated(OneBuffer())
    with torch.no_grad():
        first = model(x)
        kept = first.clone()
        model(1 - x)
    assert torch.equal(first, kept)


class Seeding(Plain):
    def change(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return x + 0.01 * torch.rand_like(x)


class Noisy(Plain):
    def change(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.rand_like(x)


@pytest.mark.parametrize("model_class", [Seeding, Noisy])
@pytest.mark.parametrize("gradient", [False, True])
def test_the_callers_random_numbers_do_not_depend_on_the_model(
    model_class: type[Plain], gradient: bool
) -> None:
    x = images()
    for model in (Isolated(model_class()), make_attack_copy(model_class(), sample=x)):
        torch.manual_seed(5)
        expected = torch.rand(4)
        torch.manual_seed(5)
        if gradient:
            logits_and_gradient(model, x)
        else:
            model(x)
        assert torch.equal(torch.rand(4), expected)


def test_a_random_model_draws_new_numbers_in_every_call_and_the_same_after_a_seed() -> None:
    model, x = Isolated(Noisy()), images()
    model.stream.seed(7)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    torch.manual_seed(99)
    model.stream.seed(7)
    assert torch.equal(model(x), first)


def test_the_stream_is_exchanged_back_after_an_exception() -> None:
    stream = RandomStream(torch.device("cpu"))
    before = torch.get_rng_state()

    def fail() -> None:
        with stream:
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_of_an_isolated_model_is_a_copy_of_the_model() -> None:
    inner = Plain()
    found = copy_model(Isolated(Isolated(inner)))
    assert type(found) is Plain
    assert found is not inner
    assert Isolated(copy.deepcopy(Isolated(inner))).model.linear.weight.equal(inner.linear.weight)


def test_batches_are_called_in_the_given_order() -> None:
    model, x = Plain(), images()
    import numpy as np

    found = batched_logits(model, x, [np.array([4, 1]), np.array([0, 2, 3])])
    with torch.no_grad():
        assert torch.allclose(found, model(x)[[4, 1, 0, 2, 3]], atol=1e-6)
