"""From scores to clusters of coreference: antecedents, and a memory of entities that is filled in the order of the text.

A memory keeps the books for a head that reads a text from left to right (Toshniwal et al., EMNLP 2020 and CRAC 2021): which
cell has which entity, how many mentions it has had and when the last one was. The vectors stay with the head, in a matrix with
one row per cell. For each mention in order:

1. the head scores it against the cells `0 … memory.n_cells − 1`; `memory.counts` and `memory.last` are features of these
scores; 2. `step = memory.choose(scores)` joins it to an entity, starts a new one or ignores it;
3. the head updates the row `step.cell` (a mean for "join", its own vector for "new");
4. `entity = memory.apply(step, position)` writes it down and gives the entity's id.

The same memory goes on in the next window of a long text, and `copy.deepcopy` is a snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import error

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NONE = -1
"""No entity, no cell, no antecedent."""

FIRST_SIZE = 64


def link_antecedents(antecedents: Ints) -> Ints:
    """Give each mention the entity of its antecedent.

    Args:
        antecedents: for each mention the number of an earlier one, or -1 if it starts an entity, `(n_mentions,)`.

    Returns:
        Entities, numbered from 0 in the order of their first mentions, `(n_mentions,)`.

    Raises:
        InputError: E350 for an antecedent that does not come before its mention.
    """
    given = np.asarray(antecedents, dtype=np.int64)
    wrong = np.flatnonzero((given >= np.arange(len(given))) | (given < NONE))
    if len(wrong):
        raise error("E350", n=len(wrong), mention=wrong[0], found=given[wrong[0]])
    entities = np.empty(len(given), dtype=np.int64)
    n_entities = 0
    for mention, antecedent in enumerate(given.tolist()):
        entities[mention] = n_entities if antecedent == NONE else entities[antecedent]
        n_entities += antecedent == NONE
    return entities


def assign(scores: Floats, *, other: float = 0.0) -> Ints:
    """Choose the entity of each mention among given ones, all mentions at once (the static memory of MEIRa).

    Args:
        scores: of each entity for each mention, `(n_mentions, n_entities)`.
        other: score of none of them, which wins a tie.

    Returns:
        Entities, -1 for none, `(n_mentions,)`.

    Raises:
        InputError: E354 for scores that are NaN.
    """
    _check_numbers(scores)
    if not scores.size:
        return np.full(len(scores), NONE, dtype=np.int64)
    best = scores.argmax(axis=1)
    return np.where(scores[np.arange(len(scores)), best] > other, best, NONE)


def group_mentions(entities: Ints, *, singletons: bool = True) -> list[Ints]:
    """Collect the mentions of every entity.

    Args:
        entities: of each mention, -1 for none, `(n_mentions,)`.
        singletons: False to leave out entities with one mention.

    Returns:
        For each entity the numbers of its mentions, sorted; entities in the order of their first mentions.
    """
    order = np.argsort(entities, kind="stable")
    order = order[np.searchsorted(entities[order], 0) :]
    groups = np.split(order, np.flatnonzero(np.diff(entities[order])) + 1) if len(order) else []
    return sorted((group for group in groups if singletons or len(group) > 1), key=lambda group: int(group[0]))


@dataclass(frozen=True)
class MemorySettings:
    """Settings of a memory.

    Attributes:
        capacity: number of cells; 0 for as many as there are entities.
        forget: which cell a full memory gives to a new entity: `lru`, the least recently used one; `learned`, the one whose
            `keep` score is lowest, or none if the mention's own is lower still: then the mention is ignored. By `lru` it never
            is, as long as `Memory.choose` is given no `keep`.
    """

    capacity: int = 0
    forget: Literal["lru", "learned"] = "lru"

    def __post_init__(self) -> None:
        if self.capacity < 0:
            raise error("E352", setting="capacity", found=self.capacity, expected="0 or more")
        if self.forget not in ("lru", "learned"):
            raise error("E352", setting="forget", found=self.forget, expected="lru or learned")


class Step(NamedTuple):
    """What to do with a mention.

    Attributes:
        action: `join` the entity of the cell, start a `new` one in it, or `ignore` the mention.
        cell: the cell, -1 to ignore. It is `memory.n_cells` if a new cell is needed.
        evicted: the entity that leaves the cell, -1 if none does.
    """

    action: Literal["join", "new", "ignore"]
    cell: int
    evicted: int = NONE


class Memory:
    """The entities that an online head remembers; see the module for how to use it.

    Attributes:
        settings: size, and what to forget.
        n_entities: how many entities there have been, forgotten ones included.
    """

    def __init__(self, settings: MemorySettings | None = None) -> None:
        self.settings = settings or MemorySettings()
        self.n_entities = 0
        self._n_cells = 0
        self._clock = 0
        size = self.settings.capacity or FIRST_SIZE
        self._books = np.zeros((4, size), dtype=np.int64)  # entity, count, last position, last use

    @property
    def n_cells(self) -> int:
        """The number of cells in use."""
        return self._n_cells

    @property
    def entities(self) -> Ints:
        """The entity in each cell, `(n_cells,)`, a view."""
        return self._books[0, : self._n_cells]

    @property
    def counts(self) -> Ints:
        """The number of mentions that the entity in each cell has had, `(n_cells,)`, a view."""
        return self._books[1, : self._n_cells]

    @property
    def last(self) -> Ints:
        """The position of the last mention of the entity in each cell, `(n_cells,)`, a view."""
        return self._books[2, : self._n_cells]

    @property
    def is_full(self) -> bool:
        """Whether a new entity needs the cell of another one."""
        return 0 < self.settings.capacity <= self._n_cells

    def choose(
        self,
        scores: Floats,
        *,
        cells: Ints | None = None,
        new: float = 0.0,
        keep: Floats | None = None,
        keep_new: float = np.inf,
    ) -> Step:
        """Decide what to do with a mention.

        The highest score wins; of equal ones new before join, and the first cell. A new entity in a full memory takes the cell
        that `settings.forget` says, unless `keep_new` is below that cell's `keep`: then the mention is ignored.

        Args:
            scores: of the mention against cells, `(n_scores,)`.
            cells: which ones, `(n_scores,)`, sorted; the others are not joined. None: all.
            new: score of starting an entity.
            keep: how much each cell is worth keeping, `(n_cells,)`; needed to forget what was learned to. None: all are worth
                the same, and less than the mention.
            keep_new: how much the mention is worth keeping.

        Raises:
            InputError: E351 for scores of another shape, E354 for scores that are NaN.
            ConfigError: E352 if cells are to be forgotten by scores that are not given.
        """
        n = self._n_cells if cells is None else len(cells)
        if len(scores) != n or scores.ndim != 1:
            raise error("E351", found=scores.shape, expected=f"({n},)")
        best = int(scores.argmax()) if len(scores) else NONE
        best_score = float(scores[best]) if len(scores) else -np.inf
        if np.isnan(best_score):  # NaN is the highest for argmax
            _check_numbers(scores)
        if best_score > new:
            return Step("join", best if cells is None else int(cells[best]))
        if not self.is_full:
            return Step("new", self._n_cells)
        cell = self._victim(keep)
        if keep is not None and keep_new < keep[cell]:
            return Step("ignore", NONE)
        return Step("new", cell, int(self.entities[cell]))

    def apply(self, step: Step, position: int) -> int:
        """Write a step down; a new entity gets the next number, from 0.

        Args:
            step: from `choose`.
            position: where the mention is, such as its first token.

        Returns:
            The mention's entity, -1 if it is ignored.

        Raises:
            InputError: E353 for a step that does not fit the memory.
        """
        fits = {"join": step.cell < self._n_cells, "new": step.cell <= self._n_cells - self.is_full, "ignore": True}
        if not fits[step.action] or (step.cell < 0 and step.action != "ignore"):
            raise error("E353", action=step.action, cell=step.cell, n=self._n_cells)
        if step.action == "ignore":
            return NONE
        self._clock += 1
        if step.action == "new":
            self._grow(step.cell + 1)
            self._books[:2, step.cell] = (self.n_entities, 0)
            self.n_entities += 1
        self._books[1, step.cell] += 1
        self._books[2:, step.cell] = (position, self._clock)
        return int(self._books[0, step.cell])

    def pass_by(self) -> int:
        """Give the id of an entity that gets no cell."""
        self.n_entities += 1
        return self.n_entities - 1

    def _victim(self, keep: Floats | None) -> int:
        if self.settings.forget == "lru":
            return int(self._books[3, : self._n_cells].argmin())
        if keep is None or len(keep) != self._n_cells:
            raise error("E352", setting="forget", found="learned", expected="lru, or one score per cell in keep=…")
        return int(keep.argmin())

    def _grow(self, n_cells: int) -> None:
        if n_cells > self._books.shape[1]:
            self._books = np.concatenate([self._books, np.zeros_like(self._books)], axis=1)
        self._n_cells = max(self._n_cells, n_cells)


def _check_numbers(scores: Floats) -> None:
    if n := int(np.isnan(scores).sum()):
        raise error("E354", n=n)
