"""Keywords on documents: the words around a mention, which of them it should be searched by, and which ones it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model

from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.link_texts import Place
from entitykit.errors import error
from entitykit.knowledge.candidates import telling_words
from entitykit.knowledge.store_reader import StoreReader
from entitykit.models.keywords import KeywordSettings, build_keywords
from entitykit.types import TOP

CONTEXT = 128
"""Words around a mention that may be its keywords."""

THRESHOLD = 0.1
"""Least probability of a keyword; docs/benchmarks.md has what WordNet's usage examples lose without it."""

SCORES = "keyword_scores"
"""The extension ``doc._.keyword_scores``: for each word the probability that it is a keyword; none: nobody has looked."""


def keywords(tok2vec: Model[list[Doc], Any], hidden: int = 128, dropout: float = 0.1) -> Model[HeadInput, NamedTuple]:
    """Make the classifier of words, registered as ``entitykit.Keywords.v1``; see `KeywordSettings`.

    Raises:
        ConfigError: E007 for settings that cannot be.
    """
    if hidden < 1:
        raise error("E007", setting="hidden", found=hidden, expected="at least 1")
    if not 0 <= dropout < 1:
        raise error("E007", setting="dropout", found=dropout, expected="at least 0 and below 1")
    settings = asdict(KeywordSettings(width=0, hidden=hidden, dropout=dropout))
    return TorchHead(tok2vec, build_keywords, settings, layers=[TOP])


def register_keywords() -> None:
    """Make ``doc._.keyword_scores`` known to spaCy, once."""
    if not Doc.has_extension(SCORES):
        Doc.set_extension(SCORES, default=None)


def context_of(n_words: int, start: int, end: int, most: int = CONTEXT) -> list[int]:
    """The words around a mention, as many on either side; where one side has fewer, the other gives more.

    Args:
        n_words: of the document.
        start: first word of the mention.
        end: its end, exclusive.
        most: at most so many words.
    """
    n_left = min(start, max(most // 2, most - (n_words - end)))
    n_right = min(n_words - end, most - n_left)
    return [*range(start - n_left, start), *range(end, end + n_right)]


def predicted_keywords(doc: Doc, place: Place, most: int, threshold: float) -> list[str] | None:
    """The words of a mention's context that are keywords with the highest probability, each once; the best first.

    Args:
        doc: that `entitykit_keywords` may have read.
        place: the mention.
        most: at most so many.
        threshold: least probability.

    Returns:
        None if it has not read it.

    Raises:
        ConfigError: E588 if the document has other words by now.
    """
    scores: Sequence[float] | None = doc._.get(SCORES) if Doc.has_extension(SCORES) else None
    if scores is None:
        return None
    if len(scores) != len(doc):
        raise error("E588", found=len(scores), expected=len(doc))
    best: dict[str, tuple[float, str]] = {}
    for i in context_of(len(doc), place.start, place.end):
        if scores[i] >= threshold:
            for word in telling_words(doc[i].text):
                best[word.lower()] = max(best.get(word.lower(), (-1.0, "")), (scores[i], word), key=lambda pair: pair[0])
    ranked = sorted(best.values(), key=lambda pair: -pair[0])
    return [word for _, word in ranked[:most]]


class Labels(NamedTuple):
    """What the words of mentions' contexts should be called.

    Attributes:
        words: *(n,)* their numbers, counted through the batch, one mention after the other; words that cannot tell anything,
            such as stop words, are left out.
        targets: *(n,)* whether each is a keyword.
        sizes: of each mention, how many there are.
    """

    words: NDArray[np.int64]
    targets: NDArray[np.bool_]
    sizes: list[int]


def distant_labels(store: StoreReader, docs: Sequence[Doc], places: Sequence[Place], rows: Sequence[int], most: int) -> Labels:
    """Call the words keywords that add most to the BM25 score of the description of a mention's entity.

    Args:
        store: the entities.
        docs: the batch.
        places: its mentions.
        rows: of their entities.
        most: at most so many different words of a mention, with all places where they are.
    """
    firsts = np.cumsum([0, *(len(doc) for doc in docs)])
    words: list[int] = []
    texts: list[list[str]] = []
    for place in places:
        doc = docs[place.doc]
        told = {i: " ".join(telling_words(doc[i].text)) for i in context_of(len(doc), place.start, place.end)}
        words += [int(firsts[place.doc]) + i for i, text in told.items() if text]
        texts.append([text for text in told.values() if text])
    scores = store.description_scores(texts, rows) if places else []
    targets = [label_words(own, values, most) for own, values in zip(texts, scores, strict=True)]
    flat = np.concatenate([np.zeros(0, dtype=bool), *targets])
    return Labels(np.array(words, dtype=np.int64), flat, [len(own) for own in texts])


def label_words(words: Sequence[str], scores: NDArray[np.float64], most: int) -> NDArray[np.bool_]:
    """Whether each word *(n_words,)* is one of the `most` different ones that add most, and anything at all.

    Args:
        words: in any case; of words that add as much, the first are taken.
        scores: *(n_words,)* what they add.
        most: different words.
    """
    added = {word.lower(): score for word, score in zip(words, scores.tolist(), strict=True) if score > 0}
    chosen = set(sorted(added, key=lambda word: -added[word])[:most])
    return np.array([word.lower() in chosen for word in words], dtype=bool)
