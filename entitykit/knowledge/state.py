"""What a table of vectors is at one moment: `Commit`, as it stands in table.json, and `State`, its files mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import CheckpointError, EntityKitError, error
from entitykit.knowledge import files
from entitykit.knowledge.files import map_file

DTYPES = {"float32": "<f4", "float16": "<f2"}
VERSION = 1
TABLE = "table.json"

_OURS = re.compile(r"(vectors|ids|index)-[0-9a-f]+(-\d+)?\.(bin|jsonl)")
_BEFORE_ID, _BEFORE_ROW, _END = b'{"id": ', b', "row": ', b"}\n"

Index = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What table.json holds.

    Attributes:
        version: of the format.
        files: what the names of this state's files have in common; new for every table and whenever it is compacted.
        width: size of a vector.
        dtype: of a stored number.
        rows: vectors in the file, replaced and removed ones among them.
        entries: ids in the table.
        log: bytes of the log.
        indexed: bytes of the log that the index covers.
        index_entries: ids in the index.
    """

    version: int = VERSION
    files: str
    width: int
    dtype: str
    rows: int = 0
    entries: int = 0
    log: int = 0
    indexed: int = 0
    index_entries: int = 0

    @property
    def vectors_name(self) -> str:
        """File of the vectors."""
        return f"vectors-{self.files}.bin"

    @property
    def log_name(self) -> str:
        """File of the log."""
        return f"ids-{self.files}.jsonl"

    @property
    def index_name(self) -> str:
        """File of the index, which a table without index does not have."""
        return f"index-{self.files}-{self.indexed}.bin"

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector."""
        return self.width * np.dtype(DTYPES[self.dtype]).itemsize


class State:
    """One state, mapped; it never changes.

    Args:
        folder: of the table.
        commit: the state.
        before: an older state, whose part of the log need not be read again.

    Attributes:
        vectors: *(rows, width)*, as stored.
        recent: what the index does not cover: key to offset in the log and row, -1 for removed.

    Raises:
        CheckpointError: E050 if a file is missing, E051 if one is damaged.
    """

    def __init__(self, folder: Path, commit: Commit, before: State | None = None) -> None:
        self.folder, self.commit = folder, commit
        mapped = map_file(folder / commit.vectors_name, commit.rows * commit.row_bytes, random=True)
        self.vectors = np.frombuffer(mapped, dtype=DTYPES[commit.dtype]).reshape(commit.rows, commit.width)
        self._log = map_file(folder / commit.log_name, commit.log)
        size = 3 * 8 * commit.index_entries
        mapped = map_file(folder / commit.index_name, size) if size else b""
        self._index: Index = np.frombuffer(mapped, dtype="<u8").reshape(3, commit.index_entries)
        self.recent: dict[bytes, tuple[int, int]] = {}
        start = commit.indexed
        if before is not None and (before.commit.files, before.commit.indexed) == (commit.files, commit.indexed):
            self.recent, start = dict(before.recent), before.commit.log
        for line in bytes(self._log[start:]).splitlines(keepends=True):
            key, row = self._parse(line)
            self.recent.pop(key, None)  # so that the order is that of the last lines
            self.recent[key] = (start, row)
            start += len(line)

    def find(self, keys: Sequence[bytes | None]) -> NDArray[np.int64]:
        """Rows *(n,)* of keys; -1 for those that are not in the table."""
        rows = np.full(len(keys), -1, dtype=np.int64)
        older = []
        for i, key in enumerate(keys):
            if key is not None and key in self.recent:
                rows[i] = self.recent[key][1]
            elif key is not None:
                older.append((i, key))
        places = self._places([key for _, key in older])
        found = [(i, place) for (i, _), place in zip(older, places.tolist(), strict=True) if place >= 0]
        for i, place in found:
            rows[i] = self._index[2, place]
        if (rows >= self.commit.rows).any():
            raise self._damaged(self.commit.log_name, f"row {rows.max()}", f"rows below {self.commit.rows}")
        return rows

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """Keys and rows in the order in which they were put last."""
        n = 0
        for n, entry in enumerate(self._entries(), start=1):
            if n <= self.commit.entries:
                yield entry
        if n != self.commit.entries:
            raise self._damaged(self.commit.log_name, f"{n} ids", str(self.commit.entries))

    def merged_index(self) -> Index:
        """The index of the whole log; see `sorted_index`."""
        keep = np.ones(self.commit.index_entries, dtype=bool)
        places = self._places(list(self.recent))
        keep[places[places >= 0]] = False
        new = [(digest(key), offset, row) for key, (offset, row) in self.recent.items() if row >= 0]
        columns = np.array(new, dtype="<u8").reshape(-1, 3).T
        return sorted_index(np.concatenate([self._index[:, keep], columns], axis=1))

    def _entries(self) -> Iterator[tuple[bytes, int]]:
        for offset in np.sort(self._index[1]).tolist():
            key, row = self._parse(self._line(offset))
            if key not in self.recent:
                yield key, row
        for key, (_, row) in self.recent.items():
            if row >= 0:
                yield key, row

    def _places(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Columns *(n,)* of keys in the index, or -1."""
        hashes, offsets, rows = self._index
        digests = np.array([digest(key) for key in keys], dtype=np.uint64)
        places = np.full(len(keys), -1, dtype=np.int64)
        for i, place in enumerate(np.searchsorted(hashes, digests).tolist()):
            while place < len(hashes) and hashes[place] == digests[i]:
                key, row = self._parse(self._line(int(offsets[place])))
                if row != rows[place]:
                    raise self._damaged(self.commit.index_name, f"row {rows[place]}", f"{row}, as in the log")
                if key == keys[i]:
                    places[i] = place
                    break
                place += 1
        return places

    def _line(self, offset: int) -> bytes:
        return bytes(self._log[offset : self._log.find(b"\n", offset) + 1])

    def _parse(self, line: bytes) -> tuple[bytes, int]:
        """Key and row of a line of the log."""
        end = line.rfind(_BEFORE_ROW)
        row = line[end + len(_BEFORE_ROW) : -len(_END)]
        if not (line.startswith(_BEFORE_ID) and line.endswith(_END) and end >= 0 and (row == b"null" or row.isdigit())):
            raise self._damaged(self.commit.log_name, f"the line {line[:80]!r}", 'lines like {"id": "Q42", "row": 7}')
        return line[len(_BEFORE_ID) : end], -1 if row == b"null" else int(row)

    def _damaged(self, name: str, found: str, expected: str) -> EntityKitError:
        return error("E051", path=self.folder / name, found=found, expected=expected)


def make_key(id_: str) -> bytes:
    """An id as JSON, under which it stands in the log; any string has one."""
    return json.dumps(id_).encode("ascii")


def make_line(key: bytes, row: int | None) -> bytes:
    """The log's line that puts a key at a row, or removes it."""
    return b"%s%s%s%s%s" % (_BEFORE_ID, key, _BEFORE_ROW, b"null" if row is None else b"%d" % row, _END)


def digest(key: bytes) -> int:
    """The key's hash in the index, of 64 bits."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def sorted_index(columns: Index) -> Index:
    """Sort the columns hash, offset in the log, row *(3, n)* by their hashes."""
    return np.ascontiguousarray(columns[:, np.argsort(columns[0], kind="stable")])


def new_files() -> str:
    """A name that no other table's files have."""
    return os.urandom(6).hex()


def open_state(folder: Path, before: State | None) -> State:
    """The newest state; `before` itself if it is that."""
    commit = read_commit(folder)
    while before is None or commit != before.commit:
        try:
            return State(folder, commit, before)
        except CheckpointError:
            newer = read_commit(folder)
            if newer == commit:
                raise
            commit = newer  # its files were replaced after we had read which they are
    return before


def read_commit(folder: Path) -> Commit:
    """Read table.json."""
    kinds = {field.name: str if field.name in ("files", "dtype") else int for field in fields(Commit)}
    expected = f"JSON of version {VERSION} with {', '.join(kinds)}"
    try:
        values = json.loads((folder / TABLE).read_bytes())
    except OSError as reason:
        raise error("E050", path=folder, reason=reason) from reason
    except ValueError as reason:
        raise error("E051", path=folder / TABLE, found=f"what is no JSON ({reason})", expected=expected) from reason
    if isinstance(values, dict) and {name: type(value) for name, value in values.items()} == kinds:
        numbers = [value for name, value in values.items() if kinds[name] is int]
        if min(numbers) >= 0 and values["version"] == VERSION and values["dtype"] in DTYPES:
            return Commit(**values)
    raise error("E051", path=folder / TABLE, found=str(values)[:300], expected=expected)


def publish(folder: Path, commit: Commit) -> None:
    """Commit a state whose files are on the disk, then delete what no longer belongs to the table."""
    keep = (commit.vectors_name, commit.log_name, commit.index_name)
    files.publish(folder, TABLE, asdict(commit), keep=keep, ours=_OURS)
