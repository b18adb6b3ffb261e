"""Calls are timed as often as it takes, after one that warms up, with the device's queue in the figure."""

from __future__ import annotations

import pytest
import torch

from robust_eval.models.acceleration import timing

CPU = torch.device("cpu")


class Clock:
    """Time that passes in calls alone: the first takes ``first`` seconds, the others those of ``rest``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: float, rest: list[float]) -> None:
        self.now, self.takes, self.calls = 0.0, [first, *rest], 0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self) -> None:
        self.now += self.takes[min(self.calls, len(self.takes) - 1)]
        self.calls += 1


def test_the_fastest_call_counts_and_the_first_never(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.001, [0.5, 0.2, 0.4])
    assert timing.fastest_call(clock.call, CPU) == pytest.approx(0.2)
    assert clock.calls == 4


def test_short_calls_are_repeated_until_they_have_taken_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.1, [0.1])
    assert timing.fastest_call(clock.call, CPU, calls=(3, 15), within=0.75) == pytest.approx(0.1)
    assert clock.calls == 1 + 8
    clock = Clock(monkeypatch, 0.01, [0.01])
    timing.fastest_call(clock.call, CPU, calls=(3, 15), within=0.75)
    assert clock.calls == 1 + 15


def test_a_gpu_is_waited_for_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: said.append(str(device)))
    timing.time_call(lambda: said.append("call"), torch.device("cuda:0"))
    assert said == ["cuda:0", "call", "cuda:0"]
