"""A plain dict that does what a store should, and entities to fill both with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.store_write import StoreReport
from entitykit.knowledge.text import normalise

PARIS = Entity(
    id="Q90",
    name="Paris",
    aliases=(Alias("Paname"), Alias("Paris", 12)),
    description="the capital of France",
    type="LOC",
    count=14,
    redirects=("Q9090",),
)
PRINCE = Entity(id="Q167646", name="Paris", aliases=(Alias("Alexandros"),), description="prince of Troy", count=2)
TEXAS = Entity(id="Q830149", name="Paris, Texas", aliases=(Alias("Paris", 3),), description="town in Texas")
CITIES = [PARIS, PRINCE, TEXAS]

# What breaks queries, JSON, C strings, word splitting and normalisation.
TEXTS = ["a", "b", "A b", "AB", "a-b", 'x"y', "OR", "NOT a", "c*", "^d", "!!!", "(a)"]
TEXTS += ["é", "e\u0301", "ß", "👩‍👩‍👧", "你好", "a\x00b", "ﬁ", "İ"]
IDS = ["Q1", "Q2", "Q3", "é", 'a"b', "[1]", "\u2028", " ", "null", "👩‍👩‍👧"]

COUNTS = st.sampled_from([0, 1, 2, 7])
ENTITIES = st.builds(
    Entity,
    id=st.sampled_from(IDS),
    name=st.sampled_from(TEXTS),
    aliases=st.lists(st.builds(Alias, st.sampled_from(TEXTS), COUNTS), max_size=3).map(tuple),
    description=st.sampled_from(["", "a b", 'x "AND" y', "a\x00\nb"]),
    count=COUNTS,
    redirects=st.lists(st.sampled_from([*IDS, "old", "older"]), max_size=2).map(tuple),
)


def build(folder: Path, entities: Iterable[Entity] = CITIES) -> EntityStore:
    """Make and open a store."""
    EntityStore.build(folder, entities)
    return EntityStore.open(folder)


class Model:
    """A store as a dict."""

    def __init__(self) -> None:
        self.entities: dict[str, Entity] = {}
        self.redirects: dict[str, str] = {}

    def add(self, entities: list[Entity], batch_size: int = 10_000) -> StoreReport:
        ids = {entity.id for entity in entities}
        updated = len(ids & self.entities.keys())
        report = StoreReport(len(entities), len(ids) - updated, updated, len(entities) - len(ids))
        for start in range(0, len(entities), batch_size):
            batch = entities[start : start + batch_size]
            for i, entity in enumerate(batch):
                if entity.id not in {later.id for later in batch[i + 1 :]}:
                    self._put(entity)
        return report

    def _put(self, entity: Entity) -> None:
        self.entities[entity.id] = entity
        self.redirects = {old: id_ for old, id_ in self.redirects.items() if id_ != entity.id and old != entity.id}
        self.redirects |= {old: entity.id for old in entity.redirects if old not in self.entities}

    def remove(self, ids: Iterable[str]) -> int:
        removed = {id_ for id_ in ids if self.entities.pop(id_, None)}
        self.redirects = {old: id_ for old, id_ in self.redirects.items() if id_ not in removed}
        return len(removed)

    def priors(self, text: str, *, normalised: bool) -> dict[str, float]:
        counts: dict[str, int] = {}
        for entity in self.entities.values():
            for alias in entity.names():
                same = normalise(alias.text) == normalise(text) if normalised else alias.text == text
                if same:
                    counts[entity.id] = counts.get(entity.id, 0) + alias.count
        total = sum(counts.values())
        return {id_: n / total if total else 1 / len(counts) for id_, n in counts.items()}


def add(store: EntityStore, entities: list[Entity], **options: int) -> StoreReport:
    """Add, without the warnings of entities that are meant to be given twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreReport, "warn", lambda _: None)
        return store.add(entities, **options)
