"""A knowledge base's store: entities, their names and what finds them, in one SQLite file that is updated while others read it.

A folder::

    meta.json         version of the format, numbers, how it was built; written last
    entities.sqlite   the tables of `entitykit.knowledge.schema`
    lock              held by the process that builds

Building shows nothing before it is complete. Afterwards every batch of a write is one transaction: a process that is killed
leaves all batches that were committed, and nothing of the one under way. Readers see the state of the moment when their call
began.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from entitykit.errors import error
from entitykit.knowledge import store_read as read
from entitykit.knowledge import store_write as write
from entitykit.knowledge.entities import Alias, Entity, Phrase
from entitykit.knowledge.schema import check_tables
from entitykit.knowledge.store_files import build_store, copy_store, renew_meta
from entitykit.knowledge.store_reader import WAIT, StoreReader
from entitykit.knowledge.store_write import BATCH, StoreReport

T = TypeVar("T")


class EntityStore(StoreReader):
    """Entities of a knowledge base, by id, row, name, words and trigrams; made by `open`, `create` and `build`.

    A row is a number that an entity keeps while it is updated, and that none gets after it. An object may be shared by threads
    and with forked processes; where it is unpickled, it is opened.
    """

    @classmethod
    def open(cls, folder: str | Path, read_only: bool = False, *, wait: float = WAIT) -> EntityStore:
        """Open a store.

        Args:
            folder: where it was built.
            read_only: refuse to write.
            wait: seconds for which a write waits for another writer.
        """
        return cls(folder, read_only=read_only, wait=wait)

    @classmethod
    def create(cls, folder: str | Path) -> EntityStore:
        """Make an empty store and open it.

        Raises:
            OutputError: E502 if the folder cannot be written, or holds a store.
        """
        cls.build(folder, ())
        return cls(folder)

    @classmethod
    def build(
        cls, folder: str | Path, entities: Iterable[Entity], *, phrases: Iterable[Phrase] = (), source: str = ""
    ) -> StoreReport:
        """Make a store of many entities: faster than `add`, and all or nothing.

        Args:
            folder: where; it need not exist.
            entities: of those with one id, the last is kept.
            phrases: counts in text; see `count_phrases`.
            source: the name of the input, for meta.json.

        Raises:
            OutputError: E502 if the folder cannot be written, or holds a store.

        Warns:
            W500 for duplicate ids, W502 for redirects of ids that have entities.
        """
        return build_store(Path(folder), entities, phrases, source)

    def __enter__(self) -> EntityStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., EntityStore], tuple[Path, bool, float]]:
        return _reopen, (self._folder, self._database.read_only, self._database.wait)

    def add(self, entities: Iterable[Entity], *, report: StoreReport | None = None, batch_size: int = BATCH) -> StoreReport:
        """Add entities, each in the place of one with the same id, which is updated.

        Every batch is a transaction: when this fails, all batches before are in the store. Entities that are added a second
        time change nothing, so the same input may be given again. An id that redirects to several entities leads to the last.

        Args:
            entities: of those with one id, the last is kept.
            report: counts to add to, so that they are known when this fails.
            batch_size: entities of a transaction.

        Raises:
            OutputError: E502 if the store cannot be written, E503 if another writer does not finish.

        Warns:
            W500 for duplicate ids, W502 for redirects of ids that have entities.
        """
        report = StoreReport() if report is None else report
        with self._database.reading() as connection:
            adding = write.Adding(connection)
        try:
            for batch in write.batches(entities, batch_size):
                with self._database.writing() as connection:
                    done = adding.put(connection, batch)
                report.add(done)
        finally:
            if report.read:
                renew_meta(self._database)
        report.warn()
        return report

    def add_aliases(self, aliases: Iterable[tuple[str, str, int]]) -> int:
        """Add to the counts of aliases of entities that are there: all of them, or none.

        Args:
            aliases: id (or redirect), alias, and how often it names the entity.

        Returns:
            How many were given.

        Raises:
            CorpusError: E504 for an alias or count that cannot be.
            InputError: E505 for an id without entity.
            OutputError: E502, E503.
        """
        given: dict[str, list[Alias]] = {}
        for id_, text, count in aliases:
            given.setdefault(id_, []).append(Alias(text, count))
        self._amend(given, lambda entity, new: replace(entity, aliases=(*entity.names(), *new)))
        return sum(map(len, given.values()))

    def add_redirects(self, redirects: Iterable[tuple[str, str]]) -> int:
        """Make ids lead to entities that are there: all of them, or none.

        Args:
            redirects: an id without entity, and the id (or redirect) of an entity.

        Returns:
            How many were given.

        Raises:
            CorpusError: E504 for an id that cannot be.
            InputError: E505 for an id without entity.
            OutputError: E502, E503.

        Warns:
            W502 for redirects that were left out, because their id has an entity.
        """
        given: dict[str, list[str]] = {}
        for old, id_ in redirects:
            given.setdefault(id_, []).append(old)
        self._amend(given, lambda entity, new: replace(entity, redirects=(*entity.redirects, *new)))
        return sum(map(len, given.values()))

    def count_phrases(self, phrases: Iterable[Phrase]) -> int:
        """Add to the numbers of times that phrases occur in text, all or none; they make p(link | phrase).

        Args:
            phrases: equal ones add up, and so do the counts of several calls.

        Returns:
            How many were given.

        Raises:
            OutputError: E502, E503.
        """
        with self._database.writing() as connection:
            n = write.put_totals(connection, phrases)
        renew_meta(self._database)
        return n

    def remove(self, ids: Iterable[str], *, batch_size: int = BATCH) -> int:
        """Remove entities, with their aliases and the redirects to them; every batch is a transaction.

        Args:
            ids: their own, redirects are not followed; what is not there is passed over.
            batch_size: ids of a transaction.

        Returns:
            How many were removed.

        Raises:
            OutputError: E502, E503.
        """
        n = 0
        for batch in write.batches(ids, batch_size):
            with self._database.writing() as connection:
                n += write.remove(connection, batch)
        if n:
            renew_meta(self._database)
        return n

    def copy_to(self, folder: str | Path, *, keep: Collection[str] = ()) -> None:
        """Copy the store as it is now to another folder, in the place of a store that is there and of what was made of that.

        Args:
            folder: where to; one that has the store as it is now stays as it is.
            keep: names of folders there that stay nevertheless, such as ``vectors``.

        Raises:
            OutputError: E502 if the folder cannot be written.
        """
        copy_store(self._database, Path(folder), keep)

    def check(self) -> None:
        """Read everything, and compare what must agree.

        Raises:
            CheckpointError: E501 if something is damaged.
        """
        with self._database.reading() as connection:
            check_tables(connection, self._folder)

    def _amend(self, given: Mapping[str, list[T]], change: Callable[[Entity, list[T]], Entity]) -> None:
        """Write entities that are changed by what was given for their ids."""
        with self._database.writing() as connection:
            rows = read.find(connection, list(given))
            missing = [id_ for id_, row in zip(given, rows, strict=True) if row < 0]
            if missing:
                raise error("E505", path=self._folder, id=missing[0])
            entities = read.fetch(connection, rows)
            for row, new in zip(rows.tolist(), given.values(), strict=True):  # two ids may lead to one entity
                entities[row] = change(entities[row], new)
            report = write.Adding(connection).put(connection, list(entities.values()))
        renew_meta(self._database)
        report.warn()


def _reopen(folder: Path, read_only: bool, wait: float) -> EntityStore:
    return EntityStore(folder, read_only=read_only, wait=wait)
