"""Answers about boxes by hand."""

from __future__ import annotations

import pytest

from entitykit.scoring.boxes import BoxAnswer, score_boxes
from entitykit.scoring.spans import PRF


def answer(state: str, gold: str, predicted: str | None, initial: str, n_local: int, n_global: int) -> BoxAnswer:
    things = None if predicted is None else frozenset(predicted.split())
    return BoxAnswer(state, frozenset(gold.split()), things, frozenset(initial.split()), n_local, n_global)


def test_scores_by_hand() -> None:
    scores = score_boxes(
        [
            answer("a0", "cup key", "key cup", "cup key", 0, 0),
            answer("a0", "", "", "", 0, 0),
            answer("a1", "key", "cup key", "cup key", 1, 1),  # repeats the initial state
            answer("a1", "cup", None, "", 1, 1),
            answer("a2", "cup key", "cup", "cup key", 2, 2),  # back to the initial state
        ]
    )
    assert scores.accuracy == pytest.approx(2 / 5)
    assert scores.changed == 0.0
    assert scores.unchanged == pytest.approx(2 / 3)
    assert scores.states == pytest.approx(1 / 3)
    assert scores.local == scores.by_step == {0: 1.0, 1: 0.0, 2: 0.0}
    assert scores.things == PRF(pytest.approx(4 / 5), pytest.approx(4 / 6), pytest.approx(8 / 11), 6)


def test_nothing_to_score() -> None:
    scores = score_boxes([])
    assert scores[:4] == (None,) * 4
    assert (scores.local, scores.things) == ({}, PRF(0.0, 0.0, 0.0, 0))
