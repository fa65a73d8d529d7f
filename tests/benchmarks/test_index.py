"""The benchmark of the index measures what it says, on vectors of which there are few."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from entitykit.benchmarks import index
from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.table import run_benchmark
from entitykit.knowledge import index_build
from entitykit.knowledge.index import VectorIndex


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "WIDTH", 32)
    monkeypatch.setattr(index, "_CLUSTERS", 50)
    monkeypatch.setattr(index, "_TOPICS", 10)
    monkeypatch.setattr(index, "BLOCK", 256)
    monkeypatch.setattr(index_build, "FLAT", 800)  # so that the larger two are inverted files
    sizes = {"_100k": 600, "_1m": 1000, "": 1500}
    monkeypatch.setattr(index, "QUICK", {name: index.Amount(n, 100, 2) for name, n in sizes.items()})


def test_end_to_end(settings: Settings) -> None:
    before = faiss.omp_get_max_threads()
    report = run_benchmark("index", settings)
    assert list(report.figures) == [key for part in index.PARTS for key in part.keys]
    assert all(figure.value > 0 for figure in report.figures.values())
    assert report.figures["recall64_vs_exact_100k"].value == 1
    assert 0.9 < report.figures["recall64_vs_exact"].value <= 1
    assert report.figures["index_gb_100k"].value == pytest.approx(600 * (32 * 4 + 8) / 1e9, rel=0.02)
    kinds = [report.settings[f"index{name}"]["build"]["kind"] for name in index.FULL]
    assert kinds == ["flat", "ivf", "ivf"]
    work = report.settings["index"]
    assert 1 <= work["cells_per_mention"] <= work["build"]["n_cells"]
    assert index.K <= work["compared_per_mention"] <= 1500
    assert faiss.omp_get_max_threads() == before


def test_vectors_are_the_same_every_time() -> None:
    entities = index.Entities(600)
    blocks = list(entities)
    assert [len(block) for block in blocks] == [256, 256, 88]
    for first, second in zip(blocks, index.Entities(600), strict=True):
        assert np.array_equal(first, second)
    assert np.allclose(np.linalg.norm(np.concatenate(blocks), axis=1), 1, atol=1e-5)
    assert entities.seconds > 0
    assert not np.allclose(blocks[0], next(iter(index.Entities(600, seed=1))))


def test_a_mention_is_near_its_entity() -> None:
    """Of a cosine of 0.5 to 0.9, give or take what chance the noise has in few directions."""
    entities = index.Entities(2000)
    cosines = (entities.mentions(200) @ np.concatenate(list(entities)).T).max(axis=1)
    assert 0.4 < cosines.min() < cosines.max() < 0.99
    assert 0.65 < cosines.mean() < 0.9


def test_recall_is_that_of_what_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that finds half of the nearest has a recall of a half."""
    search = VectorIndex.search

    def half(self: VectorIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = search(self, queries, k)
        rows[:, k // 2 :] = -1
        return scores, rows

    monkeypatch.setattr(VectorIndex, "search", half)
    report = run_benchmark("index", settings, only=["recall64_vs_exact_100k"])
    assert report.figures["recall64_vs_exact_100k"].value == 0.5
