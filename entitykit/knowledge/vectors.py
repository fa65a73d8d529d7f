"""A table of entity vectors on disk: frozen, mapped into memory, and updated while others read it.

A table is a folder::

    table.json            what is committed: sizes, and the name of the files that they belong to
    vectors-NAME.bin      rows of little-endian floats, of which committed ones never change
    ids-NAME.jsonl        a log: {"id": "Q42", "row": 7} puts an id at a row, {"id": "Q42", "row": null} removes it
    index-NAME-N.bin      the first N bytes of the log by hash: sorted hashes, then offsets in the log, then rows
    lock                  held by the process that writes

A write appends rows, then lines of the log, brings both to the disk, and only then replaces table.json in one step. So a
process that is killed while it writes leaves the last committed state, and whoever opened the table before keeps reading the
state of that moment. Opening reads no vectors, and only the ids that were put since the index was written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entitykit.errors import error
from entitykit.knowledge.files import append_to_file, locked, write_file, writing
from entitykit.knowledge.state import (
    DTYPES,
    TABLE,
    Commit,
    Index,
    State,
    digest,
    make_key,
    make_line,
    new_files,
    open_state,
    publish,
    sorted_index,
)

RECENT = 2**16
"""So many ids may lie outside the index; they are read when the table is opened."""

_BLOCK = 4096  # rows that are copied at once


class VectorTable:
    """External vectors of entities, by id.

    An object reads the state that was committed when it was opened or refreshed, or when it wrote itself. It may be shared by
    threads and with forked processes; where it is unpickled, it is opened.

    Args:
        path: folder of a table that `create` made.

    Raises:
        CheckpointError: E050 if there is no table, E051 if it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._folder = Path(path).absolute()
        self._now = open_state(self._folder, None)

    @classmethod
    def create(cls, path: str | Path, width: int, dtype: str = "float32") -> VectorTable:
        """Make an empty table.

        Args:
            path: its folder, which need not exist.
            width: size of a vector.
            dtype: of the stored numbers, ``float32`` or ``float16``.

        Raises:
            ConfigError: E056 for a width or type that cannot be.
            OutputError: E055 if the folder cannot be written, or holds a table.
        """
        if width < 1:
            raise error("E056", setting="width", found=width, expected="at least 1")
        if dtype not in DTYPES:
            raise error("E056", setting="dtype", found=dtype, expected=" or ".join(DTYPES))
        folder = Path(path)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                if (folder / TABLE).exists():
                    raise error("E055", path=folder, reason="there is a table already")
                commit = Commit(files=new_files(), width=width, dtype=dtype)
                write_file(folder / commit.vectors_name, [])
                write_file(folder / commit.log_name, [])
                publish(folder, commit)
        return cls(folder)

    @property
    def path(self) -> Path:
        """The table's folder."""
        return self._folder

    @property
    def width(self) -> int:
        """Size of a vector."""
        return self._now.commit.width

    @property
    def dtype(self) -> str:
        """Type of the stored numbers."""
        return self._now.commit.dtype

    def __len__(self) -> int:
        return self._now.commit.entries

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, str) and bool(self._now.find([make_key(id_)])[0] >= 0)

    def __reduce__(self) -> tuple[type[VectorTable], tuple[Path]]:
        return type(self), (self._folder,)

    def ids(self) -> Iterator[str]:
        """Iterate over the ids in the order in which they were put last."""
        return (json.loads(key) for key, _ in self._now.entries())

    def lookup(self, ids: Sequence[str | None]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Get vectors.

        Args:
            ids: none, or an id that is not in the table, is absent.

        Returns:
            Vectors *(n, width)*, zeros for the absent, and *(n,)* which are present.

        Raises:
            InputError: E054 if an id is no string.
            CheckpointError: E051 if the table is damaged there.
        """
        now = self._now
        rows = now.find([None if id_ is None else _key(id_) for id_ in _sequence(ids)])
        present = rows >= 0
        vectors = np.zeros((len(rows), now.commit.width), dtype=np.float32)
        vectors[present] = now.vectors[rows[present]]
        if not np.isfinite(vectors).all():
            raise error("E051", path=self._folder / now.commit.vectors_name, found="NaN or infinite", expected="finite numbers")
        return vectors, present

    def put(self, ids: Sequence[str], vectors: ArrayLike) -> int:
        """Add or replace vectors: all of them or, if the process dies, none.

        Args:
            ids: each once.
            vectors: *(n, width)* finite numbers; they are rounded to the table's type.

        Returns:
            How many ids are new.

        Raises:
            InputError: E052 if the shapes do not fit, E053 for numbers that the table cannot hold, E054 for ids that cannot be.
            OutputError: E055 if the table cannot be written; it is then as before.
        """
        keys = _distinct(ids)
        rows = self._storable(ids, vectors)
        with self._changing() as now:
            n_new = int((now.find(keys) < 0).sum())
            if keys:
                first = now.commit.rows
                append_to_file(self._folder / now.commit.vectors_name, first * now.commit.row_bytes, [rows.data])
                commit = replace(now.commit, rows=first + len(rows), entries=now.commit.entries + n_new)
                self._append(now, commit, [make_line(key, row) for row, key in enumerate(keys, start=first)])
        return n_new

    def remove(self, ids: Sequence[str]) -> int:
        """Remove vectors: all of them or, if the process dies, none.

        Args:
            ids: each once; those that are not in the table are passed over.

        Returns:
            How many were in the table.

        Raises:
            InputError: E054 for ids that cannot be.
            OutputError: E055 if the table cannot be written; it is then as before.
        """
        keys = _distinct(ids)
        with self._changing() as now:
            present = now.find(keys) >= 0
            lines = [make_line(key, None) for key, found in zip(keys, present, strict=True) if found]
            if lines:
                self._append(now, replace(now.commit, entries=now.commit.entries - len(lines)), lines)
        return len(lines)

    def refresh(self) -> bool:
        """See what others have written; the answer is whether that is anything.

        Raises:
            CheckpointError: E050 or E051 if the table is gone or damaged; the object then stays as it is.
        """
        before, self._now = self._now, open_state(self._folder, self._now)
        return self._now is not before

    def compact(self) -> None:
        """Write the table anew, without the rows and lines that were replaced or removed.

        Raises:
            OutputError: E055 if the table cannot be written; it is then as before.
        """
        with self._changing() as now:
            n = now.commit.entries
            commit = replace(now.commit, files=new_files(), rows=n, index_entries=n)
            rows = np.empty(n, dtype=np.int64)
            index: Index = np.empty((3, n), dtype="<u8")

            def lines() -> Iterator[bytes]:
                offset = 0
                for new, (key, row) in enumerate(now.entries()):
                    rows[new], index[:, new] = row, (digest(key), offset, new)
                    line = make_line(key, new)
                    yield line
                    offset += len(line)

            size = write_file(self._folder / commit.log_name, lines())
            commit = replace(commit, log=size, indexed=size)
            blocks = (now.vectors[rows[i : i + _BLOCK]].data for i in range(0, n, _BLOCK))
            write_file(self._folder / commit.vectors_name, blocks)
            self._publish(now, commit, sorted_index(index))

    def _storable(self, ids: Sequence[str], vectors: ArrayLike) -> NDArray[np.floating]:
        given = np.asarray(vectors)
        if given.shape != (len(ids), self.width) or given.dtype.kind not in "fiu":
            raise error("E052", n=len(ids), width=self.width, found=f"{given.dtype} {given.shape}")
        with np.errstate(over="ignore"):
            rows: NDArray[np.floating] = np.ascontiguousarray(given, dtype=DTYPES[self.dtype])
        bad = ~np.isfinite(rows).all(axis=1)
        if bad.any():
            raise error("E053", n=int(bad.sum()), dtype=self.dtype, example=ids[int(bad.argmax())])
        return rows

    @contextmanager
    def _changing(self) -> Iterator[State]:
        """Hold the lock, and give the newest state."""
        with writing(self._folder), locked(self._folder):
            self.refresh()
            yield self._now

    def _append(self, now: State, commit: Commit, lines: Sequence[bytes]) -> None:
        """Append to the log, renew the index if too many ids lie outside of it, and commit."""
        append_to_file(self._folder / commit.log_name, commit.log, lines)
        commit = replace(commit, log=commit.log + sum(map(len, lines)))
        after = State(self._folder, commit, now)
        if len(after.recent) > RECENT:
            self._publish(after, replace(commit, indexed=commit.log, index_entries=commit.entries), after.merged_index())
        else:
            self._publish(after, commit)

    def _publish(self, before: State, commit: Commit, index: Index | None = None) -> None:
        if index is not None:
            write_file(self._folder / commit.index_name, [index.data] if commit.index_entries else [])
        publish(self._folder, commit)
        self._now = open_state(self._folder, before)


def vector_table(path: str | Path) -> VectorTable:
    """Open a table of entity vectors, registered as ``entitykit.VectorTable.v1``.

    Args:
        path: its folder.
    """
    return VectorTable(path)


def _sequence(ids: Sequence[str | None]) -> Sequence[str | None]:
    """Refuse one string, which is a sequence of its characters."""
    if isinstance(ids, str):
        raise error("E054", found=f"the string {ids[:80]!r}")
    return ids


def _key(id_: object) -> bytes:
    if not isinstance(id_, str):
        raise error("E054", found=f"{id_!r}")
    return make_key(id_)


def _distinct(ids: Sequence[str]) -> list[bytes]:
    """Keys of ids that can be put or removed."""
    keys: dict[bytes, None] = {}
    for id_ in _sequence(ids):
        key = _key(id_)
        if not id_ or key in keys:
            raise error("E054", found=f"{id_!r}" + " twice" * (key in keys))
        keys[key] = None
    return list(keys)
