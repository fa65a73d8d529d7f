"""Which words are around a mention, and which of them it is searched by."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc

from entitykit.bridge.keywords import SCORES, context_of, keywords, label_words, predicted_keywords, register_keywords
from entitykit.bridge.link_texts import Place
from entitykit.bridge.listener import EncoderListener
from entitykit.errors import ConfigError


@given(before=st.integers(0, 30), size=st.integers(1, 5), behind=st.integers(0, 30), most=st.integers(0, 20))
def test_words_around_a_mention(before: int, size: int, behind: int, most: int) -> None:
    """As many as there may be, the nearest on each side, and no side has fewer than half if it could have more."""
    start, end, n = before, before + size, before + size + behind
    found = context_of(n, start, end, most)
    left, right = [i for i in found if i < start], [i for i in found if i >= end]
    assert found == [*left, *right]
    assert len(found) == min(most, before + behind)
    assert left == list(range(start - len(left), start))
    assert right == list(range(end, end + len(right)))
    assert len(left) >= min(before, most // 2)
    assert len(right) >= min(behind, most // 2)


def scored(text: str, scores: list[float]) -> Doc:
    register_keywords()
    doc = Doc(spacy.blank("xx").vocab, words=text.split())
    doc._.set(SCORES, scores)
    return doc


def test_the_best_words_once() -> None:
    doc = scored("The ship 's Sail , X sail of well-known A ships", [0.9, 0.3, 0.9, 0.2, 0.9, 0.9, 0.4, 0.9, 0.4, 0.9, 0.3])
    place = Place(0, 5, 6)
    assert predicted_keywords(doc, place, 32, 0.0) == ["sail", "well", "known", "ship", "ships"]
    assert predicted_keywords(doc, place, 2, 0.0) == ["sail", "well"]
    assert predicted_keywords(doc, place, 32, 0.35) == ["sail", "well", "known"]
    assert predicted_keywords(doc, place, 0, 0.0) == predicted_keywords(doc, place, 32, 0.5) == []


def test_words_far_away_do_not_count() -> None:
    doc = scored(" ".join(f"w{i}" for i in range(400)), [1 - i / 1000 for i in range(400)])
    assert predicted_keywords(doc, Place(0, 200, 201), 2, 0.0) == ["w136", "w137"]
    assert predicted_keywords(doc, Place(0, 399, 400), 2, 0.0) == ["w271", "w272"]


def test_documents_that_nobody_has_read() -> None:
    doc = scored("a b", [0.5, 0.5])
    assert predicted_keywords(Doc(doc.vocab, words=["a"]), Place(0, 0, 1), 2, 0.0) is None
    with doc.retokenize() as retokenizer:
        retokenizer.merge(doc[0:2])
    with pytest.raises(ConfigError, match="E588.*2 words, but has 1 words"):
        predicted_keywords(doc, Place(0, 0, 1), 2, 0.0)


def test_labels_of_words() -> None:
    """Different words count once, wherever they are; of equal ones the first; what adds nothing never."""
    words, scores = ["sea", "ship", "Sea", "far", "sail"], np.array([2.0, 3.0, 2.0, 0.0, 2.0])
    assert label_words(words, scores, 9).tolist() == [True, True, True, False, True]
    assert label_words(words, scores, 2).tolist() == [True, True, True, False, False]
    assert label_words(words, scores, 1).tolist() == [False, True, False, False, False]
    assert label_words([], np.zeros(0), 3).tolist() == []


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"dropout": 1.0}, {"dropout": -0.1}], ids=str)
def test_settings_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="E007"):
        keywords(EncoderListener("*"), **wrong)  # type: ignore[arg-type]
