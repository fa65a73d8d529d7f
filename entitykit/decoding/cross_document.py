"""From scores of pairs of mentions to clusters across documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

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
        score_pairs: scores the pairs that the mean needs; pairs that `pairs` has are not asked for again.
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
    asked = _Asked(pairs, scores, score_pairs)
    chosen = settings or MergeSettings()
    low, high = np.sort(pairs, axis=1).T.reshape(2, -1)
    for pair in np.lexsort((high, low, -scores)):
        if not scores[pair] > chosen.threshold:
            break
        a, b = clustering.of[low[pair]], clustering.of[high[pair]]
        if a != b and _fits(clustering.members[a], clustering.members[b], asked, chosen):
            clustering.merge(a, b)
    return clustering.numbers()


class _Clustering:
    """Clusters that merge: the cluster of every mention, and the mentions of every cluster, sorted."""

    def __init__(self, n_mentions: int, known: Ints | None) -> None:
        names = np.full(n_mentions, NONE, dtype=np.int64) if known is None else known.astype(np.int64)
        self._first_new = int(names.max(initial=NONE)) + 1
        new = names == NONE
        self.of = np.where(new, self._first_new + np.cumsum(new) - 1, names)
        self.members: dict[int, list[int]] = {}
        for mention, cluster in enumerate(self.of.tolist()):
            self.members.setdefault(cluster, []).append(mention)

    def merge(self, a: int, b: int) -> None:
        kept, lost = sorted((a, b))
        moved = self.members.pop(lost)
        self.of[moved] = kept
        self.members[kept] = sorted(self.members[kept] + moved)

    def numbers(self) -> Ints:
        """Number new clusters after the known ones, without gaps, in the order of their first mentions."""
        numbers = self.of.copy()
        new = np.flatnonzero(numbers >= self._first_new)
        _, first, inverse = np.unique(numbers[new], return_index=True, return_inverse=True)
        numbers[new] = self._first_new + np.argsort(np.argsort(first))[inverse]
        return numbers


class _Asked:
    """Scores of pairs, each asked for once."""

    def __init__(self, pairs: Ints, scores: Floats, score_pairs: ScorePairs) -> None:
        self._scores = {(min(a, b), max(a, b)): score for (a, b), score in zip(pairs.tolist(), scores.tolist(), strict=True)}
        self._score_pairs = score_pairs

    def mean(self, a: list[int], b: list[int]) -> float:
        wanted = [(min(pair), max(pair)) for pair in product(a, b)]
        missing = [pair for pair in wanted if pair not in self._scores]
        if missing:
            scores = np.asarray(self._score_pairs(np.array(missing, dtype=np.int64)), dtype=np.float64)
            if scores.shape != (len(missing),):
                raise error("E351", found=scores.shape, expected=f"({len(missing)},)")
            self._scores.update(zip(missing, scores.tolist(), strict=True))
        return float(np.mean([self._scores[pair] for pair in wanted]))


def _fits(a: list[int], b: list[int], asked: _Asked, settings: MergeSettings) -> bool:
    if len(a) == 1 or len(b) == 1:
        return True
    return asked.mean(_sample(a, settings.n_sampled), _sample(b, settings.n_sampled)) >= settings.mean_threshold


def _sample(members: list[int], n: int) -> list[int]:
    """Take n of the members, evenly spaced from the first to the last."""
    if not n or len(members) <= n:
        return members
    return [members[int(i)] for i in np.linspace(0, len(members) - 1, n)]
