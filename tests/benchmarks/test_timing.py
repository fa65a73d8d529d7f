from __future__ import annotations

import time

import pytest

from entitykit.benchmarks.timing import in_turn, median, rate, ratio


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that tests set."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_sides_run_in_turn_after_a_warm_up(clock: list[float]) -> None:
    calls = []

    def side(name: str, seconds: float) -> None:
        calls.append(name)
        clock[0] += seconds * len(calls)

    seconds = in_turn({"a": lambda: side("a", 1.0), "b": lambda: side("b", 10.0)}, rounds=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert seconds == {"a": [3.0, 5.0], "b": [40.0, 60.0]}


def test_without_warm_up_the_first_call_is_timed(clock: list[float]) -> None:
    calls = []
    assert in_turn({"a": lambda: calls.append(1)}, rounds=1, warm_up=False) == {"a": [0.0]}
    assert len(calls) == 1


def test_a_ratio_is_taken_within_each_round() -> None:
    """The ratio of the medians would be 2, that of round by round is 4."""
    assert ratio([4.0, 100.0, 8.0], [1.0, 4.0, 2.0]) == (4.0, 4.0, 25.0)


def test_rate_is_an_amount_per_second() -> None:
    assert rate(12, [1.0, 2.0, 3.0]) == (6.0, 4.0, 12.0)


def test_median_of_an_even_number() -> None:
    assert median([4.0, 1.0]) == (2.5, 1.0, 4.0)
