"""Arguments of other types than documented and models that do not return logits are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.known_models import Linear, linear_problem
from torch import Tensor

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.core.logits import output_problem


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"batch_size": 1.5}, "batch_size must be an integer or None, not 1.5"),
        ({"batch_size": "4"}, "batch_size must be an integer or None, not '4'"),
        ({"batch_size": True}, "batch_size must be an integer or None, not True"),
        ({"seed": None}, "seed must be an integer, not None"),
        ({"seed": 1.0}, "seed must be an integer, not 1.0"),
        ({"precision": None}, "precision must be float32, bfloat16 or auto, not None"),
        ({"compile": True}, "compile must be auto, on or off, not True"),
        ({"name": None}, "name must be text in one line, not None"),
        ({"name": "two\nlines"}, "name must be text in one line"),
        ({"out": 5}, "out must be a path or None, not 5"),
        ({"diagnose": "yes"}, "diagnose must be True or False, not 'yes'"),
        ({"display": print}, "display must be True, False, or an object with the methods"),
    ],
)
def test_options_of_other_types_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(*linear_problem(n=20), "Linf 0.02", suite="fgsm", **keywords)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.to_sparse(), y), "x_NCHW must be a dense tensor, not torch.sparse_coo"),
        (lambda x, y: (x, y.to_sparse()), "y_N must be a dense tensor, not torch.sparse_coo"),
        (lambda x, y: (x.where(torch.arange(len(x)).view(-1, 1, 1, 1) > 2, torch.nan), y), "3 of 20 .* NaN"),
    ],
)
def test_images_and_labels_without_usable_values_are_refused(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    model, x, y = linear_problem(n=20)
    with pytest.raises(UserError, match=message):
        evaluate(model, *change(x, y), "Linf 0.02", suite="fgsm")


class Returns(Linear):
    """A linear model with a changed output."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(super().forward(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda z: {"scores": z}, "dict"),
        (lambda z: z[:, :, None], r"\(1, \d, 1\)"),
        (lambda z: z.long(), "torch.int64"),
        (lambda z: z > 0, "torch.bool"),
        (lambda z: z.to(torch.complex64), "torch.complex64"),
        (lambda z: z.to_sparse(), "torch.sparse_coo"),
        (lambda z: z.to("meta"), "on meta"),
    ],
)
def test_outputs_that_are_not_logits_are_refused(change: Callable[[Tensor], Any], found: str) -> None:
    _, x, y = linear_problem(n=20)
    with pytest.raises(UserError, match=rf"must return logits of shape \(N, classes\), not .*{found}"):
        evaluate(Returns(change), x, y, "Linf 0.02", suite="fgsm")


def test_any_floating_point_type_may_be_returned() -> None:
    z = torch.zeros(3, 2)
    assert not any(output_problem(z.to(kind), 3) for kind in (torch.float64, torch.bfloat16, torch.float16))
    assert output_problem(z, 4)


def test_a_model_that_returns_float64_has_the_verdicts_of_float32() -> None:
    model, x, y = linear_problem(n=20)
    double = Returns(Tensor.double)
    double.load_state_dict(model.state_dict())
    of_float32, of_float64 = (evaluate(m, x, y, "Linf 0.04", suite="fgsm,pgd-20") for m in (model, double))
    assert of_float64.worst_case.robust_bits == of_float32.worst_case.robust_bits
    assert of_float64.flags == of_float32.flags
