"""Connections to a knowledge base's SQLite file: one for each thread and process, with coded errors.

The file is in WAL mode: whoever reads sees the state of the moment when the reading began, however long others write; one
writes at a time, and a writer that is killed leaves what it had committed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from entitykit.errors import error
from entitykit.knowledge.schema import FILE, Meta, check_database

OLDEST = (3, 34)  # has the trigram tokenizer
CACHE = 64 * 2**10  # KiB of pages in memory, for each connection

FROZEN = "ro&immutable=1"
"""How to open a file in a folder where nothing can be written, so that nobody changes it, either."""

UNFINISHED = "its last writer did not close it, and nothing can be written here. Open it once where it can"

_INHERITED: list[object] = []
"""Connections of the process that forked into this one: neither used nor closed here, because SQLite allows neither."""

_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


class _Held:
    """A thread's connection, closed when the thread or the store is gone; by itself it would wait for the collector."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class Database:
    """The SQLite file of a knowledge base. It may be shared by threads and with forked processes.

    Args:
        folder: of the knowledge base.
        meta: what its meta.json holds.
        read_only: refuse to write.
        wait: seconds to wait for another writer.

    Raises:
        ConfigError: E508 if this SQLite lacks something.
        CheckpointError: E500 or E501 if the file cannot be opened.
    """

    def __init__(self, folder: Path, meta: Meta, *, read_only: bool, wait: float) -> None:
        check_sqlite()
        self.folder, self.meta, self.read_only, self.wait = folder, meta, read_only, wait
        self._mode = "ro" if read_only else "rw"
        self._begin()
        _watch_forks()
        _OPEN.add(self)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state until the end of the block; blocks may be nested."""
        with self.coded():
            connection = self._connection()
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are committed together at the end of the block, or undone by an exception.

        Raises:
            OutputError: E502 if the file cannot be written, E503 if another writer does not finish.
        """
        if self.read_only:
            raise error("E502", path=self.folder, reason="it was opened to be read only")
        with self.coded():
            connection = self._connection()
            if connection.in_transaction:
                reason = "this thread reads from it in a block `with store.reading()`; leave it first"
                raise error("E502", path=self.folder, reason=reason)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, for reading on while this thread writes."""
        with self.coded():
            held = self._open()
            try:
                held.connection.execute("BEGIN")
                yield held.connection
            finally:
                held.connection.close()

    def close(self) -> None:
        """Close the connections of all threads of this process."""
        self._closed = True
        for held in list(self._all):
            held.connection.close()

    @contextmanager
    def coded(self) -> Iterator[None]:
        """Make SQLite's errors coded ones."""
        try:
            yield
        except sqlite3.DatabaseError as problem:
            text = str(problem)
            if isinstance(problem, sqlite3.ProgrammingError) and "closed database" not in text:
                raise
            if "locked" in text or "busy" in text:
                raise error("E503", path=self.folder, seconds=self.wait) from problem
            if "closed database" in text:
                raise error("E500", path=self.folder, reason="the store was closed") from problem
            if any(part in text for part in ("readonly", "full", "unable to open", "disk I/O")):
                raise error("E502", path=self.folder, reason=text) from problem
            raise error("E501", path=self.folder / FILE, found=text, expected="a whole database") from problem

    def after_fork(self) -> None:
        """Let go of the connections of the process before."""
        _INHERITED.extend([self._local, *self._all])
        self._begin()

    def _begin(self) -> None:
        self._closed = False
        self._local = threading.local()
        self._all: weakref.WeakSet[_Held] = weakref.WeakSet()

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        if self._closed:
            raise error("E500", path=self.folder, reason="the store was closed")
        held: _Held | None = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = self._open()
        return held.connection

    def _open(self) -> _Held:
        if not (self.folder / FILE).is_file():
            raise error("E501", path=self.folder / FILE, found="no such file", expected="it beside meta.json")
        try:
            connection = connect(self.folder / FILE, f"mode={self._mode}", wait=self.wait)
        except sqlite3.OperationalError as problem:
            if not nothing_can_be_written(problem) or self._mode == FROZEN:
                raise
            if has_log(self.folder / FILE):
                raise error("E500", path=self.folder, reason=f"{problem}; {UNFINISHED}") from problem
            self._mode = FROZEN
            connection = connect(self.folder / FILE, f"mode={self._mode}", wait=self.wait)
        held = _Held(connection)
        check_database(connection, self.folder, self.meta)
        self._all.add(held)
        return held


def connect(path: Path, mode: str, *, wait: float = 0.0) -> sqlite3.Connection:
    """Open a file; transactions are begun and ended by hand."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=wait,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        for setting in (f"cache_size = -{CACHE}", "synchronous = FULL", "secure_delete = OFF", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # what cannot be read fails here
    except BaseException:
        connection.close()
        raise
    return connection


def nothing_can_be_written(problem: sqlite3.OperationalError) -> bool:
    """Whether a file could not be opened because SQLite may not write beside it; then it may be opened as `FROZEN`."""
    return any(part in str(problem) for part in ("unable to open", "readonly"))


def has_log(path: Path) -> bool:
    """Whether the last writer of a file has left a part of it in its log; then it must not be opened as `FROZEN`."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


@cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):  # Windows never forks
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for database in list(_OPEN):
        database.after_fork()


def check_sqlite() -> None:
    """Make sure that this Python's SQLite has what the tables need.

    Raises:
        ConfigError: E508.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        fts5 = connection.execute("SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'").fetchone()[0]
    if sqlite3.sqlite_version_info < OLDEST:
        raise error("E508", version=sqlite3.sqlite_version, reason="it is too old")
    if not fts5:
        raise error("E508", version=sqlite3.sqlite_version, reason="it has no FTS5")
