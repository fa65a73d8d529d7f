"""Write entities into the tables of a knowledge base; the caller begins and ends the transaction."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TypeVar

from entitykit.errors import warn
from entitykit.knowledge.entities import Entity, Phrase, is_id
from entitykit.knowledge.schema import NEW_GRAMS, NEW_WORDS, OLD_GRAMS, OLD_WORDS, name_state
from entitykit.knowledge.text import normalise

T = TypeVar("T")

BATCH = 10_000
"""Entities of a transaction."""

_CHOSEN = "(SELECT value FROM json_each(?))"


@dataclass
class StoreReport:
    """What was done with the entities that were given; `added + updated + duplicates == read`.

    Attributes:
        read: entities given.
        added: those with a new id.
        updated: those that took the place of one with the same id.
        duplicates: those that took the place of one that was given before them.
        redirects_left_out: redirects whose id belongs to an entity.
        examples: an id for each of the last two.
    """

    read: int = 0
    added: int = 0
    updated: int = 0
    duplicates: int = 0
    redirects_left_out: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, ids: Collection[str]) -> None:
        """Count ids, and keep the first as an example."""
        setattr(self, what, getattr(self, what) + len(ids))
        if ids:
            self.examples.setdefault(what, next(iter(ids)))

    def add(self, other: StoreReport) -> None:
        """Add another report's counts to this one."""
        for name in ("read", "added", "updated", "duplicates", "redirects_left_out"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.examples = other.examples | self.examples

    def rows(self) -> Sequence[tuple[str, int]]:
        """The table to show."""
        rows = [("entities read", self.read), ("added", self.added), ("updated", self.updated)]
        more = [("given more than once, last kept", self.duplicates), ("redirects left out", self.redirects_left_out)]
        return rows + [(name, n) for name, n in more if n]

    def warn(self) -> None:
        """Sum up what was left out: W500 for duplicates, W502 for redirects."""
        if self.duplicates:
            warn("W500", n=self.duplicates, example=self.examples["duplicates"])
        if self.redirects_left_out:
            warn("W502", n=self.redirects_left_out, example=self.examples["redirects_left_out"])


class Adding:
    """One call that adds entities in several transactions: it knows which it has written already.

    Args:
        connection: to begin with.
        search: keep the search indexes up to date; a new store fills them when it is complete.
    """

    def __init__(self, connection: sqlite3.Connection, *, search: bool = True) -> None:
        self._search = search
        self._first = last_row(connection) + 1
        self._updated = bytearray(self._first)  # 1 for rows that were there and that this call has written

    def put(self, connection: sqlite3.Connection, batch: Sequence[Entity]) -> StoreReport:
        """Write entities, in the place of those with the same ids, and count them."""
        entities: dict[str, Entity] = {}
        for entity in batch:
            entities.pop(entity.id, None)  # so that the order is that of the last ones
            entities[entity.id] = entity
        known = find_rows(connection, entities)
        old_phrases = _take_out(connection, list(known.values()), search=self._search)
        free = count(last_row(connection) + 1)
        rows = {id_: known[id_] if id_ in known else next(free) for id_ in entities}
        values = [(rows[e.id], e.id, e.name, e.description, e.type, e.count) for e in entities.values()]
        connection.executemany("INSERT OR REPLACE INTO entities VALUES (?, ?, ?, ?, ?, ?)", values)
        placed = [(rows[entity.id], entity) for entity in entities.values()]
        n_aliases = _put_aliases(connection, placed, search=self._search)
        left_out = _put_redirects(connection, placed)
        if self._search:
            connection.execute(f"{NEW_WORDS} WHERE row IN {_CHOSEN}", (json.dumps(list(rows.values())),))
            _forget(connection, old_phrases)
        last = max(rows.values(), default=0)
        note_commit(connection, len(rows) - len(known), n_aliases - len(old_phrases), known.values(), last)
        return self._count(batch, known, left_out)

    def _count(self, batch: Sequence[Entity], known: Mapping[str, int], left_out: Collection[str]) -> StoreReport:
        updated = [id_ for id_, row in known.items() if row < self._first and not self._updated[row]]
        for id_ in updated:
            self._updated[known[id_]] = 1
        counts = Counter(entity.id for entity in batch)
        repeated = [id_ for id_, n in counts.items() for _ in range(n - 1)]
        report = StoreReport(read=len(batch), added=len(counts) - len(known), updated=len(updated))
        report.note("duplicates", [*repeated, *(known.keys() - set(updated))])
        report.note("redirects_left_out", left_out)
        return report


def remove(connection: sqlite3.Connection, ids: Iterable[str]) -> int:
    """Remove entities, with their aliases and the redirects to them; the answer is how many there were."""
    rows = list(find_rows(connection, ids).values())
    old_phrases = _take_out(connection, rows, search=True)
    connection.execute(f"DELETE FROM entities WHERE row IN {_CHOSEN}", (json.dumps(rows),))
    _forget(connection, old_phrases)
    if rows:
        note_commit(connection, -len(rows), -len(old_phrases), rows)
    return len(rows)


def put_totals(connection: sqlite3.Connection, phrases: Iterable[Phrase]) -> int:
    """Add to the numbers of occurrences of phrases; the answer is how many phrases were given."""
    upsert = "INSERT INTO totals VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET total = total + excluded.total"
    n_before = connection.total_changes
    connection.executemany(upsert, ((normalise(phrase.text), phrase.total) for phrase in phrases))
    n = connection.total_changes - n_before
    if n:
        note_commit(connection, 0, 0, ())
    return n


def find_rows(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, int]:
    """Rows of entities by id; redirects are not followed."""
    query = "SELECT e.id, e.row FROM json_each(?) AS j CROSS JOIN entities AS e ON e.id = j.value"
    return dict(connection.execute(query, (dumps(filter(is_id, ids)),)))


def last_row(connection: sqlite3.Connection) -> int:
    """The highest row that was ever given."""
    ((row,),) = connection.execute("SELECT last_row FROM commits ORDER BY version DESC LIMIT 1")
    return int(row)


def note_commit(connection: sqlite3.Connection, n_entities: int, n_aliases: int, rows: Iterable[int], last: int = 0) -> None:
    """Begin a new version.

    Args:
        connection: in a transaction.
        n_entities: by how many the store grew.
        n_aliases: the same for aliases, names included.
        rows: those that were updated or removed.
        last: the highest row that was written.
    """
    before = "FROM commits ORDER BY version DESC LIMIT 1"
    values = (last, n_entities, n_aliases)
    connection.execute(f"INSERT INTO commits SELECT version + 1, max(last_row, ?), entities + ?, aliases + ? {before}", values)
    ((version,),) = connection.execute(f"SELECT version {before}")
    connection.executemany("INSERT INTO changes VALUES (?, ?)", ((version, row) for row in rows))
    name_state(connection)


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut into lists of a size; the last may be shorter."""
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


def dumps(values: Iterable[object]) -> str:
    """A JSON list, which SQLite reads as a table."""
    return json.dumps(list(values), ensure_ascii=False)


def _take_out(connection: sqlite3.Connection, rows: Sequence[int], *, search: bool) -> list[int]:
    """Delete all that belongs to entities but themselves; the answer has the phrase of each alias."""
    if not rows:
        return []
    chosen = (json.dumps(rows),)
    if search:
        connection.execute(f"{OLD_WORDS} WHERE row IN {_CHOSEN}", chosen)
    phrases = [phrase for (phrase,) in connection.execute(f"SELECT phrase FROM aliases WHERE row IN {_CHOSEN}", chosen)]
    connection.execute(f"DELETE FROM aliases WHERE row IN {_CHOSEN}", chosen)
    connection.execute(f"DELETE FROM redirects WHERE row IN {_CHOSEN}", chosen)
    return phrases


def _put_aliases(connection: sqlite3.Connection, entities: Sequence[tuple[int, Entity]], *, search: bool) -> int:
    """Write names and aliases of entities with their rows; the answer is how many."""
    names = [(row, place, *alias) for row, entity in entities for place, alias in enumerate(entity.names())]
    keys = [normalise(text) for _, _, text, _ in names]
    query = "SELECT p.key, p.phrase FROM json_each(?) AS j CROSS JOIN phrases AS p ON p.key = j.value"
    phrases: dict[str, int] = dict(connection.execute(query, (dumps(set(keys)),)))
    ((last,),) = connection.execute("SELECT coalesce(max(phrase), 0) FROM phrases")
    new = dict(zip(dict.fromkeys(key for key in keys if key not in phrases), count(last + 1), strict=False))
    connection.executemany("INSERT INTO phrases VALUES (?, ?)", ((phrase, key) for key, phrase in new.items()))
    if search:
        connection.execute(f"{NEW_GRAMS} WHERE phrase > ?", (last,))
    phrases |= new
    values = [(row, place, phrases[key], text, n) for (row, place, text, n), key in zip(names, keys, strict=True)]
    connection.executemany("INSERT INTO aliases VALUES (?, ?, ?, ?, ?)", values)
    return len(values)


def _put_redirects(connection: sqlite3.Connection, entities: Sequence[tuple[int, Entity]]) -> list[str]:
    """Write redirects, but for ids that have entities, whose redirects end; the answer has the ids that were left out."""
    ids = dumps(entity.id for _, entity in entities)
    chosen = f"FROM redirects WHERE id IN {_CHOSEN}"
    left_out = [id_ for (id_,) in connection.execute(f"SELECT id {chosen}", (ids,))]
    connection.execute(f"DELETE {chosen}", (ids,))
    rows = {id_: row for row, entity in entities for id_ in entity.redirects}
    taken = find_rows(connection, rows)
    values = [(id_, row) for id_, row in rows.items() if id_ not in taken]
    connection.executemany("INSERT OR REPLACE INTO redirects VALUES (?, ?)", values)
    return [*left_out, *taken]


def _forget(connection: sqlite3.Connection, phrases: Iterable[int]) -> None:
    """Delete phrases that are no alias any more."""
    chosen = f"phrase IN {_CHOSEN} AND NOT EXISTS (SELECT 1 FROM aliases WHERE aliases.phrase = phrases.phrase)"
    values = (json.dumps(list(set(phrases))),)
    connection.execute(f"{OLD_GRAMS} WHERE {chosen}", values)
    connection.execute(f"DELETE FROM phrases WHERE {chosen}", values)
