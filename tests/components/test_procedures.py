"""Procedures in documents: where steps and participants come from, what may be a place, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import spacy
from spacy.tokens import Doc

from entitykit.bridge.procedures import Procedure
from entitykit.components.procedures import Sources, find_place, find_procedure, place_keys, words_of
from entitykit.errors import InputError

SOURCES = Sources(("participants", "mentions"), "steps", None, 4)


def procedure_of(doc: Doc, **changes: Any) -> Procedure:
    return find_procedure(doc, Sources(**{**SOURCES.__dict__, **changes}), "tracker")


def test_participants_and_steps_of_a_raw_document() -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    doc = nlp("Water falls on the rocks. The rock drinks water.")
    doc.spans["mentions"] = [doc[0:1], doc[3:5], doc[6:8], doc[5:6]]
    found = procedure_of(doc)
    assert found.steps == [(0, 6), (6, 11)]
    assert [(each.name, list(each.mentions)) for each in found.participants] == [
        ("Water", [(0, 1), (9, 10)]),
        ("the rocks", [(3, 5), (6, 8)]),  # the full stop names nobody
    ]
    doc.spans["participants"] = [doc[9:10]]
    doc.spans["steps"] = [doc[6:11]]
    found = procedure_of(doc)
    assert (found.steps, found.parts) == ([(6, 11)], [(0, 6), (6, 11)])
    assert [each.name for each in found.participants] == ["water"]
    doc.user_data["procedure"] = {"participants": ["rock; stone", "nobody"]}
    found = procedure_of(doc)
    assert [each.mentions for each in found.participants] == [[(4, 5), (7, 8)], []]
    assert found.steps == [(6, 11)]


def test_participants_with_articles_and_marks_within() -> None:
    """What other marks part is no name, and what may be lacking is neither at its beginning nor at its end."""
    text = "It sinks to the bottom of the sea. Carbon-dioxide falls on bottom of a sea, as ice. The water, (cold) ice"
    names = ["the bottom of the sea", "carbon-dioxide; carbon dioxide", "ice water", "the", "water , ( cold )", "the, ice"]
    doc = spacy.blank("en")(text)
    doc.user_data["procedure"] = {"participants": names, "steps": [[0, len(doc.text)]]}
    found = [[doc[start:end].text for start, end in each.mentions] for each in procedure_of(doc).participants]
    assert found == [["bottom of the sea", "bottom of a sea"], ["Carbon-dioxide"], [], [], ["water, (cold"], ["ice", "ice"]]


MARKED = "COVID-19 C++ AT&T U.S. O'Brien carbon-14"
MARKED_TEXT = f"{MARKED} , Dr. Jones adds 2.5 g of vitamin B-12 to 3,000 bees in the all-purpose flour of 19 to 14"


def mentioned(doc: Doc, names: list[str]) -> dict[str, list[str]]:
    doc.user_data["procedure"] = {"participants": names, "steps": [[0, len(doc.text)]]}
    found = procedure_of(doc).participants
    return {each.name: [doc[start:end].text for start, end in each.mentions] for each in found}


@pytest.mark.parametrize(
    "name", [*MARKED.split(), "Dr. Jones", "2.5 g", "vitamin B-12", "3,000 bees", "all-purpose flour", "the U.S.; the union"]
)
def test_names_with_marks_that_tokenizers_keep(name: str) -> None:
    """The tokens of the text are not the pieces of the name."""
    wanted = name.partition(";")[0].removeprefix("the ")
    assert mentioned(spacy.blank("en")(MARKED_TEXT), [name]) == {name: [wanted]}
    apart = Doc(spacy.blank("en").vocab, words=re.findall(r"\w+|\S", MARKED_TEXT))
    assert [len(spans) for spans in mentioned(apart, [name]).values()] == [1]


def test_no_name_is_a_part_of_a_token() -> None:
    doc = spacy.blank("en")(MARKED_TEXT)
    assert [token.text for token in doc if "19" in token.text] == ["COVID-19", "19"]
    names = ["19", "14", "carbon", "COVID", "T", "000 bees", "U.", "5 g", "2", "vitamin B", "12 to 3", "the 19 to 14"]
    found = {name: spans for name, spans in mentioned(doc, names).items() if spans}
    assert found == {"19": ["19"], "14": ["14"], "the 19 to 14": ["19 to 14"]}
    assert mentioned(doc, ["jones; dr", "flour."]) == {
        "jones; dr": ["Dr.", "Jones"],
        "flour.": ["flour"],
    }  # marks do not matter


def test_found_participants_with_an_article_are_mentioned_once() -> None:
    """Where the group has them, not once more without the article; other places may have none."""
    doc = spacy.blank("en")("The ice melts . Ice floats , and the ice is gone , not rain or the rain")
    doc.user_data["procedure"] = {"steps": [[0, len(doc.text)]]}
    doc.spans["mentions"] = [doc[0:2], doc[8:10], doc[14:15]]
    found = {each.name: [doc[start:end].text for start, end in each.mentions] for each in procedure_of(doc).participants}
    assert found == {"The ice": ["The ice", "Ice", "the ice"], "rain": ["rain", "rain"]}
    doc.spans["mentions"] = [doc[0:2], doc[8:11]]
    (ice, _) = procedure_of(doc).participants
    assert ice.mentions == [(0, 2), (4, 5), (9, 10)]  # the last within a place of another participant


def test_places_are_phrases_or_given() -> None:
    nlp = spacy.blank("en")
    doc = nlp("The water of a lake, and the big Lakes of ice.")
    doc.user_data["procedure"] = {"participants": ["water"], "steps": [[0, len(doc.text)]]}
    found = procedure_of(doc, max_place_words=3)
    assert found.names[:2] == ["water", "lake"]
    assert set(found.names) == {"water", "lake", "big", "big Lakes", "Lakes of ice", "ice"}
    assert found.places[found.names.index("lake")] == [(4, 5), (9, 10)]
    doc.spans["places"] = [doc[4:5], doc[5:6]]
    assert procedure_of(doc, places="places").names == ["lake"]
    assert procedure_of(doc, places="nowhere").names == []


def test_gold_places_are_the_longest_part_that_there_is() -> None:
    places = Procedure(9, [], [], [[(0, 1)], [(1, 3)], [(5, 6)]], ["lakes", "surface of the ocean", "ocean"])
    keys = place_keys(places)
    found = [find_place(place, keys) for place in ("-", "?", "lake", "surface of ocean", "deep ocean", "rivers , lakes", "sky")]
    assert found == [0, 1, 2, 3, 4, 2, -1]


def test_words_of_steps() -> None:
    doc = spacy.blank("en")("It rains. It pours.")
    assert words_of(doc, [[0, 9], [9, 9], [10, 19]]) == [(0, 3), (3, 3), (3, 6)]
    assert words_of(doc, [[0, 5], [5, 9]]) == [(0, 2), (2, 3)]  # a shared word belongs to the first
    assert words_of(doc, ()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "of the type int; expected a dict"),
        ({"participants": "ice", "steps": []}, "participants 'ice'; expected a list of names"),
        ({"participants": [1], "steps": []}, "expected a list of names"),
        ({"participants": None}, "participants None; expected a list of names"),
        ({"participants": 3}, "participants 3; expected a list of names"),
        ({"participants": iter(["ice"])}, "expected a list of names"),
        ({"participants": ["ice"], "steps": None}, "expected starts and ends"),
        ({"participants": ["ice"], "steps": [[0, 5], [3, 8]]}, "one after the other"),
        ({"participants": ["ice"], "steps": [[0, 500]]}, "at most 9"),
        ({"participants": ["ice"], "steps": [[5, 0]]}, "one after the other"),
        ({"participants": ["ice"], "steps": [["a", "b"]]}, "expected starts and ends"),
        ({"participants": ["ice"], "steps": 7}, "expected starts and ends"),
    ],
)
def test_procedures_of_another_form(given: Any, message: str) -> None:
    doc = spacy.blank("en")("Ice melts")
    doc.user_data["procedure"] = given
    with pytest.raises(InputError, match=rf"\[E612\].*{message}"):
        procedure_of(doc)


def test_steps_that_are_missing_or_overlap() -> None:
    doc = spacy.blank("en")("Ice melts. Water flows.")
    doc.user_data["procedure"] = {"participants": ["ice"]}
    with pytest.raises(InputError, match=r"\[E613\] 'tracker' .*'Ice melts"):
        procedure_of(doc)
    doc.spans["steps"] = [doc[0:3], doc[2:4]]
    message = (
        r"\[E615\] 'tracker' .*doc.spans\['steps'\] have words in common: 'Ice melts.' and '. Water'; .*Correct what writes"
    )
    with pytest.raises(InputError, match=message):
        procedure_of(doc)
    doc.spans["steps"] = [doc[0:3], doc[3:3], doc[3:6]]
    assert procedure_of(doc).steps == [(0, 3), (3, 3), (3, 6)]
