"""Vectors of all entities of a knowledge base that one encoder has made, by row, and an index of them.

A folder::

    vectors-NAME.safetensors   `rows` (n,) that rise and `vectors` (n, width) in half precision, mapped into memory
    index-NAME                 a `VectorIndex`
    meta.json                  NAME, the encoder's fingerprint, and the state of the knowledge base
    lock                       held by the process that writes

A new meta.json replaces the old one in one step once its files are on the disk, so a process that is killed changes nothing.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import CheckpointError, EntityKitError, error
from entitykit.knowledge.files import locked, publish, write_file
from entitykit.knowledge.index import VectorIndex
from entitykit.knowledge.state import new_files

META = "meta.json"

_OURS = re.compile(r"vectors(-[0-9a-f]+)?\.safetensors(\.new)?|index(-[0-9a-f]+)?")

BLOCK = 2**14
"""Vectors that are in memory at once while the index is built."""

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EntityIndexMeta:
    """What meta.json says.

    Attributes:
        fingerprint: of the encoder.
        version: of the knowledge base whose entities were read.
        n: entities.
        width: size of a vector.
        encoder: what it is, whatever it has learned; empty: nobody has said.
        state: the name of the knowledge base's version, which no other one has; empty: nobody has said.
    """

    fingerprint: str
    version: int
    n: int
    width: int
    encoder: str = ""
    state: str = ""


class _Table(NamedTuple):
    """Vectors *(n, width)* of rows *(n,)*, which rise."""

    rows: Rows
    vectors: NDArray[np.float16]

    def without(self, rows: Rows) -> _Table:
        """Without some rows."""
        keep = ~np.isin(self.rows, rows)
        return _Table(self.rows[keep], self.vectors[keep])


class EntityIndex:
    """Entity vectors; use `build` or `load`. Where it is unpickled, it is made anew from its bytes."""

    def __init__(self, meta: EntityIndexMeta, rows: Rows, tables: Sequence[_Table], index: VectorIndex) -> None:
        self.meta = meta
        self.rows = rows
        self.index = index
        self._tables = tables  # what was built, and vectors of rows that were added or changed since
        self._files = f"-{new_files()}"

    @classmethod
    def build(
        cls,
        blocks: Iterable[tuple[Rows, Floats]],
        *,
        width: int,
        fingerprint: str,
        version: int,
        state: str = "",
        encoder: str = "",
        kind: str = "auto",
        codes: str = "int8",
        recall: float = 0.97,
    ) -> EntityIndex:
        """Build from blocks of rows, which rise, and vectors; only a block is in memory at once.

        Args:
            blocks: rows *(m,)* and vectors *(m, width)*.
            width: size of a vector.
            fingerprint: of the encoder.
            version: of the knowledge base.
            state: the name of that version.
            encoder: what it is.
            kind: see `VectorIndex.build`.
            codes: see there.
            recall: see there.
        """
        parts = [np.zeros(0, dtype=np.int64)]
        stored: NDArray[np.float16] = np.zeros((0, width), dtype=np.float16)
        with tempfile.TemporaryFile() as file:  # which lives on as long as the map does
            for rows, vectors in blocks:
                parts.append(rows)
                file.write(vectors.astype(np.float16).data)
            rows = np.concatenate(parts)
            file.flush()
            if len(rows):
                stored = np.memmap(file, dtype=np.float16, mode="r", shape=(len(rows), width))
        index = VectorIndex.build(
            _Blocks(stored), rows, fingerprint=fingerprint, width=width, kind=kind, codes=codes, recall=recall
        )
        meta = EntityIndexMeta(fingerprint=fingerprint, version=version, n=len(rows), width=width, encoder=encoder, state=state)
        return cls(meta, rows, [_Table(rows, stored)], index)

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self, rows: Rows) -> tuple[Floats, NDArray[np.bool_]]:
        """Vectors *(m, width)* of rows *(m,)*, zeros for those that are not there, and which are there *(m,)*."""
        found, known = np.zeros((len(rows), self.meta.width), dtype=np.float32), _places(self.rows, rows) >= 0
        for own, vectors in self._tables:
            places = _places(own, rows)
            there = known & (places >= 0)
            found[there] = vectors[places[there]]
        return found, known

    def search(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """The nearest rows *(n, k)* of queries *(n, width)* with their scores; see `VectorIndex.search`."""
        return self.index.search(queries, k, exact=lambda rows: self.vectors(rows)[0])

    def amended(self, changed: Rows, rows: Rows, vectors: Floats, *, version: int, state: str) -> EntityIndex:
        """An index of a later state of the knowledge base: only what has changed is made anew. This one stays as it is.

        Args:
            changed: *(n,)* rows that were added, updated or removed since.
            rows: *(m,)* those of them that are there; they rise.
            vectors: *(m, width)* of these.
            version: of the knowledge base now.
            state: the name of that version.
        """
        new = _Table(rows, vectors.astype(np.float16))
        index = self.index.copy()
        index.remove(changed)
        index.add(new.vectors.astype(np.float32), rows)
        later = [*(table.without(changed) for table in self._tables[1:]), new]
        order = np.argsort(np.concatenate([table.rows for table in later]))
        joined = _Table(*(np.concatenate(parts)[order] for parts in zip(*later, strict=True)))
        kept = np.setdiff1d(self.rows, changed, assume_unique=True)
        there = np.insert(kept, np.searchsorted(kept, rows), rows)
        meta = replace(self.meta, version=version, state=state, n=len(there))
        return EntityIndex(meta, there, [self._tables[0], joined], index)

    def save(self, folder: Path) -> None:
        """Write to a folder, in the place of an index that is there; a process that is killed leaves that as it was.

        Raises:
            OutputError: E558 if the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder):
                files = self._files  # which other copies of this index have, too, unless they are what is there
                with suppress(CheckpointError):
                    files = f"-{new_files()}" if _read_meta(folder)[0] == files else files
                blocks = (block.data.cast("B") for block in self._blocks())
                write_file(folder / _vectors_name(files), blocks)
                self.index.save(folder / _index_name(files))
                keep = (_vectors_name(files), _index_name(files))
                publish(folder, META, {"files": files, **asdict(self.meta)}, keep=keep, ours=_OURS)
        except EntityKitError:
            raise
        except OSError as reason:
            raise error("E558", path=folder, reason=reason) from reason

    def _blocks(self) -> Iterator[NDArray[Any]]:
        """The file of vectors: a header as safetensors has it, then both tensors."""
        n, width = len(self), self.meta.width
        sizes = (8 * n, 8 * n + 2 * n * width)
        header = {
            "rows": {"dtype": "I64", "shape": [n], "data_offsets": [0, sizes[0]]},
            "vectors": {"dtype": "F16", "shape": [n, width], "data_offsets": list(sizes)},
        }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        yield np.frombuffer(struct.pack("<Q", len(text)) + text, dtype=np.uint8)
        if n:
            yield self.rows.astype("<i8")
        for start in range(0, n, BLOCK):
            yield self.vectors(self.rows[start : start + BLOCK])[0].astype("<f2")

    @classmethod
    def load(cls, folder: Path) -> EntityIndex:
        """Open what `save` wrote; vectors are mapped into memory.

        Raises:
            CheckpointError: E550 if there is no index, E551 if it is damaged.
        """
        files, meta = _read_meta(folder)
        while True:
            try:
                table = _map(folder / _vectors_name(files), meta)
                found = cls(meta, table.rows, [table], VectorIndex.load(folder / _index_name(files), meta.fingerprint))
                found._files = files or found._files
                return found
            except (CheckpointError, OSError):
                newer = _read_meta(folder)
                if newer == (files, meta):
                    raise
                files, meta = newer  # its files were replaced after we had read which they are

    def to_bytes(self) -> bytes:
        """The folder as one archive."""
        with tempfile.TemporaryDirectory() as name, io.BytesIO() as archive:
            self.save(Path(name))
            with zipfile.ZipFile(archive, "w") as files:
                for path in sorted(Path(name).rglob("*")):
                    files.write(path, path.relative_to(name))
            return archive.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> EntityIndex:
        """Open what `to_bytes` gave, in a temporary folder that exists as long as this object.

        Raises:
            CheckpointError: E551 if the bytes are damaged.
        """
        folder = tempfile.mkdtemp()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as files:
                files.extractall(folder)
        except zipfile.BadZipFile as reason:
            raise error("E551", path="the bytes", found=reason, expected="what to_bytes() gave") from reason
        index = cls.load(Path(folder))
        weakref.finalize(index, shutil.rmtree, folder, ignore_errors=True)
        return index

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return EntityIndex.from_bytes, (self.to_bytes(),)


class _Blocks:
    """Stored vectors in single precision, block by block, as often as somebody reads them."""

    def __init__(self, vectors: NDArray[np.float16]) -> None:
        self._vectors = vectors

    def __iter__(self) -> Iterator[Floats]:
        for start in range(0, len(self._vectors), BLOCK):
            yield self._vectors[start : start + BLOCK].astype(np.float32)


def _vectors_name(files: str) -> str:
    return f"vectors{files}.safetensors"


def _index_name(files: str) -> str:
    return f"index{files}"


def _read_meta(folder: Path) -> tuple[str, EntityIndexMeta]:
    """What the names of the files have in common, nothing in folders of earlier versions, and what is in them."""
    try:
        values = json.loads((folder / META).read_text(encoding="utf-8"))
        return values.pop("files", ""), EntityIndexMeta(**values)
    except OSError as reason:
        raise error("E550", path=folder, reason=reason) from reason
    except (ValueError, TypeError, AttributeError) as reason:
        raise error("E551", path=folder / META, found=reason, expected="JSON that save() wrote") from reason


def _map(path: Path, meta: EntityIndexMeta) -> _Table:
    """Map a file of vectors into memory."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
        expected = 8 + size + 8 * meta.n + 2 * meta.n * meta.width
        if path.stat().st_size != expected:
            raise error("E551", path=path, found=f"{path.stat().st_size} bytes", expected=f"{expected} bytes")
    except OSError as reason:
        raise error("E550", path=path, reason=reason) from reason
    except struct.error as reason:
        raise error("E551", path=path, found=reason, expected="a safetensors file") from reason
    if not meta.n:
        return _Table(np.zeros(0, dtype=np.int64), np.zeros((0, meta.width), dtype=np.float16))
    rows = np.memmap(path, dtype="<i8", mode="r", offset=8 + size, shape=(meta.n,))
    vectors = np.memmap(path, dtype="<f2", mode="r", offset=8 + size + 8 * meta.n, shape=(meta.n, meta.width))
    return _Table(np.array(rows), vectors)


def _places(among: Rows, rows: Rows) -> NDArray[np.int64]:
    """Where rows *(n,)* are among others, which rise; -1 for those that are not there."""
    if not len(among):
        return np.full(len(rows), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(among, rows), len(among) - 1)
    return np.where(among[places] == rows, places, -1)
