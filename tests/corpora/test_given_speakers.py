"""Readers that give predicted documents the speakers of the references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus, Example

from entitykit.corpora.given_speakers import give_speakers, given_speakers, speakers_of
from entitykit.errors import InputError

NLP = spacy.blank("xx")


def example(predicted: list[str], reference: list[str], speakers: Any) -> Example:
    docs = [Doc(NLP.vocab, words=words, spaces=[False] * len(words)) for words in (predicted, reference)]
    if speakers is not None:
        docs[1].user_data["speakers"] = speakers
    return Example(*docs)


def given(eg: Example) -> Any:
    return give_speakers(eg).predicted.user_data.get("speakers")


def test_the_same_words() -> None:
    assert given(example(["a", "b", "c"], ["a", "b", "c"], ["Eve", None, "Ben"])) == ["Eve", "", "Ben"]
    assert given(example(["a"], ["a"], None)) is None
    assert given(example([], [], [])) == []


def test_other_words() -> None:
    """A word has the speaker of the first one that it touches."""
    assert given(example(["ab", "c"], ["a", "b", "c"], ["Eve", "Ben", ""])) == ["Eve", ""]
    assert given(example(["a", "b", "c"], ["ab", "c"], ["Eve", "Ben"])) == ["Eve", "Eve", "Ben"]
    assert given(example(["a", " ", "c"], ["a", "c"], ["Eve", "Ben"])) == ["Eve", "", "Ben"]


@pytest.mark.parametrize("wrong", [["Eve"], ["Eve", 3], "Eve", {"Eve": 0}, 7])
def test_wrong_speakers(wrong: Any) -> None:
    with pytest.raises(InputError, match="E646"):
        given(example(["a", "b"], ["a", "b"], wrong))


def test_a_corpus_on_the_disk(tmp_path: Path) -> None:
    """spaCy's own reader makes predicted documents from texts, which know nobody."""
    docs = DocBin(store_user_data=True)
    for speakers in (["Eve", "Ben"], ["", "Eve"]):
        docs.add(Doc(NLP.vocab, words=["a", "b"], user_data={"speakers": speakers}))
    docs.to_disk(tmp_path / "talks.spacy")
    corpus = Corpus(tmp_path / "talks.spacy")
    assert [speakers_of(eg.predicted) for eg in corpus(NLP)] == [None, None]
    assert [speakers_of(eg.predicted) for eg in given_speakers(corpus)(NLP)] == [["Eve", "Ben"], ["", "Eve"]]
