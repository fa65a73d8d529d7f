"""Scorer of coreference: the CoNLL scorer's metrics and LEA on the clusters in the span groups `coref_clusters_N`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.scoring.coref_metrics import CorefScores, score_clusters
from entitykit.scoring.spans import Scores, char_positions, locate

PREFIX = "coref_clusters"
"""What the names of the span groups start with; a cluster is the group `coref_clusters_N`, with N from 1."""

METRICS = {"mentions": "mentions", "muc": "muc", "b3": "b_cubed", "ceafe": "ceaf_e", "lea": "lea"}

Offsets = tuple[int, int]


def make_coref_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.coref_scorer.v1`."""
    return coref_score


def clusters_in(doc: Doc, *, prefix: str = PREFIX) -> list[list[Span]] | None:
    """Return the clusters of a Doc in the order of their numbers, or None if it is not annotated with any.

    Args:
        doc: reads the span groups `{prefix}_N`. Empty groups are no clusters, but say that the Doc is annotated.
        prefix: what the groups' names start with.
    """
    keys = cluster_keys(doc, prefix=prefix)
    return [spans for key in keys if (spans := list(doc.spans[key]))] if keys else None


def cluster_keys(doc: Doc, *, prefix: str = PREFIX) -> list[str]:
    """Return the names of the span groups that are clusters, in the order of their numbers."""
    numbers = {int(found[1]): key for key in doc.spans if (found := re.fullmatch(rf"{re.escape(prefix)}_(\d+)", key))}
    return [numbers[number] for number in sorted(numbers)]


def coref_score(examples: Iterable[Example], *, spans_prefix: str = PREFIX, **_: object) -> Scores:
    """Score predicted clusters, see `coref_metrics`; a mention is found if its start and end are those of a gold mention.

    Reads the span groups `{spans_prefix}_N` of both Docs, which may be tokenized differently. References without any are
    skipped; one empty group says that a document has no clusters.

    Args:
        examples: predicted and reference Docs.
        spans_prefix: what the names of the groups start with.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `coref_conll_f`, the mean of the F1 of MUC, B³ and CEAF-e; `_p`, `_r` and `_f` of `coref_muc`, `coref_b3`,
        `coref_ceafe`, `coref_lea` and, of the mentions alone, `coref_mentions`; all that as `coref_no_singletons_…`, without
        clusters of one mention on either side. None where there is nothing to score.

    Raises:
        InputError: E305 for an example whose texts differ, E320 for a mention in two clusters of a document.
    """
    gold, predicted = [], []
    for eg in examples:
        in_reference = clusters_in(eg.reference, prefix=spans_prefix)
        if in_reference is None:
            continue
        predicted_positions, reference_positions = char_positions(eg)
        gold.append(_located(in_reference, reference_positions))
        predicted.append(_located(clusters_in(eg.predicted, prefix=spans_prefix) or [], predicted_positions))
    return {
        **named_scores("coref", score_clusters(gold, predicted)),
        **named_scores("coref_no_singletons", score_clusters(gold, predicted, singletons=False)),
    }


def _located(clusters: Iterable[Iterable[Span]], positions: NDArray[np.int64]) -> list[set[Offsets]]:
    return [{locate(span, positions) for span in cluster} for cluster in clusters]


def named_scores(prefix: str, scores: CorefScores | None) -> Scores:
    """Return scores under spaCy's keys, which begin with the prefix."""
    named: Scores = {f"{prefix}_conll_f": scores.conll_f1 if scores else None}
    for name, field in METRICS.items():
        precision, recall, f1 = getattr(scores, field)[:3] if scores else (None, None, None)
        named |= {f"{prefix}_{name}_p": precision, f"{prefix}_{name}_r": recall, f"{prefix}_{name}_f": f1}
    return named
