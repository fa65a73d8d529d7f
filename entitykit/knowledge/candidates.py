"""Candidates of mentions: entities that several sources find, their union, and what each source says of them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import error
from entitykit.knowledge.store_reader import LEAST, StoreReader

SOURCES = ("alias", "fuzzy", "words", "dense")

KEYWORDS = 32
"""Words of the context that a search by words takes beside the mention's, as in sparse retrieval for few-shot linking."""

_WORD = re.compile(r"[^\W_]+")

_STOP = """
a about after all also an and any are as at be been before but by can could did do does for from had has have he her his
i if in into is it its may more most no not of on one only or other our she so some such than that the their them then
there these they this to two up was we were what when which who will with would you your
"""
STOP = frozenset(_STOP.split())
"""English words that tell nothing; in other languages the store passes over words that most entities have."""


class Mention(NamedTuple):
    """What is looked for.

    Attributes:
        text: the mention as it is written.
        left: text before it.
        right: text behind it.
        vector: *(width,)* for the dense source; none: it finds nothing.
        keywords: words of the context for the source of words; none: `nearest_words`.
    """

    text: str
    left: str = ""
    right: str = ""
    vector: NDArray[np.float32] | None = None
    keywords: Sequence[str] | None = None


@dataclass(slots=True)
class Candidate:
    """An entity that a mention may name.

    Attributes:
        row: of the entity.
        scores: of each source that has found it: of ``alias`` p(entity | name), of ``fuzzy`` the similarity of the names, of
            ``words`` BM25, of ``dense`` the score of the index.
    """

    row: int
    scores: dict[str, float] = field(default_factory=dict)


Found = list[tuple[int, float]]
"""Rows with scores, the best first."""


class CandidateSource(Protocol):
    """Finds entities for mentions."""

    @property
    def name(self) -> str:
        """Under which its scores are recorded."""

    def find(self, mentions: Sequence[Mention], limit: int) -> list[Found]:
        """At most `limit` entities for each mention."""


class AliasSource:
    """Entities that have the mention as a name, with p(entity | name).

    Args:
        store: the entities.
        normalised: names may differ as `entitykit.knowledge.text.normalise` says; otherwise in nothing.
        least: least p(entity | name).
    """

    name = "alias"

    def __init__(self, store: StoreReader, *, normalised: bool = True, least: float = 0.0) -> None:
        self._store, self._normalised, self._least = store, normalised, least

    def find(self, mentions: Sequence[Mention], limit: int) -> list[Found]:
        """Look all names up at once."""
        texts = list(dict.fromkeys(mention.text for mention in mentions))
        named = self._store.by_alias_batch(texts, normalised=self._normalised)
        found = [[(match.row, match.prior) for match in matches[:limit] if match.prior >= self._least] for matches in named]
        by_text = dict(zip(texts, found, strict=True))
        return [by_text[mention.text] for mention in mentions]


class FuzzySource:
    """Entities that have a name like the mention, with the similarity of the names.

    Args:
        store: the entities.
        least: least similarity.
    """

    name = "fuzzy"

    def __init__(self, store: StoreReader, *, least: float = LEAST) -> None:
        self._store, self._least = store, least

    def find(self, mentions: Sequence[Mention], limit: int) -> list[Found]:
        """Each different mention is looked for once."""
        found = {
            text: [(match.row, match.similarity) for match in self._store.by_ngrams(text, limit, least=self._least)]
            for text in dict.fromkeys(mention.text for mention in mentions)
        }
        return [found[mention.text] for mention in mentions]


class WordSource:
    """Entities whose names and descriptions have the words of the mention, and keywords of its context (BM25).

    Args:
        store: the entities.
        keywords: chooses words of the context; none: the mention's own, see `Mention`.
    """

    name = "words"

    def __init__(self, store: StoreReader, *, keywords: Callable[[Mention], Sequence[str]] | None = None) -> None:
        self._store = store
        self._keywords = keywords

    def find(self, mentions: Sequence[Mention], limit: int) -> list[Found]:
        """Each mention is a query of its own."""
        queries = [word_query(mention, self._keywords) for mention in mentions]
        return [[(match.row, match.score) for match in self._store.by_words(query, limit)] for query in queries]


class Nearest(Protocol):
    """What the dense source needs of an index."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and rows *(n, k)*; -1 where there are fewer."""


def search_alive(
    store: StoreReader, index: Nearest, queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The nearest entities that are there: those that were removed since the index was built leave their places to others.

    Args:
        store: the entities.
        index: of their vectors, from any moment.
        queries: *(n, width)*.
        k: how many.

    Returns:
        Scores *(n, k)*, falling, and rows *(n, k)*; where there are fewer, −∞ and -1.
    """
    wanted = k
    while True:
        scores, rows = index.search(queries, wanted)
        alive = store.alive(rows)
        if ((alive.sum(axis=1) >= k) | (rows[:, -1] < 0)).all():
            break
        wanted *= 2
    order = np.argsort(~alive, axis=1, kind="stable")[:, :k]
    scores, rows = np.where(alive, scores, np.float32(-np.inf)), np.where(alive, rows, -1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


class DenseSource:
    """Entities whose vectors are nearest to the mention's, with the score of the index.

    Args:
        store: the entities; those that were removed since the index was built are passed over.
        index: a `VectorIndex` or `EntityIndex`.
    """

    name = "dense"

    def __init__(self, store: StoreReader, index: Nearest) -> None:
        self._store, self._index = store, index

    def find(self, mentions: Sequence[Mention], limit: int) -> list[Found]:
        """Search for all mentions at once."""
        found: list[Found] = [[] for _ in mentions]
        numbers = [i for i, mention in enumerate(mentions) if mention.vector is not None]
        vectors = [mention.vector for mention in mentions if mention.vector is not None]
        if vectors:
            for i, scores, rows in zip(numbers, *search_alive(self._store, self._index, np.stack(vectors), limit), strict=True):
                found[i] = list(zip(rows[rows >= 0].tolist(), scores[rows >= 0].tolist(), strict=True))
        return found


def word_query(mention: Mention, keywords: Callable[[Mention], Sequence[str]] | None = None) -> str:
    """What the store is searched by for words: the mention, and keywords of its context, by default the mention's own."""
    return " ".join([mention.text, *(keywords_of(mention) if keywords is None else keywords(mention))])


def keywords_of(mention: Mention) -> Sequence[str]:
    """The keywords that a mention has, or else `nearest_words`."""
    return nearest_words(mention) if mention.keywords is None else mention.keywords


def nearest_words(mention: Mention, limit: int = KEYWORDS) -> list[str]:
    """Words of the context that may tell something, from the nearest to the mention on, each once."""
    left, right = _WORD.findall(mention.left)[::-1], _WORD.findall(mention.right)
    longest = max(len(left), len(right))
    pairs = zip(left + [""] * (longest - len(left)), right + [""] * (longest - len(right)), strict=True)
    words = dict.fromkeys(word for pair in pairs for word in pair if _tells(word))
    return list(words)[:limit]


def telling_words(text: str) -> list[str]:
    """Words of a text that may tell something, one after the other."""
    return [word for word in _WORD.findall(text) if _tells(word)]


def _tells(word: str) -> bool:
    return len(word) > 1 and word.lower() not in STOP


def find_candidates(
    sources: Sequence[CandidateSource], limits: Mapping[str, int], mentions: Sequence[Mention]
) -> list[list[Candidate]]:
    """The union of what sources find: each entity once, by source, then as the source ranks it.

    Args:
        sources: with different names.
        limits: how many each may find for a mention, by its name; a source that is not named finds nothing.
        mentions: to find candidates for.

    Raises:
        ConfigError: E582 for two sources with one name, or a limit of no source or below 0.
    """
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise error("E582", found=", ".join(names), expected="sources with different names")
    for name, limit in limits.items():
        if limit < 0 or (limit and name not in names):
            raise error("E582", found=f"{name} = {limit}", expected=f"limits of at least 0 for {', '.join(names)}")
    union: list[dict[int, Candidate]] = [{} for _ in mentions]
    for source in sources:
        limit = limits.get(source.name, 0)
        if limit and len(mentions):
            for own, found in zip(union, source.find(mentions, limit), strict=True):
                for row, score in found:
                    own.setdefault(row, Candidate(row)).scores.setdefault(source.name, score)
    return [list(own.values()) for own in union]


def all_sources(
    store: StoreReader,
    index: Nearest | None,
    *,
    normalised: bool = True,
    least_prior: float = 0.0,
    least_similarity: float = LEAST,
) -> list[CandidateSource]:
    """One source of each kind; without an index, there is no dense one.

    Args:
        store: the entities.
        index: of their vectors; or none.
        normalised: see `AliasSource`.
        least_prior: see there, `least`.
        least_similarity: see `FuzzySource`, `least`.
    """
    sources: list[CandidateSource] = [
        AliasSource(store, normalised=normalised, least=least_prior),
        FuzzySource(store, least=least_similarity),
        WordSource(store),
    ]
    return sources if index is None else [*sources, DenseSource(store, index)]


def hard_negatives(
    store: StoreReader,
    index: Nearest | None,
    texts: Sequence[str],
    vectors: NDArray[np.float32],
    gold: Sequence[int],
    limit: int,
) -> list[int]:
    """Wrong entities that are hard to tell from the right ones: namesakes at random and, with an index, what it ranks highest.

    Args:
        store: the entities.
        index: from any moment of the training.
        texts: the mentions.
        vectors: *(n_mentions, width)* of the mentions as the model now sees them.
        gold: row of each mention's entity.
        limit: entities for each mention; where there are enough of both kinds, half are namesakes.

    Returns:
        Rows, of one mention after the other.
    """
    if not limit or not len(texts):
        return []
    ranked: list[list[int]] = [[] for _ in texts]
    if index is not None:
        near = search_alive(store, index, np.ascontiguousarray(vectors, dtype=np.float32), limit + 1)[1]
        ranked = [own[own >= 0].tolist() for own in near]
    found: list[int] = []
    for row, near_rows, matches in zip(gold, ranked, store.by_alias_batch(texts), strict=True):
        hard = [other for other in near_rows if other != row]
        namesakes = [match.row for match in matches if match.row != row]
        drawn = random.sample(namesakes, min(len(namesakes), (limit + 1) // 2 if hard else limit))
        found += (drawn + [other for other in hard if other not in drawn])[:limit]
    return found
