"""Entities of a document: mentions that stand for the same one, by clusters of coreference, by links, or by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.pipeline import Sentencizer
from spacy.tokens import Doc, Span

from entitykit.components.gold import ENTS, NIL, reference_spans
from entitykit.corpora.clusters import PREFIX, representative
from entitykit.corpora.name_words import TITLES
from entitykit.errors import warn
from entitykit.scoring.coref import clusters_in
from entitykit.scoring.spans import normalise_surface

SAME = ("id", "name", "part")
PERSONS = frozenset({"PERSON", "PER", "PEOP"})

Place = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """How mentions become entities.

    Attributes:
        mentions: where names are: ``ents`` or a span group; empty: none are looked at.
        clusters: each of the span groups ``{clusters}_1``, ``{clusters}_2`` … is an entity; empty: none are looked at.
        same: what makes names those of one entity: the same ``id`` in a knowledge base; the same ``name``, whatever its case;
            or, of persons, a ``part``: the first or the last word of one other name only. Clusters are joined by ``id`` alone:
            what coreference has told apart stays apart. A name that lies in several clusters joins none of them.
        ignore: labels of names that are left out.
        named: leave out clusters without a name.
    """

    mentions: str = ENTS
    clusters: str = PREFIX
    same: tuple[str, ...] = ("id", "name")
    ignore: tuple[str, ...] = ()
    named: bool = False


class EntityGroup(NamedTuple):
    """An entity of a document.

    Attributes:
        name: the longest of its names, titles aside, or the mention of its cluster that names it best.
        mentions: starts and ends, exclusive, in words; sorted, each once.
        id: in a knowledge base; empty if none is known.
        label: of its names; empty without any.
    """

    name: str
    mentions: list[Place]
    id: str
    label: str


def group_entities(doc: Doc, grouping: Grouping) -> list[EntityGroup]:
    """The entities of a document, by their first mentions.

    Args:
        doc: read are ``doc.ents`` or a span group, their labels and ids, and span groups of clusters.
        grouping: how mentions become entities.

    Warns:
        W104 for empty spans, which are left out.
    """
    names, clusters = _mentions(doc, grouping)
    nodes = _Nodes(clusters, names)
    if "id" in grouping.same:
        nodes.join_by(lambda span: "" if span.kb_id_ == NIL else span.kb_id_, clusters_too=True)
    if "name" in grouping.same:
        nodes.join_by(_plain)
    if "part" in grouping.same:
        nodes.join_parts()
    rows: dict[Place, list[int]] = {}
    for i, span in enumerate(names):
        rows.setdefault((span.start, span.end), []).append(i)
    groups = []
    for places in nodes.groups():
        named = [names[i] for i in sorted(i for place in places for i in rows.get(place, ()))]
        if named or not grouping.named:
            groups.append(_describe(doc, places, named))
    return sorted(groups, key=lambda each: each.mentions[0])


def _mentions(doc: Doc, grouping: Grouping) -> tuple[list[Span], list[list[Span]]]:
    """Names that are not to be ignored, and clusters, without empty spans."""
    clusters = (clusters_in(doc, prefix=grouping.clusters) or []) if grouping.clusters else []
    found = reference_spans(doc, [grouping.mentions]) if grouping.mentions else None
    names = [span for span in found or () if span.label_ not in grouping.ignore]
    whole = [[span for span in spans if span.start < span.end] for spans in (names, *clusters)]
    if n_empty := len(names) + sum(map(len, clusters)) - sum(map(len, whole)):
        warn("W104", n=n_empty, stacklevel=4)
    return whole[0], [cluster for cluster in whole[1:] if cluster]


def name_of(mentions: Sequence[Span]) -> str:
    """What an entity is called, of which only a cluster is known."""
    best = representative(sorted(mentions, key=lambda span: (span.start, -span.end)))
    return " ".join((mentions[0] if best is None else best).text.split())


def sentence_numbers(doc: Doc) -> NDArray[np.int64]:
    """The number of each word's sentence *(n_words,)*, from 0; by spaCy's rule (`Sentencizer`) where the document has none."""
    if not len(doc):
        return np.zeros(0, dtype=np.int64)
    if doc.has_annotation("SENT_START"):
        starts = [bool(token.is_sent_start) for token in doc]
    else:
        starts = [bool(start) for start in Sentencizer().predict([doc])[0]]
    starts[0] = True
    return np.cumsum(starts, dtype=np.int64) - 1


class _Nodes:
    """Clusters and names outside of them, joined step by step.

    Args:
        clusters: of a document.
        names: of the same.
    """

    def __init__(self, clusters: Sequence[Sequence[Span]], names: Sequence[Span]) -> None:
        self.names = names
        self.places: list[set[Place]] = [{(span.start, span.end) for span in cluster} for cluster in clusters]
        holders: dict[Place, list[int]] = {}
        for i, places in enumerate(self.places):
            for place in places:
                holders.setdefault(place, []).append(i)
        for span in names:
            place = span.start, span.end
            if place not in holders:
                holders[place] = [len(self.places)]
                self.places.append({place})
        self._holders = holders
        self._parents = list(range(len(self.places)))
        self._has_cluster = [i < len(clusters) for i in range(len(self.places))]

    def node(self, span: Span) -> int | None:
        """The node that has a name; none if several clusters have it."""
        own = self._holders[span.start, span.end]
        return self._root(own[0]) if len(own) == 1 else None

    def join_by(self, key: Callable[[Span], str], *, clusters_too: bool = False) -> None:
        """Join names that have the same key, which is not empty."""
        first: dict[str, int] = {}
        for span in self.names:
            node, value = self.node(span), key(span)
            if node is not None and value:
                self._join(first.setdefault(value, node), node, clusters_too=clusters_too)

    def join_parts(self) -> None:
        """Join a person's name of one word, titles aside, with the one entity whose longer names begin or end with it."""
        longer: dict[str, set[int]] = {}
        single: list[tuple[str, int]] = []
        for span in self.names:
            node, words = self.node(span), _core(span)
            if node is None or not words or span.label_.upper() not in PERSONS:
                continue
            if len(words) == 1:
                single.append((words[0], node))
            else:
                for word in {words[0], words[-1]}:
                    longer.setdefault(word, set()).add(node)
        for word, node in single:
            roots = {self._root(other) for other in longer.get(word, ())}
            if len(roots) == 1:
                self._join(roots.pop(), node, clusters_too=False)

    def groups(self) -> Iterable[list[Place]]:
        """The mentions of each entity, sorted."""
        found: dict[int, set[Place]] = {}
        for i, places in enumerate(self.places):
            found.setdefault(self._root(i), set()).update(places)
        return [sorted(places) for places in found.values()]

    def _root(self, i: int) -> int:
        while self._parents[i] != i:
            self._parents[i] = i = self._parents[self._parents[i]]
        return i

    def _join(self, a: int, b: int, *, clusters_too: bool) -> None:
        a, b = self._root(a), self._root(b)
        if a != b and (clusters_too or not (self._has_cluster[a] and self._has_cluster[b])):
            self._parents[b] = a
            self._has_cluster[a] = self._has_cluster[a] or self._has_cluster[b]


def _describe(doc: Doc, places: list[Place], named: Sequence[Span]) -> EntityGroup:
    if not named:
        return EntityGroup(name_of([doc[start:end] for start, end in places]), places, "", "")
    longest = max(named, key=lambda span: (len(_core(span)), len(_plain(span).split()), -span.start))
    ids = Counter(span.kb_id_ for span in named if span.kb_id_ not in ("", NIL))
    labels = Counter(span.label_ for span in named)
    best_id = ids.most_common(1)[0][0] if ids else ""
    return EntityGroup(" ".join(longest.text.split()), places, best_id, labels.most_common(1)[0][0])


def _plain(span: Span) -> str:
    """A name without case, article and possessive."""
    text = normalise_surface(span.text).removeprefix("the ")
    return text.removesuffix("'s").removesuffix("’s").strip()


def _core(span: Span) -> list[str]:
    """The words of a name without titles."""
    return [word for word in _plain(span).split() if word.rstrip(".") not in TITLES]
