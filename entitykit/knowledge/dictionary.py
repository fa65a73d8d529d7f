"""Mentions without a model: the longest names of a knowledge base in a text, by how likely they are links.

The design is that of the dictionary linker of KPR (https://github.com/knowledgeable-embedding/knowledgeable-embedding): a
mention begins and ends where words do, its link probability is how often the phrase names an entity over how often it occurs in
text, and what is found is not looked at again. Names are looked up in the store itself: nothing is built, nothing goes stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from entitykit.errors import error
from entitykit.knowledge.store_reader import StoreReader
from entitykit.knowledge.store_search import AliasMatch, Links
from entitykit.knowledge.text import fold, strip_marks


@dataclass(frozen=True, kw_only=True)
class DictionarySettings:
    """What a phrase must reach to be a mention.

    Attributes:
        min_link_probability: p(link | phrase), from 0 to 1; phrases that were not counted in text pass.
        min_count: how often it names any entity.
        min_prior: p(entity | phrase) of a candidate, from 0 to 1; a phrase without such a candidate is none.
    """

    min_link_probability: float = 0.0
    min_count: int = 0
    min_prior: float = 0.0

    def __post_init__(self) -> None:
        for option, found in (("min_link_probability", self.min_link_probability), ("min_prior", self.min_prior)):
            if not 0 <= found <= 1:
                raise error("E507", option=option, found=found, expected="from 0 to 1")
        if self.min_count < 0:
            raise error("E507", option="min_count", found=self.min_count, expected="0 or more")


class DictionaryMention(NamedTuple):
    """A phrase that names entities.

    Attributes:
        start: first word.
        end: end, exclusive.
        link_probability: p(link | phrase); none if the phrase was not counted in text.
        candidates: what it may name, by falling prior.
    """

    start: int
    end: int
    link_probability: float | None
    candidates: list[AliasMatch]


class _Phrase(NamedTuple):
    """Words of a text from `start` to `end`, and what they are when folded."""

    text: int
    start: int
    end: int
    folded: str

    @property
    def key(self) -> str:
        return strip_marks(self.folded)

    @property
    def beginning(self) -> str:
        """What a longer name that begins with these words begins with."""
        return self.folded[self.folded.index(self.key) :]


class MentionDictionary:
    """Finds the names of a store in tokenized texts.

    Args:
        store: with the names; what is added to it and removed from it counts at once.
        settings: thresholds.

    Raises:
        ConfigError: E510 if the store knows nothing of `min_link_probability`.
    """

    def __init__(self, store: StoreReader, settings: DictionarySettings | None = None) -> None:
        self.store, self.settings = store, settings or DictionarySettings()
        if self.settings.min_link_probability and not store.n_phrases:
            raise error("E510", path=store.folder, found=self.settings.min_link_probability)

    def find(self, words: Sequence[str], spaces: Sequence[bool]) -> list[DictionaryMention]:
        """Find the mentions of a text, from left to right: the longest that reaches the thresholds, then what follows it.

        Args:
            words: of the text, as a spaCy `Doc` has them.
            spaces: whether a space follows each word.

        Raises:
            InputError: E507 if there are not as many spaces as words.
        """
        return self.find_batch([(words, spaces)])[0]

    def find_batch(self, texts: Sequence[tuple[Sequence[str], Sequence[bool]]]) -> list[list[DictionaryMention]]:
        """Find the mentions of several texts, faster than one by one; see `find`."""
        with self.store.reading():
            phrases = self._phrases(texts)
            links = self.store.links({phrase.key for phrase in phrases})
            keys = [key for key, found in links.items() if found.linked >= self.settings.min_count and self._likely(found)]
            matches = dict(zip(keys, self.store.by_alias_batch(keys), strict=True))
        least = self.settings.min_prior
        candidates = {key: [match for match in found if match.prior >= least] for key, found in matches.items()}
        mentions: list[list[DictionaryMention]] = [[] for _ in texts]
        for phrase in sorted(phrases, key=lambda phrase: (phrase.text, phrase.start, -phrase.end)):
            found = mentions[phrase.text]
            if candidates.get(phrase.key) and (not found or found[-1].end <= phrase.start):
                chosen = candidates[phrase.key]
                found.append(DictionaryMention(phrase.start, phrase.end, link_probability(links[phrase.key]), chosen))
        return mentions

    def _likely(self, links: Links) -> bool:
        probability = link_probability(links)
        return probability is None or probability >= self.settings.min_link_probability

    def _phrases(self, texts: Sequence[tuple[Sequence[str], Sequence[bool]]]) -> list[_Phrase]:
        """All sequences of words that are names, each step one word longer wherever a name goes on."""
        folded = [_fold_words(*text) for text in texts]
        found: list[_Phrase] = []
        active = [
            _Phrase(i, start, start + 1, word)
            for i, words in enumerate(folded)
            for start, (word, _) in enumerate(words)
            if strip_marks(word)
        ]
        while active:
            beginnings = [phrase.beginning for phrase in active]
            following = self.store.next_keys({*beginnings, *(phrase.key for phrase in active)})
            ends = [bool(strip_marks(folded[phrase.text][phrase.end - 1][0])) for phrase in active]
            found += [p for p, ends_in_word in zip(active, ends, strict=True) if ends_in_word and following[p.key] == p.key]
            going_on = _going_on(active, beginnings, following)
            active = [longer for phrase in going_on for longer in _extend(phrase, folded[phrase.text])]
        return found


def link_probability(links: Links) -> float | None:
    """p(link | phrase), at most 1 where entities and text were counted in different collections; none if it was not counted."""
    return min(1.0, links.linked / links.total) if links.total else None


def _fold_words(words: Sequence[str], spaces: Sequence[bool]) -> list[tuple[str, bool]]:
    """Folded words, and whether a space follows."""
    if len(words) != len(spaces):
        raise error("E507", option="spaces", found=f"{len(spaces)} values", expected=f"{len(words)}, one for each word")
    return list(zip(map(fold, words), spaces, strict=True))


def _going_on(phrases: Iterable[_Phrase], beginnings: Iterable[str], following: Mapping[str, str | None]) -> Iterator[_Phrase]:
    for phrase, beginning in zip(phrases, beginnings, strict=True):
        if (following[beginning] or "").startswith(beginning):
            yield phrase


def _extend(phrase: _Phrase, words: Sequence[tuple[str, bool]]) -> Iterator[_Phrase]:
    """The phrase with the next word that is more than white space, if there is one."""
    space = words[phrase.end - 1][1]
    for end in range(phrase.end, len(words)):
        if words[end][0]:
            yield phrase._replace(end=end + 1, folded=f"{phrase.folded}{' ' * space}{words[end][0]}")
            return
        space = True
