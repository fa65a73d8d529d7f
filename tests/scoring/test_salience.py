"""Salience by hand and against scikit-learn."""

from __future__ import annotations

from itertools import pairwise, permutations
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from entitykit.errors import InputError
from entitykit.scoring.salience import average_precision, ndcg, roc_auc, score_salience
from entitykit.scoring.spans import PRF

GRADES = [3.0, 0.0, 2.0, 1.0]
SCORES = [0.6, 0.9, 0.5, 0.1]  # ranks 2, 1, 3, 4


def test_binary_by_hand() -> None:
    scores = score_salience([GRADES, [0.0, 2.0]], [SCORES, [0.4, 0.3]], salient=2.0)
    # salient: 1st and 3rd, and the 2nd of the other; predicted: the first three
    assert scores.micro == PRF(2 / 3, 2 / 3, pytest.approx(2 / 3), 3)
    # of 3 · 3 pairs: 0.6 beats 0.1 and 0.4, 0.5 beats 0.1 and 0.4, 0.3 beats 0.1
    assert scores.auc == pytest.approx(5 / 9)
    # precision at ranks 2 and 3 of the first, at rank 2 of the second
    assert scores.map == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1 / 2) / 2)


def test_graded_by_hand() -> None:
    scores = score_salience([GRADES, [0.0, 0.0]], [SCORES, [1.0, 0.0]], at=(1, 2))
    best = 3 + 2 / log2(3) + 1 / 2
    assert scores.ndcg == {
        1: 0.0,
        2: pytest.approx((3 / log2(3)) / (3 + 2 / log2(3))),
        0: pytest.approx((3 / log2(3) + 2 / 2 + 1 / log2(5)) / best),
    }


def test_equal_scores_share_their_ranks() -> None:
    assert ndcg(np.array([1.0, 0.0]), np.array([0.5, 0.5]), 0) == pytest.approx((1 + 1 / log2(3)) / 2)
    assert roc_auc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5


def test_equal_scores_share_their_precision() -> None:
    """In whatever order gold lists them."""
    tied = np.full(4, 0.5)
    found = [average_precision(np.array(each), tied) for each in ([True, True, False, False], [False, False, True, True])]
    assert found[0] == found[1]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), min_size=1, max_size=6))
def test_average_precision_is_the_mean_over_orders(pairs: list[tuple[bool, int]]) -> None:
    """Against trying all of them, each equally likely."""
    is_salient, scores = np.array([pair[0] for pair in pairs]), np.array([float(pair[1]) for pair in pairs])
    if not is_salient.any():
        return
    found = []
    for order in permutations(range(len(pairs))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            ranked = is_salient[list(order)]
            found.append((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].mean())
    assert average_precision(is_salient, scores) == pytest.approx(np.mean(found))


@pytest.mark.parametrize("grades", [[1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
def test_nothing_found_gains_nothing(grades: list[float]) -> None:
    scores = score_salience([grades], [[0.0] * len(grades)], threshold=0.0)
    assert scores.micro == PRF(0.0, 0.0, 0.0, int(sum(grades)))
    assert (scores.map, set(scores.ndcg.values())) == (0.0, {0.0})


def test_what_was_not_found_has_no_rank() -> None:
    """Whatever its grade, and wherever gold lists it."""
    for grades, found in (([2.0, 3.0, 1.0], [0.7, 0.0, 0.6]), ([3.0, 2.0, 1.0], [0.0, 0.7, 0.6])):
        scores = score_salience([grades], [found], at=(3,))
        gain, best = 2 + 1 / log2(3), 3 + 2 / log2(3) + 1 / 2
        assert scores.ndcg == {3: pytest.approx(gain / best), 0: pytest.approx(gain / best)}
        assert scores.map == pytest.approx(2 / 3)


def test_nothing_to_score() -> None:
    scores = score_salience([], [])
    assert (scores.micro, scores.auc, scores.map) == (PRF(0.0, 0.0, 0.0, 0), None, None)
    assert set(scores.ndcg.values()) == {None}
    one_kind = score_salience([[1.0], []], [[0.2], []])
    assert (one_kind.auc, one_kind.map, one_kind.ndcg[1]) == (None, 1.0, 1.0)


VALUES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=2, max_size=12)


@settings(max_examples=30)
@given(VALUES, st.integers(0, 12))
def test_equal_to_scikit_learn(pairs: list[tuple[int, int]], k: int) -> None:
    grades, scores = np.array(pairs, dtype=float).T
    if grades.any():
        assert ndcg(grades, scores, k) == pytest.approx(ndcg_score(grades[None], scores[None], k=k or None))
    is_salient = grades >= 2
    if 0 < is_salient.sum() < len(grades):
        assert roc_auc(is_salient, scores) == pytest.approx(roc_auc_score(is_salient, scores))
        ranked = -np.argsort(np.argsort(-scores, kind="stable")).astype(float)  # without ties
        assert average_precision(is_salient, ranked) == pytest.approx(average_precision_score(is_salient, ranked))


@pytest.mark.parametrize(
    ("grades", "scores", "found"),
    [
        ([1.0], [0.1, 0.2], "found 2 scores; expected 1, one per entity"),
        ([1.0], [float("nan")], "found a score that is not finite"),
        ([1.0], [-0.5], "found scores from -0.5"),
        ([-1.0], [0.0], "found grades from -1.0 to -1.0"),
        ([float("inf")], [0.0], "found grades from inf to inf"),
    ],
)
def test_wrong_values(grades: list[float], scores: list[float], found: str) -> None:
    with pytest.raises(InputError, match=rf"\[E335\] .*{found}"):
        score_salience([grades], [scores])


def test_documents_must_pair_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        score_salience([[1.0]], [])
