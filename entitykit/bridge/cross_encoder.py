"""The cross-encoder as a thinc model: a mention and a candidate as one text, read by its own encoder or the shared one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.link_texts import Place, compose_mentions, mentions_in
from entitykit.bridge.linking import FORMS, TextSettings, text_settings
from entitykit.bridge.listener import request_layers
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.text_heads import in_parts, learning, text_encoder
from entitykit.bridge.texts import POOLINGS, Ids, TextReader
from entitykit.errors import error, warn
from entitykit.knowledge.augment import Augmenter
from entitykit.knowledge.entities import Entity
from entitykit.models.cross_encoder import CrossEncoder, CrossEncoderSettings, build_cross_encoder


class PairInput(NamedTuple):
    """Mentions with their candidates.

    Attributes:
        pairs: a text of each candidate, of one mention after the other.
        counts: candidates of each mention.
        reader: reads texts.
    """

    pairs: Sequence[Ids]
    counts: Sequence[int]
    reader: TextReader


CrossEncoderModel = Model[PairInput, Tensor]


def cross_encoder(
    tok2vec: Model[list[Doc], Any],
    pooling: str = "first",
    form: str = "marked",
    context_pieces: int = 128,
    entity_pieces: int = 128,
    dropout: float = 0.1,
) -> CrossEncoderModel:
    """Make the cross-encoder, registered as ``entitykit.CrossEncoder.v1``; see `TextSettings`.

    Not the same as BLINK's: there are no segment numbers (all pieces have the first), so ``[SEP]`` and the marks alone tell
    the mention's text from the entity's.

    Args:
        tok2vec: ``entitykit.EntityEncoder.v1``, which is the cross-encoder's own and learns with it; or
            ``entitykit.EncoderListener.v1``: the encoder that it hears reads the pairs, too. Of either, `bf16` is how pairs are
            read, and `batch_pieces` bounds how many are learned at once: as many, or those of one mention.
        pooling: what stands for a pair: its ``first`` piece, as in BLINK, or the ``mean``.
        form: of a mention's context: ``marked`` in its place, or ``prefixed`` to its text.
        context_pieces: pieces of a mention in context, special ones included.
        entity_pieces: pieces of a name and its description, special ones included.
        dropout: probability before the score in training.

    Raises:
        ConfigError: E594 for settings that cannot be.
    """
    for setting, (found, allowed) in {"pooling": (pooling, POOLINGS), "form": (form, FORMS)}.items():
        if found not in allowed:
            raise error("E594", setting=setting, found=found, expected=" or ".join(allowed))
    texts = TextSettings(pooling=pooling, form=form, context_pieces=context_pieces, entity_pieces=entity_pieces)
    request_layers(tok2vec, [])
    return Model(
        "entitykit-cross-encoder",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build_cross_encoder, group="head")],
        dims={"nO": None},
        attrs={
            "settings": asdict(CrossEncoderSettings(width=0, dropout=dropout)),
            "texts": asdict(texts),
            "dropout_rate": None,
            "probe": None,
        },
    )


def forward(model: CrossEncoderModel, X: PairInput, is_train: bool) -> tuple[Tensor, Callable[[Any], Any]]:
    """Scores *(n_pairs,)* for prediction; training goes by `learn`, for which not all pairs need be in memory."""
    shim = cast(TorchShim, model.shims[0])
    with shim.mode(is_train=False) as module:
        scores = module(X.reader.read(X.pairs).to(shim.device))
    return scores.float(), lambda gradient: gradient


def learn(model: CrossEncoderModel, docs: Sequence[Doc], X: PairInput, gold: Sequence[int]) -> float:
    """Learn to rank candidates: gradients are added to the weights of the head, and of its encoder, or of the shared one.

    Args:
        model: `entitykit.CrossEncoder.v1`.
        docs: the batch, which the shared encoder has sent.
        X: mentions, each with a candidate at least.
        gold: number of the right candidate of each mention.

    Returns:
        The loss, the mean over the mentions.
    """
    shim, total = cast(TorchShim, model.shims[0]), 0.0
    with learning(model, docs) as learns:
        for some, pairs in _parts(X):
            with shim.mode(is_train=True) as module:
                head = cast(CrossEncoder, module)
                scores = head(X.reader.read(pairs, learns=learns).to(shim.device)).float()
                counts, right = (torch.tensor(each[some], device=scores.device) for each in (X.counts, gold))
                loss = head.loss(scores, counts, right) / len(X.counts)
            loss.backward()
            total += float(loss.detach())
    return total


def _parts(X: PairInput) -> Iterator[tuple[slice, Sequence[Ids]]]:
    """Mentions that are read together, and their pairs: as many pieces as the encoder reads at once, or one mention."""
    ends = np.cumsum([0, *X.counts])
    n_pieces = np.cumsum([0, *(len(pair) for pair in X.pairs)])[ends]
    for some in in_parts(np.diff(n_pieces), X.reader.batch_pieces):
        yield some, X.pairs[ends[some.start] : ends[some.stop]]


class PairTexts:
    """The texts of a reranker.

    Args:
        model: `entitykit.CrossEncoder.v1`.
        name: of the component, for messages.
        augment: adds to the mentions' contexts; or none.
    """

    def __init__(self, model: CrossEncoderModel, name: str, augment: Augmenter | None = None) -> None:
        self.model = model
        self.name = name
        self.augment = augment
        self.forget()

    def forget(self) -> None:
        """Begin anew, after weights were replaced."""
        self._reader: TextReader | None = None
        self._warned = False

    @property
    def reader(self) -> TextReader:
        """Reads texts with the encoder.

        Raises:
            ConfigError: E595 if there is no encoder, E594 if it cannot read texts as long as the settings say.
        """
        encoder = text_encoder(self.model.layers[0])
        if self._reader is None or self._reader.shim is not encoder.shims[0]:
            settings = text_settings(self.model)
            reader = TextReader.of(encoder, pooling=settings.pooling)
            size = reader.joined_size(settings.context_pieces, settings.entity_pieces)
            if size > reader.longest:
                found = f"{settings.context_pieces} and entity_pieces {settings.entity_pieces}"
                expected = f"no more than {reader.longest} pieces together, which the encoder can read"
                raise error("E594", setting="context_pieces", found=found, expected=expected)
            self._reader = reader
        return self._reader

    def input(self, docs: Sequence[Doc], places: Sequence[Place], candidates: Sequence[Sequence[Entity]]) -> PairInput:
        """Mentions of documents with candidates of each.

        Warns:
            W584 for mentions that were cut, W590, once, for candidates that were.
        """
        settings, reader = text_settings(self.model), self.reader
        mentions = mentions_in(docs, places, settings.context_pieces)
        contexts = compose_mentions(settings, reader, mentions, self.augment, self.name)
        entities = {entity.id: entity for own in candidates for entity in own}
        names, descriptions = ([getattr(each, part) for each in entities.values()] for part in ("name", "description"))
        composed = settings.entities(reader, names, descriptions)
        if composed.cut.any() and not self._warned:
            self._warned = True
            n, longest = int((composed.cut > 0).sum()), settings.entity_pieces
            warn("W590", n=n, total=len(entities), longest=longest, name=self.name, stacklevel=4)
        texts = dict(zip(entities, composed.ids, strict=True))
        firsts = [context for context, own in zip(contexts, candidates, strict=True) for _ in own]
        seconds = [texts[entity.id] for own in candidates for entity in own]
        return PairInput(reader.joined(firsts, seconds), [len(own) for own in candidates], reader)
