"""The tables of a store of clusters, what is put into them, and what is said of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from entitykit import __version__
from entitykit.errors import EntityKitError, error
from entitykit.knowledge.candidates import Mention

Floats = NDArray[np.float32]

FORMAT = 3
APPLICATION = int.from_bytes(b"EkCl", "big")

TABLES = """
CREATE TABLE store (width INTEGER NOT NULL, fingerprint TEXT NOT NULL, built TEXT NOT NULL, version INTEGER NOT NULL,
    next_cluster INTEGER NOT NULL);
CREATE TABLE documents (document INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL);
CREATE TABLE mentions (mention INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, cluster INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, label TEXT NOT NULL, text TEXT NOT NULL, before TEXT NOT NULL,
    behind TEXT NOT NULL, vector BLOB NOT NULL);
CREATE INDEX mentions_by_cluster ON mentions (cluster);
CREATE INDEX mentions_by_document ON mentions (document);
CREATE TABLE merged (cluster INTEGER PRIMARY KEY, kept INTEGER NOT NULL);
CREATE TABLE candidates (mention INTEGER PRIMARY KEY, found TEXT NOT NULL);
CREATE TABLE links (cluster INTEGER PRIMARY KEY, kb_id TEXT NOT NULL)
"""


class Mentions(Protocol):
    """Mentions in their contexts, by number: a list, or what loads them when they are asked for."""

    def __getitem__(self, row: int, /) -> Mention: ...


class NewDocument(NamedTuple):
    """A document to be put into a store.

    Attributes:
        id: by which it is known.
        digest: of its text and the places of its mentions.
        places: start and end of each mention, in characters.
        labels: of the mentions.
        mentions: in their contexts.
        vectors: *(n_mentions, width)*, of length 1.
    """

    id: str
    digest: str
    places: Sequence[tuple[int, int]]
    labels: Sequence[str]
    mentions: Sequence[Mention]
    vectors: Floats


@dataclass
class ClusterReport:
    """What was done with documents.

    Attributes:
        documents: that were given.
        unchanged: of these, that the store had already.
        replaced: of these, that the store had, and that have changed.
        mentions: that were put into the store.
        new_clusters: that they began.
        merged: clusters that were there before, and are now part of another.
    """

    documents: int = 0
    unchanged: int = 0
    replaced: int = 0
    mentions: int = 0
    new_clusters: int = 0
    merged: int = 0

    def add(self, other: ClusterReport) -> None:
        """Add another report's counts to this one."""
        for name, n in vars(other).items():
            setattr(self, name, getattr(self, name) + n)

    def rows(self) -> list[tuple[str, int]]:
        """The table to show."""
        return [(name.replace("_", " "), n) for name, n in vars(self).items()]


def cluster_id(number: int) -> str:
    """The id that a cluster's mentions are given."""
    return f"C{number}"


def cluster_number(id_: str) -> int:
    """The number in a cluster's id."""
    return int(id_[1:])


def given_twice(id_: str) -> EntityKitError:
    """The error of two documents with one id."""
    advice = "Give each of them another doc.user_data['id'], or \"id\" of its JSON line; one that has none is known by its text"
    return error("E639", id=id_, found="the id of two documents", expected="an id of its own for each", advice=advice)


def make_tables(connection: sqlite3.Connection, width: int, fingerprint: str) -> None:
    """Make the tables in an empty database."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    for statement in TABLES.split(";\n"):
        connection.execute(statement)
    built = f"entitykit {__version__}"
    connection.execute("INSERT INTO store VALUES (?, ?, ?, 0, 1)", (width, fingerprint, built))
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
