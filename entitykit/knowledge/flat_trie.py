"""A token trie that never changes, in flat arrays: built level by level, 2 to 3 bytes a node, ready to be mapped from a file.

Nodes are numbered by level and, within a level, by parent and token, so siblings are neighbours and every offset is implicit:
one bit says that a node has children, another that it is its parent's first child. The children of the k-th node that has any
lie between the k-th and the next first child (compare LOUDS: Jacobson, "Space-efficient static trees and graphs", FOCS 1989).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import EntityKitError, error
from entitykit.knowledge.bits import Bits, Positions

Tokens = NDArray[np.integer]

_TOKEN_BITS = 24
MAX_TOKEN = 2**_TOKEN_BITS - 1
NARROW = 2**16
_CHUNK = 2**16  # sequences that are taken from an iterator at once


class Sequences(NamedTuple):
    """Token sequences, end to end.

    Attributes:
        tokens: of all of them.
        lengths: *(n,)* tokens of each.
    """

    tokens: NDArray[np.integer]
    lengths: NDArray[np.integer]


class Size(NamedTuple):
    """The numbers from which the sizes of all arrays follow.

    Attributes:
        nodes: the root among them.
        names: nodes at which a sequence ends.
        rows: pairs of such a node and a row.
        row_bytes: bytes of a row.
        wide: whether a token has three bytes instead of two.
        longest: tokens of the longest sequence.
    """

    nodes: int
    names: int
    rows: int
    row_bytes: int
    wide: bool
    longest: int


class FlatTrie(NamedTuple):
    """The arrays; node 0 is the root, and arrays of nodes have one element more than there are nodes.

    Attributes:
        size: what they hold.
        low: lower 16 bits of each node's token.
        high: upper 8 bits; empty unless tokens are wide.
        inner: which nodes have children.
        firsts: which are their parent's first child.
        ends: at which a sequence ends.
        row_firsts: which rows are the first of their node.
        rows: *(n_rows, row_bytes)*, by node, then by number.
    """

    size: Size
    low: NDArray[np.uint16]
    high: NDArray[np.uint8]
    inner: Bits
    firsts: Bits
    ends: Bits
    row_firsts: Bits
    rows: NDArray[np.uint8]

    def children(self, nodes: Positions) -> tuple[Positions, Positions]:
        """The first child of each node *(n,)*, and the end of its children; both are equal where there are none."""
        rank = self.inner.rank(nodes)
        edges = self.firsts.select(np.concatenate([rank, rank + self.inner.at(nodes)]))
        return edges[: len(nodes)], edges[len(nodes) :]

    def tokens(self, first: int, end: int) -> Tokens:
        """The tokens of neighbouring nodes: the array itself where tokens have two bytes."""
        if not self.size.wide:
            return self.low[first:end]
        return self.low[first:end] | self.high[first:end].astype(np.int32) << 16

    def token_at(self, nodes: Positions) -> Tokens:
        """Tokens *(n,)* of nodes."""
        if not self.size.wide:
            return self.low[nodes]
        return self.low[nodes] | self.high[nodes].astype(np.int32) << 16

    def step(self, nodes: Positions, tokens: NDArray[np.int64]) -> Positions:
        """The child *(n,)* of each node that has the token; -1 where there is none."""
        low, end = self.children(nodes)
        high = end
        while (open_ := low < high).any():
            middle = low + high >> 1
            less = open_ & (self.token_at(middle) < tokens)
            low, high = np.where(less, middle + 1, low), np.where(less, high, np.minimum(middle, high))
        return np.where((low < end) & (self.token_at(low) == tokens), low, -1)

    def next_tokens(self, nodes: Positions) -> list[Tokens]:
        """The tokens of each node's children, in order."""
        firsts, ends = self.children(nodes)
        return [self.tokens(first, end) for first, end in zip(firsts.tolist(), ends.tolist(), strict=True)]

    def rows_at(self, nodes: Positions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the sequences that end at nodes *(n,)*, node after node, and how many each node has *(n,)*."""
        rank = self.ends.rank(nodes)
        edges = self.row_firsts.select(np.concatenate([rank, rank + self.ends.at(nodes)]))
        starts, counts = edges[: len(nodes)], edges[len(nodes) :] - edges[: len(nodes)]
        chosen = _ranges(starts, counts)
        raw = np.zeros((len(chosen), 8), dtype=np.uint8)
        raw[:, : self.size.row_bytes] = self.rows[chosen]
        return raw.view("<i8")[:, 0], counts

    def sequences(self) -> tuple[Sequences, NDArray[np.int64]]:
        """All sequences, one for each pair of sequence and row, and the rows."""
        ends = np.flatnonzero(self.ends.unpack(self.size.nodes))
        rows, counts = self.rows_at(ends)
        inner = np.flatnonzero(self.inner.unpack(self.size.nodes))
        depths, node = np.zeros(len(ends), dtype=np.int64), ends
        columns: list[tuple[NDArray[np.int64], Tokens]] = []  # backwards
        line = np.arange(len(ends))
        while len(line):
            columns.append((line, self.token_at(node)))
            depths[line] += 1
            node = inner[self.firsts.rank(node + 1) - 1]  # the parent
            line, node = line[node > 0], node[node > 0]
        starts = np.cumsum(depths) - depths
        tokens = np.empty(int(depths.sum()), dtype=np.uint32)
        for back, (line, column) in enumerate(columns, start=1):
            tokens[starts[line] + depths[line] - back] = column
        return select_sequences(Sequences(tokens, depths), np.repeat(np.arange(len(ends)), counts)), rows

    def arrays(self) -> list[NDArray[np.generic]]:
        """All arrays in the order in which they stand in a file."""
        bits = (self.inner, self.firsts, self.ends, self.row_firsts)
        return [self.low, self.high, *(array for each in bits for array in (each.words, each.ranks)), self.rows]

    @classmethod
    def layout(cls, size: Size) -> list[tuple[str, tuple[int, ...]]]:
        """Type and shape of each of the `arrays`."""
        bits = [Bits.n_words(n) for n in (size.nodes, size.nodes, size.nodes, size.rows)]
        words: list[tuple[str, tuple[int, ...]]] = [(dtype, (n,)) for n in bits for dtype in ("<u8", "<u4")]
        n_high = size.nodes + 1 if size.wide else 0
        return [("<u2", (size.nodes + 1,)), ("<u1", (n_high,)), *words, ("<u1", (size.rows, size.row_bytes))]

    @classmethod
    def of(cls, size: Size, arrays: Sequence[NDArray[np.generic]]) -> FlatTrie:
        """The inverse of `arrays`."""
        low, high, *words, rows = cast("list[NDArray[np.uint8]]", list(arrays))
        bits = [Bits(cast(NDArray[np.uint64], words[i]), cast(NDArray[np.uint32], words[i + 1])) for i in range(0, 8, 2)]
        return cls(size, cast(NDArray[np.uint16], low), high, bits[0], bits[1], bits[2], bits[3], rows)


def flatten(sequences: Iterable[Sequence[int]] | Sequences) -> Sequences:
    """Lay sequences end to end, and check them.

    Raises:
        InputError: E534 for an empty sequence, or a token that is no whole number from 0 to `MAX_TOKEN`.
    """
    if not isinstance(sequences, Sequences):
        return _from_lists(iter(sequences))
    lengths = np.asarray(sequences.lengths)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise error("E534", found=f"lengths {lengths.dtype} {lengths.shape}", expected="whole numbers, one for each name")
    if len(lengths) and lengths.min() < 1:
        raise error("E534", found=f"no token in name {int(lengths.argmin())}", expected="at least one")
    if np.shape(sequences.tokens) != (lengths.sum(),):
        raise error("E534", found=f"tokens {np.shape(sequences.tokens)}", expected=f"{lengths.sum()}, the sum of the lengths")
    return Sequences(_check_tokens(np.asarray(sequences.tokens)), lengths.astype(np.int64, copy=False))


def _from_lists(iterator: Iterator[Sequence[int]]) -> Sequences:
    tokens, lengths = [np.zeros(0, dtype=np.uint32)], [np.zeros(0, dtype=np.int64)]
    while batch := list(islice(iterator, _CHUNK)):
        try:
            lengths.append(np.fromiter(map(len, batch), dtype=np.int64, count=len(batch)))
            values = list(chain.from_iterable(batch))
            tokens.append(_check_tokens(np.array(values, dtype=None if values else np.uint32)))
        except (TypeError, ValueError, OverflowError) as reason:
            if isinstance(reason, EntityKitError):
                raise
            raise error("E534", found=f"what is no sequence ({reason})", expected="sequences of whole numbers") from reason
    return flatten(Sequences(np.concatenate(tokens), np.concatenate(lengths)))


def _check_tokens(tokens: NDArray[Any]) -> NDArray[np.uint32]:
    if tokens.dtype.kind not in "iu":
        raise error("E534", found=f"tokens of type {tokens.dtype}", expected="whole numbers")
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() <= MAX_TOKEN:
        found = int(tokens.min()) if tokens.min() < 0 else int(tokens.max())
        raise error("E534", found=f"the token {found}", expected=f"0 to {MAX_TOKEN}")
    return tokens.astype(np.uint32, copy=False)


def check_rows(rows: Iterable[int] | NDArray[np.integer], n: int) -> NDArray[np.int64]:
    """Rows as an array, one for each of `n` sequences.

    Raises:
        InputError: E534 for rows that are not whole numbers from 0, or not one for each sequence.
    """
    found = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows))
    if found.shape != (n,) or (n and found.dtype.kind not in "iu"):
        raise error("E534", found=f"rows {found.dtype} {found.shape}", expected=f"{n} whole numbers, one for each name")
    if n and not 0 <= found.min() <= found.max() < 2**63:
        raise error("E534", found=f"rows from {found.min()} to {found.max()}", expected="0 to 2**63 - 1")
    return found.astype(np.int64)


def select_sequences(sequences: Sequences, chosen: NDArray[np.int64]) -> Sequences:
    """The sequences with the numbers *(n,)*, in their order."""
    starts = np.cumsum(sequences.lengths) - sequences.lengths
    lengths = sequences.lengths[chosen]
    return Sequences(sequences.tokens[_ranges(starts[chosen], lengths)], lengths)


def build_flat(sequences: Sequences, rows: NDArray[np.int64]) -> FlatTrie:
    """Build a trie, with one sort for each level.

    Args:
        sequences: *(n,)* as `flatten` gives them, in any order; the same one may occur with several rows.
        rows: *(n,)*.
    """
    tokens, reached = _build_nodes(sequences)
    order = np.lexsort((rows, reached))
    reached, rows = reached[order], rows[order]
    new = np.diff(reached, prepend=-1) > 0
    kept = new | (np.diff(rows, prepend=-1) != 0)
    size = Size(
        nodes=len(tokens.values),
        names=int(new.sum()),
        rows=int(kept.sum()),
        row_bytes=max(1, (int(rows.max(initial=0)).bit_length() + 7) // 8),
        wide=bool(tokens.values.max() >= NARROW),
        longest=int(sequences.lengths.max(initial=0)),
    )
    ends = np.zeros(size.nodes, dtype=np.bool_)
    ends[reached] = True
    values = np.append(tokens.values, np.uint32(0))
    return FlatTrie(
        size=size,
        low=(values & 0xFFFF).astype("<u2"),
        high=(values >> 16).astype(np.uint8) if size.wide else np.zeros(0, dtype=np.uint8),
        inner=Bits.pack(tokens.inner),
        firsts=Bits.pack(tokens.firsts),
        ends=Bits.pack(ends),
        row_firsts=Bits.pack(new[kept]),
        rows=np.ascontiguousarray(rows[kept].astype("<i8")[:, None].view(np.uint8)[:, : size.row_bytes]),
    )


class _Nodes(NamedTuple):
    """Each node's token, whether it has children, and whether it is a first child *(n_nodes,)*."""

    values: NDArray[np.uint32]
    inner: NDArray[np.bool_]
    firsts: NDArray[np.bool_]


def _build_nodes(sequences: Sequences) -> tuple[_Nodes, NDArray[np.int64]]:
    """All nodes in order, and those at which the sequences *(n,)* end."""
    starts = np.cumsum(sequences.lengths) - sequences.lengths
    reached = np.zeros(len(starts), dtype=np.int64)
    line, node = np.arange(len(starts)), np.zeros(len(starts), dtype=np.int64)  # those that go on, and where in their level
    values, inner, firsts = [np.zeros(1, dtype=np.uint32)], [], [np.zeros(1, dtype=np.bool_)]
    level, n_level, depth = 0, 1, 0
    while len(line):
        keys = node << _TOKEN_BITS | sequences.tokens[starts[line] + depth]
        found, node = np.unique(keys, return_inverse=True)
        parents = found >> _TOKEN_BITS
        values.append((found & MAX_TOKEN).astype(np.uint32))
        firsts.append(np.diff(parents, prepend=-1) > 0)
        inner.append(np.zeros(n_level, dtype=np.bool_))
        inner[-1][parents] = True
        level, n_level, depth = level + n_level, len(found), depth + 1
        done = sequences.lengths[line] == depth
        reached[line[done]] = level + node[done]
        line, node = line[~done], node[~done]
    inner.append(np.zeros(n_level, dtype=np.bool_))
    return _Nodes(np.concatenate(values), np.concatenate(inner), np.concatenate(firsts)), reached


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """The numbers from each start on, so many each, end to end."""
    return np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
