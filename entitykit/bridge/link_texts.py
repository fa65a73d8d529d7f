"""What a linker reads besides documents: its mentions in context, and the entities of a knowledge base, which it indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model

from entitykit.bridge.linking import (
    Fingerprint,
    Floats,
    LinkInput,
    TextSettings,
    describe_encoders,
    encoders,
    read_entities,
    text_settings,
)
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import Composed, Ids, TextReader
from entitykit.errors import error, warn
from entitykit.knowledge.augment import Augmenter
from entitykit.knowledge.candidates import Mention
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.entity_index import EntityIndex
from entitykit.knowledge.store import EntityStore
from entitykit.models.bi_encoder import BiEncoder
from entitykit.types import Spans

_BLOCK = 2048  # entities that are read together while the index is built
_CHARS_PER_PIECE = 16


class Place(NamedTuple):
    """A mention of a batch: number of its document, first word, and end, exclusive."""

    doc: int
    start: int
    end: int


def mentions_in(docs: Sequence[Doc], places: Sequence[Place], pieces: int) -> list[Mention]:
    """Mentions, with as much context as may have room among so many pieces."""
    found, n = [], pieces * _CHARS_PER_PIECE
    for number, start, end in places:
        doc = docs[number]
        left, right = doc[max(0, start - pieces) : start].text, doc[end : end + pieces].text
        found.append(Mention(doc[start:end].text[:n], left[-n:], right[:n]))
    return found


def compose_mentions(
    settings: TextSettings, reader: TextReader, mentions: Sequence[Mention], augment: Augmenter | None, name: str
) -> list[Ids]:
    """Mentions in context, ready to be read.

    Args:
        settings: how they are composed.
        reader: composes them.
        mentions: in the contexts of their documents.
        augment: adds to these; or none.
        name: of the component, for messages.

    Warns:
        W584 for mentions that were cut.
    """
    mentions = mentions if augment is None else augment(mentions)
    lefts, texts, rights = ([getattr(each, part) for each in mentions] for part in ("left", "text", "right"))
    composed = settings.contexts(reader, lefts, texts, rights)
    if composed.cut.any():
        warn("W584", n=int((composed.cut > 0).sum()), name=name, longest=settings.context_pieces, stacklevel=5)
    return composed.ids


class LinkTexts:
    """The texts of a linker.

    Args:
        model: `entitykit.BiEncoder.v1` or `entitykit.Blink.v1`.
        name: of the component, for messages.
        augment: adds to the mentions' contexts, which candidates are then not searched by; none: they are as in the text.
    """

    def __init__(self, model: Model[Any, Any], name: str, augment: Augmenter | None = None) -> None:
        self.model = model
        self.name = name
        self.augment = augment
        self.forget()

    def forget(self) -> None:
        """Begin anew, after weights, index or knowledge base were replaced."""
        self.fingerprint = Fingerprint()
        self._reader: TextReader | None = None
        self._entity_reader: TextReader | None = None
        self._warned: set[tuple[str, object]] = set()
        self._amended: tuple[EntityIndex, bool, EntityIndex] | None = None  # an index, whether it was fresh, and what it is now

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_amended": None}

    @property
    def settings(self) -> TextSettings:
        """How texts are composed."""
        return text_settings(self.model)

    @property
    def head(self) -> BiEncoder:
        """The torch module."""
        return cast(BiEncoder, cast(TorchShim, self.model.shims[0]).module)

    @property
    def reader(self) -> TextReader:
        """Reads mentions with the shared encoder, or the tower that is for them.

        Raises:
            ConfigError: E583 if there is no encoder.
        """
        encoder = encoders(self.model)[0]
        if self._reader is None or self._reader.shim is not encoder.shims[0]:
            self._reader = TextReader.of(encoder, pooling=self.settings.pooling)
        return self._reader

    @property
    def entity_reader(self) -> TextReader:
        """Reads entities: with the encoder that reads mentions, or the tower that is for them; see `reader`."""
        mentions, entities = encoders(self.model)
        if entities is mentions:
            return self.reader
        if self._entity_reader is None or self._entity_reader.shim is not entities.shims[0]:
            self._entity_reader = TextReader.of(entities, pooling=self.settings.pooling)
        return self._entity_reader

    # Mentions

    def input(
        self, docs: Sequence[Doc], places: Sequence[Place], choose: Callable[[Floats], Sequence[Ids]] | None
    ) -> tuple[LinkInput, list[Mention]]:
        """What the model is given for mentions of documents, and the mentions.

        Args:
            docs: the documents.
            places: the mentions.
            choose: see `LinkInput`; it may refer to the mentions that this returns.

        Warns:
            W584 for mentions that were cut.
        """
        mentions = mentions_in(docs, places, self.settings.context_pieces)
        contexts: list[Ids] = []
        if self.head.settings.mention == "context":
            contexts = compose_mentions(self.settings, self.reader, mentions, self.augment, self.name)
        firsts = np.cumsum([0, *(len(doc) for doc in docs)])
        ends = [(firsts[doc] + start, firsts[doc] + end) for doc, start, end in places]
        table = torch.tensor(np.array(ends, dtype=np.int64).reshape(-1, 2))
        spans = Spans(table[:, 0], table[:, 1])
        return LinkInput(docs, spans, contexts, self.reader, choose, self.entity_reader), mentions

    # Entities

    def compose(self, entities: Sequence[Entity]) -> Composed:
        """Names and descriptions of entities, ready to be read."""
        names, descriptions = [entity.name for entity in entities], [entity.description for entity in entities]
        return self.settings.entities(self.entity_reader, names, descriptions)

    def vectors(self, store: EntityStore, rows: NDArray[np.int64], index: EntityIndex | None) -> Floats:
        """Vectors *(n, size)* of rows *(n,)*: from a `current` index that this encoder has built, else read now."""
        vectors, known = np.zeros((len(rows), self.head.size), dtype=np.float32), np.zeros(len(rows), dtype=bool)
        if index is not None and self.is_fresh(index):
            vectors, known = index.vectors(rows)
        if not known.all():
            vectors[~known] = self._read(store, rows[~known])
        return vectors

    def _read(self, store: EntityStore, rows: NDArray[np.int64]) -> Floats:
        parts = [np.zeros((0, self.head.size), dtype=np.float32)]
        for start in range(0, len(rows), _BLOCK):
            entities = store.entities(rows[start : start + _BLOCK])
            parts.append(read_entities(self.model, self.entity_reader, self.compose(entities).ids))
        return np.concatenate(parts)

    def expect_change(self, index: EntityIndex) -> None:
        """Do not warn of this index: the encoder is in training."""
        self._warned.add(("W582", index.meta.fingerprint))

    def is_fresh(self, index: EntityIndex) -> bool:
        """Whether the encoder is the one that has built an index.

        Warns:
            W582, once, if it is not.
        """
        now, built = self.fingerprint(self.model), index.meta.fingerprint
        if now != built and self._is_news("W582", built):
            warn("W582", name=self.name, found=built, expected=now, stacklevel=5)
        return now == built

    def belongs(self, store: EntityStore, index: EntityIndex) -> bool:
        """Whether an index is of this knowledge base, now or before; the rows of another one mean other entities.

        Warns:
            W588, once, if it is not.
        """
        belongs = store.was_in(index.meta.version, index.meta.state)
        if not belongs and self._is_news("W588", index.meta):
            warn("W588", name=self.name, path=store.folder, stacklevel=5)
        return belongs

    def current(self, store: EntityStore, index: EntityIndex) -> EntityIndex:
        """An index with the entities that there are now: those that were added or changed since are read, once.

        Args:
            store: the entities.
            index: of any state of the store (`belongs`).

        Warns:
            W582, once, if another state of the encoder has built it, W583, once for each state of the store, if entities have
            changed since.
        """
        is_fresh = self.is_fresh(index)
        with store.reading():
            version, state = store.version, store.state
            if version == index.meta.version:
                return index
            n_changed = len(store.changed(index.meta.version))
            if n_changed and self._is_news("W583", version):
                warn("W583", name=self.name, n=n_changed, stacklevel=5)
            before = self._amended
            found = before[2] if before is not None and before[:2] == (index, is_fresh) else index
            if found.meta.version < version:
                changed = store.changed(found.meta.version)
                rows = changed[store.alive(changed)]
                found = found.amended(changed, rows, self._read(store, rows), version=version, state=state)
                self._amended = index, is_fresh, found
        return found

    def _is_news(self, code: str, of: object) -> bool:
        """Whether there was no such warning yet."""
        is_news = (code, of) not in self._warned
        self._warned.add((code, of))
        return is_news

    def check(self, index: EntityIndex, path: object) -> None:
        """Refuse an index that another encoder has made, whatever this one has learned, or of vectors of another size.

        Args:
            index: that was saved with the pipeline.
            path: where it was.

        Raises:
            CheckpointError: E586.
        """
        now, size = describe_encoders(self.model), self.head.size
        known = now and index.meta.encoder  # else the encoder is not there, or the index is of an earlier version
        if index.meta.width != size or (known and index.meta.encoder != now):
            of = [
                f"vectors of size {n} by {encoder or 'an encoder'}"
                for n, encoder in ((index.meta.width, index.meta.encoder), (size, now))
            ]
            raise error("E586", name=self.name, path=path, found=of[0], expected=of[1])

    def fits(self, store: EntityStore, index: EntityIndex) -> bool:
        """Whether the encoder as it is now has built an index, of the knowledge base as it is now."""
        is_of_now = store.version == index.meta.version and store.was_in(index.meta.version, index.meta.state)
        return is_of_now and self.fingerprint(self.model) == index.meta.fingerprint

    def build_index(self, store: EntityStore, kind: str = "auto", *, codes: str = "int8", recall: float = 0.97) -> EntityIndex:
        """Read all entities, a block at a time, and index their vectors.

        Args:
            store: the entities.
            kind: see `VectorIndex.build`.
            codes: see there.
            recall: see there.

        Warns:
            W581 for names and descriptions that were cut.
        """

        def blocks() -> Iterator[tuple[NDArray[np.int64], Floats]]:
            for ids, vectors in self.read_all(store):
                rows = store.rows(ids)  # some may have been removed meanwhile
                yield rows[rows >= 0], vectors[rows >= 0]

        with store.reading():
            version, state = store.version, store.state
        index = EntityIndex.build(
            blocks(),
            width=self.head.size,
            fingerprint=self.fingerprint(self.model),
            version=version,
            state=state,
            encoder=describe_encoders(self.model),
            kind=kind,
            codes=codes,
            recall=recall,
        )
        return index

    def read_all(self, store: EntityStore) -> Iterator[tuple[list[str], Floats]]:
        """Ids of all entities, and their vectors *(n, size)*, a block at a time.

        Warns:
            W581 at the end for names and descriptions that were cut.
        """
        n_cut = n = 0
        for entities in _in_blocks(store):
            composed = self.compose(entities)
            n_cut, n = n_cut + int((composed.cut > 0).sum()), n + len(entities)
            yield [entity.id for entity in entities], read_entities(self.model, self.entity_reader, composed.ids)
        if n_cut:
            warn("W581", n=n_cut, total=n, longest=self.settings.entity_pieces, name=self.name, stacklevel=5)


def _in_blocks(entities: Iterable[Entity]) -> Iterator[list[Entity]]:
    rest = iter(entities)
    while block := list(islice(rest, _BLOCK)):
        yield block
