"""Strict precision, recall and F1 of labelled spans, and offsets that two tokenizations of one text share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Span
from spacy.training import Example

from entitykit.errors import error

LabelledSpan = tuple[int, int, str]
"""(start, end, label); the metrics only compare, so that any offsets will do."""

Scores = dict[str, object]
"""What a spaCy scorer returns: numbers, dicts of numbers, or None where there is nothing to score."""


class PRF(NamedTuple):
    """Precision, recall and F1; 0.0 where a denominator is 0."""

    precision: float
    recall: float
    f1: float
    n_gold: int


class SpanScores(NamedTuple):
    """Strict scores: a predicted span is correct if start, end and label are those of a gold span."""

    micro: PRF | None  # None: neither gold nor predicted spans
    macro: PRF | None  # mean over the labels that occur in gold; None: no gold spans
    per_type: Mapping[str, PRF]  # labels that occur in gold or predictions, sorted


def prf(*, n_correct: int, n_predicted: int, n_gold: int) -> PRF:
    """Compute precision, recall and F1 from counts."""
    precision = n_correct / n_predicted if n_predicted else 0.0
    recall = n_correct / n_gold if n_gold else 0.0
    f1 = 2 * precision * recall / (precision + recall) if n_correct else 0.0
    return PRF(precision, recall, f1, n_gold)


def score_spans(gold: Iterable[Set[LabelledSpan]], predicted: Iterable[Set[LabelledSpan]]) -> SpanScores:
    """Score predicted spans, which may overlap and nest.

    Args:
        gold: one set of spans per document.
        predicted: the same documents' predicted spans.
    """
    n_gold: Counter[str] = Counter()
    n_predicted: Counter[str] = Counter()
    n_correct: Counter[str] = Counter()
    for in_gold, in_predicted in zip(gold, predicted, strict=True):
        n_gold.update(label for *_, label in in_gold)
        n_predicted.update(label for *_, label in in_predicted)
        n_correct.update(label for *_, label in in_gold & in_predicted)
    labels = sorted(n_gold.keys() | n_predicted.keys())
    per_type = {
        label: prf(n_correct=n_correct[label], n_predicted=n_predicted[label], n_gold=n_gold[label]) for label in labels
    }
    micro = prf(n_correct=n_correct.total(), n_predicted=n_predicted.total(), n_gold=n_gold.total())
    return SpanScores(micro if labels else None, macro_average(per_type), per_type)


def macro_average(per_type: Mapping[str, PRF]) -> PRF | None:
    """Average over the labels that occur in gold, or return None if there are none."""
    in_gold = [scores for scores in per_type.values() if scores.n_gold]
    if not in_gold:
        return None
    precision, recall, f1 = (sum(values) / len(in_gold) for values in list(zip(*in_gold, strict=True))[:3])
    return PRF(precision, recall, f1, sum(scores.n_gold for scores in in_gold))


def normalise_surface(text: str) -> str:
    """Return the form under which a mention counts as seen in training: lower case, each run of whitespace one space."""
    return " ".join(text.lower().split())


def char_positions(eg: Example) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the characters of an example's two texts alike, whatever their tokens.

    Scoring in these positions needs no token alignment: a predicted span whose ends fall inside gold tokens is an error like
    any other, where spaCy's alignment would leave it out. The i-th character that is no whitespace has position 2i + 1; all
    whitespace before it has 2i, so that texts that differ in the amount of whitespace agree.

    Args:
        eg: an example whose texts differ in whitespace and case at most, as spaCy's alignment expects.

    Returns:
        The positions of the predicted and of the reference text's characters, `(n_characters,)` each.

    Raises:
        InputError: E305 if the texts differ.
    """
    predicted, reference = eg.predicted.text, eg.reference.text
    if predicted != reference:
        ours, theirs = "".join(predicted.split()), "".join(reference.split())
        if len(ours) != len(theirs) or ours.lower() != theirs.lower():
            raise error("E305", predicted=predicted[:60], reference=reference[:60])
    return _positions(predicted), _positions(reference)


def _positions(text: str) -> NDArray[np.int64]:
    solid = np.fromiter((not character.isspace() for character in text), dtype=np.int64, count=len(text))
    return 2 * (np.cumsum(solid) - solid) + solid


def locate(span: Span, positions: NDArray[np.int64]) -> tuple[int, int]:
    """Return the positions [start, end) of a span that holds at least one token.

    Args:
        span: a span of the Doc to which `positions` belong.
        positions: from `char_positions`.
    """
    return int(positions[span.start_char]), int(positions[span.end_char - 1]) + 1
