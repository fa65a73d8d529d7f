"""Decoders of relations: against brute force on small inputs, by property on all."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.decoding.relations import DECODERS, ORDERS, Entities
from entitykit.decoding.schema import ANY, OTHER, RelationSchema
from tests.decoding.relation_samples import RELATIONS, TYPES, Sample

Triple = tuple[int, int, int]

KINDS = [*TYPES, "a type that no rule names", "any"]
"""By number; the last two by `OTHER` and `ANY`."""


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


@st.composite
def schemas(draw: st.DrawFn) -> RelationSchema:
    flags = {flag: draw(st.booleans()) for flag in ("one_per_pair", "no_overlap", "no_self", "both_directions")}
    kinds: list[dict[str, Any]] = [
        {},
        {"head": ["A"]},
        {"types": [["A", "B"]]},
        {"types": [["A", "B"], ["B", "A"]]},
        {"functional": True},
        {"inverse_functional": True, "tail": ["B"]},
    ]
    relations = {label: dict(draw(st.sampled_from(kinds))) for label in RELATIONS}
    extra = draw(st.sampled_from(["nothing", "symmetric", "inverse"]))
    if extra == "symmetric":
        relations["r"] = {"symmetric": True, "functional": draw(st.booleans())}
    elif extra == "inverse":
        relations["r"]["inverse"] = "s"
        relations["s"] = {}
    return RelationSchema.load({"relations": relations, **flags})


@st.composite
def samples(draw: st.DrawFn, max_entities: int = 3, max_pairs: int = 4, given_types: bool | None = None) -> Sample:
    """Few entities and few values, so that conflicts and ties are common."""
    n = draw(st.integers(0, max_entities))
    starts = np.array([draw(st.integers(0, n)) for _ in range(n)], dtype=np.int64)
    ends = starts + np.array([draw(st.integers(1, 2)) for _ in range(n)], dtype=np.int64)
    if draw(st.booleans()) if given_types is None else given_types:
        entities = Entities(starts, ends, types=np.array([draw(st.integers(OTHER, 1)) for _ in range(n)], dtype=np.int64))
    else:
        p = np.array([[draw(st.integers(1, 6)) for _ in range(3)] for _ in range(n)], dtype=np.float64).reshape(n, 3)
        entities = Entities(starts, ends, log_p=np.log(p / p.sum(axis=1, keepdims=True)))
    numbers = st.integers(0, max(n - 1, 0))
    pairs = draw(st.lists(st.tuples(numbers, numbers), max_size=max_pairs if n else 0))
    values = st.sampled_from([0.1, 0.5, 0.6, 0.7, 0.9, 1.0])
    p = np.array([[draw(values) for _ in RELATIONS] for _ in pairs]).reshape(len(pairs), len(RELATIONS))
    return Sample(entities, np.array(pairs, dtype=np.int64).reshape(-1, 2), p, draw(schemas()))


def implied(triple: Triple, schema: RelationSchema) -> set[Triple]:
    """A relation and what holds with it."""
    head, tail, relation = triple
    rule = schema.relations[RELATIONS[relation]]
    if rule.symmetric:
        return {triple, (tail, head, relation)}
    for label, other in schema.relations.items():
        if rule.inverse == label or other.inverse == RELATIONS[relation]:
            return {triple, (tail, head, RELATIONS.index(label))}
    return {triple}


def violations(sample: Sample, chosen: dict[int, int], triples: set[Triple]) -> Iterator[str]:
    """Say what a schema forbids in a set of relations that holds all it implies; chosen are entities with types."""
    schema, entities = sample.schema, sample.entities

    def overlap(a: int, b: int) -> bool:
        return bool(entities.starts[a] < entities.ends[b] and entities.starts[b] < entities.ends[a])

    for head, tail, relation in triples:
        rule = schema.relations[RELATIONS[relation]]
        if head not in chosen or tail not in chosen:
            yield "an argument is no entity"
            continue
        heads, tails = (KINDS if chosen[end] == ANY else [KINDS[chosen[end]]] for end in (head, tail))
        if not any(rule.allows(a, b) for a in heads for b in tails):
            yield "types"
        if schema.no_self and head == tail:
            yield "self"
        if schema.no_overlap and head != tail and overlap(head, tail):
            yield "arguments overlap"
        if not implied((head, tail, relation), schema) <= triples:
            yield "the other direction is missing"
    if schema.one_per_pair and max(Counter(triple[:2] for triple in triples).values(), default=0) > 1:
        yield "two relations of a pair"
    for number, label in enumerate(RELATIONS):
        own = [triple for triple in triples if triple[2] == number]
        if schema.relations[label].functional and max(Counter(head for head, _, _ in own).values(), default=0) > 1:
            yield "two tails"
        if schema.relations[label].inverse_functional and max(Counter(tail for _, tail, _ in own).values(), default=0) > 1:
            yield "two heads"
    used = chosen if entities.types is None else {end for triple in triples for end in triple[:2]}
    if schema.no_overlap and any(overlap(a, b) for a, b in itertools.combinations(used, 2)):
        yield "entities overlap"


def facts(sample: Sample) -> dict[frozenset[Triple], float]:
    """What may be chosen, each with all that it implies, and its weight."""
    found: dict[frozenset[Triple], float] = {}
    for (head, tail), row in zip(sample.pairs.tolist(), sample.probabilities.tolist(), strict=True):
        for relation, p in enumerate(row):
            if p > 0.5:
                fact = frozenset(implied((head, tail, relation), sample.schema))
                found[fact] = max(found.get(fact, 0.0), log_odds(min(p, 1 - 1e-7)))
    return found


def all_sets(sample: Sample) -> Iterator[tuple[float, float, dict[int, int]]]:
    """Sums of weights of facts and of entities of everything that violates nothing."""
    entities = sample.entities
    if entities.types is not None:
        assignments = [tuple(entities.types.tolist())]
    else:
        assignments = list(itertools.product([None, 0, 1], repeat=len(entities.starts)))
    weights = facts(sample)
    subsets = [
        (sum(weights[fact] for fact in chosen), set().union(*chosen))
        for size in range(len(weights) + 1)
        for chosen in itertools.combinations(weights, size)
    ]
    for assignment in assignments:
        types = {i: each for i, each in enumerate(assignment) if each is not None}
        gain = 0.0
        if entities.log_p is not None:
            gain = sum(float(entities.log_p[i, each + 1] - entities.log_p[i, 0]) for i, each in types.items())
        for total, triples in subsets:
            if not any(violations(sample, types, triples)):
                yield total, gain, types


def objective(order: str, relations: float, entities: float) -> tuple[float, float]:
    return (relations, entities) if order == "relation_first" else (relations + entities, 0.0)


def small(sample: Sample) -> bool:
    return len(facts(sample)) <= 5


@settings(max_examples=60, deadline=None)
@given(samples(given_types=False).filter(small), st.sampled_from(["relation_first", "joint"]))
def test_exact_equals_brute_force(sample: Sample, order: Any) -> None:
    best = max(objective(order, relations, entities) for relations, entities, _ in all_sets(sample))
    found = sample.decode(decoder="exact", order=order)
    assert found.optimal
    np.testing.assert_allclose(objective(order, found.relation_score, found.entity_score), best, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(samples(given_types=True, max_pairs=5).filter(small), st.sampled_from(ORDERS))
def test_exact_with_given_types_equals_brute_force(sample: Sample, order: Any) -> None:
    best = max(relations for relations, _, _ in all_sets(sample))
    found = sample.decode(decoder="exact", order=order)
    assert found.relation_score == pytest.approx(best, abs=2e-5)
    assert found.entity_score == 0.0
    assert found.entities.tolist() == list(range(len(sample.entities.starts)))
    assert found.types.tolist() == sample.entities.types.tolist()


@settings(max_examples=40, deadline=None)
@given(samples(given_types=False).filter(small))
def test_entities_first_are_the_best_entities(sample: Sample) -> None:
    sets = list(all_sets(sample))
    found = sample.decode(decoder="exact")
    chosen = dict(zip(found.entities.tolist(), found.types.tolist(), strict=True))
    assert found.entity_score == pytest.approx(max(gain for _, gain, _ in sets), abs=1e-6)
    assert found.relation_score == pytest.approx(max(total for total, _, types in sets if types == chosen), abs=2e-5)


@settings(max_examples=80, deadline=None)
@given(samples(max_entities=7, max_pairs=16), st.sampled_from(DECODERS), st.sampled_from(ORDERS))
def test_output_violates_nothing(sample: Sample, decoder: Any, order: Any) -> None:
    found = sample.decode(decoder=decoder, order=order)
    chosen = dict(zip(found.entities.tolist(), found.types.tolist(), strict=True))
    triples = {match[:3] for match in found.relations}
    assert len(triples) == len(found.relations)
    closed = set().union(*(implied(triple, sample.schema) for triple in triples))
    assert not list(violations(sample, chosen, closed))
    for head, tail, relation in closed - triples:  # only symmetric relations are written once, from the first entity
        assert sample.schema.relations[RELATIONS[relation]].symmetric
        assert not sample.schema.both_directions
        assert sample.entities.starts[head] >= sample.entities.starts[tail]
    weights = facts(sample)
    assert {frozenset(implied(triple, sample.schema)) for triple in triples} <= weights.keys()
    given = list(zip(sample.pairs.tolist(), sample.probabilities.tolist(), strict=True))
    for match in found.relations:
        own = implied(match[:3], sample.schema)
        assert match.score == max(p for (head, tail), row in given for r, p in enumerate(row) if (head, tail, r) in own)
    assert found.relation_score == pytest.approx(
        sum(weights[fact] for fact in {frozenset(implied(t, sample.schema)) for t in triples})
    )


@settings(max_examples=60, deadline=None)
@given(samples(max_entities=7, max_pairs=16), st.sampled_from(ORDERS))
def test_none_is_worse_than_greedy(sample: Sample, order: Any) -> None:
    scores = []
    for decoder in DECODERS:
        found = sample.decode(decoder=decoder, order=order)
        scores.append(objective(order, found.relation_score, found.entity_score))
    for better in scores[1:]:
        assert better[0] >= scores[0][0] - 1e-6
        assert better[0] > scores[0][0] + 1e-6 or better[1] >= scores[0][1] - 1e-6
    assert scores[2][0] >= scores[1][0] - 1e-5  # exact and beam


@settings(max_examples=60, deadline=None)
@given(
    samples(max_entities=6, max_pairs=12),
    st.sampled_from(["greedy", "beam"]),
    st.sampled_from(ORDERS),
    st.randoms(use_true_random=False),
)
def test_ties_do_not_depend_on_the_order_of_pairs(sample: Sample, decoder: Any, order: Any, random: Any) -> None:
    rows = list(range(len(sample.pairs)))
    random.shuffle(rows)
    shuffled = sample._replace(pairs=sample.pairs[rows], probabilities=sample.probabilities[rows])
    one, other = sample.decode(decoder=decoder, order=order), shuffled.decode(decoder=decoder, order=order)
    assert one.relations == other.relations
    assert one.entities.tolist() == other.entities.tolist()
    assert one.types.tolist() == other.types.tolist()


@st.composite
def shared_places(draw: st.DrawFn) -> tuple[Sample, Sample]:
    """Entities with up to two types each, a row for each type; and the same with a row for each entity, which fits anywhere."""
    single = draw(samples(given_types=True, max_entities=4, max_pairs=8))
    entities, schema, n = single.entities, single.schema, len(single.entities.starts)
    second = np.array([i for i in range(n) if draw(st.booleans())], dtype=np.int64)
    rows = np.concatenate([np.arange(n), second])
    types = np.concatenate([entities.types, [draw(st.integers(OTHER, 1)) for _ in second]]).astype(np.int64)
    several = Entities(entities.starts[rows], entities.ends[rows], types, ids=rows)
    known = schema.constrain(RELATIONS, TYPES).allowed
    pairs, p = [], []
    merged = single.probabilities.copy()
    for row, (head, tail) in enumerate(single.pairs.tolist()):
        ways = [(a, b) for a in np.flatnonzero(rows == head) for b in np.flatnonzero(rows == tail)]
        own = np.array([[draw(st.sampled_from([0.1, 0.6, 0.9])) for _ in RELATIONS] for _ in ways])
        fits = np.array([known[:, types[a], types[b]] for a, b in ways])
        merged[row] = np.where(fits, own, 0.0).max(axis=0)
        pairs += ways
        p += own.tolist()
    free = replace(
        schema, relations={label: replace(rule, head=None, tail=None, types=None) for label, rule in schema.relations.items()}
    )
    table = np.array(pairs, dtype=np.int64).reshape(-1, 2), np.array(p).reshape(-1, len(RELATIONS))
    whole = entities._replace(types=np.full(n, ANY))
    return Sample(several, *table, schema), Sample(whole, single.pairs, merged, free)


@settings(max_examples=80, deadline=None)
@given(shared_places(), st.sampled_from(DECODERS))
def test_rows_of_one_entity_are_one(both: tuple[Sample, Sample], decoder: Any) -> None:
    """What may hold once only, holds once for all types of an entity; nothing is written twice."""
    several, whole = (sample.decode(decoder=decoder) for sample in both)
    ids = both[0].entities.ids
    assert ids is not None
    assert [(ids[head], ids[tail], *rest) for head, tail, *rest in several.relations] == [tuple(m) for m in whole.relations]
