"""Coreference clusters on documents: gold ones for training, words to compare, and what is read from the span groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.attrs import IS_PUNCT, IS_SPACE, IS_STOP, LOWER, ORTH
from spacy.strings import get_string_id
from spacy.tokens import Doc, Span
from spacy.training import Example
from torch import Tensor

from entitykit.components.gold import Place, places_in_predicted
from entitykit.components.resolved_text import resolved_text
from entitykit.corpora.name_words import ACRONYMS, MEN, TITLES, WOMEN, is_acronym
from entitykit.errors import warn
from entitykit.scoring.coref import PREFIX, clusters_in
from entitykit.types import MANS_TITLE, NO_TITLE, TITLE, WOMANS_TITLE, Spans, no_spans

ACRONYM_KEYS = np.array([get_string_id(word) for word in sorted(ACRONYMS)], dtype=np.uint64)
LARGE = 2000
"""Gold mentions of a document from which learning takes about 4 GB, and four times as much for twice as many."""
TITLE_KEYS = {
    kind: np.array([get_string_id(title + dot) for title in sorted(titles) for dot in ("", ".")], dtype=np.uint64)
    for kind, titles in ((MANS_TITLE, MEN), (WOMANS_TITLE, WOMEN), (TITLE, TITLES))
}
"""Titles of each kind; the first that has a title counts."""


class GoldClusters(NamedTuple):
    """Gold mentions of a packed batch.

    Attributes:
        spans: *(n_mentions,)*, each span once.
        entities: *(n_mentions,)* their entities, numbered through the batch.
        known: documents whose reference has clusters, by position.
    """

    spans: Spans
    entities: Tensor
    known: list[bool]

    @classmethod
    def nothing(cls) -> GoldClusters:
        """No mentions."""
        return cls(no_spans(), torch.zeros(0, dtype=torch.long), [])


def gold_clusters(examples: Sequence[Example]) -> GoldClusters:
    """Collect a batch's gold clusters in the words of the predicted documents.

    A span counts once, in its first cluster. Spans that do not fall on words are expanded to those that they touch; those that
    touch none are left out with a warning.
    """
    places: dict[tuple[int, int], int] = {}
    known: list[bool] = []
    offset = n_entities = n_lost = 0
    for eg in examples:
        clusters = clusters_in(eg.reference)
        known.append(clusters is not None)
        own, lost = cluster_places(eg, clusters or ())
        places |= {(offset + start, offset + end): n_entities + row for (start, end), row in own.items()}
        n_lost += lost
        n_entities += len(clusters or ())
        offset += len(eg.predicted)
    if n_lost:
        warn("W101", n=n_lost)
    table = torch.tensor([(*place, entity) for place, entity in places.items()], dtype=torch.long).reshape(-1, 3)
    return GoldClusters(Spans(table[:, 0], table[:, 1]), table[:, 2], known)


def cluster_places(eg: Example, clusters: Iterable[Iterable[Span]]) -> tuple[dict[Place, int], int]:
    """Where the predicted document has the mentions of a reference's clusters.

    Returns:
        The row of the cluster of each place, of several the first; and the number of mentions that touch no predicted word.
    """
    find = places_in_predicted(eg)
    found: dict[Place, int] = {}
    n_lost = 0
    for row, cluster in enumerate(clusters):
        for span in cluster:
            place = find(span.start, span.end)
            if place is None:
                n_lost += 1
            else:
                found.setdefault(place, row)
    return found, n_lost


def warn_shared(examples: Iterable[Example], name: str) -> None:
    """Warn of places that have gold mentions of several clusters, of which a head learns the first.

    Warns:
        W641 then.
    """
    n = 0
    for eg in examples:
        find = places_in_predicted(eg)
        owned = ({find(span.start, span.end) for span in cluster} - {None} for cluster in clusters_in(eg.reference) or ())
        n += sum(number > 1 for number in Counter(chain.from_iterable(owned)).values())
    if n:
        warn("W641", n=n, name=name, stacklevel=4)


def warn_large(examples: Iterable[Example], name: str) -> None:
    """Warn of documents of so many gold mentions that learning from them takes gigabytes: each meets all entities before it.

    Warns:
        W643 then.
    """
    sizes = [sum(map(len, clusters_in(eg.reference) or ())) for eg in examples]
    if max(sizes, default=0) > LARGE:
        n, gigabytes = sum(size > LARGE for size in sizes), round(4.4 * (max(sizes) / LARGE) ** 2)
        warn("W643", n=n, name=name, most=LARGE, largest=max(sizes), gigabytes=gigabytes, stacklevel=4)


def telling_words(docs: Sequence[Doc]) -> NDArray[np.int64]:
    """What the words of a batch tell of who is meant *(n_words, 3)*, see `names` of `GivenMentions`.

    Nothing is told by punctuation, white space and stop words that are no acronyms.
    """
    return np.concatenate([np.zeros((0, 3), dtype=np.int64), *map(_telling_words, docs)])


def _telling_words(doc: Doc) -> NDArray[np.int64]:
    table = doc.to_array([LOWER, ORTH, IS_STOP, IS_PUNCT, IS_SPACE]).astype(np.uint64).reshape(len(doc), 5)
    lower, as_written = table[:, :2].T
    tells = np.logical_not(table[:, 2:].any(axis=1))
    is_stop = table[:, 2].astype(bool)
    for row in np.flatnonzero(is_stop & (lower != as_written) & np.isin(lower, ACRONYM_KEYS)).tolist():
        tells[row] = is_acronym(doc[row])
    is_name = tells & (lower != as_written)
    before_name = is_name & np.append(is_name, False)[1:]
    titles = np.select([np.isin(lower, keys) for keys in TITLE_KEYS.values()], list(TITLE_KEYS), default=NO_TITLE)
    return np.stack([np.where(tells, lower.view(np.int64), 0), is_name, np.where(before_name, titles, NO_TITLE)], axis=1)


def name_keys(doc: Doc) -> NDArray[np.int64]:
    """A number for each word that tells who is meant *(n_words,)*, the same for equal words; 0 for others and for titles."""
    tell, _, titles = telling_words([doc]).T
    return np.where(titles == NO_TITLE, tell, 0)


def register_clusters() -> None:
    """Make ``doc._.coref_clusters`` and ``doc._.resolved_text`` known to spaCy, once; both are read from the span groups."""
    if not Doc.has_extension(PREFIX):
        Doc.set_extension(PREFIX, getter=cluster_offsets)
    if not Doc.has_extension("resolved_text"):
        Doc.set_extension("resolved_text", getter=resolved_text)


def cluster_offsets(doc: Doc) -> list[list[list[int]]] | None:
    """The clusters, each a list of mentions ``[start, end]`` in tokens; None where nobody looked for any."""
    clusters = clusters_in(doc)
    return None if clusters is None else [[[span.start, span.end] for span in cluster] for cluster in clusters]
