"""`IndexedPipe`: what components share that compare vectors of texts with those of all entities."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import srsly
from spacy.language import Language
from thinc.api import Optimizer

from entitykit.bridge.linking import Floats
from entitykit.components.kb import KBPipe
from entitykit.knowledge.entity_index import EntityIndex
from entitykit.knowledge.files import replace_folder
from entitykit.knowledge.index_build import BuildSettings
from entitykit.knowledge.store import EntityStore

_INDEX = "entities"


class IndexedPipe(KBPipe):
    """A component that has an index of its entities' vectors, once it was built.

    ``settings`` has its kind, `index`, and `index_codes` and `index_recall`: `codes` and `recall` of `VectorIndex.build`.

    Args:
        *args: see `KBPipe`.
        **kwargs: see `KBPipe`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.index: EntityIndex | None = None

    def begin_anew(self) -> None:
        """Forget the index, too."""
        super().begin_anew()
        self.index = None

    @property
    def own_index(self) -> EntityIndex | None:
        """The index, unless it is of another knowledge base, such as one that was in its place; that is not used.

        Warns:
            W588, once, if it is.
        """
        return self.index if self.index is not None and self._texts.belongs(self.store, self.index) else None

    def current_index(self) -> EntityIndex | None:
        """The index with the entities that there are now; none: there is no index of this knowledge base.

        Warns:
            W588, see `own_index`; W582 and W583 if encoder or entities have changed since it was built.
        """
        index = self.own_index
        return None if index is None else cast(EntityIndex, self._texts.current(self.store, index))

    def check_index(self) -> None:
        """Refuse settings of the index that cannot be.

        Raises:
            ConfigError: E557.
        """
        BuildSettings(kind=self.settings["index"], codes=self.settings["index_codes"], recall=self.settings["index_recall"])

    def make_index(self, kind: str | None = None) -> EntityIndex:
        """Read all entities of the knowledge base with the encoder as it is now, and index their vectors.

        Args:
            kind: of the index; none: as the settings say.

        Warns:
            W581 for descriptions that were cut, W550 if the index finds less than `index_recall` of the nearest.
        """
        kind = str(self.settings["index"] if kind is None else kind)
        codes, recall = self.settings["index_codes"], self.settings["index_recall"]
        index: EntityIndex = self._texts.build_index(self.store, kind=kind, codes=codes, recall=recall)
        return index

    def build_index(self, kind: str | None = None, *, quiet: bool = False) -> EntityIndex:
        """Make the index, see `make_index`, keep it, and say on standard error what it is.

        Args:
            kind: of the index; none: as the settings say.
            quiet: say nothing.
        """
        start = time.perf_counter()
        self.index = self.make_index(kind)
        if not quiet:
            report, seconds = self.index.index.report, time.perf_counter() - start
            found = f"recall64 {report.recall64:.3f} ({report.recall64_in_256:.3f} ranked by exact vectors)"
            what = f"{report.kind} index of {report.n:,} entities, {report.codes}, {found}, {seconds:.1f} s"
            sys.stderr.write(f"{self.name}: {what}\n")
        return self.index

    def entity_vectors(self, store: EntityStore) -> tuple[int, Iterator[tuple[list[str], Floats]]]:
        """Size of a vector, and ids and vectors of all entities of any knowledge base, which are read a block at a time.

        Warns:
            W581 for descriptions that were cut.
        """
        return int(self.head.size), self._texts.read_all(store)

    def keep_index(self) -> None:
        """Build the index, unless there is one that fits the encoder and the knowledge base as they are now."""
        if self.index is None or not self._texts.fits(self.store, self.index):
            self.build_index()

    def finish_update(self, sgd: Optimizer) -> None:
        """Apply and clear the gradients of the head."""
        super().finish_update(sgd)
        self._texts.fingerprint.forget()
        if self.index is not None:
            self._texts.expect_change(self.index)

    # Saving

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write settings and the place of the knowledge base as JSON, weights and entity vectors as safetensors."""
        super().to_disk(path, exclude=exclude)
        folder = Path(path) / _INDEX
        if self.index is None:
            replace_folder(folder, None)
        else:
            self.index.save(folder)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> IndexedPipe:
        """Read what `to_disk` wrote; the knowledge base is opened where it was, unless the config has one.

        Raises:
            CheckpointError: E550 to E552 for an index that is damaged, E586 for one of another encoder.
        """
        super().from_disk(path, exclude=exclude)
        folder = Path(path) / _INDEX
        self._take_index(EntityIndex.load(folder) if folder.exists() else None, folder)
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """What `to_disk` writes as bytes."""
        index = b"" if self.index is None else self.index.to_bytes()
        return cast(bytes, srsly.msgpack_dumps({"pipe": super().to_bytes(exclude=tuple(exclude)), "index": index}))

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> IndexedPipe:
        """Read what `to_bytes` gave; see `from_disk`."""
        data = srsly.msgpack_loads(bytes_data)
        super().from_bytes(data["pipe"], exclude=tuple(exclude))
        self._take_index(EntityIndex.from_bytes(data["index"]) if data["index"] else None, "the bytes")
        return self

    def _take_index(self, index: EntityIndex | None, path: object) -> None:
        if index is not None:
            self._texts.check(index, path)
        self.index = index


def build_index() -> Callable[[Language], Language]:
    """Make a callback that indexes the entities of all components, registered as ``entitykit.build_index.v1``.

    As ``before_to_disk`` in ``[training]`` it makes sure that each saved pipeline has an index that fits its weights; as
    ``after_init`` in ``[initialize]`` it gives training an index to mine negatives from. What fits already is kept.
    """
    return _build_index


def _build_index(nlp: Language) -> Language:
    for _, pipe in nlp.pipeline:
        if isinstance(pipe, IndexedPipe):
            pipe.keep_index()
    return nlp
