"""Words are split as the checkpoint's own tokenizer splits them, once, and none is lost."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.vocab import Vocab
from transformers import AutoTokenizer

from entitykit.bridge import pieces as module
from entitykit.bridge.pieces import WordPieces, closes, ranges
from entitykit.bridge.shapes import word_shape

FAMILIES = ["tiny_bert", "tiny_distilbert", "tiny_roberta", "tiny_xlmr"]
VOCAB = Vocab()
SENTENCE = ["The", "river", "ran", "from", "New", "Aberdeen", "to", "St.", "John's", "in", "1987", ",", "didn't", "it", "?"]
STRANGE = [
    "😀",
    "e\u0301",
    "\u202eabc",
    "\u200b",
    "\x00\x1f",
    "北京",
    "שלום",
    "ﬃ",
    "[SEP]",
    "</s>",
    "\ufffd",
    "a\u00a0b",
    "Ωμέγα",
]


def read(path: Path) -> str:
    return (path / "tokenizer.json").read_text(encoding="utf-8")


def splitter(path: Path, *, max_word_pieces: int = 64) -> WordPieces:
    return WordPieces(read(path), max_word_pieces=max_word_pieces)


def doc(words: Sequence[str], spaces: Sequence[bool] | None = None) -> Doc:
    return Doc(VOCAB, words=list(words), spaces=spaces)


def by_word(split: WordPieces, docs: Sequence[Doc]) -> list[list[int]]:
    result = split(docs)
    ends = np.cumsum(result.counts)
    return [result.ids[end - n : end].tolist() for end, n in zip(ends, result.counts, strict=True)]


@pytest.fixture(params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def reference(checkpoint: Path) -> Any:
    return AutoTokenizer.from_pretrained(checkpoint, add_prefix_space=True)


def theirs(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    encoding = tokenizer(list(words), is_split_into_words=True, add_special_tokens=False)
    found: list[list[int]] = [[] for _ in words]
    for word, piece in zip(encoding.word_ids(), encoding["input_ids"], strict=True):
        found[word].append(piece)
    return found


def test_words_after_spaces_equal_transformers(checkpoint: Path, reference: Any) -> None:
    found = by_word(splitter(checkpoint), [doc(SENTENCE)])
    assert found == theirs(reference, SENTENCE)


@given(words=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1), min_size=1))
def test_any_word_equals_transformers(splitters: list[tuple[WordPieces, Any]], words: list[str]) -> None:
    """Where the reference has no piece of a word, we have the unknown one."""
    for split, tokenizer in splitters:
        expected = [pieces or [split.split("\x00")[0]] for pieces in theirs(tokenizer, words)]
        assert by_word(split, [doc(words)]) == expected


@pytest.mark.parametrize("word", ["<unk>", "a<unk>", "[SEP]", "a[SEP]", "<mask>"])
def test_words_that_name_special_pieces(splitters: list[tuple[WordPieces, Any]], word: str) -> None:
    for split, tokenizer in splitters:
        assert by_word(split, [doc(["to", word])]) == theirs(tokenizer, ["to", word])


@pytest.fixture(scope="module")
def splitters(request: pytest.FixtureRequest) -> list[tuple[WordPieces, Any]]:
    paths = [request.getfixturevalue(name) for name in FAMILIES]
    return [
        (splitter(path, max_word_pieces=1000), AutoTokenizer.from_pretrained(path, add_prefix_space=True)) for path in paths
    ]


def test_special_pieces(checkpoint: Path, reference: Any) -> None:
    split = splitter(checkpoint)
    assert [*split.prefix, *split.suffix] == reference("")["input_ids"]


def test_every_word_but_white_space_has_pieces(checkpoint: Path) -> None:
    split = splitter(checkpoint)
    words = [*STRANGE, " ", "\n\n", "\u3000", "end"]
    counts = split([doc(words)]).counts.tolist()
    assert [count > 0 for count in counts] == [bool(word.strip()) for word in words]


def test_words_that_the_normalizer_empties_are_unknown(tiny_bert: Path) -> None:
    split = splitter(tiny_bert)
    unknown = AutoTokenizer.from_pretrained(tiny_bert).unk_token_id
    assert split.split("\x00\x1f") == split.split("😀") == [unknown]


@pytest.mark.parametrize(("family", "mark"), [("tiny_roberta", "Ġ"), ("tiny_xlmr", "▁")])
def test_mark_of_a_preceding_space(request: pytest.FixtureRequest, family: str, mark: str) -> None:
    """Words glued to the one before have none; a document's first word does, whatever document lies before it."""
    path = request.getfixturevalue(family)
    split, tokenizer = splitter(path), AutoTokenizer.from_pretrained(path)
    first = doc(["John", "'s", "river", "!"], [False, True, False, False])
    second = doc(["river", "-", "xyz", "of"], [False, False, True, False])
    pieces = ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in by_word(split, [first, doc([]), second, doc([]), first])]
    marked = [mark + "John", "'s", mark + "river", "!"]
    assert pieces == [*marked, mark + "river", "-", "xyz", mark + "of", *marked]


def test_words_with_neighbouring_numbers(tiny_roberta: Path) -> None:
    """spaCy's own symbols are numbered one after the other; nobody's pieces are another's, glued or not."""
    split, tokens = splitter(tiny_roberta), AutoTokenizer.from_pretrained(tiny_roberta).convert_ids_to_tokens
    words = ["TIME", "PERCENT", "DATE", "LAW", "PERSON", "NORP", "ORG", "FACILITY"]
    numbers = [VOCAB.strings[word] for word in words]
    assert any(a ^ 1 == b for a in numbers for b in numbers)
    for spaces in ([True] * 8, [False] * 8):
        pieces = ["".join(tokens(ids)) for ids in by_word(split, [doc(words, spaces)])]
        assert pieces == ["Ġ" * (i == 0 or spaces[0]) + word for i, word in enumerate(words)]


def test_no_documents(tiny_bert: Path) -> None:
    assert splitter(tiny_bert)([]).ids.tolist() == []


def test_mark_stays_where_the_vocabulary_has_no_piece_without(tiny_xlmr: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(tiny_xlmr).convert_ids_to_tokens
    assert tokens(splitter(tiny_xlmr).split("rivers", glued=True)) == ["▁river", "s"]


def test_glued_bytes_equal_running_text(tiny_roberta: Path) -> None:
    split, tokenizer = splitter(tiny_roberta), AutoTokenizer.from_pretrained(tiny_roberta)
    words = doc(["didn", "'", "t", "go", "."], [False, False, True, False, False])
    ids = [piece for word in by_word(split, [words]) for piece in word]
    assert ids == tokenizer(" didn't go.", add_special_tokens=False)["input_ids"]


def test_overlong_word_is_shortened_and_counted(checkpoint: Path) -> None:
    split = splitter(checkpoint, max_word_pieces=8)
    words = ["abcdefgh", "abcdefghi", "the"]
    kept = split([doc(words)])
    whole = [len(pieces) for pieces in by_word(splitter(checkpoint), [doc(words)])]
    assert kept.counts.tolist() == [min(n, 8) for n in whole]
    assert kept.shortened.tolist() == [n > 8 for n in whole]
    assert kept.shortened.any()


@pytest.mark.parametrize("character", ["a", "😀", "\x00", "北", "\u202e"])
def test_word_of_a_million_characters(checkpoint: Path, character: str) -> None:
    """Only its beginning goes to the tokenizer, whose cost may be quadratic; that it was cut is recorded."""
    split = splitter(checkpoint)
    seen: list[str] = []

    class Spy:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def encode(self, text: str, **options: Any) -> Any:
            seen.append(text)
            return self.tokenizer.encode(text, **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.tokenizer, name)

    split._tokenizer = Spy(split._tokenizer)
    result = split([doc([character * 1_000_000, "end"])])
    assert result.shortened.tolist() == [True, False]
    assert result.counts[0] == 64
    assert max(map(len, seen)) <= 64 * 16 + 1


def test_shapes_of_words(tiny_bert: Path) -> None:
    words = ["Paris", "3rd", "\n", "NATO"]
    assert splitter(tiny_bert)([doc(words)]).shapes.tolist() == [word_shape(word) for word in words]


def test_no_documents_and_no_words(checkpoint: Path) -> None:
    split = splitter(checkpoint)
    for docs in ([doc([])], [doc([]), doc([])]):
        result = split(docs)
        assert len(result.ids) == len(result.counts) == 0
        assert result.lengths == [0] * len(docs)


@pytest.fixture
def small_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(module, "_CACHE_WORDS", 5)
    return 5


def test_full_cache_forgets_and_stays_right(checkpoint: Path, small_cache: int) -> None:
    """Batches with as many words as the cache holds, with more, and with known ones among new ones."""
    split = splitter(checkpoint)
    for words in (["a", "b", "c"], ["c", "d", "e"], ["a", "b", "c", "d", "e", "f", "g", "a"], ["g", "h"], ["a"]):
        expected = [splitter(checkpoint).split(word) for word in words]
        assert by_word(split, [doc(words)]) == expected
        assert len(split._rows) <= max(small_cache, len(set(words)))


def test_pickle(checkpoint: Path) -> None:
    split = splitter(checkpoint, max_word_pieces=3)
    copy = pickle.loads(pickle.dumps(split))
    assert by_word(copy, [doc(SENTENCE)]) == by_word(split, [doc(SENTENCE)])


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9))))
def test_ranges(pairs: list[tuple[int, int]]) -> None:
    starts, counts = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    assert ranges(starts, counts).tolist() == [start + k for start, count in pairs for k in range(count)]


@pytest.mark.parametrize(
    ("word", "ends"),
    [
        (".", 2),
        ("?!", 2),
        ("\u2026", 2),
        ("\uff01", 2),
        ("\n\n", 2),
        (",", 1),
        (";", 1),
        ("Mr.", 0),
        (" ", 0),
        ("", 0),
        (".)", 0),
    ],
)
def test_what_ends_with_a_word(word: str, ends: int) -> None:
    assert closes(word) == ends
