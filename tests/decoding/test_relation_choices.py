"""Decoders of relations by hand, on large documents, and on input that cannot be decoded."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from entitykit.decoding.relation_exact import Programme
from entitykit.decoding.relation_facts import build_problem
from entitykit.decoding.relation_search import State
from entitykit.decoding.relations import DECODERS, ORDERS, Entities, decode_relations
from entitykit.decoding.schema import RelationSchema
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from tests.decoding.relation_samples import RELATIONS, TYPES, Sample, decode, entities


def test_without_a_schema_all_above_the_threshold() -> None:
    found = decode(
        entities((0, 1), (2, 3), types=[0, 1]), {(1, 0): [0.9, 0.4, 0.41], (0, 1): [0.39, 0.8, 0.1]}, {}, threshold=0.4
    )
    assert found.relations == [(0, 1, 1, 0.8), (1, 0, 0, 0.9), (1, 0, 2, 0.41)]
    limits = np.array([0.95, 0.0, 0.0])
    found = decode(entities((0, 1), (2, 3), types=[0, 1]), {(1, 0): [0.9, 0.4, 0.0]}, {}, threshold=limits)
    assert found.relations == [(1, 0, 1, 0.4)]


def test_exact_prefers_two_light_relations_to_a_heavy_one() -> None:
    schema = {"relations": {"r": {"functional": True, "inverse_functional": True}}}
    given_entities = entities((0, 1), (1, 2), (2, 3), (3, 4), types=[0] * 4)
    scores = {(0, 2): [0.9, 0, 0], (0, 3): [0.8, 0, 0], (1, 2): [0.8, 0, 0]}
    assert [match[:2] for match in decode(given_entities, scores, schema).relations] == [(0, 2)]
    for decoder in ("beam", "exact"):
        assert [match[:2] for match in decode(given_entities, scores, schema, decoder=decoder).relations] == [(0, 3), (1, 2)]


def test_the_three_orders_differ() -> None:
    """A relation of B with A whose head is a little more probably an A, and whose tail is a little more probably nothing."""
    schema = {"relations": {"r": {"types": [["B", "A"]]}}}
    given_entities = entities((0, 1), (2, 3), log_p=[[0.1, 0.5, 0.4], [0.5, 0.45, 0.05]])
    for p, chosen in ((0.9, [1, 0]), (0.52, [0])):
        found = {order: decode(given_entities, {(0, 1): [p, 0, 0]}, schema, order=order) for order in ORDERS}
        assert found["entity_first"].types.tolist() == [0]
        assert not found["entity_first"].relations
        assert found["relation_first"].types.tolist() == [1, 0]
        assert len(found["relation_first"].relations) == 1
        assert found["joint"].types.tolist() == chosen


def test_relations_decide_between_overlapping_entities() -> None:
    given_entities = entities((0, 2), (1, 3), (5, 6), log_p=[[0.3, 0.69, 0.01], [0.4, 0.59, 0.01], [0.1, 0.8, 0.1]])
    scores = {(0, 2): [0.1, 0, 0], (1, 2): [0.99, 0, 0]}
    schema = {"no_overlap": True}
    assert decode(given_entities, scores, schema).entities.tolist() == [0, 2]
    for decoder in DECODERS:
        assert decode(given_entities, scores, schema, decoder=decoder, order="joint").entities.tolist() == [1, 2]


def test_symmetric_relations_and_inverses() -> None:
    given_entities = entities((4, 5), (0, 1), types=[0, 0])
    schema: dict[str, Any] = {"relations": {"r": {"symmetric": True}, "s": {"inverse": "t"}}}
    scores = {(0, 1): [0.6, 0.8, 0.0], (1, 0): [0.7, 0.0, 0.9]}
    found = decode(given_entities, scores, schema)
    assert found.relations == [(1, 0, 0, 0.7), (1, 0, 2, 0.9), (0, 1, 1, 0.9)]
    both = decode(given_entities, scores, schema | {"both_directions": True})
    assert both.relations == [(1, 0, 0, 0.7), (1, 0, 2, 0.9), (0, 1, 0, 0.7), (0, 1, 1, 0.9)]


def test_self_relations_and_nested_arguments() -> None:
    given_entities = entities((0, 3), (1, 2), types=[0, 1])
    scores = {(0, 0): [0.9, 0, 0], (0, 1): [0.9, 0, 0]}
    assert [match[:2] for match in decode(given_entities, scores, {}).relations] == [(0, 1)]
    assert [match[:2] for match in decode(given_entities, scores, {"no_self": False, "no_overlap": True}).relations] == [(0, 0)]


def test_arguments_of_different_relations_do_not_overlap() -> None:
    """Of given entities; two lighter relations of one that overlaps are worth more than a heavy one."""
    given_entities = entities((0, 5), (3, 5), (6, 7), (8, 9), types=[0] * 4)
    scores = {(0, 2): [0.9, 0, 0], (1, 2): [0.8, 0, 0], (1, 3): [0.8, 0, 0], (2, 3): [0.6, 0, 0]}
    for decoder in DECODERS:
        found = [match[:2] for match in decode(given_entities, scores, {"no_overlap": True}, decoder=decoder).relations]
        assert found == ([(0, 2), (2, 3)] if decoder == "greedy" else [(1, 2), (1, 3), (2, 3)])
        assert len(decode(given_entities, scores, {}, decoder=decoder).relations) == 4


def test_a_type_that_is_impossible_is_never_chosen() -> None:
    log_p = np.array([[-0.1, -np.inf, -3.0], [0.0, -np.inf, -np.inf]])
    given_entities = Entities(np.array([0, 2]), np.array([1, 3]), log_p=log_p)
    for decoder in DECODERS:
        found = decode(
            given_entities,
            {(0, 1): [0.9, 0, 0], (0, 0): [0.9, 0, 0]},
            {"no_self": False},
            decoder=decoder,
            order="relation_first",
        )
        assert [match[:2] for match in found.relations] == [(0, 0)]
        assert found.types.tolist() == [1]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("order", ORDERS)
def test_nothing_to_decode(decoder: Any, order: Any) -> None:
    nothing = np.zeros(0, dtype=np.int64)
    no_pairs = np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3))
    for given_entities in (Entities(nothing, nothing, types=nothing), Entities(nothing, nothing, log_p=np.zeros((0, 3)))):
        found = Sample(given_entities, *no_pairs, RelationSchema()).decode(decoder=decoder, order=order)
        assert (found.relations, len(found.entities), len(found.types)) == ([], 0, 0)
    one = entities((3, 4), log_p=[[0.2, 0.7, 0.1]])
    found = Sample(one, *no_pairs, RelationSchema()).decode(decoder=decoder, order=order)
    assert (found.entities.tolist(), found.types.tolist()) == ([0], [0])


def test_no_types_and_no_relations_at_all() -> None:
    constraints = RelationSchema().constrain([], [])
    given_entities = Entities(np.array([0]), np.array([1]), log_p=np.zeros((1, 1)))
    for order in ORDERS:
        found = decode_relations(
            given_entities, np.array([[0, 0]]), np.zeros((1, 0)), constraints, decoder="exact", order=order
        )
        assert (found.relations, found.entities.tolist()) == ([], [])


def test_a_beam_costs_what_its_states_differ_in() -> None:
    """What states share is not copied for each of 20,000 facts that compete: this takes some times as long as greedily."""
    rng = np.random.default_rng(0)
    n = 120
    pairs = np.array([(i, j) for i in range(n) for j in range(n) if i != j])
    given_entities = Entities(np.arange(n), np.arange(n) + 1, types=np.zeros(n, dtype=np.int64))
    schema = RelationSchema.load({"relations": {"r": {"functional": True}}, "one_per_pair": True})
    sample = Sample(given_entities, pairs, rng.random((len(pairs), 3)), schema)
    seconds, scores = {}, {}
    for decoder in ("greedy", "beam"):
        start = time.process_time()
        scores[decoder] = sample.decode(decoder=decoder).relation_score  # type: ignore[arg-type]
        seconds[decoder] = time.process_time() - start
    assert seconds["beam"] < 20 * seconds["greedy"]
    assert scores["beam"] >= scores["greedy"]


def test_copies_of_a_state_change_by_themselves() -> None:
    schema = RelationSchema.load({"relations": {"r": {"functional": True}}, "no_overlap": True})
    given_entities = entities((0, 1), (1, 3), (2, 4), log_p=[[0.1, 0.8, 0.1]] * 3)
    pairs, p = np.array([[0, 1], [0, 2]]), np.array([[0.9, 0, 0], [0.8, 0, 0]])
    start = State.of(build_problem(given_entities, pairs, p, schema.constrain(RELATIONS, TYPES), 0.5))
    one, other = start.copy(), start.copy()
    first, second = one.fit(0), one.fit(1)
    assert first is not None
    assert second is not None
    one.take(0, first)
    third = one.copy()
    assert (one.fit(1), other.fit(1), other.is_free(2), one.is_free(2)) == (None, second, True, False)
    other.take(1, second)
    assert [state.facts for state in (start, one, other, third)] == [[], [0], [1], [0]]
    assert [state.entities.tolist() for state in (start, one, other, third)] == [[], [0, 1], [0, 2], [0, 1]]
    assert [state.is_free(2) for state in (start, one, other, third)] == [True, False, False, False]
    assert third.score("joint") == one.score("joint")


@pytest.mark.parametrize("order", ORDERS)
def test_two_thousand_entities(order: Any) -> None:
    """Memory and time that grow with the pairs given, not with the square of the entities."""
    rng = np.random.default_rng(0)
    n = 2_000
    starts = np.arange(n) * 2
    given_entities = Entities(starts, starts + 1 + rng.integers(0, 3, n), log_p=np.log(rng.dirichlet([0.3] * 3, n)))
    pairs = np.stack([rng.integers(0, n, 3_000), rng.integers(0, n, 3_000)], axis=1)
    rules = {"r": {"head": ["A"]}, "s": {"functional": True}, "t": {"symmetric": True}}
    schema = RelationSchema.load({"relations": rules, "no_overlap": True})
    sample = Sample(given_entities, pairs, rng.random((3_000, 3)) ** 4, schema)
    for decoder in ("greedy", "beam"):
        assert sample.decode(decoder=decoder, order=order).relations


def test_the_time_limit_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Programme, "solve", lambda *_: (None, False))
    schema = {"relations": {"r": {"functional": True}}}
    scores = {(0, 1): [0.9, 0, 0], (0, 2): [0.8, 0, 0]}
    with pytest.warns(EntityKitWarning, match=r"W340.* 2 relations .* in 0.5 seconds"):
        found = decode(entities((0, 1), (1, 2), (2, 3), types=[0] * 3), scores, schema, decoder="exact", time_limit=0.5)
    assert [match[:2] for match in found.relations] == [(0, 1)]
    assert not found.optimal


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"types": np.array([0])}, r"types has an array \(1,\); expected \(2,\)"),
        ({"types": np.array([0, 2])}, "types has numbers 0 to 2; expected -2 to 1"),
        ({"types": None}, "entities has neither of types and log_p; expected one of them"),
        ({"log_p": np.zeros((2, 3))}, "entities has both of types and log_p"),
        ({"types": None, "log_p": np.zeros((2, 2))}, r"log_p has an array \(2, 2\); expected \(2, 3\)"),
        ({"types": None, "log_p": np.full((2, 3), np.nan)}, "log_p has a number above 0, or NaN"),
        ({"ends": np.array([1, 0])}, "entities has an empty or negative span"),
        ({"pairs": np.array([[0, 2]])}, "pairs has numbers 0 to 2; expected those of 2 entities"),
        ({"pairs": np.array([[0, 1], [1, 0]])}, r"probabilities has an array \(1, 3\); expected \(2, 3\)"),
        ({"probabilities": np.array([[0.1, np.nan, 0]])}, "probabilities has a number outside 0 to 1, or NaN"),
        ({"probabilities": np.array([[0.1, 1.1, 0]])}, "probabilities has a number outside"),
    ],
)
def test_arrays_that_do_not_fit(changes: dict[str, Any], reason: str) -> None:
    values = {"starts": np.array([0, 1]), "ends": np.array([1, 2]), "types": np.array([0, 1]), "log_p": None}
    rest = {"pairs": np.array([[0, 1]]), "probabilities": np.zeros((1, 3))} | changes
    given_entities = Entities(**{name: changes.get(name, value) for name, value in values.items()})
    with pytest.raises(InputError, match=rf"\[E343\] .*{reason}"):
        Sample(given_entities, rest["pairs"], rest["probabilities"], RelationSchema()).decode()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"decoder": "best"}, "decoder = 'best'; expected greedy, beam, exact"),
        ({"order": "joined"}, "order = 'joined'; expected entity_first, relation_first, joint"),
        ({"threshold": 1.5}, "threshold = 1.5; expected 0 to 1"),
        ({"beam_width": 0}, "beam_width = 0"),
        ({"time_limit": 0.0}, "time_limit = 0.0"),
    ],
)
def test_settings_that_do_not_exist(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[E344\] .*{reason}"):
        decode(entities((0, 1), types=[0]), {}, {}, **options)
