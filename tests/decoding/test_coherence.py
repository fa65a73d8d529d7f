"""Mentions that are decided together, against a plain search in the same order and against independent decisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.decoding.calibration import Calibration, probabilities
from entitykit.decoding.coherence import decide_together


def plain(
    scores: list[Any], entities: list[Any], vectors: Any, calibration: Calibration, weight: float, threshold: float
) -> tuple[list[int], list[int]]:
    """The order of decisions, and what was chosen for each mention, -1 for NIL; cosines one by one, nothing kept."""

    def cosine(a: int, b: int) -> float:
        return float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]))

    def look(i: int, decided: list[int]) -> tuple[float, int]:
        near = [np.mean([cosine(each, other) for other in decided] or [0.0]) for each in entities[i]]
        p, nil = probabilities(scores[i] + weight * np.array(near), calibration)
        return (float(p.max()), int(entities[i][p.argmax()])) if p.max() >= max(threshold, nil) else (-1.0, -1)

    def content(i: int) -> tuple[list[int], list[float]]:
        """What decides between equals."""
        ordered = np.argsort(entities[i])
        return entities[i][ordered].tolist(), scores[i][ordered].tolist()

    order: list[int] = []
    chosen = [-1] * len(scores)
    while True:
        decided = list(dict.fromkeys(chosen[i] for i in order))
        waiting = [(i, look(i, decided)) for i in range(len(scores)) if i not in order and len(scores[i])]
        waiting = [(i, seen) for i, seen in waiting if seen[1] >= 0]
        if not waiting:
            return order, chosen
        best, (_, chosen[best]) = min(waiting, key=lambda each: (-each[1][0], *content(each[0])))
        order.append(best)


def draw(seed: int, n_mentions: int, *, n_entities: int = 9, width: int = 4) -> tuple[list[Any], list[Any], Any]:
    rng = np.random.default_rng(seed)
    entities = [rng.permutation(n_entities)[: rng.integers(0, 5)] for _ in range(n_mentions)]
    return [rng.normal(0, 2, len(own)) for own in entities], entities, rng.normal(size=(n_entities, width))


def choices(found: Any, scores: list[Any], entities: list[Any], weight: float) -> list[int]:
    """What mentions that link are linked to, when their coherence is added to their scores."""
    best = [-1] * len(scores)
    for i in found.order:
        best[i] = int(entities[i][(scores[i] + weight * found.coherence[i]).argmax()])
    return best


some = st.integers(0, 10**6)
calibrations = st.sampled_from([Calibration(), Calibration(0.5, None), Calibration(2.0, 0.4)])


@settings(max_examples=60, deadline=None)
@given(seed=some, n=st.integers(0, 6), calibration=calibrations, threshold=st.sampled_from([0.0, 0.5]))
def test_equals_a_plain_search(seed: int, n: int, calibration: Calibration, threshold: float) -> None:
    scores, entities, vectors = draw(seed, n)
    found = decide_together(scores, entities, vectors, calibration, weight=3.0, threshold=threshold)
    order, chosen = plain(scores, entities, vectors, calibration, 3.0, threshold)
    assert found.order == order
    assert choices(found, scores, entities, 3.0) == chosen


@settings(max_examples=40, deadline=None)
@given(seed=some, n=st.integers(0, 6), calibration=calibrations, threshold=st.sampled_from([0.0, 0.5]))
def test_without_weight_each_decides_by_itself(seed: int, n: int, calibration: Calibration, threshold: float) -> None:
    scores, entities, vectors = draw(seed, n)
    found = decide_together(scores, entities, vectors, calibration, weight=0.0, threshold=threshold)
    assert not any(own.any() for own in found.coherence)
    alone = [probabilities(own, calibration) for own in scores]
    links = {i for i, (p, nil) in enumerate(alone) if len(p) and p.max() >= max(threshold, nil)}
    assert set(found.order) == links
    confidence = [alone[i][0].max() for i in found.order]
    assert confidence == sorted(confidence, reverse=True)


@settings(max_examples=60, deadline=None)
@given(seed=some, n=st.integers(2, 6), ties=st.booleans(), data=st.data())
def test_the_order_of_mentions_does_not_matter(seed: int, n: int, ties: bool, data: st.DataObject) -> None:
    """Also where several are equally confident, or the same."""
    scores, entities, vectors = draw(seed, n)
    if ties:
        scores = [np.round(own / 3) for own in scores]
    order = data.draw(st.permutations(range(n)))
    first = decide_together(scores, entities, vectors, Calibration(), weight=2.0, threshold=0.3)
    second = decide_together(
        [scores[i] for i in order], [entities[i] for i in order], vectors, Calibration(), weight=2.0, threshold=0.3
    )
    for new, old in enumerate(order):
        np.testing.assert_allclose(second.coherence[new], first.coherence[old], rtol=0, atol=1e-12)
    if not ties:
        assert [order[i] for i in second.order] == first.order


def test_the_confident_one_speaks_for_its_kind() -> None:
    """A city that is certain makes the namesake of its country probable; a ship is what it would have been alone."""
    city, ship, country, sailor = np.eye(4)[0], np.eye(4)[1], np.array([0.9, 0, 0.4, 0]), np.eye(4)[3]
    vectors = np.stack([city, ship, country, sailor])
    scores = [np.array([1.0, 0.8]), np.array([9.0])]
    entities = [np.array([1, 0]), np.array([2])]
    alone = decide_together(scores, entities, vectors, Calibration(), weight=0.0, threshold=0.0)
    assert choices(alone, scores, entities, 0.0) == [1, 2]
    together = decide_together(scores, entities, vectors, Calibration(), weight=1.0, threshold=0.0)
    assert together.order == [1, 0]
    assert choices(together, scores, entities, 1.0) == [0, 2]
    assert together.coherence[0] == pytest.approx([0.0, 0.9 / np.hypot(0.9, 0.4)])


def test_nil_says_nothing_and_may_be_saved() -> None:
    """What is NIL by itself links once a decided entity speaks for it; what stays NIL is heard by nobody."""
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    scores = [np.array([-1.0]), np.array([3.0]), np.array([-2.0]), np.zeros(0)]
    entities = [np.array([0]), np.array([1]), np.array([2]), np.zeros(0, dtype=np.int64)]
    found = decide_together(scores, entities, vectors, Calibration(1.0, 0.0), weight=2.0, threshold=0.0)
    assert found.order == [1, 0]
    assert [own.tolist() for own in found.coherence] == [[1.0], [0.0], [0.0], []]


def test_an_entity_counts_once_and_vectors_may_be_zero() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    scores = [np.array([9.0]), np.array([8.0]), np.array([7.0]), np.array([1.0, 0.0])]
    entities = [np.array([0]), np.array([0]), np.array([1]), np.array([0, 2])]
    found = decide_together(scores, entities, vectors, Calibration(1.0, -9.0), weight=1.0, threshold=0.0)
    assert found.order == [0, 1, 2, 3]
    assert found.coherence[3].tolist() == [0.5, 0.0]
    assert decide_together([], [], np.zeros((0, 2)), Calibration(), weight=1.0, threshold=0.0).order == []


def test_mentions_that_are_the_same_are_one_decision() -> None:
    """Neither is heard by the other, whichever comes first."""
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    scores = [np.array([1.0, 0.5]), np.array([0.2, 0.1]), np.array([0.5, 1.0])]
    entities = [np.array([0, 1]), np.array([0, 1]), np.array([1, 0])]
    found = decide_together(scores, entities, vectors, Calibration(), weight=1.0, threshold=0.0)
    assert found.order == [0, 2, 1]
    assert [own.tolist() for own in found.coherence] == [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
