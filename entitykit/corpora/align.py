"""Map character offsets to tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from spacy.tokens import Doc


class TokenSpan(NamedTuple):
    """The tokens of a character span.

    Attributes:
        start: first token.
        end: one past the last token.
        change: what had to change: nothing; `trimmed`, white space at an end or what lies outside the text was cut off;
            `expanded`, an end inside a token was moved to the token's end.
    """

    start: int
    end: int
    change: Literal["", "trimmed", "expanded"]


def align(doc: Doc, offsets: Iterable[tuple[int, int]]) -> Iterator[TokenSpan | None]:
    """Find the tokens that character spans touch, so that a span inside a token is expanded and none is lost for a wrong end.

    Args:
        doc: the tokenized text.
        offsets: start and end (exclusive) in characters of `doc.text`.

    Yields:
        one value per span: its tokens, or None if it holds no visible character (empty, white space only, outside the text).
    """
    text = doc.text
    starts = [token.idx for token in doc]
    ends = [token.idx + len(token) for token in doc]
    for start, end in offsets:
        inside = text[max(start, 0) : max(end, 0)]
        visible = inside.strip()
        if not visible:
            yield None
            continue
        first_char = max(start, 0) + len(inside) - len(inside.lstrip())
        last_char = first_char + len(visible)
        first = bisect_right(ends, first_char)
        last = bisect_left(starts, last_char)
        found = (starts[first], ends[last - 1])
        if found == (start, end):
            yield TokenSpan(first, last, "")
        else:
            yield TokenSpan(first, last, "trimmed" if found == (first_char, last_char) else "expanded")
