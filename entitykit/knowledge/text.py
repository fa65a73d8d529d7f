"""Names under which entities are looked up: one key for all the ways to write a name, and a key's character trigrams."""

from __future__ import annotations

from functools import lru_cache
from unicodedata import category, normalize

_QUOTES = "\"'`\N{ACUTE ACCENT}\N{MODIFIER LETTER APOSTROPHE}"
_BEFORE = _QUOTES + "\N{INVERTED QUESTION MARK}\N{INVERTED EXCLAMATION MARK}"
_BEHIND = _QUOTES + ".,;:!?\N{IDEOGRAPHIC FULL STOP}\N{IDEOGRAPHIC COMMA}"
_PAIRED = ("Ps", "Pe", "Pi", "Pf")  # brackets and typographic quotes

N = 3
"""Characters of a gram."""


def normalise(text: str) -> str:
    """Give the key under which a name is found.

    Unicode's compatibility form (NFKC) with case folded; white space and control characters are one space between words,
    invisible characters are left out; so are, around the whole, brackets, quotes and the marks that end a sentence, unless
    there is nothing else: "U.S." is found as "u.s", "!!!" as itself. Words keep their marks: C++, C# and .NET stay apart. A key
    is its own key.
    """
    if text.isascii() and text.isprintable() and text[:1].isalnum() and text[-1].isalnum() and "  " not in text:
        return text.lower()  # nearly all names, at a third of the time
    key = fold(text)
    return strip_marks(key) or key


def fold(text: str) -> str:
    """Do what `normalise` does, but for the marks around the name."""
    if text.isascii() and text.isprintable():
        return " ".join(text.lower().split())
    while True:  # one step may bring forth what another changes; each makes the text simpler
        folded = "".join(filter(None, map(_visible, normalize("NFKC", text).casefold())))
        folded = " ".join(normalize("NFKC", folded).split())
        if folded == text:
            return text
        text = folded


def strip_marks(key: str) -> str:
    """Take brackets, quotes and sentence marks off both ends; nothing may be left."""
    start, end = 0, len(key)
    while start < end and _is_mark(key[start], _BEFORE):
        start += 1
    while start < end and _is_mark(key[end - 1], _BEHIND):
        end -= 1
    return key[start:end]


def grams(key: str) -> frozenset[str]:
    """The trigrams of a key with a space before and behind it, so that the first and the last character weigh as much."""
    padded = f" {key} "
    return frozenset(padded[i : i + N] for i in range(len(padded) - N + 1))


def dice(first: frozenset[str], second: frozenset[str]) -> float:
    """Similarity of two sets, from 0 to 1 (Dice 1945): twice what they share over what they hold together."""
    return 2 * len(first & second) / (len(first) + len(second)) if first or second else 0.0


@lru_cache(maxsize=4096)
def _visible(char: str) -> str:
    kind = category(char)
    if kind == "Cc":
        return " "
    invisible = kind in ("Cf", "Cs") or "\ufe00" <= char <= "\ufe0f"  # formats, half characters, variation selectors
    return "" if invisible else char


@lru_cache(maxsize=4096)
def _is_mark(char: str, marks: str) -> bool:
    return char in marks or char == " " or category(char) in _PAIRED
