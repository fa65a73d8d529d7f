"""A store of a growing corpus's mentions, their vectors and their clusters, in one SQLite file.

A folder::

    clusters.sqlite   documents, mentions with their contexts and vectors, clusters, which of them have merged, and their links
    lock              held by the process that changes it

A change is one transaction: a process that is killed leaves the store as it was before. Who reads meanwhile sees that, too. A
cluster's number is never given again; where two clusters merge, the lower number stays, and the other one leads to it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import EntityKitError, error
from entitykit.knowledge.candidates import Mention
from entitykit.knowledge.cluster_file import FILE, ClusterFile
from entitykit.knowledge.cluster_schema import NewDocument, cluster_id, make_tables
from entitykit.knowledge.connection import connect
from entitykit.knowledge.files import locked, sync_names
from entitykit.knowledge.index import VectorIndex

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

EXACT = 2**18
"""Up to so many mentions all are compared with each other, which is faster than a graph, and finds all neighbours. Above, an
inverted file finds nearly all of them, and warns if it does not (W550)."""

_CHOSEN = "(SELECT value FROM json_each(?))"


class ClusterStore(ClusterFile):
    """Mentions and their clusters; made by `create`, opened by `open`. An object is for one thread and process.

    Args:
        folder: of the store.
        read_only: refuse to write. Then the folder may be one where nothing can be written.

    Raises:
        CheckpointError: E633 if there is no store, E634 if it is damaged.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False) -> None:
        super().__init__(folder, read_only=read_only)
        self._index: VectorIndex | None = None
        self._version = -1

    @classmethod
    def open(cls, folder: str | Path, *, read_only: bool = False) -> ClusterStore:
        """Open a store; see `ClusterStore`."""
        return cls(folder, read_only=read_only)

    @classmethod
    def create(cls, folder: str | Path, *, width: int, fingerprint: str, or_open: bool = False) -> ClusterStore:
        """Make an empty store and open it.

        Args:
            folder: where; it need not exist.
            width: size of a vector.
            fingerprint: of the weights that make the vectors.
            or_open: open one that is there by then, such as another process may have made meanwhile.

        Raises:
            OutputError: E635 if the folder cannot be written, or holds a store.
        """
        folder = Path(folder)
        new = folder / f"{FILE}.new"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if (folder / FILE).exists():
                    if or_open:
                        return cls(folder)
                    raise error("E635", path=folder, reason="there is a store already")
                for path in (new, *(folder / f"{new.name}{end}" for end in ("-wal", "-shm", "-journal"))):
                    path.unlink(missing_ok=True)
                with closing(connect(new, "mode=rwc")) as connection:
                    make_tables(connection, width, fingerprint)
                os.replace(new, folder / FILE)
                sync_names(folder)
        except (OSError, sqlite3.Error) as problem:
            if isinstance(problem, EntityKitError):
                raise
            raise error("E635", path=folder, reason=problem) from problem
        return cls(folder)

    def __enter__(self) -> ClusterStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Numbers

    @property
    def n_documents(self) -> int:
        """Documents, those without mentions included."""
        return int(self._one("SELECT count(*) FROM documents")[0])

    @property
    def n_mentions(self) -> int:
        """Mentions of all documents."""
        return int(self._one("SELECT count(*) FROM mentions")[0])

    @property
    def sizes(self) -> Ints:
        """Mentions of each cluster that has any *(n_clusters,)*, by number of the cluster."""
        rows = self._all("SELECT count(*) FROM mentions GROUP BY cluster ORDER BY cluster")
        return np.array(rows, dtype=np.int64).reshape(-1)

    @property
    def n_merged(self) -> int:
        """Clusters that are part of others by now."""
        return int(self._one("SELECT count(*) FROM merged")[0])

    @property
    def next_cluster(self) -> int:
        """Number of the next new cluster."""
        return int(self._one("SELECT next_cluster FROM store")[0])

    @property
    def last_mention(self) -> int:
        """The highest number that a mention ever had."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'mentions'")[0])

    # Reading

    def digests(self, ids: Sequence[str]) -> dict[str, str]:
        """Digests of documents that are there, by id."""
        found = ((id_, self._all("SELECT digest FROM documents WHERE id = ?", id_)) for id_ in ids)  # JSON ends a text at NUL
        return {id_: rows[0][0] for id_, rows in found if rows}

    def clusters_in(self, id_: str) -> dict[tuple[int, int], int]:
        """Clusters of a document's mentions, by start and end in characters."""
        query = "SELECT start, stop, cluster FROM mentions JOIN documents USING (document) WHERE id = ?"
        return {(start, stop): cluster for start, stop, cluster in self._all(query, id_)}

    def resolve(self, cluster: int) -> int:
        """The cluster that another one is part of by now; itself if it never merged."""
        rows = self._all("SELECT kept FROM merged WHERE cluster = ?", cluster)
        return int(rows[0][0]) if rows else cluster

    def nearest(self, vectors: Floats, k: int, *, without: Ints | None = None) -> tuple[Floats, Ints]:
        """Cosines *(n, k)*, falling, and numbers *(n, k)* of the nearest mentions; where there are fewer, −∞ and -1.

        Args:
            vectors: *(n, width)*.
            k: how many.
            without: mentions *(m,)* that are not to be found.
        """
        index = self._fresh_index()
        if without is not None and len(without):
            index = index.copy()
            index.remove(without)
        return index.search(vectors, k)

    def clusters_of(self, mentions: Ints) -> Ints:
        """Clusters *(n,)* of mentions *(n,)*, which rise."""
        rows = self._all(f"SELECT cluster FROM mentions WHERE mention IN {_CHOSEN} ORDER BY mention", _dump(mentions))
        return np.array(rows, dtype=np.int64).reshape(-1)

    def members(self, clusters: Ints) -> tuple[Ints, Ints]:
        """Mentions *(n,)* of clusters, which rise, and their clusters *(n,)*."""
        query = f"SELECT mention, cluster FROM mentions WHERE cluster IN {_CHOSEN} ORDER BY mention"
        table = np.array(self._all(query, _dump(clusters)), dtype=np.int64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def vectors(self, mentions: Ints) -> Floats:
        """Vectors *(n, width)* of mentions *(n,)*, which rise."""
        rows = self._all(f"SELECT vector FROM mentions WHERE mention IN {_CHOSEN} ORDER BY mention", _dump(mentions))
        return self._unpack(row[0] for row in rows)

    def mentions(self, mentions: Ints) -> list[Mention]:
        """Mentions in context, by their numbers, which rise."""
        query = f"SELECT text, before, behind FROM mentions WHERE mention IN {_CHOSEN} ORDER BY mention"
        return [Mention(*row) for row in self._all(query, _dump(mentions))]

    def export(self) -> Iterator[dict[str, Any]]:
        """All clusters by number, as JSON values: `id` and `mentions` with `document`, `start`, `end`, `label` and `text`.

        Where it was decided, also `kb_id`, the cluster's entity, empty if no knowledge base has it.
        """
        query = (
            "SELECT cluster, kb_id, id, start, stop, label, text FROM mentions JOIN documents USING (document) "
            "LEFT JOIN links USING (cluster) ORDER BY cluster, document, start, stop"
        )
        keys = ("document", "start", "end", "label", "text")
        found: dict[str, Any] = {}
        with self._coded():
            for cluster, kb_id, *values in self._connection.execute(query):
                if found and found["id"] != cluster_id(cluster):
                    yield found
                    found = {}
                link = {} if kb_id is None else {"kb_id": kb_id}
                found = found or {"id": cluster_id(cluster), **link, "mentions": []}
                found["mentions"].append(dict(zip(keys, values, strict=True)))
        if found:
            yield found

    def mean_candidates(self, clusters: Ints) -> dict[int, dict[str, float]]:
        """Of each cluster the ids of candidates with their mean probability over its mentions that a linker has seen.

        Clusters without such a mention are left out.
        """
        there = f"FROM mentions JOIN candidates USING (mention) WHERE cluster IN {_CHOSEN}"
        counts = dict(self._all(f"SELECT cluster, count(*) {there} GROUP BY cluster", _dump(clusters)))
        found: dict[int, dict[str, float]] = {cluster: {} for cluster in counts}
        each = there.replace("WHERE", ", json_each(found) WHERE")
        for cluster, id_, total in self._all(f"SELECT cluster, key, sum(value) {each} GROUP BY cluster, key", _dump(clusters)):
            found[cluster][_given(id_)] = total / counts[cluster]
        return found

    def links_of(self, clusters: Ints) -> dict[int, str]:
        """The entity of each cluster for which it was decided, empty if no knowledge base has it."""
        return dict(self._all(f"SELECT cluster, kb_id FROM links WHERE cluster IN {_CHOSEN}", _dump(clusters)))

    def undecided(self) -> Ints:
        """Clusters *(n,)*, rising, that have candidates and no link, such as those that have merged or lost mentions."""
        query = (
            "SELECT DISTINCT cluster FROM mentions WHERE cluster NOT IN (SELECT cluster FROM links) "
            "AND EXISTS (SELECT 1 FROM candidates WHERE candidates.mention = mentions.mention) ORDER BY cluster"
        )
        return np.array(self._all(query), dtype=np.int64).reshape(-1)

    # Writing

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change the store: all that is done within the block, or nothing. Others who want to change it wait.

        A block within another is part of the outer one's change: what it does is lost if it fails, or if that does.

        Raises:
            OutputError: E635 if the store cannot be written.
        """
        if self.read_only:
            raise error("E635", path=self.folder, reason="it was opened to be read only")
        outermost = not self._changing
        try:
            with self._writing():
                yield
                if outermost:
                    self._connection.execute("UPDATE store SET version = version + 1")
        except BaseException:
            self._index = None
            raise
        self._version += 1 if outermost and self._index is not None else 0

    def remove(self, ids: Sequence[str]) -> int:
        """Take documents out, within `changing`; the answer is how many there were. Their clusters lose their links."""
        rows = [row for id_ in ids for row in self._all("SELECT document FROM documents WHERE id = ?", id_)]
        values = (_dump(np.array(rows, dtype=np.int64).reshape(-1)),)
        there, execute = f"FROM mentions WHERE document IN {_CHOSEN}", self._connection.execute
        gone = self._all(f"SELECT mention {there}", *values)
        if gone:
            self._fresh_index().remove(np.array(gone, dtype=np.int64).reshape(-1))
        execute(f"DELETE FROM links WHERE cluster IN (SELECT cluster {there})", values)
        execute(f"DELETE FROM candidates WHERE mention IN (SELECT mention {there})", values)
        execute(f"DELETE {there}", values)
        return execute(f"DELETE FROM documents WHERE document IN {_CHOSEN}", values).rowcount

    def put(self, documents: Sequence[NewDocument], clusters: Ints, merged: Mapping[int, int]) -> None:
        """Put documents in, within `changing`.

        Args:
            documents: that are not there.
            clusters: of their mentions *(n_mentions,)*, one after the other.
            merged: clusters that are now part of others with lower numbers.

        Raises:
            InputError: E639 for a document that is there.
        """
        for id_ in self.digests([each.id for each in documents]):
            raise error("E639", id=id_, found="in the store already", expected="a new document", advice="Take that out first")
        index, first, execute = self._fresh_index(), self.last_mention + 1, self._connection.execute
        for old, kept in merged.items():
            execute("UPDATE mentions SET cluster = ? WHERE cluster = ?", (kept, old))
            execute("UPDATE merged SET kept = ? WHERE kept = ?", (kept, old))
            execute("INSERT INTO merged VALUES (?, ?)", (old, kept))
            execute("DELETE FROM links WHERE cluster IN (?, ?)", (old, kept))  # which nobody has decided together
        left = iter(clusters.tolist())
        for each in documents:
            number = execute("INSERT INTO documents (id, digest) VALUES (?, ?)", (each.id, each.digest)).lastrowid
            rows = zip(each.places, each.labels, each.mentions, each.vectors.astype("<f4"), strict=True)
            self._connection.executemany(
                "INSERT INTO mentions (document, cluster, start, stop, label, text, before, behind, vector) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (number, next(left), *place, label, mention.text, mention.left, mention.right, vector.tobytes())
                    for place, label, mention, vector in rows
                ),
            )
        if len(clusters):
            execute("UPDATE store SET next_cluster = max(next_cluster, ?)", (int(clusters.max()) + 1,))
            vectors = np.concatenate([each.vectors for each in documents])
            index.add(vectors, np.arange(first, first + len(vectors)))

    def put_candidates(self, id_: str, found: Mapping[tuple[int, int], Mapping[str, float]]) -> None:
        """Keep what a linker says of a document's mentions, within `changing`.

        Args:
            id_: of the document.
            found: ids and probabilities of candidates by start and end of the mentions in characters.
        """
        query = (
            "INSERT OR REPLACE INTO candidates SELECT mention, ? FROM mentions JOIN documents USING (document) "
            "WHERE id = ? AND start = ? AND stop = ?"
        )
        said = {place: json.dumps({_kept(name): p for name, p in each.items()}) for place, each in found.items()}
        self._connection.executemany(query, ((each, id_, *place) for place, each in said.items()))

    def link(self, decided: Mapping[int, str]) -> None:
        """Keep the entities of clusters, empty for those that no knowledge base has, within `changing`."""
        self._connection.executemany("INSERT OR REPLACE INTO links VALUES (?, ?)", decided.items())

    # The file

    def _fresh_index(self) -> VectorIndex:
        """The vectors of all mentions, read anew if somebody else has changed the store, or if it has outgrown `EXACT`."""
        version = int(self._one("SELECT version FROM store")[0])
        if self._index is None or self._version != version or (self._index.kind == "flat" and len(self._index) > EXACT):
            rows = self._all("SELECT mention, vector FROM mentions ORDER BY mention")
            numbers = np.array([row[0] for row in rows], dtype=np.int64)
            vectors = self._unpack(row[1] for row in rows)
            kind = "flat" if len(numbers) <= EXACT else "ivf"
            self._index = VectorIndex.build(vectors, numbers, fingerprint=self.fingerprint, width=self.width, kind=kind)
            self._version = version
        return self._index

    def _unpack(self, blobs: Iterator[bytes]) -> Floats:
        data = b"".join(blobs)
        if len(data) % (4 * self.width):
            expected = f"{4 * self.width} bytes each"
            raise error("E634", path=self.folder / FILE, found=f"vectors of {len(data)} bytes together", expected=expected)
        return np.frombuffer(data, dtype="<f4").reshape(-1, self.width).astype(np.float32)


def _dump(numbers: Ints) -> str:
    return json.dumps(numbers.tolist())


def _kept(id_: str) -> str:
    """An entity's id as a key of JSON, where SQLite ends a text at NUL."""
    return id_.replace("\\", "\\\\").replace("\0", "\\0")


def _given(key: str) -> str:
    """The id again."""
    return re.sub(r"\\(.)", lambda found: "\0" if found[1] == "0" else found[1], key)
