"""The tables of a knowledge base in SQLite, and meta.json beside them, by which a copy in part is noticed.

`entities` and `aliases` hold what was given; an alias stands at its place in the entity, the name at 0. `phrases` holds each
normalised alias once; `totals` says how often a phrase occurs in text, if that was counted. `words` and `grams` are full-text
indexes that keep no text: of entities by their words, of phrases by their trigrams. `commits` has a row per transaction, and
`changes` says which rows it updated or removed. `states` has a random name of each version: no other store has it but copies,
and they only up to where they part. So it tells whether copies are alike, and whether an index was made of this store or of
another one with the same number. Versions that were written before there were such names have none.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from entitykit.errors import error
from entitykit.knowledge.files import sync_names, write_file

FILE = "entities.sqlite"
META = "meta.json"
NAMES, VECTORS = "names", "vectors"
"""Folders beside these files, of what was made of a store: tries of its names, and vectors of its entities."""

NEW_META = f"{META}.new"
FORMAT = 1

APPLICATION = int.from_bytes(b"EkKB", "big")
"""Stands in the file's header, so that no other program's database is taken for ours."""

TABLES = """
CREATE TABLE store (id TEXT NOT NULL);
CREATE TABLE commits (version INTEGER PRIMARY KEY, last_row INTEGER NOT NULL, entities INTEGER NOT NULL,
    aliases INTEGER NOT NULL);
CREATE TABLE changes (version INTEGER, row INTEGER, PRIMARY KEY (version, row)) WITHOUT ROWID;
CREATE TABLE entities (row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, description TEXT NOT NULL,
    type TEXT NOT NULL, count INTEGER NOT NULL);
CREATE TABLE aliases (row INTEGER, place INTEGER, phrase INTEGER NOT NULL, text TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (row, place)) WITHOUT ROWID;
CREATE TABLE phrases (phrase INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE totals (key TEXT PRIMARY KEY, total INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE redirects (id TEXT PRIMARY KEY, row INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX redirects_by_row ON redirects (row);
CREATE VIRTUAL TABLE words USING fts5(name, aliases, description, content = '',
    tokenize = 'porter unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE grams USING fts5(key, content = '', detail = none, columnsize = 0, tokenize = 'trigram case_sensitive 1');
CREATE VIRTUAL TABLE word_counts USING fts5vocab(words, row);
CREATE VIRTUAL TABLE gram_counts USING fts5vocab(grams, row);
"""

QUERY_TABLES = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.query USING fts5(text, tokenize = 'porter unicode61 remove_diacritics 2')",
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.query_terms USING fts5vocab(temp, query, instance)",
)
"""Tables of a connection that cut words as the table `words` does."""

DESCRIPTION_COUNTS = "CREATE VIRTUAL TABLE IF NOT EXISTS temp.description_counts USING fts5vocab(main, words, col)"
"""A table of a connection that says how many names, aliases and descriptions have each word."""

_HASH = 2**20
_HASH_BUILT = 2**26
"""Bytes of an index that are held in memory before they are written: SQLite's own number, and one to build with."""

STATES = "CREATE TABLE IF NOT EXISTS states (version INTEGER PRIMARY KEY, name TEXT NOT NULL)"

INDEX = "CREATE INDEX aliases_by_phrase ON aliases (phrase, row, count)"

OLD_WORDS = """
INSERT INTO words (words, rowid, name, aliases, description) SELECT 'delete', row, name,
    (SELECT group_concat(text, char(10)) FROM (SELECT text FROM aliases WHERE aliases.row = entities.row AND place > 0
    ORDER BY place)), description FROM entities
"""
"""Take entities out of their index, which must be told what it holds of them."""

NEW_WORDS = OLD_WORDS.replace("(words, rowid", "(rowid").replace("'delete', ", "")
OLD_GRAMS = "INSERT INTO grams (grams, rowid, key) SELECT 'delete', phrase, ' ' || key || ' ' FROM phrases"
NEW_GRAMS = OLD_GRAMS.replace("(grams, rowid", "(rowid").replace("'delete', ", "")


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What meta.json holds; it may be older than the tables, never newer.

    Attributes:
        format: version of the format.
        store: the same random name as in the table `store`.
        version: of the contents.
        entities: their number.
        aliases: their number, names included.
        built: how: the version of entitykit and the name of the input.
    """

    format: int = FORMAT
    store: str
    version: int
    entities: int
    aliases: int
    built: dict[str, str] = field(default_factory=dict)


def read_meta(folder: Path) -> Meta:
    """Read meta.json.

    Raises:
        CheckpointError: E500 if there is no knowledge base, E501 if meta.json is missing or damaged.
    """
    path = folder / META
    kinds = {item.name: {"store": str, "built": dict}.get(item.name, int) for item in fields(Meta)}
    expected = f"JSON of format {FORMAT} with {', '.join(kinds)}"
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as reason:
        if (folder / FILE).exists():
            raise error("E501", path=path, found="no such file", expected="it beside entities.sqlite") from reason
        raise error("E500", path=folder, reason="there is none" if folder.exists() else "there is no such folder") from reason
    except OSError as reason:
        raise error("E500", path=folder, reason=reason) from reason
    except ValueError as reason:
        raise error("E501", path=path, found=f"what is no JSON ({reason})", expected=expected) from reason
    if (
        isinstance(values, dict)
        and {name: type(value) for name, value in values.items()} == kinds
        and values["format"] == FORMAT
    ):
        return Meta(**values)
    raise error("E501", path=path, found=str(values)[:300], expected=expected)


def prepare_meta(folder: Path, meta: Meta) -> None:
    """Bring meta.json to the disk under another name."""
    write_file(folder / NEW_META, [(json.dumps(asdict(meta), ensure_ascii=False, indent=1) + "\n").encode()])
    sync_names(folder)


def publish_meta(folder: Path) -> None:
    """Replace meta.json by what was prepared, in one step."""
    os.replace(folder / NEW_META, folder / META)
    sync_names(folder)


def newest_meta(connection: sqlite3.Connection, meta: Meta) -> Meta:
    """Bring the numbers up to date."""
    query = "SELECT version, entities, aliases FROM commits ORDER BY version DESC LIMIT 1"
    ((version, n_entities, n_aliases),) = connection.execute(query)
    return replace(meta, version=version, entities=n_entities, aliases=n_aliases)


def name_state(connection: sqlite3.Connection) -> None:
    """Give the newest version a name of its own."""
    connection.execute(STATES)
    connection.execute("INSERT INTO states SELECT max(version), ? FROM commits", (os.urandom(8).hex(),))


def state_of(connection: sqlite3.Connection, version: int) -> str:
    """The name of a version; empty if it has none."""
    if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'states'").fetchone()[0]:
        return ""
    found = connection.execute("SELECT name FROM states WHERE version = ?", (version,)).fetchone()
    return str(found[0]) if found else ""


def create_tables(connection: sqlite3.Connection, store: str) -> None:
    """Make the tables in an empty database, without what `complete_tables` makes faster when they are full."""
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    for statement in TABLES.split(";\n"):  # `executescript` would end a transaction
        connection.execute(statement)
    connection.execute("INSERT INTO store VALUES (?)", (store,))
    connection.execute("INSERT INTO commits VALUES (0, 0, 0, 0)")
    name_state(connection)


def complete_tables(connection: sqlite3.Connection) -> None:
    """Make what searching needs, in a database whose tables have been filled."""
    connection.execute(INDEX)
    connection.execute("DELETE FROM phrases WHERE NOT EXISTS (SELECT 1 FROM aliases WHERE aliases.phrase = phrases.phrase)")
    for table, fill in (("words", NEW_WORDS), ("grams", NEW_GRAMS)):
        sized = f"INSERT INTO {table} ({table}, rank) VALUES ('hashsize', ?)"
        connection.execute(sized, (_HASH_BUILT,))
        connection.execute(fill)
        connection.execute(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
        connection.execute(sized, (_HASH,))


def check_database(connection: sqlite3.Connection, folder: Path, meta: Meta) -> None:
    """Make sure that the tables are those that meta.json speaks of.

    Raises:
        CheckpointError: E501.
    """
    path = folder / FILE
    ((application,),) = connection.execute("PRAGMA application_id")
    ((version,),) = connection.execute("PRAGMA user_version")
    if (application, version) != (APPLICATION, FORMAT):
        found = f"format {version} of application {application}"
        raise error("E501", path=path, found=found, expected=f"format {FORMAT} of application {APPLICATION}")
    ((store,),) = connection.execute("SELECT id FROM store")
    if store != meta.store:
        raise error("E501", path=path, found=f"the store {store}", expected=f"{meta.store}, as meta.json says")
    ((version,),) = connection.execute("SELECT max(version) FROM commits")
    if version < meta.version:
        expected = f"{meta.version} or later, as meta.json says (is {FILE}-wal missing?)"
        raise error("E501", path=path, found=f"version {version}", expected=expected)


def check_tables(connection: sqlite3.Connection, folder: Path) -> None:
    """Read everything, and compare what must agree.

    Raises:
        CheckpointError: E501.
    """
    ((found,),) = connection.execute("PRAGMA integrity_check(1)")
    if found != "ok":
        raise error("E501", path=folder / FILE, found=found, expected="a whole database")
    strays = "count(*) FROM {0} WHERE {1} NOT IN (SELECT {1} FROM {2})"
    for what, counted, expected in (
        ("entities", "count(*) FROM entities", "entities"),
        ("aliases", "count(*) FROM aliases", "aliases"),
        ("entities with names", "count(DISTINCT row) FROM aliases", "entities"),
        ("entities indexed by words", "count(*) FROM words_docsize", "entities"),
        ("aliases of entities that are not there", strays.format("aliases", "row", "entities"), "0"),
        ("aliases of phrases that are not there", strays.format("aliases", "phrase", "phrases"), "0"),
        ("phrases that are no alias", strays.format("phrases", "phrase", "aliases"), "0"),
        ("redirects to nothing", strays.format("redirects", "row", "entities"), "0"),
    ):
        ((n,),) = connection.execute(f"SELECT {counted}")
        ((wanted,),) = connection.execute(f"SELECT {expected} FROM commits ORDER BY version DESC LIMIT 1")
        if n != wanted:
            raise error("E501", path=folder / FILE, found=f"{n} {what}", expected=str(wanted))
