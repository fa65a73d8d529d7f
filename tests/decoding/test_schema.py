"""Schemas: every contradiction is named, files are read strictly, and numbers of labels say what rules say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from entitykit.decoding.schema import ANY, FLAGS, OTHER, RelationRule, RelationSchema, completed
from entitykit.errors import ConfigError

CONLL04 = {
    "relations": {
        "Live_In": {"head": ["Peop"], "tail": ["Loc"], "functional": True},
        "Kill": {"types": [["Peop", "Peop"]]},
        "Spouse": {"symmetric": True, "head": ["Peop"]},
        "Part_Of": {"inverse": "Has_Part", "types": [["Loc", "Loc"], ["Org", "Peop"]]},
    },
    "one_per_pair": True,
    "no_overlap": True,
}
RELATIONS = ["Live_In", "Kill", "Spouse", "Part_Of", "Has_Part", "Other"]
TYPES = ["Peop", "Loc", "Org"]


def allowed(schema: RelationSchema, relation: str) -> set[tuple[str, str]]:
    constraints = schema.constrain(RELATIONS, TYPES)
    table = constraints.of_types[RELATIONS.index(relation)]
    return {(TYPES[head], TYPES[tail]) for head, tail in np.argwhere(table)}


def test_types_of_arguments() -> None:
    schema = RelationSchema.load(CONLL04)
    assert allowed(schema, "Live_In") == {("Peop", "Loc")}
    assert allowed(schema, "Kill") == {("Peop", "Peop")}
    assert allowed(schema, "Spouse") == {("Peop", "Peop")}  # the tail's types follow from symmetry
    assert allowed(schema, "Part_Of") == {("Loc", "Loc"), ("Org", "Peop")}
    assert allowed(schema, "Has_Part") == {("Loc", "Loc"), ("Peop", "Org")}  # a rule that only its inverse has
    assert len(allowed(schema, "Other")) == 9


def test_an_unknown_type_may_be_any() -> None:
    constraints = RelationSchema.load(CONLL04).constrain(RELATIONS, TYPES)
    live_in = constraints.allowed[0]
    assert live_in[ANY].tolist() == [False, True, False, False, True]
    assert live_in[:, ANY].tolist() == [True, False, False, False, True]
    assert RelationSchema.load(CONLL04 | {"relations": {}}).constrain(["x"], []).allowed.all()


def test_a_type_that_the_schema_does_not_know_is_none_of_its_types() -> None:
    """It may be what a rule does not restrict, and nothing else."""
    constraints = RelationSchema.load(CONLL04).constrain(RELATIONS, TYPES)
    numbers = constraints.numbers_of(["Org", "MONEY", "", "Peop"])
    assert numbers.tolist() == [2, OTHER, ANY, 0]
    money, thing, peop, loc = OTHER, ANY, 0, 1
    for relation, pairs in {
        "Live_In": {(thing, loc), (peop, thing), (thing, thing), (peop, loc)},
        "Kill": {(thing, peop), (peop, thing), (thing, thing), (peop, peop)},
        "Other": {(a, b) for a in (money, thing, peop, loc) for b in (money, thing, peop, loc)},
    }.items():
        table = constraints.allowed[RELATIONS.index(relation)]
        assert {(a, b) for a in (money, thing, peop, loc) for b in (money, thing, peop, loc) if table[a, b]} == pairs
    half = RelationSchema.load({"relations": {"a": {"head": ["Peop"]}}}).constrain(["a"], TYPES).allowed[0]
    assert (bool(half[peop, money]), bool(half[money, peop]), bool(half[thing, money])) == (True, False, True)


def test_what_follows_from_an_inverse_and_from_symmetry() -> None:
    constraints = RelationSchema.load(
        {"relations": {"a": {"inverse": "b", "functional": True}, "s": {"symmetric": True, "inverse_functional": True}}}
    ).constrain(["a", "b", "s"], [])
    assert constraints.inverse.tolist() == [1, 0, -1]
    assert constraints.functional.tolist() == [True, False, True]
    assert constraints.inverse_functional.tolist() == [False, True, True]
    assert constraints.symmetric.tolist() == [False, False, True]


def test_defaults_restrict_nothing_but_self_relations() -> None:
    constraints = RelationSchema.load(None).constrain(["a"], ["T"])
    assert constraints.allowed.all()
    assert (constraints.one_per_pair, constraints.no_overlap, constraints.no_self, constraints.both_directions) == (
        False,
        False,
        True,
        False,
    )


def test_a_file_says_the_same_as_a_config(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(f"\ufeff{json.dumps(CONLL04)}", encoding="utf-8")
    schema = RelationSchema.load(CONLL04)
    assert RelationSchema.load(path) == RelationSchema.load(str(path)) == RelationSchema.load(schema) == schema


rules = st.builds(
    RelationRule,
    head=st.none() | st.frozensets(st.sampled_from(TYPES), min_size=1),
    functional=st.booleans(),
    inverse_functional=st.booleans(),
    types=st.none() | st.frozensets(st.tuples(st.sampled_from(TYPES), st.sampled_from(TYPES)), min_size=1),
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(RELATIONS), rules), st.fixed_dictionaries({flag: st.booleans() for flag in FLAGS}))
def test_saving_and_loading_gives_the_same(relations: dict[str, RelationRule], flags: dict[str, bool]) -> None:
    for rule in relations.values():
        assume(rule.head is None or all(head in rule.head for head, _ in rule.types or ()))
    schema = RelationSchema(relations=relations, **flags)
    assert RelationSchema.load(json.loads(json.dumps(schema.to_dict()))) == schema
    table = schema.constrain(RELATIONS, TYPES).allowed
    kinds = [*TYPES, "MONEY"]  # the last is none of those that rules name
    for number, relation in enumerate(RELATIONS):
        rule = relations.get(relation, RelationRule())
        expected = np.array([[rule.allows(head, tail) for tail in kinds] for head in kinds])
        np.testing.assert_array_equal(table[number, :-1, :-1], expected)
        np.testing.assert_array_equal(table[number, ANY, :-1], expected.any(axis=0))
        np.testing.assert_array_equal(table[number, :-1, ANY], expected.any(axis=1))
        assert table[number, ANY, ANY] == expected.any()


@given(rules)
def test_a_rule_mirrored_twice_is_itself(rule: RelationRule) -> None:
    assert rule.mirrored().mirrored() == rule


def test_learned_from_data() -> None:
    triples = [("P", "lives", "L")] * 3 + [("O", "lives", "L")] + [("O", "in", "L")]
    schema = RelationSchema.learn(triples, one_per_pair=True)
    assert schema.one_per_pair
    assert schema.relations["lives"].types == {("P", "L"), ("O", "L")}
    often = RelationSchema.learn(triples, min_count=2)
    assert often.relations["lives"].types == {("P", "L")}
    assert often.relations["in"].types == {("O", "L")}  # too rare, but all there is
    assert RelationSchema.learn([]).relations == {}


@pytest.mark.parametrize(
    ("relations", "reason"),
    [
        ({"a": {"inverse": "a"}}, "'a' is its own inverse: set 'symmetric'"),
        ({"a": {"symmetric": True, "inverse": "b"}}, "'a' is symmetric and has the inverse 'b'"),
        ({"a": {"inverse": "b"}, "b": {"symmetric": True}}, "'b' is symmetric and the inverse of 'a'"),
        ({"a": {"inverse": "b"}, "b": {"inverse": "c"}}, "the inverse of 'a' is 'b', whose inverse is 'c'"),
        ({"a": {"inverse": "c"}, "b": {"inverse": "c"}}, "'c' is the inverse of 'a' and of 'b'"),
        ({"a": {"head": []}}, "'a' has an empty 'head', so that it can never hold"),
        ({"a": {"head": ["X"], "types": [["Y", "X"]]}}, r"'a' has \('Y', 'X'\) in 'types', which its 'head' or 'tail'"),
        (
            {"a": {"symmetric": True, "head": ["X"], "tail": ["Y"]}},
            "'a' is symmetric, but 'X' is allowed in one direction only",
        ),
        ({"a": {"symmetric": True, "types": [["X", "Y"]]}}, r"'a' is symmetric, but \('X', 'Y'\) is allowed in one"),
        ({"a": {"inverse": "b", "head": ["X"]}, "b": {"tail": ["Y"]}}, "'a' is the inverse of 'b', but 'X' is allowed in one"),
        ({"b": {"inverse": "a", "head": ["X"]}, "a": {"tail": ["Y"], "inverse": "b"}}, r"but 'X' is allowed .* \('tail'\)"),
        ({"a": {"inverse": "b", "head": ["X"]}, "b": {"types": [["X", "Y"]]}}, "'a' can never hold"),
    ],
)
def test_contradictions_are_named(relations: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[E342\] .*{reason}"):
        RelationSchema.load({"relations": relations})


def test_all_contradictions_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"in 2 places: 'a' is its own inverse.*; 'b' has an empty 'tail'"):
        RelationSchema.load({"relations": {"a": {"inverse": "a"}, "b": {"tail": []}}})


@pytest.mark.parametrize(
    ("relations", "types", "reason"),
    [
        ({"b": {}}, [], "relations that there are not: b; there are: a"),
        ({"a": {"inverse": "b"}}, [], "relations that there are not: b"),
        ({"a": {"head": ["X", "Y", "Z"]}}, ["Y"], "entity types that there are not: X, Z; there are: Y"),
        ({"a": {"types": [["X", "Y"]]}}, [], "entity types that there are not: X, Y; there are: none"),
    ],
)
def test_unknown_labels(relations: dict[str, Any], types: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[E341\] .*{reason}"):
        RelationSchema.load({"relations": relations}).constrain(["a"], types)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], r"The relation schema has \[\]; expected an object with both_directions, no_overlap"),
        ({"relation": {}}, "has the key 'relation'; expected both_directions, no_overlap, no_self, one_per_pair, relations"),
        ({"relations": []}, r"'relations' has \[\]; expected an object of rules by label"),
        ({"relations": {"a": {"heads": []}}}, "relation 'a' has the key 'heads'; expected functional, head, inverse"),
        ({"relations": {"a": {"head": "X"}}}, "relation 'a', 'head' has 'X'; expected a list of labels"),
        ({"relations": {"a": {"tail": [1]}}}, r"'tail' has \[1\]; expected a list of labels"),
        ({"relations": {"a": {"types": [["X"]]}}}, r"'types' has \[\['X'\]\]; expected a list of pairs"),
        ({"relations": {"a": {"types": ["XY"]}}}, "'types' has 'XY'; expected a list of labels"),
        ({"relations": {"a": {"symmetric": 1}}}, "'symmetric' has 1; expected true or false"),
        ({"relations": {"a": {"inverse": ["b"]}}}, "'inverse' has .*; expected the label of a relation"),
        ({"no_self": "yes"}, "'no_self' has 'yes'; expected true or false"),
    ],
)
def test_settings_that_are_none(values: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"\[E340\] The relation schema '.*schema.json'.*{reason.removeprefix('The relation schema ')}"
    ):
        RelationSchema.load(path)
    if isinstance(values, dict):
        with pytest.raises(ConfigError, match=rf"\[E340\] .*{reason}"):
            RelationSchema.load(values)


@pytest.mark.parametrize("source", [5, ["r"], 0.5], ids=str)
def test_what_is_neither_settings_nor_a_file(source: Any) -> None:
    with pytest.raises(ConfigError, match=r"\[E340\] The relation schema has .*; expected an object, or a JSON file"):
        RelationSchema.load(source)


def test_a_schema_of_some_labels() -> None:
    """What is said of a relation by its inverse is still said where that one is gone."""
    rules: dict[str, Any] = {
        "part": {"inverse": "whole", "head": ["A"], "functional": True},
        "whole": {"types": [["B", "A"], ["B", "B"]]},
        "near": {"symmetric": True, "head": ["A"]},
    }
    schema = RelationSchema.load({"relations": rules, "one_per_pair": True})
    assert schema.restricted_to(["near", "whole", "part", "other"]) == schema
    some = schema.restricted_to(["whole", "other"])
    assert some.one_per_pair
    assert some.to_dict()["relations"] == {"whole": {"tail": ["A"], "types": [["B", "A"]], "inverse_functional": True}}
    assert RelationSchema.load(some.to_dict()) == some
    whole = schema.constrain(["whole", "part", "near"], ["A", "B"]).allowed[0]
    np.testing.assert_array_equal(some.constrain(["whole"], ["A", "B"]).allowed[0], whole)
    assert schema.restricted_to([]).relations == {}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[E340\] .* has no readable file \(No such file"):
        RelationSchema.load(tmp_path / "gone.json")
    path = tmp_path / "schema.json"
    for content in (b"{", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"\[E340\] .* has no JSON"):
            RelationSchema.load(path)


def test_completing_keeps_what_is_given() -> None:
    given = {"a": RelationRule(inverse="b", head=frozenset("X")), "b": RelationRule(head=frozenset("Y"))}
    found = completed(given)
    assert found["a"] == RelationRule(inverse="b", head=frozenset("X"), tail=frozenset("Y"))
    assert found["b"] == RelationRule(inverse="a", head=frozenset("Y"), tail=frozenset("X"))
