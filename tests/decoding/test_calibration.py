"""Probabilities of candidates, against a search over a grid."""

from __future__ import annotations

import numpy as np
import pytest

from entitykit.decoding.calibration import Calibration, fit_calibration, probabilities


def make(n: int, temperature: float, nil: float | None, seed: int = 0) -> tuple[list[np.ndarray], list[int]]:
    """Scores, and answers drawn with the probabilities that they have under a calibration."""
    rng = np.random.default_rng(seed)
    scores, gold = [], []
    for _ in range(n):
        own = rng.normal(0, 3, rng.integers(1, 8))
        p, p_nil = probabilities(own, Calibration(temperature, nil))
        drawn = int(rng.choice(len(own) + 1, p=np.append(p, p_nil)))
        scores.append(own)
        gold.append(-1 if drawn == len(own) else drawn)
    return scores, gold


def mean_loss(scores: list[np.ndarray], gold: list[int], calibration: Calibration) -> float:
    found = [probabilities(own, calibration) for own in scores]
    return -float(np.mean([np.log(nil if g < 0 else p[g]) for (p, nil), g in zip(found, gold, strict=True)]))


@pytest.mark.parametrize(("temperature", "nil"), [(0.5, None), (2.0, None), (1.5, 0.7), (0.4, -2.0)])
def test_finds_what_the_answers_were_drawn_with(temperature: float, nil: float | None) -> None:
    scores, gold = make(4000, temperature, nil)
    found = fit_calibration(scores, gold)
    assert found.temperature == pytest.approx(temperature, rel=0.15)
    assert found.nil == (None if nil is None else pytest.approx(nil, abs=0.3))


@pytest.mark.parametrize("nil", [None, 0.5])
def test_nothing_near_is_better(nil: float | None) -> None:
    scores, gold = make(200, 0.8, nil, seed=1)
    best = fit_calibration(scores, gold)
    for factor in (0.9, 0.99, 1.01, 1.1):
        others = [best._replace(temperature=best.temperature * factor)]
        others += [] if best.nil is None else [best._replace(nil=best.nil + factor - 1)]
        for other in others:
            assert mean_loss(scores, gold, other) >= mean_loss(scores, gold, best) - 1e-9


def test_probabilities_sum_to_one() -> None:
    p, nil = probabilities(np.array([1000.0, -1000.0, 999.0]), Calibration(2.0, 3.0))
    assert p.sum() + nil == pytest.approx(1)
    assert probabilities(np.zeros(0), Calibration())[1] == 1


def test_little_to_learn_from() -> None:
    """Nothing at all, one candidate only, no mistake, or NIL only: a finite calibration each time."""
    assert fit_calibration([], []) == Calibration()
    assert fit_calibration([np.array([1.0])], [0]) == Calibration()
    assert 0 < fit_calibration([np.array([5.0, 1.0])] * 3, [0, 0, 0]).temperature < 1
    found = fit_calibration([np.array([5.0, 1.0])] * 3, [-1, -1, -1])
    assert np.isfinite([found.temperature, found.nil]).all()
    assert probabilities(np.array([5.0, 1.0]), found)[1] > 0.9
