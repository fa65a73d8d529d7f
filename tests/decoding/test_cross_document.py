"""Agglomeration by hand, and what holds whatever the scores are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from entitykit.decoding.cross_document import MergeSettings, agglomerate
from entitykit.errors import InputError

N = 7
ALL = np.array([(i, j) for i in range(N) for j in range(i + 1, N)])


class Scorer:
    """Scores pairs by a table, and counts what it was asked."""

    def __init__(self, table: NDArray[np.float64]) -> None:
        self.table = table
        self.asked: list[tuple[int, int]] = []

    def __call__(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        self.asked += [(int(a), int(b)) for a, b in pairs]
        return self.table[pairs[:, 0], pairs[:, 1]]


@st.composite
def tables(draw: st.DrawFn) -> NDArray[np.float64]:
    """Symmetric scores, no two alike."""
    ranks = draw(st.permutations(range(len(ALL))))
    table = np.zeros((N, N))
    table[ALL[:, 0], ALL[:, 1]] = (np.array(ranks) + 0.5) / len(ALL)
    return table + table.T


def sets(clusters: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(clusters == name).tolist()) for name in np.unique(clusters)}


def table_of(**scores: float) -> NDArray[np.float64]:
    table = np.full((N, N), 0.1)
    for name, score in scores.items():
        a, b = int(name[1]), int(name[2])
        table[a, b] = table[b, a] = score
    return table


def merge(table: NDArray[np.float64], pairs: NDArray[np.int64] = ALL, **options: object) -> NDArray[np.int64]:
    return agglomerate(pairs, table[pairs[:, 0], pairs[:, 1]], Scorer(table), N, **options)  # type: ignore[arg-type]


def test_clusters_merge_only_if_they_fit_as_a_whole() -> None:
    # 0–1 and 2–3 first; 1–2 is sure, too, but the mean of 0–2, 0–3, 1–2, 1–3 is (0.1 + 0.1 + 0.8 + 0.1) / 4
    table = table_of(p01=0.95, p23=0.9, p12=0.8)
    assert merge(table).tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert merge(table, settings=MergeSettings(mean_threshold=0.275)).tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert merge(table, settings=MergeSettings(threshold=0.85, mean_threshold=0)).tolist() == [0, 0, 1, 1, 2, 3, 4]


def test_a_single_mention_joins_at_once() -> None:
    assert merge(table_of(p01=0.95, p12=0.6)).tolist() == [0, 0, 0, 1, 2, 3, 4]


def test_only_missing_pairs_are_asked_for() -> None:
    scorer = Scorer(table_of(p01=0.95, p23=0.9, p12=0.8, p02=0.7, p03=0.7, p13=0.7))
    pairs = np.array([(1, 0), (3, 2), (1, 2)])
    clusters = agglomerate(pairs, np.array([0.95, 0.9, 0.8]), scorer, N)
    assert clusters.tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert sorted(scorer.asked) == [(0, 2), (0, 3), (1, 3)]


def test_large_clusters_are_sampled() -> None:
    table = table_of(p01=0.99, p12=0.98, p34=0.97, p45=0.96, p23=0.9, p03=0.6, p05=0.6, p25=0.6)
    # all nine pairs: (0.9 + 3 · 0.6 + 5 · 0.1) / 9 = 0.36; the first and the last of each: (0.6 + 0.6 + 0.9 + 0.6) / 4
    assert merge(table).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert merge(table, settings=MergeSettings(n_sampled=2)).tolist() == [0, 0, 0, 0, 0, 0, 1]


@given(tables(), st.floats(0, 1))
def test_without_the_mean_clusters_are_connected_components(table: NDArray[np.float64], threshold: float) -> None:
    edges = ALL[table[ALL[:, 0], ALL[:, 1]] > threshold]
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(N, N))
    components = connected_components(graph, directed=False)[1]
    assert sets(merge(table, settings=MergeSettings(threshold=threshold, mean_threshold=0))) == sets(components)
    finer = sets(merge(table, settings=MergeSettings(threshold=threshold)))
    assert all(any(cluster <= component for component in sets(components)) for cluster in finer)


@given(tables(), st.permutations(range(N)))
def test_mentions_in_another_order(table: NDArray[np.float64], order: list[int]) -> None:
    there = merge(table[np.ix_(order, order)])
    back = np.empty(N, dtype=np.int64)
    back[order] = there
    assert sets(back) == sets(merge(table))


@given(tables(), st.integers(0, N))
def test_known_clusters_keep_their_numbers(table: NDArray[np.float64], n_known: int) -> None:
    before = merge(table, ALL[(n_known > ALL).all(axis=1)])[:n_known] if n_known else np.empty(0, dtype=np.int64)
    before = before + 10
    known = np.concatenate([before, np.full(N - n_known, -1)])
    clusters = merge(table, ALL[(n_known <= ALL).any(axis=1)], known=known)
    assert set(clusters[:n_known].tolist()) <= set(before.tolist())
    assert (clusters[:n_known] <= before).all()  # where two merge, the lower number stays
    assert all(len(set(clusters[:n_known][before == name].tolist())) == 1 for name in np.unique(before))
    new = sorted(set(clusters.tolist()) - set(before.tolist()))
    assert new == list(range(before.max(initial=-1) + 1, before.max(initial=-1) + 1 + len(new)))


def test_nothing_to_merge() -> None:
    nothing = np.empty((0, 2), dtype=np.int64)
    assert agglomerate(nothing, np.empty(0), Scorer(np.zeros((0, 0))), 0).tolist() == []
    assert agglomerate(nothing, np.empty(0), Scorer(np.zeros((0, 0))), 3).tolist() == [0, 1, 2]


def test_wrong_arrays() -> None:
    with pytest.raises(InputError, match=r"\[E351\] .*expected \(n_pairs, 2\), \(n_pairs,\) and \(7,\)"):
        agglomerate(ALL, np.zeros(3), Scorer(np.zeros((N, N))), N)
    with pytest.raises(InputError, match="E351"):
        merge(np.zeros((N, N)), known=np.zeros(3, dtype=np.int64))
    with pytest.raises(InputError, match=r"\[E354\] 21 scores"):
        merge(np.full((N, N), np.nan))
