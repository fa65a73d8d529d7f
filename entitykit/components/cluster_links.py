"""One decision of a linker for each cluster of mentions across documents, in the place of one for each mention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from spacy.tokens import Doc

from entitykit.components.cluster_documents import GROUP, characters, check_known, named
from entitykit.components.gold import ENTS, NIL, spans_of
from entitykit.components.links import Linked, Scored, as_candidates, left_candidates, write_links
from entitykit.components.near import Ints
from entitykit.components.nils import NIL_CLUSTERS, group_again, register_nils
from entitykit.errors import error
from entitykit.knowledge.cluster_schema import cluster_id, cluster_number
from entitykit.knowledge.cluster_store import ClusterStore

Place = tuple[int, int]


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
    cluster keep theirs. Groups of mentions that are NIL are made anew, where a linker has grouped them; in
    ``doc._.nil_clusters`` the mentions of a cluster that is NIL have one provisional id, NIL and that of the cluster.

    Args:
        docs: that were linked, and whose mentions are in clusters, by `ClusteringPipe.cluster` or `add_to`.
        mentions: where the links are: ``ents`` or a span group.
        spans_key: span group with the clusters.
        threshold: least probability of a link.
        store: to which the documents were added. It keeps what the linker says of their mentions, and what is decided: by all
            mentions of a cluster, in whatever documents.

    Returns:
        The entity of each cluster, by the cluster's id; empty for NIL.

    Raises:
        InputError: E631 for a document whose mentions are in no group of clusters, E639 for one that the store does not have as
            it is.
        OutputError: E635 if the store cannot be written.
    """
    docs = list(docs)
    cluster_of = [_clusters(doc, spans_key) for doc in docs]
    seen = [_seen(doc, own, mentions) for doc, own in zip(docs, cluster_of, strict=True)]
    if store is None:
        means = _means(cluster_of, seen)
        decided = {id_: _decide(each, threshold) for id_, each in means.items()}
    else:
        names = _names(store, docs, spans_key)
        with store.changing():
            for doc, id_, found in zip(docs, names, seen, strict=True):
                store.put_candidates(id_, {characters([doc[start:end]])[0]: dict(own) for (start, end), own in found.items()})
            means = _means_in(store, cluster_of)
            decided = {id_: _decide(each, threshold) for id_, each in means.items()}
            store.link({cluster_number(id_): link.id for id_, link in decided.items()})
    _write(docs, cluster_of, decided, mentions)
    return {id_: link.id for id_, link in decided.items()}


def links_from(store: ClusterStore, docs: Iterable[Doc], *, mentions: str = ENTS, spans_key: str = GROUP) -> None:
    """Write what a store's clusters are linked to by now, as `link_clusters` does.

    Args:
        store: as `link_clusters` has left it.
        docs: that have the ids of their clusters, by `ClusteringPipe.ids_from`.
        mentions: as there.
        spans_key: as there.

    Raises:
        InputError: as there.
    """
    docs = list(docs)
    cluster_of = [_clusters(doc, spans_key) for doc in docs]
    _names(store, docs, spans_key)
    links = store.links_of(_numbers(cluster_of))
    means = _means_in(store, cluster_of)
    decided = {id_: _decide(each, 0.0) for id_, each in means.items()}
    known = {id_: link._replace(id=links[cluster_number(id_)]) for id_, link in decided.items() if cluster_number(id_) in links}
    _write(docs, cluster_of, known, mentions)


def _seen(doc: Doc, own: Mapping[Place, str], mentions: str) -> dict[Place, Sequence[tuple[str, float]]]:
    """What a linker has left on mentions that are in clusters."""
    spans = {(span.start, span.end): left_candidates(span) for span in spans_of(doc, mentions)}
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


def _means_in(store: ClusterStore, cluster_of: Sequence[Mapping[Place, str]]) -> dict[str, dict[str, float]]:
    """The same over all mentions that a store has of these clusters."""
    return {cluster_id(number): means for number, means in store.mean_candidates(_numbers(cluster_of)).items()}


def _numbers(cluster_of: Sequence[Mapping[Place, str]]) -> Ints:
    ids = {id_ for own in cluster_of for id_ in own.values() if id_}
    return np.array(sorted(map(cluster_number, ids)), dtype=np.int64)


def _names(store: ClusterStore, docs: Sequence[Doc], key: str) -> list[str]:
    """By which a store knows documents."""
    found = [named(doc, characters(doc.spans[key])) for doc in docs]
    check_known(store, found)
    return [id_ for id_, _ in found]


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
    register_nils()
    for doc, own in zip(docs, cluster_of, strict=True):
        links, unseen = [], set()
        for span in spans_of(doc, mentions):
            found, left = decided.get(own.get((span.start, span.end), "")), left_candidates(span)
            if found is None:
                found = Linked(0, 0, _scored(dict(left or ())), 0.0, span.kb_id_)
                unseen |= {(span.start, span.end)} if left is None else set()
            links.append(found._replace(start=span.start, end=span.end))
        write_links(doc, mentions, links, None)
        for span in spans_of(doc, mentions):
            if (span.start, span.end) in unseen:
                span._.kb_ents = None
        group_again(doc, mentions)
        places = {(link.start, link.end): own.get((link.start, link.end), "") for link in links}
        _group_by_cluster(doc, {place: id_ for place, id_ in places.items() if id_ in decided}, decided)


def _group_by_cluster(doc: Doc, places: Mapping[Place, str], decided: Mapping[str, Linked]) -> None:
    """Name the mentions of clusters that are NIL by these; other groups keep what is in no cluster that was decided."""
    before: Mapping[str, Sequence[Sequence[int]]] = doc._.get(NIL_CLUSTERS) or {}
    kept = {name: [list(each) for each in own if (each[0], each[1]) not in places] for name, own in before.items()}
    groups = {name: own for name, own in kept.items() if own}
    for (start, end), id_ in sorted(places.items()):
        if not decided[id_].id:
            groups.setdefault(f"{NIL}-{id_}", []).append([start, end])
    doc._.set(NIL_CLUSTERS, groups)


def _clusters(doc: Doc, key: str) -> dict[Place, str]:
    if key not in doc.spans:
        raise error("E631", key=key, text=doc.text[:40])
    return {(span.start, span.end): span.id_ for span in doc.spans[key]}
