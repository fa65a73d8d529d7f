"""How new mentions join the clusters of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from entitykit.components.closed import ROUNDS, Likely, closed_clusters, nearest_of, new_pairs
from entitykit.components.near import Doubles, Floats, Ints, Others, near_pairs
from entitykit.decoding.coref import NONE
from entitykit.decoding.cross_document import MergeSettings, ScorePairs, agglomerate
from entitykit.knowledge.candidates import Mention
from entitykit.knowledge.cluster_schema import ClusterReport, Mentions, NewDocument
from entitykit.knowledge.cluster_store import ClusterStore
from entitykit.knowledge.neighbours import ranked

ScorerOf = Callable[[Mentions, Floats], ScorePairs]
"""Makes a scorer of pairs of mentions, from these and their vectors."""


def join_store(
    store: ClusterStore,
    documents: Sequence[NewDocument],
    report: ClusterReport,
    *,
    scorer: ScorerOf,
    likely: Likely,
    k: int,
    merging: MergeSettings,
) -> None:
    """Put documents into a store that is being changed: their mentions join its clusters, or begin new ones.

    Of the store only the clusters of near mentions are looked at; two of them may merge by what is new. Those that nothing
    leads out of look around as a whole, see `entitykit.components.closed`.

    Args:
        store: within `ClusterStore.changing`.
        documents: that it does not have.
        report: is given the counts.
        scorer: see `ScorerOf`.
        likely: which pairs are scored.
        k: neighbours of a mention, and of a closed cluster, that are looked at.
        merging: when clusters merge.
    """
    around = _Around(store, documents, scorer)
    pairs, cosines = near_pairs(around.new, k, first=around.first, others=Others(*store.nearest(around.new, k)))
    pairs = pairs[likely(cosines)]
    around.load(pairs)
    scores = around.score(pairs)
    chosen = around.agglomerate(pairs, scores, merging)
    for _ in range(ROUNDS):
        found, cosines = around.pairs_out(pairs, chosen, k)
        found = new_pairs(pairs, found[likely(cosines)])
        if not len(found):
            break
        around.load(found)
        pairs, scores = np.concatenate([pairs, found]), np.concatenate([scores, around.score(found)])
        chosen = around.agglomerate(pairs, scores, merging)
    around.put(documents, chosen, report)


class _Around:
    """New mentions, and the clusters of a store that they are compared with; pairs are of mentions' numbers in the store.

    Attributes:
        first: number of the first new mention.
        new: *(n_new, width)* vectors of these.
        numbers: *(n,)* of all mentions here, which rise.
        known: *(n,)* clusters of these, -1 for new ones.
    """

    def __init__(self, store: ClusterStore, documents: Sequence[NewDocument], scorer: ScorerOf) -> None:
        self._store, self._scorer = store, scorer
        self.first = store.last_mention + 1
        self.new = np.concatenate([np.zeros((0, store.width), dtype=np.float32), *(each.vectors for each in documents)])
        self.numbers = np.arange(self.first, self.first + len(self.new))
        self.known = np.full(len(self.new), NONE)
        self._rows = np.empty(0, dtype=np.int64)  # of mentions, in the order of `numbers`, in the order in which they came
        self._came = np.empty(0, dtype=np.int64)
        self._vectors = np.zeros((0, store.width), dtype=np.float32)
        self._contexts = {self.first + i: own for i, own in enumerate(own for each in documents for own in each.mentions)}
        self._scorers: list[tuple[int, ScorePairs]] = []

    def load(self, pairs: Ints) -> None:
        """Add the clusters of a store's mentions that are in pairs."""
        wanted = np.unique(pairs[pairs < self.first])
        clusters = np.unique(self._store.clusters_of(np.setdiff1d(wanted, self.numbers)))
        if self._scorers and not len(clusters):
            return
        old, theirs = self._store.members(clusters)
        coming, vectors = [old], [self._store.vectors(old)]
        if not self._scorers:
            coming, vectors = [*coming, self.numbers], [*vectors, self.new]
        numbers, known = np.concatenate([old, self.numbers]), np.concatenate([theirs, self.known])
        order = np.argsort(numbers)  # they rise, so that the lower number stays the lower
        self.numbers, self.known = numbers[order], known[order]
        self._came, self._vectors = np.concatenate([self._came, *coming]), np.concatenate([self._vectors, *vectors])
        self._rows = np.argsort(self._came)
        self._scorers.append((len(self._came), self._scorer(_Contexts(self._store, self._came, self._contexts), self._vectors)))

    def score(self, pairs: Ints) -> Doubles:
        """Scores *(n_pairs,)*: each pair by the first scorer that knows both, so that none is read again."""
        rows = self._rows[np.searchsorted(self.numbers, pairs)]
        which = np.searchsorted([n for n, _ in self._scorers], rows.max(axis=1, initial=0), side="right")
        scores = np.empty(len(pairs))
        for number in np.unique(which).tolist():
            scores[which == number] = self._scorers[number][1](rows[which == number])
        return scores

    def agglomerate(self, pairs: Ints, scores: Doubles, merging: MergeSettings) -> Ints:
        """Clusters *(n,)* of the mentions: places in the names of those that are known, and above these of new ones."""
        known = np.where(self.known == NONE, NONE, np.searchsorted(self._names, self.known))
        local = np.searchsorted(self.numbers, pairs)
        return agglomerate(
            local, scores, lambda some: self.score(self.numbers[some]), len(self.numbers), settings=merging, known=known
        )

    def pairs_out(self, pairs: Ints, chosen: Ints, k: int) -> tuple[Ints, Doubles]:
        """Of each closed cluster the k mentions elsewhere nearest to its mean, with its nearest one, and their cosines."""
        found, cosines = [np.empty((0, 2), dtype=np.int64)], [np.empty(0)]
        for own in closed_clusters(chosen, np.searchsorted(self.numbers, pairs), k):
            vectors, inside = self._vectors[self._rows[own]], self.numbers[own]
            others, theirs = self._outside(vectors.mean(axis=0, keepdims=True), inside, k)
            which, near = nearest_of(vectors, theirs)
            found.append(np.stack([inside[which], others], axis=1))
            cosines.append(near)
        return np.concatenate(found), np.concatenate(cosines)

    def put(self, documents: Sequence[NewDocument], chosen: Ints, report: ClusterReport) -> None:
        """Put the documents into the store, with what clusters they and others are now in."""
        next_cluster, old = self._store.next_cluster, self.numbers < self.first
        names = np.concatenate([self._names, next_cluster + np.arange(int(chosen.max(initial=-1)) + 1)])
        now = names[chosen]
        changed = old & (now != self.known)
        merged = dict(zip(self.known[changed].tolist(), now[changed].tolist(), strict=True))
        report.mentions, report.merged = len(self.new), len(merged)
        report.new_clusters = len(np.unique(now[now >= next_cluster]))
        self._store.put(documents, now[~old], merged)

    @property
    def _names(self) -> Ints:
        return np.unique(self.known[self.known != NONE])

    def _outside(self, mean: Floats, inside: Ints, k: int) -> tuple[Ints, Floats]:
        """Numbers and vectors of the k mentions nearest to a cluster's mean *(1, width)* that are not in it."""
        cosines, numbers = self._store.nearest(mean, k, without=inside[inside < self.first])
        own = self.first + np.arange(len(self.new))
        others = own[~np.isin(own, inside)]
        both = np.hstack([cosines, mean @ self.new[others - self.first].T]), np.hstack([numbers, others[None]])
        (near,), (found,) = ranked(*both, k)
        found = np.sort(found[np.isfinite(near)])
        old = found[found < self.first]
        return found, np.concatenate([self._store.vectors(old), self.new[found[len(old) :] - self.first]])


class _Contexts:
    """Mentions by row, loaded when they are asked for: who scores by vectors alone asks for none."""

    def __init__(self, store: ClusterStore, numbers: Ints, known: dict[int, Mention]) -> None:
        self._store, self._numbers, self._known = store, numbers, known

    def __getitem__(self, row: int, /) -> Mention:
        number = int(self._numbers[row])
        if number not in self._known:
            (self._known[number],) = self._store.mentions(self._numbers[row : row + 1])
        return self._known[number]
