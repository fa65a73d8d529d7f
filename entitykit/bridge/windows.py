"""Cutting documents into windows that a transformer can read, and windows into batches of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Window(NamedTuple):
    """A run of words that the encoder sees at once, and the words that are read from it.

    Word numbers count from the batch's first document; all ends are exclusive.

    Attributes:
        start: first word seen.
        end: end of the words seen.
        read_start: first word read.
        read_end: end of the words read.
    """

    start: int
    end: int
    read_start: int
    read_end: int


def cut_windows(
    n_pieces: NDArray[np.int64], n_words: Sequence[int], *, size: int, overlap: int, ends: NDArray[np.int64] | None = None
) -> list[Window]:
    """Cut every document into windows so that each word is read exactly once, from the window where it has most context.

    With `ends`, reading goes over to the next window at the best end of something within the middle half of what both share:
    a mention that is read half from the one and half from the other could not be found from the states that are read.

    Args:
        n_pieces: *(words of all documents,)* pieces per word, none above `size`.
        n_words: words of each document.
        size: most pieces in a window, special pieces not counted.
        overlap: pieces that neighbouring windows share, at least; fewer if twice the longest word and it exceed `size`.
        ends: *(words of all documents,)* how much ends with each word, 0 for nothing.

    Returns:
        Windows in the order of the text; documents without words have none.
    """
    windows: list[Window] = []
    first = 0
    for n in n_words:
        if n:
            own = slice(first, first + n)
            windows.extend(_cut(n_pieces[own], first, size, overlap, None if ends is None else ends[own]))
        first += n
    return windows


def _cut(n_pieces: NDArray[np.int64], first: int, size: int, overlap: int, closing: NDArray[np.int64] | None) -> list[Window]:
    """Windows of one document whose first word has the number `first`."""
    ends = np.cumsum(n_pieces)  # pieces up to and including each word
    begins, middles = ends - n_pieces, ends - n_pieces / 2
    n = len(n_pieces)
    if ends[-1] <= size:
        return [Window(first, first + n, first, first + n)]
    seen: list[tuple[int, int]] = []
    start = 0
    while True:
        end = int(np.searchsorted(ends, begins[start] + size, side="right"))
        if end >= n:  # the last window reaches back, so that it is as full as the others
            start = min(start, int(np.searchsorted(begins, ends[-1] - size, side="left")))
            seen.append((start, n))
            break
        seen.append((start, end))
        # the next window starts `overlap` pieces before this one's end or within the word there, but always further on
        start = max(start + 1, int(np.searchsorted(begins, ends[end - 1] - overlap, side="right")) - 1)
    borders = [0]
    for (_, left_end), (right_start, _) in pairwise(seen):
        # the middle of the shared pieces: words whose own middle is left of it have more context in the left window
        low, high = begins[right_start], ends[left_end - 1]
        middle = int(np.searchsorted(middles, (low + high) / 2, side="left"))
        if closing is not None:
            inside = np.searchsorted(ends, [low + (high - low) / 4, high - (high - low) / 4], side="left")
            middle = _best_end(closing, middle, int(inside[0]), int(inside[1]))
        borders.append(min(max(middle, right_start, borders[-1]), left_end))
    borders.append(n)
    return [
        Window(first + start, first + end, first + read_start, first + read_end)
        for (start, end), read_start, read_end in zip(seen, borders[:-1], borders[1:], strict=True)
    ]


def _best_end(closing: NDArray[np.int64], middle: int, low: int, high: int) -> int:
    """The border after one of the words `low` to `high` with which most ends, the one nearest to the middle."""
    words = np.arange(low, high)
    words = words[closing[words] > 0]
    if not len(words):
        return middle
    best = words[closing[words] == closing[words].max()] + 1
    return int(best[np.abs(best - middle).argmin()])


def pack_windows(lengths: NDArray[np.int64], *, budget: int) -> list[NDArray[np.int64]]:
    """Group windows into packs of at most `budget` pieces, sorted by length so that equal lengths are neighbours.

    Args:
        lengths: *(n_windows,)* pieces per window, special pieces included.
        budget: most pieces in a pack; a longer window gets a pack of its own.

    Returns:
        Window numbers of each pack; together each number once.
    """
    order = np.argsort(lengths, kind="stable")
    packs: list[NDArray[np.int64]] = []
    start, total = 0, 0
    for i, length in enumerate(lengths[order].tolist()):
        if total and total + length > budget:
            packs.append(order[start:i])
            start, total = i, 0
        total += length
    if start < len(order):
        packs.append(order[start:])
    return packs
