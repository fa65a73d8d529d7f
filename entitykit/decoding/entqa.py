"""From a reader's logits to linked mentions: spans of each entity, their union over passages, a choice where they overlap.

A span's score is p(start) p(end) p(entity), as in EntQA (Zhang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.spans import Decoder

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]


class Answers(NamedTuple):
    """Spans that may name entities.

    Attributes:
        starts: *(n,)* first words.
        ends: *(n,)* ends, exclusive.
        entities: *(n,)* numbers of the entities.
        scores: *(n,)*.
    """

    starts: Ints
    ends: Ints
    entities: Ints
    scores: NDArray[np.float64]


class Answer(NamedTuple):
    """A mention that was chosen.

    Attributes:
        start: its first word.
        end: its end, exclusive.
        entities: entities that it may name, with their scores, the best first.
    """

    start: int
    end: int
    entities: list[tuple[int, float]]


def find_answers(starts: Floats, ends: Floats, ranks: Floats, *, max_words: int, n_best: int, threshold: float) -> Answers:
    """Spans of a passage that name its candidates.

    Probabilities of starts and ends are among the words and the null answer, those of entities among the candidates. Each
    entity gets its best spans, of which none overlap, as long as they are more probable than the null answer.

    Args:
        starts: *(n_candidates, 1 + n_words)* logits, of the null answer first; -inf where nothing may start.
        ends: *(n_candidates, 1 + n_words)* the same of ends.
        ranks: *(n_candidates,)* logits of the entities.
        max_words: words of the longest span.
        n_best: most spans of an entity.
        threshold: least score.

    Returns:
        Answers whose words count from the passage's first one, and whose entities are numbers of candidates.
    """
    if not len(ranks) or starts.shape[1] < 2:
        return join_answers([])
    log_starts, log_ends, log_ranks = _log_softmax(starts), _log_softmax(ends), _log_softmax(ranks[None])[0]
    n_words = starts.shape[1] - 1
    widths = np.arange(min(max_words, n_words))
    last = np.arange(n_words)[:, None] + widths  # (n_words, n_widths)
    inside = last < n_words
    spans = log_starts[:, 1:, None] + np.where(inside, log_ends[:, 1:][:, np.minimum(last, n_words - 1)], -np.inf)
    null = (log_starts[:, 0] + log_ends[:, 0])[:, None, None]
    with np.errstate(divide="ignore"):
        kept = (spans > null) & (spans + log_ranks[:, None, None] >= np.log(threshold)) & np.isfinite(spans)
    entities, first, width = np.nonzero(kept)
    scores = np.exp(spans[kept] + log_ranks[entities])
    return _best_of_each(Answers(first, first + width + 1, entities, scores), n_best)


def _best_of_each(answers: Answers, n_best: int) -> Answers:
    """Of each entity the best spans without overlaps; of equal scores the longer, then the earlier."""
    order = np.lexsort((answers.starts, answers.starts - answers.ends, -answers.scores))
    taken: dict[int, list[tuple[int, int]]] = {}
    kept = []
    for i in order.tolist():
        start, end = int(answers.starts[i]), int(answers.ends[i])
        own = taken.setdefault(int(answers.entities[i]), [])
        if len(own) < n_best and all(end <= a or b <= start for a, b in own):
            own.append((start, end))
            kept.append(i)
    rows = np.sort(np.array(kept, dtype=np.int64))
    return Answers(answers.starts[rows], answers.ends[rows], answers.entities[rows], answers.scores[rows])


def join_answers(parts: Sequence[Answers]) -> Answers:
    """The union of answers: of a span that names an entity in several passages, the best score.

    Args:
        parts: with words and entities that are numbered alike.

    Returns:
        Sorted by start, end, entity.
    """
    empty = np.zeros(0, dtype=np.int64)
    columns = [np.concatenate([empty, *(part[i] for part in parts)]).astype(np.int64) for i in range(3)]
    scores = np.concatenate([np.zeros(0), *(part.scores for part in parts)])
    order = np.lexsort((-scores, *columns[::-1]))
    columns, scores = [column[order] for column in columns], scores[order]
    new = np.ones(len(scores), dtype=bool)
    new[1:] = np.any([np.diff(column) != 0 for column in columns], axis=0)
    return Answers(columns[0][new], columns[1][new], columns[2][new], scores[new])


def choose_answers(answers: Answers, decoder: Decoder) -> list[Answer]:
    """Choose among spans that overlap, each of which weighs what its best entity does.

    Args:
        answers: of a document, from `join_answers`.
        decoder: from `entitykit.decoding.spans`; `greedy` keeps the best score.

    Returns:
        By start, the longer first.
    """
    names: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for start, end, entity, score in zip(*(column.tolist() for column in answers), strict=True):
        names.setdefault((start, end), []).append((entity, score))
    for own in names.values():
        own.sort(key=lambda pair: (-pair[1], pair[0]))
    spans = np.array(list(names), dtype=np.int64).reshape(-1, 2)
    kept = decoder(spans[:, 0], spans[:, 1], np.array([own[0][1] for own in names.values()], dtype=np.float64))
    return [Answer(start, end, names[start, end]) for start, end in spans[kept].tolist()]


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    """Logarithms of the probabilities in each row."""
    logits = np.asarray(logits, dtype=np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
