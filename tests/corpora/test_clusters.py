"""Which mention names an entity."""

from __future__ import annotations

import pytest
import spacy
from spacy.tokens import Doc, Span

from entitykit.corpora.clusters import representative

Places = list[tuple[int, int]]


@pytest.mark.parametrize(
    ("words", "mentions", "entities", "expected"),
    [
        ("he and she", [(0, 1), (2, 3)], [], None),
        ("a man , the captain", [(0, 2), (3, 5)], [], "a man"),
        ("a man , the Captain", [(0, 2), (3, 5)], [], "the Captain"),
        ("rival Brookes met Brookes", [(0, 2), (3, 4)], [], "Brookes"),
        ("he saw John yesterday", [(0, 1), (2, 4)], [], "John yesterday"),  # there is no better one
        ("Analysts at Barclays said Barclays", [(0, 3), (4, 5)], [], "Analysts at Barclays"),
        ("Analysts at Barclays said Barclays", [(0, 3), (4, 5)], [(2, 3), (4, 5)], "Barclays"),
        ("Ada Lovelace was Ada", [(0, 2), (3, 4)], [], "Ada Lovelace"),
        ("Ada Lovelace was Ada", [(0, 2), (3, 4)], [(0, 2), (3, 4)], "Ada Lovelace"),
        ("Ada Lovelace was Ada", [(0, 2), (3, 4)], [(0, 1), (3, 4)], "Ada"),  # Ada Lovelace is no entity of doc.ents
        ("Ada Lovelace was Ada Byron", [(0, 2), (3, 4)], [(0, 2), (3, 5)], "Ada Lovelace"),  # nor is this Ada
        ("rival Brookes , the Firm", [(0, 2), (3, 5)], [(0, 2)], "the Firm"),
        ("rival Brookes , good Brookes", [(0, 2), (3, 5)], [(3, 5)], "good Brookes"),
        ("Robert Smith \n Cc by Robert", [(0, 4), (5, 6)], [(0, 4)], "Robert"),
        ("Jean van Damme , the General", [(0, 3), (4, 6)], [], "Jean van Damme"),
        ("Apollo 11 , the Ship", [(0, 2), (3, 5)], [], "Apollo 11"),
        ("Ada of the House of Lords , Ada", [(0, 6), (7, 8)], [], "Ada"),  # short
        ("us and the US", [(0, 1), (2, 4)], [], "the US"),
    ],
)
def test_representative(words: str, mentions: Places, entities: Places, expected: str | None) -> None:
    doc = Doc(spacy.blank("en").vocab, words=words.split(" "))
    doc.ents = [Span(doc, start, end, label="X") for start, end in entities]
    best = representative([doc[start:end] for start, end in mentions])
    assert (best and best.text) == expected
