"""Salience as thinc models: a head on a document's states, and a cross-encoder, which reads each entity with the document."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.listener import request_layers
from entitykit.bridge.ranges import check_ranges
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.text_heads import in_parts, learning, text_encoder
from entitykit.bridge.texts import POOLINGS, Ids, TextReader
from entitykit.errors import error, warn
from entitykit.models.salience import (
    DECILES,
    SalienceCrossEncoderSettings,
    SalienceSettings,
    build_salience,
    build_salience_cross_encoder,
    soft_bce,
)
from entitykit.types import ENTITIES, TOP

LEAST_PIECES = 16
"""Pieces of a document that a text must have room for."""


class MentionedEntity(NamedTuple):
    """An entity of a document.

    Attributes:
        name: what it is called.
        mentions: starts and ends, exclusive, of its mentions, in words; at least one.
    """

    name: str
    mentions: Sequence[tuple[int, int]]


class CrossInput(NamedTuple):
    """Entities and the texts in which each is read with its document.

    Attributes:
        texts: of one entity after the other, at least one of each.
        rows: *(n_texts,)* numbers of the texts' entities, from 0.
        deciles: *(n_mentions,)* tenths of their documents in which mentions begin, from 0.
        entities: *(n_mentions,)* numbers of the mentions' entities.
        reader: reads texts.
    """

    texts: Sequence[Ids]
    rows: NDArray[np.int64]
    deciles: NDArray[np.int64]
    entities: NDArray[np.int64]
    reader: TextReader


CrossModel = Model[CrossInput, Tensor]


def salience(
    tok2vec: Model[list[Doc], Any],
    hidden: int = 128,
    states: bool = True,
    fit: int = 64,
    counts: bool = True,
    deciles: int = 16,
    dropout: float = 0.1,
    loss_weight: float = 1.0,
) -> Model[HeadInput, Any]:
    """Make the head that scores all entities of a document in one pass, registered as ``entitykit.Salience.v1``.

    See `SalienceSettings`.

    Raises:
        ConfigError: E621 if it is to read nothing, E007 for a value out of range.
    """
    if not (states or fit or counts or deciles):
        raise error("E621", setting="states", found="false", expected="true, where fit, counts and deciles are off")
    settings = SalienceSettings(
        width=0,
        hidden=hidden,
        states=states,
        fit=fit,
        counts=counts,
        deciles=deciles,
        dropout=dropout,
        loss_weight=loss_weight,
    )
    check_ranges(asdict(settings), fit=0, deciles=0)
    return TorchHead(tok2vec, build_salience, asdict(settings), layers=[TOP, ENTITIES])


def salience_cross_encoder(
    tok2vec: Model[list[Doc], Any],
    pooling: str = "first",
    pieces: int = 256,
    windows: int = 2,
    entity_pieces: int = 24,
    hidden: int = 128,
    deciles: int = 16,
    dropout: float = 0.1,
) -> CrossModel:
    """Make the cross-encoder, registered as ``entitykit.SalienceCrossEncoder.v1``: it reads a name and the document.

    The entity's mentions are marked in it. Of a document that is too long for one text its beginning is read, and of
    the other windows those with most mentions.

    Args:
        tok2vec: ``entitykit.EntityEncoder.v1``, which is the cross-encoder's own and learns with it; or
            ``entitykit.EncoderListener.v1``: the encoder that it hears reads the texts, too.
        pooling: what stands for a text: its ``first`` piece or the ``mean``.
        pieces: of a text at most: special ones, the name, and a window of the document.
        windows: of a document that are read with an entity at most.
        entity_pieces: pieces of the name, special ones included.
        hidden: hidden units of the classifier.
        deciles: size of the embedding of a mention's decile.
        dropout: probability in training.

    Raises:
        ConfigError: E621 for settings that cannot be, E007 for other values out of range.
    """
    if pooling not in POOLINGS:
        raise error("E621", setting="pooling", found=pooling, expected=" or ".join(POOLINGS))
    for setting, (found, least) in {
        "windows": (windows, 1),
        "entity_pieces": (entity_pieces, 8),
        "deciles": (deciles, 1),
    }.items():
        if found < least:
            raise error("E621", setting=setting, found=found, expected=f"at least {least}")
    settings = SalienceCrossEncoderSettings(width=0, hidden=hidden, deciles=deciles, dropout=dropout)
    check_ranges(asdict(settings))
    request_layers(tok2vec, [])
    return Model(
        "entitykit-salience-cross-encoder",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build_salience_cross_encoder, group="head")],
        dims={"nO": None},
        attrs={
            "settings": asdict(settings),
            "texts": {"pooling": pooling, "pieces": pieces, "windows": windows, "entity_pieces": entity_pieces},
            "dropout_rate": None,
            "probe": None,
        },
    )


def is_cross_encoder(model: Model[Any, Any]) -> bool:
    """Whether a model is `entitykit.SalienceCrossEncoder.v1`."""
    return "texts" in model.attrs


def forward(model: CrossModel, X: CrossInput, is_train: bool) -> tuple[Tensor, Callable[[Any], Any]]:
    """Logits *(n_entities,)* for prediction; training goes by `learn`, for which not all texts need be in memory."""
    shim = cast(TorchShim, model.shims[0])
    with shim.mode(is_train=False) as module:
        logits = module(X.reader.read(X.texts).to(shim.device), *_on(shim, X.rows, X.deciles, X.entities))
    return logits.float(), lambda gradient: gradient


def learn(model: CrossModel, docs: Sequence[Doc], X: CrossInput, targets: Sequence[float]) -> float:
    """Learn from a batch: gradients are added to the weights of the head, and of its encoder, or of the shared one.

    Args:
        model: `entitykit.SalienceCrossEncoder.v1`.
        docs: the batch, which the shared encoder has sent.
        X: its entities.
        targets: of each entity, from 0 to 1.

    Returns:
        The loss, the mean over the entities.
    """
    shim, total = cast(TorchShim, model.shims[0]), 0.0
    with learning(model, docs) as learns:
        for part, own_targets in _parts(X, targets):
            with shim.mode(is_train=True) as module:
                states = X.reader.read(part.texts, learns=learns).to(shim.device)
                logits = module(states, *_on(shim, part.rows, part.deciles, part.entities)).float()
                grades = torch.tensor(own_targets, device=logits.device)
                loss = soft_bce(logits, grades) * (len(own_targets) / len(targets))
            loss.backward()
            total += float(loss.detach())
    return total


def _on(shim: TorchShim, *arrays: NDArray[np.int64]) -> list[Tensor]:
    return [torch.from_numpy(array).to(shim.device) for array in arrays]


def _parts(X: CrossInput, targets: Sequence[float]) -> Iterator[tuple[CrossInput, Sequence[float]]]:
    """Entities that are read together: as many pieces as the encoder reads at once, or one entity."""
    n = len(targets)
    sizes = np.bincount(X.rows, weights=[len(text) for text in X.texts], minlength=n)
    for some in in_parts(sizes, X.reader.batch_pieces):
        first, last = some.start, some.stop
        low, high = np.searchsorted(X.rows, [first, last]).tolist()
        of_mentions = (X.entities >= first) & (X.entities < last)
        part = CrossInput(
            X.texts[low:high], X.rows[low:high] - first, X.deciles[of_mentions], X.entities[of_mentions] - first, X.reader
        )
        yield part, targets[some]


class WordsRead(NamedTuple):
    """The pieces of a document's words.

    Attributes:
        pieces: word after word.
        edges: *(n_words + 1,)* number of each word's first piece, and of pieces.
    """

    pieces: Ids
    edges: NDArray[np.int64]

    @classmethod
    def of(cls, words: Sequence[Ids]) -> WordsRead:
        """From the pieces of each word."""
        edges = np.cumsum([0, *(len(word) for word in words)], dtype=np.int64)
        return cls(np.concatenate([np.zeros(0, dtype=np.int64), *words]), edges)


class SalienceReader(TextReader):
    """Composes names of entities with windows of their documents, in which their mentions are marked."""

    def room(self, pieces: int, entity_pieces: int) -> int:
        """Pieces of a document in a text of so many.

        Raises:
            ConfigError: E621 if nothing has room, or the encoder cannot read texts of that length.
        """
        room = pieces - self.joined_size(entity_pieces, len(self._prefix) + len(self._suffix))
        if pieces > self.longest or room < LEAST_PIECES:
            least = pieces - room + LEAST_PIECES
            raise error(
                "E621", setting="pieces", found=pieces, expected=f"{least} to {self.longest}, which the encoder can read"
            )
        return room

    def words(self, doc: Doc) -> WordsRead:
        """The pieces of a document."""
        before = ["", *(token.whitespace_ for token in doc)]
        texts = [space + token.text for space, token in zip(before, doc, strict=False)]
        distinct = list(dict.fromkeys(texts))
        known = dict(zip(distinct, self.tokenize(distinct), strict=True))
        return WordsRead.of([known[text] for text in texts])

    def marked_words(self, words: WordsRead, mentions: Sequence[tuple[int, int]]) -> tuple[Ids, Ids]:
        """The pieces of a document with marks around mentions, and the place of each mention's first piece among them."""
        opening, closing, _ = self._marks
        starts, ends = (words.edges[np.array(side, dtype=np.int64)] for side in zip(*mentions, strict=True))
        places = np.concatenate([np.repeat(ends, len(closing)), np.repeat(starts, len(opening))])
        marks = np.concatenate([np.tile(closing, len(ends)), np.tile(opening, len(starts))])
        # where a mention begins and another one ends, the closing mark was given first and comes first
        return np.insert(words.pieces, places, marks), starts + np.searchsorted(np.sort(places), starts, side="right")

    def with_window(self, name: Ids, pieces: Ids) -> Ids:
        """A name, composed by `described`, and pieces of a document as one text."""
        return self.joined([name], [self._surround(pieces)])[0]


class EntityTexts:
    """The texts of a salience component.

    Args:
        model: `entitykit.SalienceCrossEncoder.v1`.
        name: of the component, for messages.
    """

    def __init__(self, model: CrossModel, name: str) -> None:
        self.model = model
        self.name = name
        self.forget()

    def forget(self) -> None:
        """Begin anew, after weights were replaced."""
        self._reader: SalienceReader | None = None

    @property
    def reader(self) -> SalienceReader:
        """Reads texts with the encoder.

        Raises:
            ConfigError: E595 if there is no encoder.
        """
        encoder = text_encoder(self.model.layers[0])
        if self._reader is None or self._reader.shim is not encoder.shims[0]:
            self._reader = cast(SalienceReader, SalienceReader.of(encoder, pooling=self.model.attrs["texts"]["pooling"]))
        return self._reader

    def input(self, docs: Sequence[Doc], entities: Sequence[Sequence[MentionedEntity]]) -> CrossInput:
        """Compose the texts of documents' entities.

        Raises:
            ConfigError: E595 if there is no encoder, E621 if it cannot read texts as long as the settings say.

        Warns:
            W620 for names that were cut, W621 for mentions outside of what was read.
        """
        reader, settings = self.reader, self.model.attrs["texts"]
        room = reader.room(settings["pieces"], settings["entity_pieces"])
        all_names = [entity.name for own in entities for entity in own]
        names = reader.described(all_names, [""] * len(all_names), size=settings["entity_pieces"], mark=False)
        texts: list[Ids] = []
        rows: list[int] = []
        deciles: list[int] = []
        n_unread, row = 0, 0
        of_mentions: list[int] = []
        for doc, own in zip(docs, entities, strict=True):
            words = reader.words(doc) if own else WordsRead.of([])
            for entity in own:
                pieces, places = reader.marked_words(words, entity.mentions)
                chosen, n_outside = choose_windows(len(pieces), places // room, room, settings["windows"])
                texts += [reader.with_window(names.ids[row], pieces[i * room : (i + 1) * room]) for i in chosen]
                rows += [row] * len(chosen)
                deciles += [DECILES * start // len(doc) for start, _ in entity.mentions]
                of_mentions += [row] * len(entity.mentions)
                n_unread, row = n_unread + n_outside, row + 1
        self._warn_of_cuts(int((names.cut > 0).sum()), len(all_names), n_unread, len(of_mentions))
        as_array = partial(np.array, dtype=np.int64)
        return CrossInput(texts, as_array(rows), as_array(deciles), as_array(of_mentions), reader)

    def _warn_of_cuts(self, n_cut: int, n_names: int, n_unread: int, n_mentions: int) -> None:
        settings = self.model.attrs["texts"]
        if n_cut:
            warn("W620", name=self.name, n=n_cut, total=n_names, longest=settings["entity_pieces"], stacklevel=5)
        if n_unread:
            warn("W621", name=self.name, n=n_unread, total=n_mentions, windows=settings["windows"], stacklevel=5)


def choose_windows(n_pieces: int, found: NDArray[np.int64], size: int, limit: int) -> tuple[list[int], int]:
    """Choose windows of a document: the first one, and of the others those with most mentions, of equal ones the earlier.

    Args:
        n_pieces: of the document.
        found: *(n_mentions,)* numbers of the windows in which mentions begin.
        size: pieces of a window.
        limit: windows at most.

    Returns:
        Numbers of windows, rising, and how many mentions begin in none of them.
    """
    n_windows = max(1, -(-n_pieces // size))
    n_mentions = np.bincount(found.clip(max=n_windows - 1), minlength=n_windows)
    others = [i for i in (np.argsort(-n_mentions[1:], kind="stable") + 1).tolist() if n_mentions[i]]
    chosen = sorted([0, *others[: limit - 1]])
    return chosen, int(n_mentions.sum() - n_mentions[chosen].sum())
