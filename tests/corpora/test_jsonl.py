from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup

from entitykit.corpora.jsonl import doc_to_record, record_to_doc
from entitykit.corpora.report import Report
from entitykit.errors import CorpusError, EntityKitWarning
from tests.corpora.util import AWKWARD, entities, offsets, words

Read = Callable[..., list[Doc]]

NLP = spacy.blank("en")

RECORD = {
    "id": "doc-1",
    "text": "Ada Lovelace met Bob.",
    "tokens": [[0, 3], [4, 12], [13, 16], [17, 20], [20, 21]],
    "entities": [
        {"start": 0, "end": 12, "label": "PERSON", "score": 0.5, "kb_id": "Q7259"},
        {"start": 0, "end": 3, "label": "NAME", "score": None},
    ],
    "spans": {"mentions": [{"start": 17, "end": 20, "label": "", "score": 0.25}]},
    "meta": {"source": ["a", 1, None]},
}


def test_record_to_doc(nlp: Language) -> None:
    doc = record_to_doc(RECORD, nlp)
    assert words(doc) == ["Ada", "Lovelace", "met", "Bob", "."]
    assert entities(doc) == [("Ada Lovelace", "PERSON"), ("Ada", "NAME")]
    assert doc.spans["sc"].attrs["scores"] == [0.5, None]
    assert [(ent.text, ent.kb_id_) for ent in doc.ents] == [("Ada Lovelace", "Q7259")]
    assert offsets(doc.spans["mentions"]) == [(3, 4, "")]
    assert doc.spans["mentions"].attrs["scores"] == [0.25]
    assert doc.user_data == {"id": "doc-1", "meta": {"source": ["a", 1, None]}}


def test_there_and_back(nlp: Language) -> None:
    assert doc_to_record(record_to_doc(RECORD, nlp)) == RECORD


def test_the_least_record(nlp: Language) -> None:
    doc = record_to_doc({"text": "Hi, Bob!"}, nlp)
    assert words(doc) == ["Hi", ",", "Bob", "!"]
    assert (list(doc.spans["sc"]), doc.user_data) == ([], {})
    assert doc_to_record(doc) == {"text": "Hi, Bob!", "tokens": [[0, 2], [2, 3], [4, 7], [7, 8]], "entities": []}


def test_flat_entities_take_their_scores_from_their_group(nlp: Language) -> None:
    doc = nlp.make_doc("Ada met Bob")
    doc.ents = [Span(doc, 0, 1, label="PER"), Span(doc, 2, 3, label="PER")]
    assert [ent["score"] for ent in doc_to_record(doc)["entities"]] == [None, None]
    doc.spans["ents"] = SpanGroup(doc, spans=list(doc.ents)[1:], attrs={"scores": np.asarray([0.75], dtype="float32")})
    record = doc_to_record(doc)
    assert record["entities"] == [
        {"start": 0, "end": 3, "label": "PER", "score": None},
        {"start": 8, "end": 11, "label": "PER", "score": 0.75},
    ]
    assert "spans" not in record
    json.dumps(record)


def test_flat_entities_beside_the_nested_group(nlp: Language) -> None:
    """A link that only doc.ents has is that of the same entity in the group; what the group has not is not lost."""
    doc = nlp.make_doc("Ada of Ada met Bob")
    places = [(0, 3, "PER"), (0, 1, "PER"), (2, 3, "PER"), (4, 5, "PER")]
    group = [Span(doc, 0, 3, label="PER"), Span(doc, 0, 1, label="PER", kb_id="Q1"), Span(doc, 2, 3, label="PER", span_id="C7")]
    doc.spans["sc"] = SpanGroup(doc, spans=[*group, Span(doc, 4, 5, label="GPE")], attrs={"scores": [0.1, 0.2, 0.3, 0.4]})
    doc.ents = [Span(doc, *place, kb_id=link) for place, link in zip(places[1:], ["", "Q2", "Q3"], strict=True)]
    doc.spans["ents"] = SpanGroup(doc, spans=list(doc.ents), attrs={"scores": [0.5, 0.6, 0.7]})
    record = doc_to_record(doc)
    assert [(e["start"], e["end"], e["label"], e["score"], e.get("kb_id"), e.get("id")) for e in record["entities"]] == [
        (0, 10, "PER", 0.1, None, None),
        (0, 3, "PER", 0.2, "Q1", None),
        (7, 10, "PER", 0.3, "Q2", "C7"),
        (15, 18, "GPE", 0.4, None, None),
        (15, 18, "PER", 0.7, "Q3", None),
    ]
    assert doc_to_record(record_to_doc(record, nlp)) == record
    assert [span.kb_id_ for span in doc.spans["sc"]] == ["", "Q1", "", ""]  # the document is as it was


def test_entities_with_two_links_are_two(nlp: Language) -> None:
    doc = nlp.make_doc("Ada met Bob")
    doc.spans["sc"] = [Span(doc, 0, 1, label="PER", kb_id="Q1")]
    doc.ents = [Span(doc, 0, 1, label="PER", kb_id="Q2")]
    record = doc_to_record(doc)
    assert [entity["kb_id"] for entity in record["entities"]] == ["Q1", "Q2"]
    assert doc_to_record(record_to_doc(record, nlp)) == record


def test_scores_must_fit_their_group(nlp: Language) -> None:
    doc = nlp.make_doc("Ada met Bob")
    doc.spans["mentions"] = SpanGroup(doc, spans=[doc[0:1]], attrs={"scores": [0.1, 0.2]})
    with pytest.raises(CorpusError, match=r"\[E227\] doc.spans\['mentions'\] has 2 scores for 1 spans"):
        doc_to_record(doc)


def test_changes_are_warned_of_or_reported(nlp: Language) -> None:
    spans = [(0, 2), (3, 4), (3, 7), (7, 9)]
    record = {"text": "Ada Byron", "entities": [{"start": start, "end": end, "label": "X"} for start, end in spans]}
    with pytest.warns(EntityKitWarning, match=r"\[W201\] line 3: 3 spans did not end .* 0 lost white space .* 1 hold no"):
        record_to_doc(record, nlp, where="line 3")
    report = Report()
    doc = record_to_doc(record, nlp, report=report)
    assert entities(doc) == [("Ada", "X"), ("Byron", "X")]
    assert (report.expanded, report.dropped, report.duplicates, report.entities) == (3, 1, 1, 2)


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("a b", [[0, 1], [2, 3]], ["a", "b"]),
        ("a  b", [[0, 1], [3, 4]], ["a", " ", "b"]),
        (" a\n", [[1, 2]], [" ", "a", "\n"]),
        ("a\tb ", [[0, 1], [2, 3]], ["a", "\t", "b"]),
        ("ab", [[0, 1], [1, 2]], ["a", "b"]),
        (" \n", [], [" \n"]),
        ("", [], []),
    ],
)
def test_tokens_may_leave_out_white_space(nlp: Language, text: str, tokens: list[list[int]], expected: list[str]) -> None:
    doc = record_to_doc({"text": text, "tokens": tokens}, nlp)
    assert doc.text == text
    assert words(doc) == expected


def test_file(read: Read) -> None:
    lines = [json.dumps(RECORD), "", json.dumps({"text": "x", "id": None, "entities": None, "tokens": None})]
    docs = read("\ufeff" + "\r\n".join(lines), "jsonl")
    assert [doc.user_data["id"] for doc in docs] == ["doc-1", "corpus-3"]


def test_a_line_separator_inside_a_text_ends_no_line(read: Read) -> None:
    (doc,) = read(json.dumps({"text": "a\u2028b\x85c"}, ensure_ascii=False), "jsonl")
    assert doc.text == "a\u2028b\x85c"


def entity(start: object, end: object, **values: object) -> list[dict[str, object]]:
    return [{"start": start, "end": end, "label": "X", **values}]


@pytest.mark.parametrize(
    ("record", "code", "reason"),
    [
        ([], "E206", r"the record is \[\]; expected an object"),
        ({}, "E207", "'text' is missing; found: none"),
        ({"text": 1}, "E206", "'text' is 1; expected a string"),
        ({"text": "a", "id": 1}, "E206", "'id' is 1; expected a string"),
        ({"text": "a", "entities": {}}, "E206", "'entities' is {}; expected a list"),
        ({"text": "a", "entities": [1]}, "E206", "the record is 1; expected an object"),
        ({"text": "a", "entities": entity(None, 1)}, "E207", r"'start' is missing; found: start \(null\), end, label"),
        ({"text": "a", "entities": entity("0", 1)}, "E206", "'start' is '0'; expected a whole number"),
        ({"text": "a", "entities": entity(0, 1.0)}, "E206", "'end' is 1.0"),
        ({"text": "a", "entities": entity(0, 1, score="high")}, "E206", "'score' is 'high'; expected a number"),
        ({"text": "a", "entities": entity(0, 1, label="")}, "E226", "an entity without label"),
        ({"text": "a", "entities": entity(1, 0)}, "E226", r"found a span \[1, 0\)"),
        ({"text": "a", "entities": entity(-1, 1)}, "E226", r"found a span \[-1, 1\)"),
        ({"text": "a", "spans": {"sc": []}}, "E226", "the group 'sc' in 'spans'; expected its spans in 'entities'"),
        ({"text": "a", "spans": {"x": 1}}, "E206", "'x' is 1; expected a list"),
        ({"text": "ab", "tokens": []}, "E225", r"\[2, 2\) does not fit a text of 2 characters of which 0"),
        ({"text": "ab", "tokens": [[0, 1]]}, "E225", ""),
        ({"text": "ab", "tokens": [[0, 3]]}, "E225", ""),
        ({"text": "ab", "tokens": [[0, 2], [1, 2]]}, "E225", ""),
        ({"text": "ab", "tokens": [[0, 2], [2, 2]], "entities": []}, None, ""),
        ({"text": "ab", "tokens": [[0, 0], [0, 2]]}, "E225", ""),
        ({"text": "ab", "tokens": [[-1, 2]]}, "E225", ""),
        ({"text": "ab", "tokens": [0, 1]}, "E206", "a token is 0"),
        ({"text": "\ud800"}, "E209", r"U\+D800"),
        ({"text": "a", "meta": {"\udfff": 1}}, "E209", r"U\+DFFF"),
        ({"text": "a", "entities": entity(0, 1, label="\ud800")}, "E209", ""),
    ],
)
def test_malformed_record(read: Read, record: Any, code: str | None, reason: str) -> None:
    text = f"{json.dumps(RECORD)}\n{json.dumps(record)}\n"
    if code is None:
        assert len(read(text, "jsonl")) == 2
        return
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.jsonl, line 2: .*{reason}"):
        read(text, "jsonl")


@pytest.mark.parametrize("line", ["{", "nothing", '{"text": "a", "entities": [{"score": NaN}]}', '{"text": "a"} {}'])
def test_not_json(read: Read, line: str) -> None:
    with pytest.raises(CorpusError, match=r"\[E205\] .*corpus.jsonl, line 1: this is not JSON"):
        read(line, "jsonl")


word = st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4))
label = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)
score = st.one_of(st.none(), st.floats(0, 1))
json_value = st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text("aé😀", max_size=2), st.lists, max_leaves=4)


@st.composite
def docs(draw: st.DrawFn) -> Doc:
    """Any document; spans start and end with visible tokens, because others are trimmed when they are read."""
    tokens = draw(st.lists(st.tuples(word, st.booleans()), max_size=8))
    doc = Doc(NLP.vocab, words=[token for token, _ in tokens], spaces=[space for _, space in tokens])
    visible = [token.i for token in doc if token.text.strip()]
    bounds = [(i, j + 1) for i in visible for j in visible if i <= j]
    ids = st.sampled_from(["", "Q1"])
    for key, labels in (("sc", label), ("mentions", st.just("")), ("other", label)):
        if key == "sc" or draw(st.booleans()):
            chosen = draw(st.lists(st.sampled_from(bounds), unique=True, max_size=4)) if bounds else []
            spans = [
                Span(doc, *bound, label=draw(labels), kb_id=draw(ids), span_id=draw(ids) if key == "other" else "")
                for bound in chosen
            ]
            scores = draw(st.lists(score, min_size=len(spans), max_size=len(spans)))
            doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs={"scores": scores} if draw(st.booleans()) else {})
    if draw(st.booleans()):
        doc.user_data["meta"] = draw(st.dictionaries(st.text("ab", max_size=2), json_value, max_size=2))
    if draw(st.booleans()):
        doc.user_data["id"] = draw(label)
    return doc


@given(docs())
def test_any_document_survives(doc: Doc) -> None:
    record = doc_to_record(doc)
    report = Report()
    copy = record_to_doc(json.loads(json.dumps(record, allow_nan=False)), NLP, report=report)
    assert doc_to_record(copy) == record
    assert [(token.text, token.whitespace_) for token in copy] == [(token.text, token.whitespace_) for token in doc]
    for key, group in doc.spans.items():
        assert offsets(copy.spans[key]) == offsets(group)
        assert [(span.kb_id_, span.id_) for span in copy.spans[key]] == [(span.kb_id_, span.id_) for span in group]
    assert copy.user_data == doc.user_data
    assert (report.expanded, report.trimmed, report.dropped, report.duplicates) == (0, 0, 0, 0)
