"""Provisional ids of mentions that are NIL: one for all mentions that seem to name the same unknown entity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from spacy.tokens import Doc, Span

from entitykit.bridge.link_texts import Place
from entitykit.bridge.linking import Floats
from entitykit.components.gold import NIL, spans_of
from entitykit.components.links import Linked
from entitykit.decoding.nil_clusters import cluster_unknown
from entitykit.knowledge.text import normalise

NIL_CLUSTERS = "nil_clusters"
"""The extension ``doc._.nil_clusters``: JSON values, provisional ids and the places (start and end in words) of their mentions.

Ids of the form ``NIL-1`` hold in their document only. `kb_id_` stays empty, so that scorers and exports see NIL.
"""

NIL_VECTORS = "nil_vectors"
"""The extension ``doc._.nil_vectors``, by which whoever decides after a linker groups mentions anew; none: there are no groups.

It has `places` (start and end in words) of all mentions that the linker has seen, NIL or not, their `vectors` as bytes, and the
`similarity` from which on groups join.
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


def leave_vectors(doc: Doc, links: Sequence[Linked], vectors: Floats, *, similarity: float) -> None:
    """Leave what groups need on a document: vectors *(n_links, size)* of all its mentions; see `NIL_VECTORS`."""
    places = [[link.start, link.end] for link in links]
    left = {"places": places, "vectors": vectors.astype("<f4").tobytes(), "similarity": similarity}
    doc._.set(NIL_VECTORS, left)


def group_again(doc: Doc, key: str) -> None:
    """Group the mentions that are NIL now, in ``doc.ents`` or the span group `key`, if a linker has left their vectors.

    Every component that decides calls it when it has written its links, so the groups are those of the last one.
    """
    left = doc._.get(NIL_VECTORS) if Doc.has_extension(NIL_VECTORS) else None
    if left is None:
        return
    rows = {(start, end): row for row, (start, end) in enumerate(left["places"])}
    vectors = np.frombuffer(left["vectors"], dtype="<f4").reshape(max(len(rows), 1), -1)
    places = [place for place in unlinked([doc], key) if place[1:] in rows]
    own = vectors[np.array([rows[place[1:]] for place in places], dtype=np.int64)]
    doc._.set(NIL_CLUSTERS, name_unknown([doc], places, own, similarity=left["similarity"], name=NIL)[0])


def unlinked(docs: Sequence[Doc], key: str) -> list[Place]:
    """Mentions that have no link, in ``doc.ents`` or the span group `key`, each place once."""
    found = []
    for i, doc in enumerate(docs):
        found += [Place(i, span.start, span.end) for span in spans_of(doc, key) if span.kb_id_ in ("", NIL)]
    return list(dict.fromkeys(found))


def nil_id(span: Span) -> str:
    """The provisional id of a mention; empty if it has none, or is linked by now."""
    groups: Mapping[str, Sequence[Sequence[int]]] = span.doc._.get(NIL_CLUSTERS) or {}
    if span.kb_id_ not in ("", NIL):
        return ""
    place = (span.start, span.end)
    return next((id_ for id_, places in groups.items() if place in map(tuple, places)), "")  # a `DocBin` gives tuples


def register_nils() -> None:
    """Make ``doc._.nil_clusters``, ``doc._.nil_vectors`` and ``span._.nil_id`` known to spaCy, once."""
    for name in (NIL_CLUSTERS, NIL_VECTORS):
        if not Doc.has_extension(name):
            Doc.set_extension(name, default=None)
    if not Span.has_extension("nil_id"):
        Span.set_extension("nil_id", getter=nil_id)
