"""Building an index: which kind, from which input, how good; and the exact neighbours and cells that it is built with."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from entitykit.errors import EntityKitWarning, OutputError
from entitykit.knowledge import index_blocks, index_build, neighbours
from entitykit.knowledge.index_build import default_cells, recall_of
from entitykit.knowledge.index_cells import Cells
from entitykit.knowledge.neighbours import Nearest
from tests.knowledge.indexes import INT8, KINDS, WIDTH, brute_force, build, vectors_of


@given(
    sizes=st.lists(st.integers(0, 300), max_size=5),
    n=st.integers(0, 5),
    k=st.integers(1, 70),
    hidden=st.floats(0, 1),
    small=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_exact_neighbours_by_blocks(sizes: list[int], n: int, k: int, hidden: float, small: bool) -> None:
    rng = np.random.default_rng(len(sizes))
    with pytest.MonkeyPatch.context() as patch:
        if small:
            patch.setattr(neighbours, "_SCORES", 1)
            patch.setattr(neighbours, "_FIRST", 16)
        queries = rng.standard_normal((n, WIDTH), dtype=np.float32)
        vectors = rng.standard_normal((sum(sizes), WIDTH), dtype=np.float32)
        rows = rng.permutation(10 * len(vectors))[: len(vectors)]
        hide = rng.random(len(vectors)) < hidden
        nearest, start = Nearest(queries, k), 0
        for size in sizes:
            part = slice(start, start + size)
            nearest.see(vectors[part], rows[part], hide[part])
            start += size
        scores, found = nearest.ranked()
    expected_scores, expected = brute_force(queries, vectors[~hide], rows[~hide], k)
    n_found = expected.shape[1]
    assert np.allclose(scores[:, :n_found], expected_scores, atol=1e-4)
    assert found[:, :n_found].tolist() == expected.tolist()
    assert (found[:, n_found:] == -1).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_recall_is_what_the_report_says(kind: dict[str, Any]) -> None:
    vectors, queries = vectors_of(4000), vectors_of(200, seed=7)
    made = build(vectors, queries=queries, recall=0.9, **kind)
    exact = brute_force(queries, vectors, np.arange(4000), 64)[1]
    found = made.search(queries, 64)[1]
    assert np.mean([len({*a} & {*b}) / 64 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]) == pytest.approx(
        made.report.recall64, abs=1e-9
    )
    more = recall_of(made.search(queries, 256)[1], exact)
    assert (more if kind.get("codes") == "pq" else made.report.recall64) >= 0.9
    assert made.report.recall64 == 1.0 or kind["kind"] != "flat"
    assert (made.report.n, made.report.n_queries, made.kind) == (4000, 200, kind["kind"])
    assert made.report.recall64_in_256 == pytest.approx(more, abs=0.02)


def test_more_recall_takes_more_effort() -> None:
    vectors = vectors_of(3000)
    little, much = (build(vectors, kind="ivf", n_cells=64, recall=recall).report for recall in (0.3, 0.98))
    assert little.effort < much.effort
    assert 0.3 <= little.recall64 < 0.9 < 0.98 <= much.recall64


def test_kind_is_chosen_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_build, "FLAT", 100)
    assert [build(vectors_of(n)).kind for n in (0, 1, 100, 101)] == ["flat", "flat", "flat", "ivf"]
    assert [default_cells(n) for n in (1, 100_000, 1_000_000, 5_900_000)] == [8, 2048, 8192, 16384]


class Blocks:
    """Blocks that are computed anew each time; counts how many of them exist at once."""

    def __init__(self, vectors: NDArray[np.float32], size: int) -> None:
        self.vectors, self.size = vectors, size
        self.made: list[weakref.ref[Any]] = []
        self.most = self.passes = 0

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        self.passes += 1
        for start in range(0, len(self.vectors), self.size):
            block = self.vectors[start : start + self.size].copy()
            self.made.append(weakref.ref(block))
            self.most = max(self.most, sum(each() is not None for each in self.made))
            yield block


@pytest.mark.parametrize("kind", [{"kind": "flat"}, INT8], ids=str)
def test_blocks_are_as_good_as_an_array(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(index_blocks, "BLOCK", 64)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    vectors, rows, queries = vectors_of(1000), np.arange(1000)[::-1] * 3, vectors_of(20, seed=3)
    mapped = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="w+", shape=vectors.shape)
    mapped[:] = vectors
    blocks = Blocks(vectors, 100)
    forms: list[Callable[[], Any]] = [
        lambda: vectors,
        lambda: mapped,
        lambda: vectors.astype(np.float64),
        lambda: [vectors[:1], vectors[1:1], vectors[1:900], vectors[900:]],
        lambda: iter(Blocks(vectors, 130)),
        lambda: blocks,
    ]
    found = [build(form(), rows, **kind).search(queries, 10) for form in forms]
    for scores, theirs in found[1:]:
        assert theirs.tolist() == found[0][1].tolist()
        assert scores.tolist() == found[0][0].tolist()
    assert (blocks.passes, blocks.most <= 2) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["vectors"]


def test_cells() -> None:
    vectors, queries = vectors_of(3000), vectors_of(50, seed=1)
    cells = Cells.train(vectors, 40, seed=0)
    assert abs(len(cells) - 40) <= 6
    assert np.allclose(np.linalg.norm(cells.centres, axis=1), 1, atol=1e-5)
    assert (cells.assign(vectors) == (vectors @ cells.centres.T).argmax(axis=1)).mean() > 0.99
    assert len(Cells(vectors[:10], [3, 7])) == 10
    for margin in (0.0, 0.2, 2.0):
        found, scores = cells.probe(queries, margin)
        cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ cells.centres.T
        for cell, score, cosine, query in zip(found, scores, cosines, queries, strict=True):
            expected = np.flatnonzero(cosine >= cosine.max() - margin) if margin < 2 else np.arange(len(cells))
            assert sorted(cell[cell >= 0].tolist()) == expected.tolist()
            assert np.allclose(score[cell >= 0], query @ cells.centres[cell[cell >= 0]].T, atol=1e-4)
            assert cell[0] == cosine.argmax()


def test_no_room_for_an_iterators_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="E558.*missing"):
        build(iter([vectors_of(4)]), range(4))


def test_too_little_recall_warns() -> None:
    with pytest.warns(EntityKitWarning, match=r"W550.*of the 64 nearest.*100\.0% were asked for") as caught:
        build(vectors_of(2000), kind="ivf", n_cells=30, recall=1.0)
    assert caught[0].filename == build.__code__.co_filename  # which calls VectorIndex.build
