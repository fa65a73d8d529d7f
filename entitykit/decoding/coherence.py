"""Choosing the entities of a document's mentions together: the most confident mention first, the others in its light.

The order is that of the global model of Yamada et al., "Global Entity Disambiguation with BERT" (NAACL 2022), which reads the
document anew with each entity that was decided. Here what a decided entity says of a candidate is how near their vectors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.calibration import Calibration

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_EQUAL = 1e-9  # mentions whose confidences differ by less are decided by what their candidates are, not by rounding


class Coherent(NamedTuple):
    """What was decided of a document.

    Attributes:
        coherence: of each mention's candidates *(n_candidates,)*, when it was decided; 0 if nothing was decided before.
        order: numbers of the mentions that link, in the order of their decisions; the others are NIL.
    """

    coherence: list[Floats]
    order: list[int]


def decide_together(
    scores: Sequence[NDArray[np.floating]],
    entities: Sequence[Ints],
    vectors: NDArray[np.floating],
    calibration: Calibration,
    *,
    weight: float,
    threshold: float,
) -> Coherent:
    """Decide mentions of a document, of all that would link the most confident one first.

    To the score of each candidate is added its coherence, times a weight: the mean of its cosines with the entities that were
    decided before, each once. A mention whose best candidate is not probable enough waits, until there is none that links.
    The result does not depend on the order of the mentions.

    Args:
        scores: of each mention its candidates' *(n_candidates,)*, before calibration.
        entities: of each mention its candidates' rows in `vectors` *(n_candidates,)*, each once.
        vectors: *(n_entities, width)*.
        calibration: how scores become probabilities.
        weight: of coherence; 0: mentions are decided independently.
        threshold: least probability of a link; it must also be at least that of NIL.
    """
    table, columns = _tables(scores, entities, calibration)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.asarray(vectors / np.where(lengths, lengths, 1.0), dtype=np.float64)
    found = [np.zeros(len(own)) for own in scores]
    total, decided = np.zeros(units.shape[1]), set[int]()
    support, order = np.zeros(len(units)), list[int]()
    waiting = np.flatnonzero([len(own) > 0 for own in scores])
    p = _probabilities(table[waiting])
    while len(waiting):
        best = p[:, 1:].argmax(axis=1)
        confidence = p[np.arange(len(p)), best + 1]
        confidence[confidence < np.maximum(threshold, p[:, 0])] = -1.0
        if confidence.max() < 0:
            break
        equal = np.flatnonzero(confidence >= confidence.max() - _EQUAL)
        keys = {i: (columns[waiting[i]].tolist(), table[waiting[i]].tolist()) for i in equal.tolist()}
        first = min(keys, key=keys.__getitem__)
        places = [i for i, key in keys.items() if key == keys[first]]  # mentions that have all in common are one decision
        chosen = int(columns[waiting[first], best[first]])
        for mention in waiting[places].tolist():
            order.append(mention)
            found[mention] = support[entities[mention]]
        waiting, p = np.delete(waiting, places), np.delete(p, places, axis=0)
        if weight and chosen not in decided:
            decided.add(chosen)
            total = total + units[chosen]
            support = units @ total / len(decided)
            heard = weight / calibration.temperature * support[columns[waiting]]
            p = _probabilities(np.concatenate([table[waiting, :1], table[waiting, 1:] + heard], axis=1))
    for mention in waiting.tolist():
        found[mention] = support[entities[mention]]
    return Coherent(found, order)


def _tables(scores: Sequence[NDArray[np.floating]], entities: Sequence[Ints], calibration: Calibration) -> tuple[Floats, Ints]:
    """Logits *(n_mentions, 1 + most)*, the first NIL's, and rows of entities *(n_mentions, most)*, which rise in a mention."""
    most = max((len(own) for own in scores), default=0)
    table = np.full((len(scores), 1 + most), -np.inf)
    columns = np.zeros((len(scores), most), dtype=np.int64)
    if calibration.nil is not None:
        table[:, 0] = calibration.nil
    for i, (own, rows) in enumerate(zip(scores, entities, strict=True)):
        ordered = np.argsort(rows)
        table[i, 1 : 1 + len(own)] = np.asarray(own, dtype=np.float64)[ordered] / calibration.temperature
        columns[i, : len(own)] = rows[ordered]
    return table, columns


def _probabilities(logits: Floats) -> Floats:
    """Probabilities of rows *(n, columns)* that each have a finite logit."""
    if not len(logits):
        return logits
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = exponents / exponents.sum(axis=1, keepdims=True)
    return found
