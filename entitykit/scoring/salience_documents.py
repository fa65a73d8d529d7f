"""Scorer of entity salience in documents: finds for each rated entity the predicted one, and measures as in `salience`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import error
from entitykit.scoring.relations import predicted_values
from entitykit.scoring.salience import NDCG_AT, score_salience
from entitykit.scoring.spans import Scores, char_positions, locate

SALIENCE = "salience"
"""Gold ratings are `doc.user_data["salience"]`, predicted ones the extension `doc._.salience`."""

Place = tuple[int, int]


class Rated(NamedTuple):
    """An entity of a document.

    Attributes:
        score: its grade in gold, its predicted score otherwise.
        mentions: start and end, exclusive, in words; none if the text does not name it.
    """

    score: float
    mentions: list[Place]


class Compared(NamedTuple):
    """A document's entities, gold ones first, then predicted ones that are none of them.

    Attributes:
        grades: in gold; 0 for the latter.
        scores: predicted; 0 for gold entities that were not found, which have no rank and gain nothing.
        n_gold: number of gold entities.
        n_found: number of those that were found.
    """

    grades: list[float]
    scores: list[float]
    n_gold: int
    n_found: int


def make_salience_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.salience_scorer.v1`."""
    return salience_score


def salience_score(examples: Iterable[Example], *, salient: float = 1.0, threshold: float = 0.5, **_: object) -> Scores:
    """Score predicted salience, see `score_salience` for the measures and `compare_entities` for which entity is which.

    References without `doc.user_data["salience"]` are skipped.

    Args:
        examples: predicted and reference Docs.
        salient: entities with at least this grade are salient.
        threshold: entities with at least this score are predicted to be.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `salience_p`, `_r`, `_f`, `_auc`, `_map`, `_ndcg` (of the whole ranking) and `_ndcg_at_1`, `_5`, `_10`; and
        `salience_found`, the share of gold entities that were found. None where there is nothing to score.

    Raises:
        InputError: E305 for an example whose texts differ, E620 for ratings that cannot be read.
    """
    compared = [each for each in map(compare_entities, examples) if each is not None]
    gold, predicted = [each.grades for each in compared], [each.scores for each in compared]
    found = score_salience(gold, predicted, salient=salient, threshold=threshold)
    n_gold = sum(each.n_gold for each in compared)
    micro = found.micro if any(gold) else None
    return {
        "salience_p": micro and micro.precision,
        "salience_r": micro and micro.recall,
        "salience_f": micro and micro.f1,
        "salience_auc": found.auc,
        "salience_map": found.map,
        "salience_ndcg": found.ndcg[0],
        **{f"salience_ndcg_at_{k}": found.ndcg[k] for k in NDCG_AT},
        "salience_found": sum(each.n_found for each in compared) / n_gold if n_gold else None,
    }


def compare_entities(eg: Example) -> Compared | None:
    """Find for each gold entity the predicted one with the most characters in common.

    Two entities are as similar as the sets of all characters of their mentions (Jaccard); the matching with the greatest sum of
    similarities is taken.

    Returns:
        None if the reference has no ratings.

    Raises:
        InputError: E305 for an example whose texts differ, E620 for ratings that cannot be read.
    """
    gold = rated_entities(eg.reference, eg.reference.user_data.get(SALIENCE))
    if gold is None:
        return None
    predicted = rated_entities(eg.predicted, predicted_values(eg.predicted, SALIENCE)) or []
    in_predicted, in_reference = char_positions(eg)
    pairs = match(
        [_characters(eg.reference, entity, in_reference) for entity in gold],
        [_characters(eg.predicted, entity, in_predicted) for entity in predicted],
    )
    others = [0.0 for column in range(len(predicted)) if column not in pairs.values()]
    left = [entity.score for column, entity in enumerate(predicted) if column not in pairs.values()]
    scores = [predicted[pairs[row]].score if row in pairs else 0.0 for row in range(len(gold))]
    return Compared([entity.score for entity in gold] + others, scores + left, len(gold), len(pairs))


def rated_entities(doc: Doc, values: Sequence[Any] | None) -> list[Rated] | None:
    """Read ratings of entities.

    Args:
        doc: the document that they are about.
        values: dicts with a `score` of at least 0 and either `mentions`, pairs of start and end in words, or `group`, the name
            of a span group, whose empty spans are left out.

    Returns:
        None without values.

    Raises:
        InputError: E620 for values that are not so.
    """
    return None if values is None else [_rated(doc, value) for value in values]


def match(gold: Sequence[Set[Any]], predicted: Sequence[Set[Any]]) -> dict[int, int]:
    """Match sets one to one, so that the sum of their Jaccard similarities is greatest.

    Returns:
        Rows of gold to rows of predicted sets; only of sets that have something in common.
    """
    table = np.zeros((len(gold), len(predicted)))
    for row, one in enumerate(gold):
        for column, other in enumerate(predicted):
            n_common = len(one & other)
            table[row, column] = n_common / (len(one) + len(other) - n_common) if n_common else 0.0
    rows, columns = linear_sum_assignment(-table)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if table[row, column] > 0}


def _rated(doc: Doc, value: object) -> Rated:
    match value:
        case {"score": int(score) | float(score), "mentions": [*mentions]} if score >= 0:
            places = [place for mention in mentions if (place := _place(mention, len(doc))) is not None]
            if len(places) == len(mentions):
                return Rated(float(score), places)
        case {"score": int(score) | float(score), "group": str(group)} if score >= 0 and group in doc.spans:
            return Rated(float(score), [(span.start, span.end) for span in doc.spans[group] if span.start < span.end])
    raise error("E620", found=repr(value)[:120], n=len(doc))


def _place(value: object, n: int) -> Place | None:
    match value:
        case [int(start), int(end)] if 0 <= start < end <= n:
            return start, end
    return None


def _characters(doc: Doc, entity: Rated, positions: NDArray[np.int64]) -> set[int]:
    """Positions of the visible characters of an entity's mentions."""
    places = (locate(doc[start:end], positions) for start, end in entity.mentions)
    return {position for start, end in places for position in range(start | 1, end, 2)}
