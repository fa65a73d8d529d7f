"""Clusters that nothing leads out of, of entities with more mentions than neighbours are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc

from entitykit.components.closed import agglomerate_all, closed_clusters
from entitykit.components.near import near_pairs
from entitykit.decoding.cross_document import MergeSettings, agglomerate
from entitykit.knowledge.cluster_store import ClusterStore
from tests.components.test_cross_document import ENTITIES, GROUP, SIZE, ByVectors, clusters, document, partition
from tests.pipelines import initialized

K = 10


def crowded(name: str, entity: int, topic: int, n: int = K + 1) -> Doc:
    """A document with mentions of an entity, each nearer to all others of the document than to those of another one."""
    doc = document(name, [entity] * n)
    base = ENTITIES[entity] + 0.35 * ENTITIES[topic]
    vectors = base + 0.005 * np.random.default_rng(topic).normal(size=(n, SIZE))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    doc.spans[GROUP].attrs["vectors"] = vectors.astype("<f4").tobytes()
    return doc


def corpus() -> list[Doc]:
    """Five documents of one entity, two of another."""
    return [crowded(f"a{topic}", 0, topic) for topic in range(2, 7)] + [crowded(f"b{topic}", 1, topic) for topic in (2, 3)]


def labels(docs: Sequence[Doc]) -> list[set[str]]:
    """Entities of the mentions of each cluster."""
    found: dict[str, set[str]] = {}
    for doc in docs:
        for span in doc.spans[GROUP]:
            found.setdefault(span.id_, set()).add(span.label_)
    return sorted(found.values(), key=sorted)


def test_a_frequent_entity_is_one_cluster() -> None:
    """Whatever the order of the documents; other entities stay apart."""
    docs = corpus()
    ByVectors(neighbours=K).cluster(docs)
    assert labels(docs) == [{"E0"}, {"E1"}]
    before = clusters(docs)
    ByVectors(neighbours=K).cluster(docs[::-1])
    assert clusters(docs) == before


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_frequent_entity_of_a_store(tmp_path: Path, size: int) -> None:
    """Documents come one by one, three at a time, or all at once."""
    docs, pipe = corpus(), ByVectors(neighbours=K)
    with pipe.open_store(tmp_path, docs) as store:
        reports = [pipe.add_to(store, docs[start : start + size]) for start in range(0, len(docs), size)]
        pipe.ids_from(store, docs)
        assert labels(docs) == [{"E0"}, {"E1"}]
        assert sorted(store.sizes.tolist()) == [2 * (K + 1), 5 * (K + 1)]
        assert sum(report.mentions for report in reports) == 7 * (K + 1)


def test_a_cluster_of_a_store_that_a_new_mention_closes(tmp_path: Path) -> None:
    """Two clusters that nobody has compared yet are one, once a mention comes to either."""
    docs = [crowded("a2", 0, 2), crowded("a3", 0, 3)]
    with ByVectors().open_store(tmp_path, docs) as store:
        for doc in docs:
            ByVectors(neighbours=K, threshold=1.0 if doc is docs[1] else 0.5).add_to(store, [doc])
        assert sorted(store.sizes.tolist()) == [1] * (K + 1) + [K + 1]
        report = ByVectors(neighbours=K).add_to(store, [crowded("new", 0, 3, n=1)])
        assert report.merged == K + 1
        assert store.sizes.tolist() == [2 * (K + 1) + 1]


@given(st.integers(0, 40), st.integers(1, 12), st.floats(0.1, 1.0))
def test_nothing_changes_where_something_leads_out(n: int, k: int, noise: float) -> None:
    rng = np.random.default_rng(n)
    vectors = ENTITIES[rng.integers(3, size=n)] + noise * rng.normal(size=(n, SIZE))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    asked = []

    def score(pairs: Any) -> Any:
        asked.append(pairs)
        return 1 / (1 + np.exp(-10 * (np.einsum("ij,ij->i", *vectors[pairs.T]).astype(np.float64) - 0.5)))

    pairs = near_pairs(vectors, k)[0]
    alone = agglomerate(pairs, score(pairs), score, n, settings=MergeSettings())
    every = agglomerate_all(pairs, score, vectors, k=k, likely=lambda c: c > -2, settings=MergeSettings())
    closed = closed_clusters(alone, pairs, k)
    assert [set(own.tolist()) for own in closed] == [
        set(np.flatnonzero(alone == name).tolist())
        for name in range(int(alone.max(initial=-1)) + 1)
        if (alone == name).sum() > k and not ((alone[pairs] == name).sum(axis=1) == 1).any()
    ]
    if not closed:
        assert every.tolist() == alone.tolist()


def test_unlikely_pairs_are_not_scored() -> None:
    vectors = np.repeat(ENTITIES[:2], 4, axis=0).astype(np.float32)
    asked: list[tuple[int, int]] = []

    def score(pairs: Any) -> Any:
        asked.extend(map(tuple, pairs.tolist()))
        return np.ones(len(pairs))

    pairs = near_pairs(vectors, 3)[0]
    for least, n_clusters in ((0.5, 2), (-1.0, 1)):
        found = agglomerate_all(pairs, score, vectors, k=3, likely=lambda c, least=least: c > least, settings=MergeSettings())
        assert len(np.unique(found)) == n_clusters
        assert any(a < 4 <= b for a, b in asked) == (n_clusters == 1)


def test_the_cross_encoder_reads_pairs_that_lead_out(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once for all documents at once, and once for those that come to a store."""
    nlp = initialized(tiny_bert, "mention_pairs")[0]
    pipe: Any = nlp.get_pipe("mention_pairs")
    pipe.settings |= {"neighbours": 2, "threshold": 0.0, "mean_threshold": 0.0}
    docs = [nlp(f"{name} slept {i} times") for name in ("Peter", "John") for i in range(4)]
    read: list[tuple[str, ...]] = []
    given = pipe._texts.input

    def noting(mentions: Any, pairs: Any) -> Any:
        read.extend(tuple(sorted(mentions[row].text + mentions[row].right for row in pair)) for pair in pairs.tolist())
        return given(mentions, pairs)

    def add_all() -> None:
        with pipe.open_store(tmp_path, docs) as store:
            pipe.add_to(store, docs[::2])
            pipe.add_to(store, docs[1::2])
            assert store.sizes.tolist() == [8]

    monkeypatch.setattr(pipe._texts, "input", noting)
    for cluster in (lambda: pipe.cluster(docs), add_all):
        cluster()
        assert [pair for pair in read if pair[0].startswith("John") and pair[1].startswith("Peter")]
        assert len(read) == len(set(read))
        assert len({span.id_ for doc in docs for span in doc.spans[GROUP]}) == 1
        read.clear()


def test_contexts_of_a_store_are_not_loaded_for_vectors(tmp_path: Path) -> None:
    docs, pipe = corpus(), ByVectors(neighbours=K)
    with pipe.open_store(tmp_path, docs) as store:
        said: list[str] = []
        store._connection.set_trace_callback(said.append)
        for doc in docs:
            pipe.add_to(store, [doc])
        assert any("SELECT vector" in each for each in said)
        assert not [each for each in said if "SELECT text, before" in each]
    assert len(partition(docs)) == 2
    with ClusterStore.open(tmp_path, read_only=True) as store:
        assert len(store.sizes) == 2
