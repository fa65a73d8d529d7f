"""Searches with log-probabilities that are made up: what is kept, and when it is over."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from entitykit.decoding.beams import Beam, Search, extend, options
from entitykit.decoding.genre import AnyTokens, Marks, Markup, State, begin_markup, begin_name
from entitykit.errors import InputError
from entitykit.knowledge.trie import CompactTrie

MARKS = Marks(90, 91, 92, 93, 99)
TRIE = CompactTrie.build([(1,), (1, 2), (1, 2, 3), (4, 4, 4, 4, 4, 4, 4, 4)], range(4))

LogP = Callable[[Beam, int], float]


def run(searches: Sequence[Search], log_p: LogP) -> int:
    """Run searches to their ends; the answer is how many steps that takes."""
    active, steps = list(searches), 0
    while active:
        choices = options(active)
        beams = [beam for search in active for beam in search.live]
        scores = [log_p(beam, token) for beam, tokens in zip(beams, choices, strict=True) for token in tokens.tolist()]
        parents, tokens = extend(active, choices, np.array(scores))
        active = [search for search in active if search.live]
        assert [beams[parent] for parent in parents] == [beam.before for search in active for beam in search.live]
        assert tokens == [beam.token for search in active for beam in search.live]
        steps += 1
    return steps


def fixed(values: dict[int, float]) -> LogP:
    return lambda beam, token: values.get(token, -1.0)


def test_ends_when_nothing_can_be_better() -> None:
    """The name of one token is far better than what is left, so the long name is not followed to its end."""
    search = Search(begin_name(TRIE, 99), width=4, length_penalty=0.0)
    assert run([search], fixed({1: -0.1, 99: -0.1, 4: -0.15})) == 2
    assert [beam.tokens for beam in search.finished] == [[1, 99]]
    assert search.finished[0].totals == pytest.approx([0.0, -0.1, -0.2])


def test_goes_on_while_a_longer_output_may_win() -> None:
    """Each token of the long name is better than any other, but only the mean over its length shows it."""
    search = Search(begin_name(TRIE, 99), width=4, length_penalty=1.0)
    assert run([search], fixed({1: -0.3, 99: -0.3, 4: -0.2})) == 9
    assert search.finished[0].tokens == [4] * 8 + [99]


def test_best_outputs_in_order() -> None:
    search = Search(begin_name(TRIE, 99), width=4, n_best=3, length_penalty=0.0)
    run([search], fixed({1: -0.1, 2: -0.2, 3: -0.3, 4: -0.5, 99: -0.1}))
    assert [beam.tokens for beam in search.finished] == [[1, 99], [1, 2, 99], [1, 2, 3, 99]]


def test_searches_together_and_alone() -> None:
    scores = fixed({1: -0.4, 2: -0.1, 3: -0.6, 4: -0.2, 99: -0.5})
    starts = [begin_name(TRIE, 99), begin_name(CompactTrie.build([], []), 99), passage(5), begin_name(TRIE, 99)]
    widths = [1, 2, 3, 4]
    together = [Search(start, width=width, n_best=2) for start, width in zip(starts, widths, strict=True)]
    run(together, scores)
    for search, start, width in zip(together, starts, widths, strict=True):
        alone = Search(start, width=width, n_best=2)
        run([alone], scores)
        assert [beam.tokens for beam in alone.finished] == [beam.tokens for beam in search.finished]
    assert together[1].finished == []


def passage(n: int) -> State:
    ends = {i: (i + 1,) for i in range(n)}
    task = Markup(source=[10 + i for i in range(n)], ends=ends, names=lambda *_: TRIE, longest=8, limit=1000, marks=MARKS)
    return begin_markup(task)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_bad_beams_are_not_followed_for_ever(length_penalty: float) -> None:
    """A model that marks nothing: the beams beside the best one mark more and more, up to the limit."""
    search = Search(passage(50), width=5, length_penalty=length_penalty)
    assert run([search], fixed({90: -9.0} | dict.fromkeys(range(10, 60), -0.01) | {99: -0.01})) == 51
    assert search.finished[0].tokens == [*range(10, 60), 99]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_free_outputs_are_not_followed_for_ever(length_penalty: float) -> None:
    """A model that has learned to write one name: none of the others could win, had it ended now."""
    search = Search(begin_name(AnyTokens(20, 9, 60), 9), width=5, length_penalty=length_penalty)
    name = [3, 4, 5, 9]
    assert run([search], lambda beam, token: -0.1 if [*beam.tokens, token] == name[: len(beam.tokens) + 1] else -6.0) <= 6
    assert search.finished[0].tokens == name


def test_free_outputs_go_on_while_the_next_token_may_win() -> None:
    search = Search(begin_name(AnyTokens(20, 9, 60), 9), width=5, length_penalty=1.0)
    run([search], lambda beam, token: -0.01 if token == (3 if len(beam.tokens) < 4 else 9) else -0.9 if token == 9 else -6.0)
    assert search.finished[0].tokens == [3, 3, 3, 3, 9]


def test_free_outputs_without_a_penalty_are_those_of_scoring_every_output() -> None:
    rng = random.Random(0)
    outputs = [(*tokens, 2) for n in range(4) for tokens in product((0, 1, 3), repeat=n)]
    log_p = {output[:n]: -rng.random() for output in outputs for n in range(1, len(output) + 1)}
    search = Search(begin_name(AnyTokens(4, 2, 3), 2), width=30, n_best=6, length_penalty=0.0)
    run([search], lambda beam, token: log_p[(*beam.tokens, token)])
    best = sorted(outputs, key=lambda output: -sum(log_p[output[:n]] for n in range(1, len(output) + 1)))
    assert [tuple(beam.tokens) for beam in search.finished] == best[:6]


def test_what_is_no_number() -> None:
    with pytest.raises(InputError, match="E303"):
        run([Search(begin_name(TRIE, 99), width=2)], lambda beam, token: float("nan"))
