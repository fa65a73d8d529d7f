"""States allow what they should, and outputs say what was linked."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.decoding.genre import (
    AnyTokens,
    Link,
    Marks,
    Markup,
    Names,
    State,
    advance,
    allowed,
    begin_markup,
    begin_name,
    markup_tokens,
)
from entitykit.knowledge.trie import CompactTrie

MARKS = Marks(open_mention=90, close_mention=91, open_name=92, close_name=93, end=99)
NAMES = [(1, 2), (1, 2, 3), (4,), (5, 5)]
TRIE = CompactTrie.build(NAMES, range(4))
FEW = CompactTrie.build([(4,), (6, 7)], [2, 9])


def task(source: Sequence[int], ends: Mapping[int, Sequence[int]], limit: int = 1000, *, names: CompactTrie = TRIE) -> Markup:
    return Markup(source=source, ends=ends, names=lambda start, end: names, longest=names.longest, limit=limit, marks=MARKS)


def outputs(state: State, most: int = 40) -> Iterator[tuple[list[int], State]]:
    """All outputs, each to its end."""
    (options,) = allowed([state])
    assert len(set(options.tolist())) == len(options)
    for token in options.tolist():
        (after,) = advance([state], [token])
        if after.done:
            assert token == state.end
            yield [token], after
        else:
            assert most
            for rest, last in outputs(after, most - 1):
                yield [token, *rest], last


def test_outputs_are_the_names() -> None:
    found = {tuple(tokens): state for tokens, state in outputs(begin_name(TRIE, 99))}
    assert sorted(found) == sorted((*name, 99) for name in NAMES)
    assert {tokens: TRIE.rows(state.node).tolist() for tokens, state in found.items()} == {
        (*name, 99): [row] for row, name in enumerate(NAMES)
    }
    assert begin_name(TRIE, 99).most == 4 == max(state.length for state in found.values())


def test_free_outputs_are_all_up_to_the_limit() -> None:
    found = {tuple(tokens) for tokens, _ in outputs(begin_name(AnyTokens(3, 1, 2), 1))}
    assert found == {(1,), (0, 1), (2, 1), (0, 0, 1), (0, 2, 1), (2, 0, 1), (2, 2, 1)}
    (state,) = advance([begin_name(AnyTokens(3, 1, 500), 1)], [2])
    assert state.most == 2  # with its end


def test_all_outputs_of_a_passage() -> None:
    """Against a list that is made without states: every set of mentions without overlaps, each with every name."""
    source, ends = [10, 11, 12], {0: (1, 3), 1: (2,), 2: (3,)}
    spans = [(start, end) for start, stops in ends.items() for end in stops]
    expected = set()
    for chosen in subsets(spans):
        for links in with_names(chosen):
            expected.add((*markup_tokens(source, links, MARKS), 99))
    found = {tuple(tokens): state for tokens, state in outputs(begin_markup(task(source, ends)))}
    assert found.keys() == expected
    for tokens, state in found.items():
        links = [(link.start, link.end, NAMES[TRIE.rows(link.node)[0]]) for link in state.links]
        assert (*markup_tokens(source, links, MARKS), 99) == tokens
        for link in state.links:
            assert (tokens[link.first], tokens[link.last]) == (90, 93)


def subsets(spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for number in range(2 ** len(spans)):
        chosen = sorted(span for i, span in enumerate(spans) if number >> i & 1)
        if all(a[1] <= b[0] for a, b in pairwise(chosen)):
            yield chosen


def with_names(spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int, Sequence[int]]]]:
    if not spans:
        yield []
        return
    for links in with_names(spans[1:]):
        for name in NAMES:
            yield [(*spans[0], name), *links]


def test_names_of_a_mention() -> None:
    by_span: dict[tuple[int, int], Names] = {(0, 1): FEW, (0, 2): TRIE}
    restricted = Markup(source=[10, 11], ends={0: (1, 2)}, names=lambda *span: by_span[span], longest=3, limit=100, marks=MARKS)
    found = {tuple(tokens) for tokens, _ in outputs(begin_markup(restricted))}
    assert {tokens for tokens in found if tokens[2] == 91} == {(90, 10, 91, 92, *name, 93, 11, 99) for name in [(4,), (6, 7)]}
    assert len(found) == 1 + 2 + 4


def test_beams_of_several_tasks_together() -> None:
    """What is looked up together is what is looked up alone."""
    states = [begin_name(TRIE, 99), begin_name(FEW, 98), begin_markup(task([10, 11], {0: (2,)})), begin_name(TRIE, 99)]
    rng = random.Random(0)
    while not all(state.done for state in states):
        states = [state for state in states if not state.done]
        together = allowed(states)
        alone = [allowed([state])[0] for state in states]
        assert [tokens.tolist() for tokens in together] == [tokens.tolist() for tokens in alone]
        tokens = [rng.choice(options.tolist()) for options in together]
        after = advance(states, tokens)
        assert after == [advance([state], [token])[0] for state, token in zip(states, tokens, strict=True)]
        states = after


@settings(max_examples=25)
@given(st.integers(0, 8), st.data())
def test_any_way_ends_within_the_limit(n: int, data: st.DataObject) -> None:
    ends = {i: tuple(range(i + 1, min(i + 4, n + 1))) for i in range(n)}
    limit = n + 1 + data.draw(st.integers(0, 30))
    state = begin_markup(task([10 + i for i in range(n)], ends, limit))
    written = []
    while not state.done:
        (options,) = allowed([state])
        token = data.draw(st.sampled_from(options.tolist()))
        written.append(token)
        (state,) = advance([state], [token])
    assert state.length == len(written) <= limit
    spans = [(link.start, link.end) for link in state.links]
    assert spans == sorted(spans)
    assert all(end in ends[start] for start, end in spans)


def test_where_nothing_can_be_marked() -> None:
    (tokens, state), *others = outputs(begin_markup(task([], {})))
    assert (tokens, state.links, others) == ([99], [], [])
    (tokens, state), *others = outputs(begin_markup(task([10], {})))
    assert (tokens, state.links, others) == ([10, 99], [], [])
    (tokens, state), *others = outputs(begin_markup(task([10], {0: (1,)}, limit=8)))  # a mention would take 9 tokens
    assert (tokens, state.links, others) == ([10, 99], [], [])
    assert len(list(outputs(begin_markup(task([10], {0: (1,)}, limit=9))))) == 1 + len(NAMES)


@pytest.mark.parametrize("n", [1, 1000])
def test_a_state_does_not_grow_with_its_output(n: int) -> None:
    """But for its links, which share what came before."""
    state = begin_markup(task([4] * n, {i: (i + 1,) for i in range(n)}, 100 * n))
    states = [state]
    for _ in range(n):
        for token in (90, 4, 91, 92, 4, 93):
            (state,) = advance([state], [token])
        states.append(state)
    assert state.links == [Link(i, i + 1, TRIE, state.links[0].node, 6 * i, 6 * i + 5) for i in range(n)]
    assert states[-1].chain is not None
    assert states[-1].chain.before is states[-2].chain
