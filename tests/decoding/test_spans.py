"""Decoders: against brute force on small inputs, by property on all, by hand where the rule is a choice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.decoding import spans as decoding
from entitykit.decoding.spans import DECODERS, exact_flat, exact_nested, greedy, greedy_nested, overlapping, top_k
from entitykit.errors import EntityKitWarning, InputError

Conflict = Callable[[tuple[int, int], tuple[int, int]], bool]


class Candidates(NamedTuple):
    starts: np.ndarray
    ends: np.ndarray
    weights: np.ndarray

    def spans(self, indices: np.ndarray) -> list[tuple[int, int]]:
        return [(int(self.starts[i]), int(self.ends[i])) for i in indices]

    def total(self, indices: np.ndarray) -> float:
        return float(self.weights[indices].sum())


def candidates(*rows: tuple[int, int, float]) -> Candidates:
    starts, ends, weights = zip(*rows, strict=True) if rows else ((), (), ())
    return Candidates(np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64), np.array(weights, dtype=np.float64))


def candidate_lists(max_size: int, n_words: int) -> st.SearchStrategy[Candidates]:
    """Few words and few weights, so that duplicates and ties are common; eighths, so that sums are exact."""
    span = st.tuples(st.integers(0, n_words - 1), st.integers(1, n_words), st.integers(-2, 8))
    return st.lists(span, max_size=max_size).map(lambda rows: candidates(*((s, s + width, w / 8) for s, width, w in rows)))


def overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]


def cross(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[0] < a[1] < b[1] or b[0] < a[0] < b[1] < a[1]


def best_total(sample: Candidates, conflict: Conflict) -> float:
    """Try all sets of distinct spans."""
    rows = {(int(s), int(e)): 0.0 for s, e in zip(sample.starts, sample.ends, strict=True)}
    for s, e, w in zip(sample.starts, sample.ends, sample.weights, strict=True):
        rows[int(s), int(e)] = max(rows[int(s), int(e)], float(w))
    best = 0.0
    for size in range(1, len(rows) + 1):
        for chosen in itertools.combinations(rows, size):
            if not any(conflict(a, b) for a, b in itertools.combinations(chosen, 2)):
                best = max(best, sum(rows[span] for span in chosen))
    return best


@given(candidate_lists(max_size=9, n_words=8))
def test_exact_flat_equals_brute_force(sample: Candidates) -> None:
    assert sample.total(exact_flat(*sample)) == best_total(sample, overlap)


@given(candidate_lists(max_size=9, n_words=8))
def test_exact_nested_equals_brute_force(sample: Candidates) -> None:
    assert sample.total(exact_nested(*sample)) == best_total(sample, cross)


@given(candidate_lists(max_size=80, n_words=10))
def test_exact_nested_equals_the_cubic_recursion(sample: Candidates) -> None:
    """best[i][j] = weight(i, j) + max over i < k < j of best[i][k] + best[k][j]."""
    n = int(sample.ends.max(initial=0)) + 1
    best = np.zeros((n, n))
    for start, end, weight in zip(*sample, strict=True):
        best[start, end] = max(best[start, end], weight)
    for width in range(2, n):
        for start in range(n - width):
            end = start + width
            best[start, end] += max(best[start, k] + best[k, end] for k in range(start + 1, end))
    assert sample.total(exact_nested(*sample)) == best[0, n - 1]


@given(candidate_lists(max_size=60, n_words=20))
def test_exact_is_never_below_greedy(sample: Candidates) -> None:
    flat, nested = sample.total(exact_flat(*sample)), sample.total(exact_nested(*sample))
    assert flat >= sample.total(greedy(*sample))
    assert nested >= sample.total(greedy_nested(*sample))
    assert nested >= flat


@pytest.mark.parametrize(
    ("name", "conflict"), [("greedy", overlap), ("exact_flat", overlap), ("greedy_nested", cross), ("exact_nested", cross)]
)
@given(candidate_lists(max_size=60, n_words=20))
def test_kept_spans_never_conflict(name: str, conflict: Conflict, sample: Candidates) -> None:
    kept = sample.spans(DECODERS[name](*sample))
    assert len(set(kept)) == len(kept)
    assert not any(conflict(a, b) for a, b in itertools.combinations(kept, 2))


@pytest.mark.parametrize("name", ["greedy", "greedy_nested"])
@given(candidate_lists(max_size=40, n_words=15))
def test_greedy_equals_its_definition(name: str, sample: Candidates) -> None:
    conflict = overlap if name == "greedy" else cross
    rows = sorted(zip(-sample.weights, sample.starts - sample.ends, sample.starts, sample.ends, strict=True))
    expected: list[tuple[int, int]] = []
    for weight, _, start, end in rows:
        span = int(start), int(end)
        if weight < 0 and span not in expected and not any(conflict(span, other) for other in expected):
            expected.append(span)
    assert sample.spans(DECODERS[name](*sample)) == sorted(expected, key=lambda span: (span[0], -span[1]))


@pytest.mark.parametrize("name", DECODERS)
@given(candidate_lists(max_size=40, n_words=15), st.randoms(use_true_random=False))
def test_permuting_the_input_keeps_the_same_spans(name: str, sample: Candidates, random: Random) -> None:
    order = list(range(len(sample.starts)))
    random.shuffle(order)
    permuted = Candidates(*(array[order] for array in sample))
    kept, kept_permuted = DECODERS[name](*sample), DECODERS[name](*permuted)
    assert sample.spans(kept) == permuted.spans(kept_permuted)
    np.testing.assert_array_equal(sample.weights[kept], permuted.weights[kept_permuted])


@pytest.mark.parametrize("name", DECODERS)
@given(candidate_lists(max_size=40, n_words=15), st.integers(0, 10**9))
def test_output_is_sorted_positive_and_independent_of_the_offset(name: str, sample: Candidates, offset: int) -> None:
    kept = DECODERS[name](*sample)
    assert kept.dtype == np.int64
    assert (sample.weights[kept] > 0).all()
    assert sample.spans(kept) == sorted(sample.spans(kept), key=lambda span: (span[0], -span[1]))
    np.testing.assert_array_equal(DECODERS[name](sample.starts + offset, sample.ends + offset, sample.weights), kept)


@given(candidate_lists(max_size=40, n_words=15))
def test_overlapping_keeps_every_positive_candidate(sample: Candidates) -> None:
    assert sorted(overlapping(*sample)) == np.flatnonzero(sample.weights > 0).tolist()


@pytest.mark.parametrize("name", DECODERS)
def test_no_candidates(name: str) -> None:
    for none in (candidates(), candidates((0, 2, 0.0), (1, 3, -1.0), (2, 3, -np.inf))):
        kept = DECODERS[name](*none)
        assert kept.shape == (0,)
        assert kept.dtype == np.int64


@pytest.mark.parametrize("name", DECODERS)
def test_one_span_with_two_labels(name: str) -> None:
    twice = candidates((1, 3, 0.5), (1, 3, 0.75), (5, 6, 0.25))
    assert DECODERS[name](*twice).tolist() == ([1, 0, 2] if name == "overlapping" else [1, 2])


def test_exact_flat_prefers_two_light_spans_to_a_heavy_one() -> None:
    sample = candidates((0, 3, 0.6), (2, 6, 1.0), (5, 8, 0.6))
    assert greedy(*sample).tolist() == [1]
    assert exact_flat(*sample).tolist() == [0, 2]


def test_nested_spans_may_share_ends_and_touch() -> None:
    sample = candidates((0, 4, 1.0), (0, 2, 1.0), (2, 4, 1.0), (3, 4, 1.0), (4, 6, 1.0))
    assert greedy_nested(*sample).tolist() == exact_nested(*sample).tolist() == [0, 1, 2, 3, 4]


def test_exact_nested_drops_a_heavy_span_that_crosses_more() -> None:
    sample = candidates((0, 5, 1.0), (3, 8, 1.5), (6, 9, 1.0), (3, 5, 0.25))
    assert greedy_nested(*sample).tolist() == [1, 3]
    assert exact_nested(*sample).tolist() == [0, 3, 2]


def test_ties_go_to_the_longer_then_the_earlier_span() -> None:
    assert greedy(*candidates((4, 6, 1.0), (0, 3, 1.0), (2, 5, 1.0))).tolist() == [1, 0]
    assert greedy(*candidates((2, 4, 1.0), (1, 3, 1.0))).tolist() == [1]
    assert greedy_nested(*candidates((1, 3, 1.0), (2, 5, 1.0))).tolist() == [1]


def test_deeply_nested_spans() -> None:
    """Neither recursion nor quadratic time: spans that all share their end, and spans that enclose each other."""
    n = 3_000
    shared_end = Candidates(np.arange(n), np.full(n, n), np.ones(n))
    assert len(exact_nested(*shared_end)) == n
    enclosing = Candidates(np.arange(n // 10), n - np.arange(n // 10), np.ones(n // 10))
    assert len(exact_nested(*enclosing)) == n // 10


def test_exact_nested_announces_what_it_will_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SLOW_STEPS", 10)
    sample = candidates(*((i, 9 - i, 1.0) for i in range(4)))
    with pytest.warns(EntityKitWarning, match="W301.* 4 spans"):
        assert len(exact_nested(*sample)) == 4


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    ("starts", "ends", "weights", "code"),
    [
        ([0, 1], [1, 2], [1.0], "E301"),
        ([[0]], [[1]], [[1.0]], "E301"),
        ([0, 3], [1, 3], [1.0, 1.0], "E302"),
        ([-1], [1], [1.0], "E302"),
        ([0], [1], [np.nan], "E303"),
        ([0], [1], [np.inf], "E303"),
    ],
)
def test_unusable_candidates(name: str, starts: list[int], ends: list[int], weights: list[float], code: str) -> None:
    with pytest.raises(InputError, match=code):
        DECODERS[name](np.array(starts), np.array(ends), np.array(weights))


@given(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])), st.integers(0, 12))
def test_top_k_equals_a_stable_sort(scores: list[float], k: int) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert top_k(np.array(scores, dtype=np.float32), k).tolist() == expected


def test_top_k_of_unusable_input() -> None:
    with pytest.raises(InputError, match="E303"):
        top_k(np.array([0.0, np.nan]), 1)
    with pytest.raises(InputError, match="E304"):
        top_k(np.array([0.0]), -1)
