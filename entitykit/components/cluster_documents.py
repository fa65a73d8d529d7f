"""How a store of clusters knows documents and the places of their mentions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from spacy.tokens import Doc, Span

from entitykit.errors import error
from entitykit.knowledge.cluster_store import ClusterStore

GROUP = "cross_document"
"""The span group of mentions with the ids of their clusters."""


def characters(spans: Iterable[Span]) -> list[tuple[int, int]]:
    """Starts and ends of spans in characters, as a store has them."""
    return [(span.start_char, span.end_char) for span in spans]


def named(doc: Doc, places: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """By which id a store knows a document whose mentions are at these places, and the digest of both."""
    digest = hashlib.blake2b(repr((doc.text, places)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return str(doc.user_data.get("id") or digest), digest


def check_known(store: ClusterStore, documents: Iterable[tuple[str, str]]) -> None:
    """Make sure that a store has documents as they are.

    Args:
        store: the store.
        documents: ids and digests.

    Raises:
        InputError: E639 for one that it does not have.
    """
    digests = dict(documents)
    known = store.digests(list(digests))
    for id_, digest in digests.items():
        if known.get(id_) != digest:
            raise error("E639", id=id_, found="not in the store as it is", expected="it to be added first")
