"""From scores of tags and places to a grid of where each participant of a procedure is, as ProPara writes it.

A participant's states are one more than there are steps: where it is before the first and after every step, a place, `?` for
an unknown one, `-` where it does not exist. What happens at a step is one of six tags (Gupta and Durrett 2019): it is created
(C), destroyed (D), moved (M), there without a change (E), or not there, before (O_C) it was first created or behind (O_D) a
time at which it was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import error

Floats = NDArray[np.float64]

TAGS = ("C", "D", "E", "M", "O_C", "O_D")
NOWHERE, UNKNOWN = "-", "?"
SPECIAL = (NOWHERE, UNKNOWN)
"""The first two choices of a place at every moment."""

_THERE = {"C", "E", "M"}  # after the step; a participant that is not there may be created, and only such a one
_FIRST = {"C", "D", "E", "M", "O_C"}


def may_start() -> NDArray[np.bool_]:
    """Whether the first step may have each tag *(n_tags,)*: what was never there is not gone."""
    return np.array([tag in _FIRST for tag in TAGS])


def may_follow() -> NDArray[np.bool_]:
    """Whether the second tag may follow the first *(n_tags, n_tags)*; what is gone may be created again."""
    after = {tag: {"D", "E", "M"} if tag in _THERE else {"C", "O_C" if tag == "O_C" else "O_D"} for tag in TAGS}
    return np.array([[second in after[first] for second in TAGS] for first in TAGS])


def tags_of(states: Sequence[str]) -> list[str]:
    """What happens at each step.

    Args:
        states: where a participant is before the first and after every step.
    """
    found = []
    was_there = False
    for before, after in pairwise(states):
        was_there = was_there or before != NOWHERE
        if NOWHERE in (before, after):
            gone = "D" if before != NOWHERE else "O_D" if was_there else "O_C"
            found.append(gone if after == NOWHERE else "C")
        else:
            found.append("E" if before == after else "M")
    return found


class Chain(NamedTuple):
    """What a conditional random field has learned.

    Attributes:
        start: *(n_tags,)* scores of first tags.
        transition: *(n_tags, n_tags)* scores of neighbours; -inf where the second cannot follow.
        end: *(n_tags,)* scores of last tags.
    """

    start: Floats
    transition: Floats
    end: Floats


def make_chain(start: NDArray[np.floating], transition: NDArray[np.floating], end: NDArray[np.floating]) -> Chain:
    """Take learned scores, and forbid what cannot be."""
    first = np.where(may_start(), start.astype(np.float64), -np.inf)
    return Chain(first, np.where(may_follow(), transition.astype(np.float64), -np.inf), end.astype(np.float64))


def viterbi(emissions: Floats, chain: Chain) -> list[int]:
    """The best sequence of tags.

    Args:
        emissions: *(n_steps, n_tags)*, finite.
        chain: with a way through any number of steps.
    """
    if not len(emissions):
        return []
    best = chain.start + emissions[0]
    came_from = []
    for row in emissions[1:]:
        ways = best[:, None] + chain.transition
        came_from.append(ways.argmax(0))
        best = ways.max(0) + row
    found = [int((best + chain.end).argmax())]
    for previous in reversed(came_from):
        found.append(int(previous[found[-1]]))
    return found[::-1]


def marginals(emissions: Floats, chain: Chain) -> Floats:
    """Probability of each tag at each step *(n_steps, n_tags)*, by forward and backward sums; arguments as of `viterbi`."""
    if not len(emissions):
        return emissions
    forward = [chain.start + emissions[0]]
    for row in emissions[1:]:
        forward.append(_log_sum(forward[-1][:, None] + chain.transition, axis=0) + row)
    backward = [chain.end]
    for row in emissions[:0:-1]:
        backward.append(_log_sum(chain.transition + (row + backward[-1])[None, :], axis=1))
    both = np.stack(forward) + np.stack(backward[::-1])
    probabilities: Floats = np.exp(both - _log_sum(both, axis=1)[:, None])
    return probabilities


def _log_sum(values: Floats, *, axis: int) -> Floats:
    highest = values.max(axis=axis, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        total: Floats = np.log(np.exp(values - highest).sum(axis=axis)) + highest.squeeze(axis)
    return total


class Track(NamedTuple):
    """What is said of a participant.

    Attributes:
        tags: of each step.
        states: before the first and after every step.
        tag_scores: probability of each tag, given the whole procedure.
        place_scores: probability of each place among those that it could be when it was chosen, which is kept for as long as
            the participant stays; None where it does not exist.
    """

    tags: list[str]
    states: list[str]
    tag_scores: list[float]
    place_scores: list[float | None]


def track(emissions: Floats, places: Sequence[Floats], names: Sequence[str], chain: Chain) -> Track:
    """Decide what happens to a participant, then where it is.

    A place is chosen where the participant is created, where it moves, which it does to another place than where it was, and
    before the first step if it exists then. Else it stays where it is. Where there is no other place to move to, it stays.

    Args:
        emissions: *(n_steps, n_tags)*.
        places: of each moment, one more than steps, scores *(n_choices,)* of nowhere, unknown, and the named places.
        names: of the places, `SPECIAL` aside.
        chain: scores of sequences of tags.

    Raises:
        InputError: E614 for scores of other sizes.
    """
    sizes = [len(emissions) + 1, *[len(names) + len(SPECIAL)] * len(places)]
    if [len(places), *map(len, places)] != sizes:
        raise error("E614", found=[len(places), *map(len, places)], expected=sizes)
    tags = [TAGS[tag] for tag in viterbi(emissions, chain)]
    probabilities = marginals(emissions, chain)
    choices = [*SPECIAL, *names]
    if tags:
        state, score = (NOWHERE, None) if tags[0] in ("C", "O_C") else _choose(places[0], choices, but=(NOWHERE,))
    else:
        state, score = _choose(places[0], choices, but=())
    states, scores = [state], [score]
    for i, (tag, given) in enumerate(zip(tags, places[1:], strict=True)):
        if tag in ("C", "M") and (tag == "C" or names):
            state, score = _choose(given, choices, but=(NOWHERE, state))
        elif tag not in _THERE:
            state, score = NOWHERE, None
        elif tag == "M":
            tags[i] = "E"
        states.append(state)
        scores.append(score)
    tag_scores = [min(float(row[TAGS.index(tag)]), 1.0) for row, tag in zip(probabilities, tags, strict=True)]
    return Track(tags, states, tag_scores, scores)


def _choose(scores: Floats, choices: Sequence[str], *, but: Sequence[str]) -> tuple[str, float | None]:
    """The best choice that is not among `but`, and its probability among those that are not; see `track`."""
    masked = np.where([choice in but for choice in choices], -np.inf, scores)
    best = int(masked.argmax())
    powers = np.exp(masked - masked[best])
    state = choices[best]
    return state, None if state == NOWHERE else float(1.0 / powers.sum())
