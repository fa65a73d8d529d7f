"""What entities have been called, and by whom: `entitykit.models.coref_words` where mentions come one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.models.coref_words import Comparison, Words

Ints = NDArray[np.int64]


class Word(NamedTuple):
    """One mention's `Words`."""

    names: int
    titles: int
    firsts: int
    lasts: int
    proper: bool
    surnames: int
    fulls: int
    titled: bool
    titled_firsts: int
    titled_lasts: int
    men: int
    women: int
    spoken: bool
    speakers: int
    sayings: int


def said_words(words: Words) -> list[Word]:
    """The words of mentions, one by one."""
    return [Word(*values) for values in zip(*(part.tolist() for part in words), strict=True)]


class KnownWords:
    """The words of entities, by their numbers.

    Args:
        by: what is compared.
    """

    def __init__(self, by: Comparison) -> None:
        self.by = by
        self._tables: dict[str, dict[int, dict[int, int]]] = {way.of_entity: {} for way in by.ways}
        """Of a part and its number, how many mentions of which entities have it."""
        self._told: dict[int, int] = {}
        self._keys: dict[int, set[tuple[str, int]]] = {}

    def add(self, entity: int, word: Word) -> None:
        """Take note of a mention."""
        keys = self._keys.setdefault(entity, set())
        for part, table in self._tables.items():
            if key := getattr(word, part):
                counts = table.setdefault(key, {})
                counts[entity] = counts.get(entity, 0) + 1
                keys.add((part, key))
        self._told[entity] = self._told.get(entity, 0) + bool(getattr(word, self.by.tells))

    def forget(self, entity: int) -> None:
        """The number is that of another entity from now on."""
        self._told.pop(entity, None)
        for part, key in self._keys.pop(entity, ()):
            counts = self._tables[part][key]
            del counts[entity]
            if not counts:
                del self._tables[part][key]

    def alike(self, word: Word, kind: int) -> set[int]:
        """Entities of which a mention is of this kind, or of a later one; or would be, if that were not so rare."""
        return set().union(*(self._counts(way.of_entity, word, way.of_mention) for way in self.by.ways if way.kind >= kind))

    def kinds(self, word: Word, entities: Ints) -> Ints:
        """How a mention compares with entities."""
        if not getattr(word, self.by.tells):
            return np.full(len(entities), self.by.unknown)
        kinds, rows = np.full(len(entities), self.by.other), {entity: row for row, entity in enumerate(entities.tolist())}
        for way in self.by.ways:
            counts = self._counts(way.of_entity, word, way.of_mention)
            fewer = counts if len(counts) < len(rows) else rows
            found = [e for e in fewer if e in rows and counts.get(e, 0) > self._told.get(e, 0) // self.by.rare]
            kinds[[rows[entity] for entity in found]] = way.kind
        return kinds

    def told(self, entities: Ints) -> Ints:
        """How many of the mentions of entities tell anything, see `Comparison`."""
        return np.array([self._told.get(entity, 0) for entity in entities.tolist()], dtype=np.int64)

    def _counts(self, part: str, word: Word, own: str) -> Mapping[int, int]:
        key = getattr(word, own)
        return self._tables[part].get(key, {}) if key else {}
