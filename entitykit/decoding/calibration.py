"""Probabilities of candidates that mean what they say: a temperature and, for mentions of nothing known, a score of NIL.

Temperature scaling is from Guo et al. (ICML 2017); the score of NIL is a candidate that every mention has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BOUNDS = (0.02, 50.0)  # of the factor, so that examples without a mistake give no infinite one
_STEPS = 100


class Calibration(NamedTuple):
    """How scores become probabilities.

    Attributes:
        temperature: scores are divided by it.
        nil: score of NIL, which is not divided; none: NIL has no probability.
    """

    temperature: float = 1.0
    nil: float | None = None


def probabilities(scores: NDArray[np.floating], calibration: Calibration) -> tuple[Floats, float]:
    """Probabilities of a mention's candidates.

    Args:
        scores: *(n_candidates,)*.
        calibration: from `fit_calibration`.

    Returns:
        *(n_candidates,)* and that of NIL; they sum to 1. Without candidates, NIL has 1.
    """
    if not len(scores):
        return np.zeros(0), 1.0
    nil = -np.inf if calibration.nil is None else calibration.nil
    logits = np.append(np.asarray(scores, dtype=np.float64) / calibration.temperature, nil)
    exponents = np.exp(logits - logits.max())
    exponents /= exponents.sum()
    return exponents[:-1], float(exponents[-1])


def fit_calibration(scores: Sequence[NDArray[np.floating]], gold: Sequence[int]) -> Calibration:
    """Find the temperature and the score of NIL under which the gold answers are most probable.

    The loss is convex in the factor 1 / temperature and the score of NIL, and is minimised by Newton's method.

    Args:
        scores: of each mention its candidates' *(n_candidates,)*.
        gold: number of the right candidate; -1 for NIL, which is also right if the right entity is no candidate.

    Returns:
        Without a mention that is NIL, no score of NIL; without candidates, the calibration that changes nothing.
    """
    pairs = [(np.asarray(s, dtype=np.float64), g) for s, g in zip(scores, gold, strict=True) if len(s)]
    if not pairs:
        return Calibration()
    has_nil = any(g < 0 for _, g in pairs)
    if not has_nil and all(np.ptp(s) == 0 for s, _ in pairs):
        return Calibration()
    table = np.full((len(pairs), max(len(s) for s, _ in pairs) + 1), -np.inf)
    for i, (own, _) in enumerate(pairs):
        table[i, 1 : len(own) + 1] = own
    targets = np.array([g + 1 for _, g in pairs])  # column 0 is NIL
    point = np.array([1.0, float(np.median([s.max() for s, _ in pairs])) - 1.0 if has_nil else 0.0])
    loss, step = _newton(table, targets, point, has_nil)
    for _ in range(_STEPS):
        size = 1.0
        while size > 1e-8:
            new = np.array([np.clip(point[0] - size * step[0], *_BOUNDS), point[1] - size * step[1]])
            new_loss, new_step = _newton(table, targets, new, has_nil)
            if new_loss <= loss:
                break
            size /= 2
        if size <= 1e-8 or np.abs(new - point).max() < 1e-9:
            break
        point, loss, step = new, new_loss, new_step
    return Calibration(float(1 / point[0]), float(point[1]) if has_nil else None)


def _newton(table: Floats, targets: NDArray[np.int64], point: Floats, has_nil: bool) -> tuple[float, Floats]:
    """Mean loss at a point (factor, score of NIL), and Newton's step, a little damped."""
    logits = np.where(np.isfinite(table), point[0] * table, -np.inf)
    logits[:, 0] = point[1] if has_nil else -np.inf
    highest = logits.max(axis=1, keepdims=True)
    log_p = logits - highest - np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    n = np.arange(len(table))
    own = np.where(np.isfinite(table), table, 0.0)  # NIL's derivative by the factor is 0
    mean = (p * own).sum(axis=1)
    is_nil = targets == 0
    gradient = np.array([(mean - own[n, targets]).mean(), (p[:, 0] - is_nil).mean()])
    spread, mixed = ((p * own**2).sum(axis=1) - mean**2).mean(), (-p[:, 0] * mean).mean()
    hessian = np.array([[spread, mixed], [mixed, (p[:, 0] * (1 - p[:, 0])).mean()]]) + 1e-6 * np.eye(2)
    if not has_nil:
        gradient[1], hessian[0, 1], hessian[1, 0] = 0.0, 0.0, 0.0
    return float(-log_p[n, targets].mean()), np.linalg.solve(hessian, gradient)
