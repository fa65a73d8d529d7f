"""The measures of major entity identification: every mention of each entity that was asked for.

Manikantan, Toshniwal, Tapaswi and Gandhi, EMNLP 2024; averages as in its evaluation (src/evaluate/eval_func.py of
KawshikManikantan/MEI). Mentions of other entities do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import error
from entitykit.scoring.spans import PRF, Scores, char_positions, prf

KEY = "major_entities"
"""Where `doc.user_data` has entities: the places `[start, end]` in characters of their mentions, by name."""

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


def make_major_entities_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.major_entities_scorer.v1`."""
    return major_entities_score


def major_entities_score(examples: Iterable[Example], **_: object) -> Scores:
    """Score what was found of entities that were asked for by name, see `score_major_entities`.

    Reads ``doc.user_data["major_entities"]`` of both Docs, see `KEY`; what `entitykit_coref`'s `find` gives is not written
    there by itself. References without it are skipped.

    Args:
        examples: predicted and reference Docs.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `major_entities_macro_f` and `major_entities_micro_f`; None where there is nothing to score.

    Raises:
        InputError: E305 for an example whose texts differ, E323 for an entity that was not asked for, E324 for a place that is
            none of the text.
    """
    gold, predicted = [], []
    for eg in examples:
        if KEY in eg.reference.user_data:
            of_predicted, of_reference = char_positions(eg)
            gold.append(_placed(eg.reference, of_reference))
            predicted.append(_placed(eg.predicted, of_predicted))
    scores = score_major_entities(gold, predicted)
    macro, micro = (None, None) if scores is None else (scores.macro_f1, scores.micro_f1)
    return {"major_entities_macro_f": macro, "major_entities_micro_f": micro}


def _placed(doc: Doc, positions: NDArray[np.int64]) -> dict[str, set[Hashable]]:
    """The mentions of each entity, in positions that both texts have."""
    found: dict[str, set[Hashable]] = {}
    for name, places in doc.user_data.get(KEY, {}).items():
        found[name] = set()
        for start, end in places:
            if not 0 <= start < end <= len(doc.text):
                expected = f"starts and ends in characters, at most {len(doc.text)}"
                raise error("E324", text=doc.text[:40], found=f"[{start}, {end}] of '{name}'", expected=expected)
            found[name].add((int(positions[start]), int(positions[end - 1]) + 1))
    return found


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
