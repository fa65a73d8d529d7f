"""Near mentions of a corpus."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.knowledge.cluster_store import EXACT
from entitykit.knowledge.index import VectorIndex
from entitykit.knowledge.neighbours import ranked

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Others(NamedTuple):
    """Neighbours that are found elsewhere.

    Attributes:
        cosines: *(n, m)*, −∞ where there are fewer.
        rows: *(n, m)* their numbers.
    """

    cosines: Floats
    rows: Ints


def near_pairs(vectors: Floats, k: int, *, first: int = 0, others: Others | None = None) -> tuple[Ints, Doubles]:
    """Pairs of mentions with the k nearest of each.

    Args:
        vectors: *(n, size)*, of length 1.
        k: neighbours of each.
        first: the mentions are numbered from here.
        others: neighbours with lower numbers.

    Returns:
        Pairs *(n_pairs, 2)*, each once, the lower number first, and their cosines *(n_pairs,)*.
    """
    if not len(vectors):
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    own = np.arange(first, first + len(vectors))
    kind = "flat" if len(vectors) <= EXACT else "ivf"
    index = VectorIndex.build(np.ascontiguousarray(vectors), own, fingerprint="", width=vectors.shape[1], kind=kind)
    cosines, rows = index.search(vectors, k + 1)
    cosines = np.where(rows == own[:, None], -np.inf, cosines)
    if others is not None:
        cosines, rows = np.hstack([cosines, others.cosines]), np.hstack([rows, others.rows])
    cosines, rows = ranked(cosines.astype(np.float32), rows, k)
    there = np.isfinite(cosines)
    pairs = np.sort(np.stack([rows, np.broadcast_to(own[:, None], rows.shape)], axis=2)[there], axis=1)
    pairs, places = np.unique(pairs, axis=0, return_index=True)
    return pairs, cosines[there][places].astype(np.float64)
