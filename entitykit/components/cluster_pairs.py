"""Entities of several mentions, read from coreference clusters, and pairs of them that may be related."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.components.gold import Place, places_in_predicted
from entitykit.components.pairs import Found, Scope, as_json, end_to_end, pairs_per_row, rows_up_to, stops_in_scope
from entitykit.decoding.relation_values import relation_list
from entitykit.decoding.relations import Constraints, Entities
from entitykit.errors import error
from entitykit.types import ClusterPairs

Ints = NDArray[np.int64]
Places = list[tuple[int, int, str]]

COREF = "coref"
"""The value of the setting `entities` under which entities are coreference clusters."""
CLUSTER = re.compile(r"coref_clusters_(\d+)")
CLUSTER_RELATIONS = "cluster_relations"
"""Gold relations are ``doc.user_data["cluster_relations"]``; predicted ones ``doc._.cluster_relations``, too."""
BLOCK = 2**20
"""Pairs of mentions that are compared at once."""
_FAR = np.iinfo(np.int64).max


class Clusters(NamedTuple):
    """One document's entities, in the order of their first mentions.

    Attributes:
        starts: *(n_mentions,)* first words, sorted.
        ends: *(n_mentions,)* ends, exclusive.
        members: *(n_mentions,)* numbers of their entities.
        labels: of each entity, empty where it has none.
        numbers: of each entity's cluster; none for an entity in ``doc.ents`` that is in no cluster.
    """

    starts: Ints
    ends: Ints
    members: Ints
    labels: list[str]
    numbers: list[int | None]

    @property
    def firsts(self) -> Ints:
        """Rows of the entities' first mentions *(n_entities,)*."""
        return np.unique(self.members, return_index=True)[1].astype(np.int64)

    def given(self, constraints: Constraints) -> Entities:
        """The entities as decoders read them, with their types, in the places of their first mentions."""
        firsts = self.firsts
        return Entities(self.starts[firsts], self.ends[firsts], constraints.numbers_of(self.labels))


class Related(NamedTuple):
    """One document's entities, and the pairs of them that are looked at.

    Attributes:
        entities: of the document.
        pairs: *(n_pairs, 2)* numbers of head and tail, by head, then by tail.
        near: *(n_pairs, 2)* rows of those of their mentions that are nearest to each other.
    """

    entities: Clusters
    pairs: Ints
    near: Ints


def read_clusters(doc: Doc) -> Clusters:
    """The entities of a document: span groups ``coref_clusters_N``, and entities in ``doc.ents`` that are in none of them.

    An entity's type is the most frequent one of its mentions; a mention without a label has that of the entity in ``doc.ents``
    or ``doc.spans["sc"]`` that is in the same place.
    """
    return _collect(doc, lambda start, end: (start, end))


def reference_clusters(eg: Example) -> Clusters:
    """The same of a reference, in the words of the predicted document; mentions that touch none of these are left out."""
    return _collect(eg.reference, places_in_predicted(eg))


def _collect(doc: Doc, find: Callable[[int, int], Place | None]) -> Clusters:
    types = {(span.start, span.end): span.label_ for span in (*doc.spans.get("sc", ()), *doc.ents)}
    groups = {int(key[1]): list(doc.spans[name]) for name in doc.spans if (key := CLUSTER.fullmatch(name))}
    there = {(span.start, span.end) for spans in groups.values() for span in spans}
    entities: list[tuple[int | None, list[Span]]] = [*groups.items()]
    entities += [(None, [ent]) for ent in doc.ents if (ent.start, ent.end) not in there]
    found = []
    for number, spans in entities:
        places = sorted({place for span in spans if (place := find(span.start, span.end)) is not None})
        counts = Counter(span.label_ or types.get((span.start, span.end), "") for span in spans)
        label = max(sorted(counts), key=lambda each: (bool(each), counts[each]), default="")
        if places:
            found.append((places, -1 if number is None else number, label))
    found.sort()
    table = sorted((start, end, row) for row, (places, *_) in enumerate(found) for start, end in places)
    starts, ends, members = np.array(table, dtype=np.int64).reshape(-1, 3).T
    numbers = [None if number < 0 else number for _, number, _ in found]
    return Clusters(starts, ends, members, [label for *_, label in found], numbers)


def pair_clusters(doc: Doc, entities: Clusters, scope: Scope, name: str) -> tuple[Related, int]:
    """All ordered pairs of a document's entities within the scope, which the two nearest mentions must fit.

    An entity that is paired with itself is nearest by its first mention.

    Args:
        doc: with sentence boundaries for the scope ``sentence``.
        entities: of the document.
        scope: which pairs are wanted.
        name: the component's, for messages.

    Returns:
        Pairs, and the number of pairs that the limit left out.

    Raises:
        ConfigError: E120 if sentences are asked for and the document has none.
    """
    n = len(entities.labels)
    alone, firsts = (np.stack([each, each], axis=1) for each in (np.arange(n), entities.firsts))
    if not scope.itself:
        alone, firsts = alone[:0], firsts[:0]
    if n < 2:
        return Related(entities, alone, firsts), 0
    stops = stops_in_scope(doc, entities.starts, entities.ends, scope, name)
    find = _nearest_of_few if pairs_per_row(stops).sum() <= BLOCK else _nearest_in_blocks
    found = find(entities, stops, scope.limit // 2)
    mentions = np.stack(_mentions_of(found.keys, len(entities.starts)), axis=1)
    pairs = np.stack([found.left, found.right], axis=1)
    both = ((pairs, alone), (mentions, firsts))
    pairs, mentions = (np.concatenate([each, each[:, ::-1], own]) for each, own in both)
    by_head = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return Related(entities, pairs[by_head], mentions[by_head]), 2 * (found.n - len(found.left))


class _Nearest(NamedTuple):
    """Pairs of entities and their nearest mentions.

    Attributes:
        left: *(n_pairs,)* the first entity of each.
        right: *(n_pairs,)* the second one, with a higher number; pairs are sorted.
        keys: *(n_pairs,)* see `_keys`.
        n: pairs that there were before the limit.
    """

    left: Ints
    right: Ints
    keys: Ints
    n: int

    def kept(self, limit: int, n_mentions: int) -> _Nearest:
        """The nearest pairs, of equally near ones the earlier."""
        if len(self.left) <= limit:
            return self
        rows = np.sort(np.argsort(_distances_of(self.keys, n_mentions), kind="stable")[:limit])
        return _Nearest(self.left[rows], self.right[rows], self.keys[rows], self.n)


def _keys(entities: Clusters, first: Ints, second: Ints) -> Ints:
    """Words between two mentions, and the rows of both, as one number.

    The least of them is that of the least distance, and of equal ones that of the earliest mentions; `_distances_of` and
    `_mentions_of` take them apart.
    """
    starts, ends, n = entities.starts, entities.ends, len(entities.starts)
    apart = np.maximum(starts[second] - ends[first], starts[first] - ends[second])
    keys: Ints = (np.maximum(apart, 0) * n + first) * n + second
    return keys


def _distances_of(keys: Ints, n_mentions: int) -> Ints:
    return keys // n_mentions**2


def _mentions_of(keys: Ints, n_mentions: int) -> tuple[Ints, Ints]:
    return keys // n_mentions % n_mentions, keys % n_mentions


def _nearest_of_few(entities: Clusters, stops: Ints, limit: int) -> _Nearest:
    """From all pairs of mentions that are in scope.

    Args:
        entities: of a document.
        stops: *(n_mentions,)* the end of the mentions behind each that are within the scope.
        limit: pairs at most.
    """
    rows = np.stack(rows_up_to(stops))
    rows = rows[:, entities.members[rows[0]] != entities.members[rows[1]]]
    first, second = np.where(entities.members[rows[0]] < entities.members[rows[1]], rows, rows[::-1])
    left, right, keys = entities.members[first], entities.members[second], _keys(entities, first, second)
    order = np.lexsort((keys, right, left))
    left, right, keys = left[order], right[order], keys[order]
    new = np.ones(len(left), dtype=bool)
    new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return _Nearest(left[new], right[new], keys[new], int(new.sum())).kept(limit, len(stops))


def _nearest_in_blocks(entities: Clusters, stops: Ints, limit: int) -> _Nearest:
    """The same from tables of some mentions, entity after entity, by all; memory is bounded by one and the limit."""
    nothing = np.zeros(0, dtype=np.int64)
    found = _Nearest(nothing, nothing, nothing, 0)
    for own, keys in _tables(entities, stops):
        row, right = np.nonzero((keys < _FAR) & (np.arange(keys.shape[1]) > own[:, None]))
        parts = zip(found[:3], (own[row], right, keys[row, right]), strict=True)
        left, second, nearest = (np.concatenate(part) for part in parts)
        found = _Nearest(left, second, nearest, found.n + len(right)).kept(limit, len(stops))
    return found


def _tables(entities: Clusters, stops: Ints) -> Iterator[tuple[Ints, Ints]]:
    """The least keys of entities with all entities, from `BLOCK` pairs of mentions at once.

    Args:
        entities: of a document.
        stops: as in `_nearest_of_few`.

    Yields:
        Entities *(n_own,)*, each once and in order, and their keys *(n_own, n_entities)*, `_FAR` where nothing is in scope.
    """
    n, n_mentions = len(entities.labels), len(stops)
    order = np.argsort(entities.members, kind="stable")
    members = entities.members[order]
    firsts = np.searchsorted(members, np.arange(n))
    step = max(BLOCK // n_mentions, 1)
    open_own, open_keys = members[:0], np.zeros((0, n), dtype=np.int64)
    for begin in range(0, n_mentions, step):
        rows = order[begin : begin + step]
        near = (order < stops[rows, None]) & (rows[:, None] < stops[order])
        keys = np.where(near, _keys(entities, rows[:, None], order[None]), _FAR)
        keys = np.concatenate([open_keys, np.minimum.reduceat(keys, firsts, axis=1)])
        own, edges = np.unique(np.concatenate([open_own, members[begin : begin + step]]), return_index=True)
        keys = np.minimum.reduceat(keys, edges, axis=0)
        n_closed = len(own) - 1 if begin + step < n_mentions else len(own)  # the last may go on, and is in the next table then
        open_own, open_keys = own[n_closed:], keys[n_closed:]
        yield own[:n_closed], keys[:n_closed]


def pack_clusters(docs: Sequence[Doc], found: Sequence[Related], types: Sequence[str]) -> ClusterPairs:
    """Lay documents' entities and pairs end to end.

    Args:
        docs: the documents.
        found: of each document.
        types: the known entity types, in the order of their numbers, which begin with 1.
    """
    numbers = {label: i for i, label in enumerate(types, start=1)}
    words = [len(doc) for doc in docs]
    mentions = [len(each.entities.starts) for each in found]
    entities = [len(each.entities.labels) for each in found]
    return ClusterPairs(
        starts=end_to_end((each.entities.starts for each in found), words),
        ends=end_to_end((each.entities.ends for each in found), words),
        members=end_to_end((each.entities.members for each in found), entities),
        types=torch.tensor([numbers.get(label, 0) for each in found for label in each.entities.labels], dtype=torch.long),
        heads=end_to_end((each.pairs[:, 0] for each in found), entities),
        tails=end_to_end((each.pairs[:, 1] for each in found), entities),
        near_heads=end_to_end((each.near[:, 0] for each in found), mentions),
        near_tails=end_to_end((each.near[:, 1] for each in found), mentions),
    )


class Fact(NamedTuple):
    """A gold relation: numbers of entities, or none for a cluster without a mention in the predicted words, and its label."""

    head: int | None
    tail: int | None
    label: str


def gold_facts(doc: Doc, entities: Clusters) -> list[Fact] | None:
    """The gold relations of a reference; none if it has no such annotation.

    Args:
        doc: the reference.
        entities: its clusters, from `reference_clusters`.

    Raises:
        InputError: E346 for a relation that cannot be read, E349 for relations that are no list.
    """
    values: Any = doc.user_data.get(CLUSTER_RELATIONS)
    if values is None:
        return None
    known = {int(key[1]) for name in doc.spans if (key := CLUSTER.fullmatch(name))}
    rows = {number: row for row, number in enumerate(entities.numbers)}
    found = []
    for value in relation_list(values):
        match value:
            case {"head": int(head), "tail": int(tail), "label": str(label)} if label and {head, tail} <= known:
                found.append(Fact(rows.get(head), rows.get(tail), label))
            case _:
                raise error("E346", found=repr(value)[:80], n=len(known))
    return found


class Survey(NamedTuple):
    """One document's gold relations, beside the pairs that are looked at.

    Their arguments are places, or numbers of clusters, or None where a cluster has no mention in the predicted words.

    Attributes:
        entities: of the document.
        rows: of each argument the rows of its entities; several may be in one place.
        relations: head, tail and label of each.
        near: pairs of arguments that are looked at.
    """

    entities: Found | Clusters
    rows: Mapping[Any, Sequence[int]]
    relations: Sequence[tuple[Any, Any, str]]
    near: set[tuple[Any, Any]]

    def triples(self) -> list[tuple[str, str, str]]:
        """Type of the head, label and type of the tail of relations whose arguments have types."""
        types = {argument: self.entities.labels[rows[-1]] for argument, rows in self.rows.items()}
        found = [(types.get(head, ""), label, types.get(tail, "")) for head, tail, label in self.relations]
        return [(head, label, tail) for head, label, tail in found if head and tail]

    def rows_in_reach(self) -> list[tuple[Sequence[int], str, Sequence[int]]]:
        """Rows of the head, label and rows of the tail of relations that are looked at."""
        near = [relation for relation in self.relations if relation[:2] in self.near]
        return [(self.rows[head], label, self.rows[tail]) for head, tail, label in near]


def clusters_as_json(
    doc: Doc,
    related: Related,
    chosen: Iterable[tuple[int, int, str, float]],
    evidence: Sequence[list[int]] | None = None,
) -> list[dict[str, Any]]:
    """What is written to ``doc._.relations``: the first mentions' places as in `as_json`, and numbers of clusters.

    Args:
        doc: the document.
        related: its entities.
        chosen: numbers of head and tail, label and probability of relations.
        evidence: of each of them the numbers of sentences; none, if nobody looked.

    Returns:
        As in `as_json`, and `head_cluster` and `tail_cluster`: numbers of span groups ``coref_clusters_N``, or None for an
        entity that is in none; and `evidence`, if there is any.
    """
    chosen, entities = list(chosen), related.entities
    firsts = entities.firsts
    written = as_json(doc, Found(entities.starts[firsts], entities.ends[firsts], entities.labels, related.pairs), chosen)
    for relation, (head, tail, *_) in zip(written, chosen, strict=True):
        relation |= {"head_cluster": entities.numbers[head], "tail_cluster": entities.numbers[tail]}
    for relation, sentences in zip(written, evidence or (), strict=evidence is not None):
        relation["evidence"] = sentences
    return written


def between_clusters(relations: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is written to ``doc._.cluster_relations``: those of `clusters_as_json` that have two numbers."""
    both = (each for each in relations if each["head_cluster"] is not None and each["tail_cluster"] is not None)
    same = ("label", "score", "evidence")
    return [{"head": r["head_cluster"], "tail": r["tail_cluster"]} | {key: r[key] for key in same if key in r} for r in both]


def register_cluster_relations() -> None:
    """Make ``doc._.cluster_relations`` known to spaCy, once; where nothing looked, it is None."""
    if not Doc.has_extension(CLUSTER_RELATIONS):
        Doc.set_extension(CLUSTER_RELATIONS, default=None)
