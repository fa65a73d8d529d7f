"""SemEval-2010 task 8 and TACRED by hand."""

from __future__ import annotations

from typing import Any

import pytest
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.errors import InputError
from entitykit.scoring.relation_pairs import Answer, pair_scores, score_answers

VOCAB = Vocab()
CE, EC, CW = ("Cause-Effect", 1), ("Cause-Effect", -1), ("Component-Whole", 1)


@pytest.fixture(autouse=True)
def extension() -> None:
    if not Doc.has_extension("relations"):
        Doc.set_extension("relations", default=None)


def value(answer: Answer, score: float | None = None) -> list[dict[str, Any]]:
    if answer is None:
        return []
    label, direction = answer
    ends = [[0, 1], [2, 3]][::direction]
    return [{"head": ends[0], "tail": ends[1], "label": label, "score": score}]


def example(gold: Answer, predicted: list[dict[str, Any]], *, one_way: bool = False) -> Example:
    reference, found = Doc(VOCAB, words=["fire", "causes", "smoke"]), Doc(VOCAB, words=["fire", "causes", "smoke"])
    reference.user_data |= {"relations": value(gold), "relation_pair": {"first": [0, 1], "second": [2, 3], "one_way": one_way}}
    found._.relations = predicted
    return Example(found, reference)


def test_official_scores_by_hand() -> None:
    """Cause-Effect: 5 gold; 4 predicted, of which 1 in the wrong direction and 1 is another; 2 right. Component-Whole: none."""
    gold: list[Answer] = [CE, CE, EC, EC, CE, CW, None, None]
    predicted: list[Answer] = [CE, EC, EC, None, None, CE, CW, None]
    per_type, micro = score_answers(gold, predicted)
    assert per_type["Cause-Effect"] == (2 / 4, 2 / 5, pytest.approx(4 / 9), 5)
    assert per_type["Component-Whole"] == (0.0, 0.0, 0.0, 1)
    assert micro == (2 / 5, 2 / 6, pytest.approx(4 / 11), 6)
    found = pair_scores([example(own, value(other)) for own, other in zip(gold, predicted, strict=True)])
    assert found["rel_pair_macro_f"] == pytest.approx((4 / 9 + 0) / 2)
    assert (found["rel_pair_p"], found["rel_pair_r"], found["rel_pair_f"]) == (2 / 5, 2 / 6, pytest.approx(4 / 11))
    assert found["rel_pair_acc"] == 3 / 8


def test_relations_that_only_the_model_knows_do_not_count_in_the_mean() -> None:
    found = pair_scores([example(CE, value(CE)), example(None, value(CW))])
    assert found["rel_pair_macro_f"] == 1.0
    assert found["rel_pair_p"] == 0.5


def test_the_highest_score_is_the_answer() -> None:
    assert pair_scores([example(CE, [*value(EC, 0.6), *value(CE, 0.9), *value(CW, 0.7)])])["rel_pair_acc"] == 1.0
    assert pair_scores([example(CE, [*value(CE), *value(EC)])])["rel_pair_acc"] == 1.0


def test_one_way_pairs_and_other_pairs() -> None:
    other = [{"head": [0, 1], "tail": [1, 2], "label": "Cause-Effect", "score": 1.0}]
    assert pair_scores([example(None, [*value(EC), *other], one_way=True)])["rel_pair_acc"] == 1.0
    assert pair_scores([example(None, [*value(EC), *other])])["rel_pair_acc"] == 0.0


def test_a_relation_without_direction_and_inverses_are_one_answer() -> None:
    """Also where only one direction counts: the pipeline writes a symmetric relation from the entity that comes first."""
    for one_way in (False, True):
        turned = example(CE, value(EC), one_way=one_way)
        assert pair_scores([turned])["rel_pair_acc"] == 0.0
        assert pair_scores([turned], {"Cause-Effect": "Cause-Effect"})["rel_pair_acc"] == 1.0
        inverse = example(CE, value(("Effect-Cause", -1)), one_way=one_way)
        found = pair_scores([inverse], {"Cause-Effect": "Effect-Cause", "Effect-Cause": "Cause-Effect"})
        assert found["rel_pair_macro_f"] == 1.0


def test_nothing_to_score() -> None:
    eg = example(None, [])
    found = pair_scores([eg])
    assert (found["rel_pair_macro_f"], found["rel_pair_f"], found["rel_pair_acc"]) == (None, 0.0, 1.0)
    del eg.reference.user_data["relation_pair"]
    assert set(pair_scores([eg]).values()) == {None}


@pytest.mark.parametrize("wrong", [{"head": [0, 1], "tail": [2, 3]}, {"head": [0, 1], "tail": [2, 9], "label": "CE"}, 3])
def test_relations_that_cannot_be_read(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"\[E345\]"):
        pair_scores([example(CE, [wrong])])
    eg = example(CE, [])
    eg.reference.user_data["relations"] = [{**value(CE)[0], "score": "high"}]
    with pytest.raises(InputError, match=r"\[E345\].*is a number"):
        pair_scores([eg])
    eg.reference.user_data["relations"] = 5
    with pytest.raises(InputError, match=r"\[E349\]"):
        pair_scores([eg])


def test_a_pair_that_cannot_be_read() -> None:
    eg = example(CE, [])
    eg.reference.user_data["relation_pair"] = {"first": [0, 1]}
    with pytest.raises(InputError, match=r"\[E347\] .* expected an object with first and second"):
        pair_scores([eg])
