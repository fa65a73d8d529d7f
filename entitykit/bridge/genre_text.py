"""Text as the tokens that an encoder-decoder reads and writes: passages, contexts of mentions, names, marks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc
from tokenizers import Tokenizer

from entitykit.decoding.genre import Marks
from entitykit.decoding.markup import without_brackets
from entitykit.errors import error, warn
from entitykit.knowledge.flat_trie import Sequences

Form = Literal["name", "markup"]
"""How names are written: alone, or within markup, where they follow a space and have no brackets."""

MAX_NAME = 256
"""Tokens of the longest name that can be written."""

_MARKS = ("{", "}", "[", "]")
_CHUNK = 10_000
_SENTENCE_ENDS = (".", "!", "?")


class Pieces(NamedTuple):
    """A text's tokens and their characters, white space aside.

    Attributes:
        ids: *(n,)*.
        starts: *(n,)* first characters.
        ends: *(n,)* ends, exclusive; a token of white space ends where it starts.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


class Passage(NamedTuple):
    """A part of a document.

    Attributes:
        start: its first character.
        end: its end, exclusive.
        ids: its tokens.
        starts: tokens with which a word begins, and that word's number in the document.
        ends: ends of tokens with which a word ends, and the number behind that word.
    """

    start: int
    end: int
    ids: list[int]
    starts: dict[int, int]
    ends: dict[int, int]


class GenreText:
    """A tokenizer's way to read sources and to write names and markup.

    Args:
        settings: as `entitykit.bridge.seq2seq.load_seq2seq` gives them.

    Attributes:
        end: the token that ends an output.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = {key: settings[key] for key in ("tokenizer", "before", "after", "end")}
        self._json: str = settings["tokenizer"]
        self._tokenizer = Tokenizer.from_str(self._json)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # a text that has "</s>" in it does not end there
        self._before, self._after = list(settings["before"]), list(settings["after"])
        self.end = int(settings["end"])
        self._special = frozenset([*self._before, *self._after, self.end])
        self._other = self._encode(" (")[-1]
        self._marks: Marks | None = None

    def __reduce__(self) -> tuple[type[GenreText], tuple[dict[str, Any]]]:
        return type(self), (self._settings,)

    @property
    def n_special(self) -> int:
        """Tokens around each source."""
        return len(self._before) + len(self._after)

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary."""
        return self._tokenizer.get_vocab_size()

    def marks(self) -> Marks:
        """The tokens of the markup.

        Raises:
            ConfigError: E536 if the tokenizer has no token of its own for one.
        """
        if self._marks is not None:
            return self._marks
        found = [self._encode(f" {mark}") for mark in _MARKS]
        tokens = {ids[0] for ids in found if len(ids) == 1}
        if len(tokens) < len(_MARKS) or tokens & set(self._encode("\ue000")):  # a character that is unknown, or bytes
            raise error("E536", found=", ".join(f"{len(ids)} for {mark}" for mark, ids in zip(_MARKS, found, strict=True)))
        opening, closing, opening_name, closing_name = (ids[0] for ids in found)
        self._marks = Marks(opening, closing, opening_name, closing_name, self.end)
        return self._marks

    def fingerprint(self, form: Form) -> str:
        """What a trie of names in this form must have been made with."""
        return f"{form}-{hashlib.blake2b(self._json.encode(), digest_size=8).hexdigest()}"

    def names(self, names: Sequence[str], form: Form) -> list[list[int]]:
        """Tokens of names; none for a name of which the tokenizer leaves nothing."""
        texts = [f" {without_brackets(name)}" for name in names] if form == "markup" else list(names)
        found = [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        reserved = self._reserved(markup=form == "markup")
        return [ids if reserved.isdisjoint(ids) else [self._other if i in reserved else i for i in ids] for ids in found]

    def sequences(self, names: Iterable[tuple[int, str]], form: Form) -> tuple[Sequences, NDArray[np.int64]]:
        """Tokens of names, end to end, and their rows, for a trie.

        Args:
            names: rows and names.
            form: how they are written.

        Warns:
            W530 if there are names of no token, or of more than `MAX_NAME`, which are left out.
        """
        rows, tokens, lengths, lost = [], [], [], []
        iterator = iter(names)
        while batch := list(islice(iterator, _CHUNK)):
            found = self.names([name for _, name in batch], form)
            lost += [name for (_, name), ids in zip(batch, found, strict=True) if not 0 < len(ids) <= MAX_NAME]
            kept = [(row, ids) for (row, _), ids in zip(batch, found, strict=True) if 0 < len(ids) <= MAX_NAME]
            rows.append(np.array([row for row, _ in kept], dtype=np.int64))
            lengths.append(np.array([len(ids) for _, ids in kept], dtype=np.int64))
            tokens.append(np.fromiter((token for _, ids in kept for token in ids), dtype=np.uint32))
        if lost:
            warn("W530", n=len(lost), longest=MAX_NAME, example=lost[0][:80])
        return Sequences(_concatenate(tokens, np.uint32), _concatenate(lengths, np.int64)), _concatenate(rows, np.int64)

    def read(self, text: str, *, markup: bool) -> Pieces:
        """A text's tokens, as after a space; for markup, its brackets are parentheses."""
        encoding = self._tokenizer.encode(f" {without_brackets(text) if markup else text}", add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64)
        edges = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) - 1
        starts, ends = edges[:, 0].clip(0), edges[:, 1].clip(0)
        for i, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            starts[i] = start + len(text[start:end]) - len(text[start:end].lstrip())
            ends[i] = max(start + len(text[start:end].rstrip()), starts[i])
        ids[np.isin(ids, list(self._reserved(markup=markup)))] = self._other
        return Pieces(ids, starts, ends)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of an output."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def source(self, ids: Sequence[int]) -> list[int]:
        """What the encoder reads: tokens with the special ones around them."""
        return [*self._before, *ids, *self._after]

    def passages(self, doc: Doc, size: int) -> list[Passage]:
        """Cut a document into passages for markup, at sentences if possible, else at words; each token is in one.

        Args:
            doc: any document.
            size: most tokens of a passage.
        """
        if not doc.text.strip():
            return []
        pieces = self.read(doc.text, markup=True)
        begins, stops = _words(doc, pieces)
        sentences = _sentence_starts(doc)
        places = np.arange(1, len(pieces.ids) + 1)
        edges = np.maximum.accumulate(np.where(pieces.starts < pieces.ends, places, 0))  # behind what is no white space
        words = [int(edges[i - 1]) if i else 0 for i in begins]
        firsts = [edge for edge, word in zip(words, begins.values(), strict=True) if word in sentences]
        found, start = [], 0
        while start < len(pieces.ids):
            end = _cut(start, len(pieces.ids), size, firsts, words)
            within = range(start, end)
            found.append(
                Passage(
                    int(pieces.starts[start]),
                    int(pieces.ends[end - 1]),
                    pieces.ids[start:end].tolist(),
                    {i - start: begins[i] for i in within if i in begins},
                    {i + 1 - start: stops[i + 1] for i in within if i + 1 in stops},
                )
            )
            start = end
        return found

    def context(
        self, text: str, pieces: Pieces, start: int, end: int, size: int, marks: tuple[str, str]
    ) -> tuple[list[int], int]:
        """The source for a mention: its text with as much around it as there is room for.

        Args:
            text: of the document.
            pieces: its tokens.
            start: the mention's first character.
            end: its end.
            size: most tokens of the source, special ones included.
            marks: what stands before and behind the mention.

        Returns:
            Tokens with the special ones around them, and how many characters of the mention there was no room for.
        """
        first, last = int(np.searchsorted(pieces.ends, start, side="right")), int(np.searchsorted(pieces.starts, end))
        room = size - self.n_special - sum(len(self._encode(f" {mark}")) for mark in marks)
        mention = end
        while True:
            around = max(room - (last - first), 0)
            n_left = min(first, max(around // 2, around - (len(pieces.ids) - last)))
            n_right = min(len(pieces.ids) - last, around - n_left)
            left = text[pieces.starts[first - n_left] : start] if n_left else ""
            right = text[end : pieces.ends[last + n_right - 1]] if n_right else ""
            parts = [left.strip(), marks[0], text[start:mention].strip(), marks[1], right.strip()]
            ids = self.source(self._encode(" ".join(part for part in parts if part)))
            over = len(ids) - size
            if over <= 0 or (not around and mention <= start + 1):
                return ids, end - mention
            if not around:  # the mention alone is too long
                mention -= max(1, (mention - start) * over // len(ids))
            room -= over

    def _reserved(self, *, markup: bool) -> frozenset[int]:
        """Tokens that texts must not have: a parenthesis stands for those that a tokenizer makes of other characters."""
        return self._special.union(self.marks()) if markup else self._special

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _words(doc: Doc, pieces: Pieces) -> tuple[dict[int, int], dict[int, int]]:
    """Tokens with which words begin, and ends of tokens with which they end; of several tokens of one character, the outer."""
    words = [token for token in doc if not token.is_space]
    first, last = {word.idx: word.i for word in words}, {word.idx + len(word): word.i + 1 for word in words}
    begins, stops = {}, {}
    before = 0
    edges = list(zip(pieces.starts.tolist(), pieces.ends.tolist(), strict=True))
    for i, (start, end) in enumerate(edges):
        if start < end:
            if start in first and start >= before:
                begins[i] = first[start]
            if end in last and (i + 1 == len(edges) or edges[i + 1][0] >= end):
                stops[i + 1] = last[end]
            before = end
    return begins, stops


def _sentence_starts(doc: Doc) -> set[int]:
    """First words of sentences; where nobody has found these, words behind full stops and the like."""
    if doc.has_annotation("SENT_START"):
        return {sent.start for sent in doc.sents}
    return {token.i + 1 for token in doc if token.text in _SENTENCE_ENDS}


def _cut(start: int, n: int, size: int, sentences: Sequence[int], words: Sequence[int]) -> int:
    """Where a passage from `start` ends."""
    if n - start <= size:
        return n
    for edges, least in ((sentences, start + size // 2), (words, start + 1)):
        at = int(np.searchsorted(edges, start + size, side="right")) - 1
        if at >= 0 and edges[at] >= least:
            return int(edges[at])
    return start + size


def _concatenate(parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts])
