"""Claims recorded in checkpoints of this project and of others."""

from __future__ import annotations

from typing import Any

import pytest

from robust_eval.results.checkpoint_claims import Claim, clean_claim, selected

HELD_OUT = {"recipe": {"selection": {"validation": 1000, "test_images": 500}}}


@pytest.mark.parametrize(
    ("trained_with", "name", "expected"),
    [
        (None, "best.pt", "unknown"),
        ({}, "best.pt", "unknown"),
        ({"provenance": {"selected": "test"}}, "x.pt", "test"),
        ({"provenance": {"selected": "last"}, **HELD_OUT}, "best.pt", "last"),
        ({"provenance": {"selected": "luck"}}, "x.pt", "unknown"),
        ({"file_says": {"test_robust_acc": 0.53}}, "model_best.pth", "test"),
        ({"file_says": {"epoch": 3}}, "model_best.pth", "unknown"),
        (HELD_OUT, "best.pt", "validation"),
        (HELD_OUT, "last.pt", "last"),
        (HELD_OUT, "renamed.pt", "unknown"),
        ({"recipe": {"selection": {"validation": 0}}}, "best.pt", "last"),
        ({"recipe": "at", "provenance": 3}, "best.pt", "unknown"),
    ],
)
def test_selected(trained_with: dict[str, Any] | None, name: str, expected: str) -> None:
    assert selected(trained_with, name) == expected


@pytest.mark.parametrize(
    ("trained_with", "expected"),
    [
        (None, None),
        ({"metrics": {"val_clean": 0.9, "test_clean": 0.8}, **HELD_OUT}, Claim(0.8, 500, True)),
        ({"metrics": {"val_clean": 0.9}, **HELD_OUT}, Claim(0.9, 1000, False)),
        ({"metrics": {"test_clean": 0.8}}, Claim(0.8, None, True)),
        ({"file_says": {"test_acc": 85.2}}, Claim(0.852, None, True)),
        ({"file_says": {"clean_acc": 0.852}}, Claim(0.852, None, True)),
        ({"file_says": {"test_acc": True}}, None),
        ({"file_says": {"test_acc": -1}}, None),
        ({"file_says": {"test_acc": "85"}}, None),
        ({"metrics": "good"}, None),
    ],
)
def test_clean_claim(trained_with: dict[str, Any] | None, expected: Claim | None) -> None:
    assert clean_claim(trained_with) == expected
