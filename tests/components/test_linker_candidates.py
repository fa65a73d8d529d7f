"""What a linker knows of its candidates: their priors, the words that they share, and that none is lost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.components.linker import Linker
from entitykit.errors import ConfigError
from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.store import EntityStore
from tests.components.test_linker import LINKER, initialized, make, store

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


def found(linker: Linker, nlp: Language, text: str, **settings: float) -> set[str]:
    """Ids of the candidates of a mention at the beginning of a text, with other settings than those of the linker."""
    before = dict(linker.settings)
    linker.settings |= settings
    words = text.split()
    doc = nlp(Doc(nlp.vocab, words=words, ents=["B-X"] + ["O"] * (len(words) - 1)))
    linker.settings = before
    return {id_ for id_, _ in doc.ents[0]._.kb_ents}


def test_limits_of_the_sources(tiny_bert: Path, store: EntityStore) -> None:
    """By names: how exactly, and how probably they name an entity, or how like they are; by words: how many of the context."""
    store.add(
        [Entity(id="D1", name="Don", aliases=(Alias("Don", 9),)), Entity(id="D2", name="Don"), Entity(id="D3", name="Dont")]
    )
    nlp, linker, _ = initialized(tiny_bert, store, candidates={"alias": 9, "dense": 0})
    assert found(linker, nlp, "DON") == {"D1", "D2"}
    assert found(linker, nlp, "DON", normalised=False) == set()
    assert found(linker, nlp, "Don", normalised=False) == {"D1", "D2"}
    assert found(linker, nlp, "DON", least_prior=0.2) == {"D1"}
    assert found(linker, nlp, "DON", least_prior=0.9) == {"D1"}
    assert found(linker, nlp, "DON", least_prior=0.95) == set()
    linker.settings["candidates"] = {"fuzzy": 9}
    assert found(linker, nlp, "Donts") == {"D1", "D2", "D3"}
    assert found(linker, nlp, "Donts", least_similarity=0.51) == {"D3"}
    assert found(linker, nlp, "Donts", least_similarity=0.8) == set()
    linker.settings["candidates"] = {"words": 9}
    assert found(linker, nlp, "X sank a ship in the north") == {"Q2", "Q3"}
    assert found(linker, nlp, "X sank a ship in the north", keywords=2) == {"Q3"}
    assert found(linker, nlp, "X sank a ship in the north", keywords=0) == set()


def test_priors_are_of_names_as_the_source_compares_them(tiny_bert: Path, store: EntityStore) -> None:
    """An entity that is found otherwise gets none by a name that `alias` would not have found."""
    nlp, linker, _ = initialized(tiny_bert, store, normalised=False, candidates={"alias": 9, "fuzzy": 9, "dense": 0})
    for words, prior in ((["mary", "jones"], None), (["Mary", "Jones"], 1.0)):
        doc = nlp(Doc(nlp.vocab, words=words, ents=["B-X", "I-X"]))
        (candidate,) = linker.explain(doc.ents[0]).candidates
        assert (candidate.id, candidate.prior) == ("Q1", prior)


@pytest.mark.parametrize(
    ("setting", "wrong", "expected"),
    [
        ("least_prior", 1.1, "0 to 1"),
        ("least_prior", -0.1, "0 to 1"),
        ("least_similarity", 0.0, "above 0, up to 1"),
        ("least_similarity", 1.1, "above 0, up to 1"),
        ("keywords", -1, "at least 0"),
        ("keyword_threshold", 1.1, "0 to 1"),
        ("keyword_threshold", -0.1, "0 to 1"),
        ("distill", 1.5, "0 to 1"),
        ("distill", -0.5, "0 to 1"),
        ("distill_temperature", 0.0, "above 0"),
        ("nil_similarity", -1.5, "-1 to 1"),
    ],
)
def test_limits_that_cannot_be(tiny_bert: Path, store: EntityStore, setting: str, wrong: float, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"E109.* {setting} of '{LINKER}' is {wrong}; expected {expected}"):
        make(tiny_bert, store, **{setting: wrong})
