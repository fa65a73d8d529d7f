"""Near mentions, and how new ones join the clusters of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.cross_document import MergeSettings, ScorePairs, agglomerate
from entitykit.knowledge.candidates import Mention
from entitykit.knowledge.cluster_schema import ClusterReport, NewDocument
from entitykit.knowledge.cluster_store import EXACT, ClusterStore
from entitykit.knowledge.index import VectorIndex
from entitykit.knowledge.neighbours import ranked

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

ScorerOf = Callable[[Sequence[Mention], Floats], ScorePairs]
"""Makes a scorer of pairs of mentions, from these and their vectors."""


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


def join_store(
    store: ClusterStore,
    documents: Sequence[NewDocument],
    report: ClusterReport,
    *,
    scorer: ScorerOf,
    likely: Callable[[Doubles], NDArray[np.bool_]],
    k: int,
    merging: MergeSettings,
) -> None:
    """Put documents into a store that is being changed: their mentions join its clusters, or begin new ones.

    Of the store only the clusters of near mentions are looked at; two of them may merge by what is new.

    Args:
        store: within `ClusterStore.changing`.
        documents: that it does not have.
        report: is given the counts.
        scorer: see `ScorerOf`.
        likely: by cosines *(n,)*, which pairs are scored.
        k: neighbours of a mention that are looked at.
        merging: when clusters merge.
    """
    vectors = np.concatenate([np.zeros((0, store.width), dtype=np.float32), *(each.vectors for each in documents)])
    first = store.last_mention + 1
    pairs, cosines = near_pairs(vectors, k, first=first, others=Others(*store.nearest(vectors, k)))
    pairs = pairs[likely(cosines)]
    near = np.unique(pairs[pairs < first])
    old, clusters = store.members(np.unique(store.clusters_of(near)))
    local = np.concatenate([old, np.arange(first, first + len(vectors))])  # rises, so that the lower number stays the lower
    names, known = np.unique(clusters, return_inverse=True)
    known = np.concatenate([known.reshape(-1), np.full(len(vectors), -1)])
    mentions = [*store.mentions(old), *(mention for each in documents for mention in each.mentions)]
    score = scorer(mentions, np.concatenate([store.vectors(old), vectors]))
    pairs = np.searchsorted(local, pairs)
    chosen = agglomerate(pairs, score(pairs), score, len(local), settings=merging, known=known)
    numbers = np.concatenate([names, store.next_cluster + np.arange(int(chosen.max(initial=-1)) + 1)])[chosen]
    changed = numbers[: len(old)] != clusters
    merged = dict(zip(clusters[changed].tolist(), numbers[: len(old)][changed].tolist(), strict=True))
    report.mentions, report.merged = len(vectors), len(merged)
    report.new_clusters = len(np.unique(numbers[numbers >= store.next_cluster]))
    store.put(documents, numbers[len(old) :], merged)
