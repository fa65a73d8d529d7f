"""The measures of major entity identification: every mention of each entity that was asked for.

Manikantan, Toshniwal, Tapaswi and Gandhi, EMNLP 2024; averages as in its evaluation (src/evaluate/eval_func.py of
KawshikManikantan/MEI). Mentions of other entities do not count.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Set
from typing import NamedTuple

from entitykit.errors import error
from entitykit.scoring.spans import PRF, prf

Entities = Mapping[str, Set[Hashable]]
"""The mentions of each entity of a document, by the entity's name."""


class MajorEntityScores(NamedTuple):
    """F1 over the entities of all documents.

    Attributes:
        macro_f1: the mean of the entities' F1.
        micro_f1: the same weighted by an entity's number of gold mentions.
        per_entity: one dict of name to scores per document.
    """

    macro_f1: float
    micro_f1: float
    per_entity: list[dict[str, PRF]]


def score_major_entities(gold: Iterable[Entities], predicted: Iterable[Entities]) -> MajorEntityScores | None:
    """Score the mentions found of given entities.

    Args:
        gold: the entities of each document that were asked for.
        predicted: what was found of them; an entity without any mention may be left out.

    Returns:
        The scores, or None if no entity was asked for. `micro_f1` is 0 where no entity has a gold mention.

    Raises:
        InputError: E323 for a predicted entity that was not asked for.
    """
    per_entity = []
    for in_gold, in_predicted in zip(gold, predicted, strict=True):
        if unknown := sorted(in_predicted.keys() - in_gold.keys()):
            raise error("E323", found=", ".join(unknown), expected=", ".join(in_gold) or "none")
        per_entity.append({name: _score(mentions, in_predicted.get(name, frozenset())) for name, mentions in in_gold.items()})
    scores = [score for document in per_entity for score in document.values()]
    if not scores:
        return None
    n_gold = sum(score.n_gold for score in scores)
    return MajorEntityScores(
        macro_f1=sum(score.f1 for score in scores) / len(scores),
        micro_f1=sum(score.f1 * score.n_gold for score in scores) / n_gold if n_gold else 0.0,
        per_entity=per_entity,
    )


def _score(gold: Set[Hashable], predicted: Set[Hashable]) -> PRF:
    return prf(n_correct=len(gold & predicted), n_predicted=len(predicted), n_gold=len(gold))
