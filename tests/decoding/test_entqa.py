"""Answers of passages: their union, and the choice among those that overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.decoding.entqa import Answer, Answers, choose_answers, find_answers, join_answers
from entitykit.decoding.spans import DECODERS

Row = tuple[int, int, int, float]


def answers(rows: list[Row]) -> Answers:
    columns = list(zip(*rows, strict=True)) or [()] * 4
    starts, ends, entities = (np.array(column, dtype=np.int64) for column in columns[:3])
    return Answers(starts, ends, entities, np.array(columns[3], dtype=np.float64))


def rows(found: Answers) -> list[Row]:
    return list(zip(*(column.tolist() for column in found), strict=True))


row = st.builds(
    lambda start, width, entity, score: (start, start + width, entity, score),
    st.integers(0, 12),
    st.integers(1, 4),
    st.integers(0, 5),
    st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9, 1.0]),
)
passages = st.lists(st.lists(row, max_size=6), max_size=5)


@given(passages)
def test_union(parts: list[list[Row]]) -> None:
    """The best score of each span and entity, however they are spread over passages."""
    best: dict[tuple[int, int, int], float] = {}
    for *key, score in (each for part in parts for each in part):
        best[key[0], key[1], key[2]] = max(score, best.get((key[0], key[1], key[2]), 0.0))
    found = rows(join_answers([answers(part) for part in parts]))
    assert found == [(*key, score) for key, score in sorted(best.items())]
    assert rows(join_answers([join_answers([answers(part)]) for part in parts[::-1]])) == found


@given(passages)
def test_choice(parts: list[list[Row]]) -> None:
    """No overlaps; who was passed over overlaps a better one; nothing that a span may name is lost."""
    joined = join_answers([answers(part) for part in parts])
    chosen = choose_answers(joined, DECODERS["greedy"])
    assert [each[:2] for each in chosen] == sorted(each[:2] for each in chosen)
    assert all(a.end <= b.start for a, b in pairwise(chosen))
    scores = {(each.start, each.end): each.entities[0][1] for each in chosen}
    for start, end, entity, score in rows(joined):
        if (start, end) in scores:
            own = next(each.entities for each in chosen if each[:2] == (start, end))
            assert (entity, score) in own
            assert own == sorted(own, key=lambda pair: (-pair[1], pair[0]))
        else:
            assert any(a < end and start < b and p >= score for (a, b), p in scores.items())


def test_nested_in_a_group() -> None:
    found = choose_answers(answers([(0, 5, 7, 0.5), (3, 5, 8, 0.9), (3, 5, 9, 0.1), (4, 6, 7, 0.2)]), DECODERS["greedy_nested"])
    assert found == [Answer(0, 5, [(7, 0.5)]), Answer(3, 5, [(8, 0.9), (9, 0.1)])]


def logits(*probabilities: float) -> list[float]:
    return np.log(np.array(probabilities) + 1e-30).tolist()


def test_several_mentions_of_an_entity() -> None:
    """As many as are asked for, the best first, and never two that overlap."""
    starts = np.array([logits(0.02, 0.3, 0.01, 0.3, 0.27, 0.1)])
    ends = np.array([logits(0.02, 0.3, 0.01, 0.2, 0.37, 0.1)])
    options = {"max_words": 1, "threshold": 0.0}
    found = find_answers(starts, ends, np.zeros(1), n_best=3, **options)
    assert [each[:2] for each in rows(found)] == [(0, 1), (2, 3), (3, 4)]
    assert [each[:2] for each in rows(find_answers(starts, ends, np.zeros(1), n_best=1, **options))] == [(3, 4)]
    wide = find_answers(starts, ends, np.zeros(1), n_best=9, max_words=5, threshold=0.0)
    spans = sorted(each[:2] for each in rows(wide))
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


def test_null_answer() -> None:
    """An entity whose best span is less probable than no span has none."""
    starts = np.array([logits(0.6, 0.4), logits(0.4, 0.6)])
    found = rows(find_answers(starts, starts, np.zeros(2), max_words=3, n_best=3, threshold=0.0))
    assert found == [(0, 1, 1, pytest.approx(0.5 * 0.6 * 0.6))]
    assert not rows(find_answers(starts, starts, np.zeros(2), max_words=3, n_best=3, threshold=0.19))


@pytest.mark.parametrize("shape", [(0, 4), (2, 1), (0, 1)], ids=str)
def test_nothing_to_answer(shape: tuple[int, int]) -> None:
    nothing = find_answers(np.zeros(shape), np.zeros(shape), np.zeros(shape[0]), max_words=3, n_best=3, threshold=0.0)
    assert rows(nothing) == []
    assert choose_answers(join_answers([nothing]), DECODERS["greedy"]) == []


def test_words_that_may_not_start_or_end() -> None:
    starts = np.zeros((1, 3))
    starts[:, 0] = -5
    starts[:, 1:] = [1.0, -np.inf]
    ends = np.zeros((1, 3))
    ends[:, 0] = -5
    ends[:, 1:] = [-np.inf, 1.0]
    assert [each[:2] for each in rows(find_answers(starts, ends, np.zeros(1), max_words=3, n_best=3, threshold=0.0))] == [
        (0, 2)
    ]
    assert not rows(find_answers(starts, ends, np.zeros(1), max_words=1, n_best=3, threshold=0.0))
