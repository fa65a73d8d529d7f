"""Major entities by hand."""

from __future__ import annotations

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry

from entitykit.errors import InputError
from entitykit.scoring.major_entities import score_major_entities
from entitykit.scoring.spans import PRF


def test_scores_by_hand() -> None:
    gold = [{"Ada": set("abcdef"), "Bob": set("gh")}, {"Eve": set("ab")}]
    predicted = [{"Ada": set("abcx"), "Bob": set("gh")}, {}]
    scores = score_major_entities(gold, predicted)
    assert scores is not None
    assert scores.per_entity == [
        {"Ada": PRF(0.75, 0.5, 0.6, 6), "Bob": PRF(1.0, 1.0, 1.0, 2)},
        {"Eve": PRF(0.0, 0.0, 0.0, 2)},
    ]
    assert scores.macro_f1 == pytest.approx((0.6 + 1 + 0) / 3)
    assert scores.micro_f1 == pytest.approx((6 * 0.6 + 2 * 1 + 2 * 0) / 10)


def test_an_entity_that_never_occurs() -> None:
    scores = score_major_entities([{"Ada": set()}], [{}])
    assert scores is not None
    assert (scores.macro_f1, scores.micro_f1) == (0.0, 0.0)


def test_nothing_to_score() -> None:
    assert score_major_entities([], []) is None
    assert score_major_entities([{}], [{}]) is None


def test_an_entity_that_nobody_asked_for() -> None:
    with pytest.raises(InputError, match=r"\[E323\] .*not ask for: Eve; gold has: Ada, Bob"):
        score_major_entities([{"Ada": {1}, "Bob": {2}}], [{"Eve": {1}}])


def with_entities(text: str, **entities: list[list[int]]) -> Doc:
    doc = spacy.blank("en").make_doc(text)
    doc.user_data["major_entities"] = entities
    return doc


def test_the_scorer() -> None:
    """Places are compared by the characters that are no white space."""
    gold = with_entities("Ada met Bob. She left.", Ada=[[0, 3], [13, 16]], Bob=[[8, 11]])
    found = with_entities("Ada  met Bob. She left.", Ada=[[0, 3]], Bob=[[9, 12], [14, 17]])
    other = Example(with_entities("Eve", Eve=[[0, 3]]), spacy.blank("en").make_doc("Eve"))  # which nobody asked for
    score = registry.resolve({"scorer": {"@scorers": "entitykit.major_entities_scorer.v1"}})["scorer"]
    scores = score([Example(found, gold), other])
    assert scores == {"major_entities_macro_f": pytest.approx(2 / 3), "major_entities_micro_f": pytest.approx(2 / 3)}
    assert set(score([other]).values()) == {None}
    nothing = Example(spacy.blank("en").make_doc(gold.text), gold)
    assert score([nothing])["major_entities_macro_f"] == 0.0
    with pytest.raises(InputError, match="E323.*Eve"):
        score([Example(with_entities(gold.text, Eve=[[0, 3]]), gold)])
    with pytest.raises(InputError, match=r"E324.*\[0, 99\] of 'Ada'"):
        score([Example(with_entities(gold.text, Ada=[[0, 99]]), gold)])
