"""Readers whose gold mentions the pipeline is given."""

from __future__ import annotations

import pytest
import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.corpora.given import given_clusters, given_mentions
from entitykit.errors import EntityKitWarning

NLP = spacy.blank("xx")


def example(predicted: list[str], reference: list[str]) -> Example:
    doc = Doc(NLP.vocab, words=reference, spaces=[False] * len(reference))
    doc.set_ents([Span(doc, 0, 2, label="A", kb_id="Q1")])
    doc.spans["sc"] = [Span(doc, 0, 2, label="A", kb_id="Q1"), Span(doc, 1, 3, label="B", kb_id="Q2")]
    return Example(Doc(NLP.vocab, words=predicted, spaces=[False] * len(predicted)), doc)


def test_mentions_without_their_entities() -> None:
    (eg,) = given_mentions(lambda nlp: [example(["a", "b", "c"], ["a", "b", "c"])])(NLP)
    assert [(ent.text, ent.label_, ent.kb_id_) for ent in eg.predicted.ents] == [("ab", "A", "")]
    assert eg.reference.ents[0].kb_id_ == "Q1"


def test_groups() -> None:
    (eg,) = given_mentions(lambda nlp: [example(["a", "b", "c"], ["a", "b", "c"])], "sc")(NLP)
    assert [(span.text, span.label_, span.kb_id_) for span in eg.predicted.spans["sc"]] == [("ab", "A", ""), ("bc", "B", "")]
    assert not eg.predicted.ents


def test_from_one_group_into_another() -> None:
    (eg,) = given_mentions(lambda nlp: [example(["a", "b", "c"], ["a", "b", "c"])], "mentions", gold="sc")(NLP)
    assert [span.text for span in eg.predicted.spans["mentions"]] == ["ab", "bc"]
    assert "sc" not in eg.predicted.spans


def test_other_tokens() -> None:
    reader = given_mentions(lambda nlp: [example(["ab", "c"], ["a", "b", "c"])], "sc")
    with pytest.warns(EntityKitWarning, match="1 of 2 gold mentions"):
        (eg,) = reader(NLP)
    assert [span.text for span in eg.predicted.spans["sc"]] == ["ab"]


def test_clusters() -> None:
    """With the types of entities in the same places."""

    def read(nlp: object) -> list[Example]:
        eg = example(["a", "b", "c", "d"], ["a", "b", "c", "d"])
        eg.reference.spans["coref_clusters_1"] = [Span(eg.reference, 0, 2), Span(eg.reference, 2, 4, label="C")]
        eg.reference.spans["coref_clusters_2"] = [Span(eg.reference, 1, 3), Span(eg.reference, 3, 4)]
        return [eg]

    (eg,) = given_clusters(read)(NLP)
    found = {name: [(span.text, span.label_) for span in group] for name, group in eg.predicted.spans.items()}
    assert found == {"coref_clusters_1": [("ab", "A"), ("cd", "C")], "coref_clusters_2": [("bc", "B"), ("d", "")]}


def test_clusters_in_other_tokens() -> None:
    def read(nlp: object) -> list[Example]:
        eg = example(["ab", "c"], ["a", "b", "c"])
        eg.reference.spans["coref_clusters_1"] = [Span(eg.reference, 0, 2), Span(eg.reference, 1, 3)]
        return [eg]

    with pytest.warns(EntityKitWarning, match="1 of 2 gold mentions"):
        (eg,) = given_clusters(read)(NLP)
    assert [span.text for span in eg.predicted.spans["coref_clusters_1"]] == ["ab"]


def test_sentences_with_clusters() -> None:
    """If they are asked for, and the reference has some."""

    def read(nlp: object) -> list[Example]:
        eg = example(["ab", "c", "d"], ["a", "b", "c", "d"])
        for token in eg.reference:
            token.is_sent_start = token.i in (0, 1, 2)
        return [eg, example(["ab", "c"], ["a", "b", "c"])]

    first, second = given_clusters(read, sentences=True)(NLP)
    assert [sent.text for sent in first.predicted.sents] == ["ab", "cd"]
    assert not second.predicted.has_annotation("SENT_START")
    assert not next(iter(given_clusters(read)(NLP))).predicted.has_annotation("SENT_START")
