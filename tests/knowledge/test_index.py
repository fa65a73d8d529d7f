"""An index of vectors is a dict whose nearest vectors can be asked for, and tells what is wrong with what it is given."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from entitykit.errors import ConfigError, EntityKitWarning, InputError
from entitykit.knowledge import index, index_build
from entitykit.knowledge.index import VectorIndex
from entitykit.knowledge.index_build import recall_of
from tests.knowledge.indexes import INT8, KINDS, TOLERANCE, WIDTH, brute_force, build, decoded, vectors_of


class Dictionary(RuleBasedStateMachine):
    """Whatever is added, removed, built in, saved and loaded, the index holds what a dict holds."""

    @initialize(kind=st.sampled_from(KINDS), n=st.integers(30, 60))
    def create(self, kind: dict[str, Any], n: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.rng = np.random.default_rng(n)
        rows = self.rng.permutation(100)[:n] * 2**33  # ids, not places
        vectors = vectors_of(n, seed=n)
        self.index = build(vectors, rows, recall=0.01, **kind)
        self.model = dict(zip(rows.tolist(), vectors, strict=True))

    @rule(places=st.lists(st.integers(0, 99), unique=True, max_size=8))
    def add(self, places: list[int]) -> None:
        rows = [place * 2**33 for place in places]
        vectors = self.rng.standard_normal((len(rows), WIDTH)).astype(np.float32)
        assert self.index.add(vectors, rows) == len(set(rows) - self.model.keys())
        self.model.update(zip(rows, vectors, strict=True))

    @rule(places=st.lists(st.integers(0, 99), unique=True, max_size=20))
    def remove(self, places: list[int]) -> None:
        rows = [place * 2**33 for place in places]
        assert self.index.remove(rows) == len(set(rows) & self.model.keys())
        for row in rows:
            self.model.pop(row, None)

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule(elsewhere=st.booleans())
    def save_and_load(self, elsewhere: bool) -> None:
        if elsewhere:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = Path(tempfile.mkdtemp())
        self.index.save(self.folder)
        self.index = VectorIndex.load(self.folder, "encoder")

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        assert len(self.index) == len(self.model)
        assert self.index.rows().tolist() == sorted(self.model)
        assert [row * 2**33 in self.index for row in range(100)] == [row * 2**33 in self.model for row in range(100)]
        queries, k = vectors_of(3, seed=1), len(self.model) + 3
        scores, rows = self.index.search(queries, k)
        assert (rows[:, len(self.model) :] == -1).all()
        assert np.isneginf(scores[:, len(self.model) :]).all()
        for query, found, their_scores in zip(queries, rows[:, : len(self.model)], scores, strict=True):
            if self.index.kind != "hnsw":  # a graph may be in parts
                assert sorted(found.tolist()) == sorted(self.model)
            found = found[found >= 0]
            assert len(set(found.tolist())) == len(found)
            assert set(found.tolist()) <= self.model.keys()
            assert (np.diff(their_scores[: len(found)]) <= 0).all()
            if self.index.report.codes != "pq":
                exact = [float(query @ self.model[row]) for row in found.tolist()]
                scale = 8 if self.index.report.codes == "int8" else 1  # numbers beyond those of the build are cut
                assert np.allclose(their_scores[: len(found)], exact, atol=scale * TOLERANCE[self.index.report.codes] * 4)
        if self.index.report.codes == "pq":
            self.scores_are_those_of_the_nearest_codes(queries, scores[:, : len(self.model)], rows)

    def scores_are_those_of_the_nearest_codes(self, queries: Any, scores: Any, rows: Any) -> None:
        """Codes are the best that a vector's cell has; how far a sum of them is from the vector, nobody can say beforehand."""
        codes, rotation = decoded(self.index), self.index._state.base.rotation  # type: ignore[attr-defined]
        kept = set(codes) - set(self.index._state.removed.tolist())
        for row in kept:
            vector = self.model[row] @ rotation
            best = ((vector.reshape(-1, 1, 2) - codes[row][1]) ** 2).sum(axis=2).min(axis=1).sum()
            assert ((vector - codes[row][0]) ** 2).sum() == pytest.approx(best, abs=1e-3)
        parts = faiss.vector_to_array(self.index._state.base.lists.pq.centroids)  # type: ignore[attr-defined]
        for query, found, their_scores in zip(queries @ rotation, rows, scores, strict=True):
            products = np.einsum("mjw,mw->mj", parts.reshape(-1, 16, 2), query.reshape(-1, 2))
            step = np.ptp(products, axis=1).max() / 255  # FAISS rounds each product, and that with the cell, to a byte
            known = [codes[row][0] if row in kept else self.model[row] @ rotation for row in found[: len(self.model)].tolist()]
            expected = [float(query @ vector) for vector in known]
            assert np.allclose(their_scores, expected, atol=step * (len(products) + 1) + 1e-4)

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class TestDictionary(Dictionary.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=20, stateful_step_count=10, deadline=None)


def test_four_bit_codes_in_the_place_of_others() -> None:
    """FAISS 1.15 mixes the bits of an added code with those of what was there before, and its copies share a pointer."""
    vectors, others = vectors_of(70), vectors_of(70, seed=1)
    made = build(vectors, kind="ivf", n_cells=1, codes="pq")
    before = made._state  # stays, so that no copy is where it was
    for start, end in ((50, 70), (0, 7), (30, 66)):
        made.remove(np.arange(start, end))
        made.compact()
        made.add(others[start:end], np.arange(start, end))
        made.compact()
        vectors[start:end] = others[start:end]
        lists, rotation = made._state.base.lists, made._state.base.rotation  # type: ignore[attr-defined]
        found = decoded(made)
        for row, vector in enumerate(vectors @ rotation):
            code, possible = found[row]
            nearest = ((vector.reshape(-1, 1, 2) - possible) ** 2).sum(axis=2).argmin(axis=1)
            assert np.allclose(code.reshape(-1, 2), possible[np.arange(WIDTH // 2), nearest], atol=1e-5)
        assert int(lists.fine_quantizer.this) == int(lists.pq.this)
    assert len(before) == 70


def test_rows_are_ids_and_replacing_moves_nothing() -> None:
    vectors = np.eye(WIDTH, dtype=np.float32)
    made = build(vectors, np.arange(WIDTH) * 10 + 7)
    assert made.search(vectors, 1)[1][:, 0].tolist() == list(range(7, 167, 10))
    assert made.add(-vectors[:1], [7]) == 0
    assert made.search(-vectors[:1], 1)[1].tolist() == [[7]]
    assert 7 in made
    assert 8 not in made
    assert "7" not in made


def test_scores_are_cosines_where_vectors_are_normalised(tmp_path: Path) -> None:
    vectors, queries = vectors_of(300) * 5, vectors_of(5, seed=2)
    made = build(vectors, normalise=True)
    made.add(vectors[:1] * 9, [900])
    made.save(tmp_path)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = brute_force(queries / np.linalg.norm(queries, axis=1, keepdims=True), unit, np.arange(300), 3)
    found = VectorIndex.load(tmp_path).search(queries, 3)
    assert np.allclose(found[0][:, 0], cosines[0][:, 0], atol=1e-5)
    assert made.search(vectors[:1], 2)[0] == pytest.approx(1.0, abs=1e-5)


def test_exact_vectors_rank_what_short_codes_find() -> None:
    vectors, queries = vectors_of(3000), vectors_of(100, seed=5)
    made = build(vectors, kind="ivf", n_cells=16, codes="pq", recall=0.95)
    made.remove([5])
    asked: list[NDArray[np.int64]] = []

    def exact(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        asked.append(rows)
        return vectors[rows]

    scores, rows = made.search(queries, 16, exact=exact)
    expected = brute_force(queries, vectors, np.arange(3000), 16)
    assert recall_of(rows, expected[1]) > recall_of(made.search(queries, 16)[1], expected[1]) + 0.05
    assert np.allclose(scores, np.einsum("nw,nkw->nk", queries, vectors[rows]), atol=1e-4)
    assert len(np.unique(asked[0])) == len(asked[0])
    few = build(vectors[:3], codes="pq")
    assert few.search(queries, 5, exact=lambda rows: vectors[rows])[1][:, 3:].tolist() == [[-1, -1]] * 100


def test_search_looks_further_where_cells_are_small() -> None:
    vectors = vectors_of(500)
    made = build(vectors, kind="ivf", n_cells=100, recall=0.01)
    assert made.report.effort == min(index_build.EFFORTS["ivf"])
    rows = made.search(vectors[:10], 400)[1]
    assert (rows >= 0).all()
    assert (made.search(np.zeros((1, WIDTH)), 500)[1] >= 0).all()


VECTORS = vectors_of(4)
BAD: list[tuple[str, Callable[[VectorIndex], Any]]] = [
    ("E553.*; 1 have another.*that of row 2", lambda made: build(np.where(np.arange(4)[:, None] == 2, np.nan, VECTORS))),
    ("E553.*1 have.*row 9", lambda made: made.add([[np.inf] * WIDTH], [9])),
    ("E553.*query 0", lambda made: made.search([[1e30] * WIDTH], 1)),
    ("E553.*not 0; 4 have", lambda made: build(VECTORS * 0, normalise=True)),
    (r"E554.*\(4, 15\).*\(4, 16\)", lambda made: build(VECTORS[:, :15])),
    (r"E554.*\(1, 3\)", lambda made: made.search(np.ones((1, 3)), 1)),
    (r"E554.*\(16,\)", lambda made: made.search(np.ones(16), 1)),
    ("E554.*<U1", lambda made: made.add([["a"] * WIDTH], [1])),
    ("E554.*are 4 of width 16; expected 5", lambda made: build([VECTORS], range(5))),
    ("E554.*rows for 3 are left", lambda made: build([VECTORS], range(3))),
    (r"E554.*\(3, 16\)", lambda made: made.add(VECTORS, [1, 2, 3])),
    ("E555.*occur again, such as 1", lambda made: build(VECTORS, [1, 2, 1, 3])),
    ("E555.*occur again, such as 5", lambda made: made.add(VECTORS[:2], [5, 5])),
    ("E555.*-1", lambda made: made.remove([-1])),
    ("E555.*float64", lambda made: build(VECTORS, np.arange(4.0))),
    ("E555.*18446744073709551615", lambda made: made.remove(np.array([2**64 - 1], dtype=np.uint64))),
    (r"E555.*\(1, 2\)", lambda made: made.remove([[1, 2]])),
    ("E556.*the 0 nearest", lambda made: made.search(VECTORS, 0)),
    ("E557.*kind is 'tree'", lambda made: build(VECTORS, kind="tree")),
    ("E557.*codes is 'int4'", lambda made: build(VECTORS, codes="int4")),
    ("E557.*recall is 0", lambda made: build(VECTORS, recall=0)),
    ("E557.*n_cells is -1", lambda made: build(VECTORS, n_cells=-1)),
    ("E557.*width is 3", lambda made: build(VECTORS[:, :3], width=3, codes="pq")),
]


@pytest.mark.parametrize(("message", "call"), BAD, ids=[message for message, _ in BAD])
def test_bad_input_changes_nothing(message: str, call: Callable[[VectorIndex], Any]) -> None:
    made = build(VECTORS)
    with pytest.raises((InputError, ConfigError), match=message):
        call(made)
    assert made.rows().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_indexes(kind: dict[str, Any], n: int, tmp_path: Path) -> None:
    made = build(VECTORS[:n], **kind)
    made.save(tmp_path)
    for each in (made, VectorIndex.load(tmp_path)):
        assert len(each) == n
        assert sorted(each.search(VECTORS[:1], 3)[1][0].tolist()) == [-1] * (3 - n) + list(range(n))
        assert each.search(np.empty((0, WIDTH)), 3)[1].shape == (0, 3)
        assert each.add(VECTORS[3:], [3]) == 1
        each.compact()
        assert 3 in each.search(VECTORS[:1], 5)[1]
        assert each.remove(each.rows()) == n + 1
        each.compact()
        assert each.search(VECTORS, 1)[1].tolist() == [[-1]] * 4


@pytest.mark.parametrize("codes", ["int8", "pq"])
def test_equal_vectors(codes: str) -> None:
    made = build(np.ones((300, WIDTH)), kind="ivf", n_cells=10, recall=0.01, codes=codes)
    rows = made.search(np.ones((1, WIDTH)), 300)[1]
    assert sorted(rows[0].tolist()) == list(range(300))


def test_growth_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "FLAT", 10)
    made = build(vectors_of(10))
    made.add(vectors_of(40), range(40))
    made.compact()
    made.add(vectors_of(1), [40])
    with pytest.warns(EntityKitWarning, match="W551.*for 10 vectors and holds 41"):
        made.compact()


def test_changes_are_built_in_after_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "RECENT", 5)
    made = build(VECTORS)
    for row in range(3):
        made.add(VECTORS[:1], [10 + row])
    made.remove([0, 1])
    assert len(made._state.rows) + len(made._state.removed) == 5
    made.remove([2])
    assert (len(made._state.rows), len(made._state.removed), made.rows().tolist()) == (0, 0, [3, 10, 11, 12])


@pytest.mark.parametrize("kind", [{"kind": "flat"}, INT8], ids=str)
def test_readers_see_all_of_a_change_or_nothing(kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer replaces all vectors at once by equal ones of another length."""
    monkeypatch.setattr(index, "RECENT", 60)
    direction = np.ones((40, WIDTH), dtype=np.float32) / 4
    made = build(direction, recall=0.01, **kind)
    errors: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            scores, rows = made.search(direction[:2], 40)
            if len(np.unique(rows)) != 40 or np.ptp(scores) > 0.1:
                errors.append((scores, rows))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for step in range(100):
        made.add(direction * (step % 2), np.arange(40))
    done.set()
    for reader in readers:
        reader.join()
    assert not errors


def test_threads_stay_as_they_are() -> None:
    before = faiss.omp_get_max_threads()
    build(vectors_of(200), recall=0.5, **INT8).search(VECTORS, 2)
    assert faiss.omp_get_max_threads() == before
