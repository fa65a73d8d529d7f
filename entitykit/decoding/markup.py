"""Text with markup, ``{ mention } [ name ]``, read back to links whatever a model has made of it.

The source's own brackets stand as parentheses in the markup, one character for one, so offsets do not change.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_CELLS = 25_000_000
_BRACKETS = str.maketrans("{}[]", "()()")
_MARKED = re.compile(r"\{([^{}\[\]]*)\}\s*\[([^{}\[\]]*)\]")
_MARK = re.compile(r"[{}\[\]]")
_WORD = re.compile(r"\w+|[^\w\s]")


class TextLink(NamedTuple):
    """A mention and the name of its entity.

    Attributes:
        start: the mention's first character in the source.
        end: its end, exclusive.
        name: as the markup has it.
    """

    start: int
    end: int
    name: str


class Recovered(NamedTuple):
    """What markup says of its source.

    Attributes:
        links: in order, without overlaps.
        n_lost: marked mentions that the source does not have there, or that are empty.
    """

    links: list[TextLink]
    n_lost: int


def without_brackets(text: str) -> str:
    """The text with parentheses in the place of square and curly brackets, as long as before."""
    return text.translate(_BRACKETS)


def recover(source: str, markup: str) -> Recovered:
    """Read which spans of the source are marked; never raises.

    White space may differ. From where the markup's text is not the source's, a mention is found if its words are aligned with
    neighbouring equal words of the source (by a longest common subsequence).

    Args:
        source: the text that was to be marked.
        markup: what a model wrote; it may break off, and need not be well-formed.
    """
    source = without_brackets(source)
    plain, marked = _parse(markup)
    ours, theirs = _visible(source), _visible(plain)
    same = 0
    while same < min(len(ours), len(theirs)) and source[ours[same]] == plain[theirs[same]]:
        same += 1
    words = _Words(source, plain) if same < len(theirs) else None
    links: list[TextLink] = []
    for start, end, name in marked:
        first, last = bisect_left(theirs, start), bisect_left(theirs, end) - 1
        found = None
        if first <= last < same:
            found = ours[first], ours[last] + 1
        elif words is not None:
            found = words.find(start, end)
        if found is not None and name and (not links or found[0] >= links[-1].end):
            links.append(TextLink(*found, name))
    return Recovered(links, len(marked) - len(links))


def _parse(markup: str) -> tuple[str, list[TextLink]]:
    """The markup's text without markup, and its mentions there; marks that belong to none are left out."""
    parts: list[str] = []
    marked = []
    position = length = 0
    for match in [*_MARKED.finditer(markup), None]:
        outside = _MARK.sub("", markup[position : match.start() if match else len(markup)])
        mention = match[1] if match else ""
        parts += [outside, mention]
        if match:
            start = length + len(outside)
            marked.append(TextLink(start, start + len(mention), match[2].strip()))
            position = match.end()
        length += len(outside) + len(mention)
    return "".join(parts), marked


def _visible(text: str) -> list[int]:
    """Where the characters are that are no white space."""
    return [i for i, character in enumerate(text) if not character.isspace()]


class _Words:
    """The words of the markup's text, and which words of the source they are."""

    def __init__(self, source: str, plain: str) -> None:
        self.ours = [match.span() for match in _WORD.finditer(source)]
        self.theirs = [match.span() for match in _WORD.finditer(plain)]
        self.aligned = _align([source[start:end] for start, end in self.ours], [plain[start:end] for start, end in self.theirs])

    def find(self, start: int, end: int) -> tuple[int, int] | None:
        """The span of the source whose words are those of a span of the markup's text."""
        first = bisect_left(self.theirs, (start, start))
        found = [self.aligned.get(i, -1) for i in range(first, bisect_left(self.theirs, (end, end)))]
        if not found or found[0] < 0 or found != list(range(found[0], found[0] + len(found))):
            return None
        return self.ours[found[0]][0], self.ours[found[-1]][1]


def _align(ours: Sequence[str], theirs: Sequence[str]) -> dict[int, int]:
    """A longest common subsequence: which of their words is which of ours; none at all from `_CELLS` comparisons on."""
    if len(ours) * len(theirs) > _CELLS:
        return {}
    numbers = {word: i for i, word in enumerate(dict.fromkeys([*ours, *theirs]))}
    columns = np.array([numbers[word] for word in ours], dtype=np.int64)
    best = np.zeros((len(theirs) + 1, len(ours) + 1), dtype=np.int32)  # of the first words of both
    for i, word in enumerate(theirs):
        longer = np.maximum(best[i, 1:], best[i, :-1] + (columns == numbers[word]))
        best[i + 1, 1:] = np.maximum.accumulate(longer)
    aligned = {}
    i, j = len(theirs), len(ours)
    while i and j:
        if theirs[i - 1] == ours[j - 1]:
            i, j = i - 1, j - 1
            aligned[i] = j
        elif best[i - 1, j] >= best[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return aligned
