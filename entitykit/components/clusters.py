"""Coreference clusters on documents: gold ones for training, words to compare, and what is read from the span groups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.attrs import IS_PUNCT, IS_SPACE, IS_STOP, LOWER, ORTH
from spacy.strings import get_string_id
from spacy.tokens import Doc, Span, Token
from spacy.training import Example
from torch import Tensor

from entitykit.components.gold import Place, places_in_predicted
from entitykit.corpora.clusters import representative
from entitykit.corpora.name_words import ACRONYMS, TITLES, is_acronym
from entitykit.errors import error, warn
from entitykit.scoring.coref import PREFIX, clusters_in
from entitykit.types import Spans, no_spans

POSSESSIVES = frozenset({"my", "your", "his", "its", "our", "their", "whose", "mine", "yours", "hers", "ours", "theirs"})
"""English ones, but for *her*, which may be none."""
AFTER_HER = frozenset({"former", "name", "other", "own", "side", "whole"})
"""Stop words of spaCy with which a possessive goes on."""
ACRONYM_KEYS = np.array([get_string_id(word) for word in sorted(ACRONYMS)], dtype=np.uint64)
LARGE = 2000
"""Gold mentions of a document from which learning takes about 4 GB, and four times as much for twice as many."""
TITLE_KEYS = np.array([get_string_id(title + dot) for title in sorted(TITLES) for dot in ("", ".")], dtype=np.uint64)
OWNING = re.compile(r"\s*['’]s$|(?<=s)\s*['’]$", re.IGNORECASE)
"""The end of a name in the possessive."""


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
    is_title = is_name & np.isin(lower, TITLE_KEYS)
    is_title[-1:] = False
    is_title[:-1] &= is_name[1:]
    return np.stack([np.where(tells, lower.view(np.int64), 0), is_name, is_title], axis=1)


def name_keys(doc: Doc) -> NDArray[np.int64]:
    """A number for each word that tells who is meant *(n_words,)*, the same for equal words; 0 for others and for titles."""
    tell, _, is_title = telling_words([doc]).T
    return np.where(is_title == 1, 0, tell)


def share_words(mentions: Sequence[Span], keys: NDArray[np.int64], said: Doc) -> bool:
    """Whether mentions have a word that tells who is meant of what is said of somebody, titles aside.

    Args:
        mentions: of one document.
        keys: its `name_keys`.
        said: a name, and a description.
    """
    wanted = name_keys(said)
    own = np.concatenate([keys[:0], *(keys[span.start : span.end] for span in mentions)])
    return bool(np.isin(own, wanted[wanted != 0]).any())


def occurrences(doc: Doc, name: str) -> list[Span]:
    """Where a name stands in a text as whole tokens, in any case and whatever the white space in it.

    Of a name that is a stop word in lower case, such as US, only the places where it is written so, if there are any.
    """
    words = name.split()
    found = re.finditer(r"\s+".join(map(re.escape, words)), doc.text, re.IGNORECASE)
    spans = [span for match in found if (span := doc.char_span(*match.span())) is not None]
    if all(doc.vocab[word.lower()].is_stop for word in words):
        return [span for span in spans if span.text.split() == words] or spans
    return spans


def asked_names(names: object, descriptions: object) -> tuple[list[str], dict[str, str]]:
    """The names that somebody asks for, and what is said of them.

    Raises:
        InputError: E641 for a text in the place of names, and for what is no name of its own, or no description of one.
    """
    if isinstance(names, str) or not isinstance(names, Iterable) or not isinstance(descriptions, Mapping):
        raise error("E641", found=names if isinstance(descriptions, Mapping) else descriptions, names=names)
    wanted, described = list(names), dict(descriptions)
    odd = [name for name in wanted if not isinstance(name, str) or not name.strip() or wanted.count(name) > 1]
    odd += [name for name in described if name not in wanted]
    odd += [text for text in described.values() if not isinstance(text, str)]
    if odd:
        raise error("E641", found=odd[0], names=", ".join(map(str, wanted)))
    return wanted, described


def rows_by_name(spans: Sequence[Span], entities: NDArray[np.int64], names: Sequence[str]) -> dict[str, list[int]]:
    """The mentions of the entity that has each name, by their rows.

    It is the one with most mentions that are the name, in any case; of equal ones with most that hold it as whole tokens; of
    these the first. Where no mention is the name, it is the one with most that hold it, and that no other name has, if there is
    one. Of several names that are found so, the one that fits best chooses first: so their order counts only where they fit
    equally well.

    Args:
        spans: mentions, in order.
        entities: *(n,)* of them.
        names: several may name one entity; those that no mention holds are left out.
    """
    likeness = {name: of_name for name in names if (of_name := _likenesses(spans, entities, name))}
    best = {name: max(of_name, key=lambda entity: of_name[entity]) for name, of_name in likeness.items()}
    found = {name: entity for name, entity in best.items() if likeness[name][entity].same}
    only_held = [(name, entity) for name in likeness if name not in found for entity in likeness[name]]
    only_held.sort(key=lambda pair: likeness[pair[0]][pair[1]], reverse=True)  # equal ones stay in order
    for name, entity in only_held:
        if name not in found and entity not in found.values():
            found[name] = entity
    return {name: np.flatnonzero(entities == found.get(name, entity)).tolist() for name, entity in best.items()}


class _Likeness(NamedTuple):
    """How an entity is called: how many of its mentions are a name, and how many hold it; the first number decides."""

    same: int = 0
    held: int = 0


def _likenesses(spans: Sequence[Span], entities: NDArray[np.int64], name: str) -> dict[int, _Likeness]:
    """Of the entities that hold a name, in the order of the first mentions that do."""
    if not spans:
        return {}
    places = np.array([(span.start, span.end) for span in spans], dtype=np.int64)
    named = np.array([(span.start, span.end) for span in occurrences(spans[0].doc, name)], dtype=np.int64).reshape(-1, 2)
    found: dict[int, _Likeness] = {}
    for row, is_name in _holding(places, named):
        same, held = found.get(entity := int(entities[row]), _Likeness())
        found[entity] = _Likeness(same + is_name, held + 1)
    return found


def _holding(places: NDArray[np.int64], named: NDArray[np.int64]) -> Iterator[tuple[int, bool]]:
    """The rows of places *(n, 2)* that hold one of those that are a name *(m, 2)*, sorted; and whether they are the name."""
    if len(named):
        following = named[np.searchsorted(named[:, 0], places[:, 0]).clip(max=len(named) - 1)]  # the next name, or the last one
        holds = (following[:, 0] >= places[:, 0]) & (following[:, 1] <= places[:, 1])
        for row in np.flatnonzero(holds).tolist():
            yield row, bool((following[row] == places[row]).all())


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


def resolved_text(doc: Doc) -> str | None:
    """The text with names in the place of pronouns; None where nobody looked for clusters.

    A pronoun is a mention of one word that is a stop word of the language. It gives way to the entity's representative; an
    English possessive to that with *'s*. One that stands within a longer mention of the same entity, and does not begin it,
    stays as it is: *she herself* becomes *Ada herself*.
    """
    clusters = clusters_in(doc)
    if clusters is None:
        return None
    begins: dict[int, int] = {}
    for cluster in clusters:
        for span in cluster:
            begins[span.start] = max(begins.get(span.start, 0), span.end)
    named: dict[int, str] = {}
    for cluster in clusters:
        name = representative(cluster)
        if name is not None:
            text = OWNING.sub("", name.text)
            for token in _pronouns(cluster):
                if token.i not in range(name.start, name.end):
                    named[token.i] = text + ("'s" if _owns(token, begins[token.i]) else "")
    return "".join(named.get(token.i, token.text) + token.whitespace_ for token in doc)


def _pronouns(cluster: Iterable[Span]) -> Iterator[Token]:
    """The mentions of one word that is a stop word and no name, but for those within longer mentions that begin before them."""
    begun = end = 0  # of the mentions before, the last that reaches farthest
    for span in sorted(cluster, key=lambda span: (span.start, -span.end)):
        if len(span) == 1 and span[0].is_stop and not is_acronym(span[0]) and not begun < span.start < end:
            yield span[0]
        if span.end > end:
            begun, end = span.start, span.end


def _owns(token: Token, end: int) -> bool:
    """Whether a pronoun is a possessive.

    ``her`` is one if it is tagged so. Where nothing is tagged, it is one if a longer mention begins with it, but for *her
    and …*, or if the word after it may belong to it: no stop word, a number, or one such as *own*.

    Args:
        token: the pronoun.
        end: of the longest mention that begins with it.
    """
    if token.lower_ != "her":
        return token.lower_ in POSSESSIVES
    if token.has_morph():
        return "Yes" in token.morph.get("Poss", [])
    word = next((word for word in token.doc[token.i + 1 :] if not word.is_space), None)
    if word is None or word.lower_ in ("and", "or"):
        return False
    return end > token.i + 1 or (word.is_alpha and (not word.is_stop or word.like_num or word.lower_ in AFTER_HER))
