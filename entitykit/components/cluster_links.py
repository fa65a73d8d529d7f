"""One decision of a linker for each cluster of mentions across documents, in the place of one for each mention."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from spacy.tokens import Doc, Span

from entitykit.components.cross_document import GROUP
from entitykit.components.gold import ENTS
from entitykit.components.links import Linked, Scored, left_candidates, write_links
from entitykit.errors import error


def link_clusters(
    docs: Iterable[Doc], *, mentions: str = ENTS, spans_key: str = GROUP, threshold: float = 0.0
) -> dict[str, str]:
    """Give all mentions of a cluster the entity that is most probable for them together, or none.

    The probability of a candidate is its mean over the cluster's mentions that a linker has seen, 0 for those of which it is no
    candidate; what is missing to 1 is NIL's. Writes ``kb_id_`` and ``span._.kb_ents`` of these mentions; those that are in no
    cluster keep theirs.

    Args:
        docs: that were linked, and whose mentions are in clusters, by `ClusteringPipe.cluster` or `add_to`.
        mentions: where the links are: ``ents`` or a span group.
        spans_key: span group with the clusters.
        threshold: least probability of a link.

    Returns:
        The entity of each cluster, by the cluster's id; empty for NIL.

    Raises:
        InputError: E631 for a document whose mentions are in no group of clusters.
    """
    docs = list(docs)
    cluster_of = [_clusters(doc, spans_key) for doc in docs]
    members: dict[str, list[Sequence[tuple[str, float]]]] = {}
    for doc, own in zip(docs, cluster_of, strict=True):
        for span in _mentions(doc, mentions):
            left = left_candidates(span)
            if left is not None and own.get((span.start, span.end)):
                members.setdefault(own[span.start, span.end], []).append(left)
    decided = {id_: _decide(each, threshold) for id_, each in members.items()}
    for doc, own in zip(docs, cluster_of, strict=True):
        links = []
        for span in _mentions(doc, mentions):
            found = decided.get(own.get((span.start, span.end), ""))
            if found is None:
                found = Linked(0, 0, _scored(dict(left_candidates(span) or ())), 0.0, span.kb_id_)
            links.append(found._replace(start=span.start, end=span.end))
        write_links(doc, mentions, links, None)
    return {id_: link.id for id_, link in decided.items()}


def _decide(members: Sequence[Sequence[tuple[str, float]]], threshold: float) -> Linked:
    means: dict[str, float] = {}
    for pairs in members:
        for id_, p in pairs:
            means[id_] = means.get(id_, 0.0) + p / len(members)
    ranked = _scored(means)
    nil = max(0.0, 1 - sum(means.values()))
    known = bool(ranked) and ranked[0].probability >= max(threshold, nil)
    return Linked(0, 0, ranked, nil, ranked[0].id if known else "")


def _scored(probabilities: Mapping[str, float]) -> list[Scored]:
    """Candidates, the most probable first; of equal ones the first in alphabetical order."""
    ordered = sorted(probabilities.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Scored(-1, id_, p, p, {}) for id_, p in ordered]


def _clusters(doc: Doc, key: str) -> dict[tuple[int, int], str]:
    if key not in doc.spans:
        raise error("E631", key=key, text=doc.text[:40])
    return {(span.start, span.end): span.id_ for span in doc.spans[key]}


def _mentions(doc: Doc, key: str) -> Iterator[Span]:
    yield from doc.ents if key == ENTS else doc.spans.get(key) or ()
