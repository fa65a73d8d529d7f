"""Small indexes, and what they must find."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from entitykit.knowledge.index import VectorIndex

WIDTH = 16
KINDS = [{"kind": "flat"}, {"kind": "hnsw"}, {"kind": "ivf", "n_cells": 8}, {"kind": "ivf", "n_cells": 8, "codes": "pq"}]
INT8 = {"kind": "ivf", "n_cells": 8}
TOLERANCE = {"float32": 1e-5, "int8": 0.06}  # of scores; the vectors' lengths are about 4


def vectors_of(n: int, seed: int = 0, width: int = WIDTH) -> NDArray[np.float32]:
    """Clustered."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((20, width))
    return (centres[rng.integers(0, 20, n)] + 0.5 * rng.standard_normal((n, width))).astype(np.float32)


def build(vectors: Any, rows: Any = None, **settings: Any) -> VectorIndex:
    rows = np.arange(len(vectors)) if rows is None else rows
    return VectorIndex.build(vectors, rows, **{"fingerprint": "encoder", "width": WIDTH} | settings)


def brute_force(queries: Any, vectors: Any, rows: Any, k: int) -> tuple[NDArray[Any], NDArray[Any]]:
    scores = np.asarray(queries, dtype=np.float64) @ np.asarray(vectors, dtype=np.float64).T
    order = np.argsort(-scores, axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.asarray(rows)[order]


def decoded(made: VectorIndex) -> dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Vectors by row as four-bit codes give them, and all that their cell's codes could give: *(w,)* and *(w // 2, 16, 2)*.

    Both are rotated as the index rotates them.
    """
    base: Any = made._state.base
    codes, packer = base.lists, base.lists.get_CodePacker()
    lists = faiss.downcast_InvertedLists(codes.invlists)
    parts = faiss.vector_to_array(codes.pq.centroids).reshape(codes.pq.M, 16, 2)
    found = {}
    for cell, centre in enumerate(base.cells.centres.reshape(-1, codes.pq.M, 1, 2)):
        if n := lists.list_size(cell):
            n_blocks = -(-n // packer.nvec)
            blocks = faiss.rev_swig_ptr(lists.get_codes(cell), n_blocks * packer.block_size).reshape(n_blocks, -1)
            for place, row in enumerate(faiss.rev_swig_ptr(lists.get_ids(cell), n).tolist()):
                code = packer.unpack_1(blocks, place)
                numbers = np.stack([code & 15, code >> 4], axis=1).reshape(-1)
                possible = centre + parts
                found[row] = possible[np.arange(codes.pq.M), numbers].reshape(-1), possible
    return found
