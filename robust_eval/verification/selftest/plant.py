"""A planted model that is built on a network, and the flags that a run on it must raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

DEFENSE, DECEPTION = "defense", "deception"
Build = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Plant:
    """A planted model."""

    group: str
    """``defense``: published as a defense; ``deception``: built to deceive the evaluator, or by mistake."""
    name: str
    source: str
    """Paper or implementation; a dash for none."""
    build: Build
    """A new model, built on a network that is not changed."""
    expected: frozenset[str]
    """Flags that a run must raise."""
    allowed: frozenset[str]
    """Further flags that it may raise."""
    slow: bool = False
    """Takes longer than the other cases of the self-test, which leaves it out."""


CONSEQUENCES = frozenset(
    {
        "attack-without-effect",
        "batch-dependent",
        "budget-unused",
        "changed-during-run",
        "discontinuous",
        "fresh-model-disagrees",
        "misleading-gradients",
        "no-gradients",
        "pgd-far-above-autoattack",
        "remembers-images",
        "vanishing-gradients",
        "weaker-beats-stronger",
    }
)
"""Further flags that any planted model may raise."""


def make_plant(
    group: str, name: str, source: str, build: Build, expected: str = "", also: str = "", slow: bool = False
) -> Plant:
    """``expected`` and ``also``: ids of flags, separated by spaces."""
    allowed = CONSEQUENCES.union(also.split())
    return Plant(group, name, source, build, frozenset(expected.split()), allowed, slow)
