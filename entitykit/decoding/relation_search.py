"""Sets of entities and facts that violate no constraint, and how they are searched for: greedily, and with a beam."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.relation_facts import Problem

TOLERANCE = 1e-6
"""Sums of weights that differ by less are equal."""


class Fit(NamedTuple):
    """How a fact can be added.

    Attributes:
        gain: weight of the entities that are added with it.
        head: type of the head, -1 if it is given.
        tail: type of the tail, -1 if it is given.
    """

    gain: float
    head: int
    tail: int


GIVEN = Fit(0.0, -1, -1)


class Candidate(NamedTuple):
    """An entity or a fact that could be added.

    Attributes:
        gain: weight of it, and of the entities that are added with a fact.
        is_fact: whether it is a fact.
        number: of the entity, or of the fact.
    """

    gain: float
    is_fact: bool
    number: int


Rank = tuple[float, bool, int]
"""A candidate as a heap has it, see `_rank`."""
Facts = tuple[int, Any] | None
"""The fact that was chosen last, and those before it in the same form, which states can share."""


class State:
    """Entities and facts that were chosen; it changes.

    Copies share what they hold until one of them changes it.

    Attributes:
        problem: what they are chosen from.
        chosen: type of each entity that was chosen; where types are given, -1 for those that were contested and have facts.
        entity_score: sum of the weights of the entities.
        relation_score: sum of the weights of the facts.
    """

    def __init__(self, problem: Problem, entities: NDArray[np.int64], entity_score: float = 0.0) -> None:
        self.problem = problem
        self.chosen: dict[int, int] = {}
        self.entity_score = entity_score
        self.relation_score = 0.0
        self._given = entities
        self._facts: Facts = None
        self._keys = bytearray(problem.n_keys)
        boundaries = np.unique(np.concatenate([problem.starts, problem.ends]))
        self._lefts = np.searchsorted(boundaries, problem.starts).tolist()
        self._rights = np.searchsorted(boundaries, problem.ends).tolist()
        self._taken = bytearray(len(boundaries))
        self._is_shared = False

    @classmethod
    def of(cls, problem: Problem) -> State:
        """The state in which nothing was chosen, besides entities whose types are given."""
        return cls(problem, np.arange(0 if problem.types is None else len(problem.starts)))

    def with_best_entities(self) -> State:
        """The state with the best entities, from then on given."""
        problem = self.problem
        is_chosen = np.zeros(len(problem.starts), dtype=bool)
        rows = problem.choose_alone(~is_chosen)
        is_chosen[rows] = True
        types = np.where(is_chosen, problem.best_types, -1)
        return State(problem.with_types(types, is_chosen), rows, float(problem.best_gains[rows].sum()))

    @property
    def facts(self) -> list[int]:
        """Those that were chosen, in the order in which they were."""
        found, rest = [], self._facts
        while rest is not None:
            fact, rest = rest
            found.append(fact)
        return found[::-1]

    @property
    def entities(self) -> NDArray[np.int64]:
        """Indices of the entities, in order."""
        return np.array(sorted(self.chosen), dtype=np.int64) if self.problem.types is None else self._given

    @property
    def types(self) -> NDArray[np.int64]:
        """Types of `entities`."""
        if self.problem.types is not None:
            return self.problem.types[self._given]
        return np.array([self.chosen[entity] for entity in self.entities.tolist()], dtype=np.int64)

    def score(self, by: str) -> tuple[float, float]:
        """What is maximised, and what decides between equals."""
        if by == "relation_first":
            return self.relation_score, self.entity_score
        return self.relation_score + self.entity_score, 0.0

    def copy(self) -> State:
        """Another state that is equal and can change by itself."""
        self._is_shared = True
        new = object.__new__(State)
        new.__dict__.update(self.__dict__)
        return new

    def _own(self) -> None:
        """Take copies of what other states hold, too, because it is about to change."""
        if self._is_shared:
            self.chosen, self._keys, self._taken = dict(self.chosen), self._keys[:], self._taken[:]
            self._is_shared = False

    def is_free(self, entity: int) -> bool:
        """Whether an entity can still be chosen."""
        if entity in self.chosen:
            return False
        return not self.problem.constraints.no_overlap or self._taken.find(1, self._lefts[entity], self._rights[entity]) < 0

    def choose(self, entity: int, entity_type: int) -> None:
        """Choose an entity that is free."""
        self._own()
        self.chosen[entity] = entity_type
        if self.problem.types is None:
            self.entity_score += float(self.problem.gains[entity, entity_type])
        left, right = self._lefts[entity], self._rights[entity]
        self._taken[left:right] = b"\x01" * (right - left)

    def fit(self, fact: int) -> Fit | None:
        """How a fact can be added: with the types that gain most; None if it cannot."""
        problem = self.problem
        for key in problem.keys[fact]:
            if self._keys[key]:
                return None
        head, tail = int(problem.heads[fact]), int(problem.tails[fact])
        if problem.types is not None:
            contested = problem.contested.intersection((head, tail))
            return GIVEN if all(entity in self.chosen or self.is_free(entity) for entity in contested) else None
        allowed = problem.constraints.of_types[problem.relations[fact]]
        own, other = self._options(head), self._options(tail)
        if own is None or other is None or not allowed.size:
            return None
        if head == tail:
            both = np.where(allowed.diagonal(), own, -np.inf)
            best = int(both.argmax())
            return Fit(float(both[best]), best, best) if both[best] > -np.inf else None
        both = np.where(allowed, own[:, None] + other, -np.inf)
        a, b = divmod(int(both.argmax()), len(own))
        return Fit(float(both[a, b]), a, b) if both[a, b] > -np.inf else None

    def take(self, fact: int, fit: Fit) -> list[int]:
        """Add a fact as `fit` said; the answer is which entities are new."""
        problem = self.problem
        new = []
        for entity, entity_type in ((int(problem.heads[fact]), fit.head), (int(problem.tails[fact]), fit.tail)):
            if (problem.types is None or entity in problem.contested) and entity not in self.chosen:
                self.choose(entity, entity_type)
                new.append(entity)
        self._facts = fact, self._facts
        if problem.keys[fact]:
            self._own()
            for key in problem.keys[fact]:
                self._keys[key] = 1
        self.relation_score += float(problem.weights[fact])
        return new

    def finish(self) -> State:
        """Choose what can be chosen of the other entities; the answer is the state itself."""
        if self.problem.types is None:
            free = np.array([self.is_free(entity) for entity in range(len(self.problem.starts))], dtype=bool)
            for entity in self.problem.choose_alone(free).tolist():
                self.choose(entity, int(self.problem.best_types[entity]))
        return self

    def _options(self, entity: int) -> NDArray[np.float64] | None:
        """Gains of an entity's types, 0 and -inf if it was chosen; None if it cannot be."""
        entity_type = self.chosen.get(entity)
        if entity_type is not None:
            options = np.full(self.problem.gains.shape[1], -np.inf)
            options[entity_type] = 0.0
            return options
        return self.problem.gains[entity] if self.is_free(entity) else None


def better(one: State, other: State, by: str) -> State:
    """The state with the higher score; the first if they are equal."""
    for own, its in zip(one.score(by), other.score(by), strict=True):
        if abs(own - its) > TOLERANCE:
            return one if own > its else other
    return one


def greedy(start: State, by: str) -> State:
    """Add what weighs most and fits, until nothing is left.

    Args:
        start: to begin with; it stays as it is.
        by: `relation_first`: facts by their own weights, each with the best types that are left; `joint`: facts with the
            entities that they need, and entities. With given types both are the same.
    """
    state = start.copy()
    if by == "joint" and state.problem.types is None:
        _greedy_joint(state)
    else:
        for fact in range(state.problem.n_facts):
            if (fit := state.fit(fact)) is not None:
                state.take(fact, fit)
    return state.finish()


def _greedy_joint(state: State) -> None:
    """Add the entity or fact that gains most; facts whose entities were chosen meanwhile gain more, or less."""
    problem = state.problem
    facts_of = _facts_of_entities(problem)
    waiting = [_rank(candidate) for candidate in _candidates(problem)]
    heapq.heapify(waiting)
    done: set[int] = set()
    while waiting:
        expected, is_fact, number = _pop(waiting)
        if is_fact:
            fit = None if number in done else state.fit(number)
            gain = 0.0 if fit is None else _gain(problem, number, fit)
            if fit is None or gain <= 0:
                continue
            if gain < expected:  # since it was put here, an entity of its own has got another type
                _push(waiting, Candidate(gain, True, number))
                continue
            new = state.take(number, fit)
            done.add(number)
        elif state.is_free(number):
            state.choose(number, int(problem.best_types[number]))
            new = [number]
        else:
            continue
        for fact in (fact for entity in new for fact in facts_of.get(entity, ())):
            fit = None if fact in done else state.fit(fact)
            if fit is not None and (gain := _gain(problem, fact, fit)) > 0:
                _push(waiting, Candidate(gain, True, fact))


def _rank(candidate: Candidate) -> Rank:
    """Lowest for what gains most, of equal ones for entities, then for the lowest number."""
    return -candidate.gain, candidate.is_fact, candidate.number


def _push(heap: list[Rank], candidate: Candidate) -> None:
    heapq.heappush(heap, _rank(candidate))


def _pop(heap: list[Rank]) -> Candidate:
    """Take out the candidate of the lowest rank."""
    minus_gain, is_fact, number = heapq.heappop(heap)
    return Candidate(-minus_gain, is_fact, number)


def _facts_of_entities(problem: Problem) -> dict[int, list[int]]:
    """The facts that each entity is an argument of."""
    found: dict[int, list[int]] = {}
    for fact, ends in enumerate(zip(problem.heads.tolist(), problem.tails.tolist(), strict=True)):
        for entity in set(ends):
            found.setdefault(entity, []).append(fact)
    return found


def beam(start: State, by: str, width: int) -> State:
    """Go through facts, and with `joint` also entities, from the one that could gain most; keep the best states.

    Every state goes on with and without what is contested: what may keep something else out.

    Args:
        start: to begin with; it stays as it is.
        by: as in `greedy`.
        width: states that are kept.
    """
    problem = start.problem
    states = [start.copy()]
    ends = list(zip(problem.heads.tolist(), problem.tails.tolist(), strict=True))
    for is_fact, number in _order(problem, by):
        contested = problem.types is None or bool(problem.keys[number]) or not problem.contested.isdisjoint(ends[number])
        fits = [state.fit(number) if is_fact else GIVEN if state.is_free(number) else None for state in states]
        if all(fit is None for fit in fits):
            continue
        found: list[State] = []
        for state, fit in zip(states, fits, strict=True):
            if fit is None:
                found.append(state)
                continue
            without = state.copy() if contested else None
            if is_fact:
                state.take(number, fit)
            else:
                state.choose(number, int(problem.best_types[number]))
            found += [state] if without is None else [state, without]
        states = sorted(found, key=lambda state: state.score(by), reverse=True)[:width]
    return max((state.finish() for state in states), key=lambda state: state.score(by))


def _order(problem: Problem, by: str) -> list[tuple[bool, int]]:
    if by != "joint" or problem.types is not None:
        return [(True, fact) for fact in range(problem.n_facts)]
    return [(is_fact, number) for _, is_fact, number in sorted(_candidates(problem), key=_rank)]


def _candidates(problem: Problem) -> Iterator[Candidate]:
    """What could gain something at most: entities with their best types, facts with the best types that are allowed."""
    for entity in np.flatnonzero(problem.best_gains > 0).tolist():
        yield Candidate(float(problem.best_gains[entity]), False, entity)
    empty = State.of(problem)
    for fact in range(problem.n_facts):
        fit = empty.fit(fact)
        if fit is not None:
            yield Candidate(_gain(problem, fact, fit), True, fact)


def _gain(problem: Problem, fact: int, fit: Fit) -> float:
    """Weight of a fact and of the entities that are added with it."""
    return float(problem.weights[fact]) + fit.gain
