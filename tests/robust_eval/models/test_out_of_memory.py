"""With little memory, probes, attacks and judge continue with smaller batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.models import out_of_memory


class Greedy(nn.Module):
    """A linear model for at most ``room`` images; integer weights, so that splitting changes no bit."""

    def __init__(self, room: int | None, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randint(-4, 5, (3, 16)).float())
        self.room, self.error = room, error

    def forward(self, x: Tensor) -> Tensor:
        if self.room is not None and len(x) > self.room:
            raise self.error("out of memory")
        return x.flatten(1) @ self.weight.T


def test_logits_are_computed_in_halved_batches() -> None:
    x = torch.rand(11, 1, 4, 4)
    torch.testing.assert_close(out_of_memory.logits(Greedy(3), x), Greedy(None)(x))
    assert out_of_memory.logits(Greedy(3), x[:0]).shape == (0, 3)
    with pytest.raises(UserError, match="Out of memory on a single image. Free memory"):
        out_of_memory.logits(Greedy(0), x)


def test_other_errors_are_raised() -> None:
    def failing(_x: Tensor) -> Tensor:
        raise RuntimeError("another matter")

    with pytest.raises(RuntimeError, match="another matter"):
        out_of_memory.logits(failing, torch.rand(2, 1, 4, 4))
    assert not out_of_memory.is_out_of_memory(ValueError("out of memory")), "torch raises RuntimeError"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_an_evaluation_with_little_memory_has_the_same_result(error: type[RuntimeError]) -> None:
    """The limit applies to probes, clean predictions, attacks and judge."""
    torch.manual_seed(1)
    x = torch.rand(40, 1, 4, 4)
    y = Greedy(None)(x).argmax(1)
    results = [
        evaluate(Greedy(room, error), x, y, "Linf 0.1", suite="fgsm,pgd-10", batch_size=40)
        for room in (None, 7)
    ]
    bits = [{name: column.robust_bits for name, column in result.columns.items()} for result in results]
    assert bits[0] == bits[1]
    assert 0 < results[0].worst_case.n_robust < 40, "some images are broken and some robust"
    passes = [(result.worst_case.forwards, result.worst_case.backwards) for result in results]
    assert passes[0] == passes[1], "repeated passes are not counted"


def test_a_model_without_memory_for_one_image_is_refused() -> None:
    x, y = torch.rand(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UserError, match="out of memory"):
        evaluate(Greedy(0), x, y, "Linf 0.1", suite="fgsm")
