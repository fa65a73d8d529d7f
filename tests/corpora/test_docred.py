from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.errors import CorpusError, EntityKitWarning
from tests.corpora.util import AWKWARD, entities, offsets, starts, words

Read = Callable[..., list[Doc]]


def mention(sentence: int, start: int, end: int, label: str) -> dict[str, Any]:
    return {"name": "", "sent_id": sentence, "pos": [start, end], "type": label}


PAGE: dict[str, Any] = {
    "title": "Ada",
    "sents": [["Ada", "was", "born", "in", "London", "."], ["Lovelace", "knew", "England", "."]],
    "vertexSet": [
        [mention(0, 0, 1, "PER"), mention(1, 0, 1, "PER")],
        [mention(0, 4, 5, "LOC")],
        [mention(1, 2, 3, "LOC")],
    ],
    "labels": [{"h": 0, "t": 1, "r": "P19", "evidence": [0]}, {"h": 1, "t": 2, "r": "P17", "evidence": [1, 0, 1]}],
}


def test_a_document(read: Read) -> None:
    (doc,) = read(json.dumps([PAGE]), "docred")
    assert words(doc) == [*PAGE["sents"][0], *PAGE["sents"][1]]
    assert starts(doc) == [0, 6]
    assert entities(doc) == [("Ada", "PER"), ("Lovelace", "PER"), ("London", "LOC"), ("England", "LOC")]
    assert [ent.text for ent in doc.ents] == ["Ada", "London", "Lovelace", "England"]
    assert set(doc.spans) == {"sc", "coref_clusters_1", "coref_clusters_2", "coref_clusters_3"}
    assert offsets(doc.spans["coref_clusters_1"]) == [(0, 1, ""), (6, 7, "")]
    assert doc.user_data == {
        "id": "Ada",
        "cluster_relations": [
            {"head": 1, "tail": 2, "label": "P19", "evidence": [0]},
            {"head": 2, "tail": 3, "label": "P17", "evidence": [0, 1]},
        ],
    }
    assert Doc(doc.vocab).from_bytes(doc.to_bytes()).user_data == doc.user_data


@pytest.mark.parametrize("name", ["country", ["country", "state of this item"]])
def test_names_of_properties(read: Read, tmp_path: Path, name: object) -> None:
    path = tmp_path / "names.json"
    path.write_text(json.dumps({"P17": name, "P19": ["born in", ""]}), encoding="utf-8")
    (doc,) = read(json.dumps([PAGE]), "docred", names=str(path))
    assert [relation["label"] for relation in doc.user_data["cluster_relations"]] == ["born in", "country"]
    path.write_text('{"P17": "country"}', encoding="utf-8")
    with pytest.warns(EntityKitWarning, match=r"\[W208\] .*: 1 relations .* The first: P19 \(.*document 1\)"):
        (doc,) = read(json.dumps([PAGE]), "docred", names=str(path))
    assert [relation["label"] for relation in doc.user_data["cluster_relations"]] == ["P19", "country"]
    path.write_text('{"P17": []}', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"\[E206\] .*names.json: the name of 'P17' is \[\]"):
        read(json.dumps([PAGE]), "docred", names=str(path))


def test_without_labels_and_evidence(read: Read) -> None:
    blind = {key: value for key, value in PAGE.items() if key != "labels"}
    some = PAGE | {"title": "B", "labels": [{"h": 2, "t": 0, "r": "P1"}]}
    first, second = read(json.dumps([blind, some]), "docred")
    assert "cluster_relations" not in first.user_data
    assert second.user_data["cluster_relations"] == [{"head": 3, "tail": 1, "label": "P1", "evidence": []}]


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"vertexSet": [[mention(0, 4, 7, "LOC")]]}, "E208", r"sentence 0: the span \[4, 7\) 'LOC' is not among the 6 tokens"),
        ({"vertexSet": [[mention(0, 2, 2, "LOC")]]}, "E208", r"\[2, 2\)"),
        ({"vertexSet": [[mention(2, 0, 1, "LOC")]]}, "E226", "found 'sent_id' 2; expected a number below 2"),
        ({"vertexSet": [[mention(-1, 0, 1, "LOC")]]}, "E226", "found 'sent_id' -1"),
        ({"vertexSet": [{}]}, "E206", "an entity is {}; expected a list"),
        ({"vertexSet": [[{"sent_id": 0}]]}, "E207", "the key 'pos' is missing"),
        ({"labels": [{"h": 0, "t": 3, "r": "P1"}]}, "E216", "a relation's tail is entity 3; expected an index below 3"),
        ({"labels": [{"h": -1, "t": 1, "r": "P1"}]}, "E216", "head is entity -1"),
        ({"labels": [{"h": 0, "t": 1, "r": "P1", "evidence": [2]}]}, "E226", r"'evidence' \[2\]; expected numbers below 2"),
        ({"labels": [{"h": 0, "t": 1, "r": 17}]}, "E206", "'r' is 17; expected a string"),
        ({"sents": [["a"], "b"]}, "E206", "a sentence is 'b'; expected a list"),
        ({"sents": None}, "E207", "the key 'sents' is missing"),
        ({"title": None}, "E207", "the key 'title' is missing"),
    ],
)
def test_bad_documents(read: Read, change: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.json, document 1.*{reason}"):
        read(json.dumps([PAGE | change]), "docred")


@pytest.mark.parametrize(("content", "code"), [("", "E203"), ("{}", "E206"), ("[", "E205"), ("[1]", "E206"), ("[]", "E203")])
def test_bad_files(read: Read, content: str, code: str) -> None:
    with pytest.raises(CorpusError, match=code):
        read(content, "docred")


@st.composite
def pages(draw: st.DrawFn) -> dict[str, Any]:
    word = st.sampled_from(["a", "B", *AWKWARD])
    sents = draw(st.lists(st.lists(word, max_size=4), min_size=1, max_size=3))
    places = [(i, s, e) for i, sent in enumerate(sents) for s in range(len(sent)) for e in range(s + 1, len(sent) + 1)]
    entity = st.lists(st.sampled_from(places), min_size=1, max_size=3) if places else st.nothing()
    clusters = draw(st.lists(entity, max_size=3)) if places else []
    number = st.integers(0, max(len(clusters) - 1, 0))
    label = st.fixed_dictionaries({"h": number, "t": number, "r": st.sampled_from(["P1", "P2"])})
    return {
        "title": "x",
        "sents": sents,
        "vertexSet": [[mention(*place, "T") for place in cluster] for cluster in clusters],
        "labels": draw(st.lists(label, max_size=3)) if clusters else [],
    }


@settings(max_examples=40, deadline=None)
@given(page=pages())
def test_every_mention_is_where_its_sentence_says(
    page: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, nlp: Language
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.json"
    path.write_text(json.dumps([page]), encoding="utf-8")
    (doc,) = read_docs(path, "docred", nlp)
    firsts = [sum(map(len, page["sents"][:i])) for i in range(len(page["sents"]))]
    for number, cluster in enumerate(page["vertexSet"], start=1):
        expected = [(firsts[m["sent_id"]] + m["pos"][0], firsts[m["sent_id"]] + m["pos"][1], "") for m in cluster]
        assert offsets(doc.spans[f"coref_clusters_{number}"]) == expected
    found = [(relation["head"], relation["tail"], relation["label"]) for relation in doc.user_data["cluster_relations"]]
    assert found == [(label["h"] + 1, label["t"] + 1, label["r"]) for label in page["labels"]]
