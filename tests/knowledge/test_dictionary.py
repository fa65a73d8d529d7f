"""The dictionary finds what trying every sequence of words finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st

from entitykit.errors import ConfigError, InputError
from entitykit.knowledge.dictionary import DictionaryMention, DictionarySettings, MentionDictionary
from entitykit.knowledge.entities import Alias, Entity, Phrase
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.text import fold, normalise, strip_marks
from tests.knowledge.kb import CITIES, build

NAMES = [
    "New York",
    "New York City",
    "York",
    "new",
    "C++",
    "U.S.",
    "U.S. Army",
    "St. Louis",
    "Yahoo!",
    "rock'n'roll",
    "東京",
    "É",
]
WORDS = [
    "New",
    "YORK",
    "City",
    "C++",
    "C",
    "U.S.",
    "Army",
    "St.",
    "Louis",
    "Yahoo",
    "!",
    '"',
    "(",
    "rock",
    "'n'",
    "roll",
    "東",
    "京",
]
WORDS += [" ", "\n\n", "", "é", "e\u0301", "\u200b"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EntityStore]:
    entities = [Entity(id=f"Q{i}", name=name, aliases=(Alias("York", i),)) for i, name in enumerate(NAMES)]
    with build(tmp_path_factory.mktemp("dictionary") / "kb", entities) as store:
        store.count_phrases([Phrase("new", 100), Phrase("York", 68), Phrase("U.S. Army", 1), Phrase("C++", 0)])
        yield store


def every_phrase(store: EntityStore, words: Sequence[str], spaces: Sequence[bool]) -> list[tuple[int, int]]:
    """The longest names from left to right, by looking up every sequence of words that begins and ends with more than marks."""
    found = []
    start = 0
    inner = [bool(strip_marks(fold(word))) for word in words]
    while start < len(words):
        ends = range(len(words), start, -1)
        texts = {
            end: "".join(fold(words[i]) + " " * (spaces[i] or not fold(words[i])) for i in range(start, end)) for end in ends
        }
        longest = next((end for end in ends if inner[start] and inner[end - 1] and store.by_alias(texts[end])), None)
        if longest is not None:
            found.append((start, longest))
        start = longest or start + 1
    return found


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.booleans()), max_size=10))
def test_mentions_are_the_longest_names(store: EntityStore, tokens: list[tuple[str, bool]]) -> None:
    words, spaces = [word for word, _ in tokens], [space for _, space in tokens]
    found = MentionDictionary(store).find(words, spaces)
    assert [(mention.start, mention.end) for mention in found] == every_phrase(store, words, spaces)
    for mention in found:
        text = "".join(
            f"{fold(word)} " if space or not fold(word) else fold(word) for word, space in tokens[mention.start : mention.end]
        )
        assert mention.candidates == store.by_alias(text)


def find(store: EntityStore, text: str, **settings: float) -> dict[str, DictionaryMention]:
    doc = spacy.blank("en")(text)
    words, spaces = [token.text for token in doc], [bool(token.whitespace_) for token in doc]
    mentions = MentionDictionary(store, DictionarySettings(**settings)).find(words, spaces)
    return {doc[mention.start : mention.end].text: mention for mention in mentions}


def test_words_of_spacy(store: EntityStore) -> None:
    text = 'The U.S.  Army of "New\nYork City" (St. Louis!) writes C++, not C; Yorkshire, yahoo! É (U.S.)'
    assert list(find(store, text)) == ["U.S.  Army", "New\nYork City", "St. Louis", "C++", "yahoo", "É", "U.S."]


def test_several_texts_at_once(store: EntityStore) -> None:
    texts = [(["New", "York"], [True, False]), ([], []), (["City"], [False]), (["York", "New"], [True, True])]
    dictionary = MentionDictionary(store)
    assert dictionary.find_batch(texts) == [dictionary.find(*text) for text in texts]
    assert [len(mentions) for mentions in dictionary.find_batch(texts)] == [1, 0, 0, 2]
    assert dictionary.find_batch([]) == []


def test_thresholds(store: EntityStore) -> None:
    linked = sum(range(len(NAMES)))  # of York, which each entity has as an alias
    text = "New York City, new York, U.S. Army, C++"
    all_found = find(store, text)
    assert {name: mention.link_probability for name, mention in all_found.items()} == {
        "New York City": None,
        "new York": None,
        "U.S. Army": 1.0,
        "C++": None,
    }
    assert find(store, "York, new").keys() == {"York", "new"}
    york = find(store, "York")["York"]
    assert york.link_probability == pytest.approx(linked / 68)
    assert find(store, "New")["New"].link_probability == 1 / 100
    assert find(store, "York, new", min_link_probability=0.5).keys() == {"York"}
    assert find(store, "York, new", min_count=2).keys() == {"York"}
    assert [match.count for match in find(store, "York", min_prior=0.16)["York"].candidates] == [11]
    assert find(store, "York", min_prior=0.5) == {}
    assert find(store, "New York", min_prior=1.0).keys() == {"New York"}


def test_a_longer_name_below_the_threshold_hides_no_shorter_one(tmp_path: Path) -> None:
    entities = [Entity(id="a", name="Berlin", aliases=(Alias("Berlin", 5),)), Entity(id="b", name="Berlin is")]
    with build(tmp_path / "kb", entities) as store:
        assert find(store, "Berlin is old").keys() == {"Berlin is"}
        assert find(store, "Berlin is old", min_count=2).keys() == {"Berlin"}


def test_changes_count_at_once(tmp_path: Path) -> None:
    with build(tmp_path / "kb", CITIES) as store:
        assert find(store, "Paris, London").keys() == {"Paris"}
        store.add([Entity(id="Q84", name="London")])
        store.remove(["Q90", "Q167646", "Q830149"])
        assert find(store, "Paris, London").keys() == {"London"}


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    for option, value in (("min_link_probability", 1.5), ("min_prior", -0.1), ("min_count", -1)):
        with pytest.raises(InputError, match=rf"\[E507\] The option {option} is {value}"):
            DictionarySettings(**{option: value})
    with build(tmp_path / "kb", CITIES) as store:
        with pytest.raises(ConfigError, match=r"\[E510\] .*kb' does not know how often phrases occur in text, .* = 0.1 needs"):
            MentionDictionary(store, DictionarySettings(min_link_probability=0.1))
        with pytest.raises(InputError, match=r"\[E507\] The option spaces is 1 values; expected 2, one for each word"):
            MentionDictionary(store).find(["a", "b"], [True])


def test_keys_are_those_of_the_store() -> None:
    assert [normalise(name) for name in ("U.S.", "Yahoo!")] == ["u.s", "yahoo"]
