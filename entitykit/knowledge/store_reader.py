"""What can be read from a store: entities by id and row, and candidates by name, words and trigrams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entitykit.errors import error
from entitykit.knowledge import store_read as read
from entitykit.knowledge import store_search as search
from entitykit.knowledge.connection import Database
from entitykit.knowledge.entities import Entity, Phrase
from entitykit.knowledge.schema import newest_meta, read_meta, state_of
from entitykit.knowledge.store_search import AliasMatch, FuzzyMatch, Links, TextMatch
from entitykit.knowledge.store_words import K1, B, description_scores

T = TypeVar("T")

POSTINGS = 5_000
"""So many entities are compared with a query."""

LEAST = 0.5
"""Similarity of names that are taken for like."""

WAIT = 10.0
"""Seconds for which a writer waits for another one."""


class StoreReader:
    """The reading part of `EntityStore`. Every call sees one state, that of the moment when it began.

    Args:
        folder: where the store was built.
        read_only: refuse to write.
        wait: seconds for which a write waits for another writer.

    Raises:
        CheckpointError: E500 if it cannot be opened, E501 if it is damaged or was copied in part.
        ConfigError: E508 if this Python's SQLite lacks something.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False, wait: float = WAIT) -> None:
        self._folder = Path(folder).absolute()
        self._database = Database(self._folder, read_meta(self._folder), read_only=read_only, wait=wait)
        len(self)  # what cannot be read fails here

    @property
    def folder(self) -> Path:
        """Where the store is."""
        return self._folder

    @property
    def version(self) -> int:
        """A number that grows with every change, whoever makes it."""
        return self._newest("version")

    @property
    def state(self) -> str:
        """A random name that every change gives anew, so that no other store has it; empty if it has none (`was_in`)."""
        with self._database.reading() as connection:
            return state_of(connection, self.version)

    @property
    def n_aliases(self) -> int:
        """How many names and aliases all entities have."""
        return self._newest("aliases")

    @property
    def n_described(self) -> int:
        """How many entities have a description."""
        return self._count("entities WHERE description <> ''")

    @property
    def n_redirects(self) -> int:
        """How many ids lead to another."""
        return self._count("redirects")

    @property
    def n_phrases(self) -> int:
        """How many phrases were counted in text."""
        return self._count("totals")

    def __len__(self) -> int:
        return self._newest("entities")

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and bool(self.rows([id_])[0] >= 0)

    def __iter__(self) -> Iterator[Entity]:
        """All entities by row, as they were when this began."""
        return read.iterate(self._database)

    def close(self) -> None:
        """Close the file, for all threads."""
        self._database.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All that this thread reads in the block is of one state; it cannot write in it."""
        with self._database.reading():
            yield

    def entity(self, id_: str) -> Entity | None:
        """The entity that an id, or a redirect, leads to."""
        with self._database.reading() as connection:
            rows = read.find(connection, [id_])
            return read.fetch(connection, rows).get(int(rows[0]))

    def entities(self, rows: ArrayLike) -> list[Entity]:
        """Entities of rows *(n,)*.

        Raises:
            InputError: E506 for rows without entity.
        """
        with self._database.reading() as connection:
            return self._all(rows, read.fetch(connection, rows))

    def row(self, id_: str) -> int:
        """The row that an id, or a redirect, leads to.

        Raises:
            InputError: E505 if there is none.
        """
        row = int(self.rows([id_])[0])
        if row < 0:
            raise error("E505", path=self._folder, id=id_)
        return row

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows *(n,)* that ids, or redirects, lead to; -1 where there is none."""
        with self._database.reading() as connection:
            return read.find(connection, ids)

    def ids(self, rows: ArrayLike) -> list[str]:
        """Ids of rows *(n,)*.

        Raises:
            InputError: E506 for rows without entity.
        """
        with self._database.reading() as connection:
            return self._all(rows, read.ids_of(connection, rows))

    def alive(self, rows: ArrayLike) -> NDArray[np.bool_]:
        """Whether rows have an entity, in the shape of the rows."""
        with self._database.reading() as connection:
            return np.isin(rows, list(read.ids_of(connection, rows)))

    def described(self, rows: ArrayLike) -> NDArray[np.bool_]:
        """Whether rows *(n,)* have an entity with a description."""
        with self._database.reading() as connection:
            found = read.descriptions(connection, rows)
        return np.array([bool(found.get(row)) for row in np.asarray(rows, dtype=np.int64).tolist()], dtype=bool)

    def changed(self, since: int) -> NDArray[np.int64]:
        """Rows that were added, updated or removed after a version, in order: what an index of that version must look at."""
        with self._database.reading() as connection:
            return read.changed(connection, since)

    def was_in(self, version: int, state: str) -> bool:
        """Whether this store, or that of which it is a copy, has been in a state, since which `changed` tells what is new.

        Args:
            version: of the state.
            state: its name; empty: nobody knows, because it was written down before states had names; then the number decides.
        """
        with self._database.reading() as connection:
            return state_of(connection, version) == state if state else version <= self.version

    def names(self) -> Iterator[tuple[int, str]]:
        """Row and text of all names and aliases by row, as they were when this began."""
        return read.names(self._database)

    def phrases(self) -> Iterator[Phrase]:
        """All phrases that were counted in text, normalised, in order, as they were when this began."""
        return read.phrases(self._database)

    def by_alias(self, text: str, *, normalised: bool = True) -> list[AliasMatch]:
        """Find entities by a name.

        Args:
            text: any text.
            normalised: take all names with the same key (`entitykit.knowledge.text.normalise`), not only the same characters.

        Returns:
            Matches by falling p(entity | name), then by falling popularity.
        """
        return self.by_alias_batch([text], normalised=normalised)[0]

    def by_alias_batch(self, texts: Sequence[str], *, normalised: bool = True) -> list[list[AliasMatch]]:
        """Find entities by several names, faster than one by one; see `by_alias`."""
        with self._database.reading() as connection:
            return search.by_alias(connection, texts, normalised=normalised)

    def priors(self, texts: Sequence[str], rows: Sequence[Sequence[int]], *, normalised: bool = True) -> list[dict[int, float]]:
        """p(entity | name) of some entities of each name, however many others it has; see `by_alias`.

        Args:
            texts: names.
            rows: the entities that are asked for, of each name.
            normalised: see `by_alias`.

        Returns:
            Of each name the probabilities by row; entities that it does not name are left out.
        """
        with self._database.reading() as connection:
            return search.priors(connection, texts, rows, normalised=normalised)

    def by_words(self, query: str, limit: int, *, postings: int = POSTINGS) -> list[TextMatch]:
        """Find entities whose name, aliases or description share words with a text, by BM25 (Robertson & Zaragoza 2009).

        Args:
            query: any text; its words count, not their order, and nothing in it is an operator.
            limit: at most so many matches.
            postings: entities are found by the rarest words, at least one, as long as so many entities have them, and scored by
                the next ones, too, as long as those are 20 times as many. More common words tell little and take long.

        Returns:
            Matches by falling score.

        Raises:
            InputError: E507 for a limit below 1.
        """
        _check_limit(limit)
        with self._database.reading() as connection:
            return search.by_words(connection, query, limit, postings=postings)

    def word_scores(self, query: str, rows: Sequence[int], *, postings: int = POSTINGS) -> dict[int, float]:
        """What `by_words` scores, of some entities, found by it or not; those without any of the words are left out.

        Args:
            query: see `by_words`.
            rows: the entities that are asked for.
            postings: see `by_words`.
        """
        with self._database.reading() as connection:
            return search.word_scores(connection, query, rows, postings=postings)

    def description_scores(
        self, words: Sequence[Sequence[str]], rows: Sequence[int], *, k1: float = K1, b: float = B
    ) -> list[NDArray[np.float64]]:
        """What each of some words adds to the BM25 score of an entity's description among all descriptions.

        Names and aliases do not count. Words count in all their forms, as in `by_words`; those that half of the descriptions
        have, or more, add nothing.

        Args:
            words: some for each entity; in the place of a word may stand any text, whose words add up.
            rows: of the entities *(n,)*.
            k1: how much more a word that occurs often says.
            b: how much less it says in a long description.

        Returns:
            Of each entity what its words add *(n_words,)*.

        Raises:
            InputError: E506 for rows without entity.
        """
        with self._database.reading() as connection:
            descriptions = read.descriptions(connection, rows)
            self._all(rows, descriptions)
            return description_scores(connection, words, rows, descriptions, k1=k1, b=b)

    def by_ngrams(self, text: str, limit: int, *, least: float = LEAST) -> list[FuzzyMatch]:
        """Find entities by names that share character trigrams with a text.

        Args:
            text: any text; it is normalised.
            limit: at most so many matches.
            least: only names with this similarity or more; more than 0.

        Returns:
            Matches by falling similarity, each entity once; of equal ones, those with the higher alias count first.

        Raises:
            InputError: E507 for a limit below 1 or a similarity that cannot be.
        """
        _check_limit(limit)
        if not 0 < least <= 1:
            raise error("E507", option="least", found=least, expected="more than 0, up to 1")
        with self._database.reading() as connection:
            return search.by_ngrams(connection, text, limit, least=least)

    def links(self, keys: Iterable[str]) -> dict[str, Links]:
        """How often phrases, normalised, name entities and occur in text; those that are no alias are left out."""
        with self._database.reading() as connection:
            return search.links(connection, keys)

    def next_keys(self, keys: Iterable[str]) -> dict[str, str | None]:
        """The first alias, normalised, that is not before each key in the order of their characters."""
        with self._database.reading() as connection:
            return search.next_keys(connection, keys)

    def _count(self, rows: str) -> int:
        with self._database.reading() as connection:
            return int(connection.execute(f"SELECT count(*) FROM {rows}").fetchone()[0])

    def _newest(self, what: str) -> int:
        with self._database.reading() as connection:
            return int(getattr(newest_meta(connection, self._database.meta), what))

    def _all(self, rows: ArrayLike, found: Mapping[int, T]) -> list[T]:
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1).tolist()
        missing = [row for row in wanted if row not in found]
        if missing:
            raise error("E506", path=self._folder, n=len(missing), row=missing[0])
        return [found[row] for row in wanted]


def _check_limit(limit: int) -> None:
    if limit < 1:
        raise error("E507", option="limit", found=limit, expected="1 or more")
