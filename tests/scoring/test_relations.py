"""Scores of relations by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.errors import InputError
from entitykit.scoring.relations import make_relations_scorer, relations_score

VOCAB = Vocab()
WORDS = ["Ada", "Lovelace", "met", "Charles", "Babbage", "in", "London", "where", "he", "lived"]

Ent = tuple[int, int, str]
Rel = tuple[tuple[int, int], tuple[int, int], str]

PEOPLE: list[Ent] = [(0, 2, "PER"), (3, 5, "PER"), (6, 7, "LOC")]
GOLD: list[Rel] = [((0, 2), (3, 5), "met"), ((3, 5), (6, 7), "lives")]


@pytest.fixture(autouse=True)
def extension() -> None:
    if not Doc.has_extension("relations"):
        Doc.set_extension("relations", default=None)


def values(relations: list[Rel]) -> list[dict[str, Any]]:
    return [{"head": list(head), "tail": list(tail), "label": label} for head, tail, label in relations]


def doc(ents: list[Ent], words: list[str] | None = None) -> Doc:
    made = Doc(VOCAB, words=words or WORDS)
    made.set_ents([Span(made, start, end, label=label) for start, end, label in ents])
    return made


def example(gold_ents: list[Ent], gold: list[Rel], ents: list[Ent], predicted: list[Rel] | None) -> Example:
    reference, found = doc(gold_ents), doc(ents)
    reference.user_data["relations"] = values(gold)
    if predicted is not None:
        found._.relations = values(predicted)
    return Example(found, reference)


def score(eg: Example, **options: Any) -> dict[str, Any]:
    return dict(relations_score([eg], **options))


def f1s(eg: Example, **options: Any) -> list[float]:
    found = score(eg, **options)
    return [found[f"rel_{kind}_f"] for kind in ("strict", "boundaries", "relaxed")]


def test_all_right() -> None:
    found = score(example(PEOPLE, GOLD, PEOPLE, GOLD))
    for kind in ("strict", "boundaries", "relaxed"):
        assert [found[f"rel_{kind}_{name}"] for name in ("p", "r", "f", "macro_f")] == [1.0] * 4
    assert found["rel_strict_per_type"] == {label: {"p": 1.0, "r": 1.0, "f": 1.0} for label in ("lives", "met")}
    assert (found["rel_entities_r"], found["rel_found_f"]) == (1.0, 1.0)


def test_a_wrong_type_is_right_by_boundaries_only() -> None:
    ents: list[Ent] = [(0, 2, "PER"), (3, 5, "PER"), (6, 7, "ORG")]
    eg = example(PEOPLE, GOLD, ents, GOLD)
    assert f1s(eg) == [0.5, 1.0, 0.5]
    found = score(eg)
    assert found["rel_strict_per_type"]["lives"] == {"p": 0.0, "r": 0.0, "f": 0.0}
    assert found["rel_strict_macro_f"] == 0.5
    assert found["rel_entities_r"] == 0.5
    assert (found["rel_found_p"], found["rel_found_r"]) == (1.0, 1.0)


def test_a_wrong_boundary_is_right_if_relaxed_only() -> None:
    ents: list[Ent] = [(1, 2, "PER"), (3, 5, "PER"), (6, 7, "LOC")]
    assert f1s(example(PEOPLE, GOLD, ents, [((1, 2), (3, 5), "met"), GOLD[1]])) == [0.5, 0.5, 1.0]


def test_a_wrong_label_or_direction_is_wrong() -> None:
    assert f1s(example(PEOPLE, GOLD[:1], PEOPLE, [((0, 2), (3, 5), "lives")])) == [0.0] * 3
    turned = example(PEOPLE, GOLD[:1], PEOPLE, [((3, 5), (0, 2), "met")])
    assert f1s(turned) == [0.0] * 3
    assert f1s(turned, mirrors={"met": "met"}) == [1.0] * 3


def test_inverse_relations_are_said_in_either_direction() -> None:
    inverse = {"lives": "home", "home": "lives"}
    both: list[Rel] = [((0, 2), (6, 7), "lives"), ((6, 7), (0, 2), "home")]
    for gold, predicted in (([both[0]], both), (both, [both[1]]), ([both[1]], [both[0]])):
        assert f1s(example(PEOPLE, gold, PEOPLE, predicted), mirrors=inverse) == [1.0] * 3
    assert f1s(example(PEOPLE, [both[0]], PEOPLE, [both[1]])) == [0.0] * 3


def test_counts_by_hand() -> None:
    """Of 3 predictions one is right; of 2 gold relations one is found."""
    predicted: list[Rel] = [GOLD[0], ((0, 2), (6, 7), "lives"), ((0, 2), (6, 7), "born")]
    found = score(example(PEOPLE, GOLD, PEOPLE, [*predicted, GOLD[0]]))  # the same twice counts once
    assert (found["rel_strict_p"], found["rel_strict_r"]) == (pytest.approx(1 / 3), 0.5)
    assert found["rel_strict_f"] == pytest.approx(0.4)
    assert found["rel_strict_macro_f"] == 0.5  # over met (1) and lives (0); born is not in gold
    assert found["rel_strict_per_type"]["born"] == {"p": 0.0, "r": 0.0, "f": 0.0}
    # between the arguments lie: met 1 word, lives 1 word; predicted lives and born 4 words
    assert found["rel_per_distance"] == {"0-4": {"p": pytest.approx(1 / 3), "r": 0.5, "f": pytest.approx(0.4)}}


def test_distances() -> None:
    words = [str(i) for i in range(60)]
    ents: list[Ent] = [(0, 1, "A"), (6, 7, "A"), (59, 60, "A")]
    relations: list[Rel] = [((0, 1), (6, 7), "r"), ((59, 60), (0, 1), "r"), ((59, 60), (6, 7), "r"), ((0, 1), (0, 1), "r")]
    reference, found = doc(ents, words), doc(ents, words)
    reference.user_data["relations"], found._.relations = values(relations), values(relations[:2])
    per_distance = score(Example(found, reference))["rel_per_distance"]
    assert {name: row["r"] for name, row in per_distance.items()} == {"5-9": 1.0, "40+": 0.5, "0-4": 0.0}


def test_one_prediction_matches_one_gold_relation() -> None:
    gold_ents: list[Ent] = [(0, 1, "PER"), (1, 2, "PER"), (3, 4, "PER")]
    gold: list[Rel] = [((0, 1), (3, 4), "met"), ((1, 2), (3, 4), "met")]
    wide: list[Ent] = [(0, 2, "PER"), (3, 4, "PER")]
    found = score(example(gold_ents, gold, wide, [((0, 2), (3, 4), "met")]))
    assert (found["rel_relaxed_p"], found["rel_relaxed_r"]) == (1.0, 0.5)
    # The wide one could take either; the narrow one only the first: all are matched.
    both: list[Ent] = [(0, 2, "PER"), (0, 1, "PER"), (3, 4, "PER")]
    eg = example(gold_ents, gold, [], [((0, 2), (3, 4), "met"), ((0, 1), (3, 4), "met")])
    eg.reference.spans["sc"] = list(eg.reference.ents)
    eg.predicted.spans["sc"] = [Span(eg.predicted, start, end, label=label) for start, end, label in both]
    assert score(eg, entities="sc")["rel_relaxed_f"] == 1.0


def test_other_tokens_of_the_same_text() -> None:
    reference = doc(PEOPLE)
    reference.user_data["relations"] = values(GOLD)
    words = ["Ada", "Love", "lace", "met", "Charles", "Babbage", "in", "Lon", "don", "where", "he", "lived"]
    spaces = [word not in ("Love", "Lon") for word in words]
    found = Doc(VOCAB, words=words, spaces=spaces)
    found.set_ents([Span(found, 0, 3, label="PER"), Span(found, 4, 6, label="PER"), Span(found, 7, 8, label="LOC")])
    found._.relations = values([((0, 3), (4, 6), "met"), ((4, 6), (7, 8), "lives")])
    eg = Example(found, reference)
    assert f1s(eg) == [0.5, 0.5, 1.0]  # "Lon" is not "London"
    assert list(score(eg)["rel_per_distance"]) == ["0-4"]


def test_arguments_that_are_no_entities() -> None:
    gold: list[Rel] = [((0, 2), (9, 10), "does")]
    assert f1s(example(PEOPLE, gold, PEOPLE, gold)) == [1.0] * 3
    found = score(example(PEOPLE, gold, [*PEOPLE, (9, 10, "ACT")], gold))
    assert [found[f"rel_{kind}_f"] for kind in ("strict", "boundaries", "relaxed")] == [0.0, 1.0, 0.0]
    assert found["rel_entities_r"] == 0.0


def test_nested_gold_entities() -> None:
    """An argument that is not in the flat `doc.ents` has the type that it has in `doc.spans["sc"]`."""
    eg = example(PEOPLE, [((1, 2), (3, 5), "met")], PEOPLE, [((1, 2), (3, 5), "met")])
    for made in (eg.reference, eg.predicted):
        made.spans["sc"] = [*made.ents, Span(made, 1, 2, label="NAME"), Span(made, 3, 5, label="GENIUS")]
    assert f1s(eg) == [0.0, 1.0, 0.0]
    assert f1s(eg, entities="sc") == [1.0] * 3


def test_what_is_not_annotated_or_not_predicted() -> None:
    eg = example(PEOPLE, GOLD, PEOPLE, None)
    found = score(eg)
    assert (found["rel_strict_p"], found["rel_strict_r"], found["rel_strict_f"]) == (0.0, 0.0, 0.0)
    del eg.reference.user_data["relations"]
    assert set(score(eg).values()) == {None}
    assert set(relations_score([]).values()) == {None}
    empty = score(example(PEOPLE, [], PEOPLE, []))
    assert set(empty.values()) == {None}
    only_predicted = score(example([], [], PEOPLE, GOLD))
    assert (only_predicted["rel_strict_p"], only_predicted["rel_strict_macro_f"]) == (0.0, None)


@pytest.mark.parametrize(
    "value",
    [{"head": [0, 1], "tail": [2, 99], "label": "r"}, {"head": [1, 1], "tail": [2, 3], "label": "r"}, {"head": [0, 1]}, "x"]
    + [{"head": [0, 1], "tail": [2, 3], "label": label} for label in (None, 3)],
)
def test_relations_that_cannot_be_read(value: Any) -> None:
    eg = example(PEOPLE, GOLD, PEOPLE, [])
    eg.predicted._.relations = [value]
    with pytest.raises(InputError, match=r"\[E345\] .* among the 10 tokens"):
        score(eg)


@pytest.mark.parametrize("side", ["gold", "predicted"])
def test_relations_that_are_no_list(side: str) -> None:
    eg = example(PEOPLE, GOLD, PEOPLE, GOLD)
    if side == "gold":
        eg.reference.user_data["relations"] = 5
    else:
        eg.predicted._.relations = {"head": [0, 1]}
    with pytest.raises(InputError, match=r"\[E349\].*expected a list"):
        score(eg)


places = st.integers(0, 8).flatmap(lambda start: st.integers(start + 1, 10).map(lambda end: (start, end)))
relation_lists = st.lists(st.tuples(places, places, st.sampled_from("rs")), max_size=8)


@settings(max_examples=40, deadline=None)
@given(relation_lists, relation_lists, st.lists(st.sampled_from([(0, 1, "A"), (2, 4, "B"), (5, 9, "A")]), unique=True))
def test_looser_rules_find_no_less(gold: list[Rel], predicted: list[Rel], ents: list[Ent]) -> None:
    found = score(example(ents, gold, ents, predicted))
    if found["rel_strict_f"] is None:
        assert not gold
        assert not predicted
        return
    assert found["rel_strict_f"] <= found["rel_boundaries_f"] + 1e-9
    assert found["rel_strict_f"] <= found["rel_relaxed_f"] + 1e-9
    same = score(example(ents, gold, ents, gold))
    assert {same[f"rel_{kind}_f"] for kind in ("strict", "boundaries", "relaxed")} == ({1.0} if gold else {None})


def test_the_registered_scorer() -> None:
    assert make_relations_scorer() is relations_score
