"""The nearest entities of a mention among millions: time, recall against comparing all, size and time to build.

Vectors are synthetic, and computed again whenever they are read. There are 400 topics, 20,000 clusters around them (cosine 0.8
with their topic) of log-normal sizes (σ = 1.5), and entities around these (cosines of 0.5 to 0.95 with their cluster, evenly
spread). All directions have the decaying spectrum of MiniLM's vectors of WordNet's descriptions (variances fall as exp(-i/85)),
rotated at random. So 41,000 of them are about as hard as those 40,943 descriptions: an inverted file that looks into 64 of 400
cells finds 0.946 of the 64 nearest, and 0.947 there. A mention is a copy of an entity that is drawn at random, with noise of
that spectrum, of a cosine of 0.5 to 0.9 with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import faiss as faiss_with_stubs
import numpy as np
from numpy.typing import NDArray

from entitykit.benchmarks.parts import Figure, Part, Result, Settings, progress
from entitykit.benchmarks.timing import median
from entitykit.knowledge.index import VectorIndex
from entitykit.knowledge.index_build import K, recall_of
from entitykit.knowledge.index_kinds import Inverted
from entitykit.knowledge.neighbours import Nearest

faiss: Any = faiss_with_stubs  # whose types leave out most of it
Floats = NDArray[np.float32]

GB = 1e9
WIDTH = 384
BATCH = 64
THREADS = 2
BLOCK = 8192
KEYS = ("ms_per_mention", "processor_ms_per_mention", "recall64_vs_exact", "index_gb", "build_s")
FINGERPRINT = "synthetic"

_TOPICS = 400
_CLUSTERS = 20_000
_SPECTRUM = 85.0


class Amount(NamedTuple):
    """How much is measured: entities, mentions, and rounds."""

    entities: int
    mentions: int
    rounds: int


FULL = {"_100k": Amount(100_000, 1024, 5), "_1m": Amount(1_000_000, 1024, 5), "": Amount(5_900_000, 1024, 5)}
QUICK = {"_100k": Amount(20_000, 256, 3), "_1m": Amount(100_000, 256, 3), "": Amount(200_000, 256, 3)}


class Entities:
    """Blocks of synthetic vectors; see above.

    Args:
        n: how many.
        seed: of all of it.

    Attributes:
        seconds: spent on computing vectors so far.
    """

    def __init__(self, n: int, seed: int = 0) -> None:
        self.n, self._seed, self.seconds = n, seed, 0.0
        rng = np.random.default_rng(seed)
        deviation = np.exp(-np.arange(WIDTH) / (2 * _SPECTRUM))
        rotation = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
        self._noise = (deviation[:, None] / np.linalg.norm(deviation) * rotation).astype(np.float32)
        topics = _unit(self._directions(rng, _TOPICS) + 0.27 * self._directions(rng, 1))
        of_topic = topics[rng.integers(0, _TOPICS, _CLUSTERS)]
        self._clusters = self._around(rng, of_topic, np.full(_CLUSTERS, 0.8))
        self._shares = np.cumsum(rng.lognormal(0.0, 1.5, _CLUSTERS))

    def __iter__(self) -> Iterator[Floats]:
        for number in range(-(-self.n // BLOCK)):
            start = time.perf_counter()
            block = self.block(number)
            self.seconds += time.perf_counter() - start
            yield block

    def block(self, number: int) -> Floats:
        """Vectors *(BLOCK, width)*, but for the last block."""
        rng = np.random.default_rng([self._seed, number])
        n = min(BLOCK, self.n - number * BLOCK)
        cluster = np.searchsorted(self._shares, rng.random(n) * self._shares[-1])
        return self._around(rng, self._clusters[np.minimum(cluster, _CLUSTERS - 1)], rng.uniform(0.5, 0.95, n))

    def mentions(self, n: int) -> Floats:
        """Noisy copies *(n, width)* of entities from up to 32 blocks."""
        rng = np.random.default_rng([self._seed, 2**32])
        numbers = rng.permutation(-(-self.n // BLOCK))[:32]
        entities = np.concatenate([self.block(number) for number in numbers.tolist()])
        return self._around(rng, entities[rng.integers(0, len(entities), n)], rng.uniform(0.5, 0.9, n))

    def _directions(self, rng: np.random.Generator, n: int) -> Floats:
        return _unit(rng.standard_normal((n, WIDTH), dtype=np.float32) @ self._noise)

    def _around(self, rng: np.random.Generator, centres: Floats, cosines: NDArray[np.float64]) -> Floats:
        """One vector around each centre, of about that cosine with it."""
        near = cosines.astype(np.float32)[:, None]
        return _unit(near * centres + np.sqrt(1 - near**2) * self._directions(rng, len(centres)))


def measure(settings: Settings, *, name: str) -> Result:
    """Build an index, save it, and look up mentions in what is mapped from the disk.

    Args:
        settings: only `quick` counts.
        name: end of the figures' names, a key of `FULL`.
    """
    amount = (QUICK if settings.quick else FULL)[name]
    entities = Entities(amount.entities)
    mentions = entities.mentions(amount.mentions)
    with TemporaryDirectory() as folder:
        progress(f"index: built from {amount.entities:,} vectors")
        start = time.perf_counter()
        index = VectorIndex.build(entities, np.arange(amount.entities), fingerprint=FINGERPRINT, width=WIDTH)
        build_s = time.perf_counter() - start - entities.seconds
        start = time.perf_counter()
        index.save(folder)
        save_s = time.perf_counter() - start
        report = index.report
        del index
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        progress(f"index: {build_s:.0f} s; {amount.mentions:,} mentions are compared with all vectors")
        exact = Nearest(mentions, K)
        for number, block in enumerate(entities):
            exact.see(block, np.arange(number * BLOCK, number * BLOCK + len(block)))
        index = VectorIndex.load(folder, FINGERPRINT)
        with _threads(THREADS):
            found, rounds, work = _look_up(index, mentions, amount.rounds)
    nearest = exact.ranked()
    values = {
        "recall64_vs_exact": recall_of(found, nearest[1]),
        "index_gb": size / GB,
        "build_s": build_s,
    }
    figures = {f"{key}{name}": median([each / amount.mentions * 1e3 for each in times]) for key, times in rounds.items()}
    figures |= {f"{key}{name}": Figure(value, value, value) for key, value in values.items()}
    details = {
        "entities": amount.entities,
        "mentions": amount.mentions,
        "cosines": {f"nearest {k}": float(nearest[0][:, k - 1].mean()) for k in (1, 10, K)},
        "threads": {"build": faiss.omp_get_max_threads(), "mentions": THREADS},
        "build": report.__dict__,
        "generate_s": entities.seconds,
        "save_s": save_s,
        **work,
    }
    return Result(figures, {f"index{name}": details})


def _look_up(
    index: VectorIndex, mentions: Floats, n_rounds: int
) -> tuple[NDArray[np.int64], dict[str, list[float]], dict[str, float]]:
    """What is found, the seconds of each round by the clock and of all processors, and how much an inverted file compares.

    The processors' time hardly depends on what else the machine does, and by the clock one idle processor needs no more.
    """
    batches = [mentions[start : start + BATCH] for start in range(0, len(mentions), BATCH)]
    found = np.concatenate([index.search(batch, K)[1] for batch in batches])  # reads what is mapped
    rounds: dict[str, list[float]] = {"ms_per_mention": [], "processor_ms_per_mention": []}
    for _ in range(n_rounds):
        start, start_of_processors = time.perf_counter(), time.process_time()
        for batch in batches:
            index.search(batch, K)
        rounds["ms_per_mention"].append(time.perf_counter() - start)
        rounds["processor_ms_per_mention"].append(time.process_time() - start_of_processors)
    base = index._state.base
    if not isinstance(base, Inverted):
        return found, rounds, {}
    sizes = np.array([base.lists.invlists.list_size(i) for i in range(len(base.cells))])
    start = time.process_time()
    cells = [base.cells.probe(batch @ base.rotation, base.effort)[0] for batch in batches]
    probe_ms = (time.process_time() - start) / len(mentions) * 1e3
    n_cells = sum(int((batch >= 0).sum()) for batch in cells) / len(mentions)
    n_compared = sum(int(sizes[batch[batch >= 0]].sum()) for batch in cells) / len(mentions)
    work = {"probe_processor_ms": probe_ms, "cells_per_mention": n_cells, "compared_per_mention": n_compared}
    return found, rounds, work


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """FAISS's threads, all cores' or OMP_NUM_THREADS otherwise; NumPy's products always take these."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(n)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _unit(vectors: NDArray[Any]) -> Floats:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return (vectors / lengths[:, None]).astype(np.float32, copy=False)


PARTS = [
    Part(
        tuple(f"{key}{name}" for key in KEYS),
        partial(measure, name=name),
    )
    for name in FULL
]
