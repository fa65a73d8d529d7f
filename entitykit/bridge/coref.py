"""The online loop of coreference: a torch scorer of pairs, and the books of `entitykit.decoding.coref.Memory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.shim import Build
from entitykit.decoding.coref import NONE, Memory, MemorySettings, assign, link_antecedents
from entitykit.errors import error
from entitykit.models.antecedent_coref import AntecedentCoref, AntecedentCorefSettings, build_antecedent_coref
from entitykit.models.coref import UPDATES, Mentions, Named, OnlineCoref, OnlineCorefSettings, build_online_coref
from entitykit.models.coref_pairs import (
    COUNTS,
    NEVER,
    NO_NAME,
    OTHER_NAME,
    OTHER_PROPER,
    SAME_LAST,
    SAME_NAME,
    SAME_WORD,
    Side,
    Words,
    buckets,
    distances,
    likeness,
)
from entitykit.models.major_entities import MajorEntities, MajorEntitiesSettings, build_major_entities, kinds_of
from entitykit.types import ENTITIES, TOP

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROWS = 256  # mentions that are compared at once with those before them
PAIRS = 2**16  # of a mention and a phrase that are scored at once
CELLS = 256
"""Cells for which there is room at first."""


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
    with all cells, and in full with the best of these, the latest, and those that have had its name. So it costs nearly the
    same however long the text is.

    Args:
        head: on the CPU, not in training.
        settings: size, and what to forget.
        compared: cells that are compared in full because they are the best, and a quarter as many because they are the latest;
            0: all are.
        new: score of starting an entity.
    """

    def __init__(self, head: OnlineCoref, settings: MemorySettings, *, compared: int = 64, new: float = 0.0) -> None:
        self.books = Memory(settings)
        self._head, self._compared, self._new = head, compared, new
        s = head.settings
        self._vectors, self._said, self._keys = (torch.zeros(CELLS, n) for n in (s.size, s.hidden, s.match))
        self._ends = np.zeros(CELLS, dtype=np.int64)
        self._known = _KnownWords()

    def follow(self, found: Found) -> Ints:
        """Give each mention its entity *(n,)*, numbered from 0; one for which there is no room is an entity of its own."""
        entities = np.empty(len(found.starts), dtype=np.int64)
        words = [_Word(*values) for values in zip(*(part.tolist() for part in found.words), strict=True)]
        with torch.no_grad():
            mentions = self._head.scorer.of_mentions(found.vectors)
            for row, word in enumerate(words):
                entities[row] = self._read(found, row, word, Side(*(part[row : row + 1] for part in mentions)))
        return entities

    def _read(self, found: Found, row: int, word: _Word, mention: Side) -> int:
        books, start = self.books, int(found.starts[row])
        scores, cells_keep = self._score(start, word, mention)
        keep, keep_new = (None, np.inf) if cells_keep is None else (cells_keep, self._keep_new(found.vectors[row : row + 1]))
        step = books.choose(scores, new=self._new, keep=keep, keep_new=keep_new)
        entity = books.apply(step, start)
        if step.action == "ignore":  # there is no room: the mention is an entity of its own, which is forgotten at once
            return books.pass_by()
        cell, vector = step.cell, found.vectors[row : row + 1]
        self._make_room(cell)
        if step.action == "new":
            self._known.forget(cell)
            updated = vector
        else:
            count = torch.tensor([[float(books.counts[cell] - 1)]])
            updated = self._head.updated(self._vectors[cell : cell + 1], vector, count)
        self._vectors[cell] = updated
        self._said[cell], self._keys[cell] = (part[0] for part in self._head.scorer.of_entities(updated))
        self._ends[cell] = found.ends[row]
        self._known.add(cell, word)
        return entity

    def _score(self, start: int, word: _Word, mention: Side) -> tuple[Floats, Floats | None]:
        """Scores of all cells, -inf for those that are not compared; and how much each is worth keeping, if that counts."""
        books, scorer, n = self.books, self._head.scorer, self.books.n_cells
        scores = np.full(n, -np.inf)
        if not n:
            return scores, None
        kinds = self._known.kinds(word, n)
        cells = self._candidates(kinds, mention)
        rows = torch.from_numpy(cells)
        entities = Side(self._said[rows], self._keys[rows])
        fits = scorer(entities, mention, *self._bucketed(cells, start), torch.from_numpy(kinds[cells]))
        scores[cells] = fits.double().numpy()
        if not books.is_full or books.settings.forget != "learned":
            return scores, None
        return scores, scorer.keep(self._said[:n], *self._bucketed(np.arange(n), start)).double().numpy()

    def _keep_new(self, vector: Tensor) -> float:
        """How much an entity that begins with a mention would be worth keeping."""
        zero, one = torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.long)
        said = self._head.scorer.of_entities(vector).said
        return float(self._head.scorer.keep(said, distances(zero, zero > 0), buckets(one, COUNTS)))

    def _candidates(self, kinds: Ints, mention: Side) -> Ints:
        """Cells to compare in full."""
        n = len(kinds)
        n_late = self._compared // 4
        if not self._compared or n <= self._compared + n_late:
            return np.arange(n)
        chosen = kinds >= SAME_WORD
        chosen[torch.topk(likeness(self._keys[:n], mention.keys), self._compared).indices.numpy()] = True
        if n_late:
            chosen[np.argpartition(self.books.last, -n_late)[-n_late:]] = True
        return np.flatnonzero(chosen)

    def _bucketed(self, cells: Ints, start: int) -> tuple[Tensor, Tensor]:
        """Distance and count of cells, in buckets."""
        words = torch.from_numpy(start - self.books.last[cells])
        overlap = torch.from_numpy(self._ends[cells] > start)
        return distances(words, overlap), buckets(torch.from_numpy(self.books.counts[cells]), COUNTS)

    def _make_room(self, cell: int) -> None:
        if cell >= len(self._ends):
            self._vectors, self._said, self._keys = (
                torch.cat([table, torch.zeros_like(table)]) for table in (self._vectors, self._said, self._keys)
            )
            self._ends = np.concatenate([self._ends, np.zeros_like(self._ends)])


class _Word(NamedTuple):
    """One mention's `Words`."""

    name: int
    first: int
    last: int
    proper: bool


class _KnownWords:
    """The words by which the entities of cells are known; `kinds` says of all cells what `name_kinds` says of two mentions."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[int, set[int]]] = {part: {} for part in _Word._fields}
        self._keys: dict[int, set[tuple[str, int]]] = {}  # of each cell, where it is in the tables

    def add(self, cell: int, word: _Word) -> None:
        """Take note of a mention of a cell's entity."""
        for part, key in zip(_Word._fields, word, strict=True):
            if key:
                self._tables[part].setdefault(key, set()).add(cell)
                self._keys.setdefault(cell, set()).add((part, key))

    def forget(self, cell: int) -> None:
        """The cell has another entity from now on."""
        for part, key in self._keys.pop(cell, ()):
            cells = self._tables[part][key]
            cells.discard(cell)
            if not cells:
                del self._tables[part][key]

    def kinds(self, word: _Word, n: int) -> Ints:
        """How a mention's words compare with those of `n` cells."""
        kinds = np.full(n, OTHER_NAME if word.name else NO_NAME)
        if not word.name:
            return kinds
        if word.proper:
            kinds[self._cells("proper", True)] = OTHER_PROPER
        for part, key in (("first", word.first), ("first", word.last), ("last", word.first)):
            kinds[self._cells(part, key)] = SAME_WORD
        kinds[self._cells("last", word.last)] = SAME_LAST
        kinds[self._cells("name", word.name)] = SAME_NAME
        return kinds

    def _cells(self, part: str, key: int) -> list[int]:
        return list(self._tables[part].get(key, ()))


def link_mentions(head: AntecedentCoref, found: Found, *, new: float = 0.0) -> Ints:
    """Give each mention its entity by the best of the mentions before it *(n,)*, numbered from 0.

    Args:
        head: on any device, not in training.
        found: the mentions of a text.
        new: score of starting an entity, which wins a tie.
    """
    n, most, device = len(found.starts), head.settings.antecedents, next(head.parameters()).device
    starts, ends = torch.from_numpy(found.starts), torch.from_numpy(found.ends)
    document = torch.zeros_like(starts, device=device)
    antecedents = np.full(n, NONE, dtype=np.int64)
    for low in range(0, n, ROWS):
        first, high = max(low - most, 0), min(low + ROWS, n)
        rows, before = torch.arange(low, high)[:, None], torch.arange(first, high)
        near = (rows > before) & (rows - before <= most)
        own, earlier = near.nonzero().to(device).unbind(1)
        words = Words(*(part[first:high].to(device) for part in found.words))
        block = Mentions(starts[first:high].to(device), ends[first:high].to(device), words, document[first:high])
        scores = torch.full(near.shape, -torch.inf)
        with torch.no_grad():
            scores[near] = head.scores(block, found.vectors[first:high].to(device), own + (low - first), earlier).cpu()
        best = scores.max(dim=1)
        linked = best.values > new
        antecedents[low:high][linked.numpy()] = best.indices[linked].numpy() + first
    return link_antecedents(antecedents)


def find_named(head: MajorEntities, phrases: Named, found: Found, *, hybrid: bool) -> Ints:
    """Give each mention the phrase of its entity *(n,)*, -1 for none.

    Args:
        head: on the CPU, not in training.
        phrases: what names the entities.
        found: the mentions.
        hybrid: an entity is also the mean of its phrase and of the mentions so far; otherwise the phrase alone says who it is.
    """
    n, n_phrases = len(found.starts), len(phrases.vectors)
    if not n or not n_phrases:
        return np.full(n, NONE, dtype=np.int64)
    mentions, step = Named(found.vectors, found.words), max(PAIRS // n_phrases, 1)
    with torch.no_grad():
        static = torch.cat([head.fits(phrases, mentions.rows(slice(low, low + step))) for low in range(0, n, step)])
        if not hybrid:
            return assign(static.double().numpy())
        return _find_hybrid(head, phrases, mentions, found, static)


def _find_hybrid(head: MajorEntities, phrases: Named, mentions: Named, found: Found, static: Tensor) -> Ints:
    n = len(phrases.vectors)
    entities = np.full(len(found.starts), NONE, dtype=np.int64)
    vectors, counts = phrases.vectors.clone(), torch.zeros(n, dtype=torch.long)
    starts, ends = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    kinds = kinds_of(phrases.words, mentions.words)
    said = head.scorer.of_mentions(mentions.vectors)
    for row, (start, end) in enumerate(zip(found.starts.tolist(), found.ends.tolist(), strict=True)):
        distance = torch.where(counts > 0, distances(start - starts, ends > start), NEVER)
        entity, mention = head.scorer.of_entities(vectors), said.rows(torch.tensor([row]))
        scores = static[row] + head.scorer(entity, mention, distance, buckets(counts, COUNTS), kinds[row])
        best = int(scores.argmax())
        if scores[best] <= 0:
            continue
        entities[row] = best
        counts[best] += 1
        vectors[best] += (mentions.vectors[row] - vectors[best]) / (counts[best] + 1)
        starts[best], ends[best] = start, end
        # from now on the entity is known by this mention's words, too
        kinds[:, best] = kinds[:, best].maximum(kinds_of(mentions.words.rows(slice(row, row + 1)), mentions.words)[:, 0])
    return entities


def online_coref(
    tok2vec: Model[list[Doc], Any],
    lower_layers: Sequence[int] = (),
    proposed: bool = True,
    size: int = 256,
    match: int = 64,
    hidden: int = 128,
    update: str = "mean",
    names: bool = True,
    size_width: int = 25,
    max_width: int = 26,
    dropout: float = 0.2,
    mention_weight: float = 1.0,
    keep_weight: float = 0.1,
    loss_weight: float = 1.0,
) -> Model[HeadInput, Any]:
    """Make the head that follows entities, registered as ``entitykit.OnlineCoref.v1``; see `OnlineCorefSettings`.

    Raises:
        ConfigError: E007 for an update that there is not.
    """
    return _head(tok2vec, build_online_coref, OnlineCorefSettings, {**locals()})


def major_entities(
    tok2vec: Model[list[Doc], Any],
    lower_layers: Sequence[int] = (),
    proposed: bool = True,
    size: int = 256,
    match: int = 64,
    hidden: int = 128,
    update: str = "mean",
    names: bool = True,
    size_width: int = 25,
    max_width: int = 26,
    dropout: float = 0.2,
    mention_weight: float = 1.0,
    keep_weight: float = 0.1,
    least: int = 3,
    most: int = 8,
    major_weight: float = 1.0,
    loss_weight: float = 1.0,
) -> Model[HeadInput, Any]:
    """Make the same head with entities that somebody names, registered as ``entitykit.MajorEntities.v1``.

    See `MajorEntitiesSettings`.

    Raises:
        ConfigError: E007 for an update that there is not.
    """
    return _head(tok2vec, build_major_entities, MajorEntitiesSettings, {**locals()})


def antecedent_coref(
    tok2vec: Model[list[Doc], Any],
    lower_layers: Sequence[int] = (),
    proposed: bool = True,
    size: int = 256,
    match: int = 64,
    hidden: int = 128,
    names: bool = True,
    size_width: int = 25,
    max_width: int = 26,
    dropout: float = 0.2,
    mention_weight: float = 1.0,
    antecedents: int = 250,
    loss_weight: float = 1.0,
) -> Model[HeadInput, Any]:
    """Make the head that links mentions to earlier ones, registered as ``entitykit.AntecedentCoref.v1``.

    See `AntecedentCorefSettings`.
    """
    return _head(tok2vec, build_antecedent_coref, AntecedentCorefSettings, {**locals(), "update": "mean"})


def _head(tok2vec: Model[list[Doc], Any], build: Build, kind: type, given: Mapping[str, Any]) -> Model[HeadInput, Any]:
    if given["update"] not in UPDATES:
        raise error("E007", setting="update", found=given["update"], expected=" or ".join(UPDATES))
    known = {field.name for field in fields(kind)}
    settings = {key: value for key, value in given.items() if key in known}
    settings["lower_layers"] = list(given["lower_layers"])
    return TorchHead(tok2vec, build, settings, layers=[TOP, *given["lower_layers"], ENTITIES])
