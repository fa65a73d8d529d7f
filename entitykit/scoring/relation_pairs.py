"""Scores of relation classification, where each text has one given pair: those of SemEval-2010 task 8 and of TACRED.

SemEval-2010 task 8 (Hendrickx et al., 2010; scorer version 1.2), (9+1)-way with directionality: of each relation, both
directions together, precision is right ones over all that were predicted as that relation, recall right ones over all that are;
a wrong direction is no right one. The score is the mean F1 over the relations in gold without `Other`. TACRED (Zhang et al.,
EMNLP 2017): precision over all pairs that were said to have a relation, recall over all that have one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.decoding.relation_values import read_relations
from entitykit.errors import error
from entitykit.scoring.spans import PRF, Scores, char_positions, locate, macro_average, prf

PAIR = "relation_pair"
"""The given pair is `doc.user_data["relation_pair"]`: `first` and `second` with their tokens, `label`, and `one_way` if it is a
relation from first to second or none; gold relations are as ever `doc.user_data["relations"]`."""

RELATIONS = "relations"

FORWARD, BACKWARD = 1, -1

Answer = tuple[str, int] | None
"""A relation and its direction; None: no relation."""


class Asked(NamedTuple):
    """The given pair.

    Attributes:
        first: place of the first entity.
        second: place of the second one.
        one_way: whether only relations from the first to the second count.
    """

    first: tuple[int, int]
    second: tuple[int, int]
    one_way: bool


def pair_scores(examples: Iterable[Example], mirrors: Mapping[str, str] = MappingProxyType({})) -> Scores:
    """Score the relation of each given pair; of several predicted ones, the one with the highest score is the answer.

    Args:
        examples: of which the reference has `doc.user_data["relation_pair"]`; others are skipped.
        mirrors: what holds in the other direction, as in `entitykit.scoring.relations.relations_score`: both are one answer.

    Returns:
        `rel_pair_macro_f`: SemEval-2010 task 8; `rel_pair_p`, `_r`, `_f`: TACRED; `rel_pair_acc`: the share of right answers;
        `rel_pair_per_type`: relation, in whatever direction, to p, r, f. None where there is nothing to score.

    Raises:
        InputError: E305 for an example whose texts differ, E347 for a pair that cannot be read, E345 or E349 for relations that
            cannot be.
    """
    answers = [_answers(eg, mirrors) for eg in examples if PAIR in eg.reference.user_data]
    if not answers:
        return dict.fromkeys(
            ["rel_pair_macro_f", "rel_pair_p", "rel_pair_r", "rel_pair_f", "rel_pair_acc", "rel_pair_per_type"]
        )
    per_type, micro = score_answers([gold for gold, _ in answers], [predicted for _, predicted in answers])
    macro = macro_average(per_type)
    return {
        "rel_pair_macro_f": macro.f1 if macro else None,
        "rel_pair_p": micro.precision,
        "rel_pair_r": micro.recall,
        "rel_pair_f": micro.f1,
        "rel_pair_acc": sum(gold == predicted for gold, predicted in answers) / len(answers),
        "rel_pair_per_type": {label: {"p": each[0], "r": each[1], "f": each[2]} for label, each in per_type.items()} or None,
    }


def score_answers(gold: Sequence[Answer], predicted: Sequence[Answer]) -> tuple[dict[str, PRF], PRF]:
    """Score answers.

    Returns:
        Scores of each relation, both directions together, and of all.
    """
    n_gold = Counter(answer[0] for answer in gold if answer is not None)
    n_predicted = Counter(answer[0] for answer in predicted if answer is not None)
    n_correct = Counter(own[0] for own, other in zip(gold, predicted, strict=True) if own is not None and own == other)
    per_type = {
        label: prf(n_correct=n_correct[label], n_predicted=n_predicted[label], n_gold=n_gold[label])
        for label in sorted(n_gold.keys() | n_predicted.keys())
    }
    return per_type, prf(n_correct=n_correct.total(), n_predicted=n_predicted.total(), n_gold=n_gold.total())


def _answers(eg: Example, mirrors: Mapping[str, str]) -> tuple[Answer, Answer]:
    """The gold and the predicted answer."""
    in_predicted, in_reference = char_positions(eg)
    pair = eg.reference.user_data[PAIR]
    match pair:
        case {"first": [int(first), int(first_end)], "second": [int(second), int(second_end)]}:
            places = [
                locate(eg.reference[start:end], in_reference) for start, end in ((first, first_end), (second, second_end))
            ]
        case _:
            raise error("E347", found=repr(pair)[:80])
    asked = Asked(places[0], places[1], bool(pair.get("one_way")))
    values = (eg.predicted._.get(RELATIONS) or ()) if Doc.has_extension(RELATIONS) else ()
    gold = _best(eg.reference, eg.reference.user_data.get(RELATIONS) or (), in_reference, asked, mirrors)
    return gold, _best(eg.predicted, values, in_predicted, asked, mirrors)


def _best(doc: Doc, values: object, positions: NDArray[np.int64], asked: Asked, mirrors: Mapping[str, str]) -> Answer:
    """The relation of a pair with the highest score; without scores, the first."""
    best: Answer = None
    highest = float("-inf")
    for head, tail, label, given in read_relations(values, len(doc)):
        ends = [locate(doc[slice(*place)], positions) for place in (head, tail)]
        if ends == [asked.first, asked.second]:
            answer = label, FORWARD
        elif ends == [asked.second, asked.first] and label in mirrors:
            answer = mirrors[label], FORWARD
        elif ends == [asked.second, asked.first] and not asked.one_way:
            answer = label, BACKWARD
        else:
            continue
        score = 0.0 if given is None else given
        if score > highest:
            best, highest = answer, score
    return best
