"""The SQLite file of a store of clusters: its connection, its transactions, and what goes wrong with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from entitykit.errors import error
from entitykit.knowledge.cluster_schema import APPLICATION, FORMAT
from entitykit.knowledge.connection import FROZEN, UNFINISHED, connect, has_log, nothing_can_be_written
from entitykit.knowledge.files import locked

FILE = "clusters.sqlite"
WAIT = 60.0
"""Seconds to wait for another process."""


class ClusterFile:
    """The file of a store; an object is for one thread and process.

    Args:
        folder: of the store.
        read_only: refuse to write. Then the folder may be one where nothing can be written.

    Raises:
        CheckpointError: E633 if there is no store, E634 if it is damaged.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False) -> None:
        self.folder, self.read_only = Path(folder).absolute(), read_only
        self._changing = False
        if not (self.folder / FILE).is_file():
            raise error("E633", path=self.folder, reason="there is none")
        with self._coded():
            self._connection = self._connect()
            try:
                self._check()
                self.width, self.fingerprint, self.built = self._one("SELECT width, fingerprint, built FROM store")
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See one state of the store until the end of the block; within `changing` it is that of the change."""
        with self._coded():
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """All that is done within the block, or nothing; a block within another is part of its transaction.

        Raises:
            OutputError: E635 if the file cannot be written.
        """
        if self._changing:
            with self._coded(), self._all_or_nothing("SAVEPOINT inner", "RELEASE inner", "ROLLBACK TO inner"):
                yield
            return
        if self._connection.in_transaction:
            reason = "it is read in a block `with store.reading()`; leave that first"
            raise error("E635", path=self.folder, reason=reason)
        with self._coded(), self._alone():
            self._changing = True
            try:
                with self._all_or_nothing("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK"):
                    yield
            finally:
                self._changing = False

    @contextmanager
    def _all_or_nothing(self, begin: str, end: str, undo: str) -> Iterator[None]:
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute(end)
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute(undo)
            raise

    def _connect(self) -> sqlite3.Connection:
        path = self.folder / FILE
        try:
            return connect(path, "mode=ro" if self.read_only else "mode=rw", wait=WAIT)
        except sqlite3.OperationalError as problem:
            if not self.read_only or not nothing_can_be_written(problem):
                raise
            if has_log(path):
                raise error("E633", path=self.folder, reason=f"{problem}; {UNFINISHED}") from problem
            return connect(path, f"mode={FROZEN}", wait=WAIT)

    def _check(self) -> None:
        ((application,),) = self._all("PRAGMA application_id")
        ((version,),) = self._all("PRAGMA user_version")
        if (application, version) != (APPLICATION, FORMAT):
            found, expected = (f"format {v} of application {a}" for a, v in ((application, version), (APPLICATION, FORMAT)))
            raise error("E634", path=self.folder / FILE, found=found, expected=expected)

    def _one(self, query: str) -> tuple[Any, ...]:
        (row,) = self._all(query)
        return row

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._coded():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock; the system's errors of taking it are E635, those of the block its own."""
        lock = locked(self.folder)
        try:
            lock.__enter__()
        except OSError as problem:
            raise error("E635", path=self.folder, reason=problem) from problem
        try:
            yield
        finally:
            lock.__exit__(None, None, None)

    @contextmanager
    def _coded(self) -> Iterator[None]:
        """Make SQLite's errors coded ones, but for those of whoever calls it, such as a document that is put in twice."""
        try:
            yield
        except sqlite3.DatabaseError as problem:
            text = str(problem)
            if isinstance(problem, sqlite3.ProgrammingError | sqlite3.IntegrityError) and "closed database" not in text:
                raise
            if "closed" in text or "unable to open" in text:
                raise error("E633", path=self.folder, reason=text) from problem
            if any(part in text for part in ("readonly", "full", "disk I/O", "locked", "busy")):
                raise error("E635", path=self.folder, reason=text) from problem
            raise error("E634", path=self.folder / FILE, found=text, expected="a whole database") from problem
