"""One decision of a linker for each cluster of mentions across documents, in the place of one for each mention."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from spacy.tokens import Doc, Span

from entitykit.components.cluster_documents import GROUP, characters, check_known, clusters_of, named, write_ids
from entitykit.components.gold import ENTS, NIL, Place, spans_of
from entitykit.components.links import (
    RERANKED,
    Linked,
    Scored,
    as_candidates,
    register_links,
    write_links,
)
from entitykit.components.near import Ints
from entitykit.components.nils import NIL_CLUSTERS, group_again, register_nils
from entitykit.errors import error
from entitykit.knowledge.cluster_schema import cluster_id, cluster_number
from entitykit.knowledge.cluster_store import ClusterStore
from entitykit.scoring.linking import CANDIDATES

OWN = "kb_own"
"""The extension ``span._.kb_own``: of a mention whose cluster was decided, what it had itself before; else none.

It is a dict of JSON values: `kb_id`, `kb_ents` and `kb_reranked`, as linkers leave them; `nil_id`, the group of
``doc._.nil_clusters``; and `written`, the entity and a digest of the candidates that were written in their place.
"""


class Said(NamedTuple):
    """What is said of a mention.

    Attributes:
        kb_id: of its entity.
        kb_ents: candidates and their probabilities; none: no linker has seen it.
        kb_reranked: see `RERANKED`.
    """

    kb_id: str
    kb_ents: Sequence[tuple[str, float]] | None
    kb_reranked: dict[str, Any] | None


def link_clusters(
    docs: Iterable[Doc],
    *,
    mentions: str = ENTS,
    spans_key: str = GROUP,
    threshold: float = 0.0,
    store: ClusterStore | None = None,
) -> dict[str, str]:
    """Give all mentions of a cluster the entity that is most probable for them together, or none.

    The probability of a candidate is its mean over the cluster's mentions that a linker has seen, 0 for those of which it is no
    candidate; what is missing to 1 is NIL's. Writes ``kb_id_`` and ``span._.kb_ents`` of these mentions; those that are in no
    cluster keep theirs. What the linker said of a mention is kept (`OWN`), and counts when the same documents are linked again.
    Groups of mentions that are NIL are made anew, where a linker has grouped them; in ``doc._.nil_clusters`` the mentions of a
    cluster that is NIL have one provisional id, NIL and that of the cluster.

    Args:
        docs: that were linked, and whose mentions are in clusters, by `ClusteringPipe.cluster` or `add_to`.
        mentions: where the links are: ``ents`` or a span group.
        spans_key: span group with the clusters.
        threshold: least probability of a link.
        store: to which the documents were added, and which knows their clusters: it does not matter which ids their mentions
            have, and they are given those of the store. It keeps what the linker says of their mentions, and what is decided:
            by all mentions of a cluster, in whatever documents. Its other clusters that are undecided are decided, too.

    Returns:
        The entity of each cluster of these documents, by the cluster's id; empty for NIL.

    Raises:
        InputError: E631 for a document whose mentions are in no group of clusters, E639 for one that the store does not have as
            it is.
        OutputError: E635 if the store cannot be written.
    """
    docs = list(docs)
    cluster_of = [_clusters(doc, spans_key) for doc in docs]
    if store is None:
        _give_back(docs, mentions)
        seen = [_seen(doc, own, mentions) for doc, own in zip(docs, cluster_of, strict=True)]
        decided = {id_: _decide(each, threshold) for id_, each in _means(cluster_of, seen).items()}
    else:
        with store.changing():
            ids = _ids_in(store, docs, spans_key)
            _give_back(docs, mentions)
            decided = _decide_in(store, _said_of(docs, spans_key, mentions), _numbers(ids), threshold)
        cluster_of = _take(docs, ids, spans_key)
    _write(docs, cluster_of, decided, mentions)
    return {id_: link.id for id_, link in decided.items()}


def links_from(store: ClusterStore, docs: Iterable[Doc], *, mentions: str = ENTS, spans_key: str = GROUP) -> None:
    """Write what a store's clusters are linked to by now, as `link_clusters` does; mentions of undecided ones keep their own.

    Args:
        store: as `link_clusters` has left it.
        docs: that were added to it; their mentions are given the ids of the clusters in which they are by now.
        mentions: as there.
        spans_key: as there.

    Raises:
        InputError: as there.
    """
    docs = list(docs)
    _ = [_clusters(doc, spans_key) for doc in docs]
    with store.reading():
        ids = _ids_in(store, docs, spans_key)
        numbers = _numbers(ids)
        links, means = store.links_of(numbers), store.mean_candidates(numbers)
    cluster_of = _take(docs, ids, spans_key)
    _give_back(docs, mentions)
    known = {cluster_id(each): _decide(means[each], 0.0)._replace(id=links[each]) for each in means.keys() & links.keys()}
    _write(docs, cluster_of, known, mentions)


def _seen(doc: Doc, own: Mapping[Place, str], mentions: str) -> dict[Place, Sequence[tuple[str, float]]]:
    """What the last linker, or a reranker behind it, has left on mentions that are in clusters."""
    spans = {(span.start, span.end): span._.get(CANDIDATES) for span in spans_of(doc, mentions)}
    return {place: left for place, left in spans.items() if left is not None and own.get(place)}


def _means(
    cluster_of: Sequence[Mapping[Place, str]], seen: Sequence[Mapping[Place, Sequence[tuple[str, float]]]]
) -> dict[str, dict[str, float]]:
    """Mean probabilities of the candidates of each cluster."""
    members: dict[str, list[Sequence[tuple[str, float]]]] = {}
    for own, found in zip(cluster_of, seen, strict=True):
        for place, left in found.items():
            members.setdefault(own[place], []).append(left)
    means: dict[str, dict[str, float]] = {id_: {} for id_ in members}
    for id_, lists in members.items():
        for pairs in lists:
            for candidate, p in pairs:
                means[id_][candidate] = means[id_].get(candidate, 0.0) + p / len(lists)
    return means


def _decide_in(
    store: ClusterStore, said: Mapping[str, Mapping[Place, Mapping[str, float]]], clusters: Ints, threshold: float
) -> dict[str, Linked]:
    """Keep what a linker says of documents' mentions, and decide for clusters, and for all others that are undecided.

    Args:
        store: that has the documents, and is being changed.
        said: by the documents' ids, see `ClusterStore.put_candidates`.
        clusters: of the documents.
        threshold: least probability of a link.

    Returns:
        What was decided for clusters of the documents, by their ids.
    """
    for name, found in said.items():
        store.put_candidates(name, found)
    means = store.mean_candidates(np.union1d(clusters, store.undecided()))
    decided = {number: _decide(each, threshold) for number, each in means.items()}
    store.link({number: link.id for number, link in decided.items()})
    return {cluster_id(number): decided[number] for number in clusters.tolist() if number in decided}


def _said_of(docs: Sequence[Doc], key: str, mentions: str) -> dict[str, dict[Place, dict[str, float]]]:
    """What linkers have left on mentions, by documents' ids and places in characters, see `ClusterStore.put_candidates`."""
    there = [{(span.start, span.end): "there" for span in doc.spans[key]} for doc in docs]
    return {
        named(doc, key)[0]: {
            characters([doc[start:end]])[0]: dict(left) for (start, end), left in _seen(doc, own, mentions).items()
        }
        for doc, own in zip(docs, there, strict=True)
    }


def _numbers(ids: Iterable[Iterable[str]]) -> Ints:
    return np.array(sorted({cluster_number(id_) for own in ids for id_ in own}), dtype=np.int64)


def _ids_in(store: ClusterStore, docs: Sequence[Doc], key: str) -> list[list[str]]:
    """Ids of the clusters that a store has the mentions of documents in by now.

    Raises:
        InputError: E639 for a document that it does not have as it is.
    """
    check_known(store, [named(doc, key) for doc in docs])
    return [clusters_of(store, doc, key) for doc in docs]


def _take(docs: Sequence[Doc], ids: Sequence[Sequence[str]], key: str) -> list[dict[Place, str]]:
    """Write the ids of their clusters to mentions."""
    for doc, own in zip(docs, ids, strict=True):
        write_ids(doc, key, own)
    return [_clusters(doc, key) for doc in docs]


def _decide(means: Mapping[str, float], threshold: float) -> Linked:
    ranked = _scored(means)
    nil = max(0.0, 1 - sum(means.values()))
    known = bool(ranked) and ranked[0].probability >= max(threshold, nil)
    return Linked(0, 0, ranked, nil, ranked[0].id if known else "")


def _scored(probabilities: Mapping[str, float]) -> list[Scored]:
    """Candidates, the most probable first; of equal ones the first in alphabetical order."""
    return as_candidates(sorted(probabilities.items(), key=lambda pair: (-pair[1], pair[0])))


def _write(
    docs: Sequence[Doc], cluster_of: Sequence[Mapping[Place, str]], decided: Mapping[str, Linked], mentions: str
) -> None:
    """Write what was decided to the mentions of these clusters, and keep what they have themselves."""
    new = {id_: Said(link.id, [(each.id, each.probability) for each in link.candidates], None) for id_, link in decided.items()}
    written = {id_: [said.kb_id, _digest(said.kb_ents)] for id_, said in new.items()}
    for doc, own in zip(docs, cluster_of, strict=True):
        groups = {(start, end): name for name, places in _groups(doc).items() for start, end in places}
        said, kept, names = {}, {}, {}
        for place, before in _said(doc, mentions).items():
            id_ = own.get(place, "")
            if id_ in new:
                said[place] = new[id_]
                kept[place] = {**before._asdict(), "nil_id": groups.get(place, ""), "written": written[id_]}
                names[place] = "" if new[id_].kb_id else f"{NIL}-{id_}"
        _say(doc, mentions, said)
        for span in spans_of(doc, mentions):
            if (span.start, span.end) in kept:
                span._.set(OWN, kept[span.start, span.end])
        group_again(doc, mentions)
        _regroup(doc, names)


def _give_back(docs: Iterable[Doc], mentions: str) -> None:
    """Make documents as they were before their clusters were linked; what has other candidates since then keeps these."""
    register_links()
    register_nils()
    if not Span.has_extension(OWN):
        Span.set_extension(OWN, default=None)
    for doc in docs:
        said, names = {}, {}
        spans = [span for span in spans_of(doc, mentions) if span._.get(OWN) is not None]
        for span in spans:
            own, place = span._.get(OWN), (span.start, span.end)
            id_, digest = own["written"]
            if _digest(span._.get(CANDIDATES)) == digest:
                kb_id = own["kb_id"] if span.kb_id_ == id_ else span.kb_id_
                said[place], names[place] = Said(kb_id, own["kb_ents"], own["kb_reranked"]), own["nil_id"]
        for span in spans:
            span._.set(OWN, None)
        if said:
            _say(doc, mentions, said)
            _regroup(doc, names)


def _said(doc: Doc, mentions: str) -> dict[Place, Said]:
    """What each mention has now."""
    return {
        (span.start, span.end): Said(span.kb_id_, span._.get(CANDIDATES), span._.get(RERANKED))
        for span in spans_of(doc, mentions)
    }


def _say(doc: Doc, mentions: str, said: Mapping[Place, Said]) -> None:
    """Write this to some mentions; the others keep what they have."""
    every = {**_said(doc, mentions), **said}
    links = [
        Linked(*place, as_candidates(each.kb_ents or ()), 0.0, each.kb_id, each.kb_reranked) for place, each in every.items()
    ]
    write_links(doc, mentions, links, None)
    for span in spans_of(doc, mentions):
        if every[span.start, span.end].kb_ents is None:
            span._.kb_ents = None


def _digest(candidates: Iterable[Sequence[Any]] | None) -> str:
    """By which candidates are known again; a `DocBin` makes tuples of lists."""
    return hashlib.blake2b(repr([tuple(pair) for pair in candidates or ()]).encode(), digest_size=16).hexdigest()


def _groups(doc: Doc) -> Mapping[str, Sequence[Sequence[int]]]:
    return doc._.get(NIL_CLUSTERS) or {}


def _regroup(doc: Doc, names: Mapping[Place, str]) -> None:
    """Move mentions that are NIL to the groups with these provisional ids, and out of all groups where they have none."""
    groups: dict[str, list[list[int]]] = {}
    for name, places in _groups(doc).items():
        for start, end in places:
            if (start, end) not in names:
                groups.setdefault(name, []).append([start, end])
    for place, name in names.items():
        if name:
            groups.setdefault(name, []).append(list(place))
    doc._.set(NIL_CLUSTERS, {name: sorted(places) for name, places in groups.items()})


def _clusters(doc: Doc, key: str) -> dict[Place, str]:
    if key not in doc.spans:
        raise error("E631", key=key, text=doc.text[:40])
    return {(span.start, span.end): span.id_ for span in doc.spans[key]}
