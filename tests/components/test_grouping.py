"""Which mentions are of one entity: by hand, and for any documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, Span

from entitykit.components import grouping
from entitykit.components.grouping import EntityGroup, Grouping, group_entities, sentence_numbers
from entitykit.errors import EntityKitWarning

NLP = spacy.blank("en")
TEXT = "Ada Lovelace met Mr. Babbage in London . Lovelace 's friend , the London poet , wrote to Charles Babbage and to him ."
Entity = tuple[int, int, str, str]

ENTS: list[Entity] = [
    (0, 2, "PERSON", "Q1"),
    (3, 5, "PERSON", ""),
    (6, 7, "PLACE", "Q3"),
    (8, 10, "PERSON", ""),
    (12, 14, "PLACE", ""),
    (18, 20, "PERSON", "Q2"),
]
EVERYTHING = ("id", "name", "part")


def make(ents: Sequence[Entity] = ENTS, clusters: Sequence[Sequence[tuple[int, int]]] = (), text: str = TEXT) -> Doc:
    doc = Doc(NLP.vocab, words=text.split())
    doc.set_ents([Span(doc, start, end, label=label, kb_id=kb_id) for start, end, label, kb_id in ents])
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in cluster]
    return doc


def grouped(doc: Doc, **options: Any) -> list[EntityGroup]:
    return group_entities(doc, Grouping(**options))


def test_names_ids_and_parts() -> None:
    assert grouped(make(), same=EVERYTHING) == [
        EntityGroup("Ada Lovelace", [(0, 2), (8, 10)], "Q1", "PERSON"),
        EntityGroup("Charles Babbage", [(3, 5), (18, 20)], "Q2", "PERSON"),
        EntityGroup("London", [(6, 7), (12, 14)], "Q3", "PLACE"),
    ]
    assert [len(group.mentions) for group in grouped(make(), same=("name",))] == [1, 1, 2, 1, 1]
    assert [len(group.mentions) for group in grouped(make(), same=())] == [1] * 6


def test_a_part_of_two_names_joins_neither() -> None:
    text = "Ada Lovelace and William Lovelace : Lovelace"
    persons = [(0, 2, "PERSON", ""), (3, 5, "PERSON", ""), (6, 7, "PERSON", "")]
    assert len(grouped(make(persons, text=text), same=EVERYTHING)) == 3
    places = [(start, end, "PLACE", "") for start, end, *_ in persons[1:]]
    assert len(grouped(make(places, text=text), same=EVERYTHING)) == 2


def test_labels_that_are_left_out() -> None:
    assert [group.label for group in grouped(make(), ignore=("PLACE",))] == ["PERSON"] * 4


def test_clusters_take_up_names() -> None:
    """One with a pronoun; a second one of the same name stays apart, and takes none of what is outside of both."""
    doc = make(clusters=[[(3, 5), (22, 23)], [(18, 20)], [(10, 11)]])
    found = grouped(doc, same=EVERYTHING)
    assert [(group.name, group.mentions) for group in found] == [
        ("Ada Lovelace", [(0, 2), (8, 10)]),
        ("Mr. Babbage", [(3, 5), (22, 23)]),
        ("London", [(6, 7), (12, 14)]),
        ("friend", [(10, 11)]),
        ("Charles Babbage", [(18, 20)]),
    ]
    assert [group.name for group in grouped(doc, same=EVERYTHING, named=True)] == [
        group.name for group in found if group.name != "friend"
    ]
    assert [group.mentions for group in grouped(doc, mentions="")] == [[(3, 5), (22, 23)], [(10, 11)], [(18, 20)]]


def test_names_without_labels_are_names() -> None:
    doc = make([], clusters=[[(0, 2), (8, 9)], [(10, 11)], [(13, 14)]])
    doc.spans["mentions"] = [doc[0:2], doc[6:7], Span(doc, 13, 14, label="PLACE")]
    found = grouped(doc, mentions="mentions", named=True, ignore=("PLACE",))
    assert found == [EntityGroup("Ada Lovelace", [(0, 2), (8, 9)], "", ""), EntityGroup("London", [(6, 7)], "", "")]


def test_empty_spans_are_left_out() -> None:
    """Names, mentions of clusters, and clusters that have no others."""
    doc = make([], clusters=[[(0, 2), (5, 5)], [(3, 3), (6, 6)], [(10, 11)]])
    doc.spans["mentions"] = [doc[0:2], doc[8:8], doc[6:7]]
    with pytest.warns(EntityKitWarning, match=r"W104\] 4 spans"):
        found = grouped(doc, mentions="mentions")
    assert [group.mentions for group in found] == [[(0, 2)], [(6, 7)], [(10, 11)]]
    with pytest.warns(EntityKitWarning, match=r"W104\] 1 spans"):
        assert [group.name for group in grouped(doc, mentions="mentions", clusters="")] == ["Ada Lovelace", "London"]


def test_clusters_are_joined_by_ids_alone() -> None:
    ents = [(0, 2, "PERSON", "Q1"), (8, 9, "PERSON", "Q1"), (18, 20, "PERSON", "NIL"), (4, 5, "PERSON", "NIL")]
    doc = make(ents, clusters=[[(0, 2)], [(8, 9), (10, 11)]])
    assert [group.mentions for group in grouped(doc)] == [[(0, 2), (8, 9), (10, 11)], [(4, 5)], [(18, 20)]]
    assert [group.id for group in grouped(doc)] == ["Q1", "", ""]
    assert len(grouped(doc, same=("name",))) == 4


def test_a_mention_of_two_clusters_joins_nothing() -> None:
    doc = make([(6, 7, "PLACE", "Q3"), (13, 14, "PLACE", "Q3")], clusters=[[(6, 7), (0, 2)], [(6, 7)]])
    assert [group.mentions for group in grouped(doc)] == [[(0, 2), (6, 7)], [(6, 7)], [(13, 14)]]


def test_nothing_there() -> None:
    assert grouped(NLP("")) == grouped(NLP("no names here")) == []
    doc = NLP("one empty cluster")
    doc.spans["coref_clusters_1"] = []
    assert grouped(doc) == []


def test_a_group_of_spans() -> None:
    doc = make([])
    doc.spans["sc"] = [Span(doc, 0, 2, label="A"), Span(doc, 0, 2, label="B", kb_id="Q")]
    (group,) = grouped(doc, mentions="sc")
    assert group == EntityGroup("Ada Lovelace", [(0, 2)], "Q", "A")


PLACES = st.tuples(st.integers(0, 11), st.integers(1, 3)).map(lambda pair: (pair[0], min(pair[0] + pair[1], 12)))


@settings(max_examples=60)
@given(
    ents=st.lists(
        st.tuples(PLACES, st.sampled_from(["PERSON", "PLACE"]), st.sampled_from(["", "NIL", "Q1", "Q2"])), max_size=6
    ),
    clusters=st.lists(st.lists(PLACES, min_size=1, max_size=4, unique=True), max_size=3),
    words=st.lists(st.sampled_from(["Ada", "the", "Mr", "King", "of"]), min_size=12, max_size=12),
)
def test_any_document(
    ents: list[tuple[tuple[int, int], str, str]], clusters: list[list[tuple[int, int]]], words: list[str]
) -> None:
    """Every mention is in a group, groups have no mention twice, and clusters stay whole."""
    doc = Doc(NLP.vocab, words=words)
    doc.spans["names"] = [Span(doc, *place, label=label, kb_id=kb_id) for place, label, kb_id in ents]
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in cluster]
    found = grouped(doc, mentions="names", same=EVERYTHING)
    together = [set(group.mentions) for group in found]
    assert {place for places in together for place in places} == {place for place, *_ in ents} | {
        p for c in clusters for p in c
    }
    assert all(group.mentions == sorted(set(group.mentions)) and group.name for group in found)
    assert all(any(set(cluster) <= places for places in together) for cluster in clusters)
    outside = {place for place, *_ in ents} - {place for cluster in clusters for place in cluster}
    assert all(sum(place in places for places in together) == 1 for place in outside)


def test_sentences() -> None:
    doc = make()
    assert sentence_numbers(doc).tolist() == [0] * 8 + [1] * 16
    for token in doc:
        token.is_sent_start = token.i in (0, 3, 8)
    assert sentence_numbers(doc).tolist() == [0] * 3 + [1] * 5 + [2] * 16
    assert sentence_numbers(NLP("")).tolist() == []
    assert sentence_numbers(NLP("word")).tolist() == [0]


@pytest.mark.parametrize("text", [" ", "\n\n", ". . ."])
def test_sentences_of_anything(text: str) -> None:
    doc = NLP(text)
    assert len(sentence_numbers(doc)) == len(doc)


def test_names_are_looked_at_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many groups there are."""

    class Name:
        label_, kb_id_, looks = "PERSON", "", 0

        def __init__(self, i: int) -> None:
            self.i, self.text, self.end = i, f"name {i}", i + 1

        @property
        def start(self) -> int:
            Name.looks += 1
            return self.i

    names = [Name(i) for i in range(300)]
    monkeypatch.setattr(grouping, "reference_spans", lambda *_: names)
    assert [group.name for group in grouped(NLP("x"))] == [f"name {i}" for i in range(300)]
    assert Name.looks <= 20 * len(names)
