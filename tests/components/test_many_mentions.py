"""Tens of thousands of mentions, of random heads: what components cost, in seconds of the processor, and that none is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup
from spacy.vocab import Vocab

from entitykit.components import near
from entitykit.components.clustering import gather
from entitykit.components.near import near_pairs
from entitykit.decoding.cross_document import MergeSettings, agglomerate
from tests.pipelines import initialized

SECONDS = 10.0
WORDS, WIDTHS = 12_500, 4


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    started = time.process_time()
    yield
    assert time.process_time() - started < seconds


def long_document(vocab: Vocab, group: str) -> Doc:
    """50,000 mentions: all of up to four words, most of which there are many times, some with a name of their own."""
    words = [f"Town{i % 900}" if i % 3 else f"river{i % 50}" for i in range(WORDS + WIDTHS)]
    doc = Doc(vocab, words=words)
    spans = [Span(doc, i, i + n, label="PLACE") for i in range(WORDS) for n in range(1, WIDTHS + 1)]
    doc.spans[group] = SpanGroup(doc, name=group, spans=spans)
    return doc


def run(nlp: Language, name: str, doc: Doc) -> Any:
    """Let the encoder read a document, and time the component alone."""
    nlp.get_pipe("entitykit_encoder")(doc)
    pipe: Any = nlp.get_pipe(name)
    with at_most(SECONDS):
        return pipe(doc)


def test_salience(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, "salience")
    doc = run(nlp, "salience", long_document(nlp.vocab, "names"))
    assert sum(len(entity["mentions"]) for entity in doc._.salience) == WORDS * WIDTHS


def test_vectors_across_documents(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, "cross_document")
    doc = run(nlp, "cross_document", long_document(nlp.vocab, "phrases"))
    with at_most(SECONDS):
        assert gather([doc], "cross_document").vectors.shape == (WORDS * WIDTHS, 32)


def test_clusters_across_documents(tiny_bert: Path) -> None:
    """Of 14,000 mentions, for more there is no time in a test: all are compared with each other."""
    nlp, _ = initialized(tiny_bert, "cross_document")
    pipe: Any = nlp.get_pipe("cross_document")
    docs = [long_document(nlp.vocab, "phrases") for _ in range(2)]
    for number, doc in enumerate(docs):
        doc.user_data["id"] = str(number)
        doc.spans["phrases"] = list(doc.spans["phrases"])[number::7][:7000]
        nlp.get_pipe("entitykit_encoder")(doc)
        pipe(doc)
    with at_most(SECONDS):
        pipe.cluster(docs)
    assert all(span.id_ for doc in docs for span in doc.spans["cross_document"])


def spread(n: int, size: int, n_entities: int, noise: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors *(n, size)* of mentions, near those of the same entity."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(n_entities, size))[rng.integers(n_entities, size=n)] + noise * rng.normal(size=(n, size))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_many_clusters_that_hardly_fit() -> None:
    """20,000 mentions, and clusters that are compared as wholes over and over, because most do not fit each other."""
    vectors = spread(20_000, 16, 200, 0.8)
    rows = np.random.default_rng(1).integers(-40, 41, size=(len(vectors), 10))
    pairs = np.stack([np.repeat(np.arange(len(vectors)), 10), (np.arange(len(vectors))[:, None] + rows).ravel() % 20_000], 1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    n_asked = 0

    def score(wanted: Any) -> Any:
        nonlocal n_asked
        n_asked += len(wanted)
        return (1 + np.einsum("ij,ij->i", vectors[wanted[:, 0]], vectors[wanted[:, 1]]).astype(np.float64)) / 2

    with at_most(SECONDS):
        clusters = agglomerate(
            pairs, score(pairs), score, len(vectors), settings=MergeSettings(threshold=0.4, mean_threshold=0.6)
        )
    assert n_asked > 1_000_000
    assert 1000 < clusters.max() < 10_000


def test_an_inverted_file_finds_nearly_all(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = spread(3000, 32, 200, 0.3)
    pairs = near_pairs(vectors, 10)[0]
    every = vectors @ vectors.T
    np.fill_diagonal(every, -np.inf)
    nearest = np.argpartition(-every, 10, axis=1)[:, :10]
    brute = {(min(i, j), max(i, j)) for i, own in enumerate(nearest.tolist()) for j in own}
    exact = set(map(tuple, pairs.tolist()))
    assert exact == brute
    kinds = []
    build = near.VectorIndex.build

    def noting(*args: Any, **kwargs: Any) -> Any:
        kinds.append(kwargs["kind"])
        return build(*args, **kwargs)

    monkeypatch.setattr(near, "EXACT", 2999)
    monkeypatch.setattr(near.VectorIndex, "build", noting)
    found = set(map(tuple, near_pairs(vectors, 10)[0].tolist()))
    assert kinds == ["ivf"]
    assert len(found & exact) > 0.95 * len(exact)
