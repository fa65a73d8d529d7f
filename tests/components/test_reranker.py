"""The reranker: what it takes from a linker, what it leaves, where its gradients go, and what a bi-encoder learns from it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import registry

from entitykit.components.cluster_links import link_clusters
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.knowledge.augment import Augmenter
from entitykit.knowledge.store import EntityStore
from tests.linked_texts import linked_examples
from tests.pipelines import BI_ENCODER, OURS, encoder_gradient, encoder_weights, train
from tests.rerankers import (
    ENCODER,
    LINKER,
    RERANKER,
    build_saved,
    build_store,
    initialized,
    make,
    teach,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EntityStore:
    return build_store(tmp_path_factory.mktemp("reranker") / "kb")


@pytest.fixture(scope="module")
def saved(tiny_bert: Path, store: EntityStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_saved(tiny_bert, store, tmp_path_factory.mktemp("saved") / "nlp")


def read(nlp: Language) -> list[Doc]:
    return [nlp(eg.predicted) for eg in linked_examples(nlp)]


def test_links_are_decided_anew_and_explained(saved: Path) -> None:
    nlp = spacy.load(saved)
    linker = nlp.get_pipe(LINKER)
    docs = read(nlp)
    assert [[ent.kb_id_ for ent in doc.ents] for doc in docs] == [["Q1", "Q2"], ["Q3"], ["Q2", docs[2].ents[1].kb_id_]]
    ent = docs[0].ents[1]
    assert ent._.kb_ents[0][0] == "Q2"
    assert sum(p for _, p in ent._.kb_ents) == pytest.approx(1)
    explained = linker.explain(ent)
    assert explained.id == "Q2"
    assert [(each.id, pytest.approx(each.score)) for each in explained.candidates] == ent._.kb_ents
    first = explained.candidates[0]
    assert first.prior == pytest.approx(1 / 3)
    assert first.rerank == max(each.rerank for each in explained.candidates)
    assert first.rerank != first.dense
    assert f"{first.rerank:.3f}" in str(explained)
    nlp.disable_pipe(RERANKER)
    alone = linker.explain(nlp(docs[0].copy()).ents[1])
    assert {each.rerank for each in alone.candidates} == {None}


def test_probabilities_are_those_of_the_scores(saved: Path) -> None:
    """And those of a linker count as much as the setting says."""
    for weight in (0.0, 2.0):
        nlp = spacy.load(saved, config={f"components.{RERANKER}.linker_weight": weight})
        ent = read(nlp)[1].ents[0]
        noted = ent._.kb_reranked["candidates"]
        scores = torch.tensor([score for _, _, score in noted]) + weight * torch.tensor([p for _, p, _ in noted]).log()
        expected = dict(zip([id_ for id_, _, _ in noted], scores.softmax(0).tolist(), strict=True))
        assert dict(ent._.kb_ents) == pytest.approx(expected, abs=1e-5)
        assert sum(p for _, p, _ in noted) == pytest.approx(1, abs=1e-3)  # the linker's own


def test_candidates_behind_the_best(saved: Path) -> None:
    """They stay where they are; and what was scored once gives the same when it is scored again."""
    nlp = spacy.load(saved, config={f"components.{RERANKER}.top_k": 2})
    doc = read(nlp)[0]
    pairs = doc.ents[1]._.kb_ents
    assert len(pairs) == 4
    assert pairs[0][1] + pairs[1][1] == pytest.approx(1)
    assert [p for _, p in pairs[2:]] == [0.0, 0.0]
    alone = spacy.load(saved, disable=[RERANKER])
    left = read(alone)[0].ents[1]._.kb_ents
    assert [id_ for id_, _ in pairs[2:]] == [id_ for id_, _ in left[2:]]
    assert {id_ for id_, _ in pairs[:2]} == {id_ for id_, _ in left[:2]}
    again = nlp.get_pipe(RERANKER)(doc)
    assert again.ents[1]._.kb_ents == pairs
    back = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert nlp.get_pipe(LINKER).explain(back.ents[1]) == nlp.get_pipe(LINKER).explain(doc.ents[1])


def test_threshold_and_calibration(saved: Path, tmp_path: Path) -> None:
    nlp = spacy.load(saved)
    examples = [Example(doc, eg.reference) for doc, eg in zip(read(nlp), linked_examples(nlp), strict=True)]
    found = nlp.get_pipe(RERANKER).calibrate(examples)
    assert found.nil is not None  # the river is in no knowledge base
    assert nlp.get_pipe(RERANKER).calibrate(examples) == found  # of documents that it has read, too
    docs = read(nlp)
    assert [[ent.kb_id_ for ent in doc.ents] for doc in docs] == [["Q1", "Q2"], ["Q3"], ["Q2", ""]]
    assert nlp.get_pipe(LINKER).explain(docs[2].ents[1]).nil > 0.5
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp", config={f"components.{RERANKER}.threshold": 1.0})
    assert loaded.get_pipe(RERANKER).calibration == found
    docs = read(loaded)
    assert not any(ent.kb_id_ for doc in docs for ent in doc.ents)
    assert loaded.get_pipe(LINKER).explain(docs[0].ents[0]).id == ""


def test_unknown_mentions_are_grouped_by_what_is_decided_last(saved: Path) -> None:
    """Whatever the linker has thought of them; and again when the document is read again, or was stored."""

    def grouped(linker: float, reranker: float) -> tuple[Language, Doc]:
        given = {"nil_clusters": True, "nil_similarity": -1.0, "threshold": linker}
        config = {f"components.{LINKER}.{key}": value for key, value in given.items()}
        nlp = spacy.load(saved, config=config | {f"components.{RERANKER}.threshold": reranker})
        doc = Doc(nlp.vocab, words=["Mary", "Jones", "saw", "Jones", "in", "the", "river"])
        doc.set_ents([Span(doc, a, b, label="X") for a, b in ((0, 2), (3, 4), (5, 7))])
        return nlp, nlp(doc)

    every, none = {"NIL-1": [[0, 2], [3, 4]], "NIL-2": [[5, 7]]}, dict[str, Any]()
    nlp, doc = grouped(0.0, 2.0)
    assert doc._.nil_clusters == every
    assert [ent._.nil_id for ent in doc.ents] == ["NIL-1", "NIL-1", "NIL-2"]
    (stored,) = DocBin().from_bytes(DocBin(docs=[doc], store_user_data=True).to_bytes()).get_docs(nlp.vocab)
    stored._.nil_clusters = None
    assert nlp.get_pipe(RERANKER)(stored)._.nil_clusters == every
    _, doc = grouped(2.0, 0.0)
    assert all(ent.kb_id_ for ent in doc.ents)
    assert doc._.nil_clusters == none
    doc.spans["cross_document"] = [Span(doc, ent.start, ent.end, span_id="C") for ent in doc.ents]
    assert link_clusters([doc], threshold=2.0) == {"C": ""}
    assert doc._.nil_clusters == {"NIL-C": [[0, 2], [3, 4], [5, 7]]}
    assert read(spacy.load(saved))[0]._.nil_clusters is None


def test_groups(tiny_bert: Path, store: EntityStore) -> None:
    with pytest.warns(EntityKitWarning, match="W586"):  # the links of the examples are in doc.ents
        nlp, *_ = initialized(tiny_bert, store, mentions="sc", linker={"mentions": "sc", "candidates": {"alias": 5}})
    doc = nlp.make_doc("in New York the river")
    doc.spans["sc"] = [Span(doc, 1, 3, label="A"), Span(doc, 0, 3, label="B"), Span(doc, 1, 3, label="C")]
    doc.spans["sc"].attrs["scores"] = [0.1, 0.2, 0.3]
    doc = nlp(doc)
    assert [(s.start, s.end, s.label_, s.kb_id_[:1]) for s in doc.spans["sc"]] == [
        (1, 3, "A", "Q"),
        (0, 3, "B", ""),
        (1, 3, "C", "Q"),
    ]
    assert doc.spans["sc"].attrs["scores"] == [0.1, 0.2, 0.3]
    assert not nlp("no group").spans


@pytest.mark.parametrize("own", [True, False], ids=["own", "shared"])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(tiny_bert: Path, store: EntityStore, own: bool) -> None:
    """Of the encoder that reads, and of no other."""
    nlp, _, reranker = initialized(tiny_bert, store, own=own, model={"dropout": 0.0})
    shared, examples = nlp.get_pipe(ENCODER), linked_examples(nlp)
    for eg in examples:
        eg.predicted = nlp.get_pipe(LINKER)(shared(eg.predicted))
    reader = reranker._texts.reader
    gradients, values = [], []
    for pieces in (1, 40, 10_000):
        reader.batch_pieces = pieces
        shared.update(examples, losses={})
        values.append(reranker.update(examples, losses={})[RERANKER])
        shared._backward()
        module = reader.shim.module
        gradients.append({name: p.grad.to_dense().clone() for name, p in module.named_parameters() if p.grad is not None})
        module.zero_grad()
        reranker.head.zero_grad()
        assert not (own and encoder_gradient(nlp))
    assert any(gradient.any() for gradient in gradients[0].values())
    for other in (1, 2):
        assert values[other] == pytest.approx(values[0], rel=1e-4)
        torch.testing.assert_close(gradients[other], gradients[0], rtol=1e-3, atol=1e-6)


def test_no_more_is_in_memory_than_the_bound(tiny_bert: Path, store: EntityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of which the graph is kept: as many as the encoder reads at once, or those of one mention."""
    nlp, _, reranker = initialized(tiny_bert, store)
    examples = linked_examples(nlp)
    for eg in examples:
        eg.predicted = nlp.get_pipe(LINKER)(nlp.get_pipe(ENCODER)(eg.predicted))
    reader = reranker._texts.reader
    kept: list[int] = []
    read, backward = reader.read, torch.Tensor.backward

    def watched(sequences: list[Any], *, learns: bool = False) -> torch.Tensor:
        assert learns
        kept.append(sum(map(len, sequences)))
        return read(sequences, learns=learns)

    monkeypatch.setattr(reader, "read", watched)
    reader.batch_pieces = 10_000
    reranker.update(examples, losses={})
    (whole,) = kept

    def learned(loss: torch.Tensor) -> None:
        kept.append(0)
        backward(loss)

    monkeypatch.setattr(torch.Tensor, "backward", learned)
    for bound, n_parts in ((whole - 1, 2), (1, 3)):  # three mentions have candidates
        kept.clear()
        reader.batch_pieces = bound
        reranker.update(examples, losses={})
        assert kept[1::2] == [0] * n_parts  # each part is learned before the next is read
        assert (len(kept), sum(kept)) == (2 * n_parts, whole)
        assert max(kept) <= bound or n_parts == 3


def test_a_frozen_shared_encoder_gets_nothing(tiny_bert: Path, store: EntityStore) -> None:
    nlp, _, reranker = initialized(tiny_bert, store, own=False)
    before, head = encoder_weights(nlp), reranker.model.to_bytes()
    teach(nlp, 2)
    assert torch.equal(encoder_weights(nlp), before)
    assert not encoder_gradient(nlp)
    assert reranker.model.to_bytes() != head
    train(nlp, linked_examples(nlp), 2, exclude=[LINKER], annotates=[ENCODER, LINKER])
    assert not torch.equal(encoder_weights(nlp), before)


def test_what_is_missing(tiny_bert: Path, store: EntityStore) -> None:
    nlp, *_ = initialized(tiny_bert, store)
    with pytest.warns(EntityKitWarning, match="W591"):
        nlp.update(linked_examples(nlp), sgd=False, losses={})  # type: ignore[arg-type]
    nlp.disable_pipe(LINKER)
    with pytest.raises(ConfigError, match="E593.*Mary Jones"):
        nlp(linked_examples(nlp)[0].predicted)
    nlp("nothing to link")
    nlp = make(tiny_bert, store, kb=None)
    with pytest.raises(ConfigError, match="E538"):
        nlp.initialize(lambda: linked_examples(nlp))
    nlp = make(tiny_bert, store, own=False)
    nlp.initialize(lambda: linked_examples(nlp))
    nlp.get_pipe(RERANKER).model.layers[0].encoder = None
    nlp.get_pipe(RERANKER)._texts.forget()
    with pytest.raises(ConfigError, match="E595"):
        _ = nlp.get_pipe(RERANKER)._texts.reader


def test_cut_candidates_are_counted_once(tiny_bert: Path, store: EntityStore) -> None:
    nlp, *_ = initialized(tiny_bert, store, model={"entity_pieces": 12})
    with pytest.warns(EntityKitWarning, match="W590.*3 of 3"):
        nlp(linked_examples(nlp)[1].predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nlp(linked_examples(nlp)[1].predicted)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 0},
        {"negatives": 0},
        {"linker_weight": -1.0},
        {"model": {"form": "x"}},
        {"model": {"pooling": "max"}},
        {"model": {"context_pieces": 100}},
    ],
    ids=str,
)
def test_settings_that_cannot_be(tiny_bert: Path, store: EntityStore, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E109|E594"):
        initialized(tiny_bert, store, **settings)


def test_an_encoder_of_another_kind(tiny_bert: Path, store: EntityStore) -> None:
    cnn = {"@architectures": "spacy.HashEmbedCNN.v2", "width": 8, "depth": 1, "embed_size": 9, "window_size": 1}
    cnn |= {"maxout_pieces": 2, "subword_features": True, "pretrained_vectors": None}
    with pytest.raises(ConfigError, match="E595"):
        initialized(tiny_bert, store, model={"tok2vec": cnn})


def test_descriptions_are_read(saved: Path, tiny_bert: Path, store: EntityStore) -> None:
    """By both, and each mention is described once if they share the memory."""
    nlp = spacy.load(saved)
    linker, reranker = nlp.get_pipe(LINKER), nlp.get_pipe(RERANKER)
    calls = []

    def describe(text: str, mention: str) -> str:
        calls.append((text, mention))
        return "New York, a ship of long ago"

    before = read(nlp)[0].ents[1]._.kb_reranked["candidates"]
    linker._texts.augment = reranker._texts.augment = Augmenter(describe)
    after = read(nlp)[0].ents[1]._.kb_reranked["candidates"]
    for column in (1, 2):  # what the linker says, and the reranker
        assert {each[0]: each[column] for each in before} != pytest.approx({each[0]: each[column] for each in after})
    assert len(calls) == len(set(calls)) == 5
    assert calls[1] == ("Mary Jones went to { New York }", "New York")
    registry.misc("tests_says.v1", func=lambda: describe)
    augment = {"@misc": "entitykit.Augmenter.v1", "describe": {"@misc": "tests_says.v1"}}
    nlp = make(tiny_bert, store, linker={"augment": augment}, augment=augment)
    assert [nlp.get_pipe(name)._texts.augment.describe for name in (LINKER, RERANKER)] == [describe] * 2
    with pytest.raises(ConfigError, match="E109.*augment"):
        make(tiny_bert, store, linker={"augment": augment, "model": BI_ENCODER | {"tok2vec": OURS, "mention": "state"}})
