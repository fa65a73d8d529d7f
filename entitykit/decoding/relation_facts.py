"""What relation decoders choose from: entities, and facts whose probability is above the threshold.

A fact is a relation of two entities together with what it implies: the other direction of a symmetric relation, and the
inverse. Its probability is the highest that any of them is given. A relation's weight is the log-odds of its probability less
those of the threshold, an entity's weight is the log-odds of its type against none: their sum is largest where choices that
were independent would be most probable. What a fact may have only once (a pair its relation, a head its tail) is a key that no
two facts share. Where overlaps are forbidden and entities are given, which of those that overlap have facts is chosen, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.schema import ANY, OTHER, Constraints
from entitykit.decoding.spans import exact_flat
from entitykit.errors import error

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST = 60.0
"""Log-odds are held between -60 and 60: a probability of 1 is no infinite one."""
SMALLEST = 1e-7
"""Probabilities and thresholds are held between this and 1 less this, for their log-odds."""


class Entities(NamedTuple):
    """The entities, or candidates for them, of one document; either with types or with probabilities of types.

    Attributes:
        starts: *(n_entities,)* first words.
        ends: *(n_entities,)* ends, exclusive.
        types: *(n_entities,)* numbers of their types, or `ANY` or `OTHER` of `entitykit.decoding.schema`; all of these are
            entities.
        log_p: *(n_entities, 1 + n_types)* log-probabilities of "no entity" and of each type; the decoder chooses.
        ids: *(n_entities,)* rows that have the same number are one entity, of which any of their types may be meant; with types
            only. None: all rows are entities of their own.
    """

    starts: NDArray[np.integer]
    ends: NDArray[np.integer]
    types: NDArray[np.integer] | None = None
    log_p: NDArray[np.floating] | None = None
    ids: NDArray[np.integer] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """Entities and facts to choose from.

    Attributes:
        starts: *(n_entities,)*.
        ends: *(n_entities,)*.
        types: *(n_entities,)* of entities that are given; none: they are to be chosen.
        gains: *(n_entities, n_types)* weights of entities that are to be chosen; -inf for types that they cannot have.
        constraints: of the schema.
        heads: *(n_facts,)* the heaviest fact first; of equal weights the earlier in the text, then the lower relation.
        tails: *(n_facts,)*.
        relations: *(n_facts,)*.
        weights: *(n_facts,)* above zero.
        probabilities: *(n_facts,)*.
    """

    starts: Ints
    ends: Ints
    types: Ints | None
    gains: Floats
    constraints: Constraints
    heads: Ints
    tails: Ints
    relations: Ints
    weights: Floats
    probabilities: Floats

    @property
    def n_facts(self) -> int:
        """How many facts there are to choose from."""
        return len(self.weights)

    @cached_property
    def best_types(self) -> Ints:
        """*(n_entities,)* the type of each with the largest gain."""
        n, n_types = self.gains.shape
        return self.gains.argmax(axis=1) if n_types else np.full(n, ANY)

    @cached_property
    def best_gains(self) -> Floats:
        """*(n_entities,)* the largest gain of each."""
        return self.gains.max(axis=1, initial=-np.inf)

    @cached_property
    def keys(self) -> list[list[int]]:
        """What each fact has that others could have, and only one may; numbered from 0."""
        n, given = len(self.starts), self.constraints
        pair = n * n if given.one_per_pair else 0  # keys of pairs, then of heads with relation, then of tails with relation
        tails_from = pair + n * len(given.relations)
        keys = []
        for triples in self.implied():
            own = set()
            for head, tail, relation in triples:
                if given.one_per_pair:
                    own.add(head * n + tail)
                if given.functional[relation]:
                    own.add(pair + relation * n + head)
                if given.inverse_functional[relation]:
                    own.add(tails_from + relation * n + tail)
            keys.append(sorted(own))
        uses = Counter(key for own in keys for key in own)
        numbers = {key: number for number, key in enumerate(key for key, n in uses.items() if n > 1)}
        return [[numbers[key] for key in own if key in numbers] for own in keys]

    @cached_property
    def n_keys(self) -> int:
        """How many numbers `keys` has."""
        return 1 + max((max(own) for own in self.keys if own), default=-1)

    @cached_property
    def contested(self) -> frozenset[int]:
        """Given entities that facts are about and that overlap others of these, where the schema forbids it."""
        if self.types is None or not self.constraints.no_overlap:
            return frozenset()
        used = np.unique(np.concatenate([self.heads, self.tails]))
        used = used[np.argsort(self.starts[used], kind="stable")]
        starts, ends = self.starts[used], self.ends[used]
        overlaps = np.zeros(len(used), dtype=bool)
        overlaps[1:] = starts[1:] < np.maximum.accumulate(ends)[:-1]  # one before
        overlaps[:-1] |= starts[1:] < ends[:-1]  # one behind
        return frozenset(used[overlaps].tolist())

    def implied(self) -> Iterator[list[tuple[int, int, int]]]:
        """Head, tail and relation of each fact, and of what it implies."""
        rows = zip(self.heads.tolist(), self.tails.tolist(), self.relations.tolist(), strict=True)
        for head, tail, relation in rows:
            triples = [(head, tail, relation)]
            inverse = int(self.constraints.inverse[relation])
            if self.constraints.symmetric[relation] and head != tail:
                triples.append((tail, head, relation))
            elif inverse >= 0:
                triples.append((tail, head, inverse))
            yield triples

    def overlap(self, one: Ints, other: Ints) -> NDArray[np.bool_]:
        """Whether pairs of entities share words."""
        return (self.starts[one] < self.ends[other]) & (self.starts[other] < self.ends[one])

    def select(self, facts: NDArray[np.bool_] | Ints) -> Problem:
        """The same with some facts only."""
        return replace(
            self,
            heads=self.heads[facts],
            tails=self.tails[facts],
            relations=self.relations[facts],
            weights=self.weights[facts],
            probabilities=self.probabilities[facts],
        )

    def with_types(self, types: Ints, chosen: NDArray[np.bool_]) -> Problem:
        """The same with entities that are given, and the facts about those that were chosen.

        Args:
            types: *(n_entities,)*.
            chosen: *(n_entities,)* which of them are entities.
        """
        allowed = self.constraints.allowed[self.relations, types[self.heads], types[self.tails]]
        return replace(self.select(allowed & chosen[self.heads] & chosen[self.tails]), types=types)

    def choose_alone(self, free: NDArray[np.bool_]) -> Ints:
        """Choose entities by their own weights: the heaviest set, without overlaps where the schema forbids them.

        Args:
            free: *(n_entities,)* which may be chosen.

        Returns:
            Indices of the chosen; each has its best type.
        """
        rows = np.flatnonzero(free & (self.best_gains > 0))
        if not self.constraints.no_overlap:
            return rows
        return np.sort(rows[exact_flat(self.starts[rows], self.ends[rows], self.best_gains[rows])])


def build_problem(
    entities: Entities,
    pairs: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    constraints: Constraints,
    threshold: float | NDArray[np.floating],
) -> Problem:
    """Check the input, and collect the facts that are above the threshold and could hold by themselves.

    Raises:
        InputError: E343 for arrays that do not fit each other or the schema.
    """
    _check(entities, pairs, probabilities, constraints)
    limits = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (len(constraints.relations),))
    rows, relations = np.nonzero(probabilities > limits)
    heads, tails = (np.asarray(pairs, dtype=np.int64).reshape(-1, 2)[rows, side] for side in (0, 1))
    if entities.types is not None:
        fits = constraints.allowed[relations, entities.types[heads], entities.types[tails]]
        rows, relations, heads, tails = rows[fits], relations[fits], heads[fits], tails[fits]
        if entities.ids is not None:
            _, first, own = np.unique(entities.ids, return_index=True, return_inverse=True)
            heads, tails = first[own[heads]], first[own[tails]]
    found = np.asarray(probabilities[rows, relations], dtype=np.float64)
    starts, ends = (np.asarray(array, dtype=np.int64) for array in entities[:2])
    rank = np.empty(len(starts), dtype=np.int64)
    rank[np.lexsort((ends, starts))] = np.arange(len(starts))
    weights = np.maximum(_log_odds(found) - _log_odds(limits)[relations], 1e-9)
    heads, tails, relations = _in_one_form(heads, tails, relations.astype(np.int64), rank, constraints)
    order = np.lexsort((relations, rank[tails], rank[heads], -weights))
    facts = np.stack([heads, tails, relations], axis=1)[order]
    _, first = np.unique(facts, axis=0, return_index=True)  # each fact in its heaviest form
    order = order[np.sort(first)]
    problem = Problem(
        starts=starts,
        ends=ends,
        types=None if entities.types is None else np.asarray(entities.types, dtype=np.int64),
        gains=_gains(entities.log_p, len(starts)),
        constraints=constraints,
        heads=heads[order],
        tails=tails[order],
        relations=relations[order],
        weights=weights[order],
        probabilities=found[order],
    )
    return _possible(problem)


def _in_one_form(heads: Ints, tails: Ints, relations: Ints, rank: Ints, given: Constraints) -> tuple[Ints, Ints, Ints]:
    """Turn symmetric relations so that their head comes first in the text, and inverses to the one with the lower number."""
    inverse = given.inverse[relations]
    is_second = (inverse >= 0) & (inverse < relations)
    turn = is_second | (given.symmetric[relations] & (rank[heads] > rank[tails]))
    turned_heads, turned_tails = np.where(turn, tails, heads), np.where(turn, heads, tails)
    return turned_heads, turned_tails, np.where(is_second, inverse, relations)


def _possible(problem: Problem) -> Problem:
    """Leave out facts that can never hold."""
    given = problem.constraints
    own = problem.heads == problem.tails
    keep = ~own if given.no_self else ~(own & (given.inverse[problem.relations] >= 0) & given.one_per_pair)
    if given.no_overlap:
        keep &= own | ~problem.overlap(problem.heads, problem.tails)
    return problem.select(keep)


def _gains(log_p: NDArray[np.floating] | None, n: int) -> Floats:
    if log_p is None:
        return np.zeros((n, 0))
    values = np.asarray(log_p, dtype=np.float64)
    impossible = np.isneginf(values[:, 1:])
    gains = np.clip(np.maximum(values[:, 1:], -1e6) - np.maximum(values[:, :1], -1e6), -MOST, MOST)
    return np.where(impossible, -np.inf, gains)


def _log_odds(p: Floats) -> Floats:
    held = np.clip(p, SMALLEST, 1 - SMALLEST)
    odds: Floats = np.log(held) - np.log1p(-held)
    return odds


def _check(
    entities: Entities, pairs: NDArray[np.integer], probabilities: NDArray[np.floating], constraints: Constraints
) -> None:
    n, n_types, n_relations = len(entities.starts), len(constraints.types), len(constraints.relations)
    expected: list[tuple[str, NDArray[np.generic] | None, tuple[int, ...]]] = [
        ("starts", entities.starts, (n,)),
        ("ends", entities.ends, (n,)),
        ("types", entities.types, (n,)),
        ("log_p", entities.log_p, (n, 1 + n_types)),
        ("ids", entities.ids, (n,)),
        ("pairs", pairs, (len(pairs), 2)),
        ("probabilities", probabilities, (len(pairs), n_relations)),
    ]
    for name, array, shape in expected:
        empty = name == "pairs" and len(pairs) == 0
        if array is not None and np.shape(array) != shape and not empty:
            raise error("E343", what=name, found=f"an array {np.shape(array)}", expected=f"{shape}")
    if (entities.types is None) == (entities.log_p is None):
        both = "neither" if entities.types is None else "both"
        raise error("E343", what="entities", found=f"{both} of types and log_p", expected="one of them")
    if entities.ids is not None and entities.types is None:
        raise error("E343", what="entities", found="ids without types", expected="types, or no ids")
    if (entities.ends <= entities.starts).any() or (entities.starts < 0).any():
        raise error("E343", what="entities", found="an empty or negative span", expected="0 <= start < end")
    if len(pairs) and not (np.min(pairs) >= 0 and np.max(pairs) < n):
        raise error(
            "E343", what="pairs", found=f"numbers {np.min(pairs)} to {np.max(pairs)}", expected=f"those of {n} entities"
        )
    if entities.types is not None and n and not (np.min(entities.types) >= OTHER and np.max(entities.types) < n_types):
        found = f"numbers {np.min(entities.types)} to {np.max(entities.types)}"
        raise error("E343", what="types", found=found, expected=f"{OTHER} to {n_types - 1}")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():  # also NaN
        raise error("E343", what="probabilities", found="a number outside 0 to 1, or NaN", expected="0 to 1")
    if entities.log_p is not None and (np.isnan(entities.log_p) | (entities.log_p > 1e-3)).any():
        raise error("E343", what="log_p", found="a number above 0, or NaN", expected="log-probabilities")
