"""The search for the two thresholds by which clusters merge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

DEFAULT = 0.5
"""Of both thresholds, where neither the config nor a calibration says another."""


def best_thresholds(
    measure: Callable[[float, float], float], tried: Sequence[float], given: tuple[float | None, float | None]
) -> tuple[float, float]:
    """Look for the thresholds with the highest measure, one of the two at a time, until neither gets better.

    Args:
        measure: of a threshold and a least mean.
        tried: values of each; of the mean 0, too.
        given: values that are fixed; none: to be looked for.

    Returns:
        The threshold and the least mean; of several that are equally good those nearest to `DEFAULT`.
    """
    one, mean = given
    ones = tried if one is None else [one]
    means = [0.0, *tried] if mean is None else [mean]

    @cache
    def ranked(threshold: float, least: float) -> tuple[float, float, float, float]:
        far = abs(threshold - DEFAULT) + abs(least - DEFAULT)
        return measure(threshold, least), -round(far, 6), threshold, least

    start = [(each, each) for each in tried] if one is None and mean is None else [(a, b) for a in ones for b in means]
    before, best = None, max(ranked(*each) for each in start)
    while best != before:
        before = best
        best = max(best, *(ranked(best[2], least) for least in means))
        best = max(best, *(ranked(threshold, best[3]) for threshold in ones))
    return best[2], best[3]
