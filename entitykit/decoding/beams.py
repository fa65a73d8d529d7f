"""Beam search over what the states of `entitykit.decoding.genre` allow: which beams go on, which have ended, when it is over.

A model gives log-probabilities of all tokens; those of the allowed ones are not normalised again. A beam that has ended keeps
its place among the finished ones, and the search goes on until none of the others can overtake them: with a beam for each
beginning of a name, the result is that of scoring every name. Of markup and of free text that is so without a length penalty;
with one, beams of markup count as if they opened no further mention, and those of free text as if they ended with the next
token, or the worst of them would be followed to the greatest length. So what becomes better only later can be missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.genre import State, Tokens, advance, allowed
from entitykit.decoding.spans import top_k


class Beam(NamedTuple):
    """An output, or the beginning of one.

    Attributes:
        state: what it has written.
        total: sum of its tokens' log-probabilities.
        token: its last token.
        before: the output without it.
    """

    state: State
    total: float
    token: int = -1
    before: Beam | None = None

    @property
    def totals(self) -> list[float]:
        """Sum of log-probabilities before each token and after the last *(length + 1,)*."""
        found, beam = [self.total], self
        while beam.before is not None:
            beam = beam.before
            found.append(beam.total)
        return found[::-1]

    @property
    def tokens(self) -> list[int]:
        """The output, its end among it *(length,)*."""
        found, beam = [], self
        while beam.before is not None:
            found.append(beam.token)
            beam = beam.before
        return found[::-1]


class Search:
    """The beams of one output.

    Args:
        start: the state before its first token.
        width: most beams that go on.
        n_best: outputs that are wanted.
        length_penalty: outputs are ranked by the sum of log-probabilities / length ** length_penalty.

    Attributes:
        live: beams that go on, the best first.
        finished: the best outputs, the best first.
    """

    def __init__(self, start: State, *, width: int, n_best: int = 1, length_penalty: float = 1.0) -> None:
        self.live = [Beam(start, 0.0)]
        self.finished: list[Beam] = []
        self._width = width
        self._n_best = n_best
        self._length_penalty = length_penalty

    def score(self, beam: Beam) -> float:
        """What outputs are ranked by."""
        return self._score(beam.total, beam.state.length)

    def _score(self, total: float, length: int) -> float:
        return total / max(length, 1) ** self._length_penalty

    def choose(self, options: Sequence[Tokens], log_p: NDArray[np.floating]) -> list[tuple[int, int, float]]:
        """Extend the beams.

        Args:
            options: tokens that may follow each beam.
            log_p: *(n_options,)* their log-probabilities, beam after beam.

        Returns:
            Number of the beam, token and new total, of outputs that end here and of the best that go on.

        Raises:
            InputError: E303 if a log-probability is NaN.
        """
        counts = [len(tokens) for tokens in options]
        beams = np.repeat(np.arange(len(self.live)), counts)
        totals = np.array([beam.total for beam in self.live])[beams] + log_p
        tokens = np.concatenate(options)
        ends = tokens == self.live[0].state.end
        going = np.flatnonzero(~ends)
        chosen = np.concatenate([np.flatnonzero(ends), going[top_k(totals[going], self._width)]])
        return list(zip(beams[chosen].tolist(), tokens[chosen].tolist(), totals[chosen].tolist(), strict=True))

    def take(self, beams: Sequence[Beam]) -> list[int]:
        """Take the extended beams; the answer is which of them go on."""
        best = sorted([*self.finished, *(beam for beam in beams if beam.state.done)], key=self.score, reverse=True)
        self.finished = best[: self._n_best]
        going = [i for i, beam in enumerate(beams) if not beam.state.done]
        self.live = [beams[i] for i in going]
        if len(self.finished) == self._n_best:
            worst = self.score(self.finished[-1])
            if all(self._score(beam.total, beam.state.most) <= worst for beam in self.live):
                self.live, going = [], []
        return going


def options(searches: Sequence[Search]) -> list[Tokens]:
    """The tokens that may follow each live beam of all searches, one after the other."""
    return allowed([beam.state for search in searches for beam in search.live])


def extend(searches: Sequence[Search], choices: Sequence[Tokens], log_p: NDArray[np.floating]) -> tuple[list[int], list[int]]:
    """Extend all searches by a token.

    Args:
        searches: with live beams.
        choices: what `options` gave.
        log_p: *(n_choices,)* log-probabilities of all choices, beam after beam.

    Returns:
        The beams that go on, search after search: the number of the live beam that each extends, counted through all
        searches, and its new token.
    """
    edges = np.cumsum([0, *map(len, choices)])
    firsts = np.cumsum([0, *(len(search.live) for search in searches)]).tolist()
    chosen = [
        search.choose(choices[first:end], log_p[edges[first] : edges[end]])
        for search, (first, end) in zip(searches, pairwise(firsts), strict=True)
    ]
    extended = [
        (search.live[beam], token, total)
        for search, found in zip(searches, chosen, strict=True)
        for beam, token, total in found
    ]
    states = advance([beam.state for beam, _, _ in extended], [token for _, token, _ in extended])
    beams = [Beam(state, total, token, beam) for state, (beam, token, total) in zip(states, extended, strict=True)]
    parents, tokens = [], []
    position = 0
    for search, found, first in zip(searches, chosen, firsts, strict=False):
        for i in search.take(beams[position : position + len(found)]):
            parents.append(first + found[i][0])
            tokens.append(found[i][1])
        position += len(found)
    return parents, tokens
