"""A store as a spaCy knowledge base, for spaCy's `entity_linker` and whatever else asks for candidates of a span."""

from __future__ import annotations

import io
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from spacy.kb import Candidate, KnowledgeBase
from spacy.tokens import Span
from spacy.vocab import Vocab

from entitykit.errors import error
from entitykit.knowledge.files import replace_folder, writing
from entitykit.knowledge.schema import VECTORS
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.store_search import AliasMatch
from entitykit.knowledge.vectors import VectorTable

_BLOCK = 4096  # vectors that are copied at once


class EntityKB(KnowledgeBase):
    """Candidates of spans, from a store, with p(entity | text) and vectors.

    Args:
        vocab: the pipeline's.
        store: the entities; without one the knowledge base is empty until it is loaded.
        vectors: of all entities, where anything asks for them.
        max_candidates: keep only so many, the most probable; none: all.

    Raises:
        InputError: E507 for a number of candidates below 1.
    """

    def __init__(
        self,
        vocab: Vocab,
        store: EntityStore | None = None,
        vectors: VectorTable | None = None,
        *,
        max_candidates: int | None = None,
    ) -> None:
        if max_candidates is not None and max_candidates < 1:
            raise error("E507", option="max_candidates", found=max_candidates, expected="1 or more, or none")
        self.max_candidates = max_candidates
        self._set(vocab, store, vectors)

    def __len__(self) -> int:
        return 0 if self._store is None else len(self._store)

    def __reduce__(self) -> tuple[Callable[..., EntityKB], tuple[object, ...]]:
        if self._temporary:
            return _remake_from_bytes, (self.vocab, self.to_bytes(), self.max_candidates)
        return _remake, (self.vocab, self._store, self.vectors, self.max_candidates)

    @property
    def store(self) -> EntityStore:
        """The entities.

        Raises:
            ConfigError: E509 if there is no store yet.
        """
        if self._store is None:
            raise error("E509")
        return self._store

    def is_empty(self) -> bool:
        """Whether there is no entity; spaCy asks this before it trains and predicts."""
        return len(self) == 0

    def get_candidates(self, mention: Span) -> list[Candidate]:
        """Find what a span may name, by falling prior; names are compared by `entitykit.knowledge.text.normalise`."""
        return self.get_candidates_batch([mention])[0]

    def get_candidates_batch(self, mentions: Iterable[Span]) -> list[list[Candidate]]:
        """Find what several spans may name, faster than one by one; see `get_candidates`."""
        texts = [mention.text for mention in mentions]
        found = [matches[: self.max_candidates] for matches in self.store.by_alias_batch(texts)]
        ids = list(dict.fromkeys(match.id for matches in found for match in matches))
        vectors = dict(zip(ids, self._vectors(ids), strict=True))
        return [
            [self._candidate(text, match, vectors[match.id]) for match in matches]
            for text, matches in zip(texts, found, strict=True)
        ]

    def get_vector(self, entity: str) -> NDArray[np.float32]:
        """The vector *(width,)* of an entity; zeros for an id without entity, as spaCy has it."""
        return self.get_vectors([entity])[0]

    def get_vectors(self, entities: Iterable[str]) -> NDArray[np.float32]:
        """The vectors *(n, width)* of entities; zeros for ids without entity, as spaCy has it.

        Raises:
            ConfigError: E511 if an entity has no vector.
        """
        with self.store.reading():
            rows = self.store.rows(list(entities))
            ids = self.store.ids(rows[rows >= 0])
        vectors = np.zeros((len(rows), self.entity_vector_length), dtype=np.float32)
        vectors[rows >= 0] = self._vectors(ids)
        return vectors

    def to_disk(self, path: str | Path, exclude: Iterable[str] = ()) -> None:
        """Copy the store, and the vectors if there are any, to a folder, which is a knowledge base of its own.

        Raises:
            OutputError: E502 or E055 if the folder cannot be written.
        """
        self.store.copy_to(path, keep=(VECTORS,))  # of which the rest of this decides
        folder = Path(path) / VECTORS
        if self.vectors is None:
            if not self.store.folder.samefile(path):  # else they were made since this object was
                with writing(folder):
                    replace_folder(folder, None)
        elif not folder.exists() or not folder.samefile(self.vectors.path):
            write_vectors(path, self.vectors.width, _blocks(self.vectors), dtype=self.vectors.dtype)

    def from_disk(self, path: str | Path, exclude: Iterable[str] = ()) -> EntityKB:
        """Open what `to_disk` wrote; the files stay where they are.

        Raises:
            CheckpointError: E500 or E501 if the store cannot be opened, E050 or E051 for the vectors.
        """
        folder = Path(path)
        self._set(self.vocab, EntityStore(folder), VectorTable(folder / VECTORS) if (folder / VECTORS).exists() else None)
        return self

    def to_bytes(self, **_: object) -> bytes:
        """Give the store and the vectors as bytes, an archive of the files that `to_disk` writes."""
        with tempfile.TemporaryDirectory() as folder:
            self.to_disk(folder)
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as files:
                for file in sorted(Path(folder).rglob("*")):
                    files.write(file, file.relative_to(folder))
        return archive.getvalue()

    def from_bytes(self, bytes_data: bytes, *, exclude: Sequence[str] = ()) -> EntityKB:
        """Open what `to_bytes` gave, in a temporary folder that exists as long as this object."""
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        try:
            with zipfile.ZipFile(io.BytesIO(bytes_data)) as files:
                files.extractall(folder)
        except zipfile.BadZipFile as problem:
            raise error("E501", path="the bytes", found=problem, expected="what to_bytes() gave") from problem
        self.from_disk(folder)
        self._temporary = True
        return self

    def _set(self, vocab: Vocab, store: EntityStore | None, vectors: VectorTable | None) -> None:
        super().__init__(vocab, 0 if vectors is None else vectors.width)
        self._store, self.vectors = store, vectors
        self._temporary = False  # whether the files go with this object

    def _candidate(self, text: str, match: AliasMatch, vector: NDArray[np.float32]) -> Candidate:
        strings = self.vocab.strings
        return Candidate(self, strings.add(match.id), match.popularity, vector, strings.add(text), match.prior)

    def _vectors(self, ids: Sequence[str]) -> NDArray[np.float32]:
        """Vectors *(n, width)* of entities that are there."""
        if self.vectors is None:
            return np.zeros((len(ids), 0), dtype=np.float32)
        vectors, present = self.vectors.lookup(ids)
        if not present.all():
            first = ids[int(np.argmin(present))]
            raise error("E511", n=int((~present).sum()), path=self.vectors.path, id=first)
        return vectors


def write_vectors(
    folder: str | Path, width: int, blocks: Iterable[tuple[Sequence[str], NDArray[np.float32]]], *, dtype: str = "float32"
) -> int:
    """Make the vectors of a knowledge base anew, which `load_kb` finds; if this fails, those that are there stay.

    Args:
        folder: of the knowledge base.
        width: size of a vector.
        blocks: ids, each once, with their vectors *(n, width)*.
        dtype: of the stored numbers, ``float32`` or ``float16``.

    Returns:
        How many there are.

    Raises:
        InputError: E052 to E054 for vectors or ids that cannot be.
        OutputError: E055 if the folder cannot be written.
    """
    path = Path(folder) / VECTORS
    new = path.with_name(f"{VECTORS}.new")
    with writing(path):
        replace_folder(new, None)
        table = VectorTable.create(new, width, dtype)
        for ids, vectors in blocks:
            table.put(ids, vectors)
        replace_folder(path, new)
    return len(table)


class KBLoader:
    """Opens a knowledge base for a vocabulary; see `load_kb` for the arguments.

    It is no dataclass, of which spaCy would make a dict.
    """

    def __init__(self, path: Path, vectors: Path | None, max_candidates: int | None, *, read_only: bool) -> None:
        self.path = path
        self.vectors = vectors
        self.max_candidates = max_candidates
        self.read_only = read_only

    def led_to(self, folder: str | None) -> bool:
        """Whether a folder, an absolute path, is this relative one, seen from some directory."""
        if folder is None or self.path.is_absolute():
            return False
        parts = Path(folder).parts
        return parts[max(len(parts) - len(self.path.parts), 0) :] == self.path.parts

    def __call__(self, vocab: Vocab) -> EntityKB:
        """Open it.

        Raises:
            CheckpointError: E500 or E501 if the store cannot be opened, E050 or E051 for the vectors.
        """
        own = self.path / VECTORS
        table = self.vectors if self.vectors is not None else own if own.exists() else None
        store = EntityStore(self.path, read_only=self.read_only)
        return EntityKB(vocab, store, None if table is None else VectorTable(table), max_candidates=self.max_candidates)


def load_kb(
    path: str | Path, vectors: str | Path | None = None, max_candidates: int | None = None, read_only: bool = False
) -> KBLoader:
    """Load a knowledge base, registered as ``entitykit.KB.v1``: the `kb_loader` of spaCy's `entity_linker`.

    Args:
        path: folder that `entitykit kb build` made.
        vectors: folder of a `VectorTable` with vectors of all entities; by default `vectors` in `path`, if it is there.
        max_candidates: keep only so many candidates of a span, the most probable; none: all.
        read_only: refuse to write.
    """
    return KBLoader(Path(path), None if vectors is None else Path(vectors), max_candidates, read_only=read_only)


def empty_kb(max_candidates: int | None = None) -> Callable[[Vocab, int], EntityKB]:
    """Make a knowledge base to be loaded, registered as ``entitykit.EmptyKB.v1``.

    A saved `entity_linker` needs it as its `generate_empty_kb`, so that it can read this kind of knowledge base.

    Args:
        max_candidates: keep only so many candidates of a span, the most probable; none: all.
    """
    return lambda vocab, entity_vector_length: EntityKB(vocab, max_candidates=max_candidates)


def _remake(vocab: Vocab, store: EntityStore | None, vectors: VectorTable | None, max_candidates: int | None) -> EntityKB:
    return EntityKB(vocab, store, vectors, max_candidates=max_candidates)


def _remake_from_bytes(vocab: Vocab, data: bytes, max_candidates: int | None) -> EntityKB:
    return EntityKB(vocab, max_candidates=max_candidates).from_bytes(data)


def _blocks(vectors: VectorTable) -> Iterator[tuple[list[str], NDArray[np.float32]]]:
    """All vectors, some at a time."""
    ids = list(vectors.ids())
    for i in range(0, len(ids), _BLOCK):
        yield ids[i : i + _BLOCK], vectors.lookup(ids[i : i + _BLOCK])[0]
