"""Major entities by hand."""

from __future__ import annotations

import pytest

from entitykit.errors import InputError
from entitykit.scoring.major_entities import score_major_entities
from entitykit.scoring.spans import PRF


def test_scores_by_hand() -> None:
    gold = [{"Ada": set("abcdef"), "Bob": set("gh")}, {"Eve": set("ab")}]
    predicted = [{"Ada": set("abcx"), "Bob": set("gh")}, {}]
    scores = score_major_entities(gold, predicted)
    assert scores is not None
    assert scores.per_entity == [
        {"Ada": PRF(0.75, 0.5, 0.6, 6), "Bob": PRF(1.0, 1.0, 1.0, 2)},
        {"Eve": PRF(0.0, 0.0, 0.0, 2)},
    ]
    assert scores.macro_f1 == pytest.approx((0.6 + 1 + 0) / 3)
    assert scores.micro_f1 == pytest.approx((6 * 0.6 + 2 * 1 + 2 * 0) / 10)


def test_an_entity_that_never_occurs() -> None:
    scores = score_major_entities([{"Ada": set()}], [{}])
    assert scores is not None
    assert (scores.macro_f1, scores.micro_f1) == (0.0, 0.0)


def test_nothing_to_score() -> None:
    assert score_major_entities([], []) is None
    assert score_major_entities([{}], [{}]) is None


def test_an_entity_that_nobody_asked_for() -> None:
    with pytest.raises(InputError, match=r"\[E323\] .*not asked for: Eve; asked for were: Ada, Bob"):
        score_major_entities([{"Ada": {1}, "Bob": {2}}], [{"Eve": {1}}])
