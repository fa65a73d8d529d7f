"""What an index is built from: vectors and their rows, checked, block by block, and as often as asked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from entitykit.errors import error
from entitykit.knowledge.neighbours import Floats, Rows

BLOCK = 8192  # vectors that are worked on at once


class Blocks:
    """Vectors of known rows.

    Args:
        vectors: an array *(n, width)*, which may be mapped from a file, or blocks *(m, width)* of it. An iterable that gives
            them anew each time is read twice; a plain iterator is first copied to a temporary file (4 bytes a number, in
            `tempfile.gettempdir()`), because what is trained on must be a sample of all.
        rows: *(n,)*, one for each vector.
        width: size of a vector.
        normalise: bring each to length 1.

    Raises:
        InputError: E553 for vectors that cannot be compared, E554 for shapes that do not fit, E555 for rows that cannot be.
        OutputError: E558 if the temporary file cannot be written.
    """

    def __init__(self, vectors: NDArray[Any] | Iterable[NDArray[Any]], rows: ArrayLike, *, width: int, normalise: bool) -> None:
        self.rows = checked_rows(rows)
        self.width, self._normalise = width, normalise
        if not isinstance(vectors, np.ndarray) and iter(vectors) is vectors:
            vectors = self._spooled(vectors)
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Floats, Rows]]:
        start = 0
        for block in self._blocks():
            rows = self.rows[start : start + len(block)]
            yield checked_vectors(block, rows, width=self.width, normalise=self._normalise), rows
            start += len(block)
        if start != len(self.rows):
            raise error("E554", found=f"{start} of width {self.width}", expected=f"{len(self.rows)}, one for each row")

    def sample(self, places: NDArray[np.int64]) -> Floats:
        """The vectors *(m, width)* at these places, which rise."""
        found = np.empty((len(places), self.width), dtype=np.float32)
        start = 0
        for vectors, _ in self:
            first, last = np.searchsorted(places, [start, start + len(vectors)])
            found[first:last] = vectors[places[first:last] - start]
            start += len(vectors)
        return found

    def _blocks(self) -> Iterator[NDArray[Any]]:
        blocks = [self._vectors] if isinstance(self._vectors, np.ndarray) else self._vectors
        start = 0
        for given in blocks:
            block = np.asarray(given)
            if block.ndim != 2 or start + len(block) > len(self.rows):
                at_hand = f"one for each row, and rows for {len(self.rows) - start} are left"
                raise error("E554", found=f"a block {block.shape}", expected=f"blocks (n, {self.width}), {at_hand}")
            for first in range(0, len(block), BLOCK):
                yield block[first : first + BLOCK]
            start += len(block)

    def _spooled(self, vectors: Iterable[NDArray[Any]]) -> NDArray[Any]:
        """Copy an iterator's blocks to a file without a name, and map it."""
        self._vectors = vectors
        try:
            with tempfile.TemporaryFile() as file:
                for block, _ in self:
                    file.write(block.data)
                file.flush()
                if file.tell() == 0:
                    return np.empty((0, self.width), dtype=np.float32)
                return np.memmap(file, dtype=np.float32, mode="r", shape=(len(self.rows), self.width))
        except OSError as reason:
            raise error("E558", path=tempfile.gettempdir(), reason=reason) from reason


def checked_rows(rows: ArrayLike) -> Rows:
    """Rows *(n,)* that can be told apart.

    Raises:
        InputError: E555 for others.
    """
    given = np.asarray(rows)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
        raise error("E555", found=f"{given.dtype} {given.shape}")
    if len(given) and (given.min() < 0 or given.max() > np.iinfo(np.int64).max):
        raise error("E555", found=f"{given.min() if given.min() < 0 else given.max()}")
    found = given.astype(np.int64)
    ordered = np.sort(found)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):
        raise error("E555", found=f"{len(again)} rows that occur again, such as {again[0]}")
    return found


def checked_vectors(vectors: ArrayLike, rows: Rows | None, *, width: int, normalise: bool) -> Floats:
    """Vectors *(n, width)* that can be compared.

    Args:
        vectors: numbers.
        rows: of each, for the message; None for queries.
        width: size of a vector.
        normalise: bring each to length 1.

    Raises:
        InputError: E553 for NaN, lengths that float32 cannot hold (10¹⁹) or, if they are to be 1, zeros; E554 for other shapes.
    """
    given = np.asarray(vectors)
    n = len(rows) if rows is not None else len(given) if given.ndim else 0
    if given.shape != (n, width) or given.dtype.kind not in "fiu":
        each = "query" if rows is None else "row"
        raise error("E554", found=f"{given.dtype} {given.shape}", expected=f"numbers ({n}, {width}), a vector for each {each}")
    with np.errstate(over="ignore"):
        found: Floats = np.ascontiguousarray(given, dtype=np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", found, found))
    bad = ~np.isfinite(lengths) | ((lengths == 0) & normalise)
    if bad.any():
        first = int(bad.argmax())
        where = f"query {first}" if rows is None else f"row {rows[first]}"
        raise error("E553", n=int(bad.sum()), where=where, nonzero=", not 0" * normalise)
    return found / lengths[:, None] if normalise else found
