"""What a model may write next when it names entities: states that grow with the output, one for each beam.

Two tasks, as in GENRE (arXiv 2010.00904). Disambiguation: the output is a name. Markup: the output is the source text, in which
``{ mention } [ name ]`` marks a mention and the entity's name. A state knows where in the source and in the names it is, so a
step costs the same however long the output is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Tokens = NDArray[np.integer]

COPY, MENTION, OPEN, NAME, DONE = range(5)
"""Phases: outside a mention, in one, before its name, in its name, after the end."""


class Names(Protocol):
    """Names as a token trie, such as `entitykit.knowledge.trie.CompactTrie`."""

    @property
    def root(self) -> int:
        """The node before the first token."""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest name; none: names are of any length."""

    def next_tokens_batch(self, nodes: ArrayLike) -> list[Tokens]:
        """Tokens that can follow each node."""

    def step_batch(self, nodes: ArrayLike, tokens: ArrayLike) -> NDArray[np.int64]:
        """The nodes after a token each, or -1."""

    def is_name(self, nodes: ArrayLike) -> NDArray[np.bool_]:
        """Whether a name ends at each node."""


class Marks(NamedTuple):
    """Tokens of the markup, which neither source nor names contain.

    Attributes:
        open_mention: ``{``
        close_mention: ``}``
        open_name: ``[``
        close_name: ``]``
        end: of the output.
    """

    open_mention: int
    close_mention: int
    open_name: int
    close_name: int
    end: int


class Link(NamedTuple):
    """A mention and its name, as they were written.

    Attributes:
        start: the mention's first token in the source.
        end: its end, exclusive.
        names: where its name is from.
        node: where the name ends.
        first: the output's token that opens the mention.
        last: the one that closes the name.
    """

    start: int
    end: int
    names: Names
    node: int
    first: int
    last: int


class _Chain(NamedTuple):
    link: Link
    before: _Chain | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Markup:
    """A passage to be written out with markup.

    Attributes:
        source: its tokens.
        ends: where mentions may be: each first token, and their ends, exclusive, in order.
        names: the names that a mention may have, by its first token and its end; at least one each.
        longest: tokens of the longest of them.
        limit: most tokens of the output, its end among them; no mention is opened that might not fit.
        marks: of the markup.
    """

    source: Sequence[int]
    ends: Mapping[int, Sequence[int]]
    names: Callable[[int, int], Names]
    longest: int
    limit: int
    marks: Marks

    def may_open(self, position: int, length: int) -> bool:
        """Whether a mention may begin at a token of the source when the output has a length."""
        needed = len(self.source) - position + 1 + 4 + self.longest
        return bool(self.ends.get(position)) and length + needed <= self.limit


class State(NamedTuple):
    """What a beam has written so far, as far as it matters for what may follow.

    Attributes:
        phase: one of `COPY` to `DONE`.
        end: the token that ends the output.
        task: the passage; none for disambiguation.
        names: the names among which the output or the mention's name is.
        node: how far the name is.
        position: the next token of the source.
        start: the first token of the open mention.
        opened: the output's token that opened it.
        length: tokens of the output.
        chain: links, the last one first.
    """

    phase: int
    end: int
    task: Markup | None
    names: Names | None
    node: int = 0
    position: int = 0
    start: int = 0
    opened: int = 0
    length: int = 0
    chain: _Chain | None = None

    @property
    def done(self) -> bool:
        """Whether the output has ended."""
        return self.phase == DONE

    @property
    def most(self) -> int:
        """Most tokens that the output can have when it ends.

        Of markup, if no further mention is opened; of names of any length, if the next token is the end.
        """
        if self.task is None:
            longest = 0 if self.names is None else self.names.longest
            return 1 + (self.length if longest is None else longest)
        pending = 0 if self.phase == COPY else 3 + self.task.longest
        return min(self.length + len(self.task.source) - self.position + 1 + pending, self.task.limit)

    @property
    def links(self) -> list[Link]:
        """Mentions and their names, in order."""
        found = []
        chain = self.chain
        while chain is not None:
            found.append(chain.link)
            chain = chain.before
        return found[::-1]


class AnyTokens:
    """Any output of limited length in the place of names: a model that writes freely.

    Args:
        n_tokens: size of the vocabulary.
        end: the token that ends the output.
        limit: most tokens before it.
    """

    longest = None

    def __init__(self, n_tokens: int, end: int, limit: int) -> None:
        self.root = 0
        self.limit = limit
        self._tokens = np.delete(np.arange(n_tokens), end)

    def next_tokens_batch(self, nodes: ArrayLike) -> list[Tokens]:
        """All tokens but the end, up to the limit."""
        return [self._tokens if node < self.limit else self._tokens[:0] for node in np.asarray(nodes).tolist()]

    def step_batch(self, nodes: ArrayLike, tokens: ArrayLike) -> NDArray[np.int64]:
        """How many tokens there are with one more."""
        return np.asarray(nodes, dtype=np.int64) + 1

    def is_name(self, nodes: ArrayLike) -> NDArray[np.bool_]:
        """The output may end anywhere."""
        return np.ones(np.shape(nodes), dtype=np.bool_)


def begin_name(names: Names, end: int) -> State:
    """The state in which the output is to be one of the names, then the token `end`."""
    return State(NAME, end, None, names, names.root)


def begin_markup(task: Markup) -> State:
    """The state in which a passage is to be written with markup."""
    return State(COPY, task.marks.end, task, None)


def allowed(states: Sequence[State]) -> list[Tokens]:
    """The tokens that may follow each state, each once; there is at least one until the output is done."""
    found: list[Tokens] = [np.asarray(_from_source(state), dtype=np.int64) for state in states]
    in_name = [i for i, state in enumerate(states) if state.phase == NAME]
    for names, places in _by_names(states, in_name):
        nodes = [states[i].node for i in places]
        following = zip(places, names.next_tokens_batch(nodes), names.is_name(nodes).tolist(), strict=True)
        for i, tokens, is_name in following:
            found[i] = np.append(tokens, _closing(states[i])) if is_name else tokens
    return found


def advance(states: Sequence[State], tokens: Sequence[int]) -> list[State]:
    """The states *(n,)* after a token each, which must be allowed there."""
    pairs = list(zip(states, tokens, strict=True))
    found = [_step(state, token) for state, token in pairs]
    in_name = [i for i, (state, token) in enumerate(pairs) if state.phase == NAME and token != _closing(state)]
    for names, places in _by_names(states, in_name):
        nodes = names.step_batch([states[i].node for i in places], [tokens[i] for i in places])
        for i, node in zip(places, nodes.tolist(), strict=True):
            found[i] = found[i]._replace(node=node)
    return found


def markup_tokens(source: Sequence[int], links: Sequence[tuple[int, int, Sequence[int]]], marks: Marks) -> list[int]:
    """The output that marks given mentions, without its end: what a model learns to write.

    Args:
        source: tokens of a passage.
        links: first token and end of each mention, and its name's tokens; in order, without overlaps.
        marks: of the markup.
    """
    found: list[int] = []
    position = 0
    for start, end, name in links:
        mention = [marks.open_mention, *source[start:end], marks.close_mention]
        found += [*source[position:start], *mention, marks.open_name, *name, marks.close_name]
        position = end
    return [*found, *source[position:]]


def _from_source(state: State) -> list[int]:
    """What may follow outside names."""
    task = state.task
    if task is None or state.phase in (NAME, DONE):
        return []
    if state.phase == OPEN:
        return [task.marks.open_name]
    following = list(task.source[state.position : state.position + 1])
    if state.phase == COPY:
        opening = [task.marks.open_mention] if task.may_open(state.position, state.length) else []
        return (following or [task.marks.end]) + opening
    ends = task.ends[state.start]
    return following * (ends[-1] > state.position) + [task.marks.close_mention] * (state.position in ends)


def _step(state: State, token: int) -> State:
    """The state after a token, but for the node within a name."""
    after = state._replace(length=state.length + 1)
    if state.phase == NAME and token != _closing(state):
        return after
    task = state.task
    if task is None or token == task.marks.end:
        return after._replace(phase=DONE)
    if state.phase == NAME and state.names is not None:
        link = Link(state.start, state.position, state.names, state.node, state.opened, state.length)
        return after._replace(phase=COPY, names=None, chain=_Chain(link, state.chain))
    if state.phase == OPEN:
        return after._replace(phase=NAME)
    if token == task.marks.open_mention:
        return after._replace(phase=MENTION, start=state.position, opened=state.length)
    if token == task.marks.close_mention:
        names = task.names(state.start, state.position)
        return after._replace(phase=OPEN, names=names, node=names.root)
    return after._replace(position=state.position + 1)


def _closing(state: State) -> int:
    """The token that closes a name."""
    return state.end if state.task is None else state.task.marks.close_name


def _by_names(states: Sequence[State], chosen: Sequence[int]) -> Iterator[tuple[Names, list[int]]]:
    """Those of the chosen states that are within the same names, so that they are looked up together."""
    groups: dict[int, tuple[Names, list[int]]] = {}
    for i in chosen:
        names = states[i].names
        if names is not None:
            groups.setdefault(id(names), (names, []))[1].append(i)
    yield from groups.values()
