"""Exact nearest vectors by inner product, found block by block: memory does not grow with the number of vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_SCORES = 2**20  # numbers in a matrix of scores, so that it stays in the processor's cache
_FIRST = 2048


class Nearest:
    """The nearest of all vectors seen so far; exact, where FAISS's flat index compares a small batch query by query.

    Args:
        queries: *(n, width)*.
        k: how many to keep of each.
    """

    def __init__(self, queries: Floats, k: int) -> None:
        self._queries = queries
        self._scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        self._rows = np.full((len(queries), k), -1, dtype=np.int64)
        self._n_seen = 0

    def see(self, vectors: Floats, rows: Rows, hidden: NDArray[np.bool_] | None = None) -> None:
        """Look at more vectors.

        Args:
            vectors: *(m, width)*.
            rows: *(m,)*, by which they are found.
            hidden: *(m,)*, those that are not to be found.
        """
        start, largest = 0, max(256, _SCORES // max(len(self._queries), 1))
        while start < len(vectors) and len(self._queries):
            end = start + min(largest, max(_FIRST, self._n_seen))  # the better the scores known, the fewer pass
            scores = self._queries @ vectors[start:end].T
            if hidden is not None:
                scores[:, hidden[start:end]] = -np.inf
            self._keep(scores, rows[start:end])
            self._n_seen += scores.shape[1]
            start = end

    def ranked(self) -> tuple[Floats, Rows]:
        """Scores *(n, k)*, falling, and rows *(n, k)*; where there are fewer than k, −∞ and -1."""
        return ranked(self._scores, self._rows, self._scores.shape[1])

    def _keep(self, scores: Floats, rows: Rows) -> None:
        """Keep the best of what is known and the columns *(n, m)*; most of these are below the worst that is known."""
        query, column = np.nonzero(scores > self._scores.min(axis=1, keepdims=True))
        counts = np.bincount(query, minlength=len(scores))
        if len(query) == 0:
            return
        place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        new_scores = np.full((len(scores), counts.max()), -np.inf, dtype=np.float32)
        new_rows = np.full(new_scores.shape, -1, dtype=np.int64)
        new_scores[query, place], new_rows[query, place] = scores[query, column], rows[column]
        all_scores, all_rows = np.hstack([self._scores, new_scores]), np.hstack([self._rows, new_rows])
        best = np.argpartition(all_scores, -self._scores.shape[1], axis=1)[:, -self._scores.shape[1] :]
        self._scores = np.take_along_axis(all_scores, best, axis=1)
        self._rows = np.take_along_axis(all_rows, best, axis=1)


def ranked(scores: Floats, rows: Rows, k: int) -> tuple[Floats, Rows]:
    """The first k of scores and rows *(n, m)*, m ≥ k, by falling score; equal scores keep their order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
