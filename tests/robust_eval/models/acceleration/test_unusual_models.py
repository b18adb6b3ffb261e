"""Unusual models: they are attacked without conversion, or refused with an error message."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.models.acceleration import bfloat16, compilation
from robust_eval.results import EvalResult


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.norm(self.conv(x)).relu().flatten(1))
        return logits


class Double(Body):
    """Computes in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class Strict(Body):
    """Fails with an exception that torch would not raise."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32, "float32 wanted\nand nothing else"
        return super().forward(x)


class Float32Backward(torch.autograd.Function):
    """Its backward pass only accepts float32."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
        if grad.dtype != torch.float32:
            raise RuntimeError("no such gradient")
        return grad


class Custom(Body):
    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = Float32Backward.apply(self.conv(x))
        logits: Tensor = self.last(hidden.flatten(1))
        return logits


class Twice(Body):
    """Uses one BatchNorm layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.norm(self.conv(x)).relu())
        logits: Tensor = self.last(hidden.flatten(1))
        return logits


class Locked(Body):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Pair(Body):
    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits, logits  # type: ignore[return-value]


def run(model: nn.Module, precision: str, compile: str = "off") -> EvalResult:
    torch.manual_seed(2)
    x, y = torch.rand(12, 1, 4, 4), torch.arange(12) % 3
    return evaluate(model, x, y, "Linf 0.1", suite="fgsm", precision=precision, compile=compile)


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that the processor supports bfloat16."""
    monkeypatch.setattr(bfloat16, "unsupported_reason", lambda _device: "")


@pytest.mark.usefixtures("units")
@pytest.mark.parametrize(
    ("model", "reason"),
    [(Double, "should be the same"), (Strict, "float32 wanted"), (Custom, "no such gradient")],
)
def test_auto_is_float32_with_a_note_for_a_model_without_bfloat16(
    model: type[nn.Module], reason: str
) -> None:
    result = run(model(), "auto")
    assert result.suite.precision == "float32"
    assert result.search is not None
    (note,) = (n for n in result.search.notes if n.startswith("float32: the model does not run in bfloat16"))
    assert reason in note
    assert "\n" not in note
    with pytest.raises(UserError, match=rf"not run in bfloat16 \(.*{reason}.*: use precision float32"):
        run(model(), "bfloat16")


@pytest.mark.usefixtures("units")
def test_auto_is_bfloat16_if_model_and_device_support_it() -> None:
    result = run(Body(), "auto")
    assert result.suite.precision == "bfloat16"
    assert result.search is not None
    assert "searches in bfloat16, last layer in float32" in result.search.notes


def test_the_note_does_not_mention_a_float32_layer_that_does_not_exist() -> None:
    class Convolutions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.flatten(self.conv(x), 1)

    result = run(Convolutions(), "bfloat16")
    assert result.search is not None
    assert "searches in bfloat16" in result.search.notes


def test_a_shared_batchnorm_is_not_folded_wrongly() -> None:
    model = Twice().eval()
    model.norm.running_mean.normal_()  # type: ignore[union-attr]
    model.norm.running_var.uniform_(0.2, 3)  # type: ignore[union-attr]
    result = run(model, "float32")
    assert "search-copy-differs" not in {flag.id for flag in result.flags}


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be copied for the attacks \(TypeError: .*lock"):
        run(Locked(), "float32")


def test_the_first_of_a_tuple_is_used_as_logits() -> None:
    result = run(Pair(), "float32")
    assert result.search is not None
    assert "the logits are [0] of the model's output" in result.search.notes


def test_a_failing_compiler_gives_an_error_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(network: nn.Module, **_options: object) -> object:
        def failing(_x: Tensor) -> Tensor:
            raise torch._dynamo.exc.TorchDynamoException("no\nworking compiler\n\nSet TORCH_LOGS for more")

        return failing

    monkeypatch.setattr(compilation, "unavailable_reason", lambda _device: "")
    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(UserError, match=r"not be compiled \(no working compiler\): use compile mode auto"):
        run(Body(), "float32", "on")
