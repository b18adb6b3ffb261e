"""Verdicts on fixed images equal those of a golden file, so that a refactoring cannot change them unnoticed.

The golden file changes only if the version of an attack is raised, or if the identity of a model or of images
is computed differently: the seeds depend on it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from robust_eval import evaluate
from robust_eval.verification.selftest.base_networks import SmallNetwork

GOLDEN = Path(__file__).with_name("verdicts.json")
COLUMNS = "fgsm,pgd-20,pgd-100,cw-inf,apgd-ce-t"


class Honest(SmallNetwork):
    """The name of this class is part of the model's identity, on which the seeds and golden file depend."""


def verdicts(norm: str, eps: str) -> dict[str, str]:
    """Bits of each column for a fixed network on fixed images, labelled by the network itself."""
    model = Honest().eval()
    x = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(7)) / 255
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 10
    result = evaluate(model, x, y, f"{norm} {eps}", COLUMNS, seed=11, batch_size=16)
    return {name: column.robust_bits for name, column in result.columns.items()}


@pytest.mark.parametrize(("norm", "eps"), [("Linf", "6/255"), ("L2", "0.2")])
def test_verdicts_are_those_of_the_golden_file(norm: str, eps: str) -> None:
    found = verdicts(norm, eps)
    assert 3 < found["pgd-100"].count("0") < 37, "some examples must be robust and some broken"
    assert found == json.loads(GOLDEN.read_text())[f"{norm} {eps}"]
