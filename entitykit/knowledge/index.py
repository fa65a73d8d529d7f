"""An index of entity vectors: the nearest by inner product, by row, in memory that fits millions of them.

Up to `FLAT` vectors are all compared. Above, vectors are bytes in an inverted file (FAISS, mapped from disk): a search looks
into the cells whose centres are nearly as close as the closest one. How nearly is measured when the index is built, so that the
share of the exact 64 nearest that was asked for is found.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entitykit.errors import CheckpointError, error, warn
from entitykit.knowledge.index_blocks import Blocks, checked_rows, checked_vectors
from entitykit.knowledge.index_build import FLAT, BuildReport, BuildSettings, build_kind
from entitykit.knowledge.index_files import Meta, State, read_meta, read_state, write_state
from entitykit.knowledge.index_kinds import Inverted, Kind, use_one_thread_in_forks
from entitykit.knowledge.neighbours import Floats, Nearest, Rows, ranked
from entitykit.knowledge.state import new_files

RECENT = 2**15
"""So many changes are kept beside what was built; all of the vectors added are compared. Then they are built in."""

_BATCH = 256  # queries that are worked on at once
_EXPAND = 4  # times k, of which exact vectors select k
_GROWTH = 4  # times the vectors of the build, above which its choices no longer fit


class VectorIndex:
    """Entity vectors by row; use `build` or `load`.

    It may be shared by threads: a search sees all of a change or nothing of it.
    """

    def __init__(self, state: State, report: BuildReport, *, width: int, normalise: bool, fingerprint: str) -> None:
        use_one_thread_in_forks()
        self._state, self._report = state, report
        self._width, self._normalise, self._fingerprint = width, normalise, fingerprint
        self._files = new_files()
        self._saved: tuple[Path, Meta] | None = None
        self._changing = threading.RLock()

    @classmethod
    def build(
        cls,
        vectors: NDArray[Any] | Iterable[NDArray[Any]],
        rows: ArrayLike,
        *,
        fingerprint: str,
        width: int,
        kind: str = "auto",
        codes: str = "int8",
        n_cells: int = 0,
        normalise: bool = False,
        queries: ArrayLike | None = None,
        recall: float = 0.97,
        seed: int = 0,
    ) -> VectorIndex:
        """Build an index, and measure what it finds (`report`).

        Args:
            vectors: *(n, width)*, or blocks of it. Those of an iterable that can be read twice are never all in memory; those
                of a plain iterator are first copied to a temporary file.
            rows: *(n,)*, from 0 on, each once.
            fingerprint: of the encoder, which `load` compares.
            width: size of a vector.
            kind: ``flat`` compares all, ``hnsw`` is a graph, ``ivf`` an inverted file, ``auto`` chooses by size.
            codes: of an inverted file: ``int8`` takes a byte a number, ``pq`` a quarter of that, and needs exact vectors to
                rank what it finds (`search`, `exact`).
            n_cells: of an inverted file; 0: by its size.
            normalise: bring vectors and queries to length 1, so that scores are cosines.
            queries: *(m, width)* such as will be searched for; None: vectors of the index with noise.
            recall: share of the exact 64 nearest that must be found for these.
            seed: of samples, cells and rotation.

        Raises:
            InputError: E553 for vectors that cannot be compared, E554 for shapes that do not fit, E555 for rows that cannot be.
            ConfigError: E557 for settings that cannot be.
            OutputError: E558 if the temporary file cannot be written.
        """
        settings = BuildSettings(kind=kind, codes=codes, n_cells=n_cells, recall=recall, seed=seed)
        if width < 1 or (codes == "pq" and width % 2):
            raise error("E557", setting="width", found=width, expected="at least 1, and even with codes='pq'")
        blocks = Blocks(vectors, rows, width=width, normalise=normalise)
        given = None if queries is None else checked_vectors(queries, None, width=width, normalise=normalise)
        base, report = build_kind(blocks, settings, given)
        return cls(_unchanged(base, width), report, width=width, normalise=normalise, fingerprint=fingerprint)

    @classmethod
    def load(cls, folder: str | Path, fingerprint: str | None = None) -> VectorIndex:
        """Open an index that was saved; an inverted file is mapped into memory, and read where a search looks.

        Args:
            folder: of the index.
            fingerprint: of the encoder whose vectors will be compared; None: not known.

        Raises:
            CheckpointError: E550 if there is no index, E551 if it is damaged, E552 if another encoder built it.
        """
        folder = Path(folder)
        meta = read_meta(folder)
        while True:
            if fingerprint is not None and fingerprint != meta.fingerprint:
                raise error("E552", path=folder, found=meta.fingerprint, expected=fingerprint)
            try:
                state = read_state(folder, meta)
                break
            except (CheckpointError, OSError):
                newer = read_meta(folder)
                if newer == meta:
                    raise
                meta = newer  # its files were replaced after we had read which they are
        report = BuildReport(**meta.report)
        index = cls(state, report, width=meta.width, normalise=meta.normalise, fingerprint=meta.fingerprint)
        index._files, index._saved = meta.files, (folder, meta)
        return index

    @property
    def width(self) -> int:
        """Size of a vector."""
        return self._width

    @property
    def normalise(self) -> bool:
        """Whether vectors and queries are brought to length 1."""
        return self._normalise

    @property
    def fingerprint(self) -> str:
        """Of the encoder that made the vectors."""
        return self._fingerprint

    @property
    def kind(self) -> str:
        """``flat``, ``hnsw`` or ``ivf``."""
        return self._state.base.name

    @property
    def report(self) -> BuildReport:
        """What was built and what it finds; changes since then are not in it."""
        return self._report

    def __len__(self) -> int:
        return len(self._state)

    def __contains__(self, row: object) -> bool:
        return isinstance(row, int | np.integer) and bool(_present(self._state, np.array([row], dtype=np.int64))[0])

    def rows(self) -> Rows:
        """All rows *(n,)*; they rise."""
        state = self._state
        return np.sort(np.concatenate([state.base.ordered[~np.isin(state.base.ordered, state.removed)], state.rows]))

    def search(self, queries: ArrayLike, k: int, *, exact: Callable[[Rows], ArrayLike] | None = None) -> tuple[Floats, Rows]:
        """Find the nearest vectors by inner product.

        Args:
            queries: *(n, width)*.
            k: how many.
            exact: gives the vectors *(m, width)* of rows *(m,)*; with them the best k of 4 k are selected and scored exactly.

        Returns:
            Scores *(n, k)*, falling, and rows *(n, k)*; where there are fewer than k vectors, −∞ and -1.

        Raises:
            InputError: E553 for queries that are not finite, E554 for shapes that do not fit, E556 for a k below 1.
        """
        if k < 1:
            raise error("E556", k=k)
        given = checked_vectors(queries, None, width=self._width, normalise=self._normalise)
        state = self._state
        wanted = min(k * _EXPAND if exact else k, len(state))
        scores = np.full((len(given), k), -np.inf, dtype=np.float32)
        rows = np.full((len(given), k), -1, dtype=np.int64)
        if wanted:
            for start in range(0, len(given), _BATCH):
                batch = given[start : start + _BATCH]
                found = _search(state, batch, wanted)
                if exact is not None:
                    found = self._rank(batch, found[1], exact)
                n = min(k, wanted)
                scores[start : start + _BATCH, :n], rows[start : start + _BATCH, :n] = ranked(*found, n)
        return scores, rows

    def add(self, vectors: ArrayLike, rows: ArrayLike) -> int:
        """Add or replace vectors; the answer is how many rows are new.

        Args:
            vectors: *(n, width)*.
            rows: *(n,)*, from 0 on, each once.

        Raises:
            InputError: E553 for vectors that cannot be compared, E554 for shapes that do not fit, E555 for rows that cannot be.
        """
        new = checked_rows(rows)
        given = checked_vectors(vectors, new, width=self._width, normalise=self._normalise)
        with self._changing:
            n_before = len(self._state)
            self._change(new, given, new)
            return len(self._state) - n_before

    def remove(self, rows: ArrayLike) -> int:
        """Remove vectors; the answer is how many were there. Rows that are not there are passed over.

        Args:
            rows: *(n,)*, each once.

        Raises:
            InputError: E555 for rows that cannot be.
        """
        gone = checked_rows(rows)
        with self._changing:
            n_before = len(self._state)
            self._change(gone, np.empty((0, self._width), dtype=np.float32), gone[:0])
            return n_before - len(self._state)

    def copy(self) -> VectorIndex:
        """An index of the same vectors, which are not copied; what is changed in one is not changed in the other."""
        twin = copy(self)
        twin._changing = threading.RLock()
        return twin

    def save(self, folder: str | Path) -> None:
        """Write the index to a folder, in the place of one that is there; a process that is killed leaves that as it was.

        Where what was built is there already, only the changes are written.

        Raises:
            OutputError: E558 if the folder cannot be written, E559 if someone else has saved there since this index was loaded
                from there or saved there.
        """
        folder = Path(folder)
        with self._changing:
            state = self._state
            replaces = self._saved[1] if self._saved is not None and self._saved[0] == folder else None
            cells = state.base.cells.sizes if isinstance(state.base, Inverted) else []
            meta = Meta(
                files=self._files,
                changes=new_files(),
                width=self._width,
                normalise=self._normalise,
                fingerprint=self._fingerprint,
                rows=len(state.base.rows),
                removed=len(state.removed),
                added=len(state.rows),
                effort=float(state.base.effort),
                groups=cells,
                sizes={},
                report=asdict(self._report),
            )
            self._saved = folder, write_state(folder, state, meta, replaces=replaces)

    def compact(self) -> None:
        """Build the changes into the index now; this happens by itself after `RECENT` of them."""
        with self._changing:
            state = self._state
            if len(state.removed) or len(state.rows):
                self._state = _unchanged(state.base.changed(state.removed, state.vectors, state.rows), self._width)
                self._files = new_files()
                if len(self._state) > _GROWTH * max(self._report.n, FLAT):
                    warn("W551", built=self._report.n, n=len(self._state), stacklevel=4)

    def _change(self, gone: Rows, vectors: Floats, rows: Rows) -> None:
        """Make the state without some rows and then with others."""
        now = self._state
        keep = ~np.isin(now.rows, gone)
        in_base = gone[_in_ordered(now.base.ordered, gone)]
        self._state = replace(
            now,
            removed=np.union1d(now.removed, in_base),
            rows=np.concatenate([now.rows[keep], rows]),
            vectors=np.concatenate([now.vectors[keep], vectors]),
        )
        if len(self._state.rows) + len(self._state.removed) > RECENT:
            self.compact()

    def _rank(self, queries: Floats, rows: Rows, exact: Callable[[Rows], ArrayLike]) -> tuple[Floats, Rows]:
        """Score what was found by its exact vectors."""
        different, places = np.unique(rows, return_inverse=True)
        known = different >= 0
        vectors = np.zeros((len(different), self._width), dtype=np.float32)
        wanted = different[known]
        vectors[known] = checked_vectors(exact(wanted), wanted, width=self._width, normalise=self._normalise)
        scores = np.einsum("nw,nkw->nk", queries, vectors[places.reshape(rows.shape)])
        return np.where(rows >= 0, scores, np.float32(-np.inf)), rows


def _search(state: State, queries: Floats, k: int) -> tuple[Floats, Rows]:
    """Scores and rows *(n, k)* or, from both parts of the state, *(n, 2 k)*."""
    parts = []
    if len(state.base.rows) > len(state.removed):
        parts.append(state.base.search(queries, k, state.removed))
    if len(state.rows):
        nearest = Nearest(queries, k)
        nearest.see(state.vectors, state.rows)
        parts.append(nearest.ranked())
    return np.hstack([scores for scores, _ in parts]), np.hstack([rows for _, rows in parts])


def _unchanged(base: Kind, width: int) -> State:
    nothing = np.empty(0, dtype=np.int64)
    return State(base, nothing, nothing, np.empty((0, width), dtype=np.float32))


def _present(state: State, rows: Rows) -> NDArray[np.bool_]:
    in_base = _in_ordered(state.base.ordered, rows) & ~np.isin(rows, state.removed)
    return in_base | np.isin(rows, state.rows)


def _in_ordered(ordered: Rows, rows: Rows) -> NDArray[np.bool_]:
    """Which rows *(n,)* are among others that rise."""
    if not len(ordered):
        return np.zeros(len(rows), dtype=bool)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, rows), len(ordered) - 1)] == rows)
