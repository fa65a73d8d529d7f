"""Vectors and clusters of mentions across documents, at once and in a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.tokens.span_group import SpanGroup
from spacy.vocab import Vocab

from entitykit.components.clustering import ClusteringPipe, gather, log_odds
from entitykit.components.cross_document import gold_mentions, mentions_in_order
from entitykit.components.near import Others, near_pairs
from entitykit.errors import CheckpointError, ConfigError, EntityKitWarning, InputError
from entitykit.knowledge.cluster_store import ClusterStore
from entitykit.scoring.cross_document import cross_document_score
from tests.pipelines import initialized, make_examples, train

KIND, GROUP = "cross_document", "cross_document"
SIZE = 8


@pytest.fixture(scope="module")
def trained(tiny_bert: Path) -> Language:
    nlp, examples = initialized(tiny_bert, KIND)
    train(nlp, examples, 40)
    return nlp


def pipe_of(nlp: Language) -> Any:
    return nlp.get_pipe(KIND)


def read(nlp: Language, *, without: Sequence[int] = ()) -> list[Doc]:
    """The sentences as documents with vectors."""
    docs = [nlp(eg.text) for i, eg in enumerate(make_examples(nlp)) if i not in without]
    for doc in docs:
        doc.user_data["id"] = f"on {doc.text[:12]}"
    return docs


def clusters(docs: Iterable[Doc]) -> dict[str, set[tuple[str, int, int]]]:
    """Places of mentions by id of their cluster."""
    found: dict[str, set[tuple[str, int, int]]] = {}
    for doc in docs:
        for span in doc.spans[GROUP]:
            found.setdefault(span.id_, set()).add((doc.text, span.start, span.end))
    return found


def partition(docs: Iterable[Doc]) -> set[frozenset[tuple[str, int, int]]]:
    return {frozenset(cluster) for cluster in clusters(docs).values()}


# Vectors


def test_what_is_written(trained: Language) -> None:
    doc = trained("Mary Jones went to New York")
    group = doc.spans[GROUP]
    assert [span.text for span in group] == [span.text for span in doc.spans["phrases"]]
    vectors = gather([doc], GROUP).vectors
    assert vectors.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    head = pipe_of(trained).head
    assert group.attrs["odds"] == [head.sharpness.item(), head.middle.item()]
    assert group.attrs["fingerprint"] == read(trained)[0].spans[GROUP].attrs["fingerprint"]


def test_a_document_keeps_its_clusters(trained: Language) -> None:
    docs = read(trained)
    pipe_of(trained).cluster(docs)
    data = DocBin(docs=docs, store_user_data=True).to_bytes()
    copies = list(DocBin().from_bytes(data).get_docs(Vocab()))  # nobody knows the ids' strings there
    assert clusters(copies) == clusters(docs)
    np.testing.assert_array_equal(gather(copies, GROUP).vectors, gather(docs, GROUP).vectors)


def test_other_weights_make_another_fingerprint(trained: Language, tiny_bert: Path) -> None:
    other, examples = initialized(tiny_bert, KIND)
    train(other, examples, 1)
    mixed = [read(trained)[0], read(other)[1]]
    with pytest.raises(InputError, match="E636"):
        pipe_of(trained).cluster(mixed)


def test_scores_that_are_missing() -> None:
    """As `entitykit_dictionary` leaves them."""
    doc = Doc(Vocab(), words=["Ada", "Ben"])
    doc.spans["sc"] = SpanGroup(doc, name="sc", spans=[doc[1:2], doc[0:1]], attrs={"scores": [0.5, None]})
    assert mentions_in_order(doc, "sc") == [(0, 1, "", 1.0), (1, 2, "", 0.5)]


def test_of_mentions_in_one_place_the_first_counts() -> None:
    """Its label, and its score."""
    doc = Doc(Vocab(), words=["Ada", "Ben"])
    spans = [Span(doc, 0, 1, label=label) for label in ("A", "B")]
    doc.spans["sc"] = SpanGroup(doc, name="sc", spans=spans, attrs={"scores": [0.9, 0.1]})
    assert mentions_in_order(doc, "sc") == [(0, 1, "A", 0.9)]


def test_hard_negatives_are_near_clusters_of_earlier_batches(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, KIND)
    pipe = pipe_of(nlp)
    pipe.settings |= {"negatives": 1, "memory": 3}
    pipe._remember({"a": np.eye(3)[0], "b": np.eye(3)[1], "c": np.eye(3)[2], "d": -np.eye(3)[0]})
    assert list(pipe._memory) == ["b", "c", "d"]
    mentions = np.array([[0.1, 0.9, 0.2], [0.0, 0.8, 0.3]], dtype=np.float32)
    np.testing.assert_array_equal(pipe._others(mentions, {}), [np.eye(3)[1]])
    np.testing.assert_array_equal(pipe._others(mentions, {"b": 0}), [np.eye(3)[2]])
    assert pipe._others(mentions, dict.fromkeys("bcd", 0)).shape == (0, 3)
    pipe._memory = {}
    train(nlp, examples, 1)
    assert "PERSON" in pipe._memory
    nlp.initialize(lambda: examples)
    assert not pipe._memory


def test_gold_clusters_need_an_id_each(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, KIND)
    assert set(gold_mentions(examples[0]).values()) == {"PERSON", "PLACE"}
    examples[0].reference.user_data["coref_ids"] = ["PERSON"]
    with pytest.raises(InputError, match=r"E638.*1 ids in doc.user_data\['coref_ids'\]; expected 2"):
        nlp.update(examples)
    for eg in examples:
        del eg.reference.user_data["coref_ids"]
    assert len(set(gold_mentions(examples[0]).values()) & set(gold_mentions(examples[1]).values())) == 0
    with pytest.warns(EntityKitWarning, match="W631"):
        nlp.initialize(lambda: examples)


@pytest.mark.parametrize("kind", [KIND, "mention_pairs"])
def test_mentions_of_several_clusters_are_told_of(tiny_bert: Path, kind: str) -> None:
    """Before they are learned in the first one."""
    nlp, examples = initialized(tiny_bert, kind)
    reference = examples[0].reference
    reference.spans["coref_clusters_1"] = [*reference.spans["coref_clusters_1"], reference.spans["coref_clusters_2"][0]]
    with pytest.warns(EntityKitWarning, match=f"W641.*1 places have gold mentions of more than one cluster; '{kind}'"):
        nlp.initialize(lambda: examples)


@pytest.mark.parametrize(
    ("setting", "value"), [("neighbours", 0), ("threshold", 1.5), ("least", -0.1), ("sampled", -1), ("memory", -1)]
)
def test_settings_that_cannot_be(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"E109.*{setting}"):
        spacy.blank("xx").add_pipe("entitykit_cross_document", config={setting: value})


@pytest.mark.parametrize(("setting", "value"), [("hidden", 0), ("projection", 0), ("temperature", 0.009)])
def test_model_settings_that_cannot_be(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"E630.*{setting}"):
        spacy.blank("xx").add_pipe("entitykit_cross_document", config={"model": {setting: value}})


@pytest.mark.parametrize("factory", ["entitykit_cross_document", "entitykit_mention_pairs"])
def test_dropout_out_of_range(factory: str) -> None:
    with pytest.raises(ConfigError, match=r"E007.*dropout is 1.5"):
        spacy.blank("xx").add_pipe(factory, config={"model": {"dropout": 1.5}})


def test_mentions_that_no_document_has(tiny_bert: Path) -> None:
    """Are named once, as they may be misspelled."""
    nlp, _ = initialized(tiny_bert, KIND)
    pipe_of(nlp).settings["mentions"] = "phrasse"
    with pytest.warns(EntityKitWarning, match=r"W642.*None of the first 1 documents has spans under phrasse.*'cross_document'"):
        assert not nlp("Mary Jones went to New York").spans[GROUP]
    assert not nlp("Mary Jones went to New York").spans[GROUP]  # without a warning, which would be an error


# Clusters; the vectors are given, so that what comes out is known


class ByVectors(ClusteringPipe):
    """Clusters by given vectors alone."""

    def __init__(self, **changed: Any) -> None:
        given = {"neighbours": 3, "threshold": None, "mean_threshold": None, "least": 0.0, "sampled": 20, "spans_key": GROUP}
        self.settings, self.name, self.scorer = {**given, **changed}, KIND, cross_document_score
        self.cfg: dict[str, Any] = {"threshold": None, "mean_threshold": None}

    def scorer_of(self, mentions: Any, vectors: Any, odds: Any) -> Any:
        return lambda pairs: 1 / (1 + np.exp(-log_odds((vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1), odds)))


ENTITIES = np.linalg.qr(np.random.default_rng(5).normal(size=(SIZE, SIZE)))[0]


def document(name: str, entities: Sequence[int], noise: float = 0.05) -> Doc:
    """A document with a mention, one word, of each entity; vectors of an entity are near each other."""
    doc = Doc(Vocab(), words=[f"{name}-{entity}" for entity in entities] or ["nothing"])
    doc.user_data["id"] = name
    rng = np.random.default_rng(sum(map(ord, name)) + len(entities))
    vectors = ENTITIES[list(entities)].reshape(-1, SIZE) + noise * rng.normal(size=(len(entities), SIZE))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    attrs = {
        "vectors": vectors.astype("<f4").tobytes(),
        "size": SIZE,
        "odds": [10.0, 0.5],
        "fingerprint": "given",
        "scores": [1.0] * len(entities),
    }
    spans = [Span(doc, i, i + 1, label=f"E{entity}") for i, entity in enumerate(entities)]
    doc.spans[GROUP] = SpanGroup(doc, name=GROUP, spans=spans, attrs=attrs)
    return doc


corpora = st.lists(st.lists(st.integers(0, SIZE - 1), max_size=4), min_size=1, max_size=6)


def by_entity(docs: Sequence[Doc]) -> set[frozenset[tuple[str, int, int]]]:
    found: dict[str, set[tuple[str, int, int]]] = {}
    for doc in docs:
        for span in doc.spans[GROUP]:
            found.setdefault(span.label_, set()).add((doc.text, span.start, span.end))
    return {frozenset(cluster) for cluster in found.values()}


@given(corpora, st.randoms())
def test_clusters_are_the_same_in_any_order(corpus: list[list[int]], random: Any) -> None:
    docs = [document(f"d{i}", entities, noise=0.4) for i, entities in enumerate(corpus)]
    ByVectors().cluster(docs)
    before = clusters(docs)
    random.shuffle(docs)
    ByVectors().cluster(docs)
    assert clusters(docs) == before


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpora, st.data())
def test_a_store_that_grows_has_the_clusters_of_all_at_once(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[list[int]], data: st.DataObject
) -> None:
    """Where entities are clear. The ids that were given once stay."""
    docs = [document(f"d{i}", entities) for i, entities in enumerate(corpus)]
    order = data.draw(st.permutations(range(len(docs))))
    pipe = ByVectors(neighbours=24)
    pipe.cluster(docs)
    assert partition(docs) == by_entity(docs)
    given_ids: dict[tuple[str, int, int], str] = {}
    with pipe.open_store(tmp_path_factory.mktemp("store"), docs) as store:
        for number in order:
            pipe.add_to(store, [docs[number]])
            seen = [docs[i] for i in order[: order.index(number) + 1]]
            pipe.ids_from(store, seen)
            now = {place: id_ for id_, places in clusters(seen).items() for place in places}
            assert given_ids.items() <= now.items()
            given_ids = now
        assert partition(docs) == by_entity(docs)
        assert store.n_mentions == sum(map(len, corpus))
        assert len(store.sizes) == len({entity for own in corpus for entity in own})


def test_clusters_merge_by_what_is_new(tmp_path: Path) -> None:
    """The lower number stays; who asks for the other is led to it."""
    left, right = document("left", [0]), document("right", [1])
    between = document("between", [0])
    middle = (ENTITIES[0] + ENTITIES[1]) / np.sqrt(2)
    between.spans[GROUP].attrs["vectors"] = middle.astype("<f4").tobytes()
    pipe = ByVectors()
    with pipe.open_store(tmp_path, [left]) as store:
        pipe.add_to(store, [left])
        pipe.add_to(store, [right])
        assert [doc.spans[GROUP][0].id_ for doc in (left, right)] == ["C1", "C2"]
        report = pipe.add_to(store, [between])
        assert (report.new_clusters, report.merged) == (0, 1)
        pipe.ids_from(store, [left, right, between])
        assert [doc.spans[GROUP][0].id_ for doc in (left, right, between)] == ["C1"] * 3
        assert store.resolve(2) == 1
        pipe.add_to(store, [document("new", [5])])
        assert [cluster["id"] for cluster in store.export()] == ["C1", "C3"]


def test_documents_that_are_there_already(tmp_path: Path) -> None:
    pipe = ByVectors()
    docs = [document("a", [0, 1]), document("b", [1, 2])]
    with pipe.open_store(tmp_path, docs) as store:
        pipe.add_to(store, docs)
        before = list(store.export())
        again = [document("b", [1, 2]), document("c", [])]
        report = pipe.add_to(store, again)
        assert (report.documents, report.unchanged, report.replaced, report.mentions) == (2, 1, 0, 0)
        assert list(store.export()) == before
        assert clusters(again) == clusters([docs[1]])
        changed = document("b", [1, 5, 6])
        report = pipe.add_to(store, [changed])
        assert (report.replaced, report.mentions, report.new_clusters) == (1, 3, 2)
        assert changed.spans[GROUP][0].id_ == docs[0].spans[GROUP][1].id_
        gone = docs[1].spans[GROUP][1].id_  # of a cluster that has no mention any more; its number is not given again
        assert gone not in {span.id_ for span in changed.spans[GROUP]}
        assert (store.n_documents, store.n_mentions) == (3, 5)
        with pytest.raises(InputError, match=r"E639.*'b' is in the store with another text.*Add it again"):
            pipe.ids_from(store, [docs[1]])
        with pytest.raises(InputError, match=r"E639.*'new' is not in the store.*Add it first"):
            pipe.ids_from(store, [document("new", [1])])
        for same in (pipe.add_to, pipe.ids_from):
            with pytest.raises(InputError, match=r"E639.*two documents.*Give each of them another"):
                same(store, [document("x", [1]), document("x", [2])])
        assert store.n_documents == 3


def test_vectors_of_another_model_do_not_go_into_a_store(tmp_path: Path) -> None:
    pipe, doc = ByVectors(), document("a", [0])
    with pipe.open_store(tmp_path, [doc]) as store:
        doc.spans[GROUP].attrs["fingerprint"] = "another"
        with pytest.raises(InputError, match="E636.*another.*given"):
            pipe.add_to(store, [doc])


def test_documents_without_vectors() -> None:
    with pytest.raises(InputError, match=r"E631.*doc.spans\['cross_document'\]"):
        ByVectors().cluster([Doc(Vocab(), words=["Ada"])])


def test_nothing_to_cluster(tmp_path: Path) -> None:
    pipe = ByVectors()
    pipe.cluster([])
    docs = [document("a", []), document("b", [])]
    pipe.cluster(docs)
    with pipe.open_store(tmp_path, docs) as store:
        pipe.add_to(store, docs)
        pipe.add_to(store, [])
        assert (store.n_documents, store.n_mentions) == (2, 0)
        pipe.add_to(store, [document("c", [1])])
        assert store.n_mentions == 1


def test_a_new_store_needs_a_document(tmp_path: Path) -> None:
    """Which says how long its vectors are; one that is there is opened without."""
    pipe = ByVectors()
    with pytest.raises(CheckpointError, match="E633.*no document"):
        pipe.open_store(tmp_path, [])
    assert not list(tmp_path.iterdir())
    docs = [document("a", [1])]
    pipe.open_store(tmp_path, docs).close()
    with pipe.open_store(tmp_path, []) as store:
        assert pipe.add_to(store, docs).mentions == 1


def test_many_mentions_of_one_document() -> None:
    """As a novel has: the same few entities, again and again."""
    doc = document("novel", [i % SIZE for i in range(3000)], noise=0.02)
    ByVectors(neighbours=10).cluster([doc])
    assert all(len({span.label_ for span in doc.spans[GROUP] if span.id_ == id_}) == 1 for id_ in clusters([doc]))


@given(st.integers(0, 8), st.integers(1, 5), st.integers(0, 8))
def test_near_pairs_with_others(n: int, k: int, n_old: int) -> None:
    """Some of the neighbours are found in a store."""
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=(n_old + n, SIZE)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    old, new = vectors[:n_old], vectors[n_old:]
    rows = np.broadcast_to(np.arange(n_old), (n, n_old))
    pairs, cosines = near_pairs(new, k, first=n_old, others=Others(new @ old.T, rows))
    expected = set()
    for i in range(n_old, n_old + n):
        others = sorted((j for j in range(n_old + n) if j != i), key=lambda j: -float(vectors[i] @ vectors[j]))
        expected |= {(min(i, j), max(i, j)) for j in others[:k]}
    assert {(a, b) for a, b in pairs.tolist()} == expected
    np.testing.assert_allclose(cosines, (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1), atol=1e-5)


def test_a_trained_pipeline_in_a_store(trained: Language, tmp_path: Path) -> None:
    docs, pipe = read(trained), pipe_of(trained)
    pipe.cluster(docs)
    together = partition(docs)
    folder = tmp_path / "store"
    for doc in docs:
        with pipe.open_store(folder, [doc]) as store:
            pipe.add_to(store, [doc])
    with ClusterStore.open(folder, read_only=True) as store:
        pipe.ids_from(store, docs)
        assert store.fingerprint == docs[0].spans[GROUP].attrs["fingerprint"]
    assert partition(docs) == together
