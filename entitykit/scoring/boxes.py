"""Measures of tracking in the world of boxes: are the things in each box named, after how many operations?

Kim and Schuster, ACL 2023: an answer is right if it names all things in a box and no other. *Local* operations are those on the
box itself, *global* ones all so far. Boxes that changed are counted apart, because repeating the initial state is right for the
others.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from entitykit.scoring.spans import PRF, prf

T = TypeVar("T")


class BoxAnswer(NamedTuple):
    """An answer about a box.

    Attributes:
        state: names the world and the number of operations; the answers about all boxes of a state share it.
        gold: the things in the box.
        predicted: the things that the answer names; None if it is of another form.
        initial: the things that were in the box before the first operation.
        n_local: operations on the box so far.
        n_global: operations so far.
    """

    state: Hashable
    gold: frozenset[str]
    predicted: frozenset[str] | None
    initial: frozenset[str]
    n_local: int
    n_global: int


class BoxScores(NamedTuple):
    """Accuracies; None where there is no such answer.

    Attributes:
        accuracy: of all answers.
        changed: of those about boxes that do not have their initial things.
        unchanged: of those about the others.
        states: states of which every answer is right.
        local: by the number of operations on the box.
        by_step: by the number of operations so far.
        things: precision, recall and F1 of the things that are named.
    """

    accuracy: float | None
    changed: float | None
    unchanged: float | None
    states: float | None
    local: dict[int, float]
    by_step: dict[int, float]
    things: PRF


def score_boxes(answers: Iterable[BoxAnswer]) -> BoxScores:
    """Score answers about boxes.

    Args:
        answers: in any order.
    """
    given = list(answers)
    right = [answer.predicted == answer.gold for answer in given]
    is_changed = [answer.gold != answer.initial for answer in given]
    states = _group([answer.state for answer in given], right)
    local = _group([answer.n_local for answer in given], right)
    by_step = _group([answer.n_global for answer in given], right)
    named = [answer.predicted or frozenset() for answer in given]
    return BoxScores(
        accuracy=_share(right),
        changed=_share([one for one, changed in zip(right, is_changed, strict=True) if changed]),
        unchanged=_share([one for one, changed in zip(right, is_changed, strict=True) if not changed]),
        states=_share([all(group) for group in states.values()]),
        local={n: sum(local[n]) / len(local[n]) for n in sorted(local)},
        by_step={n: sum(by_step[n]) / len(by_step[n]) for n in sorted(by_step)},
        things=prf(
            n_correct=sum(len(found & answer.gold) for found, answer in zip(named, given, strict=True)),
            n_predicted=sum(map(len, named)),
            n_gold=sum(len(answer.gold) for answer in given),
        ),
    )


def _group(keys: Sequence[T], right: Sequence[bool]) -> dict[T, list[bool]]:
    groups: dict[T, list[bool]] = {}
    for key, one in zip(keys, right, strict=True):
        groups.setdefault(key, []).append(one)
    return groups


def _share(right: Sequence[bool]) -> float | None:
    return sum(right) / len(right) if right else None
