"""`CompactTrie`: the names of millions of entities as token sequences, for generating nothing but names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entitykit.errors import error
from entitykit.knowledge.bits import Positions
from entitykit.knowledge.flat_trie import FlatTrie, Sequences, Tokens, build_flat, check_rows, flatten, select_sequences
from entitykit.knowledge.trie_file import read_trie, write_trie

_HALF = 32
_ABSENT = 2**_HALF - 1

Rows = Iterable[int] | NDArray[np.integer]


class _Added(NamedTuple):
    """Names that were added since the arrays were built."""

    sequences: Sequences
    rows: NDArray[np.int64]


class CompactTrie:
    """Names as sequences of tokens, each with the rows of the entities that it names.

    A node is a number. Nodes hold until names are added or the trie is saved; -1 is no node, and nothing follows it.
    Threads and forked processes may read one trie; what one process adds, others see once it is saved and they have loaded it.

    Args:
        flat: the arrays.
        fingerprint: of the tokenizer that made the tokens.
        state: which state of a knowledge base the names are of: its number, `EntityStore.version`, is saved with them.
        state_name: that state's name, `EntityStore.state`, which no other knowledge base has; empty: nobody has said.
    """

    def __init__(self, flat: FlatTrie, fingerprint: str = "", state: int = 0, state_name: str = "") -> None:
        self.fingerprint = fingerprint
        self.state = state
        self.state_name = state_name
        self._flat = flat
        self._added: list[_Added] = []
        self._small: FlatTrie | None = None  # of what was added
        self._n_new = 0  # names in it that are not in the arrays

    @classmethod
    def build(cls, sequences: Iterable[Sequence[int]] | Sequences, rows: Rows, *, fingerprint: str = "") -> CompactTrie:
        """Build a trie.

        Args:
            sequences: tokens from 0 to 2**24 - 1 of each name, at least one; flat `Sequences` are quickest. The same name may
                occur with several rows.
            rows: the row of each name's entity.
            fingerprint: of the tokenizer.

        Raises:
            InputError: E534 for what are no tokens or rows.
        """
        flat_sequences = flatten(sequences)
        return cls(build_flat(flat_sequences, check_rows(rows, len(flat_sequences.lengths))), fingerprint)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> CompactTrie:
        """Map a saved trie into memory.

        Args:
            folder: where it was saved.
            fingerprint: of the tokenizer whose tokens it must have; none: any.

        Raises:
            CheckpointError: E530 if there is none, E531 if it is damaged, E533 if another tokenizer made its tokens.
        """
        flat, meta = read_trie(Path(folder))
        if fingerprint is not None and fingerprint != meta.fingerprint:
            raise error("E533", path=folder, found=meta.fingerprint, expected=fingerprint)
        return cls(flat, meta.fingerprint, meta.state, meta.state_name)

    def save(self, folder: str | Path) -> None:
        """Write the trie, with what was added, to a folder, in the place of the one that is there; then map it from there.

        Raises:
            OutputError: E532 if the folder cannot be written; what is there is then as before.
        """
        self._flat = write_trie(Path(folder), self._merged(), self.fingerprint, self.state, self.state_name)
        self._added, self._small, self._n_new = [], None, 0

    def add(self, sequences: Iterable[Sequence[int]] | Sequences, rows: Rows) -> None:
        """Add names, or rows to names; they are kept beside the arrays until the trie is saved.

        Raises:
            InputError: E534 for what are no tokens or rows.
        """
        added = flatten(sequences)
        self._added.append(_Added(added, check_rows(rows, len(added.lengths))))
        self._small = None

    def remove(self, rows: Rows) -> int:
        """Remove all names of some rows, which builds the arrays anew; the answer is how many pairs were removed."""
        names, known = self.sequences()
        gone = np.isin(known, np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64))
        if gone.any():
            self._flat = build_flat(select_sequences(names, np.flatnonzero(~gone)), known[~gone])
            self._added, self._small, self._n_new = [], None, 0
        return int(gone.sum())

    def __len__(self) -> int:
        """Different names."""
        self._delta()
        return self._flat.size.names + self._n_new

    @property
    def longest(self) -> int:
        """Tokens of the longest name."""
        small = self._delta()
        return max(self._flat.size.longest, small.size.longest if small is not None else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays())

    def arrays(self) -> list[NDArray[np.generic]]:
        """All arrays, which are not to be written to."""
        return [array for flat in (self._flat, self._delta()) if flat is not None for array in flat.arrays()]

    @property
    def root(self) -> int:
        """The node before the first token."""
        return 0 if self._delta() is None else 1 << _HALF

    def next_tokens(self, node: int) -> Tokens:
        """Tokens that can follow, in order; they are not to be written to."""
        return self.next_tokens_batch([node])[0]

    def next_tokens_batch(self, nodes: ArrayLike) -> list[Tokens]:
        """Tokens that can follow each node, in order; they are not to be written to."""
        old, new = _split(nodes)
        small = self._delta()
        found = _next_tokens(self._flat, old)
        if small is not None and (new >= 0).any():
            for i, tokens in enumerate(_next_tokens(small, new)):
                if len(tokens):
                    found[i] = np.union1d(found[i], tokens) if len(found[i]) else tokens
        return found

    def step(self, node: int, token: int) -> int:
        """The node after a token, or -1."""
        return int(self.step_batch([node], [token])[0])

    def step_batch(self, nodes: ArrayLike, tokens: ArrayLike) -> Positions:
        """The nodes *(n,)* after a token each, or -1."""
        old, new = _split(nodes)
        small = self._delta()
        wanted = np.asarray(tokens, dtype=np.int64)
        old = _step(self._flat, old, wanted)
        if small is None:
            return old
        new = _step(small, new, wanted)
        return np.where((old >= 0) | (new >= 0), (old & _ABSENT) | ((new + 1) << _HALF), -1)

    def find(self, sequences: Iterable[Sequence[int]] | Sequences) -> Positions:
        """The nodes *(n,)* at which the names end; -1 for those that are not in the trie.

        Raises:
            InputError: E534 for what are no tokens.
        """
        tokens, lengths = flatten(sequences)
        starts = np.cumsum(lengths) - lengths
        nodes = np.full(len(lengths), self.root, dtype=np.int64)
        for depth in range(int(lengths.max(initial=0))):
            line = np.flatnonzero((lengths > depth) & (nodes >= 0))
            nodes[line] = self.step_batch(nodes[line], tokens[starts[line] + depth])
        return np.where(self.is_name(nodes), nodes, -1)

    def is_name(self, nodes: ArrayLike) -> NDArray[np.bool_]:
        """Whether a name ends at each node *(n,)*."""
        old, new = _split(nodes)
        small = self._delta()
        found = (old >= 0) & self._flat.ends.at(np.maximum(old, 0))
        return found if small is None else found | (new >= 0) & small.ends.at(np.maximum(new, 0))

    def rows(self, node: int) -> NDArray[np.int64]:
        """Rows of the entities whose name ends at a node, in order; none where none does."""
        old, new = _split([node])
        small = self._delta()
        nothing = np.zeros(0, dtype=np.int64)
        found = self._flat.rows_at(old)[0] if old[0] >= 0 else nothing
        more = small.rows_at(new)[0] if small is not None and new[0] >= 0 else nothing
        return np.union1d(found, more) if len(more) else found

    def sequences(self) -> tuple[Sequences, NDArray[np.int64]]:
        """All names, once for each of their rows, and the rows."""
        return self._merged().sequences()

    def _merged(self) -> FlatTrie:
        """Arrays with what was added."""
        if not self._added:
            return self._flat
        old = _Added(*self._flat.sequences())
        return build_flat(*_join([old, *self._added]))

    def _delta(self) -> FlatTrie | None:
        """The trie of what was added, or none; built when it is first asked for."""
        if self._small is None and self._added:
            small = build_flat(*_join(self._added))
            names, _ = small.sequences()
            known = CompactTrie(self._flat).find(names)
            distinct = np.flatnonzero(small.row_firsts.unpack(small.size.rows))
            self._n_new = int((known[distinct] < 0).sum())
            self._small = small
        return self._small


def _split(nodes: ArrayLike) -> tuple[Positions, Positions]:
    """Nodes of the arrays and of what was added *(n,)*; -1 where there is none."""
    both = np.asarray(nodes, dtype=np.int64)
    old = both & _ABSENT
    return np.where(old == _ABSENT, -1, old), np.maximum((both >> _HALF) - 1, -1)


def _next_tokens(flat: FlatTrie, nodes: Positions) -> list[Tokens]:
    present = nodes >= 0
    if present.all():
        return flat.next_tokens(nodes)
    found = iter(flat.next_tokens(nodes[present]))
    return [next(found) if there else flat.tokens(0, 0) for there in present.tolist()]


def _step(flat: FlatTrie, nodes: Positions, tokens: NDArray[np.int64]) -> Positions:
    present = nodes >= 0
    if present.all():
        return flat.step(nodes, tokens)
    found = np.full(len(nodes), -1, dtype=np.int64)
    found[present] = flat.step(nodes[present], tokens[present])
    return found


def _join(parts: Sequence[_Added]) -> tuple[Sequences, NDArray[np.int64]]:
    tokens, lengths = (np.concatenate([part.sequences[i] for part in parts]) for i in range(2))
    return Sequences(tokens, lengths), np.concatenate([part.rows for part in parts])
