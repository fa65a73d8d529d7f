"""The knowledge base of the demo is one that `entitykit kb build` takes without a word, and that has what the texts need."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path

import pytest

from entitykit.knowledge.entities import Entity, read_entities
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.text import normalise

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def entities() -> list[Entity]:
    return list(read_entities(EXAMPLES / "kb.jsonl"))


def test_it_is_built_without_a_warning(entities: list[Entity], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = EntityStore.build(tmp_path / "kb", entities)
    assert report.added == report.read == len(entities)
    with EntityStore.open(tmp_path / "kb") as store:
        store.check()
        for name in ("Cambridge", "Mercury", "Apple", "Jordan", "Python"):
            assert len(store.by_alias(name)) >= 4, name
        for name in ("Eleanor Finch", "Teresa Valadares", "Priya Raman", "Northwind Analytics", "AirSense 300", "Corran Point"):
            assert not store.by_alias(name), name  # the texts made them up


def test_each_entity_is_told_from_its_namesakes(entities: list[Entity]) -> None:
    assert 250 <= len(entities) <= 350
    for entity in entities:
        assert re.fullmatch(r"Q[1-9]\d*|ek:[a-z0-9]+(-[a-z0-9]+)*", entity.id)
        assert entity.description
        assert entity.type
        keys = Counter(normalise(alias.text) for alias in entity.names())
        assert max(keys.values()) == 1, entity
    assert len({(entity.name, entity.description) for entity in entities}) == len(entities)
