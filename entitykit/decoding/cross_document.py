"""From scores of pairs of mentions to clusters across documents."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from entitykit.decoding.coref import NONE, Floats, Ints
from entitykit.errors import error

ScorePairs = Callable[[Ints], Floats]
"""Scores pairs of mentions, `(n_pairs, 2)`, as `(n_pairs,)`."""


@dataclass(frozen=True)
class MergeSettings:
    """Settings of `agglomerate`, with the values of Held et al. (2021).

    Attributes:
        threshold: a pair with a higher score joins its two clusters.
        mean_threshold: two clusters of several mentions join only if the mean score between them is at least this; 0 joins all.
        n_sampled: of a larger cluster so many mentions are compared, evenly spaced; 0 for all.
    """

    threshold: float = 0.5
    mean_threshold: float = 0.5
    n_sampled: int = 20


def agglomerate(
    pairs: Ints,
    scores: Floats,
    score_pairs: ScorePairs,
    n_mentions: int,
    *,
    settings: MergeSettings | None = None,
    known: Ints | None = None,
) -> Ints:
    """Merge mentions of many documents into clusters: the best pairs first, clusters only if they fit as a whole.

    Held, Iter and Jurafsky, EMNLP 2021: pairs of near neighbours, scored by a cross-encoder, are taken by falling score. A
    single mention joins at once; two clusters of several mentions only by the mean of all pairs between them.

    Args:
        pairs: pairs of mentions that were scored, `(n_pairs, 2)`.
        scores: their scores, `(n_pairs,)`.
        score_pairs: scores the pairs that the mean needs, the lower number first; those that `pairs` has are not asked for
            again, but others may be.
        n_mentions: number of mentions.
        settings: thresholds.
        known: clusters of earlier mentions, -1 for new ones, `(n_mentions,)`; None if all are new. Known clusters keep their
            numbers; where two of them merge, the lower number stays.

    Returns:
        Clusters; new ones are numbered after the known ones in the order of their first mentions, `(n_mentions,)`.

    Raises:
        InputError: E351 for arrays of another shape, E354 for scores that are NaN.
    """
    if pairs.shape != (len(scores), 2) or (known is not None and known.shape != (n_mentions,)):
        found = f"{pairs.shape} pairs, {scores.shape} scores and {None if known is None else known.shape} known clusters"
        raise error("E351", found=found, expected=f"(n_pairs, 2), (n_pairs,) and ({n_mentions},)")
    if n := int(np.isnan(scores).sum()):
        raise error("E354", n=n)
    clustering = _Clustering(n_mentions, known)
    low, high = np.sort(pairs, axis=1).T.reshape(2, -1).astype(np.int64)
    asked = _Asked(low, high, scores, score_pairs, n_mentions)
    chosen = settings or MergeSettings()
    order = np.lexsort((high, low, -scores))
    order = order[: int((scores > chosen.threshold).sum())]
    for one, other in zip(low[order].tolist(), high[order].tolist(), strict=True):
        a, b = clustering.of[one], clustering.of[other]
        if a != b and _fits(clustering.members[a], clustering.members[b], asked, chosen):
            clustering.merge(a, b)
    return clustering.numbers()


class _Clustering:
    """Clusters that merge: the cluster of every mention, and the mentions of every cluster, sorted."""

    def __init__(self, n_mentions: int, known: Ints | None) -> None:
        names = np.full(n_mentions, NONE, dtype=np.int64) if known is None else known.astype(np.int64)
        self._first_new = int(names.max(initial=NONE)) + 1
        new = names == NONE
        self.of: list[int] = np.where(new, self._first_new + np.cumsum(new) - 1, names).tolist()
        self.members: dict[int, list[int]] = {}
        for mention, cluster in enumerate(self.of):
            self.members.setdefault(cluster, []).append(mention)
        self._names = {cluster: cluster for cluster in self.members}

    def merge(self, a: int, b: int) -> None:
        """Move the mentions of the smaller cluster to the larger one, which is then named by the lower name of both."""
        smaller, larger = sorted((a, b), key=lambda each: len(self.members[each]))
        into = self.members[larger]
        for mention in self.members.pop(smaller):
            self.of[mention] = larger
            insort(into, mention)
        self._names[larger] = min(self._names[larger], self._names.pop(smaller))

    def numbers(self) -> Ints:
        """Number new clusters after the known ones, without gaps, in the order of their first mentions."""
        numbers = np.array([self._names[cluster] for cluster in self.of], dtype=np.int64)
        new = np.flatnonzero(numbers >= self._first_new)
        _, first, inverse = np.unique(numbers[new], return_index=True, return_inverse=True)
        numbers[new] = self._first_new + np.argsort(np.argsort(first))[inverse]
        return numbers


class _Asked:
    """Scores of pairs: those that are known are looked up, the others are asked for."""

    def __init__(self, low: Ints, high: Ints, scores: Floats, score_pairs: ScorePairs, n_mentions: int) -> None:
        keys = low * n_mentions + high
        order = np.argsort(keys, kind="stable")
        self._keys, self._scores = np.append(keys[order], -1), np.append(scores[order], np.nan)  # one more, to look behind
        self._score_pairs, self._n = score_pairs, n_mentions

    def mean(self, a: list[int], b: list[int]) -> float:
        """The mean score of all pairs between two clusters."""
        rows, columns = np.array(a, dtype=np.int64)[:, None], np.array(b, dtype=np.int64)
        low, high = np.minimum(rows, columns).ravel(), np.maximum(rows, columns).ravel()
        keys = low * self._n + high
        places = np.searchsorted(self._keys[:-1], keys)
        scores, missing = self._scores[places], self._keys[places] != keys
        if missing.any():
            wanted = np.stack([low[missing], high[missing]], axis=1)
            found = np.asarray(self._score_pairs(wanted), dtype=np.float64)
            if found.shape != (len(wanted),):
                raise error("E351", found=found.shape, expected=f"({len(wanted)},)")
            scores[missing] = found
        return float(scores.mean())


def _fits(a: list[int], b: list[int], asked: _Asked, settings: MergeSettings) -> bool:
    if len(a) == 1 or len(b) == 1:
        return True
    return asked.mean(_sample(a, settings.n_sampled), _sample(b, settings.n_sampled)) >= settings.mean_threshold


def _sample(members: list[int], n: int) -> list[int]:
    """Take n of the members, evenly spaced from the first to the last."""
    if not n or len(members) <= n:
        return members
    return [members[int(i)] for i in np.linspace(0, len(members) - 1, n).tolist()]
