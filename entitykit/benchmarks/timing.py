"""Timing several things in turn, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from entitykit.benchmarks.parts import Figure, progress

Seconds = Sequence[float]


def in_turn(sides: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Time each side once per round, A B A B and so on.

    Args:
        sides: by name.
        rounds: how often.
        warm_up: run each side once before, untimed.

    Returns:
        Seconds of each side in each round.
    """
    if warm_up:
        for side in sides.values():
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
        progress(f"round {number} of {rounds}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items()))
    return seconds


def rate(amount: float, seconds: Seconds) -> Figure:
    """An amount per second: the median over the rounds, and the range."""
    return median([amount / each for each in seconds])


def ratio(above: Seconds, below: Seconds) -> Figure:
    """How many times longer `above` takes than `below`: the median of the rounds' ratios, and the range."""
    return median([a / b for a, b in zip(above, below, strict=True)])


def median(values: Sequence[float]) -> Figure:
    """The median of several rounds, and their range."""
    return Figure(statistics.median(values), min(values), max(values))
