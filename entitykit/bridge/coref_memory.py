"""The online loop of coreference: a torch scorer of pairs, and the books of `entitykit.decoding.coref.Memory`."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entitykit.bridge.known_words import KnownWords, Word, said_words
from entitykit.decoding.coref import Memory, MemorySettings, Step
from entitykit.models.coref import OnlineCoref
from entitykit.models.coref_pairs import COUNTS, Side, buckets, distances
from entitykit.models.coref_words import NAMES, OTHER_PROPER, SAME_SAYING, SAME_WORD, SPEAKERS, Comparison, Words

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

CELLS = 256
"""Cells for which there is room at first."""
UNKNOWN = -1
"""No distance."""
BLOCK = 64
"""Mentions that are compared with all cells at once by the cheap part of the score."""


class Found(NamedTuple):
    """Mentions of a text, by start, then by end, on the CPU.

    Attributes:
        starts: *(n,)* first words, counted from the beginning of what the memory has read.
        ends: *(n,)* ends, exclusive.
        words: *(n,)* by which they are compared.
        vectors: *(n, size)*.
    """

    starts: Ints
    ends: Ints
    words: Words
    vectors: Tensor

    def rows(self, rows: slice | Ints) -> Found:
        """Some of them."""
        places = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return Found(self.starts[rows], self.ends[rows], self.words.rows(places), self.vectors[places])


class EntityMemory:
    """The entities of a text that is read from left to right; the same memory goes on with the next part of it.

    Each cell has an entity's vector and what `PairScorer` makes of it. A mention is compared by the cheap part of the score
    with all cells, and in full with the best of these, the latest, and those that have had its name, or the latest that its
    speaker has called the same. So it costs nearly the same however long the text is.

    Args:
        head: on the CPU, not in training.
        settings: size, and what to forget.
        compared: cells that are compared in full because they are the best, and a quarter as many because they are the latest;
            0: all are.
        new: score of starting an entity.
        settled: mentions with names after which an entity takes no other proper name; 0: it always may.
    """

    def __init__(
        self, head: OnlineCoref, settings: MemorySettings, *, compared: int = 64, new: float = 0.0, settled: int = 0
    ) -> None:
        self.books = Memory(settings)
        self._head, self._compared, self._new, self._settled = head, compared, new, settled
        s = head.settings
        self._vectors, self._said, self._keys = (np.zeros((CELLS, n), dtype=np.float32) for n in (s.size, s.hidden, s.match))
        self._ends = np.zeros(CELLS, dtype=np.int64)
        self._worth, self._at = np.zeros(CELLS), np.full(CELLS, UNKNOWN)  # what cells are worth keeping at which distance
        self._latest: dict[int, None] = {}  # cells by their last mentions
        self._known = [KnownWords(by) for by in comparisons(head)]

    def follow(self, found: Found) -> Ints:
        """Give each mention its entity *(n,)*, numbered from 0; one for which there is no room is an entity of its own."""
        n = len(found.starts)
        entities = np.empty(n, dtype=np.int64)
        words = said_words(found.words)
        with torch.no_grad():
            for low in range(0, n, BLOCK):
                block = _Block(self._head, found.rows(slice(low, low + BLOCK)), self._keys[: self.books.n_cells])
                for row in range(low, min(low + BLOCK, n)):
                    entities[row] = self._read(block, row - low, words[row])
        return entities

    def _read(self, block: _Block, row: int, word: Word) -> int:
        books, start = self.books, int(block.found.starts[row])
        cells = self._candidates(block, row, word)
        step = self._choose(block, row, cells, self._score(cells, start, word, block.mentions[row]))
        entity = books.apply(step, start)
        if step.action == "ignore":  # there is no room: the mention is an entity of its own, which is forgotten at once
            return books.pass_by()
        cell = step.cell
        self._make_room(cell)
        if step.action == "new":
            for known in self._known:
                known.forget(cell)
            self._vectors[cell], self._said[cell], self._keys[cell] = block.vectors[row], block.said[row], block.keys[row]
        else:
            self._join(cell, block.found.vectors[row : row + 1])
        self._ends[cell] = block.found.ends[row]
        self._at[cell] = UNKNOWN
        self._latest.pop(cell, None)
        self._latest[cell] = None
        for known in self._known:
            known.add(cell, word)
        block.changed(row, cell, self._keys[cell])
        return entity

    def _join(self, cell: int, vector: Tensor) -> None:
        """Give the entity of a cell a further mention."""
        own = torch.from_numpy(self._vectors[cell : cell + 1])
        updated = self._head.updated(own, vector, float(self.books.counts[cell] - 1))
        entity = self._head.scorer.of_entities(updated)
        self._vectors[cell], self._said[cell], self._keys[cell] = (part[0].numpy() for part in (updated, *entity))

    def _score(self, cells: Ints, start: int, word: Word, mention: Side) -> Floats:
        """Scores of cells."""
        if not len(cells):
            return np.zeros(0)
        entities = Side(torch.from_numpy(self._said[cells]), torch.from_numpy(self._keys[cells]))
        kinds = [known.kinds(word, cells) for known in self._known]
        fits = self._head.scorer(entities, mention, *self._bucketed(cells, start), *map(torch.from_numpy, kinds))
        scores: Floats = fits.double().numpy()
        if self._settled:
            others = np.flatnonzero(kinds[0] == OTHER_PROPER)
            scores[others[self._known[0].told(cells[others]) >= self._settled]] = -np.inf
        return scores

    def _choose(self, block: _Block, row: int, cells: Ints, scores: Floats) -> Step:
        books = self.books
        if not books.is_full or books.settings.forget != "learned" or (scores > self._new).any():
            return books.choose(scores, cells=cells, new=self._new)
        keep = self._worth_keeping(int(block.found.starts[row]))
        keep_new = float(self._head.scorer.keep_new(torch.from_numpy(block.said[row : row + 1])))
        return books.choose(scores, cells=cells, new=self._new, keep=keep, keep_new=keep_new)

    def _worth_keeping(self, start: int) -> Floats:
        """How much each cell is worth keeping *(n_cells,)*; computed for those that have changed, or are in another bucket."""
        n = self.books.n_cells
        distance, count = self._bucketed(np.arange(n), start)
        changed = np.flatnonzero(self._at[:n] != distance.numpy())
        rows, said = torch.from_numpy(changed), torch.from_numpy(self._said[changed])
        self._worth[changed] = self._head.scorer.keep(said, distance[rows], count[rows]).numpy()
        self._at[changed] = distance[rows].numpy()
        return self._worth[:n]

    def _candidates(self, block: _Block, row: int, word: Word) -> Ints:
        """Cells to compare in full, sorted."""
        n, n_late = self.books.n_cells, self._compared // 4
        if not self._compared or n <= self._compared + n_late:
            return np.arange(n)
        best = torch.topk(torch.from_numpy(block.likeness[row, :n]), self._compared, sorted=False).indices.tolist()
        names, *speakers = self._known
        said = np.array([cell for known in speakers for cell in known.alike(word, SAME_SAYING)], dtype=np.int64)
        if len(said) > n_late:
            said = said[np.argsort(self.books.last[said], kind="stable")[len(said) - n_late :]]
        chosen = {*best, *islice(reversed(self._latest), n_late), *said.tolist(), *names.alike(word, SAME_WORD)}
        return np.array(sorted(chosen), dtype=np.int64)

    def _bucketed(self, cells: Ints, start: int) -> tuple[Tensor, Tensor]:
        """Distance and count of cells, in buckets."""
        words = torch.from_numpy(start - self.books.last[cells])
        overlap = torch.from_numpy(self._ends[cells] > start)
        return distances(words, overlap), buckets(torch.from_numpy(self.books.counts[cells]), COUNTS)

    def _make_room(self, cell: int) -> None:
        if cell >= len(self._ends):
            tables = (self._vectors, self._said, self._keys)
            self._vectors, self._said, self._keys = (np.concatenate([table, np.zeros_like(table)]) for table in tables)
            self._ends = np.concatenate([self._ends, np.zeros_like(self._ends)])
            self._worth = np.concatenate([self._worth, np.zeros_like(self._worth)])
            self._at = np.concatenate([self._at, np.full_like(self._at, UNKNOWN)])


def comparisons(head: OnlineCoref) -> list[Comparison]:
    """What a head compares: names, and who speaks."""
    return [NAMES, SPEAKERS] if head.settings.speakers else [NAMES]


class _Block:
    """The next mentions, what all of them say by themselves, and how alike they and all cells are.

    Args:
        head: on the CPU, not in training.
        found: the mentions, in order.
        keys: *(n_cells, match)* of cells.

    Attributes:
        found: the mentions.
        mentions: what each says as a mention.
        vectors: *(n, size)* of the mentions; those of entities that begin with them are the same.
        said: *(n, hidden)* what such entities say.
        keys: *(n, match)* of these.
        likeness: *(n, n_cells + n)* products of the keys of mentions and cells; each of the mentions may need a new cell.
    """

    def __init__(self, head: OnlineCoref, found: Found, keys: Floats32) -> None:
        sides, n = head.scorer.of_mentions(found.vectors), len(found.starts)
        self.found = found
        self.mentions = [Side(*parts) for parts in zip(*(part.split(1) for part in sides), strict=True)]
        self.vectors = found.vectors.numpy()
        self.said, self.keys = (part.numpy() for part in head.scorer.of_entities(found.vectors))
        self.likeness = np.zeros((n, len(keys) + n), dtype=np.float32)
        self.likeness[:, : len(keys)] = (sides.keys @ torch.from_numpy(keys).T).numpy()
        self._mention_keys = sides.keys.numpy()

    def changed(self, row: int, cell: int, keys: Floats32) -> None:
        """A mention has changed the keys of a cell *(match,)*, with which those after it are compared."""
        self.likeness[row + 1 :, cell] = self._mention_keys[row + 1 :] @ keys
