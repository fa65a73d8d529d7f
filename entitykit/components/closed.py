"""Clusters that nothing leads out of: the near mentions of all of theirs are their own.

Once an entity has more mentions than neighbours are looked at, each of them may have only others of its own cluster among
these, and then no pair would ever tell that two such clusters are of one entity. So these look around once more, as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from entitykit.components.near import Doubles, Floats, Ints
from entitykit.decoding.cross_document import MergeSettings, ScorePairs, agglomerate

ROUNDS = 20
"""So often at most closed clusters look around. Where they find each other, half of them are left after a round."""

Likely = Callable[[Doubles], NDArray[np.bool_]]
"""By cosines *(n,)*, which pairs are scored."""

_COSINES = 2**22  # numbers in a matrix of cosines


def agglomerate_all(
    pairs: Ints, score: ScorePairs, vectors: Floats, *, k: int, likely: Likely, settings: MergeSettings
) -> Ints:
    """Cluster mentions by near pairs, and by pairs that lead out of clusters where none of these does.

    Args:
        pairs: *(n_pairs, 2)* to begin with, each once, the lower number first.
        score: scores pairs.
        vectors: *(n, size)*, of length 1, of the mentions.
        k: neighbours that a closed cluster looks at in a round.
        likely: which of them are scored.
        settings: when clusters merge.

    Returns:
        Clusters *(n,)*, see `agglomerate`; the same as by `pairs` alone if none of more than k mentions is closed.
    """
    scores = score(pairs)
    clusters = agglomerate(pairs, scores, score, len(vectors), settings=settings)
    for _ in range(ROUNDS):
        found, cosines = _pairs_out(vectors, clusters, closed_clusters(clusters, pairs, k), k)
        found = new_pairs(pairs, found[likely(cosines)])
        if not len(found):
            break
        pairs, scores = np.concatenate([pairs, found]), np.concatenate([scores, score(found)])
        clusters = agglomerate(pairs, scores, score, len(vectors), settings=settings)
    return clusters


def closed_clusters(clusters: Ints, pairs: Ints, k: int) -> list[Ints]:
    """Mentions, which rise, of each cluster that has more than k of them and of which none is in a pair with another cluster's.

    Args:
        clusters: *(n,)* of the mentions.
        pairs: *(n_pairs, 2)* of mentions.
        k: up to so many mentions of a cluster have neighbours elsewhere.
    """
    both = clusters[pairs]
    names, sizes = np.unique(clusters, return_counts=True)
    closed = np.setdiff1d(names[sizes > k], both[both[:, 0] != both[:, 1]])
    mentions = np.flatnonzero(np.isin(clusters, closed))
    mentions = mentions[np.argsort(clusters[mentions], kind="stable")]
    return np.split(mentions, np.cumsum(sizes[np.isin(names, closed)])[:-1]) if len(closed) else []


def nearest_of(vectors: Floats, others: Floats) -> tuple[Ints, Doubles]:
    """Which of a cluster's vectors *(n, size)* is nearest to each of others *(m, size)*, and the cosines, both *(m,)*."""
    cosines = vectors @ others.T
    return cosines.argmax(axis=0), cosines.max(axis=0, initial=-np.inf).astype(np.float64)


def new_pairs(known: Ints, found: Ints) -> Ints:
    """Pairs, each once and the lower number first, without those that are known."""
    found = np.unique(np.sort(found, axis=1), axis=0).reshape(-1, 2)
    n = 1 + max(known.max(initial=0), found.max(initial=0))
    return found[~np.isin(found[:, 0] * n + found[:, 1], known[:, 0] * n + known[:, 1])]


def _pairs_out(vectors: Floats, clusters: Ints, closed: list[Ints], k: int) -> tuple[Ints, Doubles]:
    """The k mentions of others that are nearest to each closed cluster's mean, with its nearest mention, and their cosines."""
    pairs, cosines = [np.empty((0, 2), dtype=np.int64)], [np.empty(0)]
    step = max(1, _COSINES // max(1, len(vectors)))
    for start in range(0, len(closed), step):
        block = closed[start : start + step]
        table = np.stack([vectors[own].mean(axis=0) for own in block]) @ vectors.T
        table[clusters == clusters[[own[0] for own in block]][:, None]] = -np.inf
        nearest = np.argpartition(-table, min(k, len(vectors)) - 1, axis=1)[:, :k]
        for own, row, near in zip(block, table, nearest, strict=True):
            others = near[np.isfinite(row[near])]
            which, found = nearest_of(vectors[own], vectors[others])
            pairs.append(np.stack([own[which], others], axis=1))
            cosines.append(found)
    return np.concatenate(pairs), np.concatenate(cosines)
