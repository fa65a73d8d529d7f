"""Entities that are asked for by name: where names stand, and whose mentions are whose."""

from __future__ import annotations

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc

from entitykit.bridge.coref_memory import Found
from entitykit.components.clusters import telling_words
from entitykit.components.major_entities import Asked, alternatives, entities_by_name, occurrences
from entitykit.decoding.coref import NONE
from entitykit.models.coref import Named
from entitykit.models.coref_words import words_of
from entitykit.models.major_entities import MajorEntities, build_major_entities
from tests.components.test_clusters import named

SIZE = 8


def test_clusters_by_name() -> None:
    doc = named("Ada met Ada Lovelace in Canada , and ada left")
    spans = [doc[0:1], doc[2:4], doc[5:6], doc[8:9]]
    assert entities_by_name(spans, np.array([0, 1, 2, 0]), ["ADA", "lovelace", "Ada  Lovelace", "Byron"]) == {
        "ADA": 0,
        "Ada  Lovelace": 1,
        "lovelace": 1,  # the only one that holds it
    }
    assert entities_by_name(spans, np.array([3, 4, 5, 4]), ["Ada"]) == {"Ada": 4}  # as often so called, and held once more
    assert entities_by_name([], np.zeros(0, dtype=np.int64), ["Ada"]) == {}


def test_names_are_held_as_whole_tokens() -> None:
    doc = spacy.blank("en")("Mr. Darcy, owner of Pemberley, met Darcy's sister (Bingley) in Darcyville. He left.")
    texts = ["Mr. Darcy, owner of Pemberley", "Darcy's sister", "(Bingley)", "Darcyville", "He"]
    spans = [doc.char_span(start := doc.text.index(text), start + len(text)) for text in texts]
    entities = np.array([0, 1, 1, 2, 0])
    assert entities_by_name(spans, entities, ["mr.  darcy"]) == {"mr.  darcy": 0}
    assert entities_by_name(spans, entities, ["Bingley"]) == {"Bingley": 1}
    assert entities_by_name(spans[1:], entities[1:], ["Darcy"]) == {"Darcy": 1}
    assert entities_by_name(spans, entities, ["Elizabeth", "cy", "Pemberley met"]) == {}


def test_the_order_of_names_does_not_matter() -> None:
    doc = named("Jones Peter Jones Mary Jones Mary Jones Peter Jones")
    spans = [doc[0:1], doc[1:3], doc[3:5], doc[5:7], doc[7:9]]
    entities = np.array([0, 1, 0, 0, 1])
    for names in (["Jones", "Mary Jones"], ["Mary Jones", "Jones"]):
        assert entities_by_name(spans, entities, names) == {"Mary Jones": 0, "Jones": 0}  # two of hers
    only_held = entities_by_name(spans[1:], entities[1:], ["Jones", "Mary Jones"])
    assert only_held == {"Mary Jones": 0, "Jones": 1}  # which no other name has
    assert entities_by_name(spans[3:4], entities[3:4], ["Jones", "Mary Jones"]) == {"Mary Jones": 0, "Jones": 0}
    assert entities_by_name(spans[1:3], np.array([7, 5]), ["jones", "JONES"]) == {"jones": 7, "JONES": 5}  # the first ones


def test_occurrences() -> None:
    doc = spacy.blank("en")("Mr.\nDarcy met MR. DARCY. Darcys are not Mr.Darcy.")
    assert [span.text for span in occurrences(doc, "Mr. Darcy")] == ["Mr.\nDarcy", "MR. DARCY"]
    assert [span.text for span in occurrences(doc, "darcy")] == ["Darcy", "DARCY", "Darcy"]  # and no part of Darcys
    assert occurrences(doc, "(") == []


def test_us_is_not_us() -> None:
    doc = spacy.blank("en")("China told us, and us alone, that the US asked us")
    assert [span.start for span in occurrences(doc, "US")] == [10]
    assert len(occurrences(doc, "us")) == 3
    assert occurrences(spacy.blank("en")("They told us"), "US") == []
    assert len(occurrences(spacy.blank("en")("WE ARE TOLD"), "We")) == 1
    spans = [doc[2:3], doc[5:6], doc[9:11], doc[12:13]]
    assert entities_by_name(spans, np.array([0, 0, 1, 0]), ["US"]) == {"US": 1}


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("Mr. Knightley met Mr Knightley", "Mr Knightley", ["Mr. Knightley", "Mr Knightley"]),
        ("Mr. Knightley met Mr Knightley", "mr. knightley", ["Mr. Knightley", "Mr Knightley"]),
        ("Mr. O’Brien and Mr. O'Brien", "O'Brien", ["O’Brien", "O'Brien"]),
        ("Zoe\u0308 saw Zo\u00eb", "Zo\u00eb", ["Zoe\u0308", "Zo\u00eb"]),
        ("the Captain and Captain. Ahab", "Captain", ["Captain", "Captain"]),
        ("a.b and aXb", "a.b", ["a.b"]),
    ],
)
def test_a_name_may_be_written_in_several_ways(text: str, name: str, found: list[str]) -> None:
    assert [span.text for span in occurrences(spacy.blank("en")(text), name)] == found


@pytest.fixture
def head() -> MajorEntities:
    torch.manual_seed(0)
    return build_major_entities({"width": 4, "size": SIZE, "match": 4, "hidden": 8, "proposed": False, "labels": []}).eval()


def asked(text: str, mentions: str, entities: list[int], names: list[str], whose: list[str] | None = None) -> Asked:
    """Mentions, given by texts that stand in a text in this order, and names."""
    nlp = spacy.blank("en")
    doc, first, spans = nlp(text), 0, []
    for mention in mentions.split("|"):
        start = text.index(mention, first)
        spans.append(doc.char_span(start, start + len(mention)))
        first = start + len(mention)
    vectors = torch.randn(len(spans), SIZE, generator=torch.Generator().manual_seed(0))
    starts, ends = (np.array([getattr(span, side) for span in spans]) for side in ("start", "end"))

    def words(docs: list[Doc], starts: np.ndarray, ends: np.ndarray):  # type: ignore[no-untyped-def]
        table = torch.from_numpy(telling_words(docs))
        return words_of(table, torch.zeros(0, 2, dtype=torch.long), torch.from_numpy(starts), torch.from_numpy(ends))

    docs = [nlp(name) for name in names]
    stops = np.cumsum([len(each) for each in docs])
    phrases = Named(torch.zeros(len(names), SIZE), words(docs, stops - [len(each) for each in docs], stops))
    found = Found(starts, ends, words([doc], starts, ends), vectors)
    return Asked(spans, found, np.array(entities), names, phrases, whose or names)


def texts(given: Asked, head: MajorEntities, **descriptions: str) -> dict[str, list[str]]:
    rows = given.rows(head, descriptions, hybrid=True)
    return {name: [given.spans[row].text for row in own] for name, own in rows.items()}


def test_names_of_one_entity_that_share_a_word_have_all_its_mentions(head: MajorEntities) -> None:
    given = asked("Ada Lovelace said that she is Ada .", "Ada Lovelace|she|Ada", [0, 0, 0], ["Ada", "Ada Lovelace"])
    every = ["Ada Lovelace", "she", "Ada"]
    assert texts(given, head) == {"Ada": every, "Ada Lovelace": every}


def test_names_that_are_asked_for_as_one_entitys(head: MajorEntities) -> None:
    names = ["Emma", "Miss Woodhouse", "Harriet"]
    given = asked("Emma is Miss Woodhouse , who left .", "Emma|Miss Woodhouse|who", [0, 0, 0], names, ["E", "E", "H"])
    every = ["Emma", "Miss Woodhouse", "who"]
    assert texts(given, head) == {"Emma": every, "Miss Woodhouse": every, "Harriet": []}
    assert alternatives("Emma; Miss  Woodhouse;") == ["Emma", "Miss  Woodhouse"]


@pytest.mark.parametrize(
    "names", [["Mr. Elton", "Miss Bates"], ["Mr. Weston", "Mrs. Weston"], ["John Adams", "Abigail Adams"], ["Ben", "Tom"]]
)
def test_an_entity_that_is_two_people_is_divided(names: list[str], head: MajorEntities) -> None:
    """Each has what is called so, and a mention that could be either has one of them, or none."""
    given = asked(f"{names[0]} came . {names[1]} left . Then they met .", f"{names[0]}|{names[1]}|they", [0, 0, 0], names)
    found = texts(given, head)
    for name, other in (names, reversed(names)):
        assert name in found[name]
        assert other not in found[name]
    assert sum("they" in own for own in found.values()) <= 1


def test_a_mention_that_is_a_name_goes_there(head: MajorEntities) -> None:
    given = asked(
        "Emma saw her . Harriet and she saw Emma .", "Emma|her|Harriet|she|Emma", [0, 0, 0, 1, 1], ["Emma", "Harriet"]
    )
    assert texts(given, head)["Harriet"][0] == "Harriet"
    assert "Harriet" not in texts(given, head)["Emma"]
    assert texts(given, head)["Emma"].count("Emma") == 2  # one of them in another cluster


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("George Knightley", ["Mr. Knightley", "he"]),
        ("Knightley", ["Mr. Knightley", "he"]),
        ("Mrs. Knightley", None),  # who is somebody else
        ("George Bates", None),
    ],
)
def test_the_last_name_alone(name: str, found: list[str] | None, head: MajorEntities) -> None:
    given = asked("Mr. Knightley said that he saw Emma .", "Mr. Knightley|he|Emma", [0, 0, 1], [name])
    rows = texts(given, head)[name]
    assert rows == found if found else not {"Mr. Knightley", "Emma"} & set(rows)


def test_a_last_name_of_several_is_nobodys(head: MajorEntities) -> None:
    given = asked("Mr. Weston and Mrs. Weston met .", "Mr. Weston|Mrs. Weston", [0, 1], ["Anne Weston"])
    assert given._clusters(given._kinds(), {}) == {}


def test_a_description_that_stands_in_the_text(head: MajorEntities) -> None:
    given = asked("The daughter of Byron wrote . She won .", "The daughter of Byron|She", [0, 0], ["Ada"])
    assert texts(given, head, Ada="the daughter of Byron") == {"Ada": ["The daughter of Byron", "She"]}


def test_without_clusters_a_mention_goes_to_one_name(head: MajorEntities) -> None:
    given = asked("Ada met Byron and she left .", "Ada|Byron|she", [NONE] * 3, ["Ada", "Byron", "ada"])
    rows = given.rows(head, {}, hybrid=False)
    assert rows["Ada"][0] == 0
    assert rows["Byron"][0] == 1
    assert 0 not in rows["ada"]
    assert sum(map(len, rows.values())) == len({row for own in rows.values() for row in own})


def test_no_mentions(head: MajorEntities) -> None:
    given = asked("Ada left .", "Ada", [0], ["Ada"])
    nothing = given._replace(spans=[], found=given.found.rows(slice(0)), entities=given.entities[:0])
    assert nothing.rows(head, {}, hybrid=True) == {"Ada": []}
