"""Building an index: which kind, how hard it has to look, and what of the exact neighbours it then finds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from entitykit.errors import error, warn
from entitykit.knowledge.index_blocks import Blocks
from entitykit.knowledge.index_kinds import EFFORTS, Flat, Graph, Inverted, Kind
from entitykit.knowledge.neighbours import Floats, Nearest, Rows

K = 64
"""The recall that is measured is that of so many neighbours."""

KINDS = ("auto", "flat", "hnsw", "ivf")
CODES = ("int8", "pq")
FLAT = 2**16
"""Up to so many vectors `auto` compares all; above, it makes an inverted file. Of WordNet's 40,943 descriptions by MiniLM the
graph finds as much in the same time; of 100,000 clustered vectors it takes six times as long, in four times the memory."""

N_QUERIES = 256
PER_CELL = 40  # vectors of the sample for each cell
MORE = 4  # with four-bit codes, the best K are looked for among so many times K, to be ranked by exact vectors

_COSINE = 0.7
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How to build.

    Attributes:
        kind: one of `KINDS`.
        codes: of an inverted file: `int8` takes a byte a number, `pq` a quarter of that, and finds fewer.
        n_cells: of an inverted file; 0: by its size.
        recall: what share of the nearest must be found. It decides how hard every search looks.
        seed: of samples, cells and rotation.

    Raises:
        ConfigError: E557 for what cannot be.
    """

    kind: str = "auto"
    codes: str = "int8"
    n_cells: int = 0
    recall: float = 0.97
    seed: int = 0

    def __post_init__(self) -> None:
        for setting, found, known in (("kind", self.kind, KINDS), ("codes", self.codes, CODES)):
            if found not in known:
                raise error("E557", setting=setting, found=f"{found!r}", expected=f"one of: {', '.join(known)}")
        if self.n_cells < 0:
            raise error("E557", setting="n_cells", found=self.n_cells, expected="at least 1, or 0: by its size")
        if not 0 < self.recall <= 1:
            raise error("E557", setting="recall", found=self.recall, expected="above 0, up to 1")


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built.

    Attributes:
        kind: of the index.
        codes: `float32`, `int8` or `pq`.
        n: vectors.
        n_cells: of an inverted file, else 0.
        effort: how hard it looks; see `entitykit.knowledge.index_kinds.EFFORTS`.
        n_queries: sample on which recall was measured.
        recall64: share of the exact 64 nearest that are among the 64 found; 1 where there are no vectors.
        recall64_in_256: share of them among the 256 found, from which exact vectors would choose.
        seconds: spent on each step; reading the vectors, or computing them, is part of `sample` and `add`.
    """

    kind: str
    codes: str
    n: int
    n_cells: int
    effort: float
    n_queries: int
    recall64: float
    recall64_in_256: float
    seconds: dict[str, float]


@dataclass
class _Clock:
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


class _Watched:
    """Blocks that are compared with queries while an index reads them, so that they need not be read twice."""

    def __init__(self, blocks: Blocks, nearest: Nearest, clock: _Clock) -> None:
        self._blocks, self._nearest, self._clock = blocks, nearest, clock

    def __iter__(self) -> Iterator[tuple[Floats, Rows]]:
        for vectors, rows in self._blocks:
            with self._clock("exact"):
                self._nearest.see(vectors, rows)
            yield vectors, rows


def build_kind(blocks: Blocks, settings: BuildSettings, queries: Floats | None) -> tuple[Kind, BuildReport]:
    """Build an index of the kind that the settings or its size ask for.

    Args:
        blocks: vectors and rows.
        settings: how.
        queries: *(n, width)*, on which recall is measured; None: vectors of the index with noise, see `_noisy`.
    """
    n, clock = len(blocks), _Clock()
    name = settings.kind
    if name == "auto" or n == 0:
        name = "flat" if n <= FLAT else "ivf"
    n_cells = min(n, settings.n_cells or default_cells(n)) if name == "ivf" else 0
    rng = np.random.default_rng(settings.seed)
    places = np.sort(rng.choice(n, size=min(n, max(n_cells * PER_CELL, 2 * N_QUERIES)), replace=False))
    with clock("sample"):
        sample = blocks.sample(places)
    if queries is None:
        queries = _noisy(sample, rng)
    nearest = Nearest(queries, min(K, n))
    watched = _Watched(blocks, nearest, clock)
    built: Kind
    if name == "ivf":
        with clock("train"):
            inverted = Inverted.train(sample, settings.codes, n_cells, settings.seed)
        del sample
        with clock("add"):
            built = inverted.fill(watched).packed()
    else:
        with clock("add"):
            built = Graph.build(blocks.width, watched) if name == "hnsw" else _flat(watched, blocks.width)
    clock.seconds["add"] -= clock.seconds.get("exact", 0.0)
    with clock("tune"):
        found, found_in_more = _tune(built, queries, nearest.ranked()[1], settings)
    report = BuildReport(
        kind=name,
        codes=settings.codes if name == "ivf" else "float32",
        n=n,
        n_cells=len(built.cells) if isinstance(built, Inverted) else 0,
        effort=built.effort,
        n_queries=len(queries),
        recall64=found,
        recall64_in_256=found_in_more,
        seconds={step: round(seconds, 3) for step, seconds in clock.seconds.items()},
    )
    return built, report


def default_cells(n: int) -> int:
    """Cells of an inverted file: about 8 √n, a power of two."""
    return int(2 ** round(math.log2(8 * math.sqrt(max(n, 1)))))


def recall_of(found: Rows, exact: Rows) -> float:
    """The share of exact neighbours *(n, k)* that are among those found *(n, m)*; 1 if there are none."""
    if exact.size == 0:
        return 1.0
    return float(np.mean([np.isin(nearest, rows).mean() for nearest, rows in zip(exact, found, strict=True)]))


def _tune(built: Kind, queries: Floats, exact: Rows, settings: BuildSettings) -> tuple[float, float]:
    """Set the least effort that finds enough of the nearest; the answer is how many, among K and among `MORE` times K."""
    in_more = built.name == "ivf" and settings.codes == "pq"
    efforts = EFFORTS[built.name]
    k = max(exact.shape[1], 1)
    found = found_in_more = 1.0
    low, high = 0, len(efforts) - 1
    while low < high:  # the least effort that suffices lies in low … high, where the last need not
        middle = (low + high) // 2
        built.effort = efforts[middle]
        rows = built.search(queries, MORE * k if in_more else k, _NOTHING)[1]
        low, high = (low, middle) if recall_of(rows, exact) >= settings.recall else (middle + 1, high)
    built.effort = efforts[low]
    found = recall_of(built.search(queries, k, _NOTHING)[1], exact)
    found_in_more = recall_of(built.search(queries, MORE * k, _NOTHING)[1], exact)
    if (best := found_in_more if in_more else found) < settings.recall:
        warn("W550", found=best, k=k, wanted=settings.recall, stacklevel=4)
    return found, found_in_more


def _noisy(sample: Floats, rng: np.random.Generator) -> Floats:
    """Vectors *(n, width)* such as mentions of entities have: of a cosine of 0.7 with an entity's.

    The rest is the difference of two other entities, so that it has the directions in which entities differ. Each vector is as
    long as its entity's.
    """
    n = min(len(sample) // 2, N_QUERIES)
    if n == 0:
        return sample
    entity, one, other = (sample[rng.permutation(len(sample))[:n]] for _ in range(3))
    noise = one - other
    lengths = np.linalg.norm(entity, axis=1, keepdims=True) / np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-30)
    return np.ascontiguousarray(_COSINE * entity + math.sqrt(1 - _COSINE**2) * lengths * noise, dtype=np.float32)


def _flat(blocks: _Watched, width: int) -> Flat:
    parts = [(vectors.copy(), rows) for vectors, rows in blocks]
    if not parts:
        return Flat(np.empty((0, width), dtype=np.float32), _NOTHING)
    return Flat(np.concatenate([vectors for vectors, _ in parts]), np.concatenate([rows for _, rows in parts]))
