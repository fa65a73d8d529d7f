"""Read entities by id and row; every function reads one state through the connection that it is given."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entitykit.knowledge.connection import Database
from entitykit.knowledge.entities import Alias, Entity, Phrase, is_id
from entitykit.knowledge.store_write import dumps

_FIRST = itemgetter(0)


def find(connection: sqlite3.Connection, ids: Sequence[str]) -> NDArray[np.int64]:
    """Rows *(n,)* of ids, redirects followed; -1 for those that are not there."""
    rows = np.full(len(ids), -1, dtype=np.int64)
    query = """SELECT j.key, coalesce(e.row, r.row) AS found FROM json_each(?) AS j LEFT JOIN entities AS e ON e.id = j.value
        LEFT JOIN redirects AS r ON r.id = j.value WHERE found NOT NULL"""
    for i, row in connection.execute(query, (dumps(id_ if is_id(id_) else None for id_ in ids),)):
        rows[i] = row
    return rows


def ids_of(connection: sqlite3.Connection, rows: ArrayLike) -> dict[int, str]:
    """Ids by row; rows without entity are left out."""
    query = "SELECT e.row, e.id FROM json_each(?) AS j CROSS JOIN entities AS e ON e.row = j.value"
    return dict(connection.execute(query, (dumps(np.unique(rows).tolist()),)))


def descriptions(connection: sqlite3.Connection, rows: ArrayLike) -> dict[int, str]:
    """Descriptions by row; rows without entity are left out."""
    query = "SELECT e.row, e.description FROM json_each(?) AS j CROSS JOIN entities AS e ON e.row = j.value"
    return dict(connection.execute(query, (dumps(np.unique(rows).tolist()),)))


def fetch(connection: sqlite3.Connection, rows: ArrayLike) -> dict[int, Entity]:
    """Entities by row; rows without entity are left out."""
    chosen = f"WHERE row IN {dumps(np.unique(rows).tolist()).replace('[', '(').replace(']', ')')}"
    return dict(_entities(connection, chosen))


def iterate(database: Database) -> Iterator[Entity]:
    """All entities by row, as they are when the iteration begins."""
    with database.snapshot() as connection:
        for _, entity in _entities(connection, ""):
            yield entity


def names(database: Database) -> Iterator[tuple[int, str]]:
    """Row and text of all names and aliases by row, as they are when the iteration begins."""
    with database.snapshot() as connection:
        yield from connection.execute("SELECT row, text FROM aliases ORDER BY row, place")


def phrases(database: Database) -> Iterator[Phrase]:
    """All phrases that were counted in text, normalised, in order, as they are when the iteration begins."""
    with database.snapshot() as connection:
        for text, total in connection.execute("SELECT key, total FROM totals ORDER BY key"):
            yield Phrase(text, total)


def changed(connection: sqlite3.Connection, since: int) -> NDArray[np.int64]:
    """Rows that were added, updated or removed after a version, each once, in order."""
    query = """SELECT row FROM entities WHERE row > coalesce((SELECT max(last_row) FROM commits WHERE version <= :since), 0)
        UNION SELECT row FROM changes WHERE version > :since ORDER BY row"""
    return np.fromiter((row for (row,) in connection.execute(query, {"since": since})), dtype=np.int64)


def _entities(connection: sqlite3.Connection, chosen: str) -> Iterator[tuple[int, Entity]]:
    """Merge the tables, which are read in the order of rows."""
    values = connection.execute(f"SELECT row, id, name, description, type, count FROM entities {chosen} ORDER BY row")
    aliases = groupby(connection.execute(f"SELECT row, text, count FROM aliases {chosen} ORDER BY row, place"), _FIRST)
    redirects = groupby(connection.execute(f"SELECT row, id FROM redirects {chosen} ORDER BY row, id"), _FIRST)
    redirected, old_ids = next(redirects, (None, iter(())))
    for (row, id_, name, description, kind, count), (_, given) in zip(values, aliases, strict=True):
        old: tuple[str, ...] = ()
        if redirected == row:
            old = tuple(old_id for _, old_id in old_ids)
            redirected, old_ids = next(redirects, (None, iter(())))
        yield (
            row,
            Entity(
                id=id_,
                name=name,
                aliases=tuple(Alias(text, n) for _, text, n in given),
                description=description,
                type=kind,
                count=count,
                redirects=old,
            ),
        )
