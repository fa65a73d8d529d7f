"""The kinds of index: a matrix, a graph, an inverted file of codes. None of them ever changes; a change makes another.

All find by inner product, and speak of rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import faiss as faiss_with_stubs
import numpy as np
from numpy.typing import NDArray

from entitykit.knowledge.index_cells import Cells
from entitykit.knowledge.neighbours import Floats, Nearest, Rows

faiss: Any = faiss_with_stubs  # whose types leave out most of it

LINKS = 32  # of a vector in the graph
CONSTRUCTION = 80  # candidates for them
EFFORTS = {
    "flat": (0.0,),
    "hnsw": (64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0, 768.0, 1024.0),
    "ivf": tuple(round(0.025 * step, 3) for step in range(2, 25)),
}
"""How hard each kind can look: candidates in the graph; how far below the best cell's cosine another cell's may be."""


@cache
def use_one_thread_in_forks() -> None:
    """From now on FAISS uses one thread in processes that are forked: it would wait for ever for those of their parent."""
    if hasattr(os, "register_at_fork"):  # Windows never forks
        os.register_at_fork(after_in_child=lambda: faiss.omp_set_num_threads(1))


class Kind(Protocol):
    """An index that does not change.

    Attributes:
        name: of the kind.
        rows: *(n,)*, in the order of the file.
        effort: how hard to look; see `EFFORTS`.
    """

    name: ClassVar[str]
    rows: Rows
    effort: float

    @property
    def ordered(self) -> Rows:
        """Rows that rise."""

    def search(self, queries: Floats, k: int, hidden: Rows) -> tuple[Floats, Rows]:
        """Scores and rows *(n, k)*, -1 where none was found; rows in `hidden`, which rise, are not."""

    def changed(self, removed: Rows, vectors: Floats, rows: Rows) -> Kind:
        """The index without the rows `removed`, which rise, and with others."""

    def write(self, path: Path) -> None:
        """Write all but the rows to a file."""


class Flat:
    """All vectors as they are.

    Args:
        vectors: *(n, width)*.
        rows: *(n,)*.
    """

    name: ClassVar[str] = "flat"

    def __init__(self, vectors: Floats, rows: Rows) -> None:
        self.vectors, self.rows, self.effort = vectors, rows, 0.0

    @cached_property
    def ordered(self) -> Rows:
        """Rows that rise."""
        return np.sort(self.rows)

    def search(self, queries: Floats, k: int, hidden: Rows) -> tuple[Floats, Rows]:
        """See `Kind.search`."""
        nearest = Nearest(queries, k)
        nearest.see(self.vectors, self.rows, np.isin(self.rows, hidden) if len(hidden) else None)
        return nearest.ranked()

    def changed(self, removed: Rows, vectors: Floats, rows: Rows) -> Flat:
        """See `Kind.changed`."""
        keep = ~np.isin(self.rows, removed)
        return Flat(np.concatenate([self.vectors[keep], vectors]), np.concatenate([self.rows[keep], rows]))

    def write(self, path: Path) -> None:
        """See `Kind.write`."""
        with path.open("wb") as file:
            np.ascontiguousarray(self.vectors, dtype="<f4").tofile(file)

    @classmethod
    def read(cls, path: Path, rows: Rows, width: int) -> Flat:
        """Map the file into memory."""
        shape = (len(rows), width)
        return cls(np.memmap(path, dtype="<f4", mode="r", shape=shape) if len(rows) else np.empty(shape, np.float32), rows)


class Graph:
    """FAISS's navigable small worlds over vectors as they are.

    Args:
        index: `faiss.IndexHNSWFlat`, whose ids are places in `rows`.
        rows: *(n,)*.
        effort: candidates of a search.
    """

    name: ClassVar[str] = "hnsw"

    def __init__(self, index: Any, rows: Rows, effort: float) -> None:
        self.index, self.rows, self.effort = index, rows, effort

    @cached_property
    def ordered(self) -> Rows:
        """Rows that rise."""
        return np.sort(self.rows)

    @classmethod
    def build(cls, width: int, blocks: Iterable[tuple[Floats, Rows]]) -> Graph:
        """Link vectors as they come."""
        index = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = CONSTRUCTION
        rows: list[Rows] = [np.empty(0, dtype=np.int64)]
        for vectors, theirs in blocks:
            index.add(vectors)
            rows.append(theirs)
        return cls(index, np.concatenate(rows), EFFORTS["hnsw"][-1])

    def search(self, queries: Floats, k: int, hidden: Rows) -> tuple[Floats, Rows]:
        """See `Kind.search`."""
        parameters = faiss.SearchParametersHNSW(efSearch=max(int(self.effort), k))
        if len(hidden):
            selector = _all_but(np.flatnonzero(np.isin(self.rows, hidden)))
            parameters = faiss.SearchParametersHNSW(efSearch=max(int(self.effort), k), sel=selector)
        scores, places = self.index.search(queries, k, params=parameters)
        return _with_none(scores, np.where(places >= 0, self.rows[np.maximum(places, 0)], -1))

    def changed(self, removed: Rows, vectors: Floats, rows: Rows) -> Graph:
        """See `Kind.changed`; a graph loses no vectors, and cannot grow where it is mapped, so it is linked anew."""
        keep = np.flatnonzero(~np.isin(self.rows, removed))
        old = ((self.index.reconstruct_batch(part), self.rows[part]) for part in _parts(keep))
        new = ((vectors[part], rows[part]) for part in _parts(np.arange(len(rows))))
        graph = Graph.build(self.index.d, (block for blocks in (old, new) for block in blocks))
        graph.effort = self.effort
        return graph

    def write(self, path: Path) -> None:
        """See `Kind.write`."""
        faiss.write_index(self.index, str(path))

    @classmethod
    def read(cls, path: Path, rows: Rows, effort: float) -> Graph:
        """Map the file into memory where this version of FAISS can."""
        return cls(faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0)), rows, effort)


class Inverted:
    """FAISS's inverted file of codes: int8 of each number, or four bits of each pair of numbers (PQ).

    Vectors are rotated at random first, so that every number of them has about the same range and one scale fits all.

    Args:
        index: `faiss.IndexPreTransform`: a rotation, then an inverted file whose ids are rows.
        ordered: *(n,)*, rows that rise.
        sizes: of the groups of cells; see `Cells`.
        effort: how far below the best cell's cosine another cell's may be.
    """

    name: ClassVar[str] = "ivf"

    def __init__(self, index: Any, ordered: Rows, sizes: Sequence[int], effort: float) -> None:
        self.index, self.rows, self.ordered, self.effort = index, ordered, ordered, effort
        self.lists = faiss.downcast_index(index.index)
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        self.rotation: Floats = faiss.vector_to_array(rotation.A).reshape(index.d, index.d).T.copy()
        self.cells = Cells(faiss.downcast_index(self.lists.quantizer).reconstruct_n(0, self.lists.nlist), sizes)

    @classmethod
    def train(cls, sample: Floats, codes: str, n_cells: int, seed: int) -> Inverted:
        """Make an index that holds nothing yet, but knows its cells and codes."""
        width = sample.shape[1]
        rotation = faiss.RandomRotationMatrix(width, width)
        rotation.init(seed)
        sample = rotation.apply(sample)
        cells = Cells.train(sample, n_cells, seed)
        lists = (_int8_lists if codes == "int8" else _pq_lists)(cells, width)
        few = sample[:: max(1, len(sample) // 65536)]
        few = np.resize(few, (max(len(few), 16), width))  # four bits have 16 values, and FAISS finds nothing if all are equal:
        noise = np.random.default_rng(seed).standard_normal(few.shape, dtype=np.float32)
        lists.train(few + np.float32(1e-3) * np.sqrt(np.mean(few**2)) * noise)
        return cls(_owning(rotation, lists), np.empty(0, dtype=np.int64), cells.sizes, EFFORTS["ivf"][-1])

    def fill(self, blocks: Iterable[tuple[Floats, Rows]]) -> Inverted:
        """Take in vectors, while nobody else has the index yet."""
        rows = [self.ordered]
        for vectors, theirs in blocks:
            vectors = np.ascontiguousarray(vectors @ self.rotation)
            cells = self.cells.assign(vectors)
            self.lists.add_core(len(vectors), *map(faiss.swig_ptr, (vectors, np.ascontiguousarray(theirs), cells)))
            rows.append(theirs)
        self.index.ntotal = self.lists.ntotal
        self.rows = self.ordered = np.sort(np.concatenate(rows))
        return self

    def packed(self) -> Inverted:
        """The form in which it is searched: four-bit codes laid out for FAISS's fast scan. This object is then used up."""
        if not isinstance(self.lists, faiss.IndexIVFPQ):
            return self
        fast = faiss.IndexIVFPQFastScan(self.lists)
        self.lists.own_fields = self.index.own_fields = False  # what they own goes over, but for the codes,
        self.lists.thisown = True  # which go when this object goes
        index = _owning(faiss.downcast_VectorTransform(self.index.chain.at(0)), fast)
        fast.own_fields = True
        return Inverted(index, self.ordered, self.cells.sizes, self.effort)

    def search(self, queries: Floats, k: int, hidden: Rows) -> tuple[Floats, Rows]:
        """See `Kind.search`; looks further where the cells do not hold k vectors."""
        rotated = np.ascontiguousarray(queries @ self.rotation)
        scores, rows = self._scan(rotated, k, hidden, self.effort)
        margin = self.effort
        while margin < 2 and len(short := np.flatnonzero(rows[:, min(k, self._n_left(hidden)) - 1] < 0)):
            margin = max(2 * margin, 0.1)
            scores[short], rows[short] = self._scan(rotated[short], k, hidden, margin)
        return scores, rows

    def changed(self, removed: Rows, vectors: Floats, rows: Rows) -> Inverted:
        """See `Kind.changed`; for a moment both are in memory."""
        copy = Inverted(self._copied(), self.ordered[~np.isin(self.ordered, removed)], self.cells.sizes, self.effort)
        if len(removed):
            copy._remove(removed)
        if isinstance(copy.lists, faiss.IndexIVFScalarQuantizer):
            return copy.fill((vectors[part], rows[part]) for part in _parts(np.arange(len(rows))))
        if len(rows):
            copy.lists.add_with_ids(np.ascontiguousarray(vectors @ copy.rotation), rows)
        copy.index.ntotal = copy.lists.ntotal
        copy.rows = copy.ordered = np.sort(np.concatenate([copy.ordered, rows]))
        return copy

    def write(self, path: Path) -> None:
        """See `Kind.write`."""
        faiss.write_index(self._copied() if self.mapped else self.index, str(path))

    @classmethod
    def read(cls, path: Path, ordered: Rows, sizes: Sequence[int], effort: float) -> Inverted:
        """Map the file into memory; four-bit codes are read."""
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP), ordered, sizes, effort)

    @property
    def mapped(self) -> bool:
        """Whether the codes are in a file that is mapped."""
        return isinstance(faiss.downcast_InvertedLists(self.lists.invlists), faiss.OnDiskInvertedLists)

    def _copied(self) -> Any:
        """The FAISS index again, in memory; from what is mapped, because its file may be gone."""
        if not self.mapped:
            index = faiss.clone_index(self.index)
            lists = faiss.downcast_index(index.index)
            if isinstance(lists, faiss.IndexIVFPQFastScan):
                lists.fine_quantizer = lists.pq  # which FAISS leaves pointing into the original
            return index
        width, code = self.index.d, self.lists.sq
        lists = _int8_lists(self.cells, width)
        lists.sq.trained, lists.is_trained = code.trained, True
        every = 1, 1, 0  # by ids, of which all leave 0 when divided by 1
        self.lists.copy_subset_to(lists, *every)
        rotation = faiss.RandomRotationMatrix(width, width)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.rotation.T).reshape(-1), rotation.A)
        rotation.is_trained = True
        return _owning(rotation, lists)

    def _remove(self, rows: Rows) -> None:
        """Remove codes; where four-bit codes were, clear them, because FAISS adds by or-ing bits into what is there."""
        packed = isinstance(self.lists, faiss.IndexIVFPQFastScan)
        before = self._sizes() if packed else []
        self.lists.remove_ids(rows)
        if not packed:
            return
        inverted, packer = faiss.downcast_InvertedLists(self.lists.invlists), self.lists.get_CodePacker()
        nothing = np.zeros(packer.code_size, dtype=np.uint8)
        for number, (old, size) in enumerate(zip(before, self._sizes(), strict=True)):
            n_blocks = -(-size // packer.nvec)
            if old > size and n_blocks:
                codes = faiss.rev_swig_ptr(inverted.get_codes(number), n_blocks * packer.block_size)
                for place in range(size, n_blocks * packer.nvec):
                    packer.pack_1(nothing, place, codes.reshape(n_blocks, packer.block_size))

    def _sizes(self) -> list[int]:
        """Codes in each cell."""
        return [self.lists.invlists.list_size(number) for number in range(self.lists.nlist)]

    def _n_left(self, hidden: Rows) -> int:
        return len(self.ordered) - len(hidden)

    def _scan(self, queries: Floats, k: int, hidden: Rows, margin: float) -> tuple[Floats, Rows]:
        """Look in the cells within the margin."""
        cells, products = self.cells.probe(queries, margin)
        scores = np.empty((len(queries), k), dtype=np.float32)
        rows = np.empty((len(queries), k), dtype=np.int64)
        parameters = faiss.SearchParametersIVF(nprobe=cells.shape[1])
        if len(hidden):
            parameters = faiss.SearchParametersIVF(nprobe=cells.shape[1], sel=_all_but(hidden))
        arrays = (cells, products, scores, rows)
        self.lists.search_preassigned_c(
            len(queries), faiss.swig_ptr(queries), k, *map(faiss.swig_ptr, arrays), False, parameters
        )
        return _with_none(scores, rows)


def _with_none(scores: Floats, rows: Rows) -> tuple[Floats, Rows]:
    """Give what was not found the score −∞."""
    return np.where(rows >= 0, scores, np.float32(-np.inf)), rows


def _int8_lists(cells: Cells, width: int) -> Any:
    uniform = faiss.ScalarQuantizer.QT_8bit_uniform
    centres = _flat(cells)
    lists = faiss.IndexIVFScalarQuantizer(centres, width, len(cells), uniform, faiss.METRIC_INNER_PRODUCT, False)
    lists.own_fields = True
    return lists


def _pq_lists(cells: Cells, width: int) -> Any:
    lists = faiss.IndexIVFPQ(_flat(cells), width, len(cells), width // 2, 4, faiss.METRIC_INNER_PRODUCT)
    lists.pq.cp.min_points_per_centroid = 1
    lists.own_fields = True
    return lists


def _flat(cells: Cells) -> Any:
    """The centres as FAISS wants them, for an index that will own them."""
    centres = faiss.IndexFlatIP(cells.centres.shape[1])
    centres.add(cells.centres)
    centres.this.disown()
    return centres


def _owning(rotation: Any, lists: Any) -> Any:
    """Both as one index, which frees them."""
    index = faiss.IndexPreTransform(rotation, lists)
    index.own_fields = True
    for owned in (rotation, lists):
        owned.this.disown()
    return index


def _all_but(ids: NDArray[np.int64]) -> Any:
    return faiss.IDSelectorNot(faiss.IDSelectorBatch(ids))


def _parts(places: NDArray[np.int64]) -> Iterable[NDArray[np.int64]]:
    """Places in parts of a size that memory does not notice."""
    return (places[i : i + 8192] for i in range(0, len(places), 8192))
