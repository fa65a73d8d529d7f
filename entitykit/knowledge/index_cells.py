"""The cells of an inverted file: trained in two levels, so that finding a vector's cell takes few products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss as faiss_with_stubs
import numpy as np
from numpy.typing import NDArray

from entitykit.knowledge.neighbours import Floats

faiss: Any = faiss_with_stubs  # whose types leave out most of it

GROUPS = 8
"""So many groups of cells are searched for a vector's cell: of 16,384 cells in 128 groups that is a fifteenth of the
products, and the recall is as if all were compared (to 0.001; with 4 groups 0.003 less)."""

_MOST = 512  # cells that are searched for a query, until more are wanted
_ITERATIONS = 8


class Cells:
    """Directions around which vectors are kept together, in groups of near ones.

    Args:
        centres: *(n, width)*, of length 1.
        sizes: how many of them, in order, make up each group.
    """

    def __init__(self, centres: Floats, sizes: Sequence[int]) -> None:
        self.centres, self.sizes = centres, list(sizes)
        self._ends: NDArray[np.int64] = np.cumsum(self.sizes, dtype=np.int64)
        starts = self._ends - self.sizes
        self._groups = _unit(np.add.reduceat(centres, starts, axis=0))

    def __len__(self) -> int:
        return len(self.centres)

    @classmethod
    def train(cls, sample: Floats, n_cells: int, seed: int) -> Cells:
        """Find cells by spherical k-means of the sample, and then of what fell to each of its √n groups.

        Args:
            sample: *(m, width)*, m ≥ n_cells.
            n_cells: about how many; groups get them by their share of the sample.
            seed: of the first centres.
        """
        n_groups = max(1, round(n_cells**0.5))
        top = _k_means(sample[:: max(1, len(sample) // (256 * n_groups))], n_groups, seed)
        group = np.concatenate([(sample[i : i + 8192] @ top.T).argmax(axis=1) for i in range(0, len(sample), 8192)])
        members = [np.flatnonzero(group == number) for number in range(n_groups)]
        parts = [
            _k_means(sample[each], min(len(each), max(1, round(n_cells * len(each) / len(sample)))), seed)
            for each in members
            if len(each)
        ]
        return cls(np.concatenate(parts), [len(part) for part in parts])

    def assign(self, vectors: Floats) -> NDArray[np.int64]:
        """The cell *(n,)* of each vector: the best of the best groups."""
        n_groups = min(GROUPS, len(self.sizes))
        near = self._groups @ vectors.T
        bound = np.partition(near, -n_groups, axis=0)[-n_groups]
        best = np.full(len(vectors), -np.inf, dtype=np.float32)
        cells = np.zeros(len(vectors), dtype=np.int64)
        for number, (end, size) in enumerate(zip(self._ends, self.sizes, strict=True)):
            places = np.flatnonzero(near[number] >= bound)
            if len(places):
                scores = vectors[places] @ self.centres[end - size : end].T
                nearest = scores.argmax(axis=1)
                score = scores[np.arange(len(places)), nearest]
                better = score > best[places]
                best[places[better]] = score[better]
                cells[places[better]] = nearest[better] + end - size
        return cells

    def probe(self, queries: Floats, margin: float) -> tuple[NDArray[np.int64], Floats]:
        """The cells in which a query's neighbours may be: those whose cosine is at most `margin` below the best.

        A query in the midst of a cell needs few of them, one between many cells many; a fixed number gives the first too many
        and the second too few.

        Args:
            queries: *(n, width)*.
            margin: of cosines; from 2 on these are all cells.

        Returns:
            Cells *(n, most)*, best first and filled up with -1, and their products with the query *(n, most)*.
        """
        products = queries @ self.centres.T
        lengths = np.linalg.norm(queries, axis=1, keepdims=True)
        bound = products.max(axis=1, keepdims=True) - np.float32(margin) * lengths
        near = products >= (bound if margin < 2 else -np.inf)
        if margin < 1:
            for i in np.flatnonzero(near.sum(axis=1) > _MOST):
                near[i] = products[i] >= np.partition(products[i], -_MOST)[-_MOST]
        query, cell = np.nonzero(near)
        counts = np.bincount(query, minlength=len(queries))
        place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        cells = np.full((len(queries), counts.max(initial=1)), -1, dtype=np.int64)
        scores = np.full(cells.shape, -np.inf, dtype=np.float32)
        cells[query, place], scores[query, place] = cell, products[query, cell]
        order = np.argsort(-scores, axis=1)
        cells, scores = np.take_along_axis(cells, order, axis=1), np.take_along_axis(scores, order, axis=1)
        return cells, np.where(cells >= 0, scores, np.float32(0))


def _k_means(vectors: Floats, n: int, seed: int) -> Floats:
    """Centres *(n, width)* of length 1."""
    if n == len(vectors):
        return _unit(vectors)
    means = faiss.Kmeans(
        vectors.shape[1],
        n,
        niter=_ITERATIONS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    means.train(np.ascontiguousarray(vectors))
    return _unit(means.centroids)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
