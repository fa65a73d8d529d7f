"""Batches of documents that belong together."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.corpora.batchers import batch_by_value
from entitykit.errors import InputError

VOCAB = Vocab()


def make(topic: int, n: int) -> Example:
    doc = Doc(VOCAB, words=["w"] * n)
    reference = doc.copy()
    reference.user_data["topic"] = topic
    return Example(doc, reference)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=12), st.integers(1, 20))
def test_each_document_once_and_topics_apart(documents: list[tuple[int, int]], size: int) -> None:
    examples = [make(*document) for document in documents]
    batches = list(batch_by_value(size=size)(examples))
    assert Counter(id(eg) for batch in batches for eg in batch) == Counter(map(id, examples))
    for batch in batches:
        assert len({eg.reference.user_data["topic"] for eg in batch}) == 1
        assert len(batch) == 1 or sum(len(eg.predicted) for eg in batch) <= size
    for topic in {topic for topic, _ in documents}:
        words = sum(n for own, n in documents if own == topic)
        own = [batch for batch in batches if batch[0].reference.user_data["topic"] == topic]
        assert len(own) == 1 or words > size


def test_batches_come_in_random_order() -> None:
    examples = [make(topic, 1) for topic in range(20)]
    orders = {tuple(batch[0].reference.user_data["topic"] for batch in batch_by_value()(examples)) for _ in range(3)}
    assert len(orders) == 3


def test_documents_without_the_value() -> None:
    with pytest.raises(InputError, match="E638.*no 'genre' in doc.user_data"):
        list(batch_by_value(key="genre")([make(0, 3)]))
