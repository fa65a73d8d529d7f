"""What a linker knows of its candidates: their priors, the words that they share, and that none is lost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.store import EntityStore
from tests.components.test_linker import initialized, store

__all__ = ["store"]

NAMESAKES = [Entity(id=f"N{i}", name="Don", aliases=(Alias("Don", 40 - i),), description=f"number {i}") for i in range(40)]


def test_every_candidate_has_its_prior(tiny_bert: Path, store: EntityStore) -> None:
    """Also those that other sources have found than names, or that are beyond their limit; and the words that it shares."""
    store.add(NAMESAKES)
    nlp, linker, _ = initialized(tiny_bert, store, prior_weight=1.0, candidates={"alias": 32, "dense": 64})
    linker.build_index()
    doc = nlp(Doc(nlp.vocab, words=["Don", "sank", "on", "the", "river"], ents=["B-X", "O", "O", "O", "O"]))
    explained = linker.explain(doc.ents[0])
    total = sum(range(1, 41))
    wanted = {f"N{i}": (40 - i) / total for i in range(40)} | dict.fromkeys(("Q1", "Q2", "Q3"))
    assert {each.id: each.prior for each in explained.candidates} == {
        id_: prior and pytest.approx(prior) for id_, prior in wanted.items()
    }
    assert {each.found_by for each in explained.candidates} == {("alias", "dense"), ("dense",)}
    scale = float(linker.head.scale.detach())
    scores = torch.tensor([scale * each.dense + math.log(each.prior or 1e-4) for each in explained.candidates])
    assert [each.score for each in explained.candidates] == pytest.approx(scores.softmax(0).tolist(), abs=1e-5)
    by_words = {match.id: match.score for match in store.by_words("Don sank river", 99)}
    assert {each.id: each.sparse for each in explained.candidates if each.sparse is not None} == pytest.approx(by_words)
    assert len(by_words) == 40


@pytest.mark.parametrize("keep", [None, 3])
def test_the_ceiling_is_that_of_all_sources(tiny_bert: Path, store: EntityStore, keep: int | None) -> None:
    """Every candidate that is found is left on the mention, the least probable one, too, unless fewer are asked for."""
    store.add([*NAMESAKES, *(Entity(id=f"O{i}", name=f"other {i}") for i in range(60))])
    nlp, linker, _ = initialized(tiny_bert, store, candidates={"alias": 32, "dense": 103}, **({"keep": keep} if keep else {}))
    linker.build_index()
    doc = nlp(Doc(nlp.vocab, words=["Don"], ents=["B-X"]))
    candidates = linker.explain(doc.ents[0]).candidates
    assert len(candidates) == len(store) == 103
    assert [id_ for id_, _ in doc.ents[0]._.kb_ents] == [each.id for each in candidates][:keep]
    gold = doc.copy()
    gold.set_ents([Span(gold, 0, 1, label="X", kb_id=candidates[-1].id)])
    assert linker.score([Example(doc, gold)])["linking_ceiling"] == (0.0 if keep else 1.0)


def test_priors_count_without_the_source_of_names(tiny_bert: Path, store: EntityStore) -> None:
    store.add(NAMESAKES)
    found = []
    for weight in (0.0, 100.0):
        nlp, linker, _ = initialized(tiny_bert, store, prior_weight=weight, candidates={"alias": 0, "dense": 64})
        linker.build_index()
        doc = nlp(Doc(nlp.vocab, words=["Don"], ents=["B-X"]))
        found.append([id_ for id_, _ in doc.ents[0]._.kb_ents])
    assert found[0] != found[1]
    assert found[1][:40] == [f"N{i}" for i in range(40)]
