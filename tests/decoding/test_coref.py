"""Antecedents and memories against plain simulations."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.decoding.coref import (
    NONE,
    Memory,
    MemorySettings,
    Step,
    assign,
    group_mentions,
    link_antecedents,
)
from entitykit.errors import ConfigError, InputError


@st.composite
def antecedents(draw: st.DrawFn) -> list[int]:
    return [draw(st.integers(-1, i - 1)) for i in range(draw(st.integers(0, 12)))]


def test_antecedents_by_hand() -> None:
    entities = link_antecedents(np.array([-1, -1, 0, 1, -1, 2]))
    assert entities.tolist() == [0, 1, 0, 1, 2, 0]
    assert [group.tolist() for group in group_mentions(entities)] == [[0, 2, 5], [1, 3], [4]]
    assert [group.tolist() for group in group_mentions(entities, singletons=False)] == [[0, 2, 5], [1, 3]]
    assert group_mentions(np.array([NONE, NONE])) == group_mentions(np.array([], dtype=np.int64)) == []


@given(antecedents())
def test_mentions_share_an_entity_if_links_lead_to_the_same_first_mention(links: list[int]) -> None:
    entities = link_antecedents(np.array(links, dtype=np.int64)).tolist()

    def root(i: int) -> int:
        return i if links[i] == NONE else root(links[i])

    roots = [root(i) for i in range(len(links))]
    assert [[a == b for b in entities] for a in entities] == [[a == b for b in roots] for a in roots]
    assert list(dict.fromkeys(entities)) == list(range(len(set(entities))))


@pytest.mark.parametrize(("links", "mention"), [([0], 0), ([-1, 2, 0], 1), ([-2], 0)])
def test_antecedents_that_come_later(links: list[int], mention: int) -> None:
    with pytest.raises(InputError, match=rf"\[E350\] 1 antecedents .*, of mention {mention}\."):
        link_antecedents(np.array(links))


def test_assign_to_given_entities() -> None:
    assert assign(np.array([[1.0, 2], [-1, -2], [0, 0], [3, 3]])).tolist() == [1, -1, -1, 0]
    assert assign(np.zeros((2, 0))).tolist() == [-1, -1]
    assert assign(np.zeros((0, 3))).tolist() == []
    with pytest.raises(InputError, match="E354"):
        assign(np.array([[np.nan]]))


def run(memory: Memory, gold: list[int]) -> list[int]:
    """Feed mentions whose entities are known; an entity that is not in the memory is new."""
    given: dict[int, int] = {}  # gold entity to the memory's
    found = []
    for position, entity in enumerate(gold):
        scores = np.where(memory.entities == given.get(entity, -2), 1.0, -1.0)
        found.append(memory.apply(memory.choose(scores), position))
        given[entity] = found[-1]
    return found


MENTIONS = st.lists(st.integers(0, 5), max_size=25)


@given(MENTIONS)
def test_without_a_limit_every_entity_is_found(gold: list[int]) -> None:
    memory = Memory()
    found = run(memory, gold)
    first = {entity: i for i, entity in enumerate(dict.fromkeys(gold))}
    assert found == [first[entity] for entity in gold]
    assert memory.n_entities == memory.n_cells == len(first)
    assert memory.counts.tolist() == [gold.count(entity) for entity in first]
    assert memory.last.tolist() == [max(i for i, one in enumerate(gold) if one == entity) for entity in first]


@given(MENTIONS, st.integers(1, 7))
def test_a_full_memory_forgets_the_least_recently_used(gold: list[int], capacity: int) -> None:
    memory = Memory(MemorySettings(capacity=capacity))
    found = run(memory, gold)
    expected, number = [], 0
    used: OrderedDict[int, int] = OrderedDict()  # gold entity to number, least recent first
    for entity in gold:
        if entity not in used:
            if len(used) == capacity:
                used.popitem(last=False)
            used[entity], number = number, number + 1
        used.move_to_end(entity)
        expected.append(used[entity])
    assert found == expected
    assert sorted(memory.entities.tolist()) == sorted(used.values())
    if capacity >= len(set(gold)):
        assert found == run(Memory(), gold)


@given(MENTIONS, st.integers(0, 25), st.integers(0, 3))
def test_a_memory_goes_on_in_the_next_window(gold: list[int], at: int, capacity: int) -> None:
    whole = run(Memory(MemorySettings(capacity=capacity)), gold)
    memory = Memory(MemorySettings(capacity=capacity))
    given: dict[int, int] = {}
    parts = []
    for window in (gold[:at], gold[at:]):
        for entity in window:
            step = memory.choose(np.where(memory.entities == given.get(entity, -2), 1.0, -1.0))
            parts.append(memory.apply(step, len(parts)))
            given[entity] = parts[-1]
        memory = copy.deepcopy(memory)
    assert parts == whole


def test_steps_by_hand() -> None:
    memory = Memory(MemorySettings(capacity=2))
    assert memory.choose(np.zeros(0)) == Step("new", 0)
    assert memory.apply(Step("new", 0), 3) == 0
    assert memory.choose(np.array([0.0])) == Step("new", 1)  # a tie: rather new
    assert memory.apply(Step("new", 1), 5) == 1
    assert memory.choose(np.array([2.0, 2.0])) == Step("join", 0)
    assert memory.apply(Step("join", 0), 8) == 0
    assert (memory.counts.tolist(), memory.last.tolist(), memory.entities.tolist()) == ([2, 1], [8, 5], [0, 1])
    assert memory.choose(np.array([-1.0, -1.0])) == Step("new", 1, evicted=1)
    assert memory.choose(np.array([-1.0, -1.0]), keep=np.array([0.0, 3.0]), keep_new=2.0) == Step("ignore", NONE)
    assert memory.choose(np.array([-1.0, -1.0]), keep=np.array([9.0, 1.0]), keep_new=2.0) == Step("new", 1, evicted=1)
    assert memory.apply(Step("ignore", NONE), 9) == NONE
    assert memory.apply(Step("new", 1, evicted=1), 9) == 2
    assert (memory.entities.tolist(), memory.n_entities) == ([0, 2], 3)


def test_a_memory_may_learn_what_to_forget() -> None:
    memory = Memory(MemorySettings(capacity=2, forget="learned"))
    run(memory, [0, 1, 1])
    scores = np.array([-1.0, -1.0])
    assert memory.choose(scores, keep=np.array([5.0, 1.0]), keep_new=2.0) == Step("new", 1, evicted=1)
    assert memory.choose(scores, keep=np.array([5.0, 3.0]), keep_new=2.0) == Step("ignore", NONE)
    with pytest.raises(ConfigError, match=r"\[E352\] The memory's setting forget is learned; expected lru, or one score"):
        memory.choose(scores)


@pytest.mark.parametrize("step", [Step("join", 1), Step("new", 2), Step("join", -1), Step("new", -1)])
def test_steps_that_do_not_fit(step: Step) -> None:
    memory = Memory()
    memory.apply(Step("new", 0), 0)
    with pytest.raises(InputError, match=r"\[E353\]"):
        memory.apply(step, 1)


def test_a_full_memory_has_no_further_cell() -> None:
    memory = Memory(MemorySettings(capacity=1))
    memory.apply(Step("new", 0), 0)
    with pytest.raises(InputError, match=r"\[E353\] The step to new cell 1"):
        memory.apply(Step("new", 1), 1)


def test_wrong_scores_and_settings() -> None:
    memory = Memory()
    with pytest.raises(InputError, match=r"\[E351\] .*\(1,\); expected \(0,\)"):
        memory.choose(np.zeros(1))
    memory.apply(memory.choose(np.zeros(0)), 0)
    with pytest.raises(InputError, match="E354"):
        memory.choose(np.array([np.nan]))
    with pytest.raises(ConfigError, match=r"\[E352\] .*capacity is -1"):
        MemorySettings(capacity=-1)
    with pytest.raises(ConfigError, match=r"\[E352\] .*forget is fifo"):
        MemorySettings(forget="fifo")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=3)
@given(st.integers(1_000, 2_000))
def test_many_entities(n: int) -> None:
    memory = Memory()
    for i in range(n):
        memory.apply(memory.choose(np.full(memory.n_cells, -1.0)), i)
    assert memory.entities.tolist() == list(range(n))
