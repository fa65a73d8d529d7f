"""The scorer of salience by hand: which predicted entity is which, what is not found, and what is found besides."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import InputError
from entitykit.scoring.salience import best_threshold, score_salience
from entitykit.scoring.salience_documents import Compared, compare_entities, make_salience_scorer, match, rated_entities

VOCAB = spacy.blank("xx").vocab
WORDS = ["Ada", "met", "Lord", "Byron", ".", "Byron", "left"]


@pytest.fixture(autouse=True)
def _extension() -> Any:
    if not Doc.has_extension("salience"):
        Doc.set_extension("salience", default=None)


def example(gold: list[Any] | None, predicted: list[Any] | None, *, words: list[str] = WORDS) -> Example:
    reference, doc = Doc(VOCAB, words=WORDS), Doc(VOCAB, words=words)
    if gold is not None:
        reference.user_data["salience"] = [{"mentions": mentions, "score": grade} for mentions, grade in gold]
    doc._.salience = None if predicted is None else [{"mentions": mentions, "score": score} for mentions, score in predicted]
    return Example(doc, reference)


BYRON, ADA, LEFT = [[2, 4], [5, 6]], [[0, 1]], [[6, 7]]


def test_by_hand() -> None:
    """Byron by his name alone, somebody else whom gold does not know, and nobody for what left."""
    eg = example([(BYRON, 3), (ADA, 1), (LEFT, 2)], [([[3, 4], [5, 6]], 0.9), ([[1, 2]], 0.6), (ADA, 0.2)])
    assert compare_entities(eg) == Compared([3, 1, 2, 0], [0.9, 0.2, 0.0, 0.6], 3, 2)
    scores = make_salience_scorer()([eg], salient=2.0, threshold=0.5)
    assert (scores["salience_p"], scores["salience_r"], scores["salience_f"]) == (0.5, 0.5, 0.5)
    assert scores["salience_auc"] == 0.5  # 0.9 beats both others, 0.0 none
    assert scores["salience_found"] == pytest.approx(2 / 3)
    assert scores["salience_ndcg_at_1"] == 1


def test_other_words() -> None:
    words = ["Ada", "met", "LordByron", ".", "Byron", "left"]
    eg = Example(Doc(VOCAB, words=words), Doc(VOCAB, words=WORDS))
    eg.reference.user_data["salience"] = [{"mentions": BYRON, "score": 1}]
    eg.predicted._.salience = [{"mentions": [[2, 3], [4, 5]], "score": 0.7}, {"mentions": [[0, 1]], "score": 0.1}]
    assert compare_entities(eg) == Compared([1, 0], [0.7, 0.1], 1, 1)


def test_nothing_to_score() -> None:
    scores = make_salience_scorer()([example(None, [(ADA, 0.5)])])
    assert set(scores.values()) == {None}
    scores = make_salience_scorer()([example([], None), example([(ADA, 1)], None)])
    assert (scores["salience_r"], scores["salience_found"]) == (0.0, 0.0)
    assert (scores["salience_map"], scores["salience_ndcg"], scores["salience_ndcg_at_1"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "value",
    [
        {"score": 1},
        {"score": -1, "mentions": []},
        {"score": "1", "mentions": []},
        {"score": 1, "mentions": [[0]]},
        {"score": 1, "mentions": [[3, 3]]},
        {"score": 1, "mentions": [[6, 8]]},
        {"score": 1, "mentions": 5},
        {"score": 1, "group": "nobody"},
        "Ada",
    ],
    ids=str,
)
def test_ratings_that_cannot_be_read(value: object) -> None:
    with pytest.raises(InputError, match=r"E620.*7 words"):
        rated_entities(Doc(VOCAB, words=WORDS), [value])


def test_ratings_by_group() -> None:
    doc = Doc(VOCAB, words=WORDS)
    doc.spans["entity_1"] = [doc[2:4], doc[4:4], doc[5:6]]  # the empty one is left out
    doc.spans["entity_2"] = []
    found = rated_entities(doc, [{"score": 2, "group": "entity_1", "id": 7}, {"score": 0.5, "group": "entity_2"}])
    assert found == [(2.0, [(2, 4), (5, 6)]), (0.5, [])]
    assert rated_entities(doc, ({"score": 1, "mentions": ((0, 1),)},)) == [(1.0, [(0, 1)])]  # as a DocBin gives them
    assert rated_entities(doc, None) is None


SETS = st.lists(st.sets(st.integers(0, 7), max_size=4), max_size=4)


@given(SETS, SETS)
def test_matching_is_the_best_one(gold: list[set[int]], predicted: list[set[int]]) -> None:
    """Against trying all of them."""

    def similarity(a: set[int], b: set[int]) -> float:
        return len(a & b) / len(a | b) if a & b else 0.0

    found = match(gold, predicted)
    assert len(set(found.values())) == len(found)
    assert all(gold[row] & predicted[column] for row, column in found.items())
    padded = [*predicted, *[set()] * len(gold)]
    best = max(sum(map(similarity, gold, order)) for order in permutations(padded, len(gold)))
    assert sum(similarity(gold[row], predicted[column]) for row, column in found.items()) == pytest.approx(best)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=15))
def test_best_threshold(pairs: list[tuple[int, int]]) -> None:
    """Against trying all scores."""
    grades, scores = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = best_threshold([grades], [scores], salient=2.0)

    def f1(threshold: float) -> float:
        return score_salience([grades], [scores], salient=2.0, threshold=threshold).micro.f1

    if max(grades) < 2:
        assert found == float("inf")
    else:
        assert f1(found) == pytest.approx(max(map(f1, scores)))
        assert all(f1(score) < f1(found) for score in scores if score > found and f1(score) != f1(found))
    assert best_threshold([], []) == float("inf")


def test_what_is_not_found_is_never_predicted() -> None:
    assert best_threshold([[1.0, 0.0, 1.0]], [[0.0, 0.2, 0.4]]) == pytest.approx(0.3)
    assert best_threshold([[1.0, 1.0]], [[0.0, 0.4]]) == pytest.approx(0.2)
