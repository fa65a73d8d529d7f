from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from spacy.tokens import Doc, DocBin

from entitykit.errors import CorpusError
from tests.corpora.util import AWKWARD, entities, offsets, words

Read = Callable[..., list[Doc]]

TOKENS = ["Ada", "Byron", "lives", "in", "London", "."]
RELATION = {"head": [0, 2], "tail": [4, 5], "label": "Live_In"}

LISTS = {"tokens": TOKENS, "entities": [[0, 2, "Peop"], [4, 5, "Loc"]], "relations": [[0, 2, 4, 5, "Live_In"]]}
DICTS = {
    "tokens": TOKENS,
    "entities": [{"type": "Peop", "start": 0, "end": 2}, {"type": "Loc", "start": 4, "end": 5}],
    "relations": [{"type": "Live_In", "head": 0, "tail": 1}],
    "orig_id": 7,
}


@pytest.mark.parametrize(("record", "name"), [(LISTS, "corpus-1"), (DICTS, "7")])
def test_both_styles(read: Read, record: dict[str, Any], name: str) -> None:
    (doc,) = read(json.dumps([record]), "conll04")
    assert words(doc) == TOKENS
    assert entities(doc) == [("Ada Byron", "Peop"), ("London", "Loc")]
    assert doc.user_data == {"id": name, "relations": [RELATION]}


def test_nested_entities(read: Read) -> None:
    record = {"tokens": ["New", "York", "Times"], "entities": [[0, 2, "Loc"], [0, 3, "Org"]]}
    (doc,) = read(json.dumps([record]), "conll04")
    assert offsets(doc.spans["sc"]) == [(0, 2, "Loc"), (0, 3, "Org")]
    assert [(ent.text, ent.label_) for ent in doc.ents] == [("New York Times", "Org")]
    assert doc.user_data["relations"] == []


def test_everything_survives_a_docbin(read: Read) -> None:
    (doc,) = read(json.dumps([LISTS]), "conll04")
    data = DocBin(docs=[doc], store_user_data=True).to_bytes()
    (copy,) = DocBin().from_bytes(data).get_docs(doc.vocab)
    assert json.loads(json.dumps(copy.user_data)) == doc.user_data  # a DocBin gives lists back as tuples
    assert offsets(copy.spans["sc"]) == offsets(doc.spans["sc"])


def test_awkward_tokens(read: Read) -> None:
    (doc,) = read(json.dumps([{"tokens": AWKWARD, "entities": []}]), "conll04")
    assert words(doc) == AWKWARD


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"tokens": "Ada"}, "E206", "'tokens' is 'Ada'; expected a list"),
        ({"tokens": ["a", 1]}, "E206", "a token is 1; expected a string"),
        ({"tokens": ["a", ""]}, "E210", "token 2 is empty"),
        ({"tokens": None}, "E207", r"the key 'tokens' is missing; found: tokens \(null\), entities, relations"),
        ({"entities": [[0, 2]]}, "E206", r"an entity is \[0, 2\]; expected 3 items"),
        ({"entities": [[0, "2", "Peop"]]}, "E206", "an entity, item 2, is '2'; expected a whole number"),
        ({"entities": [[0, True, "Peop"]]}, "E206", "is True; expected a whole number"),
        ({"entities": [[0, 7, "Peop"]]}, "E208", r"the span \[0, 7\) 'Peop' is not among the 6 tokens"),
        ({"entities": [[-1, 2, "Peop"]]}, "E208", r"\[-1, 2\)"),
        ({"entities": [[2, 2, "Peop"]]}, "E208", r"\[2, 2\)"),
        ({"entities": [{"start": 0, "end": 1}]}, "E207", "'type' is missing; found: start, end"),
        ({"entities": [[0, 1, ""]]}, "E226", "an entity without label"),
        ({"relations": [[0, 2, 4, 9, "x"]]}, "E208", r"\[4, 9\) 'x'"),
        ({"relations": [{"type": "x", "head": 0, "tail": 2}]}, "E216", "tail is entity 2; expected an index below 2"),
        ({"relations": [{"type": "x", "head": -1, "tail": 0}]}, "E216", "head is entity -1"),
        ({"tokens": ["\ud83d"]}, "E209", r"half character U\+D83D"),
    ],
)
def test_malformed_sentence(read: Read, change: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.json, sentence 2: .*{reason}"):
        read(json.dumps([LISTS, {**LISTS, **change}]), "conll04")


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("", "E203", ""),
        (" \n", "E203", ""),
        ("[]", "E203", "holds no document"),
        ("{}", "E206", "the file is {}; expected a list"),
        ("[1]", "E206", "the record is 1; expected an object"),
        ('[{"tokens":\n ["a"]', "E205", "line 2: this is not JSON: Expecting ',' delimiter"),
        ("[" * 100_000, "E205", "this is not JSON"),
        (b"[\n\xff]", "E204", "line 2: the byte 0xff"),
    ],
)
def test_malformed_file(read: Read, text: str | bytes, code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.json.*{reason}"):
        read(text, "conll04")
