"""One link for each cluster."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

from entitykit.components.cluster_documents import characters, named
from entitykit.components.cluster_links import link_clusters, links_from
from entitykit.components.clustering import ClusteringPipe
from entitykit.components.linker import Linker
from entitykit.components.links import register_links
from entitykit.components.nils import register_nils
from entitykit.errors import InputError
from entitykit.knowledge.candidates import Mention
from entitykit.knowledge.cluster_schema import NewDocument
from entitykit.knowledge.cluster_store import ClusterStore
from tests.pipelines import SENTENCES, add_head, make_examples, make_pipeline

Candidates = list[tuple[str, float]]


def make(*mentions: tuple[str, Candidates | None], key: str = "ents") -> Doc:
    """A document whose words are mentions: the id of the cluster, and what a linker has left."""
    register_links()
    doc = Doc(Vocab(), words=[f"w{i}" for i in range(len(mentions))])
    spans = [Span(doc, i, i + 1, label="X", kb_id="old") for i in range(len(mentions))]
    for span, (_, candidates) in zip(spans, mentions, strict=True):
        if candidates is not None:
            span._.kb_ents = candidates
    if key == "ents":
        doc.set_ents(spans)
    else:
        doc.spans[key] = spans
    doc.spans["cross_document"] = [Span(doc, i, i + 1, span_id=id_) for i, (id_, _) in enumerate(mentions) if id_]
    return doc


@pytest.mark.parametrize("key", ["ents", "names"])
def test_the_mean_decides(key: str) -> None:
    one = make(("C1", [("Q1", 0.6), ("Q2", 0.4)]), ("", [("Q7", 0.9)]), key=key)
    two = make(("C1", [("Q2", 0.9), ("Q1", 0.1)]), ("C2", [("Q3", 0.3)]), ("C3", None), key=key)
    assert link_clusters([one, two], mentions=key) == {"C1": "Q2", "C2": ""}
    mentions = [list(doc.ents if key == "ents" else doc.spans[key]) for doc in (one, two)]
    assert [[span.kb_id_ for span in spans] for spans in mentions] == [["Q2", "old"], ["Q2", "", "old"]]
    assert [span.label_ for span in mentions[0]] == ["X", "X"]
    for spans in mentions:
        assert [id_ for id_, _ in spans[0]._.kb_ents] == ["Q2", "Q1"]
        assert [p for _, p in spans[0]._.kb_ents] == pytest.approx([0.65, 0.35])
    assert mentions[0][1]._.kb_ents == [("Q7", 0.9)]


def test_a_threshold_and_nil() -> None:
    docs = [make(("C1", [("Q1", 0.5)])), make(("C1", [("Q1", 0.7)]))]
    assert link_clusters(docs) == {"C1": "Q1"}
    assert link_clusters(docs, threshold=0.61) == {"C1": ""}
    docs = [make(("C1", [("Q1", 0.9)])), make(("C1", [])), make(("C1", []))]
    assert link_clusters(docs) == {"C1": ""}  # 0.3 against 0.7 that it is none


def test_what_a_reranker_says_decides() -> None:
    """And not what the linker before it has said."""
    doc = make(("C1", [("Q2", 0.8), ("Q1", 0.1)]), ("C1", [("Q1", 0.5), ("Q2", 0.4)]))
    doc.ents[0]._.kb_reranked = {"candidates": [["Q1", 0.9, -1.0], ["Q2", 0.1, 2.0]], "nil": 0.1, "threshold": 0.0}
    assert link_clusters([doc]) == {"C1": "Q2"}


def test_mentions_of_a_cluster_that_is_nil_have_one_provisional_id() -> None:
    """Others keep theirs; mentions of clusters that are known have none any more."""
    one = make(("C1", [("Q1", 0.9)]), ("C2", []), ("C2", [("Q5", 0.1)]), ("", []), ("C4", None))
    two = make(("C2", []), ("C1", [("Q1", 0.9)]))
    register_nils()
    one._.nil_clusters = {"NIL-1": [[0, 1], [3, 4]], "NIL-2": [[1, 2], [2, 3]], "NIL-3": [[4, 5]]}
    assert link_clusters([one, two]) == {"C1": "Q1", "C2": ""}
    assert one._.nil_clusters == {"NIL-1": [[3, 4]], "NIL-3": [[4, 5]], "NIL-C2": [[1, 2], [2, 3]]}
    assert two._.nil_clusters == {"NIL-C2": [[0, 1]]}
    assert [span._.nil_id for span in two.ents] == ["NIL-C2", ""]
    assert link_clusters([one, two], threshold=0.95) == {"C1": "", "C2": ""}
    assert two._.nil_clusters == {"NIL-C1": [[1, 2]], "NIL-C2": [[0, 1]]}


def stored(store: ClusterStore, doc: Doc, id_: str, clusters: Sequence[int], merged: dict[int, int] | None = None) -> Doc:
    """A document that was added to a store, with a mention of each cluster."""
    doc.user_data["id"] = id_
    places = characters(doc.spans["cross_document"])
    contexts = [Mention(span.text, "", "") for span in doc.spans["cross_document"]]
    vectors = np.ones((len(places), 2), dtype=np.float32)
    new = NewDocument(*named(doc, "cross_document"), places, [""] * len(places), contexts, vectors)
    with store.changing():
        store.remove([id_])
        store.put([new], np.array(clusters, dtype=np.int64), merged or {})
    return doc


def test_a_store_keeps_what_was_decided(tmp_path: Path) -> None:
    with ClusterStore.create(tmp_path, width=2, fingerprint="x") as store:
        one = stored(store, make(("C1", [("Q1", 0.8), ("Q2", 0.1)]), ("C2", [])), "one", [1, 2])
        assert link_clusters([one], store=store) == {"C1": "Q1", "C2": ""}
        two = stored(store, make(("C1", [("Q2", 0.3)]), ("C3", [("Q9", 0.9)])), "two", [1, 3])
        assert link_clusters([two], store=store) == {"C1": "Q1", "C3": "Q9"}  # 0.4 and 0.2 for both days, not 0.3 alone
        assert two.ents[0]._.kb_ents == [("Q1", pytest.approx(0.4)), ("Q2", pytest.approx(0.2))]
        assert link_clusters([two], store=store) == {"C1": "Q1", "C3": "Q9"}  # again: nothing counts twice
        assert [cluster["kb_id"] for cluster in store.export()] == ["Q1", "", "Q9"]
        three = stored(store, make(("C1", [("Q2", 0.9)])), "two", [1])  # another text of the same id
        assert link_clusters([three], store=store) == {"C1": "Q2"}  # (0.1 + 0.9) / 2
        again = make(("C1", [("Q1", 0.8), ("Q2", 0.1)]), ("C2", []))
        again.user_data["id"] = "one"
        links_from(store, [again])
        assert [ent.kb_id_ for ent in again.ents] == ["Q2", ""]
        assert again._.nil_clusters == {"NIL-C2": [[1, 2]]}
        with pytest.raises(InputError, match="E639.*'two' is in the store with another text"):
            link_clusters([two], store=store)


def test_clusters_that_merge_are_decided_anew(tmp_path: Path) -> None:
    with ClusterStore.create(tmp_path, width=2, fingerprint="x") as store:
        one = stored(store, make(("C1", [("Q1", 0.6)]), ("C2", [("Q2", 0.9)])), "one", [1, 2])
        link_clusters([one], store=store)
        two = stored(store, make(("C1", [])), "two", [1], {2: 1})
        assert store.links_of(np.array([1, 2])) == {}
        assert ["kb_id" in cluster for cluster in store.export()] == [False]
        assert link_clusters([two], store=store) == {"C1": ""}  # 0.2 for Q1, 0.3 for Q2, 0.5 for none
        assert store.links_of(np.array([1, 2])) == {1: ""}


def test_a_cluster_that_loses_mentions_is_decided_anew(tmp_path: Path) -> None:
    """With the next documents, whatever they are, or with its own."""
    with ClusterStore.create(tmp_path, width=2, fingerprint="x") as store:
        one = stored(store, make(("C1", [("Q90", 0.9)])), "one", [1])
        two = stored(store, make(("C1", [("Q167646", 0.4)])), "two", [1])
        assert link_clusters([one, two], store=store) == {"C1": "Q90"}
        assert two.ents[0]._.kb_ents == [("Q90", pytest.approx(0.45)), ("Q167646", pytest.approx(0.2))]
        one = stored(store, make(("C2", [("Q84", 0.8)])), "one", [2])
        assert [cluster.get("kb_id") for cluster in store.export()] == [None, None]
        assert store.undecided().tolist() == [1]
        links_from(store, [two])
        assert (two.ents[0].kb_id_, two.ents[0]._.kb_ents) == ("old", [("Q167646", 0.4)])  # its own, as nobody has decided
        assert link_clusters([one], store=store) == {"C2": "Q84"}
        assert [cluster["kb_id"] for cluster in store.export()] == ["", "Q84"]
        links_from(store, [two])
        assert (two.ents[0].kb_id_, two.ents[0]._.nil_id) == ("", "NIL-C1")
        assert link_clusters([two], store=store) == {"C1": ""}
        assert two.ents[0]._.kb_ents == [("Q167646", 0.4)]


def test_a_store_knows_the_clusters_of_documents(tmp_path: Path) -> None:
    """Whatever ids their mentions have: those before a merge, or those of other clusters."""
    with ClusterStore.create(tmp_path, width=2, fingerprint="x") as store:
        one = stored(store, make(("C1", [("Q1", 0.9)]), ("C2", [("Q2", 0.9)])), "one", [1, 2])
        two = stored(store, make(("C2", []), ("C3", [("Q3", 0.9)])), "two", [1, 3], {2: 1})
        assert link_clusters([one, two], store=store) == {"C1": "", "C3": "Q3"}  # 0.3 for Q1, 0.3 for Q2, else none
        assert [[span.id_ for span in doc.spans["cross_document"]] for doc in (one, two)] == [["C1", "C1"], ["C1", "C3"]]
        assert [(cluster["id"], cluster["kb_id"]) for cluster in store.export()] == [("C1", ""), ("C3", "Q3")]
        for doc, id_ in ((one, "C3"), (two, "C1")):
            doc.spans["cross_document"] = [Span(doc, i, i + 1, span_id=id_) for i in range(2)]  # as `cluster` has numbered them
        for link in (lambda: link_clusters([one, two], store=store), lambda: links_from(store, [one, two])):
            link()
            assert [ent.kb_id_ for doc in (one, two) for ent in doc.ents] == ["", "", "", "Q3"]
            assert [span.id_ for span in two.spans["cross_document"]] == ["C1", "C3"]
        assert [(cluster["id"], cluster["kb_id"]) for cluster in store.export()] == [("C1", ""), ("C3", "Q3")]


@pytest.mark.parametrize("id_", ["Zürich", 'a"b', "a\\b", "a\\0b", "a\0b", "a\nb", "1"])
def test_ids_of_entities_may_be_any_text(tmp_path: Path, id_: str) -> None:
    with ClusterStore.create(tmp_path, width=2, fingerprint="x") as store:
        doc = stored(store, make(("C1", [(id_, 0.7), ("a", 0.2)])), f"in {id_}", [1])
        assert link_clusters([doc], store=store) == {"C1": id_}
        assert store.mean_candidates(np.array([1]))[1] == {id_: 0.7, "a": 0.2}
        assert [cluster["kb_id"] for cluster in store.export()] == [id_]
        assert list(store.digests([f"in {id_}"])) == [f"in {id_}"]


def written(doc: Doc) -> Any:
    """As JSON, because a `DocBin` makes tuples of lists."""
    said = [(ent.kb_id_, ent._.kb_ents, ent._.kb_reranked) for ent in doc.ents]
    return json.loads(json.dumps([said, doc._.nil_clusters or {}]))


def test_what_was_linked_is_linked_again_as_if_it_were_fresh() -> None:
    """Whatever clusters it is in by then; what something else has said meanwhile counts."""

    def fresh(*clusters: str) -> Doc:
        said = [[("Q1", 0.9)], [("Q2", 0.7), ("Q1", 0.2)], [], None, [("Q5", 0.6)]]
        doc = make(*zip(clusters, said, strict=True))
        register_nils()
        doc._.nil_clusters = {"NIL-7": [[2, 3], [3, 4]]}
        doc.ents[1]._.kb_reranked = {"candidates": [["Q2", 0.6, 1.0]], "nil": 0.1, "threshold": 0.0}
        return doc

    clusters = [("C1", "C1", "C2", "C1", "C3"), ("C2", "C1", "C1", "C4", ""), ("", "C5", "C5", "", "C5"), ("", "", "", "", "")]
    used = fresh(*clusters[0])
    for own in (*clusters, *clusters[::-1]):
        used.spans["cross_document"] = [Span(used, i, i + 1, span_id=id_) for i, id_ in enumerate(own) if id_]
        used = next(iter(DocBin(docs=[used], store_user_data=True).get_docs(used.vocab)))
        new = fresh(*own)
        before = written(new)
        assert link_clusters([used]) == link_clusters([used]) == link_clusters([new])
        assert written(used) == written(new)
        assert any(own) or written(new) == before
    link_clusters([used])
    used.ents[0]._.kb_ents = [("Q8", 0.9)]
    used.set_ents([Span(used, 0, 1, label="X", kb_id="Q8"), *used.ents[1:]])
    assert link_clusters([used])["C1"] == "Q8"
    used.spans["cross_document"] = [Span(used, 0, 1, span_id="C1")]
    assert link_clusters([used]) == {"C1": "Q8"}
    assert used.ents[0]._.kb_ents == [("Q8", 0.9)]


def linking_pipeline(tiny_bert: Path) -> tuple[Language, ClusteringPipe]:
    """A random linker, and clusters of random vectors."""
    nlp = make_pipeline(tiny_bert)
    add_head(nlp, "linker_state", nil_clusters=True, candidates={"alias": 8, "dense": 0})
    add_head(nlp, "cross_document", mentions="ents", threshold=0.985, mean_threshold=0.985)
    nlp.initialize(lambda: make_examples(nlp))
    linker, pipe = (nlp.get_pipe(name) for name in ("linker_state", "cross_document"))
    assert isinstance(linker, Linker)
    assert isinstance(pipe, ClusteringPipe)
    linker.build_index()
    return nlp, pipe


def test_a_pipeline_links_again_as_if_documents_were_fresh(tmp_path: Path, tiny_bert: Path) -> None:
    """After a document has another text: documents that were linked before, and those that are read anew."""
    nlp, pipe = linking_pipeline(tiny_bert)
    texts = dict(enumerate(["Peter and Zork went to New York", *(text for text, _ in SENTENCES)]))

    def read(chosen: dict[int, str]) -> list[Doc]:
        docs = [nlp(text) for text in chosen.values()]
        for i, doc in zip(chosen, docs, strict=True):
            doc.user_data["id"] = str(i)
        return docs

    def decided() -> dict[str, str | None]:
        return {cluster["id"]: cluster.get("kb_id") for cluster in store.export()}

    docs = read(texts)
    with pipe.open_store(tmp_path / "store", docs) as store:
        pipe.add_to(store, docs)
        pipe.link(store, docs)
        first = decided()
        pipe.link(store, docs)
        assert decided() == first
        other = read({0: "Zork and Mary Jones met in Aberdeen"})
        thinned = {span.id_ for span in docs[0].spans["cross_document"]}
        pipe.add_to(store, other)
        undecided = {id_ for id_, kb_id in decided().items() if kb_id is None}
        assert undecided >= thinned & decided().keys() != set()
        pipe.link(store, other)
        second = decided()
        assert None not in second.values()
        fresh = read({i: text for i, text in texts.items() if i})
        pipe.ids_from(store, docs[1:])
        pipe.ids_from(store, fresh)
        for link in (pipe.link, pipe.links_from):
            link(store, docs[1:])
            assert decided() == second
            link(store, fresh)
            assert decided() == second
            assert [written(doc) for doc in docs[1:]] == [written(doc) for doc in fresh]


def test_a_random_linker_with_clusters_of_random_vectors(tmp_path: Path, tiny_bert: Path) -> None:
    """Two days: all mentions of a cluster have one entity, that of the mean of what the linker said of each."""
    nlp, pipe = linking_pipeline(tiny_bert)
    texts = [text for text, _ in SENTENCES] + ["Peter and Zork went to New York", "Zork and Mary Jones met in Aberdeen"]
    days = [[nlp(text) for text in own] for own in (texts[::2], texts[1::2])]
    single = {}
    for doc in (doc for day in days for doc in day):
        single.update({(doc.text, ent.start): dict(ent._.kb_ents) for ent in doc.ents})
    with pipe.open_store(tmp_path / "store", days[0]) as store:
        for day in days:
            pipe.add_to(store, day)
            pipe.link(store, day)
        everything = [doc for day in days for doc in day]
        pipe.ids_from(store, everything)
        pipe.links_from(store, everything)
        links = {cluster["id"]: cluster["kb_id"] for cluster in store.export()}
    members: dict[str, list[tuple[Span, str]]] = {}
    for doc in everything:
        for ent, span in zip(doc.ents, doc.spans["cross_document"], strict=True):
            members.setdefault(span.id_, []).append((ent, span.id_))
    assert 1 < len(members) < len(single)
    for id_, own in members.items():
        lists = [single[ent.doc.text, ent.start] for ent, _ in own]
        means = {name: sum(each.get(name, 0.0) for each in lists) / len(lists) for each in lists for name in each}
        best = max(means, key=lambda name: means[name], default="")
        expected = best if best and means[best] >= 1 - sum(means.values()) else ""
        assert {ent.kb_id_ for ent, _ in own} == {expected}
        assert links[id_] == expected
        assert {ent._.nil_id for ent, _ in own} == {"" if expected else f"NIL-{id_}"}
    assert "" in links.values()
    assert any(links.values())


def test_documents_without_clusters() -> None:
    doc = make(("C1", []))
    del doc.spans["cross_document"]
    with pytest.raises(InputError, match="E631"):
        link_clusters([doc])
