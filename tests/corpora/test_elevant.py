from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from entitykit.corpora.report import Report
from entitykit.errors import CorpusError, EntityKitWarning
from entitykit.scoring.linking import linking_score
from tests.corpora.util import annotated, linked, words

Read = Callable[..., list[Doc]]

TEXT = "Old news. Ada Lovelace's 3 British friends met in London in 1842. More."


def label(text: str, entity: str, kind: str = "Q5", **more: Any) -> dict[str, Any]:
    start = TEXT.index(text)
    return {"span": [start, start + len(text)], "entity_id": entity, "name": text, "type": kind, **more}


LABELS = [
    label("Ada Lovelace", "Q7259", id=0, coref=False, children=[1]),
    label("Lovelace", "<NIL>", "OTHER", id=1, parent=0),
    label("3", "QUANTITY", "QUANTITY", id=2),
    label("British", "Q145", "Q43229", id=3, children=[4]),
    label("British", "Q842438", "Q43229", id=4, parent=3),
    label("London", "Q84", "Q515|Q486972", id=5),
    label("1842", "DATETIME", "DATETIME", id=6),
    label("friends", "Q17297777", "Q5", id=7, optional=True),
]
RECORD = {"id": 5, "title": "Ada", "text": TEXT, "evaluation_span": [10, 65], "labels": LABELS}


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_document(read: Read) -> None:
    report = Report()
    (doc,) = read(lines(RECORD), "elevant", report=report)
    assert linked(doc.spans["sc"]) == [
        ("Ada Lovelace", "Q5", "Q7259"),
        ("Lovelace", "OTHER", "NIL"),
        ("3", "QUANTITY", "NIL"),
        ("British", "Q43229", "Q145"),
        ("British", "Q43229", "Q842438"),  # the same words and type, and another entity
        ("London", "Q515|Q486972", "Q84"),
        ("1842", "DATETIME", "NIL"),
    ]
    assert [(ent.text, ent.kb_id_) for ent in doc.ents] == [
        ("Ada Lovelace", "Q7259"),
        ("3", "NIL"),
        ("British", "Q145"),
        ("London", "Q84"),
        ("1842", "NIL"),
    ]
    assert linked(doc.spans["optional"]) == [("friends", "Q5", "Q17297777")]
    assert (doc.text, doc.user_data["id"]) == (TEXT, "5")
    assert doc.user_data["elevant"] == {key: value for key, value in RECORD.items() if key != "text"}
    assert (report.entities, report.linked, report.nil, report.not_flat, report.duplicates) == (7, 4, 3, 2, 0)
    assert ("entities with a link", 4) in report.rows()


def test_outside_the_evaluation_span_nothing_is_known(read: Read) -> None:
    (doc,) = read(lines(RECORD), "elevant")
    assert words(doc)[:3] == ["Old", "news", "."]
    assert " ".join(annotated(doc)) == "Ada Lovelace 's 3 British friends met in London in 1842 ."
    (copy,) = DocBin().from_bytes(DocBin(docs=[doc], store_user_data=True).to_bytes()).get_docs(doc.vocab)
    assert annotated(copy) == annotated(doc)
    (whole,) = read(lines({"text": TEXT, "labels": []}), "elevant")
    assert annotated(whole) == words(whole)
    assert set(whole.spans) == {"sc"}


def test_scored_as_elevant_does(read: Read) -> None:
    """An optional label may be found, and a link outside the evaluation span is no error."""
    (gold,) = read(lines(RECORD), "elevant")
    predicted = Doc(gold.vocab, words=words(gold), spaces=[bool(token.whitespace_) for token in gold])
    spans = [gold.char_span(TEXT.index(text), TEXT.index(text) + len(text)) for text in ("news", "Ada Lovelace", "friends")]
    predicted.set_ents(
        [
            predicted.char_span(span.start_char, span.end_char, label="X", kb_id=entity)
            for span, entity in zip(spans, ["Q38926", "Q7259", "Q17297777"], strict=True)
        ]
    )
    scores = linking_score([Example(predicted, gold)])
    assert (scores["linking_micro_p"], scores["linking_micro_r"]) == (1, 1 / 3)


def test_ids_and_labels_that_are_missing(read: Read) -> None:
    records = [
        {"text": "a b c d", "labels": [{"span": [0, 1], "entity_id": "Unknown7"}, {"span": [2, 3], "entity_id": ""}]},
        {"id": "x", "text": "a b", "labels": None, "evaluation_span": None},
        {"text": "a b", "labels": [{"span": [0, 1], "entity_id": "kb:7", "type": ""}]},
    ]
    docs = read(lines(*records), "elevant")
    assert [doc.user_data["id"] for doc in docs] == ["corpus-1", "x", "corpus-3"]
    assert linked(docs[0].spans["sc"]) == [("a", "ENTITY", "NIL"), ("b", "ENTITY", "NIL")]
    assert linked(docs[2].spans["sc"]) == [("a", "ENTITY", "kb:7")]


def test_spans_inside_tokens_are_expanded_and_counted(read: Read) -> None:
    report = Report()
    record = {"text": "mid-1990s", "labels": [{"span": [4, 8], "entity_id": "Q1"}], "evaluation_span": [4, 8]}
    with pytest.warns(EntityKitWarning, match=r"W201.* 1 spans did not end .*became 'mid-1990s'"):
        (doc,) = read(lines(record), "elevant", report=report)
    assert (linked(doc.spans["sc"]), report.expanded, annotated(doc)) == ([("mid-1990s", "ENTITY", "Q1")], 1, ["mid-1990s"])


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"text": None}, "E207", "'text' is missing"),
        ({"labels": {}}, "E206", "'labels' is {}; expected a list"),
        ({"labels": [7]}, "E206", "a label is 7; expected an object"),
        ({"labels": [{"entity_id": "Q1"}]}, "E207", "'span' is missing"),
        ({"labels": [{"span": [0, 1]}]}, "E207", "'entity_id' is missing"),
        ({"labels": [{"span": [0, 1], "entity_id": 1}]}, "E206", "'entity_id' is 1"),
        ({"labels": [{"span": [0], "entity_id": "Q1"}]}, "E206", r"'span' is \[0\]; expected 2 items"),
        ({"labels": [{"span": [0, 4], "entity_id": "Q1"}]}, "E226", r"'span' \[0, 4\); expected 0 <= start < end <= 3"),
        ({"labels": [{"span": [1, 1], "entity_id": "Q1"}]}, "E226", r"\[1, 1\)"),
        ({"evaluation_span": [-1, 2]}, "E226", r"'evaluation_span' \[-1, 2\)"),
        ({"evaluation_span": "all"}, "E206", "'evaluation_span' is 'all'"),
    ],
)
def test_malformed(read: Read, change: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.jsonl, line 2: .*{reason}"):
        read(lines({"text": "a"}, {"text": "a b", **change}), "elevant")
