"""Groups of unknown mentions, against average linkage that is done step by step."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.decoding.nil_clusters import cluster_unknown

NAMES = ["mary jones", "jones", "peter jones", "jones inc", "acme", "acme inc", ""]


def same(a: str, b: str) -> bool:
    one, two = set(a.split()), set(b.split())
    return a == b or (bool(one) and one <= two) or (bool(two) and two <= one)


def plain(names: list[str], vectors: Any, similarity: float) -> list[int]:
    """Join the nearest two groups that may be the same, as long as they are near enough."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = [[i] for i in range(len(names))]
    while True:
        best = (similarity, -1, -1)
        for a, b in combinations(range(len(groups)), 2):
            if all(same(names[i], names[j]) for i in groups[a] for j in groups[b]):
                mean = float(np.mean([units[i] @ units[j] for i in groups[a] for j in groups[b]]))
                best = max(best, (mean, a, b))
        if best[1] < 0:
            break
        groups[best[1]] += groups.pop(best[2])
    groups.sort(key=min)
    return [next(n for n, group in enumerate(groups) if i in group) for i in range(len(names))]


@settings(max_examples=80, deadline=None)
@given(
    names=st.lists(st.sampled_from(NAMES), max_size=9), seed=st.integers(0, 10**6), similarity=st.sampled_from([-1.0, 0.0, 0.3])
)
def test_equals_average_linkage(names: list[str], seed: int, similarity: float) -> None:
    vectors = np.random.default_rng(seed).normal(0.5, 1, size=(len(names), 3))
    assert cluster_unknown(names, vectors, similarity=similarity).tolist() == plain(names, vectors, similarity)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=8), seed=st.integers(0, 10**6), data=st.data())
def test_the_order_of_mentions_only_numbers_groups(names: list[str], seed: int, data: st.DataObject) -> None:
    vectors = np.random.default_rng(seed).normal(0.5, 1, size=(len(names), 3))
    order = data.draw(st.permutations(range(len(names))))
    first = cluster_unknown(names, vectors, similarity=0.2)
    second = cluster_unknown([names[i] for i in order], vectors[order], similarity=0.2)
    pairs = {(int(first[i]), int(second[place])) for place, i in enumerate(order)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert list(dict.fromkeys(second.tolist())) == sorted(set(second.tolist()))


def test_a_short_name_joins_one_of_two_long_ones() -> None:
    """The nearer one; and the two long ones never meet, however near all three are."""
    near = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3]])
    assert cluster_unknown(["mary jones", "jones", "peter jones"], near, similarity=-1.0).tolist() == [0, 0, 1]


def test_namesakes_need_a_context_that_is_alike() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]])
    assert cluster_unknown(["jones"] * 3, vectors, similarity=0.5).tolist() == [0, 1, 0]
    assert cluster_unknown(["jones"] * 3, vectors, similarity=-1.0).tolist() == [0, 0, 0]
    assert cluster_unknown(["jones", "smith"], np.ones((2, 2)), similarity=-1.0).tolist() == [0, 1]


def test_nothing_and_zeros() -> None:
    assert cluster_unknown([], np.zeros((0, 3)), similarity=0.5).tolist() == []
    assert cluster_unknown(["a", "a"], np.zeros((2, 3)), similarity=0.5).tolist() == [0, 1]
