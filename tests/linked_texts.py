"""Texts whose entities are linked, for the tests of linkers and rerankers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.knowledge.entities import Entity

Text = tuple[str, Sequence[tuple[int, int, str]]]
"""Words, and where entities are, with their ids."""
ENTITIES = [
    Entity(id="Q1", name="Mary Jones", description="a mayor"),
    Entity(id="Q2", name="New York", description="a city in the north"),
    Entity(id="Q3", name="New York", description="a ship of long ago"),
]
TEXTS: Sequence[Text] = [
    ("Mary Jones went to New York", [(0, 2, "Q1"), (4, 6, "Q2")]),
    ("on the river New York sank", [(3, 5, "Q3")]),
    ("in New York the river is long", [(1, 3, "Q2"), (4, 5, "NIL")]),
]


def linked_examples(nlp: Language, texts: Iterable[Text] = TEXTS) -> list[Example]:
    """Entities that are given, whose links are to be found."""
    found = []
    for text, links in texts:
        predicted, reference = (Doc(nlp.vocab, words=text.split()) for _ in range(2))
        reference.set_ents([Span(reference, a, b, label="X", kb_id=id_) for a, b, id_ in links])
        predicted.set_ents([Span(predicted, a, b, label="X") for a, b, _ in links])
        found.append(Example(predicted, reference))
    return found
