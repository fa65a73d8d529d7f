"""What documents have beside spans, written as JSON lines and read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin, Span

from entitykit.corpora.jsonl import doc_to_record, record_to_doc
from entitykit.corpora.layers import LAYERS
from entitykit.corpora.report import Report
from entitykit.corpora.triples import read_triples
from entitykit.errors import CorpusError, EntityKitError
from entitykit.scoring.relation_documents import known_facts
from entitykit.scoring.salience_documents import rated_entities

Read = Callable[..., list[Doc]]

NLP = spacy.blank("en")
TEXT = "Ada  met Bob. She liked him."  # two spaces, so that tokens are not words

STATES = {
    "participants": ["Ada"],
    "mentions": [[[0, 1], [5, 6]]],
    "steps": [[0, 5], [5, 9], [9, 9]],
    "states": [["?", "here", "-", "-"]],
    "tags": [["M", "D", "O_A"]],
    "scores": [[0.5, 0.25, 1.0]],
    "place_scores": [[1.0, 0.5, None, None]],
}
PREDICTED: dict[str, Any] = {
    "relations": [
        {
            "head": [0, 1],
            "tail": [3, 4],
            "head_span": [0, 3],
            "tail_span": [9, 12],
            "label": "MET",
            "score": 0.75,
            "sentence": 0,
            "head_cluster": 1,
            "tail_cluster": None,
        }
    ],
    "cluster_relations": [{"head": 1, "tail": 2, "label": "LIKES", "score": 0.5}],
    "salience": [
        {"entity": "Ada", "label": "PER", "mentions": [[0, 1], [5, 6]], "id": "Q7259", "score": 0.9, "salient": True},
        {"entity": "Bob", "label": "", "mentions": [[3, 4]], "score": 0.1, "salient": False},
    ],
    "entity_states": STATES,
    "nil_clusters": {"NIL-1": [[3, 4], [7, 8]], "NIL-corpus-2": []},
}


def annotated(values: dict[str, Any]) -> Doc:
    """A document with values as spaCy keeps those of extensions."""
    doc = NLP(TEXT)
    doc.ents = [Span(doc, 0, 1, label="PER", kb_id="Q7259"), Span(doc, 3, 4, label="PER")]
    doc.spans["coref_clusters_1"] = [doc[0:1], doc[5:6]]
    doc.spans["coref_clusters_2"] = [doc[3:4], doc[7:8]]
    for name, value in values.items():
        doc.user_data["._.", name, None, None] = value
    return doc


def test_layers_in_characters() -> None:
    record = doc_to_record(annotated(PREDICTED))
    assert record["relations"] == [
        {
            "head": [0, 3],
            "tail": [9, 12],
            "label": "MET",
            "score": 0.75,
            "sentence": 0,
            "head_cluster": 1,
            "tail_cluster": None,
        }
    ]
    assert record["cluster_relations"] == PREDICTED["cluster_relations"]
    assert [[TEXT[slice(*place)] for place in rated["mentions"]] for rated in record["salience"]] == [["Ada", "She"], ["Bob"]]
    assert record["entity_states"]["mentions"] == [[[0, 3], [14, 17]]]
    assert [TEXT[slice(*step)] for step in record["entity_states"]["steps"]] == ["Ada  met Bob.", "She liked him.", ""]
    assert record["nil_clusters"] == {"NIL-1": [[9, 12], [24, 27]], "NIL-corpus-2": []}
    assert set(LAYERS) == set(PREDICTED) <= record.keys()


def test_layers_are_read_as_gold() -> None:
    report = Report()
    doc = annotated(PREDICTED)
    record = json.loads(json.dumps(doc_to_record(doc), allow_nan=False))
    copy = record_to_doc(record, NLP, report=report)
    in_tokens = {key: value for key, value in PREDICTED["relations"][0].items() if not key.endswith("_span")}
    assert copy.user_data["relations"] == [in_tokens]
    assert copy.user_data["cluster_relations"] == PREDICTED["cluster_relations"]
    assert copy.user_data["salience"] == PREDICTED["salience"]
    assert copy.user_data["procedure"] == record["entity_states"]
    assert doc_to_record(copy) == record
    assert not report.expanded
    assert not report.dropped
    # as those who learn, score and export read them
    assert [(one.head.text, one.relation, one.tail.text, one.tail.unknown) for one in read_triples(copy)] == [
        ("Ada", "MET", "Bob", "NIL-1")
    ]
    assert ("Ada", "Bob", "LIKES") in known_facts([copy])
    rated = rated_entities(copy, copy.user_data["salience"])
    assert rated is not None
    assert [each.mentions for each in rated] == [[(0, 1), (5, 6)], [(3, 4)]]


def test_what_a_docbin_gives_is_the_same() -> None:
    doc = annotated(PREDICTED)
    (copy,) = DocBin().from_bytes(DocBin(docs=[doc], store_user_data=True).to_bytes()).get_docs(NLP.vocab)
    assert json.dumps(doc_to_record(copy)) == json.dumps(doc_to_record(doc))


def test_nothing_found_is_not_nothing_looked_for() -> None:
    empty: dict[str, Any] = {name: [] for name in LAYERS[:3]} | {"nil_clusters": {}}
    record = doc_to_record(annotated(empty))
    assert {name: record[name] for name in empty} == empty
    copy = record_to_doc(record, NLP)
    assert [copy.user_data[name] for name in LAYERS[:3]] == [[], [], []]
    assert not set(LAYERS) & doc_to_record(annotated({})).keys()
    assert not set(LAYERS) & doc_to_record(annotated(dict.fromkeys(LAYERS))).keys()


def test_gold_is_written_where_nothing_is_predicted() -> None:
    doc = annotated({})
    grid = {"participants": ["Ada"], "steps": [[0, 13]], "states": [["?", "-"]]}
    gold = {
        "relations": [{"head": [0, 1], "tail": [3, 4], "label": "MET"}],
        "cluster_relations": [{"head": 2, "tail": 1, "label": "KNOWS", "evidence": [0]}],
        "salience": [{"id": 3, "entity": "Ada", "score": 2.5, "group": "coref_clusters_1"}],
        "procedure": grid,
    }
    doc.user_data |= gold
    record = doc_to_record(doc)
    assert record["entity_states"] == grid
    copy = record_to_doc(record, NLP)
    assert {name: copy.user_data[name] for name in gold} == gold
    doc.user_data["._.", "relations", None, None] = []
    assert doc_to_record(doc)["relations"] == []


def test_places_that_do_not_fit_tokens_are_counted() -> None:
    """Those of entities once."""
    relation = {"head": [0, 2], "tail": [9, 11], "label": "MET"}
    salience = [{"score": 1, "mentions": [[3, 5], [14, 17]]}]
    entity = {"start": 0, "end": 2, "label": "PER"}
    report = Report()
    doc = record_to_doc({"text": TEXT, "entities": [entity], "relations": [relation], "salience": salience}, NLP, report=report)
    assert doc.user_data["relations"] == [{"head": [0, 1], "tail": [3, 4], "label": "MET"}]
    assert doc.user_data["salience"] == [{"score": 1, "mentions": [[5, 6]]}]
    assert (report.expanded, report.dropped) == (2, 1)


@pytest.mark.parametrize(
    ("layer", "code", "reason"),
    [
        ({"relations": {}}, "E206", "'relations' is {}; expected a list"),
        ({"relations": [1]}, "E206", "an item of 'relations' is 1"),
        ({"relations": [{"head": [0, 3], "label": "x"}]}, "E207", "'tail' is missing"),
        ({"relations": [{"head": [0, 3], "tail": [9], "label": "x"}]}, "E206", r"'tail' is \[9\]; expected 2 items"),
        ({"relations": [{"head": [0, 3], "tail": [9, 8], "label": "x"}]}, "E226", r"found 'tail' \[9, 8\)"),
        ({"relations": [{"head": [0, 3], "tail": [3, 5], "label": "x"}]}, "E226", "'x' of a span without text"),
        ({"cluster_relations": [{"head": "1", "tail": 2, "label": "x"}]}, "E206", "'head' is '1'"),
        ({"salience": [{"mentions": []}]}, "E207", "'score' is missing"),
        ({"salience": [{"score": 1}]}, "E207", "'group' is missing"),
        ({"salience": [{"score": 1, "mentions": [3]}]}, "E206", "a place in 'mentions' is 3"),
        ({"entity_states": []}, "E206", "'entity_states' is"),
        ({"entity_states": {"steps": [[2, 1]]}}, "E226", "a place in 'steps'"),
        ({"entity_states": {"participants": [1]}}, "E206", "a participant is 1"),
        ({"nil_clusters": {"NIL-1": [["a", 1]]}}, "E206", "a place in 'NIL-1', item 1, is 'a'"),
        ({"nil_clusters": {"\ud800": []}}, "E209", ""),
        ({"salience": [{"score": 1, "group": "\ud800"}]}, "E209", ""),
    ],
)
def test_malformed_layers(read: Read, layer: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.jsonl, line 1: .*{reason}"):
        read(json.dumps({"text": TEXT, **layer}), "jsonl")


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        ({"relations": [{"head": [0, 99], "tail": [0, 1], "label": "x"}]}, "E345"),
        ({"relations": [3]}, "E345"),
        ({"salience": [{"mentions": [[0]]}]}, "E620"),
        ({"entity_states": {"participants": []}}, "E612"),
        ({"nil_clusters": ["NIL-1"]}, "E562"),
    ],
)
def test_values_that_no_component_writes(layer: dict[str, Any], code: str) -> None:
    with pytest.raises(EntityKitError, match=code):
        doc_to_record(annotated(layer))


@given(st.data())
def test_any_places_survive(data: st.DataObject) -> None:
    """Of visible words: others are trimmed when they are read."""
    visible = [token.i for token in NLP(TEXT) if token.text.strip()]
    place = st.tuples(st.sampled_from(visible), st.sampled_from(visible)).map(lambda ends: [min(ends), max(ends) + 1])
    places = st.lists(place, max_size=3)
    drawn = {
        "relations": data.draw(
            st.lists(st.fixed_dictionaries({"head": place, "tail": place, "label": st.just("x")}), max_size=3)
        ),
        "salience": data.draw(st.lists(st.fixed_dictionaries({"mentions": places, "score": st.just(1.0)}), max_size=2)),
        "nil_clusters": data.draw(st.dictionaries(st.sampled_from(["NIL-1", "NIL-2"]), places)),
    }
    copy = record_to_doc(json.loads(json.dumps(doc_to_record(annotated(drawn)))), NLP)
    assert copy.user_data["relations"] == drawn["relations"]
    assert copy.user_data["salience"] == drawn["salience"]
    assert copy.user_data["._.", "nil_clusters", None, None] == drawn["nil_clusters"]
