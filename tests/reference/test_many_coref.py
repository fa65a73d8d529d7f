"""Tens of thousands of mentions in one text: what the memory of entities costs, in seconds of the processor and in bytes."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
import torch

from entitykit.bridge.coref import find_named
from entitykit.bridge.coref_memory import EntityMemory, Found
from entitykit.decoding.coref import MemorySettings
from entitykit.models.coref import Named, OnlineCoref, build_online_coref
from entitykit.models.coref_words import Words
from entitykit.models.major_entities import build_major_entities

SIZE = 16
SMALL = {"width": 4, "size": SIZE, "match": 8, "hidden": 16, "proposed": False, "labels": []}
SECONDS = 60.0
NEVER_JOIN = 1e9


def text_of(n: int) -> Found:
    """Mentions at random; 900 names, four of ten without any, and two speakers."""
    rng = np.random.default_rng(0)
    starts = np.arange(n) * 4
    names = 2 * rng.integers(1, 901, n) * (rng.random(n) < 0.6)
    speakers = rng.integers(0, 3, n)
    nothing, proper = 0 * names, (rng.random(n) < 0.5) & (names > 0)
    sayings = speakers * (1 + rng.integers(0, 5, n))
    numbers = [names, nothing, names, names, proper, nothing, nothing, nothing > 0, nothing, nothing, nothing, nothing]
    numbers += [speakers > 0, speakers, sayings]
    vectors = torch.randn(n, SIZE, generator=torch.Generator().manual_seed(0))
    return Found(starts, starts + 2, Words(*map(torch.from_numpy, numbers)), vectors)


@pytest.fixture
def head() -> OnlineCoref:
    torch.manual_seed(0)
    return build_online_coref(SMALL | {"speakers": True}).eval()


def seconds(memory: EntityMemory, found: Found) -> tuple[float, np.ndarray]:
    started = time.process_time()
    entities = memory.follow(found)
    return time.process_time() - started, entities


def test_fifty_thousand_mentions_in_a_bounded_memory(head: OnlineCoref) -> None:
    """The second half costs what the first one does, in time and in bytes, though most mentions start an entity."""
    n, found = 50_000, text_of(50_000)
    memory = EntityMemory(head, MemorySettings(50, "lru"), compared=8, new=0.5)
    halves = [found.rows(slice(0, n // 2)), found.rows(slice(n // 2, n))]
    first, entities = seconds(memory, halves[0])
    held = sum(part.nbytes for part in (memory._vectors, memory._said, memory._keys))
    second, more = seconds(memory, halves[1])
    assert sum(part.nbytes for part in (memory._vectors, memory._said, memory._keys)) == held
    assert memory.books.n_cells == 50
    assert len(memory._known[0]._keys) <= 50
    assert len(np.unique(np.concatenate([entities, more]))) == memory.books.n_entities > 10_000
    assert first + second < SECONDS
    assert second < 1.7 * first


@pytest.mark.parametrize("settled", [1, 3])
def test_who_is_settled_takes_no_other_proper_name(head: OnlineCoref, settled: int) -> None:
    """Where everything is joined, an entity has other names among its first ones alone, and pronouns always."""
    found = text_of(400)
    found = found._replace(words=found.words._replace(proper=found.words.names > 0))
    free = EntityMemory(head, MemorySettings(), new=-NEVER_JOIN).follow(found)
    assert len(np.unique(free)) == 1
    entities = EntityMemory(head, MemorySettings(), new=-NEVER_JOIN, settled=settled).follow(found)
    names, n_mixed = found.words.names.numpy(), 0
    for entity in np.unique(entities):
        called = names[(entities == entity) & (names > 0)]
        n_mixed += len(set(called.tolist())) > 1
        assert set(called[settled:].tolist()) <= set(called[:settled].tolist())
    assert bool(n_mixed) == (settled > 1)
    assert len(np.unique(entities)) <= len(set(names[names > 0].tolist()))


def test_a_memory_that_learned_to_forget(head: OnlineCoref) -> None:
    found = text_of(6_000)
    memory = EntityMemory(head, MemorySettings(100, "learned"), compared=16, new=NEVER_JOIN)
    first, _ = seconds(memory, found.rows(slice(0, 3_000)))
    second, entities = seconds(memory, found.rows(slice(3_000, 6_000)))
    assert memory.books.n_cells == 100
    assert entities.max() < memory.books.n_entities
    assert second < 1.7 * first


def test_what_is_worth_keeping_is_computed_when_it_changes(head: OnlineCoref, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decisions are those of computing it for all cells and every mention."""
    found = text_of(400)

    def follow() -> np.ndarray:
        return EntityMemory(head, MemorySettings(30, "learned"), compared=0, new=0.5).follow(found)

    quick = follow()
    plain = EntityMemory._worth_keeping

    def anew(memory: EntityMemory, start: int) -> np.ndarray:
        memory._at[:] = -1
        return plain(memory, start)

    monkeypatch.setattr(EntityMemory, "_worth_keeping", anew)
    np.testing.assert_array_equal(quick, follow())


def test_an_unbounded_memory_grows_with_the_entities(head: OnlineCoref) -> None:
    """Four times as many need four times the bytes, and not sixteen times."""
    peaks, times = [], []
    for n in (1_500, 6_000):
        found = text_of(n)
        memory = EntityMemory(head, MemorySettings(), new=NEVER_JOIN)
        times.append(seconds(memory, found)[0])
        assert memory.books.n_cells == n
        tracemalloc.start()
        EntityMemory(head, MemorySettings(), compared=4, new=NEVER_JOIN).follow(found.rows(slice(0, n // 3)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 7 * peaks[0]
    assert times[1] < 8 * times[0]


def test_the_best_cells_are_the_best_whatever_changes_in_between(head: OnlineCoref, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are computed for many mentions at once, and anew for cells that change; one at a time they are the same."""
    found = text_of(300)

    def follow() -> np.ndarray:
        return EntityMemory(head, MemorySettings(60), compared=8, new=0.2).follow(found)

    blocks = follow()
    monkeypatch.setattr("entitykit.bridge.coref_memory.BLOCK", 1)
    np.testing.assert_array_equal(blocks, follow())


def test_names_among_many_mentions() -> None:
    torch.manual_seed(0)
    head = build_major_entities(SMALL | {"speakers": True}).eval()
    times = []
    for n in (1_500, 6_000):
        found = text_of(n)
        phrases = Named(found.vectors[:5], found.words.rows(slice(0, 5)))
        started = time.process_time()
        assert (find_named(head, phrases, found, hybrid=True) >= 0).any()
        times.append(time.process_time() - started)
    assert times[1] < 8 * times[0]
