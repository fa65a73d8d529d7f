"""Windows cover every word once, from where it has most context; packs hold every window once."""

from __future__ import annotations

from itertools import accumulate, pairwise
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from entitykit.bridge.windows import Window, cut_windows, pack_windows

LONGEST = 6  # pieces of a word


@st.composite
def cases(draw: st.DrawFn, *, words_in_reserve: int = 1) -> tuple[list[list[int]], int, int]:
    """Pieces of each word of each document, the window's size and its overlap, as the encoder checks them."""
    overlap = draw(st.integers(1, 20))
    size = overlap + words_in_reserve * LONGEST + draw(st.integers(0, 30))
    documents = draw(st.lists(st.lists(st.integers(0, LONGEST), max_size=80), max_size=3))
    return documents, size, overlap


def cut(documents: list[list[int]], size: int, overlap: int) -> list[Window]:
    pieces = np.array([n for document in documents for n in document], dtype=np.int64)
    return cut_windows(pieces, [len(document) for document in documents], size=size, overlap=overlap)


@given(cases())
def test_every_word_is_read_once_and_in_order(case: tuple[list[list[int]], int, int]) -> None:
    documents, size, overlap = case
    windows = cut(documents, size, overlap)
    read = [word for window in windows for word in range(window.read_start, window.read_end)]
    assert read == list(range(sum(map(len, documents))))
    assert all(w.start <= w.read_start <= w.read_end <= w.end for w in windows)
    assert all(w.start < w.end for w in windows)


@given(cases())
def test_windows_fit_and_stay_in_their_document(case: tuple[list[list[int]], int, int]) -> None:
    documents, size, overlap = case
    pieces = [n for document in documents for n in document]
    ends = list(accumulate(map(len, documents)))
    for window in cut(documents, size, overlap):
        assert sum(pieces[window.start : window.end]) <= size
        assert len({sum(end <= word for end in ends) for word in (window.start, window.end - 1)}) == 1


@given(cases(words_in_reserve=2))
def test_neighbours_share_the_overlap(case: tuple[list[list[int]], int, int]) -> None:
    """All but the last two windows share what was asked for and less than one word more; the last is as full as the others."""
    documents, size, overlap = case
    for document in documents:
        windows = cut([document], size, overlap)
        for number, (left, right) in enumerate(pairwise(windows), start=1):
            assert left.start < right.start < left.end < right.end
            shared = sum(document[right.start : left.end])
            assert shared >= overlap
            if number < len(windows) - 1:
                assert shared < overlap + LONGEST
        if len(windows) > 1:
            assert sum(document[windows[-1].start :]) > size - LONGEST


@given(cases())
def test_words_are_read_where_they_have_most_context(case: tuple[list[list[int]], int, int]) -> None:
    """No other window gives a word more on its poorer side."""
    documents, size, overlap = case
    for document in documents:
        windows = cut([document], size, overlap)
        for window in windows:
            for word in range(window.read_start, window.read_end):
                context = poorer_side(document, window, word)
                others = [poorer_side(document, w, word) for w in windows if w.start <= word < w.end]
                assert context == max(others)


@given(cases(words_in_reserve=2))
def test_words_have_half_of_the_overlap_on_each_side(case: tuple[list[list[int]], int, int]) -> None:
    documents, size, overlap = case
    for document in documents:
        for window in cut([document], size, overlap):
            for word in range(window.read_start, window.read_end):
                assert poorer_side(document, window, word) >= (overlap - document[word]) / 2


@given(cases(words_in_reserve=2), st.randoms(use_true_random=False))
def test_reading_goes_over_where_most_ends(case: tuple[list[list[int]], int, int], random: Random) -> None:
    """Near the middle of what is shared; every word is read once, and has a quarter of the overlap on each side."""
    documents, size, overlap = case
    for document in documents:
        ends = np.array([random.choice([0, 0, 0, 0, 1, 2]) for _ in document], dtype=np.int64)
        windows = cut_windows(np.array(document, dtype=np.int64), [len(document)], size=size, overlap=overlap, ends=ends)
        plain = cut([document], size, overlap)
        assert [(w.start, w.end) for w in windows] == [(w.start, w.end) for w in plain]
        assert [word for w in windows for word in range(w.read_start, w.read_end)] == list(range(len(document)))
        for window in windows:
            for word in range(window.read_start, window.read_end):
                assert poorer_side(document, window, word) >= (overlap - document[word]) / 4 - LONGEST
        for (_, right), (_, of_plain) in zip(pairwise(windows), pairwise(plain), strict=True):
            near = ends[min(right.read_start, of_plain.read_start) : max(right.read_start, of_plain.read_start)]
            if right.read_start != of_plain.read_start:
                assert ends[right.read_start - 1] > 0
                assert (near[near > 0] <= ends[right.read_start - 1]).all()


def test_the_best_end_near_the_middle() -> None:
    ends = np.zeros(40, dtype=np.int64)
    ends[[1, 9, 13, 14, 18, 39]] = [2, 2, 1, 2, 2, 2]
    words = np.ones(40, dtype=np.int64)
    assert [(w.read_start, w.read_end) for w in cut_windows(words, [40], size=24, overlap=8)] == [(0, 20), (20, 40)]
    found = cut_windows(words, [40], size=24, overlap=8, ends=ends)
    assert found == [Window(0, 24, 0, 19), Window(16, 40, 19, 40)]


def poorer_side(document: list[int], window: Window, word: int) -> float:
    """Pieces between the word and the nearer end of the window; the document's own ends do not count."""
    left = sum(document[window.start : word]) if window.start else np.inf
    right = sum(document[word + 1 : window.end]) if window.end < len(document) else np.inf
    return min(left, right)


def test_long_document_has_few_windows() -> None:
    """Each window but the last brings size - overlap new pieces."""
    windows = cut([[1] * 1000], 100, 20)
    assert len(windows) == 13
    assert windows[0] == Window(0, 100, 0, 90)
    assert windows[1] == Window(80, 180, 90, 170)
    assert windows[-1].end - windows[-1].start == 100


@given(st.lists(st.integers(2, 300), max_size=60), st.integers(1, 500))
def test_packs_hold_each_window_once_within_the_budget(lengths: list[int], budget: int) -> None:
    packs = pack_windows(np.array(lengths, dtype=np.int64), budget=budget)
    assert sorted(number for pack in packs for number in pack.tolist()) == list(range(len(lengths)))
    assert all(len(pack) for pack in packs)
    for pack in packs:
        sizes = [lengths[number] for number in pack]
        assert sum(sizes) <= budget or len(pack) == 1
        assert sizes == sorted(sizes)  # equal lengths are neighbours
    # no pack would fit in the one before it
    for left, right in pairwise(packs):
        assert sum(lengths[number] for number in left) + lengths[right[0]] > budget


def test_windows_without_pieces_are_read_too() -> None:
    assert [pack.tolist() for pack in pack_windows(np.zeros(3, dtype=np.int64), budget=4)] == [[0, 1, 2]]
    assert pack_windows(np.zeros(0, dtype=np.int64), budget=4) == []
