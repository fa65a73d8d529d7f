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
    heard_encoder,
    read_entities,
    text_settings,
)
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import Composed, Ids, TextReader
from entitykit.errors import warn
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
        model: `entitykit.BiEncoder.v1`.
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
        self._warned: set[object] = set()

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
        """Reads texts with the shared encoder.

        Raises:
            ConfigError: E583 if there is no encoder.
        """
        encoder = heard_encoder(self.model.layers[0])
        if self._reader is None or self._reader.shim is not encoder.shims[0]:
            self._reader = TextReader.of(encoder, pooling=self.settings.pooling)
        return self._reader

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
        return LinkInput(docs, Spans(table[:, 0], table[:, 1]), contexts, self.reader, choose), mentions

    # Entities

    def compose(self, entities: Sequence[Entity]) -> Composed:
        """Names and descriptions of entities, ready to be read."""
        names, descriptions = [entity.name for entity in entities], [entity.description for entity in entities]
        return self.settings.entities(self.reader, names, descriptions)

    def vectors(self, store: EntityStore, rows: NDArray[np.int64], index: EntityIndex | None) -> Floats:
        """Vectors *(n, size)* of rows *(n,)*: from an index that this encoder has built, else read now."""
        vectors, known = np.zeros((len(rows), self.head.size), dtype=np.float32), np.zeros(len(rows), dtype=bool)
        if index is not None and self.is_fresh(store, index):
            vectors, known = index.vectors(rows)
            if store.version != index.meta.version:
                known &= ~np.isin(rows, store.changed(index.meta.version))
        if not known.all():
            new = store.entities(rows[~known])
            vectors[~known] = read_entities(self.model, self.reader, self.compose(new).ids)
        return vectors

    def expect_change(self, index: EntityIndex) -> None:
        """Do not warn of this index: the encoder is in training."""
        self._warned.add(index.meta)

    def is_fresh(self, store: EntityStore, index: EntityIndex) -> bool:
        """Whether the encoder is the one that has built an index.

        Warns:
            W582, once, if it is not, W583, once for each state of the knowledge base, if entities have changed since.
        """
        now, version = self.fingerprint(self.model), store.version
        is_fresh = now == index.meta.fingerprint
        if not is_fresh and index.meta not in self._warned:
            self._warned.add(index.meta)
            warn("W582", name=self.name, found=index.meta.fingerprint, expected=now, stacklevel=5)
        if version != index.meta.version and version not in self._warned:
            self._warned.add(version)
            n_changed = len(store.changed(index.meta.version))
            if n_changed:
                warn("W583", name=self.name, n=n_changed, stacklevel=5)
        return is_fresh

    def fits(self, store: EntityStore, index: EntityIndex) -> bool:
        """Whether the encoder as it is now has built an index, of the knowledge base as it is now."""
        return store.version == index.meta.version and self.fingerprint(self.model) == index.meta.fingerprint

    def build_index(self, store: EntityStore, kind: str) -> EntityIndex:
        """Read all entities, a block at a time, and index their vectors.

        Args:
            store: the entities.
            kind: of the index.

        Warns:
            W581 for names and descriptions that were cut.
        """
        n_cut = n = 0

        def blocks() -> Iterator[tuple[NDArray[np.int64], Floats]]:
            nonlocal n_cut, n
            for entities in _in_blocks(store):
                rows = store.rows([entity.id for entity in entities])
                there = [entity for entity, row in zip(entities, rows.tolist(), strict=True) if row >= 0]
                composed = self.compose(there)
                n_cut, n = n_cut + int((composed.cut > 0).sum()), n + len(there)
                yield rows[rows >= 0], read_entities(self.model, self.reader, composed.ids)

        version, fingerprint = store.version, self.fingerprint(self.model)
        index = EntityIndex.build(blocks(), width=self.head.size, fingerprint=fingerprint, version=version, kind=kind)
        if n_cut:
            warn("W581", n=n_cut, total=n, longest=self.settings.entity_pieces, name=self.name, stacklevel=4)
        return index


def _in_blocks(entities: Iterable[Entity]) -> Iterator[list[Entity]]:
    rest = iter(entities)
    while block := list(islice(rest, _BLOCK)):
        yield block
