"""Timing of calls: warm-up, number of repetitions, and synchronisation with the GPU."""

from __future__ import annotations

import pytest
import torch

from robust_eval.models.acceleration import timing

CPU = torch.device("cpu")


class Clock:
    """A clock that only advances in calls: by ``first`` seconds in the first, then by those of ``rest``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: float, rest: list[float]) -> None:
        self.now, self.durations, self.calls = 0.0, [first, *rest], 0
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self) -> None:
        self.now += self.durations[min(self.calls, len(self.durations) - 1)]
        self.calls += 1


def test_the_fastest_call_after_the_first_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.001, [0.5, 0.2, 0.4])
    assert timing.fastest_call(clock.call, CPU) == pytest.approx(0.2)
    assert clock.calls == 4


def test_short_calls_are_repeated_until_the_time_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.1, [0.1])
    assert timing.fastest_call(clock.call, CPU, calls=(3, 15), max_seconds=0.75) == pytest.approx(0.1)
    assert clock.calls == 1 + 8
    clock = Clock(monkeypatch, 0.01, [0.01])
    timing.fastest_call(clock.call, CPU, calls=(3, 15), max_seconds=0.75)
    assert clock.calls == 1 + 15


def test_a_gpu_is_synchronised_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))
    timing.time_call(lambda: events.append("call"), torch.device("cuda:0"))
    assert events == ["cuda:0", "call", "cuda:0"]
