"""The cross-encoder of pairs of mentions: what it learns from, and how it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.language import Language

from entitykit.components.clustering import gather
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from entitykit.knowledge.candidates import Mention
from tests.pipelines import encoder_gradient, initialized, make_examples, make_pipeline, train

KIND = "mention_pairs"
MENTIONS = [Mention("Mary Jones", "", " went"), Mention("Peter", "", ""), Mention("New York", "in ", "")]
VECTORS = np.eye(3, 8, dtype=np.float32)


@pytest.fixture(scope="module")
def started(tiny_bert: Path) -> Language:
    return initialized(tiny_bert, KIND)[0]


def pipe_of(nlp: Language) -> Any:
    return nlp.get_pipe(KIND)


def test_the_order_of_a_pair_does_not_matter(started: Language) -> None:
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    score = pipe_of(started).scorer_of(MENTIONS, VECTORS, (5.0, 0.2))
    found = score(pairs)
    assert len(set(found.round(6).tolist())) == 3
    np.testing.assert_allclose(score(pairs[:, ::-1]), found, atol=1e-6)
    turned = pipe_of(started).scorer_of(MENTIONS[::-1], VECTORS[::-1], (5.0, 0.2))
    np.testing.assert_allclose(turned(2 - pairs), found, atol=1e-6)


def test_what_the_vectors_count(started: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-odds add up."""
    pipe, pairs = pipe_of(started), np.array([[0, 1], [1, 1]])
    alone = pipe.scorer_of(MENTIONS, VECTORS, (5.0, 0.2))(pairs)
    monkeypatch.setitem(pipe.settings, "vector_weight", 2.0)
    both = pipe.scorer_of(MENTIONS, VECTORS, (5.0, 0.2))(pairs)
    added = np.log(both / (1 - both)) - np.log(alone / (1 - alone))
    np.testing.assert_allclose(added, [2 * 5 * (0 - 0.2), 2 * 5 * (1 - 0.2)], atol=1e-4)


def test_unlikely_pairs_are_not_read(started: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipe_of(started)
    docs = [started(eg.text) for eg in make_examples(started)]
    asked: list[int] = []
    read = pipe._texts.input
    monkeypatch.setattr(pipe._texts, "input", lambda mentions, pairs: asked.append(len(pairs)) or read(mentions, pairs))
    pipe.cluster(docs)
    n = sum(asked)
    monkeypatch.setitem(pipe.settings, "least", 0.9999)
    asked.clear()
    pipe.cluster(docs)
    assert sum(asked) < n
    assert all(span.id_ for doc in docs for span in doc.spans["cross_document"])


def test_documents_without_vectors_teach_nothing_in_silence(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, KIND)
    with pytest.raises(InputError, match="E631.*annotating_components"):
        nlp.update(examples)


def test_mentions_that_are_not_gold_are_left_out(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp, examples = initialized(tiny_bert, KIND)
    pipe = pipe_of(nlp)
    seen: list[set[str]] = []
    read = pipe._texts.input
    monkeypatch.setattr(
        pipe._texts, "input", lambda m, pairs: seen.append({m[i].text for i in np.unique(pairs)}) or read(m, pairs)
    )
    del examples[0].reference.spans["coref_clusters_2"]
    examples[0].reference.user_data["coref_ids"] = ["PERSON"]
    train(nlp, examples[:2], 1)
    assert seen == [{"Mary Jones", "The mayor of New York", "New York", "John"}]
    train(nlp, examples[2:4], 1)  # one mention alone is no pair
    assert len(seen) == 1


def test_only_some_pairs_are_learned(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, KIND)
    pipe = pipe_of(nlp)
    pipe.settings["pairs"] = 3
    pairs = np.array([[i, j] for i in range(5) for j in range(i + 1, 5)])
    some = [pipe._some(pairs) for _ in range(50)]
    assert {len(each) for each in some} == {3}
    drawn = {tuple(pair) for each in some for pair in each.tolist()}
    assert {tuple(sorted(pair)) for pair in drawn} == {tuple(pair) for pair in pairs.tolist()}
    assert any(a > b for a, b in drawn)
    assert any(a < b for a, b in drawn)


def test_a_shared_encoder_gets_gradients(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, f"{KIND}_shared")
    nlp.update(examples, sgd=False, annotates=["tests_phrases", "tests_vectors"])
    assert any(gradient.any() for gradient in encoder_gradient(nlp).values())


def test_long_mentions_are_cut_with_a_warning(started: Language) -> None:
    pipe = pipe_of(started)
    long = [Mention("went to " * 40, "", ""), Mention("met " * 80, "", ""), MENTIONS[0]]
    for n, pairs in ((1, [[0, 2]]), (2, [[0, 2], [1, 2]])):  # every batch is told of
        with pytest.warns(EntityKitWarning, match=f"W630.*{n} of {n + 1} mentions"):
            pipe.scorer_of(long, VECTORS, (5.0, 0.2))(np.array(pairs))


def test_bad_settings(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="E630.*context_pieces.*is 0"):
        spacy.blank("xx").add_pipe("entitykit_mention_pairs", config={"model": {"context_pieces": 0}})
    with pytest.raises(ConfigError, match="E109.*vector_weight"):
        spacy.blank("xx").add_pipe("entitykit_mention_pairs", config={"vector_weight": -1.0})
    nlp = make_pipeline(tiny_bert)
    own = nlp.config["components"]["entitykit_encoder"]["model"]
    model = {"@architectures": "entitykit.MentionPairs.v1", "context_pieces": 5000, "tok2vec": own}
    nlp.add_pipe("entitykit_mention_pairs", config={"model": model})
    with pytest.raises(ConfigError, match="E630.*context_pieces.*5000.*half of the"):
        nlp.initialize(lambda: make_examples(nlp))


def test_vectors_are_taken_as_they_are(started: Language) -> None:
    docs = [started(eg.text) for eg in make_examples(started)]
    before = gather(docs, "cross_document").vectors.copy()
    pipe_of(started).cluster(docs)
    np.testing.assert_array_equal(gather(docs, "cross_document").vectors, before)
