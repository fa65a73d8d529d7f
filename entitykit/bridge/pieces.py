"""From words to pieces: each distinct word is tokenized once and remembered, so that tokenizing a batch is a table look-up."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.attrs import ORTH, SPACY
from spacy.tokens import Doc
from tokenizers import Tokenizer

from entitykit.bridge.shapes import word_shape

_CACHE_WORDS = 200_000
_CHARS_PER_PIECE = 16
CLAUSE, SENTENCE = 1, 2
_STOPS = {**dict.fromkeys(".!?。", SENTENCE), **dict.fromkeys(",;:、", CLAUSE)}


class Pieces(NamedTuple):
    """The pieces of a batch of documents; words are numbered through the batch.

    Attributes:
        ids: *(n_pieces,)* vocabulary ids, without special pieces.
        starts: *(n_words,)* number of each word's first piece.
        counts: *(n_words,)* pieces per word; 0 for white space.
        shapes: *(n_words,)* word-shape ids.
        shortened: *(n_words,)* whether the word had more pieces than are kept.
        ends: *(n_words,)* how much ends with the word: `SENTENCE`, `CLAUSE`, or 0 for nothing.
        lengths: words of each document.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    shapes: NDArray[np.int64]
    shortened: NDArray[np.bool_]
    ends: NDArray[np.int64]
    lengths: list[int]


class WordPieces:
    """Splits words with a checkpoint's own tokenizer.

    Byte-level and SentencePiece tokenizers mark words that follow a space; a word glued to the one before (``n't``) is split
    without that mark. Every word that is not white space gets at least one piece (the unknown one if need be).

    Args:
        tokenizer_json: a tokenizer of the `tokenizers` library, as JSON.
        max_word_pieces: pieces kept of one word.
    """

    def __init__(self, tokenizer_json: str, *, max_word_pieces: int) -> None:
        self.json = tokenizer_json
        self.max_word_pieces = max_word_pieces
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._added = tuple(token.content for token in self._tokenizer.get_added_tokens_decoder().values())
        self._style = mark_style(tokenizer_json)
        self.prefix, self.suffix = self._surroundings()
        self.n_special = len(self.prefix) + len(self.suffix)
        self._unknown = self._special("[UNK]", "<unk>")
        self.mask = self._special("[MASK]", "<mask>")
        self._forget()

    def _surroundings(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the tokenizer puts before and after a text: BERT's one and one, GPT-2's none."""
        encoding = self._tokenizer.encode("a")
        n_before = encoding.special_tokens_mask.index(0)
        n_after = encoding.special_tokens_mask[::-1].index(0)
        ids = tuple(encoding.ids)
        return ids[:n_before], ids[len(ids) - n_after :]

    def _special(self, *names: str) -> int:
        """The id of a special piece under one of its names; else that of the last piece around a text, or else 0."""
        found = [self._tokenizer.token_to_id(name) for name in names]
        return next((i for i in found if i is not None), (0, *self.prefix, *self.suffix)[-1])

    def _forget(self) -> None:
        self._rows: dict[int, int] = {}
        self._ids = np.zeros(0, dtype=np.int64)
        self._starts = np.zeros(0, dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)
        self._shapes = np.zeros(0, dtype=np.int64)
        self._shortened = np.zeros(0, dtype=np.bool_)
        self._ends = np.zeros(0, dtype=np.int64)

    def __call__(self, docs: Sequence[Doc]) -> Pieces:
        """Split every word of the documents."""
        lengths = [len(doc) for doc in docs]
        columns = [doc.to_array([ORTH, SPACY]).reshape(-1, 2).astype(np.uint64) for doc in docs]
        attributes = np.concatenate([np.zeros((0, 2), dtype=np.uint64), *columns])
        orths, spaces = attributes[:, 0], attributes[:, 1]
        glued = np.zeros(len(orths), dtype=np.uint64)
        if self._style != "none" and len(orths):
            glued[1:] = 1 - spaces[:-1]
            glued[np.cumsum([0, *lengths[:-1]])[np.array(lengths) > 0]] = 0
        # not only hashes: words that are spaCy's own symbols have neighbouring numbers
        keys, first, inverse = np.unique((orths << np.uint64(1)) ^ glued, return_index=True, return_inverse=True)
        if len(self._rows) + len(keys) > _CACHE_WORDS:
            self._forget()
        new = [(key, i) for key, i in zip(keys.tolist(), first.tolist(), strict=True) if key not in self._rows]
        if new:
            strings = docs[0].vocab.strings
            self._learn([(key, strings[int(orths[i])], bool(glued[i])) for key, i in new])
        rows = np.array([self._rows[key] for key in keys.tolist()], dtype=np.int64)[inverse.reshape(-1)]
        counts = self._counts[rows]
        return Pieces(
            ids=self._ids[ranges(self._starts[rows], counts)],
            starts=np.cumsum(counts) - counts,
            counts=counts,
            shapes=self._shapes[rows],
            shortened=self._shortened[rows],
            ends=self._ends[rows],
            lengths=lengths,
        )

    def _learn(self, words: list[tuple[int, str, bool]]) -> None:
        """Add words (key, text, glued) to the table."""
        ids: list[int] = []
        counts: list[int] = []
        shapes: list[int] = []
        shortened: list[bool] = []
        ends: list[int] = []
        for key, text, glued in words:
            pieces = self.split(text, glued=glued)
            self._rows[key] = len(self._counts) + len(counts)
            ids.extend(pieces[: self.max_word_pieces])
            counts.append(min(len(pieces), self.max_word_pieces))
            shapes.append(word_shape(text[:_CHARS_PER_PIECE]))
            shortened.append(len(pieces) > self.max_word_pieces)
            ends.append(closes(text))
        new_counts = np.array(counts, dtype=np.int64)
        self._starts = np.append(self._starts, len(self._ids) + np.cumsum(new_counts) - new_counts)
        self._ids = np.append(self._ids, np.array(ids, dtype=np.int64))
        self._counts = np.append(self._counts, new_counts)
        self._shapes = np.append(self._shapes, np.array(shapes, dtype=np.int64))
        self._shortened = np.append(self._shortened, np.array(shortened, dtype=np.bool_))
        self._ends = np.append(self._ends, np.array(ends, dtype=np.int64))

    def split(self, word: str, *, glued: bool = False) -> list[int]:
        """Piece ids of one word; of an overlong one, its beginning and one piece more than are kept.

        Args:
            word: a token's text.
            glued: whether it follows the token before without a space.
        """
        if not word.strip():
            return []
        longest = self.max_word_pieces * _CHARS_PER_PIECE
        text = word[:longest]
        if self._style == "space" and not glued and not text.startswith(self._added):
            text = " " + text
        pieces: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._style == "metaspace" and glued:
            pieces = self._without_mark(pieces)
        pieces = pieces or [self._unknown]
        if len(word) > longest:  # what was cut off must count, even where the tokenizer makes one unknown piece of it all
            pieces = (pieces + [self._unknown] * (self.max_word_pieces + 1))[: self.max_word_pieces + 1]
        return pieces

    def _without_mark(self, pieces: list[int]) -> list[int]:
        """Drop SentencePiece's mark of a preceding space from the first piece, where the vocabulary has the rest."""
        first = self._tokenizer.id_to_token(pieces[0]) if pieces else ""
        if first == "▁" and len(pieces) > 1:
            return pieces[1:]
        bare = self._tokenizer.token_to_id(first.removeprefix("▁")) if len(first) > 1 else None
        return pieces if bare is None else [bare, *pieces[1:]]

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return _restore, (self.json, self.max_word_pieces)


def closes(word: str) -> int:
    """How much ends with a word: `SENTENCE` with one that is nothing but full stops, or a line's end; `CLAUSE` with a comma."""
    if word.isspace():
        return SENTENCE if "\n" in word else 0
    return min((_STOPS.get(letter, 0) for letter in unicodedata.normalize("NFKC", word)), default=0)


def ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers `starts[i] … starts[i] + counts[i] - 1` for every i, end to end.

    Args:
        starts: *(n,)*.
        counts: *(n,)*, not negative.

    Returns:
        *(sum of counts,)*.
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - counts), counts)


def _restore(tokenizer_json: str, max_word_pieces: int) -> WordPieces:
    return WordPieces(tokenizer_json, max_word_pieces=max_word_pieces)


def mark_style(tokenizer_json: str) -> str:
    """How a word after a space is marked: by a ``space`` before it, a ``metaspace`` that the tokenizer adds, or ``none``."""
    steps = json.dumps([json.loads(tokenizer_json)[part] for part in ("pre_tokenizer", "normalizer")], ensure_ascii=False)
    if '"ByteLevel"' in steps:
        return "space"
    if '"Metaspace"' in steps or '"Prepend"' in steps:
        return "space" if '"prepend_scheme": "never"' in steps else "metaspace"
    return "space" if "▁" in steps else "none"
