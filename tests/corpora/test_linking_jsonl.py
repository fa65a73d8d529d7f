from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from spacy.tokens import Doc

from entitykit.corpora.report import Report
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import annotated, linked

Read = Callable[..., list[Doc]]


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


BLINK = {"context_left": "Yesterday", "mention": "Ada B.", "context_right": "met Bob .", "label_id": 974, "label_title": "Ada"}
GENRE = {
    "id": 3,
    "input": "Yesterday [START_ENT] Ada B. [END_ENT] met Bob .",
    "output": [{"answer": "Ada Lovelace", "provenance": [{"title": "Ada Lovelace", "wikipedia_id": "974"}]}],
    "meta": {"left_context": "Yesterday", "mention": "Ada B.", "right_context": "met Bob ."},
    "candidates": ["Ada Lovelace", "Ada (name)"],
}


def test_blink(read: Read) -> None:
    (doc,) = read(lines(BLINK), "blink")
    assert doc.text == "Yesterday Ada B. met Bob ."
    assert linked(doc.spans["sc"]) == [("Ada B.", "ENTITY", "974")]
    assert [ent.kb_id_ for ent in doc.ents] == ["974"]
    assert annotated(doc) == ["Ada", "B."]  # who Bob is, is not said
    assert doc.user_data == {"id": "corpus-1", "blink": {"label_id": 974, "label_title": "Ada"}}


@pytest.mark.parametrize(
    ("left", "mention", "right", "join", "text", "start"),
    [
        ("", "Ada", "", " ", "Ada", 0),
        ("a", "Ada", "b", " ", "a Ada b", 2),
        ("a ", "Ada", "\nb", " ", "a Ada\nb", 2),
        ("(", "Ada", ")", "", "(Ada)", 1),
        ("a", " Ada", "b", " ", "a Ada b", 2),
    ],
)
@pytest.mark.filterwarnings("ignore:.*W201.* 1 lost white space")
def test_blink_seams(read: Read, left: str, mention: str, right: str, join: str, text: str, start: int) -> None:
    record = {"context_left": left, "mention": mention, "context_right": right, "label_id": "7"}
    (doc,) = read(lines(record), "blink", join=join)
    assert (doc.text, doc.ents[0].text, doc.ents[0].start_char) == (text, "Ada", start)


@pytest.mark.parametrize(
    ("change", "key", "entity"),
    [
        ({}, "label_title", "Ada"),
        ({"label_id": -1}, "label_id", "NIL"),
        ({"label_id": None}, "label_id", "NIL"),
        ({"label_id": ""}, "label_id", "NIL"),
        ({"label_id": 0}, "label_id", "0"),
        ({"world": "lego"}, "label_id", "lego:974"),
        ({"world": "lego", "label_id": -1}, "label_id", "NIL"),
        ({"world": "lego"}, "label_title", "Ada"),
    ],
)
def test_blink_ids(read: Read, change: dict[str, Any], key: str, entity: str) -> None:
    (doc,) = read(lines({**BLINK, **change, "query_id": "1 EU:0"}), "blink", kb_id=key)
    assert ([ent.kb_id_ for ent in doc.ents], doc.user_data["id"]) == ([entity], "1 EU:0")


@pytest.mark.parametrize("change", [{}, {"input": "no marks"}, {"meta": None}])
def test_genre(read: Read, change: dict[str, Any]) -> None:
    (doc,) = read(lines({**GENRE, **change}), "genre")
    assert doc.text == "Yesterday Ada B. met Bob ."
    assert linked(doc.spans["sc"]) == [("Ada B.", "ENTITY", "Ada Lovelace")]
    assert annotated(doc) == ["Ada", "B."]
    assert doc.user_data["id"] == "3"
    assert doc.user_data["genre"]["candidates"] == ["Ada Lovelace", "Ada (name)"]


@pytest.mark.parametrize(
    ("text", "plain", "start"),
    [
        ("[START_ENT] Ada [END_ENT] met", "Ada met", 0),
        ("met [START_ENT] Ada [END_ENT]", "met Ada", 4),
        ("a\n[START_ENT]Ada[END_ENT]'s", "a\nAda's", 2),
        ("[START_ENT] Ada [END_ENT] [END_ENT]", "Ada [END_ENT]", 0),
    ],
)
def test_genre_marks(read: Read, text: str, plain: str, start: int) -> None:
    (doc,) = read(lines({"input": text, "output": [{"answer": "A"}]}), "genre")
    assert (doc.text, doc.ents[0].start_char, doc.ents[0].text, doc.ents[0].kb_id_) == (plain, start, "Ada", "A")


@pytest.mark.parametrize("output", [None, [], [{}], [{"answer": ""}], [{"answer": "NIL"}, {"provenance": []}]])
def test_genre_without_answer(read: Read, output: Any) -> None:
    (doc,) = read(lines({**GENRE, "output": output}), "genre")
    assert [ent.kb_id_ for ent in doc.ents] == ["NIL"]


def test_genre_pages(read: Read) -> None:
    report = Report()
    (doc,) = read(lines(GENRE), "genre", kb_id="page")
    assert [ent.kb_id_ for ent in doc.ents] == ["974"]
    with pytest.warns(EntityKitWarning, match=r"\[W207\] .*: 2 links .*The first: 'A' has no wikipedia_id .*line 1"):
        docs = read(
            lines(
                {**GENRE, "output": [{"answer": "A"}]}, {**GENRE, "output": [{"answer": "B", "provenance": [{"title": "B"}]}]}
            ),
            "genre",
            kb_id="page",
            report=report,
        )
    assert ([doc.ents[0].kb_id_ for doc in docs], report.unmapped) == (["NIL", "NIL"], 2)


def test_wordnet(read: Read) -> None:
    report = Report()
    records = [
        {"text": "dye the cloth", "start": 0, "end": 3, "gold": "00283090"},
        {"text": "x", "start": 0, "end": 1, "gold": ""},
        {"text": "rebuilt it", "start": 2, "end": 7, "gold": "01"},
    ]
    with pytest.warns(EntityKitWarning, match=r"W201.* 1 spans did not end"):
        docs = read(lines(*records), "wordnet_linking", report=report)
    assert [linked(doc.spans["sc"]) for doc in docs] == [
        [("dye", "ENTITY", "00283090")],
        [("x", "ENTITY", "NIL")],
        [("rebuilt", "ENTITY", "01")],
    ]
    assert annotated(docs[0]) == ["dye"]
    assert [doc.user_data for doc in docs] == [{"id": "corpus-1"}, {"id": "corpus-2"}, {"id": "corpus-3"}]
    assert (report.linked, report.nil, report.expanded) == (2, 1, 1)


@pytest.mark.parametrize(
    ("format_name", "change", "code", "reason"),
    [
        ("blink", {"mention": " "}, "E226", "the mention ' '; expected visible text"),
        ("blink", {"mention": None}, "E207", "'mention' is missing"),
        ("blink", {"context_left": 1}, "E206", "'context_left' is 1"),
        ("blink", {"label_id": True}, "E206", "'label_id' is True; expected a string"),
        ("blink", {"label_id": [1]}, "E206", r"'label_id' is \[1\]"),
        ("blink", {"world": 3}, "E206", "'world' is 3"),
        ("genre", {"input": "none", "meta": {}}, "E226", "the input 'none'; expected .START_ENT. and .END_ENT. around"),
        ("genre", {"input": "[START_ENT] [END_ENT]"}, "E226", "the mention ''"),
        ("genre", {"input": None}, "E207", "'input' is missing"),
        ("genre", {"output": {}}, "E206", "'output' is {}; expected a list"),
        ("genre", {"output": ["A"]}, "E206", "the record is 'A'; expected an object"),
        ("genre", {"output": [{"answer": 3}]}, "E206", "'answer' is 3"),
        ("genre", {"input": "x", "meta": {"mention": "x"}}, "E207", "'left_context' is missing"),
    ],
)
def test_malformed(read: Read, format_name: str, change: dict[str, Any], code: str, reason: str) -> None:
    good = BLINK if format_name == "blink" else GENRE
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.jsonl, line 2: .*{reason}"):
        read(lines(good, {**good, **change}), format_name)


@pytest.mark.parametrize(
    ("record", "code", "reason"),
    [
        ({"id": "0", "name": "dye", "description": "colour"}, "E207", "'text' is missing; found: id, name"),
        ({"text": "ab", "start": 0, "end": 3, "gold": "1"}, "E226", r"a mention \[0, 3\); expected 0 <= start < end <= 2"),
        ({"text": "ab", "start": 1, "end": 1, "gold": "1"}, "E226", r"\[1, 1\)"),
        ({"text": "ab", "start": -1, "end": 1, "gold": "1"}, "E226", r"\[-1, 1\)"),
        ({"text": "ab", "start": "0", "end": 1, "gold": "1"}, "E206", "'start' is '0'; expected a whole number"),
        ({"text": "ab", "start": 0, "end": 1}, "E207", "'gold' is missing"),
    ],
)
def test_malformed_wordnet(read: Read, record: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.jsonl, line 1: .*{reason}"):
        read(lines(record), "wordnet_linking")


def test_keys_that_no_record_has(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E207\] .*line 1: the key 'Wikipedia_ID' is missing"):
        read(lines(BLINK), "blink", kb_id="Wikipedia_ID")
    with pytest.raises(ConfigError, match=r"\[E213\] The option kb_id is 'qid'; expected: title or page"):
        read(lines(GENRE), "genre", kb_id="qid")


def test_a_folder_and_json(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E205\] .*line 1"):
        read("{", "blink")
    with pytest.raises(CorpusError, match=r"\[E209\] .*half character"):
        read(lines({**BLINK, "mention": "a\ud800"}), "blink")
