"""The best set of entities and facts, as an integer programme that scipy's HiGHS solves.

One variable per fact, one per entity and type; of given entities, one for each that overlaps others and must not: whether it
has facts. Rows: an entity has one type at most; a word belongs to one entity at most, where the schema forbids overlaps; a key
belongs to one fact at most; a fact needs types of head and tail that allow it, or the given entities that it is about. The
number of entries is linear in the number of entities times types and of facts times pairs of types.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.relation_facts import Problem
from entitykit.decoding.relation_search import TOLERANCE, State, better
from entitykit.errors import warn

Floats = NDArray[np.float64]


class Programme:
    """Variables and rows of one problem.

    Attributes:
        n: number of variables; the first are of entities, the last `problem.n_facts` are facts.
        n_entities: number of the variables of entities.
        variables: *(n_entities, n_types)* the variable of each, or -1; *(n_entities, 1)* where entities are given.
        rows: of each row its variables, their factors, and what their sum may be at most.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rows: list[tuple[list[int], list[float], float]] = []
        self.variables = np.full(problem.gains.shape if problem.types is None else (len(problem.starts), 1), -1, dtype=np.int64)
        self._add_entities(self._used())
        self.n = self.n_entities + problem.n_facts
        self._add_keys()
        for fact in range(problem.n_facts):
            if problem.types is None:
                self._add_types(fact)
            elif problem.contested:
                self._add_given(fact)

    @property
    def entity_weights(self) -> Floats:
        """*(n,)* weights of entities, 0 for facts."""
        weights = np.zeros(self.n)
        if self.problem.types is None:
            used = self.variables >= 0
            weights[self.variables[used]] = self.problem.gains[used]
        return weights

    @property
    def fact_weights(self) -> Floats:
        """*(n,)* weights of facts, 0 for entities."""
        return np.concatenate([np.zeros(self.n_entities), self.problem.weights])

    def solve(self, weights: Floats, seconds: float) -> tuple[Floats | None, bool]:
        """Find values of all variables with the largest sum of weights; none if the time was over before any were found.

        Returns:
            *(n,)* values, and whether nothing better exists.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        options = {"time_limit": max(seconds, 1e-3), "mip_rel_gap": 0.0}
        counts = [len(columns) for columns, _, _ in self.rows]
        columns = np.array([column for each, _, _ in self.rows for column in each], dtype=np.int32)
        factors = np.array([factor for _, each, _ in self.rows for factor in each], dtype=np.float64)
        edges = np.cumsum([0, *counts]).astype(np.int32)
        matrix = csr_array((factors, columns, edges), shape=(len(self.rows), self.n))
        most = np.array([limit for _, _, limit in self.rows])
        constraints = [LinearConstraint(matrix, -np.inf, most)] if self.rows else []
        result = milp(-weights, integrality=np.ones(self.n), bounds=Bounds(0, 1), constraints=constraints, options=options)
        return result.x, bool(result.status == 0)

    def state(self, values: Floats, start: State) -> State:
        """Make a state of a solution; what the solver's rounding would let violate a constraint is left out."""
        state = start.copy()
        given = self.problem.types is not None  # facts bring these along
        for entity, entity_type in [] if given else np.argwhere(self.variables >= 0).tolist():
            if values[self.variables[entity, entity_type]] > 0.5 and state.is_free(entity):
                state.choose(entity, entity_type)
        for fact in np.flatnonzero(values[self.n_entities :] > 0.5).tolist():
            if (fit := state.fit(fact)) is not None:
                state.take(fact, fit)
        return state

    def limit(self, columns: Sequence[int], factors: Sequence[float], most: float) -> None:
        """Add a row."""
        self.rows.append((list(columns), list(factors), most))

    def _used(self) -> NDArray[np.bool_]:
        """Which variables there are of entities, in the shape of `variables`."""
        problem = self.problem
        if problem.types is not None:
            return np.isin(np.arange(len(problem.starts)), sorted(problem.contested))[:, None]
        in_fact = np.zeros(len(problem.starts), dtype=bool)
        in_fact[problem.heads] = in_fact[problem.tails] = True
        possible = np.isfinite(problem.gains)
        best = np.zeros_like(possible)
        best[np.arange(len(best)), problem.best_types] = problem.best_gains > 0  # what else an entity outside of facts could be
        return np.where(in_fact[:, None], possible, best)

    def _add_entities(self, used: NDArray[np.bool_]) -> None:
        self.n_entities = int(used.sum())
        self.variables[used] = np.arange(self.n_entities)
        own = [row[row >= 0].tolist() for row in self.variables]
        for columns in own:
            if len(columns) > 1:
                self.limit(columns, [1.0] * len(columns), 1.0)
        if self.problem.constraints.no_overlap:
            self._add_words(own)

    def _add_words(self, own: Sequence[Sequence[int]]) -> None:
        """One entity at each word where any begins: spans that overlap share the later one's first word."""
        problem = self.problem
        rows = np.array([i for i, columns in enumerate(own) if columns], dtype=np.int64)
        firsts = np.unique(problem.starts[rows])
        low, high = (np.searchsorted(firsts, edge[rows]) for edge in (problem.starts, problem.ends))
        at: list[list[int]] = [[] for _ in firsts]
        for row, begin, end in zip(rows.tolist(), low.tolist(), high.tolist(), strict=True):
            for word in range(begin, end):
                at[word].append(row)
        for entities in at:
            if len(entities) > 1:
                columns = [column for entity in entities for column in own[entity]]
                self.limit(columns, [1.0] * len(columns), 1.0)

    def _add_keys(self) -> None:
        holders: dict[int, list[int]] = {}
        for fact, keys in enumerate(self.problem.keys):
            for key in keys:
                holders.setdefault(key, []).append(self.n_entities + fact)
        for columns in holders.values():
            self.limit(columns, [1.0] * len(columns), 1.0)

    def _add_types(self, fact: int) -> None:
        """A fact needs a head and a tail, and for each type of its head one of those that the tail may have with it."""
        problem = self.problem
        head, tail, own = int(problem.heads[fact]), int(problem.tails[fact]), self.n_entities + fact
        allowed = problem.constraints.of_types[problem.relations[fact]]
        ways = allowed & (self.variables[head] >= 0)[:, None] & (self.variables[tail] >= 0)
        if head == tail:
            self._need(own, self.variables[head][ways.diagonal()])
            return
        heads, tails = ways.any(axis=1), ways.any(axis=0)
        self._need(own, self.variables[head][heads])
        self._need(own, self.variables[tail][tails])
        if not np.array_equal(ways, np.outer(heads, tails)):
            for head_type in np.flatnonzero(heads).tolist():
                columns = self.variables[tail][ways[head_type]].tolist()
                factors = [1.0, 1.0, *[-1.0] * len(columns)]
                self.limit([own, int(self.variables[head, head_type]), *columns], factors, 1.0)

    def _add_given(self, fact: int) -> None:
        for entity in (int(self.problem.heads[fact]), int(self.problem.tails[fact])):
            if entity in self.problem.contested:
                self._need(self.n_entities + fact, self.variables[entity])

    def _need(self, fact: int, columns: NDArray[np.int64]) -> None:
        self.limit([fact, *columns.tolist()], [1.0, *[-1.0] * len(columns)], 0.0)


def exact(good: State, start: State, by: str, seconds: float) -> tuple[State, bool]:
    """Find the best state.

    Args:
        good: a state to do no worse than, from `greedy`.
        start: to begin with.
        by: as in `greedy`; with `relation_first`, the best entities for the best sum of facts.
        seconds: after which the best that was found is given, with a warning (W340). The solver looks at the clock between its
            steps, which are long where facts are very many.

    Returns:
        The state, and whether nothing better exists.
    """
    if _is_perfect(good, start):
        return good, True
    begun = time.monotonic()
    programme = Programme(start.problem)
    entities, facts = programme.entity_weights, programme.fact_weights
    left = seconds - (time.monotonic() - begun)
    values, optimal = programme.solve(facts if by == "relation_first" else facts + entities, left)
    if by == "relation_first" and optimal and values is not None and entities.any():
        used = np.flatnonzero(facts)
        programme.limit(used.tolist(), (-facts[used]).tolist(), TOLERANCE / 2 - float(facts @ values))
        second, optimal = programme.solve(entities, seconds - (time.monotonic() - begun))
        values = values if second is None else second
    best = good if values is None else better(good, programme.state(values, start).finish(), by)
    if not optimal:
        warn("W340", n=start.problem.n_facts, seconds=seconds, stacklevel=3)
    return best, optimal


def _is_perfect(good: State, start: State) -> bool:
    """Whether a state has all facts, and all entities that are worth something, so that no solver is needed."""
    problem = start.problem
    if len(good.facts) < problem.n_facts:
        return False
    if problem.types is not None:
        return True
    return good.entity_score >= float(problem.best_gains[problem.best_gains > 0].sum()) - TOLERANCE
