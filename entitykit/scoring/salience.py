"""Measures of entity salience: precision, recall, F1 and ROC AUC of salient entities, nDCG of graded ones.

What was not found has the score 0: it is never predicted, has no rank, and gains nothing.
`entitykit.scoring.salience_documents` reads them from documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import error
from entitykit.scoring.spans import PRF, prf

Floats = NDArray[np.float64]

NDCG_AT = (1, 5, 10)
"""Ranks at which nDCG is reported."""
UNRANKED = float("-inf")
"""The score of an entity that has no rank."""


class SalienceScores(NamedTuple):
    """Scores over the entities of all documents.

    Attributes:
        micro: of the entities that are predicted to be salient, all documents in one.
        auc: area under the ROC curve of all entities: the probability that a salient one has a higher score than another one,
            equal scores counting half. None without both kinds.
        map: mean average precision: over the documents with a salient entity, the mean of the precision at the rank of each,
            0 for what was not found. None without such a document.
        ndcg: nDCG of the graded scores at each rank, and of the whole ranking at 0: the mean over the documents with a grade
            above 0. None without any.
    """

    micro: PRF
    auc: float | None
    map: float | None
    ndcg: dict[int, float | None]


def score_salience(
    gold: Iterable[Sequence[float]],
    predicted: Iterable[Sequence[float]],
    *,
    salient: float = 1.0,
    threshold: float = 0.5,
    at: Sequence[int] = NDCG_AT,
) -> SalienceScores:
    """Score predicted salience against grades, or against 0 and 1.

    Args:
        gold: the grade of every entity of each document, at least 0.
        predicted: the same entities' predicted scores; 0 for those that were not found.
        salient: entities with at least this grade are salient, for all measures but nDCG.
        threshold: entities with at least this score are predicted to be salient, for `micro`.
        at: ranks for nDCG.

    Raises:
        InputError: E335 for scores that do not fit the grades, or are not finite, and for what is negative.
    """
    documents = [_check(grades, scores) for grades, scores in zip(gold, predicted, strict=True)]
    grades = np.concatenate([document[0] for document in documents]) if documents else np.empty(0)
    scores = np.concatenate([document[1] for document in documents]) if documents else np.empty(0)
    is_salient, is_predicted = grades >= salient, (scores >= threshold) & (scores > 0)
    ranked = [(own, np.where(found > 0, found, UNRANKED)) for own, found in documents]
    graded = [document for document in ranked if document[0].any()]
    precisions = [average_precision(own >= salient, found) for own, found in ranked if (own >= salient).any()]
    return SalienceScores(
        micro=prf(
            n_correct=int((is_salient & is_predicted).sum()), n_predicted=int(is_predicted.sum()), n_gold=int(is_salient.sum())
        ),
        auc=roc_auc(is_salient, scores),
        map=float(np.mean(precisions)) if precisions else None,
        ndcg={k: float(np.mean([ndcg(*document, k) for document in graded])) if graded else None for k in (*at, 0)},
    )


def best_threshold(gold: Iterable[Sequence[float]], predicted: Iterable[Sequence[float]], *, salient: float = 1.0) -> float:
    """Find the threshold that gives `score_salience` its best F1, of several the highest; infinity if no salient one was found.

    It lies halfway between the last score above it and the first one below, and above 0, the score of what was not found.

    Args:
        gold: the grade of every entity of each document, at least 0.
        predicted: the same entities' predicted scores; 0 for those that were not found.
        salient: entities with at least this grade are salient.

    Raises:
        InputError: E335 for scores that do not fit the grades, or are not finite, and for what is negative.
    """
    documents = [_check(grades, scores) for grades, scores in zip(gold, predicted, strict=True)]
    nothing = np.empty(0)
    is_salient = np.concatenate([nothing, *(grades for grades, _ in documents)]) >= salient
    scores = np.concatenate([nothing, *(scores for _, scores in documents)])
    if not is_salient[scores > 0].any():
        return float("inf")
    order = np.argsort(-scores, kind="stable")
    n_correct, ranked = np.cumsum(is_salient[order]), scores[order]
    f1 = 2 * n_correct / (np.arange(1, len(ranked) + 1) + n_correct[-1])
    f1[:-1][ranked[:-1] == ranked[1:]] = 0  # equal scores are predicted together
    f1[ranked <= 0] = 0
    last = int(f1.argmax())
    return float(ranked[last : last + 2].mean())


def roc_auc(is_salient: NDArray[np.bool_], scores: Floats) -> float | None:
    """Compute the area under the ROC curve from ranks (Mann and Whitney's U).

    Args:
        is_salient: `(n_entities,)`.
        scores: `(n_entities,)`.

    Returns:
        None if all entities are of one kind.
    """
    n_salient = int(is_salient.sum())
    n_others = len(is_salient) - n_salient
    if not n_salient or not n_others:
        return None
    _, tied, n_tied = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(n_tied) - (n_tied - 1) / 2)[tied]  # equal scores have the mean of their ranks
    return float((ranks[is_salient].sum() - n_salient * (n_salient + 1) / 2) / (n_salient * n_others))


def average_precision(is_salient: NDArray[np.bool_], scores: Floats) -> float:
    """Compute the mean precision at the ranks of the salient entities, at least one, of which some may have no rank.

    Entities with equal scores share their ranks, as the mean over all their orders (McSherry and Najork, ECIR 2008).

    Args:
        is_salient: `(n_entities,)`.
        scores: `(n_entities,)`; `UNRANKED` for those without a rank, whose precision is 0.
    """
    values, tied, n_tied = np.unique(-scores, return_inverse=True, return_counts=True)
    n_salient = np.bincount(tied, weights=is_salient, minlength=len(values))
    group = np.repeat(np.arange(len(values)), n_tied)  # of equal scores, rank by rank
    ranks = np.arange(1, len(scores) + 1)
    place = ranks - 1 - (np.cumsum(n_tied) - n_tied)[group]
    above = (np.cumsum(n_salient) - n_salient)[group]
    share = n_salient[group] / n_tied[group]  # probability that an entity of this rank is salient
    others = (n_salient[group] - 1) / np.maximum(n_tied[group] - 1, 1)  # the same of its equals, if it is
    precision = share * (above + place * others + 1) / ranks
    return float(precision[np.isfinite(values[group])].sum() / is_salient.sum())


def ndcg(grades: Floats, scores: Floats, k: int) -> float:
    """Compute the normalised discounted cumulative gain: Σ grade / log2(1 + rank), of what the best ranking has.

    Järvelin and Kekäläinen, TOIS 20, 2002. Entities with equal scores share the discounts of their ranks, as the mean over all
    their orders (McSherry and Najork, ECIR 2008).

    Args:
        grades: `(n_entities,)`, one above 0 at least.
        scores: `(n_entities,)`; `UNRANKED` for those without a rank, which gain nothing.
        k: the last rank that counts; 0 for all.
    """
    ranks = np.arange(1, len(grades) + 1)
    discounts = np.where(ranks <= (k or len(grades)), 1 / np.log2(ranks + 1), 0.0)
    _, tied, n_tied = np.unique(-scores, return_inverse=True, return_counts=True)
    found = np.where(scores > UNRANKED, grades, 0.0)
    gains = np.bincount(tied, weights=found) / n_tied  # mean grade of each group of equal scores, the best first
    ends = np.cumsum(n_tied)
    shared = np.add.reduceat(discounts, ends - n_tied)
    return float((gains * shared).sum() / (np.sort(grades)[::-1] * discounts).sum())


def _check(grades: Sequence[float], scores: Sequence[float]) -> tuple[Floats, Floats]:
    in_gold, in_predicted = np.asarray(grades, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if in_gold.shape != in_predicted.shape:
        raise error("E335", found=f"{len(in_predicted)} scores", expected=f"{len(in_gold)}, one per entity")
    if not np.isfinite(in_predicted).all():
        raise error("E335", found="a score that is not finite", expected="numbers")
    if (in_predicted < 0).any():
        raise error("E335", found=f"scores from {in_predicted.min()}", expected="scores of at least 0, which says: not found")
    if not np.isfinite(in_gold).all() or (in_gold < 0).any():
        raise error("E335", found=f"grades from {in_gold.min()} to {in_gold.max()}", expected="finite ones of at least 0")
    return in_gold, in_predicted
