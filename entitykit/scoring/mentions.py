"""Scorer of mention detection: unlabelled spans, and the recall of a ranked list of candidates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from spacy.tokens import Doc, SpanGroup
from spacy.training import Example

from entitykit.errors import error
from entitykit.scoring.spans import Scores, char_positions, locate, score_spans

GOLD_KEYS = ("sc", "mentions")
"""Span groups of a reference that hold gold mentions, beside `doc.ents`."""

RECALL_AT = (0.2, 0.3, 0.5)
"""Candidates per word at which recall is reported; at most 1, because every word alone is a candidate."""

WIDTHS: dict[str, range] = {"1": range(1, 2), "2-3": range(2, 4), "4-7": range(4, 8), "8-15": range(8, 16)}
"""Width classes of gold mentions in words of the reference; wider ones are in `WIDEST`."""

WIDEST = "16+"

Offsets = tuple[int, int]


class _Document(NamedTuple):
    """One example in character positions that its two tokenizations share."""

    gold: dict[Offsets, int]  # width in words of the reference
    predicted: set[Offsets]
    ranked: list[Offsets] | None  # best first; None: no ranked candidates
    n_words: int


def make_mentions_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.mentions_scorer.v1`."""
    return mention_score


def gold_mentions(doc: Doc, *, gold_keys: Sequence[str] = GOLD_KEYS) -> set[tuple[int, int]] | None:
    """Return the distinct spans of a reference's entities and mentions, or None if it is not annotated with any.

    Args:
        doc: reads `doc.ents` and `doc.spans`.
        gold_keys: the span groups that hold mentions.

    Returns:
        Token offsets [start, end).
    """
    groups = [doc.spans[key] for key in gold_keys if key in doc.spans]
    if not groups and not doc.has_annotation("ENT_IOB"):
        return None
    return {(span.start, span.end) for spans in (*groups, doc.ents) for span in spans}


def mention_score(
    examples: Iterable[Example],
    *,
    spans_key: str = "mentions",
    candidates_key: str = "mention_candidates",
    gold_keys: Sequence[str] = GOLD_KEYS,
    recall_at: Sequence[float] = RECALL_AT,
    **_: object,
) -> Scores:
    """Score predicted mentions by their offsets alone, and the ranking that they were taken from.

    Reads `doc.spans[spans_key]` and `doc.spans[candidates_key]` with `attrs["scores"]` of the predicted Doc, and the gold
    mentions of the reference (see `gold_mentions`). References without any annotation of mentions are skipped.

    Recall at k takes the `floor(k * n_words)` best candidates of every document, whatever their scores. It is None where it
    cannot be known: a document has no ranked candidates, or fewer than that (a component may store fewer) and misses a gold
    mention that a longer list might have held.

    Args:
        examples: predicted and reference Docs, which may be tokenized differently.
        spans_key: span group of the predicted mentions.
        candidates_key: span group of the ranked candidates.
        gold_keys: span groups of the reference that hold mentions.
        recall_at: numbers of candidates per word of the predicted Doc, at most 1.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `mentions_p`, `mentions_r`, `mentions_f`; `mentions_recall_at_{k}` for each k; `mentions_recall_per_width`, the recall
        of the predicted mentions by the width of the gold mention. None where there is nothing to score.

    Raises:
        InputError: E305 for an example whose texts differ, E307 for candidates without scores.
    """
    documents = []
    for eg in examples:
        documents += _read(eg, spans_key, candidates_key, gold_keys)
    unlabelled = score_spans(
        [{(*span, "") for span in document.gold} for document in documents],
        [{(*span, "") for span in document.predicted} for document in documents],
    ).micro
    return {
        "mentions_p": unlabelled.precision if unlabelled else None,
        "mentions_r": unlabelled.recall if unlabelled else None,
        "mentions_f": unlabelled.f1 if unlabelled else None,
        **{f"mentions_recall_at_{k}": _recall_at(documents, k) for k in recall_at},
        "mentions_recall_per_width": _recall_per_width(documents),
    }


def _read(eg: Example, spans_key: str, candidates_key: str, gold_keys: Sequence[str]) -> list[_Document]:
    """Return an example's spans, or nothing if its reference has no mentions annotated."""
    gold = gold_mentions(eg.reference, gold_keys=gold_keys)
    if gold is None:
        return []
    in_predicted, in_reference = char_positions(eg)
    groups = eg.predicted.spans
    ranked = None
    if candidates_key in groups:
        group = list(groups[candidates_key])
        ranked = [locate(group[at], in_predicted) for at in _ranking(groups[candidates_key], candidates_key)]
    return [
        _Document(
            gold={locate(eg.reference[start:end], in_reference): end - start for start, end in gold},
            predicted={locate(span, in_predicted) for span in groups[spans_key]} if spans_key in groups else set(),
            ranked=ranked,
            n_words=len(eg.predicted),
        )
    ]


def _ranking(group: SpanGroup, key: str) -> list[int]:
    """Return the indices of a group's spans by falling score; of equal scores the first comes first."""
    scores = group.attrs.get("scores")
    if scores is None:
        raise error("E307", key=key, n_spans=len(group), found="no scores")
    if len(scores) != len(group):
        raise error("E307", key=key, n_spans=len(group), found=f"{len(scores)} scores")
    values = np.array(scores, dtype=np.float64)  # None, a missing score, becomes NaN
    if np.isnan(values).any():
        raise error("E307", key=key, n_spans=len(group), found=f"{int(np.isnan(values).sum())} missing scores")
    order: list[int] = np.argsort(-values, kind="stable").tolist()
    return order


def _recall_at(documents: Sequence[_Document], per_word: float) -> float | None:
    n_gold = n_found = 0
    for document in documents:
        if not document.gold:
            continue
        if document.ranked is None:
            return None
        n_candidates = math.floor(per_word * document.n_words + 1e-9)  # 1e-9: 0.29 * 100 is 28.999999999999996
        found = document.gold.keys() & set(document.ranked[:n_candidates])
        if len(found) < len(document.gold) and len(document.ranked) < n_candidates:
            return None
        n_gold += len(document.gold)
        n_found += len(found)
    return n_found / n_gold if n_gold else None


def _recall_per_width(documents: Sequence[_Document]) -> dict[str, float | None] | None:
    n_gold = dict.fromkeys([*WIDTHS, WIDEST], 0)
    n_found = dict.fromkeys(n_gold, 0)
    for document in documents:
        for span, width in document.gold.items():
            name = next((name for name, widths in WIDTHS.items() if width in widths), WIDEST)
            n_gold[name] += 1
            n_found[name] += span in document.predicted
    if not any(n_gold.values()):
        return None
    return {name: n_found[name] / n_gold[name] if n_gold[name] else None for name in n_gold}
