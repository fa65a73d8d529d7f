"""Scorer of coreference across documents: the metrics of `coref_metrics` on the clusters of a whole corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import error
from entitykit.scoring.coref import clusters_in, named_scores
from entitykit.scoring.coref_metrics import score_clusters
from entitykit.scoring.spans import Scores, char_positions, locate

IDS = "coref_ids"
"""Where `doc.user_data` of references has the ids of their clusters, in the order of the groups `coref_clusters_N`."""

Place = tuple[int, int, int]
"""Number of a document, and offsets of a mention in it."""

Named = dict[str, set[Place]]
"""Clusters by id."""


def make_cross_document_scorer(by: str | None = None) -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.cross_document_scorer.v1`.

    Args:
        by: name of a value in `doc.user_data` of references: documents with the same one are scored together, such as those of
            one `topic`; None: all documents are.
    """
    return partial(cross_document_score, by=by)


def cross_document_score(
    examples: Iterable[Example], *, spans_key: str = "cross_document", by: str | None = None, **_: object
) -> Scores:
    """Score clusters across documents; a mention is found if its document, start and end are those of a gold mention.

    Gold clusters are the span groups `coref_clusters_N`, with ids in `doc.user_data["coref_ids"]`: the same id in several
    documents is one cluster, and without ids each document's clusters are its own. Documents without gold groups are skipped.
    Predicted clusters are those of the mentions in `doc.spans[spans_key]` with the same `id_`; one without is a cluster alone.

    Args:
        examples: predicted and reference Docs.
        spans_key: the span group.
        by: see `make_cross_document_scorer`. Clusters that go beyond such a group of documents are cut.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `cross_document_conll_f`, and `_p`, `_r` and `_f` of `cross_document_muc`, `_b3`, `_ceafe`, `_lea` and `_mentions`; all
        that as `cross_document_no_singletons_…`, without clusters of one mention on either side. None without any cluster.

    Raises:
        InputError: E305 for an example whose texts differ, E320 for a mention in two clusters, E638 for references whose ids do
            not fit their clusters, or that have no such value as `by`.
    """
    parts: dict[object, tuple[Named, Named]] = {}
    for number, eg in enumerate(examples):
        clusters = clusters_in(eg.reference)
        if clusters is None:
            continue
        if by is not None and by not in eg.reference.user_data:
            raise error("E638", found=f"no '{by}' in doc.user_data", expected="one", text=eg.reference.text[:40])
        gold, predicted = parts.setdefault(None if by is None else eg.reference.user_data[by], ({}, {}))
        in_predicted, in_reference = char_positions(eg)
        for id_, cluster in zip(_ids(eg.reference, number, len(clusters)), clusters, strict=True):
            gold.setdefault(id_, set()).update((number, *locate(span, in_reference)) for span in cluster)
        for i, span in enumerate(eg.predicted.spans.get(spans_key) or ()):
            predicted.setdefault(span.id_ or f"{number}/{i}", set()).add((number, *locate(span, in_predicted)))
    sides = [[list(part[side].values()) for part in parts.values()] for side in (0, 1)]
    return {
        **named_scores("cross_document", score_clusters(*sides)),
        **named_scores("cross_document_no_singletons", score_clusters(*sides, singletons=False)),
    }


def _ids(doc: Doc, number: int, n: int) -> Sequence[str]:
    ids = doc.user_data.get(IDS)
    if ids is None:
        return [f"{number}/{i}" for i in range(n)]
    if len(ids) != n:
        found = f"{len(ids)} ids in doc.user_data['{IDS}']"
        raise error("E638", found=found, expected=f"{n}, one for each cluster", text=doc.text[:40])
    return [str(id_) for id_ in ids]
