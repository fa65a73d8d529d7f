from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from spacy.tokens import Doc

from entitykit.errors import ConfigError, CorpusError
from tests.corpora.util import entities, offsets, starts, words

Read = Callable[..., list[Doc]]

ABSTRACT = {
    "doc_key": "P1",
    "sentences": [["We", "parse", "speech", "."], ["The", "speech", "parser", "wins", "."]],
    "ner": [[[2, 2, "Material"]], [[5, 5, "Material"], [4, 6, "Method"]]],
    "relations": [[], [[5, 5, 4, 6, "USED-FOR"]]],
    "clusters": [[[2, 2], [5, 5]]],
}


def test_a_doc_per_document(read: Read) -> None:
    (doc,) = read(json.dumps(ABSTRACT), "dygie")
    assert words(doc) == ["We", "parse", "speech", ".", "The", "speech", "parser", "wins", "."]
    assert starts(doc) == [0, 4]
    assert entities(doc) == [("speech", "Material"), ("speech", "Material"), ("The speech parser", "Method")]
    assert [ent.text for ent in doc.ents] == ["speech", "The speech parser"]
    assert doc.user_data == {"id": "P1", "relations": [{"head": [5, 6], "tail": [4, 7], "label": "USED-FOR"}]}
    assert set(doc.spans) == {"sc", "coref_clusters_1"}
    assert offsets(doc.spans["coref_clusters_1"]) == [(2, 3, ""), (5, 6, "")]


def test_a_doc_per_sentence(read: Read) -> None:
    first, second = read(json.dumps(ABSTRACT), "dygie", unit="sentence")
    assert words(second) == ["The", "speech", "parser", "wins", "."]
    assert offsets(second.spans["sc"]) == [(1, 2, "Material"), (0, 3, "Method")]
    assert second.user_data == {"id": "P1-2", "relations": [{"head": [1, 2], "tail": [0, 3], "label": "USED-FOR"}]}
    assert [set(doc.spans) for doc in (first, second)] == [{"sc"}, {"sc"}]


def test_blank_lines_and_optional_parts(read: Read) -> None:
    least = {"sentences": [["a"]], "ner": [[]]}
    docs = read(f"\n{json.dumps(least)}\r\n\r\n{json.dumps(ABSTRACT)}\r\n", "dygie")
    assert [doc.user_data["id"] for doc in docs] == ["corpus-2", "P1"]
    assert set(docs[0].spans) == {"sc"}


def test_no_clusters_and_clusters_that_were_not_looked_for(read: Read) -> None:
    lines = [json.dumps({**ABSTRACT, "clusters": clusters}) for clusters in ([], None, [[[5, 5]], [[2, 2], [0, 0]]])]
    none, unknown, two = read("\n".join(lines), "dygie")
    assert offsets(none.spans["coref_clusters_1"]) == []
    assert set(unknown.spans) == {"sc"}
    assert [offsets(two.spans[f"coref_clusters_{i}"]) for i in (1, 2)] == [[(0, 1, ""), (2, 3, "")], [(5, 6, "")]]


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"ner": [[]]}, "E217", "'ner' has 1 lists; expected 2"),
        ({"relations": [[], [], []]}, "E217", "'relations' has 3 lists; expected 2"),
        ({"ner": None}, "E207", "'ner' is missing"),
        ({"ner": [[[2, 9, "x"]], []]}, "E208", r"\[2, 10\) 'x' is not among the 9 tokens"),
        ({"ner": [[[2, 1, "x"]], []]}, "E208", r"\[2, 2\)"),
        ({"ner": [[[2, 2, "x", 0.5]], []]}, "E206", "expected 3 items"),
        ({"relations": [[[0, 0, 8, 9, "x"]], []]}, "E208", r"\[8, 10\)"),
        ({"clusters": [[[0, 99]]]}, "E208", r"\[0, 100\)"),
        ({"relations": [[[0, 0, 1, 1, "\ud800"]], []]}, "E209", "half character"),
        ({"clusters": [[0, 1]]}, "E206", "a mention is 0; expected a list"),
        ({"clusters": [[[2, 2]], []]}, "E206", r"a cluster is \[\]; expected a list of one mention"),
        ({"sentences": [["a"], "b"]}, "E206", "a sentence is 'b'"),
    ],
)
def test_malformed_record(read: Read, change: dict[str, Any], code: str, reason: str) -> None:
    text = f"{json.dumps(ABSTRACT)}\n{json.dumps({**ABSTRACT, **change})}\n"
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.json, line 2: .*{reason}"):
        read(text, "dygie")


def test_offsets_of_another_sentence(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E208\] .*line 1: the span \[4, 7\) 'x' is not among the 4 tokens"):
        read(json.dumps({**ABSTRACT, "ner": [[[4, 6, "x"]], []]}), "dygie", unit="sentence")


def test_not_json(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E205\] .*corpus.json, line 2: this is not JSON"):
        read(f"{json.dumps(ABSTRACT)}\n{{\n", "dygie")


def test_wrong_unit(read: Read) -> None:
    with pytest.raises(ConfigError, match=r"\[E213\] The option unit is 'paragraph'; expected: document, sentence"):
        read(json.dumps(ABSTRACT), "dygie", unit="paragraph")
