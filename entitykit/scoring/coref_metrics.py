"""Metrics of coreference on clusters of mentions: MUC, B³, CEAF-e, LEA and the CoNLL F1.

The first three are those of the CoNLL-2012 scorer in its reference implementation, version 8.01 (Pradhan et al., ACL 2014): a
mention that only one side has stays in its cluster there, and numerators and denominators are summed over all documents before
precision and recall are computed. With g a gold and p a predicted cluster, and n = |g ∩ p| the mentions that they share:

- *MUC* (Vilain et al., MUC-6, 1995): links; Σ (n − 1) over all pairs that share a mention, of Σ (|g| − 1) and Σ (|p| − 1).
- *B³* (Bagga and Baldwin, LREC 1998): mentions; recall Σ n² / |g| of Σ |g|, precision Σ n² / |p| of Σ |p|.
- *CEAF-e* (Luo, HLT/EMNLP 2005): clusters; Σ φ4 = 2n / (|g| + |p|) over the one-to-one alignment of clusters that makes it
  largest, of the number of gold and of predicted clusters.
- *LEA* (Moosavi and Strube, ACL 2016): Σ |g| · link(n) / link(|g|) of Σ |g|, with link(n) = n (n − 1) / 2. A cluster of one
  mention has one link, to itself, which counts if that mention is alone on the other side, too. Precision swaps g and p.
- *CoNLL F1*: the mean of the F1 of MUC, B³ and CEAF-e.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from entitykit.errors import error
from entitykit.scoring.spans import PRF

Clusters = Sequence[Collection[Hashable]]
"""The clusters of a document; what a mention is does not matter as long as both sides spell it alike."""


class CorefScores(NamedTuple):
    """Scores over a corpus; `n_gold` counts mentions in `mentions`, `b_cubed` and `lea`, links in `muc`, clusters in `ceaf_e`.

    Attributes:
        mentions: of the mentions alone, whatever their clusters.
        muc: MUC.
        b_cubed: B³.
        ceaf_e: CEAF-e.
        lea: LEA.
        conll_f1: the mean of the F1 of MUC, B³ and CEAF-e.
    """

    mentions: PRF
    muc: PRF
    b_cubed: PRF
    ceaf_e: PRF
    lea: PRF
    conll_f1: float


class _Counts(NamedTuple):
    """What is found and what there is, for recall and precision; documents add up."""

    in_gold: float
    n_gold: float
    in_predicted: float
    n_predicted: float


class _Overlap(NamedTuple):
    """The clusters of a document on both sides, and the pairs that share mentions.

    Attributes:
        gold: sizes of the gold clusters, `(n_gold,)`.
        predicted: sizes of the predicted clusters, `(n_predicted,)`.
        rows: gold cluster of each pair, `(n_pairs,)`.
        columns: predicted cluster of each pair, `(n_pairs,)`.
        shared: number of mentions that the pair shares, at least 1, `(n_pairs,)`.
    """

    gold: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shared: NDArray[np.int64]


def score_clusters(gold: Iterable[Clusters], predicted: Iterable[Clusters], *, singletons: bool = True) -> CorefScores | None:
    """Score predicted clusters over a corpus.

    Args:
        gold: the clusters of each document; a mention is in one cluster of a document at most. Empty clusters do not count.
        predicted: the same documents' predicted clusters.
        singletons: False to leave out clusters of one mention, on both sides.

    Returns:
        The scores; 0 where a denominator is 0, as MUC's without links. None if there is no cluster on either side.

    Raises:
        InputError: E320 for a mention in two clusters of a side.
    """
    totals: dict[str, _Counts] = {}
    for in_gold, in_predicted in zip(gold, predicted, strict=True):
        for name, counts in _count(_keep(in_gold, singletons), _keep(in_predicted, singletons)).items():
            before = totals.get(name, _Counts(0, 0, 0, 0))
            totals[name] = _Counts(*(a + b for a, b in zip(before, counts, strict=True)))
    if not totals or not totals["ceaf_e"].n_gold + totals["ceaf_e"].n_predicted:
        return None
    scores = {name: _measure(counts) for name, counts in totals.items()}
    conll = sum(scores[name].f1 for name in ("muc", "b_cubed", "ceaf_e")) / 3
    return CorefScores(**scores, conll_f1=conll)


def _keep(clusters: Clusters, singletons: bool) -> list[frozenset[Hashable]]:
    sets = [frozenset(cluster) for cluster in clusters]
    return [cluster for cluster in sets if len(cluster) > (0 if singletons else 1)]


def _count(gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]) -> Mapping[str, _Counts]:
    """Count a document for every metric."""
    overlap = _overlap(gold, predicted)
    shared, sizes = overlap.shared, overlap.gold[overlap.rows]
    other_sizes = overlap.predicted[overlap.columns]
    n_gold, n_predicted = float(overlap.gold.sum()), float(overlap.predicted.sum())
    links, found, aligned = float((shared - 1).sum()), float(shared.sum()), _align(overlap)
    return {
        "mentions": _Counts(found, n_gold, found, n_predicted),
        "muc": _Counts(links, n_gold - len(gold), links, n_predicted - len(predicted)),
        "b_cubed": _Counts(float((shared**2 / sizes).sum()), n_gold, float((shared**2 / other_sizes).sum()), n_predicted),
        "ceaf_e": _Counts(aligned, len(gold), aligned, len(predicted)),
        "lea": _Counts(
            float((sizes * _resolved(shared, sizes, other_sizes)).sum()),
            n_gold,
            float((other_sizes * _resolved(shared, other_sizes, sizes)).sum()),
            n_predicted,
        ),
    }


def _overlap(gold: Sequence[Collection[Hashable]], predicted: Sequence[Collection[Hashable]]) -> _Overlap:
    in_gold, in_predicted = _cluster_of(gold, "gold"), _cluster_of(predicted, "predicted")
    pairs = Counter((row, in_predicted[mention]) for mention, row in in_gold.items() if mention in in_predicted)
    table = np.array([(row, column, n) for (row, column), n in pairs.items()], dtype=np.int64).reshape(-1, 3)
    return _Overlap(
        gold=np.array([len(cluster) for cluster in gold], dtype=np.int64),
        predicted=np.array([len(cluster) for cluster in predicted], dtype=np.int64),
        rows=table[:, 0],
        columns=table[:, 1],
        shared=table[:, 2],
    )


def _cluster_of(clusters: Sequence[Collection[Hashable]], side: str) -> dict[Hashable, int]:
    found: dict[Hashable, int] = {}
    for i, cluster in enumerate(clusters):
        for mention in cluster:
            if mention in found:
                raise error("E320", side=side, mention=mention)
            found[mention] = i
    return found


def _resolved(shared: NDArray[np.int64], sizes: NDArray[np.int64], other_sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the share of a cluster's links that the other side's cluster has, `(n_pairs,)`."""
    alone = sizes == 1
    links = np.where(alone, 1, sizes * (sizes - 1) / 2)
    return np.where(alone, other_sizes == 1, shared * (shared - 1) / 2) / links


def _align(overlap: _Overlap) -> float:
    """Give Σ φ4 of the best one-to-one alignment; clusters that no chain of shared mentions connects are aligned apart."""
    n_gold, n_predicted = len(overlap.gold), len(overlap.predicted)
    if not len(overlap.shared):
        return 0.0
    similarity = 2 * overlap.shared / (overlap.gold[overlap.rows] + overlap.predicted[overlap.columns])
    n_nodes = n_gold + n_predicted
    graph = coo_array((np.ones(len(similarity)), (overlap.rows, n_gold + overlap.columns)), shape=(n_nodes, n_nodes))
    component = connected_components(graph, directed=False)[1][overlap.rows]  # (n_pairs,)
    order = np.argsort(component, kind="stable")
    total = 0.0
    for pairs in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
        rows, row = np.unique(overlap.rows[pairs], return_inverse=True)
        columns, column = np.unique(overlap.columns[pairs], return_inverse=True)
        matrix = np.zeros((len(rows), len(columns)))
        matrix[row, column] = similarity[pairs]
        total += float(matrix[linear_sum_assignment(matrix, maximize=True)].sum())
    return total


def _measure(counts: _Counts) -> PRF:
    recall = counts.in_gold / counts.n_gold if counts.n_gold else 0.0
    precision = counts.in_predicted / counts.n_predicted if counts.n_predicted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return PRF(precision, recall, f1, int(counts.n_gold))
