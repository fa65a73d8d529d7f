"""Provisional ids of mentions that are NIL: one for all mentions that seem to name the same unknown entity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from spacy.tokens import Doc, Span

from entitykit.bridge.link_texts import Place
from entitykit.bridge.linking import Floats
from entitykit.components.gold import ENTS, NIL
from entitykit.components.links import Linked
from entitykit.decoding.nil_clusters import cluster_unknown
from entitykit.knowledge.text import normalise

NIL_CLUSTERS = "nil_clusters"
"""The extension ``doc._.nil_clusters``: JSON values, provisional ids and the places (start and end in words) of their mentions.

Ids of the form ``NIL-1`` hold in their document only. `kb_id_` stays empty, so that scorers and exports see NIL.
"""

Groups = dict[str, list[list[int]]]


def name_unknown(
    docs: Sequence[Doc], places: Sequence[Place], vectors: Floats, *, similarity: float, name: str
) -> list[Groups]:
    """Group mentions across documents.

    Args:
        docs: the documents.
        places: the mentions.
        vectors: *(n_mentions, size)*.
        similarity: see `cluster_unknown`.
        name: with which ids begin; a number follows.

    Returns:
        Of each document the groups that it has mentions of.
    """
    found: list[Groups] = [{} for _ in docs]
    names = [normalise(docs[place.doc][place.start : place.end].text) for place in places]
    numbers = cluster_unknown(names, vectors, similarity=similarity) if places else ()
    for place, number in zip(places, numbers, strict=True):
        found[place.doc].setdefault(f"{name}-{number + 1}", []).append([place.start, place.end])
    return found


def name_in_documents(
    docs: Sequence[Doc], links: Sequence[Sequence[Linked]], vectors: Floats, *, similarity: float
) -> list[Groups]:
    """Group those of each document's links that are NIL; `vectors` *(n_links, size)* are of all links, document by document."""
    found, first = [], 0
    for doc, own in zip(docs, links, strict=True):
        unknown = [i for i, link in enumerate(own) if not link.id]
        places = [Place(0, own[i].start, own[i].end) for i in unknown]
        of_these = vectors[np.array(unknown, dtype=np.int64) + first]
        found += name_unknown([doc], places, of_these, similarity=similarity, name=NIL)
        first += len(own)
    return found


def unlinked(docs: Sequence[Doc], key: str) -> list[Place]:
    """Mentions that have no link, in ``doc.ents`` or the span group `key`, each place once."""
    found = []
    for i, doc in enumerate(docs):
        spans: Iterable[Span] = doc.ents if key == ENTS else doc.spans.get(key) or ()
        found += [Place(i, span.start, span.end) for span in spans if span.kb_id_ in ("", NIL)]
    return list(dict.fromkeys(found))


def nil_id(span: Span) -> str:
    """The provisional id of a mention; empty if it has none, or is linked by now."""
    groups: Mapping[str, Sequence[Sequence[int]]] = span.doc._.get(NIL_CLUSTERS) or {}
    if span.kb_id_ not in ("", NIL):
        return ""
    place = (span.start, span.end)
    return next((id_ for id_, places in groups.items() if place in map(tuple, places)), "")  # a `DocBin` gives tuples


def register_nils() -> None:
    """Make ``doc._.nil_clusters`` and ``span._.nil_id`` known to spaCy, once."""
    if not Doc.has_extension(NIL_CLUSTERS):
        Doc.set_extension(NIL_CLUSTERS, default=None)
    if not Span.has_extension("nil_id"):
        Span.set_extension("nil_id", getter=nil_id)
