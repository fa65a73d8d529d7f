"""How a store of clusters knows documents and the places of their mentions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup

from entitykit.errors import error
from entitykit.knowledge.cluster_schema import cluster_id, given_twice
from entitykit.knowledge.cluster_store import ClusterStore

GROUP = "cross_document"
"""The span group of mentions with the ids of their clusters."""


def given_id(doc: Doc) -> str:
    """The id that a document has in ``doc.user_data["id"]``, which may be 0; empty if it has none."""
    id_ = doc.user_data.get("id")
    return "" if id_ is None else str(id_)


def characters(spans: Iterable[Span]) -> list[tuple[int, int]]:
    """Starts and ends of spans in characters, as a store has them."""
    return [(span.start_char, span.end_char) for span in spans]


def named(doc: Doc, key: str) -> tuple[str, str]:
    """By which id a store knows a document: the given one, else a digest of its text; and a digest of what it has of it.

    Args:
        doc: the document.
        key: the span group of its mentions, whose places and labels are in the digest beside the text.
    """
    spans = [(*place, span.label_) for place, span in zip(characters(doc.spans[key]), doc.spans[key], strict=True)]
    return given_id(doc) or _digest(doc.text), _digest(repr((doc.text, spans)))


def check_known(store: ClusterStore, documents: Iterable[tuple[str, str]]) -> None:
    """Make sure that a store has documents as they are.

    Args:
        store: the store.
        documents: ids and digests.

    Raises:
        InputError: E639 for one that it does not have, and for two with one id.
    """
    digests: dict[str, str] = {}
    for id_, digest in documents:
        if id_ in digests:
            raise given_twice(id_)
        digests[id_] = digest
    known = store.digests(list(digests))
    for id_, digest in digests.items():
        if id_ not in known:
            raise error("E639", id=id_, found="not in the store", expected="a document of it", advice="Add it first (add_to)")
        if known[id_] != digest:
            found, expected = "in the store with another text or other mentions", "the document as it was added"
            advice = "Add it again (add_to), so that it takes the other one's place, or set doc.user_data['id'] to another id"
            raise error("E639", id=id_, found=found, expected=expected, advice=advice)


def clusters_of(store: ClusterStore, doc: Doc, key: str) -> list[str]:
    """Ids of the clusters that a store has the mentions of a document in, which it must have as it is."""
    clusters = store.clusters_in(named(doc, key)[0])
    return [cluster_id(clusters[place]) for place in characters(doc.spans[key])]


def write_ids(doc: Doc, key: str, ids: Sequence[str]) -> None:
    """Write the ids of their clusters to a document's mentions."""
    group = doc.spans[key]
    spans = [
        Span(doc, span.start, span.end, label=span.label, kb_id=span.kb_id, span_id=id_)
        for span, id_ in zip(group, ids, strict=True)
    ]
    doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs=dict(group.attrs))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
