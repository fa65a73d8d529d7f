"""A store's files as a whole: built, copied, and described by meta.json."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from entitykit import __version__
from entitykit.errors import EntityKitError, error
from entitykit.knowledge.connection import Database, check_sqlite, connect
from entitykit.knowledge.entities import Entity, Phrase
from entitykit.knowledge.files import locked, replace_folder
from entitykit.knowledge.schema import (
    FILE,
    META,
    NAMES,
    NEW_META,
    VECTORS,
    Meta,
    check_database,
    complete_tables,
    create_tables,
    newest_meta,
    prepare_meta,
    publish_meta,
    read_meta,
    state_of,
)
from entitykit.knowledge.store_write import BATCH, Adding, StoreReport, batches, put_totals

_NEW = f"{FILE}.new"
_CACHE = 512 * 2**10  # KiB of pages in memory while a store is built


def build_store(folder: Path, entities: Iterable[Entity], phrases: Iterable[Phrase], source: str) -> StoreReport:
    """Make a store; see `EntityStore.build`."""
    check_sqlite()
    with _making(folder) as new:
        killed = (folder / NEW_META).exists()  # between the database and meta.json, so that it may be made anew
        for name in (META, FILE):
            if (folder / name).exists() and not (killed and name == FILE):
                reason = f"it holds {name} already; change it with `entitykit kb add`, or remove it first"
                raise error("E502", path=folder, reason=reason)
        with closing(connect(new, "mode=rwc")) as connection:
            report, meta = _fill(connection, entities, phrases, source)
        _clear(folder)
        _publish(folder, meta)
    report.warn()
    return report


def copy_store(database: Database, folder: Path, keep: Collection[str] = ()) -> None:
    """Copy a store as it is now to a folder, in the place of one that is there; nothing to do in its own.

    Args:
        database: of the store.
        folder: where to.
        keep: folders of what was made of the store that is there, which stay.
    """
    if folder.exists() and folder.samefile(database.folder):
        return
    with _making(folder) as new:
        with database.snapshot() as connection:
            meta = newest_meta(connection, database.meta)
            if _has_state(folder, state_of(connection, meta.version)):
                return
            with closing(connect(new, "mode=rwc")) as target:
                connection.backup(target)
        for name in (META, f"{FILE}-wal", f"{FILE}-shm"):
            (folder / name).unlink(missing_ok=True)
        _clear(folder, keep)
        _publish(folder, meta)


def _has_state(folder: Path, state: str) -> bool:
    """Whether a folder has a store in a state; false where either is not known."""
    with suppress(EntityKitError, sqlite3.Error):
        meta = read_meta(folder)
        if state and (folder / FILE).is_file():
            with closing(connect(folder / FILE, "mode=rw")) as there:
                check_database(there, folder, meta)
                return state_of(there, newest_meta(there, meta).version) == state
    return False


def _clear(folder: Path, keep: Collection[str] = ()) -> None:
    """Delete what was made of a store that was there."""
    for name in (NAMES, VECTORS):
        if name not in keep:
            replace_folder(folder / name, None)


def renew_meta(database: Database) -> None:
    """Write meta.json as the tables are now; nobody else writes meanwhile."""
    with database.writing() as connection:
        meta = newest_meta(connection, database.meta)
        try:
            prepare_meta(database.folder, meta)
            publish_meta(database.folder)
        except OSError as problem:
            raise error("E502", path=database.folder, reason=problem) from problem


def _fill(
    connection: sqlite3.Connection, entities: Iterable[Entity], phrases: Iterable[Phrase], source: str
) -> tuple[StoreReport, Meta]:
    """Write a database that nobody sees before it is complete, and so without a journal."""
    for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE}"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    store = os.urandom(8).hex()
    connection.execute("BEGIN IMMEDIATE")
    create_tables(connection, store)
    adding, report = Adding(connection, search=False), StoreReport()
    for batch in batches(entities, BATCH):
        report.add(adding.put(connection, batch))
    put_totals(connection, phrases)
    complete_tables(connection)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    built = {"by": f"entitykit {__version__}", "from": source}
    return report, newest_meta(connection, Meta(store=store, version=0, entities=0, aliases=0, built=built))


@contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """Lock a folder, and give the name of a database to make in it; it is deleted unless it was published."""
    new = folder / _NEW
    parts = [new, *(folder / f"{_NEW}{end}" for end in ("-wal", "-shm", "-journal"))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            for path in parts:
                path.unlink(missing_ok=True)
            try:
                yield new
            finally:
                for path in parts:
                    path.unlink(missing_ok=True)
    except EntityKitError:
        raise
    except (OSError, sqlite3.OperationalError) as problem:
        raise error("E502", path=folder, reason=problem) from problem


def _publish(folder: Path, meta: Meta) -> None:
    """Bring a database that is closed to the disk, and give it and its meta.json their names."""
    with (folder / _NEW).open("r+b") as file:
        os.fsync(file.fileno())
    prepare_meta(folder, meta)
    os.replace(folder / _NEW, folder / FILE)
    publish_meta(folder)
