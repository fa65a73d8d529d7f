"""Corpora with one pair per text: SemEval-2010 task 8 and TACRED."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.errors import CorpusError, EntityKitWarning
from tests.corpora.util import entities, words

Read = Callable[..., list[Doc]]

SEMEVAL = (
    '1\t"The <e1>fire</e1> in the "old" house caused dark <e2>smoke clouds</e2>."\nCause-Effect(e1,e2)\nComment: clear.\n\n'
    '7\t"<e1>Wheels</e1> of a <e2>car</e2>"\nComponent-Whole(e1,e2)\nComment:\n\n\n'
    '8\t"A <e1>car</e1> has <e2>wheels</e2>."\nComponent-Whole(e2,e1)\n\n'
    '9\t"A <e1>ridge</e1> and a <e2>surge</e2>."\nOther\nComment: none\nat all\n'
)

TACRED: dict[str, Any] = {
    "id": "e1",
    "token": ["Ada", "Lovelace", "was", "born", "in", "London", "."],
    "relation": "per:city_of_birth",
    "subj_start": 0,
    "subj_end": 1,
    "obj_start": 5,
    "obj_end": 5,
    "subj_type": "PERSON",
    "obj_type": "CITY",
    "stanford_ner": ["PERSON"],
}


def related(doc: Doc) -> list[tuple[str, str, str]]:
    pairs = doc.user_data["relations"]
    return [(doc[slice(*one["head"])].text, one["label"], doc[slice(*one["tail"])].text) for one in pairs]


def test_semeval(read: Read) -> None:
    docs = read(SEMEVAL, "semeval2010_task8")
    assert [doc.user_data["id"] for doc in docs] == ["1", "7", "8", "9"]
    assert docs[0].text == 'The fire in the "old" house caused dark smoke clouds.'
    assert entities(docs[0]) == [("fire", "ENTITY"), ("smoke clouds", "ENTITY")]
    assert [related(doc) for doc in docs] == [
        [("fire", "Cause-Effect", "smoke clouds")],
        [("Wheels", "Component-Whole", "car")],
        [("wheels", "Component-Whole", "car")],
        [],
    ]
    assert docs[2].user_data["relation_pair"] == {
        "first": [1, 2],
        "second": [3, 4],
        "label": "Component-Whole(e2,e1)",
        "one_way": False,
    }
    assert docs[3].user_data["relation_pair"]["label"] == "Other"
    assert [doc.user_data.get("comment") for doc in docs] == ["clear.", None, None, "none at all"]


def test_semeval_without_answers_and_with_windows_line_ends(read: Read) -> None:
    first, second = read(SEMEVAL.replace("\n", "\r\n"), "semeval2010_task8")[:2]
    assert related(first) == [("fire", "Cause-Effect", "smoke clouds")]
    assert second.user_data["relation_pair"]["label"] == "Component-Whole(e1,e2)"
    (doc,) = read('1\t"<e1>Wheels</e1> of a <e2>car</e2>"\n', "semeval2010_task8")
    assert doc.user_data == {"id": "1"}
    assert len(doc.ents) == 2


def test_nominals_inside_tokens_are_expanded(read: Read) -> None:
    with pytest.warns(EntityKitWarning, match="W201.* 1 spans did not end where tokens do"):
        (doc,) = read('1\t"<e1>sub</e1>way <e2>trains</e2>"\nOther\n', "semeval2010_task8")
    assert doc.user_data["relation_pair"]["first"] == [0, 1]
    assert [ent.text for ent in doc.ents] == ["subway", "trains"]


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ('1\t"no markers"\nOther\n', 1, "expected a number, a tab, and a sentence with <e1>"),
        ('1\t"<e2>b</e2> <e1>a</e1>"\nOther\n', 1, "expected a number"),
        ('"<e1>a</e1> <e2>b</e2>"\nOther\n', 1, "expected a number"),
        ('1\t"<e1>a</e1> <e2>b</e2>"\nother\n', 2, "found 'other'; expected Other, or a relation"),
        ('1\t"<e1>a</e1> <e2>b</e2>"\nX-Y(e1,e1)\n', 2, "expected Other, or a relation"),
        ('1\t"<e1>a</e1> <e2>b</e2>"\nOther\n2\t"next"\n', 3, "expected Comment:, or a blank line"),
    ],
)
def test_bad_semeval_lines(read: Read, content: str, line: int, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[E219\] .*corpus.txt, line {line}: .*{reason}"):
        read(content, "semeval2010_task8")


def test_a_nominal_without_text(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E226\] .*'Other' of a span without text; expected visible characters"):
        read('1\t"<e1> </e1>a <e2>b</e2>"\nOther\n', "semeval2010_task8")


plain = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="<>"), max_size=6)
visible = plain.filter(lambda text: text.strip() == text and text)


@settings(max_examples=50, deadline=None)
@given(plain, visible, plain, visible, plain)
def test_nominals_are_found_again(tmp_path_factory: Any, nlp: Language, a: str, one: str, b: str, two: str, c: str) -> None:
    path = tmp_path_factory.mktemp("x") / "x.txt"
    path.write_text(f'1\t"{a} <e1>{one}</e1> {b} <e2>{two}</e2> {c}."\nX-Y(e2,e1)\n', encoding="utf-8")
    (doc,) = read_docs(path, "semeval2010_task8", nlp)
    assert doc.text == f"{a} {one} {b} {two} {c}."
    assert [span.text for span in doc.spans["sc"]] == [one, two]
    assert related(doc) == [(two, "X-Y", one)]


def test_tacred(read: Read) -> None:
    none = TACRED | {"id": "e2", "relation": "no_relation", "obj_start": 1}
    blind = {key: value for key, value in TACRED.items() if key not in ("relation", "id")}
    first, second, third = read(json.dumps([TACRED, none, blind]), "tacred")
    assert words(first) == TACRED["token"]
    assert entities(first) == [("Ada Lovelace", "PERSON"), ("London", "CITY")]
    assert related(first) == [("Ada Lovelace", "per:city_of_birth", "London")]
    pair = {"first": [0, 2], "second": [5, 6], "label": "per:city_of_birth", "one_way": True}
    assert first.user_data["relation_pair"] == pair
    assert related(second) == []
    assert second.user_data["relation_pair"]["second"] == [1, 6]
    assert third.user_data == {"id": "corpus-3"}


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"obj_end": 7}, "E208", r"the span \[5, 8\) 'per:city_of_birth' is not among the 7 tokens"),
        ({"subj_end": None}, "E207", "the key 'subj_end' is missing"),
        ({"subj_type": 1}, "E206", "'subj_type' is 1; expected a string"),
        ({"token": "Ada"}, "E206", "'token' is 'Ada'; expected a list"),
        ({"token": ["Ada", ""]}, "E210", "token 2 is empty"),
    ],
)
def test_bad_tacred_examples(read: Read, change: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.json, example 1: .*{reason}"):
        read(json.dumps([TACRED | change]), "tacred")
