"""Candidates from several sources, and vectors of entities on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from entitykit.errors import InputError
from entitykit.knowledge.candidates import (
    AliasSource,
    DenseSource,
    FuzzySource,
    Mention,
    WordSource,
    all_sources,
    find_candidates,
    hard_negatives,
    nearest_words,
    search_alive,
    telling_words,
    word_query,
)
from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.entity_index import EntityIndex
from entitykit.knowledge.store import EntityStore

WIDTH = 8


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    store = EntityStore.create(tmp_path / "kb")
    store.add(
        [
            Entity(id="P1", name="Paris", aliases=(Alias("Paris", 9),), description="the capital of France on the Seine"),
            Entity(id="P2", name="Paris", aliases=(Alias("Paris", 1),), description="a town in Texas"),
            Entity(id="P3", name="Parish", description="a church district"),
            Entity(id="S", name="Seine", description="a river through the capital"),
        ]
    )
    return store


def make_index(store: EntityStore, seed: int = 0) -> EntityIndex:
    vectors = np.random.default_rng(seed).normal(size=(len(store), WIDTH)).astype(np.float32)
    rows = store.rows([entity.id for entity in store])
    blocks = ((rows[i : i + 3], vectors[i : i + 3]) for i in range(0, len(rows), 3))
    return EntityIndex.build(blocks, width=WIDTH, fingerprint="f", version=store.version)


def test_union_records_every_source(store: EntityStore) -> None:
    index = make_index(store)
    vector = index.vectors(store.rows(["S"]))[0][0]
    mentions = [Mention("paris", left="the capital on the Seine,", vector=vector), Mention("Nobody")]
    limits = {"alias": 5, "fuzzy": 5, "words": 5, "dense": 2}
    found, none = find_candidates(all_sources(store, index), limits, mentions)
    by_id = dict(zip(store.ids([each.row for each in found]), found, strict=True))
    assert list(by_id)[:2] == ["P1", "P2"]
    assert by_id["P1"].scores["alias"] == pytest.approx(0.9)
    assert by_id["P1"].scores["fuzzy"] == 1
    assert 0.5 <= by_id["P3"].scores["fuzzy"] < 1
    assert "alias" not in by_id["P3"].scores
    assert by_id["P1"].scores["words"] > by_id["P2"].scores["words"] > 0
    assert by_id["S"].scores["dense"] == pytest.approx(float(vector @ vector), rel=1e-2)
    assert len({each.row for each in found}) == len(found)
    assert none == []


def test_batch_equals_singles(store: EntityStore) -> None:
    sources, limits = all_sources(store, None), {"alias": 2, "fuzzy": 2, "words": 3}
    mentions = [Mention("Paris", right="in Texas"), Mention("seine"), Mention(""), Mention("Paris")]
    together = find_candidates(sources, limits, mentions)
    assert together == [find_candidates(sources, limits, [mention])[0] for mention in mentions]
    assert find_candidates(sources, limits, []) == []


def test_limits(store: EntityStore) -> None:
    (found,) = find_candidates([AliasSource(store)], {"alias": 1, "dense": 0}, [Mention("Paris")])
    assert store.ids([each.row for each in found]) == ["P1"]
    for limits in ({"alias": -1}, {"dense": 3}):
        with pytest.raises(InputError, match="E582"):
            find_candidates([AliasSource(store)], limits, [])
    with pytest.raises(InputError, match="E582"):
        find_candidates([AliasSource(store)] * 2, {}, [])


def test_removed_entities_are_passed_over(store: EntityStore) -> None:
    index = make_index(store)
    vector = index.vectors(store.rows(["S"]))[0][0]
    store.remove(["S"])
    (found,) = DenseSource(store, index).find([Mention("x", vector=vector)], 4)
    assert len(found) == 3
    assert sorted(store.ids([row for row, _ in found])) == ["P1", "P2", "P3"]


def test_removed_entities_leave_their_places_to_others(tmp_path: Path) -> None:
    """Searched for among all that are left, however many of the nearest are gone; of candidates as of hard negatives."""
    store = EntityStore.create(tmp_path / "many")
    store.add([Entity(id=f"Q{i}", name=f"name {i}") for i in range(60)])
    index = make_index(store)
    queries = np.random.default_rng(1).normal(size=(3, WIDTH)).astype(np.float32)
    nearest = index.search(queries, 60)
    store.remove(store.ids(np.unique(nearest[1][:2, :20])))
    n_left = len(store)
    for k in (1, 5, n_left, 60):
        scores, rows = search_alive(store, index, queries, k)
        assert scores.shape == rows.shape == (3, k)
        for own, own_scores, before, before_scores in zip(rows, scores, nearest[1], nearest[0], strict=True):
            alive = store.alive(before)
            n = min(k, n_left)
            assert own.tolist() == [*before[alive][:n].tolist(), *[-1] * (k - n)]
            np.testing.assert_allclose(own_scores[:n], before_scores[alive][:n], rtol=1e-6)
            assert np.isneginf(own_scores[n:]).all()
    (found,) = DenseSource(store, index).find([Mention("x", vector=queries[0])], 5)
    assert len(found) == 5
    gold = search_alive(store, index, queries[:1], 1)[1][0].tolist()
    assert len(hard_negatives(store, index, ["x"], queries[:1], gold, 4)) == 4
    assert search_alive(store, index, queries[:0], 5)[1].shape == (0, 5)


def test_keywords_are_the_nearest_words() -> None:
    mention = Mention("x", left="far away the old Seine", right="of Texas, is big")
    assert nearest_words(mention) == ["Seine", "old", "Texas", "away", "big", "far"]
    assert nearest_words(mention, 2) == ["Seine", "old"]


def test_limits_of_names(store: EntityStore) -> None:
    def ids(source: AliasSource | FuzzySource, text: str) -> list[str]:
        return store.ids([row for row, _ in source.find([Mention(text)], 9)[0]])

    assert ids(AliasSource(store), "PARIS") == ["P1", "P2"]
    assert ids(AliasSource(store, normalised=False), "PARIS") == []
    assert ids(AliasSource(store, least=0.5), "PARIS") == ["P1"]
    assert ids(FuzzySource(store), "Parish") == ["P3", "P1", "P2"]
    assert ids(FuzzySource(store, least=0.9), "Parish") == ["P3"]


def test_keywords_of_a_mention_are_asked_with(store: EntityStore) -> None:
    mention = Mention("Paris", right="is far from Texas", keywords=["district"])
    assert word_query(mention) == "Paris district"
    assert word_query(mention, lambda mention: ["town"]) == "Paris town"
    assert word_query(mention._replace(keywords=None)) == "Paris far Texas"
    assert word_query(mention._replace(keywords=())) == "Paris"
    (found,) = WordSource(store).find([mention], 9)
    assert "P3" in store.ids([row for row, _ in found])
    assert telling_words("The Seine's, of a well-known_river I") == ["Seine", "well", "known", "river"]


def test_hard_negatives(store: EntityStore) -> None:
    index = make_index(store)
    rows = dict(zip(["P1", "P2", "P3", "S"], store.rows(["P1", "P2", "P3", "S"]).tolist(), strict=True))
    near = index.vectors(np.array([rows["P3"]]))[0]
    assert hard_negatives(store, None, ["Paris"], near, [rows["P1"]], 4) == [rows["P2"]]
    found = hard_negatives(store, index, ["Paris"], near, [rows["P1"]], 2)
    assert found == [rows["P2"], rows["P3"]]
    assert hard_negatives(store, index, ["Paris"], near, [rows["P1"]], 0) == []
