"""An index's folder: what it holds at one moment, as it stands in index.json, and its files.

::

    index.json            what is committed: numbers, the files' sizes, the encoder's fingerprint, how the index was built
    base-NAME.bin         the vectors or codes as they were built: FAISS's format, or numbers alone where all are compared
    rows-NAME.bin         their rows
    changes-NAME-N.bin    rows removed since then; rows added, and their vectors
    lock                  held by the process that writes

A new index.json replaces the old one in one step once its files are on the disk, so a process that is killed changes nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from entitykit.errors import EntityKitError, error
from entitykit.knowledge.files import locked, publish, write_file
from entitykit.knowledge.index_build import BuildReport
from entitykit.knowledge.index_kinds import Flat, Graph, Inverted, Kind
from entitykit.knowledge.neighbours import Floats, Rows

VERSION = 1
META = "index.json"

_OURS = re.compile(r"(base|rows|changes)-[0-9a-f]+(-[0-9a-f]+)?\.bin")


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What index.json holds.

    Attributes:
        version: of the format.
        files: what the names of the base's files have in common; new for every base.
        changes: what the name of the file of changes has besides; new for every save.
        width: size of a vector.
        normalise: whether vectors are brought to length 1.
        fingerprint: of the encoder.
        rows: vectors in the base.
        removed: rows that were removed since.
        added: vectors that were added since.
        effort: how hard a search looks.
        groups: cells in each group of an inverted file.
        sizes: bytes of each file.
        report: of the build.
    """

    version: int = VERSION
    files: str
    changes: str
    width: int
    normalise: bool
    fingerprint: str
    rows: int
    removed: int
    added: int
    effort: float
    groups: list[int]
    sizes: dict[str, int]
    report: dict[str, Any]

    @property
    def base_name(self) -> str:
        """File of the base."""
        return f"base-{self.files}.bin"

    @property
    def rows_name(self) -> str:
        """File of the base's rows."""
        return f"rows-{self.files}.bin"

    @property
    def changes_name(self) -> str:
        """File of the changes."""
        return f"changes-{self.files}-{self.changes}.bin"

    @property
    def names(self) -> list[str]:
        """All files but index.json."""
        return [self.base_name, self.rows_name, self.changes_name]


_KINDS = {field.name: {"str": str, "int": int, "bool": bool, "float": float}.get(str(field.type)) for field in fields(Meta)}
_KINDS |= {"groups": list, "sizes": dict, "report": dict}


@dataclass(frozen=True)
class State:
    """An index at one moment; it never changes, so any number of threads may read it.

    Attributes:
        base: what was built.
        removed: rows of the base that are gone or were replaced; they rise.
        rows: *(n,)* added since.
        vectors: *(n, width)* of these.
    """

    base: Kind
    removed: Rows
    rows: Rows
    vectors: Floats

    def __len__(self) -> int:
        return len(self.base.rows) - len(self.removed) + len(self.rows)


def read_meta(folder: Path) -> Meta:
    """Read index.json.

    Raises:
        CheckpointError: E550 if there is none, E551 if it is damaged.
    """
    expected = f"JSON of version {VERSION} with {', '.join(_KINDS)}"
    try:
        values = json.loads((folder / META).read_bytes())
    except OSError as reason:
        raise error("E550", path=folder, reason=reason) from reason
    except ValueError as reason:
        raise error("E551", path=folder / META, found=f"what is no JSON ({reason})", expected=expected) from reason
    if isinstance(values, dict) and {name: type(value) for name, value in values.items()} == _KINDS:
        with suppress(TypeError):
            BuildReport(**values["report"])
            meta = Meta(**values)
            sound = min(meta.width - 1, meta.rows, meta.removed, meta.added) >= 0
            if meta.version == VERSION and sound and all(type(size) is int and size > 0 for size in meta.groups):
                return meta
    raise error("E551", path=folder / META, found=str(values)[:300], expected=expected)


def read_state(folder: Path, meta: Meta) -> State:
    """Map the files into memory, as far as FAISS can, and read the others.

    Raises:
        CheckpointError: E551 if a file is missing, of another size or of other contents than index.json says.
    """
    for name in meta.names:
        path = folder / name
        found = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
        if found != (expected := f"{meta.sizes.get(name)} bytes"):
            raise error("E551", path=path, found=found, expected=expected)
    n_bytes = 8 * (meta.removed + meta.added) + 4 * meta.added * meta.width
    for name, expected_bytes in ((meta.rows_name, 8 * meta.rows), (meta.changes_name, n_bytes)):
        if meta.sizes[name] != expected_bytes:
            raise error("E551", path=folder / name, found=f"{meta.sizes[name]} bytes", expected=f"{expected_bytes} bytes")
    rows: Rows = np.memmap(folder / meta.rows_name, "<i8", mode="r") if meta.rows else np.empty(0, dtype=np.int64)
    base = _read_base(folder / meta.base_name, rows, meta)
    changes = (folder / meta.changes_name).read_bytes()
    numbers = np.frombuffer(changes, "<i8", count=meta.removed + meta.added).astype(np.int64)
    vectors = np.frombuffer(changes, "<f4", offset=numbers.nbytes).reshape(meta.added, meta.width).astype(np.float32)
    return State(base, numbers[: meta.removed], numbers[meta.removed :], vectors)


def _read_base(path: Path, rows: Rows, meta: Meta) -> Kind:
    kind = meta.report["kind"]
    expected = f"{meta.rows} vectors of width {meta.width} in {sum(meta.groups)} cells, of the kind {kind}"
    try:
        if kind == "flat":
            return Flat.read(path, rows, meta.width)
        base = Graph.read(path, rows, meta.effort) if kind == "hnsw" else Inverted.read(path, rows, meta.groups, meta.effort)
        n_cells = len(base.cells) if isinstance(base, Inverted) else 0
        if (base.index.ntotal, base.index.d, n_cells) != (meta.rows, meta.width, sum(meta.groups)):
            found = f"{base.index.ntotal} vectors of width {base.index.d} in {n_cells} cells"
            raise error("E551", path=path, found=found, expected=expected)
    except (RuntimeError, ValueError, AttributeError, IndexError) as reason:  # FAISS's, and of an index of another kind
        if isinstance(reason, EntityKitError):
            raise
        raise error("E551", path=path, found=f"what FAISS cannot read ({reason})", expected=expected) from reason
    return base


def write_state(folder: Path, state: State, meta: Meta, *, replaces: Meta | None) -> Meta:
    """Write a state in the place of the one that is there.

    Args:
        folder: need not exist.
        state: all of it, or what changed since the base was written there.
        meta: of it, but for `sizes`; where the folder has the files of this base, these are kept.
        replaces: what was read from there or written there; None: whatever is there may go.

    Raises:
        OutputError: E558 if the folder cannot be written, E559 if another has written there since; it is then as before.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if replaces is not None and read_meta(folder) != replaces:
                raise error("E559", path=folder)
            if replaces is None or replaces.files != meta.files:
                state.base.write(folder / meta.base_name)
                with (folder / meta.base_name).open("r+b") as file:
                    os.fsync(file.fileno())
                rows = np.ascontiguousarray(state.base.rows, dtype="<i8")
                write_file(folder / meta.rows_name, [rows.data] if meta.rows else [])
            arrays = (state.removed.astype("<i8"), state.rows.astype("<i8"), state.vectors.astype("<f4").reshape(-1))
            write_file(folder / meta.changes_name, [array.data for array in arrays if array.size])
            sizes = {name: (folder / name).stat().st_size for name in meta.names}
            written = Meta(**(asdict(meta) | {"sizes": sizes}))
            publish(folder, META, asdict(written), keep=written.names, ours=_OURS)
    return written


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the system's errors and FAISS's E558."""
    try:
        yield
    except EntityKitError:
        raise
    except (OSError, RuntimeError) as reason:
        raise error("E558", path=folder, reason=reason) from reason
